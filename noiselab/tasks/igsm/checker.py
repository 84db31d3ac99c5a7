"""The checker of full iGSM: finds the first wrong step of a solution and what is wrong with it."""

from collections.abc import Sequence

from .dependency import Dependency
from .formula import MODULUS
from .parsing import LETTER, Equation, Wrong, calculate, parse_equations, parse_head, split_steps
from .problem import Verdict
from .structure import ABSTRACT, Quantity
from .text import parameters_by_words, possessive, spell

Uses = frozenset[Quantity | None]
"""The operands of a symbol: parameters, and `None` for numbers of the problem."""


def check(dependency: Dependency, query: Quantity, solution: Sequence[str]) -> Verdict:
    """Check a solution of full iGSM step by step.

    Every step must parse, define a new parameter of the problem with new symbols, use exactly the parameters in its
    definition, cite their values, and be correct modulo 23. The total of things of which an item has none is a number,
    "so t = 0". The last step must compute `query`. Steps that the question does not need are allowed. Steps with "BACK"
    are removed before checking.

    As in the paper, operations are judged by the final answer only: a sum in place of a difference is reported at the
    last step, and `why` gives the first step whose value differs.

    **Arguments:**

    - `dependency`: the definitions of all parameters.
    - `query`: the parameter of the question.
    - `solution`: words or a text; any input is accepted.

    **Returns:** the verdict on the first wrong step.

    **Raises:** `ValueError` if the problem has no parameter `query`.

    **Source:** Ye et al. (2024), arXiv 2407.20311 and 2408.16293.

    **Example:**

    ```python
    from noiselab.tasks.igsm.checker import check
    from noiselab.tasks.igsm.dependency import Dependency
    from noiselab.tasks.igsm.formula import Definition
    from noiselab.tasks.igsm.structure import Structure

    zoos = Structure(("Zoo", "Animal"), (("City Zoo",), ("Owl", "Fox")), (((0, 1),),))
    owls, foxes, animals = zoos.quantities
    graph = Dependency(zoos, ((owls, Definition(20)), (foxes, Definition(4, (owls,)))))
    right = "Define City Zoo's Owl as g; so g = 20. Define City Zoo's Fox as R; so R = 4 + g = 4 + 20 = 1."
    assert check(graph, foxes, right).right
    assert check(graph, foxes, right.replace("= 1.", "= 24.")).kind == "arithmetic"
    ```
    """
    dependency.demand(query)
    steps, retries = split_steps(solution)
    board = _Board(dependency, steps)
    found: list[Quantity] = []
    wrong: Wrong | None = None
    try:
        if not steps:
            raise Wrong("empty", "the solution has no steps")
        for step in steps:
            board.take(step)
            found.append(board.defined[-1])
        _check_answer(dependency, query, board)
    except Wrong as error:
        wrong = error
    unnecessary = len(set(found) - dependency.necessary(query))
    if wrong is None:
        return Verdict(True, retries=retries, unnecessary=unnecessary, parameters=tuple(found))
    place = min(len(found), len(steps) - 1) if steps else None  # a wrong answer is attributed to the last step
    return Verdict(False, place, wrong.kind, wrong.why, retries, unnecessary, tuple(board.defined))


