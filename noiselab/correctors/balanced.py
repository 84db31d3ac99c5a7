"""Balanced jumps: tokens that the model finds improbable are redrawn, and the distribution is left invariant."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser, selected_sequences
from ..denoisers.checked import LogitChecks
from ..numerics import LOGITS_AT_ONCE, require_count, require_number
from ..process import NoiseProcess, as_token_times
from ..typing import Selection, Times, Tokens, Variants
from .base import Corrector, as_selection


class BalancedCorrector(Corrector):
    r"""Redraws tokens of small p-value, one at a time, in a jump process that leaves the distribution invariant.

    With $p_i(v) = q_t(v \mid \hat x_i)$, the conditional law of the token at position i given all others, the p-value of a
    token is the probability of one that is at most as probable. $U_i$ are the tokens with a p-value below `level`: at most
    a share `level` of the right tokens, whatever the vocabulary. The token at position i becomes v at the rate

    $$r_i(z_i \to v) = p_i(v)\, 1[z_i \in U_i \text{ or } v \in U_i],
    \qquad \mathrm{pv}_i(v) = \sum_{w:\, p_i(w) \le p_i(v)} p_i(w), \qquad U_i = \{v : \mathrm{pv}_i(v) < \text{level}\},$$

    for a time `duration`. A token of $U_i$ is so redrawn at the rate 1, as by a Gibbs move. The rare jumps *into* $U_i$
    restore the tokens of small p-value that true sequences have: $p(z)\, r(z \to z')$ is symmetric in z and z' (detailed
    balance), and with the exact prediction the distribution of the noisy sequences is exactly invariant. Moves that only
    redraw the most improbable token (`GibbsCorrector(positions="unlikely")`) or take the most confident proposal
    (`SelfCorrection`) make sequences too probable.

    **It stops by itself.** Each token of small p-value takes about one jump; beyond these there are at most
    2 `level` `duration` jumps per token on average. Each jump is one network evaluation, and one more finds that the
    duration has passed.

    **Arguments:**

    - `process`, `denoiser`: as for samplers. For finished sequences and a network, pass
      `noiselab.denoisers.EarliestTime(denoiser, 0.01)`, which is evaluated at no time at which it was not trained.
    - `level`: the largest share of right tokens that count as improbable, in (0, 1).
    - `duration`: positive; a token of small p-value is left as it is with probability $e^{-\text{duration}}$.

    **Raises:** `ValueError` if a setting is out of range.

    **Source:** this rule is new here. Jump processes with rates in detailed balance: Zanella (2020), "Informed proposals for
    local MCMC in discrete spaces", arXiv 1711.07424; correctors at informed positions: Zhao et al. (2024), arXiv
    2407.21243.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    corrector = nl.correctors.BalancedCorrector(process, oracle)
    x = corrector.correct(torch.tensor([[0, 0, 1, 0, 0]]), generator=torch.Generator().manual_seed(0))
    assert x.tolist() == [[0, 0, 0, 0, 0]]
    ```
    """

    kind = "balanced"
    converges = True
    variants: ClassVar[Variants] = {"balanced": {}}
    known_as = "balanced jumps"
    changes = "tokens of small p-value, one after another, until none is left"

    def __init__(
        self, process: NoiseProcess, denoiser: Denoiser, *, level: float | int = 0.01, duration: float | int = 5.0
    ):
        self.level = require_number("level", level, 0, 1, above=True, below=True)
        self.duration = require_number("duration", duration, 0, above=True)
        super().__init__(process, denoiser)

    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """The tokens after the whole duration at their times."""
        for state in self._path(z, t, rows, generator, noisy=True):
            z = state
        return z

    def walk(
        self,
        z: Tokens,
        *,
        steps: int = 128,
        rows: Selection | None = None,
        generator: Randomness = None,
    ) -> Iterator[Tokens]:
        """The states of finished sequences after each jump; ends when all have stopped.

        They have no noise: their law is the prediction itself, at the lower end of time.

        Each step takes three random numbers for each sequence; of a generator for each sequence, only as long as it has not
        stopped. So a sequence is corrected in the same way alone and in a batch.

        **Arguments:**

        - `steps`: the largest number of steps; each is one network evaluation and at most one jump.
        - `rows`: the mask of tokens that may change; by default all. Exclude prompts and padding.
        """
        require_count("steps", steps, 0)
        t = torch.full(z.shape[:1], self.process.domain[0], dtype=torch.float64, device=z.device)
        self.enter(z, t)
        rows = None if rows is None else as_selection(rows, z)
        for _, state in zip(range(steps), self._path(z, t, rows, generator, noisy=False), strict=False):
            yield state

    def correct(
        self, z: Tokens, *, steps: int = 128, rows: Selection | None = None, generator: Randomness = None
    ) -> Tokens:
        """The sequences after the complete walk; arguments as for `walk`."""
        for state in self.walk(z, steps=steps, rows=rows, generator=generator):
            z = state
        return z

    def _path(
        self, z: Tensor, t: Tensor, rows: Tensor | None, generator: Randomness, *, noisy: bool
    ) -> Iterator[Tensor]:
        """The tokens after each jump, until the time of each sequence is over; noisy ones, or finished ones."""
        left = torch.full(z.shape[:1], self.duration, dtype=torch.float64, device=z.device)
        live = torch.full_like(left, z.shape[1] > 0, dtype=torch.bool) if rows is None else rows.any(-1)
        checks = LogitChecks()
        while live.any():
            u = _numbers(live, generator)
            with torch.no_grad(), checks, selected_sequences(self.denoiser, live):
                jumped, wait = self._jump(z[live], t[live], None if rows is None else rows[live], u, noisy)
            goes = wait < left[live]
            new = torch.where(goes[:, None], jumped, z[live])
            left = left.index_put((live,), left[live] - wait)
            z, live = z.index_put((live,), new.to(z.dtype)), live.index_put((live,), goes)
            if not live.any():
                checks.read()  # before the result is handed out
            yield z

    def _jump(self, z: Tensor, t: Tensor, rows: Tensor | None, u: Tensor, noisy: bool) -> tuple[Tensor, Tensor]:
        """The next state of each sequence, and the time until it is entered: infinite if no token can change."""
        logits = self.process.on_support(self.denoiser(z, t) if rows is None else self.denoiser(z, t, rows))
        rows = as_selection(rows, z)
        logits, tokens, time = logits.flatten(0, -2), z[rows], as_token_times(t, z).expand(z.shape)[rows]
        size = max(1, LOGITS_AT_ONCE // logits.shape[-1])
        parts = zip(logits.split(size), tokens.split(size), time.split(size), strict=True)
        rates = torch.cat([self._rates(*part, noisy).sum(-1) for part in parts])
        rate = torch.zeros(z.shape, dtype=torch.float64, device=z.device).masked_scatter(rows, rates)
        position, total = choose(rate, u[:, 1]), rate.sum(-1)
        # The place of the chosen tokens among the selected ones; sequences that cannot jump take any.
        place = (rows.flatten().cumsum(0) - 1).view(z.shape).gather(-1, position[:, None])[:, 0].clamp(min=0)
        drawn = choose(self._rates(logits[place], tokens[place], time[place], noisy), u[:, 2])
        return z.long().scatter(-1, position[:, None], drawn[:, None]), -torch.log1p(-u[:, 0]) / total

    def _rates(self, logits: Tensor, z: Tensor, t: Tensor, noisy: bool) -> Tensor:
        """The rate of each token into every other one, float64, [rows, state]."""
        p = (self.process.log_marginal(logits, t) if noisy else logits).double().softmax(-1)
        up = p.sort(-1).values
        # The p-value of a token is below the level if its probability is below that at which the sum from below reaches it.
        reached = (up.cumsum(-1) < self.level).sum(-1, keepdim=True).clamp(max=p.shape[-1] - 1)
        least = up.gather(-1, reached)
        here = p.gather(-1, z[:, None])
        return torch.where((here < least) | (p < least), p, 0).scatter(-1, z[:, None], 0)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"level={self.level:g}, duration={self.duration:g}"


def _numbers(live: Tensor, generator: Randomness) -> Tensor:
    """Three uniform numbers for each sequence that has not stopped."""
    if not isinstance(generator, Sequence) or len(generator) != len(live):
        return uniforms(len(live), 3, generator=generator, device=live.device)[live]
    # What a sequence takes must not depend on how long others go on, because further steps of a sampler may follow. In a
    # plain list, because numbers are for sequences and not for tokens (`TokenGenerators`).
    each = [generator[i] for i in live.nonzero()[:, 0].tolist()]
    return uniforms(len(each), 3, generator=each, device=live.device)
