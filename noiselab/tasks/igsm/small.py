"""Small iGSM: problems of a few parameters in a few words, for models that learn on a processor in minutes."""

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

TRIES = 2_000
"""Draws before a split is said to have no problem of some numbers of operations."""
TRIES_OF_ONE = 40
"""Draws for one number of operations, before it is drawn anew."""
SALT = "7 "
"""Goes into the hash of templates. Short solutions have few of them, and not any hash has some in both splits."""


@dataclass(frozen=True)
class SmallProblem(Problem):
    """A problem of small iGSM.

    **Arguments:**

    - `level`: "nano", or "micro" with fewer names, or "logic", without values.
    - `rules`: each parameter and what it is defined by, in the order of the sentences of the problem.
    - `order`: the parameters of the solution, each after all that it needs; the last one is asked for, and needs all others
      in the end.
    - `modulus`: of the values, at least 2; `None` is 5, or no values for "logic".
    - `layout`: "pq", the question at the end, or "qp", at the start.

    **Raises:** `ValueError` for rules or an order that are none, or another level, modulus or layout.

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
                f"rules must be of different parameters among {', '.join(names)}; got {', '.join(n for n, _ in self.rules)}"
            )
        for name, rule in self.rules:
            _check_rule(name, rule, self.needs, self.modulus)
        self._rules_in_order  # noqa: B018 - finds out whether there is a cycle
        known: set[str] = set()
        used = {self.order[-1]} if self.order else set()
        for name in self.order:
            if name not in self.needs or name in known or not known.issuperset(self.needs[name]):
                raise ValueError(
                    f"order must be of different parameters, each after all that it needs; got {self.order}"
                )
            known.add(name)
            used.update(self.needs[name])
        if not known or used != known:
            raise ValueError(
                f"order must have the parameter that is asked for, and all that it needs; got {self.order}"
            )

    @cached_property
    def _rules(self) -> dict[str, Rule]:
        return dict(self.rules)

    @cached_property
    def _rules_in_order(self) -> dict[str, Rule]:
        """All rules, each after those of its operands."""
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
                raise ValueError(f"no parameter may need itself in the end; got {', '.join(name for name, _ in left)}")
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
        """The parameter that is asked for."""
        return self.order[-1]

    @property
    def ops(self) -> int:
        """The operations of the solution, one in each step."""
        return len(self.order)

    @property
    def question(self) -> tuple[str, ...]:
        """The words of the problem, the question among them."""
        asked = ("?", self.query, ":")
        said = tuple(word for name, rule in self.rules for word in sentence(name, rule, self.modulus))
        return said + asked if self.layout == "pq" else asked + said

    def step(self, place: int) -> tuple[str, ...]:
        """The words of the step that finds `order[place]`."""
        name = self.order[place]
        return step(name, self._rules[name], self.values, self.modulus)

    def mistake(self, parameter: Hashable) -> tuple[str, ...]:
        """The words of a step that begins to find `parameter`, and takes back all since the last full stop.

        **Raises:** `ValueError` if the problem has no such parameter.
        """
        if not isinstance(parameter, str) or parameter not in self.needs:
            raise ValueError(f"parameter must be one of {', '.join(self._rules)}; got {parameter!r}")
        return mistake(parameter)

    def check(self, solution: Sequence[str]) -> Verdict:
        """Whether the words of a solution, or its text, are right to the last step.

        A step must be just the words that its parameter calls for, the operands in the order of the problem; what it needs
        must be known, and itself not; the last one must find what is asked for. Steps that the question does not need are
        allowed, and counted. What was taken back is dropped, and counted: a "BACK" takes back all since the last full
        stop, or the step that this ends, if there is nothing since.

        **Arguments:**

        - `solution`: anything at all.

        **Returns:** the verdict on the first wrong step: "parse" if it is none, "unknown" if it names what the problem does
        not have, "repeated", "skip" if it uses what is not known, or not just what the problem says, "cited" if a number is
        not that of the problem or of a parameter, "arithmetic", "answer" if the last one finds something else, or "empty".
        """
        return check(self._rules, self.values, self.order, self.modulus, solution)

    @cached_property
    def split(self) -> Split:
        """Whether the problem may be trained on, or is for tests only.

        It hangs on the solution without names, numbers and the order of operands, so that no problem of one split is solved
        like one of the other. Solutions of one step, and for "logic" of two, are all alike, and for training.
        """
        return _split_of(template((name, self._rules[name]) for name in self.order))


def _check_rule(name: str, rule: Rule, needs: Mapping[Hashable, tuple[str, ...]], modulus: int | None) -> None:
    operands, number = rule
    if len(operands) > 2 or len(set(operands)) < len(operands) or any(operand not in needs for operand in operands):
        raise ValueError(f"operands must be up to two different parameters of the problem; got {operands} for {name}")
    if number is not None and (modulus is None or len(operands) == 2 or not 0 <= number < modulus):
        what = "no number without values" if modulus is None else f"numbers below {modulus}, and none in a sum"
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
    """A random small problem.

    Every parameter has one or two operands, as likely, and a number is one of them with probability 1/2: a sum, a multiple,
    a copy or a number, as likely, but where more are needed so that the question needs all parameters of the solution. The
    others, which it does not need, use any that came before, or only one another, as likely.

    **Arguments:**

    - `generator`: of the random numbers.
    - `level`: "nano", with 2 to 6 operations and up to 9 parameters of 24 names; "micro", with 1 to 4, up to 6 and 12; or
      "logic", as "nano" but without values.
    - `ops`: the number of operations, at least 1, or the lowest and the highest, as likely as those between; `None` for those
      of the level. More than it has are for problems longer than those of training.
    - `parameters`: how many there are in all, from the number of operations to that of names. `None` draws it, from the
      number of operations to the level's most, or 3 ("micro": 2) more than the operations if that is more.
    - `modulus`: of the values, at least 2; `None` is 5, or no values for "logic".
    - `layout`: "pq", the question at the end, or "qp", at the start.
    - `split`: "train" or "test", which have no template in common, or `None` for both. Where no problem of a split has some
      number of operations, or next to none, it is drawn anew.

    **Returns:** a problem whose sentences are in random order, and the steps in a random one of those that are possible.

    **Raises:** `ValueError` for numbers that do not fit, and if a split has no problem with these operations.

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
    for attempt in range(TRIES):
        if attempt % TRIES_OF_ONE == 0:
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
    raise ValueError(f"ops must be that of some problems; got {ops}, and none in {TRIES} draws of {split=}")


def _wanted(generator: random.Random) -> int:
    """How many parameters a rule uses: of one or two operands, one is a number with probability 1/2."""
    return (0, 1, 1, 2)[generator.randrange(4)]


def _rule(operands: list[str], modulus: int | None, generator: random.Random) -> Rule:
    if modulus is None or len(operands) == 2:
        return Rule(tuple(operands))
    if not operands:
        return Rule((), generator.randrange(modulus))
    return Rule(tuple(operands), generator.randrange(1, modulus) if generator.random() < 0.5 else None)


def _necessary(names: list[str], modulus: int | None, generator: random.Random) -> dict[str, Rule]:
    """Rules of parameters that the last one needs, all of them; each uses some before it."""
    used: list[list[int]] = [[] for _ in names]
    for place in range(len(names) - 2, -1, -1):
        # There is room: the n later ones have 2 n operands, and n - 1 are given.
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
    """Rules of parameters that no necessary one uses; half of them have nothing to do with those."""
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
    """Next comes any whose needs are met."""
    waiting, order = list(rules), []
    while waiting:
        ready = [name for name in waiting if all(operand in order for operand in rules[name].operands)]
        order.append(generator.choice(ready))
        waiting.remove(order[-1])
    return tuple(order)
