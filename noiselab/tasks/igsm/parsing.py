"""Parsing solutions of full iGSM into sentences and equations."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from .formula import MODULUS, apply
from .text import BACK, spell, words

LETTER, NUMBER = re.compile("[A-Za-z]"), re.compile("0|[1-9][0-9]{0,8}")
SIGNS = frozenset("+-*")


class Wrong(Exception):
    """An error in a step: the `kind` of the `Verdict` and an explanation."""

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind, self.why = kind, why


class Equation(NamedTuple):
    """An equation in a step, for example `R = W + B = 13 + 7 = 20`.

    **Arguments:**

    - `symbol`: the symbol that it defines.
    - `operands`, `signs`: the right side in letters and numbers of the problem.
    - `numbers`: the values of the operands.
    - `result`: the value of the symbol.
    """

    symbol: str
    operands: tuple[str, ...]
    signs: tuple[str, ...]
    numbers: tuple[int, ...]
    result: int


def split_steps(solution: Sequence[str]) -> tuple[list[tuple[str, ...]], int]:
    """Return the sentences that remain, each with its full stop if it has one, and the number of deleted ones."""
    sentences: list[list[str]] = [[]]
    for word in words(solution if isinstance(solution, str) else " ".join(solution)):
        sentences[-1].append(word)
        if word == ".":
            sentences.append([])
    if not sentences[-1]:
        sentences.pop()
    kept = [tuple(sentence) for sentence in sentences if BACK not in sentence]
    return kept, len(sentences) - len(kept)


def parse_head(step: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the words that name the parameter which a step defines, and its symbol.

    **Raises:** `Wrong` if it does not begin with "Define A's B as g".
    """
    head = step[: next((place for place, word in enumerate(step) if word in (";", ".")), len(step))]
    if len(head) < 6 or head[0] != "Define" or head[-2] != "as" or "'s" not in head[2:-3]:
        raise Wrong("parse", f'a step must begin with "Define A\'s B as g;"; got {spell(head[:12])!r}')
    symbol = head[-1]
    if not LETTER.fullmatch(symbol):
        raise Wrong("parse", f"a symbol must be a single letter; got {symbol!r}")
    return tuple(head[1:-2]), symbol


def parse_equations(step: Sequence[str], symbol: str) -> tuple[Equation, ...]:
    """Return the equations of a step; the last one defines its symbol.

    **Raises:** `Wrong` if an equation has another form.
    """
    if step[-1] != ".":
        raise Wrong("parse", "a step must end with a full stop")
    lines: list[list[str]] = []
    line: list[str] = []
    for word in step[step.index(";") + 1 : -1] if ";" in step else ():
        if word == ";":
            lines.append(line)
            line = []
        else:
            line.append(word)
    lines.append(line)
    *before, last = lines
    if last[:3] != ["so", symbol, "="]:
        raise Wrong("parse", f"the last line of the step must begin with 'so {symbol} ='; got {spell(last[:6])!r}")
    return tuple(map(_parse_equation, (*before, last[1:])))


def _parse_equation(line: list[str]) -> Equation:
    sides: list[list[str]] = [[]]
    for word in line:
        if word == "=":
            sides.append([])
        else:
            sides[-1].append(word)
    (symbol, *more), *right = sides if sides[0] else [[""], *sides[1:]]
    if more or not LETTER.fullmatch(symbol) or not right:
        raise Wrong("parse", f"a line must be an equation for a single letter; got {spell(line[:12])!r}")
    operands, signs = _parse_expression(right[0], line)
    # A number has one side, a letter is followed by its value, and an expression by its numbers and its value.
    expected = 3 if signs else 2 if LETTER.fullmatch(operands[0]) else 1
    if len(right) != expected:
        raise Wrong("parse", f"there must be {expected} sides after '{symbol} ='; got {spell(line[:24])!r}")
    numbers, number_signs = _parse_expression(right[1] if signs else right[-1], line)
    results, none = _parse_expression(right[-1], line)
    if signs != number_signs or none or not all(map(NUMBER.fullmatch, (*numbers, *results))):
        raise Wrong(
            "parse",
            f"letters must be followed by the same number of values, then by the result; got {spell(line[:24])!r}",
        )
    return Equation(symbol, operands, signs, tuple(map(int, numbers)), int(results[0]))


def _parse_expression(side: list[str], line: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The operands and the signs between them."""
    operands, signs = tuple(side[::2]), tuple(side[1::2])
    letters = all(LETTER.fullmatch(operand) or NUMBER.fullmatch(operand) for operand in operands)
    if len(side) % 2 == 0 or not letters or not SIGNS.issuperset(signs):
        raise Wrong("parse", f"operands must be letters or numbers, with + - * between them; got {spell(line[:24])!r}")
    return operands, signs


def calculate(numbers: Sequence[int], signs: Sequence[str]) -> int:
    """Evaluate an expression: products first, then from left to right."""
    terms, rest = [numbers[0]], []
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            terms[-1] = apply("*", terms[-1], number)
        else:
            terms.append(number)
            rest.append(sign)
    value = terms[0] % MODULUS
    for sign, term in zip(rest, terms[1:], strict=True):
        value = apply(sign, value, term)
    return value
