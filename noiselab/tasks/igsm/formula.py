"""What a parameter equals: a tree of binary operations on numbers and parameters, with values modulo 23."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias, Union

from .structure import Quantity

MODULUS = 23
MOST_OPERANDS = 4


class Operation(NamedTuple):
    """A sum, difference or product of two formulae.

    **Arguments:**

    - `sign`: "+", "-" or "*".
    - `left`, `right`: a number, a parameter, or an operation.
    """

    sign: str
    left: "Formula"
    right: "Formula"


Formula: TypeAlias = Union[int, Quantity, Operation]  # noqa: UP007 - a string inside does not know "|"


def apply(sign: str, left: int, right: int) -> int:
    """The result of one operation, modulo 23."""
    return (left + right if sign == "+" else left - right if sign == "-" else left * right) % MODULUS


def evaluate(formula: Formula, values: Mapping[Quantity, int]) -> int:
    """The value of a formula, given those of the parameters in it."""
    if isinstance(formula, Operation):
        return apply(formula.sign, evaluate(formula.left, values), evaluate(formula.right, values))
    return values[formula] if isinstance(formula, Quantity) else formula % MODULUS


@dataclass(frozen=True)
class Definition:
    """What a sentence of the problem says that a parameter equals.

    **Arguments:**

    - `number`: a constant from 0 to 22, from 1 if it is a factor; `None` if there is none.
    - `operands`: different parameters; with the number one to four operands.
    - `factor`: whether the rest is taken so many times, instead of the number added to it.
    - `difference`: whether the rest is the difference of two parameters, instead of the sum of all.

    **Raises:** `ValueError` for another definition.

    **Source:** Ye et al. (2024), arXiv 2407.20311.
    """

    number: int | None
    operands: tuple[Quantity, ...] = ()
    factor: bool = False
    difference: bool = False

    def __post_init__(self) -> None:
        count = len(self.operands) + (self.number is not None)
        if not 1 <= count <= MOST_OPERANDS or len(set(self.operands)) < len(self.operands):
            raise ValueError(f"a definition must have one to {MOST_OPERANDS} different operands; got {self}")
        if self.number is not None and not int(self.factor) <= self.number < MODULUS:
            raise ValueError(f"number must be from {int(self.factor)} to {MODULUS - 1}; got {self.number}")
        if self.factor and (self.number is None or not self.operands):
            raise ValueError(f"a factor must be a number, and the factor of something; got {self}")
        if self.difference and len(self.operands) != 2:
            raise ValueError(f"a difference must be one of two parameters; got {len(self.operands)}")

    @cached_property
    def formula(self) -> Formula:
        """The same as a tree: the rest from left to right, then the number before it."""
        rest = chain("-" if self.difference else "+", self.operands) if self.operands else None
        if rest is None or self.number is None:
            return self.number or 0 if rest is None else rest
        return Operation("*" if self.factor else "+", self.number, rest)


def chain(sign: str, terms: tuple[Formula, ...]) -> Formula:
    """The terms put together from left to right; at least one."""
    whole, *others = terms
    for term in others:
        whole = Operation(sign, whole, term)
    return whole
