"""Times of each token or of each block in training, as settings that a resumed run can compare."""

from dataclasses import dataclass

from torch import Generator

from ..numerics import require_count, require_number
from ..times import separate_block_times, token_times
from ..typing import PerToken

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


def _check_range(low: float | int, high: float | int) -> None:
    if not 0 < require_number("low", low) < require_number("high", high) < 1:
        raise ValueError(f"times must be within (0, 1), from low to high; got {(low, high)}")
