"""The checker of small iGSM: each step must consist of exactly the words that its parameter requires."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .problem import Verdict
from .small_text import FULL_STOP, NAMES, Rule
from .text import BACK

_NAMES = frozenset(NAMES)


class _Fault(NamedTuple):
    kind: str
    why: str


class _Read(NamedTuple):
    """The right side of a step: its operands, the numbers cited for them, and the result."""

    rule: Rule
    cited: tuple[int, ...] = ()
    result: int | None = None


def check(
    rules: Mapping[str, Rule],
    values: Mapping[str, int],
    order: Sequence[str],
    modulus: int | None,
    solution: Sequence[str],
) -> Verdict:
    """Check a solution of small iGSM step by step.

    **Arguments:**

    - `rules`: the definition of each parameter.
    - `values`: the value of each parameter; empty for "logic".
    - `order`: the parameters that the question needs; the last is the parameter of the question.
    - `modulus`: the modulus of the values, or `None` for "logic".
    - `solution`: words or a text; any input is accepted.

    **Returns:** the verdict on the first wrong step.
    """
    steps, retries = split_steps(solution.split() if isinstance(solution, str) else solution)
    known: dict[str, None] = {}
    fault: _Fault | None = None
    named: tuple[str, ...] = ()
    for words in steps:
        fault = _fault(words, rules, values, modulus, known)
        if fault is not None:
            named = _named(words, rules)
            break
        known[words[1]] = None
    place = len(known)
    if not steps:
        fault = _Fault("empty", "the solution has no steps")
    elif fault is None and (last := next(reversed(known))) != order[-1]:
        fault = _Fault("answer", f"the last step must compute {order[-1]}; it computes {last}")
        place -= 1
    unnecessary = len(known.keys() - set(order))
    if fault is None:
        return Verdict(True, retries=retries, unnecessary=unnecessary, parameters=tuple(known))
    step = place if steps else None
    return Verdict(False, step, fault.kind, fault.why, retries, unnecessary, (*known, *named))


def split_steps(words: Sequence[str]) -> tuple[list[list[str]], int]:
    """Return the steps that remain, each with its full stop, and the number of deleted ones.

    "BACK" deletes everything after the last full stop, or, if nothing follows it, the step that it ends.
    """
    steps: list[list[str]] = [[]]
    retries = 0
    for word in words:
        if word == BACK:
            retries += 1
            if not steps[-1] and len(steps) > 1:
                steps.pop()
            steps[-1] = []
            continue
        steps[-1].append(word)
        if word == FULL_STOP:
            steps.append([])
    return steps if steps[-1] else steps[:-1], retries


def _named(words: list[str], rules: Mapping[str, Rule]) -> tuple[str, ...]:
    """Return the parameter of a wrong step, if the step names one."""
    match words:
        case ["D", name, "as", *_] if name in rules:
            return (name,)
    return ()


def _fault(
    words: list[str],
    rules: Mapping[str, Rule],
    values: Mapping[str, int],
    modulus: int | None,
    known: Mapping[str, None],
) -> _Fault | None:
    """Return the error of a step, or `None`."""
    text = " ".join(map(str, words))
    match words:
        case ["D", name, "as", *body, "."] if name in _NAMES:
            pass
        case _:
            return _Fault("parse", f'"{text}" is not a step')
    if name not in rules:
        return _Fault("unknown", f"the problem has no parameter {name}")
    if name in known:
        return _Fault("repeated", f"{name} is already defined")
    found = _read_logic(body) if modulus is None else _read(body, {str(number): number for number in range(modulus)})
    if found is None:
        return _Fault("parse", f'"{text}" is not a step')
    rule, used = rules[name], found.rule
    if strange := [operand for operand in used.operands if operand not in rules]:
        return _Fault("unknown", f"the problem has no parameter {strange[0]}")
    if used.operands != rule.operands or (used.number is None) != (rule.number is None):
        return _Fault("skip", f"{name} needs {_list(rule)}, in this order, and the step uses {_list(used)}")
    if missing := [operand for operand in rule.operands if operand not in known]:
        return _Fault("skip", f"{name} needs {missing[0]}, which is not known yet")
    if modulus is None:
        return None
    if used.number != rule.number:
        return _Fault("cited", f"the problem states {rule.number} for {name}; the step cites {used.number}")
    if not rule.operands:
        return None
    # A copy has one number: the value that it cites.
    right = [values[operand] for operand in rule.operands]
    if rule.number is not None:
        right.insert(0, rule.number)
    for number, cited in zip(right, found.cited, strict=True):
        if number != cited:
            return _Fault("cited", f"the step of {name} must cite {number}; it cites {cited}")
    if found.result is not None and found.result != values[name]:
        return _Fault("arithmetic", f"{name} is {values[name]} modulo {modulus}, not {found.result}")
    return None


def _read_logic(body: list[str]) -> _Read | None:
    match body:
        case ["known"]:
            return _Read(Rule())
        case [a] if a in _NAMES:
            return _Read(Rule((a,)))
        case [a, ",", b] if a in _NAMES and b in _NAMES:
            return _Read(Rule((a, b)))
    return None


def _read(body: list[str], numbers: Mapping[str, int]) -> _Read | None:
    match body:
        case [n] if n in numbers:
            return _Read(Rule((), numbers[n]))
        case [a, "=", x] if a in _NAMES and x in numbers:
            return _Read(Rule((a,)), (numbers[x],))
        case [a, "+", b, "=", x, "+", y, "=", z] if a in _NAMES and b in _NAMES and numbers.keys() >= {x, y, z}:
            return _Read(Rule((a, b)), (numbers[x], numbers[y]), numbers[z])
        case [n, "*", a, "=", x, "*", y, "=", z] if a in _NAMES and numbers.keys() >= {n, x, y, z}:
            return _Read(Rule((a,), numbers[n]), (numbers[x], numbers[y]), numbers[z])
    return None


def _list(rule: Rule) -> str:
    number = () if rule.number is None else ("a number of the problem",)
    return ", ".join((*number, *rule.operands)) or "nothing"
