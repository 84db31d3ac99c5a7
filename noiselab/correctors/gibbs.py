"""Gibbs sampling of noisy tokens: each is resampled given all others."""

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..categorical import Randomness, replace_tokens, uniforms
from ..denoisers import Denoiser
from ..numerics import UNIFORMS_PER_MOVE, require_count, require_number
from ..process import NoiseProcess, as_token_times
from ..samplers.positions import draw_gumbel
from ..typing import Selection, Times, Tokens, Variants
from .base import Corrector, as_selection

Positions = Literal["random", "unlikely", "margin", "unsure"]


class GibbsCorrector(Corrector):
    r"""Resamples a few noisy tokens of each sequence, given all the others.

    $$z_i \sim p(z_i \mid z_{-i}) = q_t(\cdot \mid \hat x_i), \qquad \hat x_i = p(x_i \mid z_{-i})$$

    The conditional distribution follows from the leave-one-out prediction. With the exact prediction, and one token at
    a time at a random position, the distribution of the noisy sequences is therefore exactly invariant, at any time and
    for any process. Tokens that are drawn from the noise need no network evaluation.

    Several tokens in one step are drawn independently, which is an approximation; use `repeats` of
    `PredictorCorrector` for an exact alternative. Choosing positions by the prediction depends on the current tokens,
    which is not exact either, and biases towards likely text. In both cases `converges` is False.

    | `positions` | those with the smallest score | published as |
    | --- | --- | --- |
    | "random" | a random number | |
    | "unlikely" | $q_t(z_i \mid \hat x_i)$ | diffusers, `lowest_current_prob` |
    | "margin" | $\log q_t(z_i \mid \hat x_i) - \max_{v \ne z_i} \log q_t(v \mid \hat x_i)$ | `lowest_log_margin` |
    | "unsure" | $\max_v q_t(v \mid \hat x_i)$ | `lowest_maxprob` |

    **Arguments:**

    - `process`, `denoiser`: as for samplers.
    - `tokens_per_step`: the number of tokens of each sequence that are resampled, at distinct positions; at least 1.
    - `positions`: which positions are resampled, see the table; ties are broken at random.
    - `choice_temperature`: T, non-negative; positions are drawn, the first with probability proportional to
      $\exp(-\text{score} / T)$, the others from those that are left (Gumbel noise on the scores).

    **Raises:** `ValueError` for an unknown choice of positions, a negative temperature, or if `tokens_per_step` is less
    than 1.

    **Source:** Geman and Geman (1984) for the method; Gourevitch et al. (2026), arXiv 2605.22765, for uniform noise,
    with informed positions ("informed correctors"), by which diffusers' `DiscreteDDIMScheduler` corrects; here
    generalised to any noise.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.1)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.PredictorCorrector(nl.AncestralSampler(process, oracle), nl.GibbsCorrector(process, oracle))
    x = sampler.sample((4, 8), steps=8, generator=torch.Generator().manual_seed(0))
    assert (x < 2).all()
    ```
    """

    kind = "gibbs"
    variants: ClassVar[Variants] = {"Gibbs": {}}
    changes = "`tokens_per_step` tokens, given all others"
    law = "exactly, for one token at a random position"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        tokens_per_step: int = 1,
        *,
        positions: Positions = "random",
        choice_temperature: float | int = 0,
    ):
        require_count("tokens_per_step", tokens_per_step)
        if positions not in get_args(Positions):
            known = ", ".join(map(repr, get_args(Positions)))
            raise ValueError(f"positions must be one of {known}; got {positions!r}")
        super().__init__(process, denoiser)
        self.tokens_per_step, self.positions = tokens_per_step, positions
        self.choice_temperature = require_number("choice_temperature", choice_temperature, 0)
        self.converges = tokens_per_step == 1 and positions == "random"

    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """Resample a few tokens of each sequence; the network is evaluated at these only, or, unless `positions` is
        "random", at `rows`.
        """
        rows, time = as_selection(rows, z), as_token_times(t, z).expand(z.shape)
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        if self.positions == "random":
            return self._redraw(z, t, time, self._first(torch.zeros_like(time), u[..., 0], rows), u)
        if not rows.any():
            return z
        x_hat = self._predict(z, t, rows)
        score = self._score(x_hat, z[rows], time[rows])
        key = torch.zeros_like(time).masked_scatter(rows, score.to(time))
        if self.choice_temperature:
            key = key - self.choice_temperature * draw_gumbel(u[..., 0])
        chosen = self._first(key, u[..., 0], rows)
        return self._redraw(z, t, time, chosen, u, x_hat[chosen[rows]])

    def _score(self, x_hat: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The scores of tokens; the smallest is resampled first."""
        if self.positions == "unlikely":
            return self.process.predicted_probability(x_hat, z, t)
        law = self.process.marginal(x_hat.double()[:, None], t[:, None])[:, 0]
        if self.positions == "unsure":
            return law.amax(-1)
        here, others = law.gather(-1, z[:, None])[:, 0], law.scatter(-1, z[:, None], 0).amax(-1)
        margin = torch.where(here > 0, here.log() - others.log(), -torch.inf)
        return margin.nan_to_num(posinf=torch.finfo(margin.dtype).max)  # before positions that may not change

    def _first(self, key: Tensor, ties: Tensor, rows: Tensor) -> Tensor:
        """The mask of the smallest keys among `rows`; ties are broken by `ties`."""
        order = ties.argsort(-1)
        order = order.gather(-1, key.masked_fill(~rows, torch.inf).gather(-1, order).argsort(dim=-1, stable=True))
        return torch.zeros_like(rows).scatter(-1, order[:, : self.tokens_per_step], True) & rows

    def _redraw(
        self, z: Tensor, t: Tensor, time: Tensor, chosen: Tensor, u: Tensor, x_hat: Tensor | None = None
    ) -> Tensor:
        """Draw the chosen tokens from q_t(. | x_hat); `x_hat` is their prediction, if already computed."""
        process, at, u = self.process, time[chosen], u[chosen]
        drawn, needs = process.plan_noisy(at, u)
        new, evaluated = replace_tokens(z, chosen, drawn), chosen.masked_scatter(chosen, needs)
        if not evaluated.any():
            return new
        x_hat = self._predict(z, t, evaluated) if x_hat is None else x_hat[needs]
        return replace_tokens(new, evaluated, process.resolve_noisy(x_hat, at[needs], u[needs]))

    def _predict(self, z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        logits = self.process.on_support(self.denoiser(z, t, rows))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        heat = f", choice_temperature={self.choice_temperature:g}" if self.choice_temperature else ""
        return f"tokens_per_step={self.tokens_per_step}, positions={self.positions!r}{heat}"
