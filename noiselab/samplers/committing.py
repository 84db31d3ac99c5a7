"""Committing to confident tokens for any noise: what is not committed becomes noise again, what is may be edited."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ..categorical import Randomness, replace_tokens, uniforms
from ..denoisers import Denoiser, as_posterior
from ..denoisers.checked import checked
from ..numerics import require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..typing import Grid, Times, Tokens, Variants
from .base import Advance, Sampler, Stage
from .confidence import noisy_data_tokens
from .positions import normalize_logits, scatter_rows, select_best
from .walk_state import current_state, with_state


class CommittingSampler(Sampler):
    r"""Commits to the tokens that the model is sure of, and replaces all others by noise in each step; for any noise.

    With noise on data tokens a sequence does not show which of its tokens are noise, so the walk remembers which
    positions are committed; none are at first. In each step, with $c_i = \max_v p(x_i = v \mid z)$,

    - free positions with $c_i >$ `threshold` are committed to their most probable token, and the most confident ones
      until $\lceil N (1 - b_s) \rceil$ of the N positions are, where $b_s$ is the share of noise at the end of the step;
    - with `edit`, positions that were committed before take another token if its probability is above `edit`;
    - all positions that are still free become noise of time s.

    `RenoisingSampler` remembers nothing: there a token stays only if it is accepted again. `JointThresholdSampler` is the
    same rule where masks show which positions are free.

    It takes the most probable tokens, so that only the noise is random, and its distribution is not that of the data
    (`converges` is False). A step outside of a walk finds nothing committed.

    **Arguments:**

    - `process`: an interpolating process.
    - `denoiser`: a denoiser of any prediction type; the posterior is used.
    - `threshold`: in [0, 1].
    - `edit`: in [0, 1]; `None` to edit nothing.

    **Raises:** `ValueError` for settings out of range, a process that is not interpolating, or an edit threshold under
    noise that never makes a visible token wrong.

    **Source:** diffusers (2026), `BlockRefinementScheduler` without a mask, there `editing_threshold`; commit 58eb52c.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.uniform(vocab_size=3)
    chain = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 0.9]])
    oracle = nl.MarkovOracle(torch.full((3,), 1 / 3), chain, process)
    sampler = nl.samplers.CommittingSampler(process, oracle, 0.9, edit=0.8)
    x = sampler.sample((4, 8), steps=8, generator=torch.Generator().manual_seed(0))
    assert x.shape == (4, 8) and (x < 3).all()
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    keeps_clean = True
    variants: ClassVar[Variants] = {"committing, 0.9": {}}
    known_as = "block refinement of diffusers, without a mask"
    evaluated = "at all positions that may be noise"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        threshold: float | int = 0.9,
        edit: float | int | None = None,
    ):
        super().__init__(process, denoiser)
        # A posterior is used as it is: converted and back, it would be rounded.
        direct = denoiser.predicts == "posterior"
        self.posterior = checked(denoiser, process) if direct else as_posterior(self.denoiser, process)
        self.threshold = require_number("threshold", threshold, 0, 1)
        self.edit = edit if edit is None else require_number("edit", edit, 0, 1)
        if edit is not None and not len(noisy_data_tokens(self.process)):
            raise ValueError(
                "edit must be None under noise that never makes a visible token wrong, because visible tokens are then "
                f"certain; got edit={edit:g} under {process}"
            )

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Commit, edit and renoise; the network is not evaluated if all tokens are known to be clean."""
        u = uniforms(*z.shape, 2, generator=generator, device=z.device)
        t, s = as_token_times(t, z), as_token_times(s, z)
        moving = (s < t).expand(z.shape)
        rows = moving & ~self.process.is_clean(z, t)
        state = current_state()
        kept = state.read(self, moving)
        if not rows.any():
            state.write(self, kept)
            return z
        # A corrector may have masked a committed token again.
        before = kept.tensors.get("committed", torch.zeros_like(moving)) & self.process.data_tokens(z.device)[z]
        committed = moving & (before | ~rows)
        log_probs = normalize_logits(self.posterior(z, t.expand(z.shape), rows), self.process)
        value, token = log_probs.max(-1)
        sure, best = scatter_rows(value, rows), replace_tokens(z, rows, token)
        owed = self._owed(s, moving) - committed.sum(-1)
        free = rows & ~committed
        # Of tokens with unlike times the surest may take more than is owed at their own.
        due = s <= self.process.domain[0]
        chosen = (free & (due | (sure.exp() > self.threshold))) | select_best(sure, free, owed)
        new = torch.where(chosen, best, z)
        if self.edit is not None:
            new = torch.where(rows & committed & (sure.exp() > self.edit), best, new)
        kept.tensors["committed"] = committed | chosen
        state.write(self, kept)
        return torch.where(free & ~chosen, self.renoised(z, s, u), new)

    def renoised(self, z: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """Noise of the time s at every position."""
        return self.process.noise(s).choose(u[..., 0], u[..., 1])

    def _owed(self, s: Tensor, moving: Tensor) -> Tensor:
        """The number of positions of each sequence that are to be committed at s."""
        share = 1 - self.process.noise(s).total().expand(moving.shape)
        share = torch.where((s <= self.process.domain[0]).expand(moving.shape), 1, share)
        # Whole numbers stay what they are, regardless of rounding errors in the sum.
        return ((share * moving).sum(-1) - 1e-9).ceil().long()

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step, with what is committed between them."""
        yield from super().path(z, times, generator=generator, advance=with_state(advance or self.stages))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"threshold={self.threshold:g}" + (f", edit={self.edit:g}" if self.edit is not None else "")
