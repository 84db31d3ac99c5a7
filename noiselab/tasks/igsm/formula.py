"""Formulas: trees of binary operations on numbers and parameters, with values modulo 23."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias, Union

from .structure import Quantity

MODULUS = 23
MOST_OPERANDS = 4


class Operation(NamedTuple):
    """A sum, difference or product of two formulas.

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
    """The value of a formula, given the values of its parameters."""
    if isinstance(formula, Operation):
        return apply(formula.sign, evaluate(formula.left, values), evaluate(formula.right, values))
    return values[formula] if isinstance(formula, Quantity) else formula % MODULUS


@dataclass(frozen=True)
class Definition:
    """The definition of a parameter, as stated in a sentence of the problem.

    **Arguments:**

    - `number`: a constant from 0 to 22, or from 1 to 22 if it is a factor; `None` if there is none.
    - `operands`: distinct parameters; together with the number, one to four operands.
    - `factor`: whether the number multiplies the parameters instead of being added.
    - `difference`: whether the two parameters are subtracted instead of added.

    **Raises:** `ValueError` if the definition violates one of these conditions.

    **Source:** Ye et al. (2024), arXiv 2407.20311.
    """

    number: int | None
    operands: tuple[Quantity, ...] = ()
    factor: bool = False
    difference: bool = False

    def __post_init__(self) -> None:
        count = len(self.operands) + (self.number is not None)
        if not 1 <= count <= MOST_OPERANDS or len(set(self.operands)) < len(self.operands):
            raise ValueError(f"a definition must have one to {MOST_OPERANDS} distinct operands; got {self}")
        if self.number is not None and not int(self.factor) <= self.number < MODULUS:
            raise ValueError(f"number must be from {int(self.factor)} to {MODULUS - 1}; got {self.number}")
        if self.factor and (self.number is None or not self.operands):
            raise ValueError(f"a factor must be a number that multiplies at least one parameter; got {self}")
        if self.difference and len(self.operands) != 2:
            raise ValueError(f"a difference must have two parameters; got {len(self.operands)}")

    @cached_property
    def formula(self) -> Formula:
        """The definition as a tree: the parameters from left to right, then the number in front."""
        rest = chain("-" if self.difference else "+", self.operands) if self.operands else None
        if rest is None or self.number is None:
            return self.number or 0 if rest is None else rest
        return Operation("*" if self.factor else "+", self.number, rest)


def chain(sign: str, terms: tuple[Formula, ...]) -> Formula:
    """Combine terms from left to right; at least one."""
    whole, *others = terms
    for term in others:
        whole = Operation(sign, whole, term)
    return whole
