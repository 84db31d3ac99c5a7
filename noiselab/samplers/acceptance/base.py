"""What a step proposes for each position, and the interface of rules that say which proposals are accepted."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from ...numerics import require_count
from ...typing import PerToken, Selection, Tokens
from ..positions import select_best

Counts: TypeAlias = int | Sequence[int]
"""A number of tokens in each step, or one for each step of a block; later steps have the last one."""


@dataclass(frozen=True)
class Proposals:
    """The predictions of one step, position by position: what a rule decides by.

    Confidences are logarithms, because probabilities near 1 differ there where they would round to the same number. All
    numbers are float64, and 0 at positions that were not evaluated.

    **Arguments:**

    - `rows`: the positions whose proposed token may be accepted: the masks of the current block.
    - `token`: the proposed token of each position: the most probable one, or a drawn one.
    - `step`: the number of the step in the current block of each sequence, from 0; always 0 outside of a walk.
    - `kept`: what the rule keeps from step to step of one walk, empty at first; it may write to it.
    - `measured`: the numbers by name: "log_confidence", and those that the rule `uses`.
    """

    rows: Selection
    token: Tokens
    step: Int[Tensor, " batch"]
    kept: dict[str, Tensor]
    measured: Mapping[str, PerToken]

    @property
    def log_confidence(self) -> PerToken:
        """The log-probability of the proposed token."""
        return self._read("log_confidence")

    @property
    def log_largest(self) -> PerToken:
        """The log-probability of the most probable token, which does not depend on what was drawn."""
        return self._read("log_largest")

    @property
    def entropy(self) -> PerToken:
        """The entropy of the prediction in nats."""
        return self._read("entropy")

    @property
    def change(self) -> PerToken:
        """The Kullback-Leibler divergence of the prediction from that of the step before in nats; infinite in the first."""
        return self._read("change")

    @property
    def confidence(self) -> PerToken:
        """The probability of the proposed token; 0 outside of `rows`."""
        return torch.where(self.rows, self.log_confidence.exp(), 0)

    @property
    def largest(self) -> PerToken:
        """The probability of the most probable token; 0 outside of `rows`."""
        return torch.where(self.rows, self.log_largest.exp(), 0)

    def _read(self, name: str) -> PerToken:
        if name not in self.measured:
            raise ValueError(
                f"the rule must name {name!r} in its attribute `uses` to read it; got {list(self.measured)}"
            )
        return self.measured[name]


class Acceptance(abc.ABC):
    """A rule that says which of the proposed tokens are accepted in a step.

    A subclass implements `__call__`. The rule is an object without state: what it keeps between the steps of a walk is in
    `Proposals.kept`. Where a rule needs only confidences and entropies, a function of `Proposals` is one, too.

    **Example:** a rule that accepts the positions next to a known token, and the most confident one.

    ```python
    import torch
    import noiselab as nl

    def beside_known(found):
        known = torch.nn.functional.pad(~found.rows, (1, 1))
        return found.rows & (known[:, :-2] | known[:, 2:]) | (found.confidence == found.confidence.amax(-1, keepdim=True))

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.ThresholdSampler(process, oracle, accept=beside_known, draw=True)
    assert (sampler.sample((4, 8), steps=8) < 2).all()
    ```
    """

    uses: ClassVar[tuple[str, ...]] = ("log_largest", "entropy")
    """Which of `log_largest`, `entropy` and `change` it reads; each takes a pass over the logits."""
    exact = False
    """Whether it accepts at most one uncertain token in each step and exactly one if there is any, without regard to what
    was drawn: then the distribution of whole sequences is that of the data, given the exact denoiser.
    """
    minimum: tuple[int, ...] = (1,)
    """The numbers of tokens that are accepted at least, one for each step of a block; later steps have the last one."""

    @abc.abstractmethod
    def __call__(self, found: Proposals) -> Selection:
        """The accepted positions, among `found.rows`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.options())})"

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return []

    def minimum_option(self) -> list[str]:
        """The minimum for `repr`, unless it is 1."""
        if self.minimum == (1,):
            return []
        return [f"minimum={self.minimum[0] if len(self.minimum) == 1 else list(self.minimum)}"]


Rule: TypeAlias = Acceptance | Callable[[Proposals], Tensor]
"""An `Acceptance`, or a function of `Proposals` that returns the accepted positions."""


def require_rule(accept: Any, *, changes: bool = True) -> Rule:
    """A rule given by the user, checked.

    **Arguments:**

    - `changes`: whether the sampler measures the change of predictions (`Proposals.change`).

    **Raises:** `ValueError` if it is none, or needs the change where it is not measured.
    """
    if not callable(accept) or isinstance(accept, type):
        raise ValueError(f"accept must be a noiselab.samplers.Acceptance or a function of Proposals; got {accept!r}")
    if not changes and isinstance(accept, Acceptance) and "change" in accept.uses:
        raise ValueError(
            f"accept must not compare with the step before, which this sampler does not measure; got {accept}"
        )
    rule: Rule = accept
    return rule


def check_accepted(rule: Rule, found: Proposals) -> Selection:
    """The positions that a rule accepts.

    **Raises:** `ValueError` if it does not return a mask of the positions.
    """
    accepted: Any = rule(found)
    if not isinstance(accepted, Tensor) or accepted.dtype != torch.bool or accepted.shape != found.rows.shape:
        came = f"{accepted.dtype} {list(accepted.shape)}" if isinstance(accepted, Tensor) else type(accepted).__name__
        raise ValueError(f"accept must return a mask, Bool {list(found.rows.shape)}; got {came}")
    return accepted


def describe_rule(rule: Rule) -> str:
    """The rule in a line, for `repr`."""
    return repr(rule) if isinstance(rule, Acceptance) else getattr(rule, "__name__", repr(rule))


def require_counts(name: str, value: Any) -> tuple[int, ...]:
    """Numbers of tokens given by the user, checked: one of at least 1, or several of at least 0.

    **Raises:** `ValueError` for any other.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value or not any(value):
            raise ValueError(f"{name} must have a number for each step, not all 0; got {value!r}")
        return tuple(require_count(name, count, 0) for count in value)
    return (require_count(name, value),)


def even_quotas(block_size: int, steps: int) -> list[int]:
    """The numbers of tokens in each of the steps of a block, as equal as possible, the larger ones first.

    Step k reveals `block_size // steps + (k < block_size % steps)` tokens, as in LLaDA.

    **Arguments:**

    - `block_size`: the number of tokens in a block.
    - `steps`: the number of steps for each block.

    **Raises:** `ValueError` unless both are at least 1.

    **Example:**

    ```python
    import noiselab as nl

    assert nl.samplers.even_quotas(block_size=8, steps=3) == [3, 3, 2]
    ```
    """
    size, steps = require_count("block_size", block_size), require_count("steps", steps)
    return [size // steps + (k < size % steps) for k in range(steps)]


def count_in_step(counts: tuple[int, ...], step: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """The number of tokens of each sequence in its step."""
    if len(counts) == 1:
        return torch.full_like(step, counts[0])
    return torch.tensor(counts, device=step.device)[step.clamp(max=len(counts) - 1)]


def accept_at_least(chosen: Selection, score: PerToken, found: Proposals, minimum: tuple[int, ...]) -> Selection:
    """The chosen positions, and the best by score up to the minimum of the step.

    If the chosen ones are those above a threshold of the same score, this is the larger one of the two sets.
    """
    return chosen | select_best(score, found.rows, count_in_step(minimum, found.step))