class _Board:
    """The symbols and values defined by the steps so far."""

    def __init__(self, dependency: Dependency, steps: Sequence[Sequence[str]]):
        self.dependency = dependency
        self.defined: list[Quantity] = []
        self.values: dict[str, int] = {}
        self.uses: dict[str, Uses] = {}
        self.results: list[int] = []
        self.steps = steps

    def name(self, quantity: Quantity) -> str:
        return possessive(self.dependency.structure, quantity)

    def take(self, step: Sequence[str]) -> None:
        """Add a step; its parameter is recorded as soon as it is parsed, even if the step turns out to be wrong."""
        name, symbol = parse_head(step)
        quantity = parameters_by_words(self.dependency.structure).get(name)
        if quantity is None:
            raise Wrong("unknown", f'the problem has no parameter "{spell(name)}"')
        known = set(self.defined)
        self.defined.append(quantity)
        if quantity in known:
            raise Wrong("repeated", f"{self.name(quantity)} is already defined")
        if symbol in self.values:
            raise Wrong("repeated", f"the symbol {symbol} is already used")
        equations = parse_equations(step, symbol)
        self._check_needs(quantity, symbol, equations, known)
        self._check_numbers(equations)
        self.uses[symbol] = frozenset((quantity,))
        self.results.append(equations[-1].result)

    def _check_needs(
        self, quantity: Quantity, symbol: str, equations: Sequence[Equation], known: set[Quantity]
    ) -> None:
        for equation in equations:
            used: set[Quantity | None] = set()
            for operand in equation.operands:
                if LETTER.fullmatch(operand) and operand not in self.uses:
                    raise Wrong("skip", f"{self.name(quantity)} uses {operand}, {self._where(operand)}")
                used |= self.uses.get(operand, {None})
            if equation is not equations[-1]:
                if equation.symbol in self.uses or equation.symbol == symbol:
                    raise Wrong("repeated", f"the symbol {equation.symbol} is already used")
                self.uses[equation.symbol] = frozenset(used)
        needed: set[Quantity | None] = {*self.dependency.needs[quantity]}
        if self.dependency.has_number(quantity):
            needed.add(None)
        if used != needed:
            if not self.dependency.needs[quantity] and quantity.kind == ABSTRACT:
                raise Wrong(
                    "skip",
                    f"{self.name(quantity)} counts nothing and needs the number 0; the step uses {self._list(used)}",
                )
            unknown = [other for other in needed if other is not None and other not in known]
            later = f"; not known yet: {self._list(unknown)}" if unknown else ""
            raise Wrong(
                "skip", f"{self.name(quantity)} needs {self._list(needed)}, and the step uses {self._list(used)}{later}"
            )

    def _check_numbers(self, equations: Sequence[Equation]) -> None:
        for symbol, operands, signs, numbers, result in equations:
            for operand, number in zip(operands, numbers, strict=True):
                value = self.values[operand] if operand in self.values else int(operand)
                if number != value:
                    raise Wrong("cited", f"{operand} is {value}, and {number} is cited")
            if max(numbers) >= MODULUS:
                raise Wrong("arithmetic", f"numbers go up to {MODULUS - 1}; got {max(numbers)}")
            right = calculate(numbers, signs)
            if result != right:
                text = f"{numbers[0]}" + "".join(f" {s} {n}" for s, n in zip(signs, numbers[1:], strict=True))
                raise Wrong("arithmetic", f"{text} is {right} modulo {MODULUS}, not {result}")
            self.values[symbol] = result

    def _where(self, symbol: str) -> str:
        """Describe where a symbol without a value is defined, for messages."""
        for place, step in enumerate(self.steps[len(self.defined) :], len(self.defined)):
            try:
                name, other = parse_head(step)
            except Wrong:
                continue
            if other == symbol:
                return f"which only step {place} defines, as {spell(name)}"
        return "which no earlier step defines"

    def _list(self, quantities: set[Quantity | None] | list[Quantity]) -> str:
        names = sorted("a number of the problem" if other is None else self.name(other) for other in quantities)
        return ", ".join(names) or "nothing"


def _check_answer(dependency: Dependency, query: Quantity, board: _Board) -> None:
    last, result, values = board.defined[-1], board.results[-1], dependency.values
    if last != query:
        raise Wrong("answer", f"the last step must compute {board.name(query)}; it computes {board.name(last)}")
    if result != values[query]:
        pairs = enumerate(zip(board.defined, board.results, strict=True))
        place, (first, value) = next((i, (q, v)) for i, (q, v) in pairs if v != values[q])
        raise Wrong(
            "answer",
            f"the answer is {values[query]}, not {result}; step {place} is the first that differs: "
            f"{board.name(first)} is {values[first]}, not {value}",
        )
