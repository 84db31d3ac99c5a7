"""Small iGSM: problems with few parameters and words, for models that train in minutes on a CPU."""

import hashlib
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

from .full import BINS, TRAIN_BINS, Layout, Split
from .problem import Problem, Verdict
from .small_checker import check
from .small_text import NAMES, SIZES, Rule, SmallLevel, check_modulus, mistake, sentence, step, template, value

MAX_DRAWS = 2_000
"""Draws before reporting that a split has no problem with the given numbers of operations."""
DRAWS_PER_NUMBER = 40
"""Draws for one random number of operations before another is drawn."""
SALT = "7 "
"""Salt for the hash of templates. Short solutions have few templates, and not every salt puts some in both splits."""


@dataclass(frozen=True)
class SmallProblem(Problem):
    """A problem of small iGSM.

    **Arguments:**

    - `level`: "nano", "micro" (fewer names) or "logic" (no values).
    - `rules`: the definition of each parameter, in the order of the sentences of the problem.
    - `order`: the parameters of the solution, each after its dependencies; the last is the parameter of the question
      and depends on all others, directly or indirectly.
    - `modulus`: the modulus of the values, at least 2; `None` means 5, or no values for "logic".
    - `layout`: "pq" (question at the end) or "qp" (question at the start).

    **Raises:** `ValueError` for invalid rules or order, or an unknown level, modulus or layout.

    **Source:** Ye et al. (2024), arXiv 2407.20311 and 2408.16293, without the structure graph and the English.
    """

    level: SmallLevel
    rules: tuple[tuple[str, Rule], ...]
    order: tuple[str, ...]
    modulus: int | None = None
    layout: Layout = "pq"
    needs: Mapping[Hashable, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modulus", check_modulus(self.level, self.modulus))
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout must be 'pq' or 'qp'; got {self.layout!r}")
        object.__setattr__(self, "needs", {name: rule.operands for name, rule in self.rules})
        names = NAMES[: SIZES[self.level].names]
        if len(self.needs) < len(self.rules) or not set(names).issuperset(self.needs):
            raise ValueError(
                f"rules must define distinct parameters among {', '.join(names)}; got {', '.join(n for n, _ in self.rules)}"
            )
        for name, rule in self.rules:
            _check_rule(name, rule, self.needs, self.modulus)
        self._rules_in_order  # noqa: B018 - finds out whether there is a cycle
        known: set[str] = set()
        used = {self.order[-1]} if self.order else set()
        for name in self.order:
            if name not in self.needs or name in known or not known.issuperset(self.needs[name]):
                raise ValueError(f"order must have distinct parameters, each after its dependencies; got {self.order}")
            known.add(name)
            used.update(self.needs[name])
        if not known or used != known:
            raise ValueError(
                f"order must contain exactly the parameter of the question and its dependencies; got {self.order}"
            )

    @cached_property
    def _rules(self) -> dict[str, Rule]:
        return dict(self.rules)

    @cached_property
    def _rules_in_order(self) -> dict[str, Rule]:
        """All rules in topological order."""
        found: dict[str, Rule] = {}
        left = list(self.rules)
        while left:
            later = []
            for name, rule in left:
                if all(operand in found for operand in rule.operands):
                    found[name] = rule
                else:
                    later.append((name, rule))
            if len(later) == len(left):
                raise ValueError(
                    f"dependencies must not contain a cycle; got one among {', '.join(name for name, _ in left)}"
                )
            left = later
        return found

    @cached_property
    def values(self) -> dict[str, int]:
        """The value of every parameter; none for "logic"."""
        found: dict[str, int] = {}
        if self.modulus is not None:
            for name, rule in self._rules_in_order.items():
                found[name] = value(rule, found, self.modulus)
        return found

    @property
    def query(self) -> str:
        """The parameter of the question."""
        return self.order[-1]

    @property
    def ops(self) -> int:
        """The number of operations of the solution, one for each step."""
        return len(self.order)

    @property
    def question(self) -> tuple[str, ...]:
        """The words of the problem, including the question."""
        asked = ("?", self.query, ":")
        said = tuple(word for name, rule in self.rules for word in sentence(name, rule, self.modulus))
        return said + asked if self.layout == "pq" else asked + said

    def step(self, place: int) -> tuple[str, ...]:
        """The words of the step that computes `order[place]`."""
        name = self.order[place]
        return step(name, self._rules[name], self.values, self.modulus)

    def mistake(self, parameter: Hashable) -> tuple[str, ...]:
        """The words of a step that begins to compute `parameter` and then deletes everything after the last full stop.

        **Raises:** `ValueError` if the problem has no such parameter.
        """
        if not isinstance(parameter, str) or parameter not in self.needs:
            raise ValueError(f"parameter must be one of {', '.join(self._rules)}; got {parameter!r}")
        return mistake(parameter)

    def check(self, solution: Sequence[str]) -> Verdict:
        """Check a solution, given as words or text, step by step.

        A step must consist of exactly the words that its parameter requires, with operands in the order of the problem.
        Its dependencies must be known, and the parameter itself must not. The last step must compute the parameter of
        the question. Steps that the question does not need are allowed and counted. Deleted steps are removed and
        counted: "BACK" deletes everything after the last full stop, or, if nothing follows it, the step that it ends.

        **Arguments:**

        - `solution`: any words.

        **Returns:** the verdict on the first wrong step: "parse" if it is not a step, "unknown" if it names a parameter
        that the problem does not have, "repeated", "skip" if it uses an unknown parameter or not exactly the operands
        that the problem states, "cited" if a number differs from that of the problem or parameter, "arithmetic",
        "answer" if the last step computes another parameter, or "empty".
        """
        return check(self._rules, self.values, self.order, self.modulus, solution)

    @cached_property
    def split(self) -> Split:
        """The split of the problem, "train" or "test".

        It depends only on the template, which is the solution without names, numbers and the order of operands, so that
        problems of different splits never have the same solution structure. Solutions of one step (two for "logic") all
        have the same template and belong to training.
        """
        return _split_of(template((name, self._rules[name]) for name in self.order))


def _check_rule(name: str, rule: Rule, needs: Mapping[Hashable, tuple[str, ...]], modulus: int | None) -> None:
    operands, number = rule
    if len(operands) > 2 or len(set(operands)) < len(operands) or any(operand not in needs for operand in operands):
        raise ValueError(f"operands must be at most two distinct parameters of the problem; got {operands} for {name}")
    if number is not None and (modulus is None or len(operands) == 2 or not 0 <= number < modulus):
        what = "only operands without values" if modulus is None else f"numbers below {modulus}, and none in a sum"
        raise ValueError(f"rules must have {what}; got {rule} for {name}")
    if number is None and not operands and modulus is not None:
        raise ValueError(f"a rule must have operands or a number; got none for {name}")


def _split_of(template: str) -> Split:
    place = int.from_bytes(hashlib.sha256((SALT + template).encode()).digest()) % BINS
    return "train" if place < TRAIN_BINS else "test"


def draw_small(
    generator: random.Random,
    *,
    level: SmallLevel = "nano",
    ops: int | tuple[int, int] | None = None,
    parameters: int | None = None,
    modulus: int | None = None,
    layout: Layout = "pq",
    split: Split | None = None,
) -> SmallProblem:
    """Draw a random problem of small iGSM.

    Every parameter has one or two operands with equal probability, and one of them is a number with probability 1/2. So
    sums, multiples, copies and numbers are equally likely, except where more operands are required for the question to
    depend on all parameters of the solution. With equal probability, the remaining parameters use any earlier ones or
    only each other.

    **Arguments:**

    - `generator`: the source of randomness.
    - `level`: "nano" (2 to 6 operations, up to 9 parameters, 24 names), "micro" (1 to 4, up to 6, 12) or "logic" (as
      "nano", but without values).
    - `ops`: the number of operations, at least 1, or a range (lowest, highest) from which it is drawn uniformly; `None`
      for the range of the level. It may exceed that range, for problems longer than in training.
    - `parameters`: the total number of parameters, from the number of operations to the number of names. `None` draws
      it from the number of operations up to the level's maximum, or up to 3 ("micro": 2) more than the operations if
      that is larger.
    - `modulus`: the modulus of the values, at least 2; `None` means 5, or no values for "logic".
    - `layout`: "pq" (question at the end) or "qp" (question at the start).
    - `split`: "train" or "test", which have no template in common, or `None` for both. If a split has no or nearly no
      problem with some number of operations, another is drawn.

    **Returns:** a problem with sentences in random order and steps in a random topological order.

    **Raises:** `ValueError` if an argument is out of range, or if a split has no problem with this number of
    operations.

    **Source:** Ye et al. (2024), arXiv 2407.20311, without the structure graph.

    **Example:**

    ```python
    import random
    from noiselab.tasks.igsm import draw_small

    problem = draw_small(random.Random(0), level="nano", ops=4, split="train")
    assert problem.check(problem.answer).right
    retried = (*problem.mistake(problem.query), *problem.answer)
    assert problem.check(retried).retries == 1
    ```
    """
    modulus = check_modulus(level, modulus)
    size = SIZES[level]
    names = NAMES[: size.names]
    low, high = size.ops if ops is None else (ops, ops) if isinstance(ops, int) else ops
    if not 1 <= low <= high <= len(names):
        raise ValueError(f"ops must be from 1 to {len(names)}, the lowest first; got {ops}")
    if parameters is not None and not high <= parameters <= len(names):
        raise ValueError(
            f"parameters must be from {high}, the operations, to {len(names)}, the names; got {parameters}"
        )
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be 'pq' or 'qp'; got {layout!r}")
    if split not in (None, *get_args(Split)):
        raise ValueError(f"split must be 'train', 'test' or None; got {split!r}")
    target = low
    for attempt in range(MAX_DRAWS):
        if attempt % DRAWS_PER_NUMBER == 0:
            target = generator.randint(low, high)
        most = max(size.parameters, target + size.parameters - size.ops[1])
        total = parameters or generator.randint(target, min(most, len(names)))
        chosen = generator.sample(names, total)
        rules = _necessary(chosen[:target], modulus, generator)
        order = _random_order(rules, generator)
        if split is None or _split_of(template((name, rules[name]) for name in order)) == split:
            _add_unnecessary(rules, chosen[target:], modulus, generator)
            sentences = list(rules.items())
            generator.shuffle(sentences)
            return SmallProblem(level, tuple(sentences), order, modulus, layout)
    raise ValueError(
        f"some problem must have this number of operations; got ops={ops}, and none in {MAX_DRAWS} draws of {split=}"
    )


def _wanted(generator: random.Random) -> int:
    """Draw the number of parameters of a rule: of one or two operands, one is a number with probability 1/2."""
    return (0, 1, 1, 2)[generator.randrange(4)]


def _rule(operands: list[str], modulus: int | None, generator: random.Random) -> Rule:
    if modulus is None or len(operands) == 2:
        return Rule(tuple(operands))
    if not operands:
        return Rule((), generator.randrange(modulus))
    return Rule(tuple(operands), generator.randrange(1, modulus) if generator.random() < 0.5 else None)


def _necessary(names: list[str], modulus: int | None, generator: random.Random) -> dict[str, Rule]:
    """Draw rules such that the last parameter depends on all others; each rule uses earlier parameters."""
    used: list[list[int]] = [[] for _ in names]
    for place in range(len(names) - 2, -1, -1):
        # There is always room: the n later rules have 2 n operands, of which n - 1 are taken.
        user = generator.choice([i for i in range(place + 1, len(names)) if len(used[i]) < 2])
        used[user].append(place)
    rules = {}
    for place, operands in enumerate(used):
        if missing := min(_wanted(generator), place) - len(operands):
            others = [i for i in range(place) if i not in operands]
            operands += generator.sample(others, max(0, missing))
        generator.shuffle(operands)
        rules[names[place]] = _rule([names[i] for i in operands], modulus, generator)
    return rules


def _add_unnecessary(rules: dict[str, Rule], names: list[str], modulus: int | None, generator: random.Random) -> None:
    """Add rules of parameters that the question does not need; half of them use no necessary parameter."""
    before = list(rules)
    apart: list[str] = []
    for name in names:
        alone = generator.random() < 0.5
        usable = apart if alone else before
        operands = generator.sample(usable, min(_wanted(generator), len(usable)))
        rules[name] = _rule(operands, modulus, generator)
        before.append(name)
        if alone:
            apart.append(name)


def _random_order(rules: Mapping[str, Rule], generator: random.Random) -> tuple[str, ...]:
    """Draw a random topological order."""
    waiting, order = list(rules), []
    while waiting:
        ready = [name for name in waiting if all(operand in order for operand in rules[name].operands)]
        order.append(generator.choice(ready))
        waiting.remove(order[-1])
    return tuple(order)
