"""The text of small iGSM: names, definitions, sentences of the problem, and steps of the solution."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from .text import BACK

SmallLevel = Literal["logic", "nano", "micro"]
"""The levels of small problems, from dependencies without values to sums in sentences; see `draw_small`."""

NAMES = tuple(
    "ant bee cat dog elk fox gnu hen ibex jay kiwi lynx mole newt owl pig quail ram seal toad urial vole wolf yak".split()
)
FULL_STOP = "."


class Size(NamedTuple):
    """The limits of a level: the fewest and most operations, the most parameters, and the number of names."""

    ops: tuple[int, int]
    parameters: int
    names: int


SIZES: dict[SmallLevel, Size] = {
    "logic": Size((2, 6), 9, 24),
    "nano": Size((2, 6), 9, 24),
    "micro": Size((1, 4), 6, 12),
}


class Rule(NamedTuple):
    """The definition of a parameter: a number, another parameter, a number times another, or a sum of two others.

    **Arguments:**

    - `operands`: at most two distinct parameters.
    - `number`: the number or the factor; `None` for sums, for copies, and for "logic".
    """

    operands: tuple[str, ...] = ()
    number: int | None = None


def check_modulus(level: SmallLevel, modulus: int | None) -> int | None:
    """Return the modulus of a level: by default 5, or `None` for "logic".

    **Raises:** `ValueError` for an unknown level, or a modulus that the level does not allow.
    """
    if level not in SIZES:
        raise ValueError(f"level must be 'logic', 'nano' or 'micro'; got {level!r}")
    if level == "logic":
        if modulus is not None:
            raise ValueError(f"modulus must be None for 'logic', which has no values; got {modulus}")
        return None
    if modulus is not None and modulus < 2:
        raise ValueError(f"modulus must be at least 2; got {modulus}")
    return 5 if modulus is None else modulus


def right_side(rule: Rule, modulus: int | None) -> tuple[str, ...]:
    """The right side of the sentence that defines a parameter."""
    if modulus is None:
        return (rule.operands[0], ",", rule.operands[1]) if len(rule.operands) == 2 else rule.operands or ("known",)
    if len(rule.operands) == 2:
        return rule.operands[0], "+", rule.operands[1]
    number = () if rule.number is None else (str(rule.number),)
    return (*number, "*", *rule.operands) if number and rule.operands else (*number, *rule.operands)


def sentence(name: str, rule: Rule, modulus: int | None) -> tuple[str, ...]:
    """The sentence of the problem that defines a parameter."""
    return name, "=", *right_side(rule, modulus), ";"


def value(rule: Rule, values: Mapping[str, int], modulus: int) -> int:
    """The value of a rule, given the values of its operands."""
    factor = 1 if rule.number is None else rule.number
    return factor * (sum(values[operand] for operand in rule.operands) if rule.operands else 1) % modulus


def step(name: str, rule: Rule, values: Mapping[str, int], modulus: int | None) -> tuple[str, ...]:
    """The step of the solution that computes a parameter."""
    words = ["D", name, "as", *right_side(rule, modulus)]
    if modulus is not None and rule.operands:
        if len(rule.operands) == 2:
            words += ["=", str(values[rule.operands[0]]), "+", str(values[rule.operands[1]])]
        elif rule.number is not None:
            words += ["=", str(rule.number), "*", str(values[rule.operands[0]])]
        words += ["=", str(values[name])]
    return *words, FULL_STOP


def mistake(name: str) -> tuple[str, ...]:
    """A step that begins to compute a parameter and then deletes everything after the last full stop."""
    return "D", name, "as", BACK


def template(rules: Iterable[tuple[str, Rule]]) -> str:
    """The template of a solution: the solution without names, numbers and the order of operands."""
    places: dict[str, int] = {}
    steps = []
    for name, rule in rules:
        steps.append(f"{sorted(places[o] for o in rule.operands)}{'' if rule.number is None else 'n'}")
        places[name] = len(places)
    return ";".join(steps)


def small_words(level: SmallLevel, modulus: int | None = None) -> tuple[str, ...]:
    """All words of the problems and solutions of a level, except the backspace."""
    modulus = check_modulus(level, modulus)
    signs = (",", "known") if modulus is None else ("+", "*", *map(str, range(modulus)))
    return (FULL_STOP, "D", "as", "=", ";", "?", ":", *signs, *NAMES[: SIZES[level].names])
