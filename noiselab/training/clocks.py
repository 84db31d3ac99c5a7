"""Times of each token or of each block in training, as settings that a resumed run can compare."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator

from ..numerics import require_count, require_number
from ..times import separate_block_times, token_times
from ..typing import PerToken
from .noise import TimesOfStep

MARGIN = 1e-4


@dataclass(frozen=True)
class TimesPerToken:
    """Times of a training step for diffusion forcing: a share of the sequences has an independent time for each token.

    The others have one time each. Give it to `Trainer` or `noised_loss` as `times`.

    **Arguments:**

    - `share`: in [0, 1]; the probability that a sequence has independent times.
    - `low`, `high`: the range of times, within (0, 1).

    **Raises:** `ValueError` for a number out of range.

    **Source:** as for `noiselab.times.token_times`; one half is published.

    **Example:**

    ```python
    import torch
    from noiselab.training import TimesPerToken

    t = TimesPerToken(share=0.5)(8, 16, generator=torch.Generator().manual_seed(0))
    assert t.shape == (8, 16)
    ```
    """

    share: float | int = 0.5
    low: float | int = MARGIN
    high: float | int = 1 - MARGIN

    def __post_init__(self) -> None:
        require_number("share", self.share, 0, 1)
        _check_range(self.low, self.high)

    def __call__(self, batch: int, length: int, *, generator: Generator) -> PerToken:
        """The times of all sequences of a step."""
        return token_times(batch, length, share=self.share, low=self.low, high=self.high, generator=generator)


@dataclass(frozen=True)
class TimesPerBlock:
    """Times of a training step for blocks in one pass: each block has its own, stratified over all blocks of the step.

    **Arguments:**

    - `block`: the number of tokens in a block, positive.
    - `low`, `high`: the range of times, within (0, 1).

    **Raises:** `ValueError` for a number out of range.

    **Source:** as for `noiselab.times.separate_block_times`.

    **Example:**

    ```python
    import torch
    from noiselab.training import TimesPerBlock

    t = TimesPerBlock(4)(8, 16, generator=torch.Generator().manual_seed(0))
    assert (t[:, 0] == t[:, 3]).all() and (t[:, 3] != t[:, 4]).all()
    ```
    """

    block: int
    low: float | int = MARGIN
    high: float | int = 1 - MARGIN

    def __post_init__(self) -> None:
        require_count("block", self.block)
        _check_range(self.low, self.high)

    def __call__(self, batch: int, length: int, *, generator: Generator) -> PerToken:
        """The times of all sequences of a step."""
        return separate_block_times(batch, length, self.block, low=self.low, high=self.high, generator=generator)


@dataclass(frozen=True)
class PromptedTimes:
    r"""Times of a training step in which a share of the sequences begins with a prompt: tokens that are clean and not learned.

    The prompt of a sequence of L tokens has the positions $i \le f\,(L - 1)$, at least one, with $f = \arccos(1 - 2u) / \pi$
    for a uniform u, so that prompts of half the sequence are the most frequent. The time of its tokens is `PROMPT_TIME`,
    where there is next to no noise, and their weight is 0. The mean of all weights of a step is 1, so that the loss is the
    mean over the tokens that are learned, if rows have no padding and no tokens that are not scored. Where they do, prompts are
    a larger share of the real tokens, and the loss is that mean times a factor a little below 1.

    **Arguments:**

    - `times`: the times of the other tokens, such as `TimesPerToken(0.5)`; they must not be below `MARGIN`.
    - `share`: in [0, 1]; the probability that a sequence has a prompt.

    **Raises:** `ValueError` for a share out of range; on a call, for times below `MARGIN`.

    **Source:** `_sample_noise_mask` in gidd_easydel/diffusion_trainer/diffusion_trainer.py of github.com/dvruette/gidd-easydel
    (commit 6525e88), with its setting `noise_mask_p_prompt: 0.2`; von Ruette et al. (2025), arXiv 2512.10858.

    **Example:**

    ```python
    import torch
    from noiselab.training import PromptedTimes, TimesPerToken

    times = PromptedTimes(TimesPerToken(share=0.5), share=0.2)
    t, weight = times(100, 16, generator=torch.Generator().manual_seed(0))
    assert ((weight == 0) == (t == times.PROMPT_TIME)).all()
    ```
    """

    times: TimesOfStep
    share: float | int = 0.2

    PROMPT_TIME: ClassVar[float] = MARGIN / 2

    def __post_init__(self) -> None:
        require_number("share", self.share, 0, 1)

    def __call__(self, batch: int, length: int, *, generator: Generator) -> tuple[PerToken, PerToken]:
        """The times of all sequences of a step, and their weights."""
        drawn = self.times(batch, length, generator=generator)
        t, weight = drawn if isinstance(drawn, tuple) else (drawn, torch.ones_like(drawn))
        if t.min() < MARGIN:
            raise ValueError(f"times beside prompts must not be below {MARGIN:g}; got {t.min().item():g}")
        t, weight = (part.double().view(batch, -1).expand(batch, length) for part in (t, weight))
        prompted, u = torch.rand(2, batch, 1, dtype=torch.float64, generator=generator)
        end = (1 - 2 * u).arccos() / math.pi * (length - 1)
        prompt = (prompted < self.share) & (torch.arange(length) <= end)
        learned = (~prompt).double()
        return torch.where(prompt, self.PROMPT_TIME, t), weight * learned / learned.mean().clamp(
            min=1 / learned.numel()
        )


def _check_range(low: float | int, high: float | int) -> None:
    if not 0 < require_number("low", low) < require_number("high", high) < 1:
        raise ValueError(f"times must be within (0, 1), from low to high; got {(low, high)}")
