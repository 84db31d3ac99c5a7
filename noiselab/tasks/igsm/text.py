"""Full iGSM in English: sentences of the problem, the question, steps of the solution, mistakes, and tokenization."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from string import ascii_letters

from .dependency import Dependency
from .formula import Definition, Formula, Operation, apply
from .structure import ABSTRACT, Quantity, Structure

BACK = "BACK"
"""The backspace: the word that deletes a step."""

_WORD = re.compile(r"'s(?!\w)|[^\W\d_]+|[0-9]+|\S")
_RESERVED = frozenset(("Define", "as", "so", BACK))
_STOPS = frozenset(".;?")


def words(text: str) -> tuple[str, ...]:
    """Split a text into words: runs of letters, runs of digits, "'s", and every other character.

    Letters are those of any alphabet; a letter and its accent count as one character.

    **Example:**

    ```python
    from noiselab.tasks.igsm.text import words

    assert words("Define Zoo's Otter as g; so g = 17.") == tuple("Define Zoo 's Otter as g ; so g = 17 .".split())
    ```
    """
    return tuple(_WORD.findall(text if text.isascii() else unicodedata.normalize("NFC", text)))


def spell(parts: Iterable[str]) -> str:
    """Join words into readable text; `words` is the inverse."""
    return re.sub(r" (?=[.,;?]|'s\b)", "", " ".join(parts))


def check_names(structure: Structure) -> None:
    """Check that all names can be read in a sentence.

    Names may have apostrophes, digits, hyphens and letters of any alphabet.

    **Raises:** `ValueError` if a name is empty, contains a stop or a keyword of solutions or spaces that reading would
    lose, or if two parameters would be written alike.
    """
    for name in (*structure.categories, *(item for layer in structure.items for item in layer)):
        said = words(name)
        if not said or not _STOPS.isdisjoint(said) or not _RESERVED.isdisjoint(said) or " ".join(name.split()) != name:
            raise ValueError(
                f"names must be words with single spaces between them, without {' '.join(sorted(_STOPS))} and not in "
                f"{sorted(_RESERVED)}; got {name!r}"
            )
    if len(parameters_by_words(structure)) < len(structure.quantities):
        names = [words(possessive(structure, quantity)) for quantity in structure.quantities]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"names must differ when one follows another; got {spell(twice)!r} twice")


@lru_cache(maxsize=1024)
def parameters_by_words(structure: Structure) -> Mapping[tuple[str, ...], Quantity]:
    """The parameters of a structure by the words in which a sentence names them."""
    return {words(possessive(structure, quantity)): quantity for quantity in structure.quantities}


def possessive(structure: Structure, quantity: Quantity) -> str:
    """The name of a parameter as used in a sentence."""
    return "{}'s {}".format(*structure.name(quantity))


def sentence(structure: Structure, quantity: Quantity, definition: Definition) -> str:
    """The sentence of the problem that defines a parameter."""
    each = [f"each {possessive(structure, operand)}" for operand in definition.operands]
    if len(each) > 2:
        rest = f"the sum of {', '.join(each[:-1])} and {each[-1]}"
    elif len(each) == 2:
        rest = f"the {'difference' if definition.difference else 'sum'} of {each[0]} and {each[1]}"
    else:
        rest = "".join(each)
    start = "" if definition.number is None else str(definition.number)
    if start and rest:
        start += " times as much as " if definition.factor else " more than "
    return f"The number of each {possessive(structure, quantity)} equals {start}{rest}."


def question(structure: Structure, quantity: Quantity) -> str:
    """The question about a parameter."""
    owner, thing = structure.name(quantity)
    return f"How many {thing} does {owner} have?"


def mistake(structure: Structure, quantity: Quantity) -> str:
    """A step that begins to compute a parameter and is then deleted.

    **Source:** Ye et al. (2024), arXiv 2408.16293.
    """
    return f"Define {possessive(structure, quantity)} as {BACK}."


def solution(dependency: Dependency, order: Sequence[Quantity], letters: Iterable[str]) -> tuple[str, ...]:
    """Write the steps of a solution, with at most one operation per equation.

    **Arguments:**

    - `dependency`: the definitions of all parameters.
    - `order`: the parameters, each after its dependencies.
    - `letters`: distinct symbols for parameters and intermediate results, one for each operation.

    **Returns:** a sentence for each parameter.

    **Source:** Ye et al. (2024), arXiv 2407.20311.
    """
    writer = _Writer(letters)
    return tuple(writer.step(possessive(dependency.structure, q), q, dependency.formula(q)) for q in order)


def sketch(dependency: Dependency, order: Sequence[Quantity]) -> str:
    """The template of a solution: the solution without names, numbers and symbols, as in the released code."""
    writer = _Writer(ascii_letters, numbers=False)
    steps = (writer.step("Inter" if q.kind == ABSTRACT else "Inst", q, dependency.formula(q)) for q in order)
    return " " + " ".join(steps).replace(";", ".")


class _Writer:
    """Writes steps one after another and stores the symbol and value of each parameter."""

    def __init__(self, letters: Iterable[str], *, numbers: bool = True):
        self.fresh, self.numbers = iter(letters), numbers
        self.cited: dict[Quantity, tuple[str, int]] = {}

    def step(self, name: str, quantity: Quantity, formula: Formula) -> str:
        symbol = next(self.fresh)
        lines: list[str] = []
        equation, value = self._equation(formula, lines)
        self.cited[quantity] = symbol, value
        return "; ".join((f"Define {name} as {symbol}", *lines, f"so {symbol} = {equation}."))

    def _equation(self, formula: Formula, lines: list[str]) -> tuple[str, int]:
        """The right side of the equation for a formula, and its value; equations for intermediate results go to
        `lines`.
        """
        if not isinstance(formula, Operation):
            symbol, value = self._operand(formula, lines)
            return (f"{symbol} = {value}" if isinstance(formula, Quantity) else symbol), value
        (left, a), (right, b) = self._operand(formula.left, lines), self._operand(formula.right, lines)
        value = apply(formula.sign, a, b)
        return f"{left} {formula.sign} {right} = {a} {formula.sign} {b} = {value}", value

    def _operand(self, formula: Formula, lines: list[str]) -> tuple[str, int]:
        if isinstance(formula, Operation):
            equation, value = self._equation(formula, lines)
            symbol = next(self.fresh)
            lines.append(f"{symbol} = {equation}")
            return symbol, value
        if isinstance(formula, Quantity):
            return self.cited[formula]
        value = formula if self.numbers else 0
        return str(value), value
