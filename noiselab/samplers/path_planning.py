r"""Path planning: every step selects which positions are clean, so that revealed tokens may be remasked."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..denoisers import Denoiser
from ..denoisers.base import in_a_line
from ..denoisers.checked import checked
from ..numerics import require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.evidence import evidence_of
from ..process.three_way import join_times, mass_at
from ..typing import Times, Tokens, Variants
from .base import Sampler
from .confidence import is_quiet
from .positions import (
    count_noise,
    gather_log_probs,
    normalize_all,
    normalize_logits,
    scatter_rows,
    select_best,
)
from .reading import chunks, find_largest
from .shapes import finish, tops_of, tops_outside
from .tables import known_weights

UNIFORMS_PER_TOKEN = 3  # uniform numbers per position and step: the candidate, and two for a token of the noise


class PathPlanningSampler(Sampler):
    r"""Keeps or reveals the tokens with the best scores and replaces all others by noise: planned remasking.

    At time t every position gets a candidate, drawn from the posterior
    $p(x_i \mid z) \propto \hat x_v\, q_t(z_i \mid v)$: for a mask that is $\hat x$, and a token known to be clean is
    its own candidate. Its score is

    $$\log \hat x_v \text{ for a new token } v, \qquad \eta \log p_v \text{ for one that stays}$$

    with p from the planner, by default $\hat x$ itself (self-planning). Of the N tokens of a sequence that move to s,
    the best $N - \mathrm{round}(N (1 - \alpha_s))$ are clean and take their candidates; all others become noise of time
    s. For absorbing noise this is the published rule: a revealed token to which the model assigns low probability is
    masked again. For noise on data tokens (uniform noise) it is unknown which tokens are revealed, and a candidate
    equal to the current token counts as one that stays; this generalisation is new here.

    The logarithms are not positive, so a *large* $\eta$ lowers the scores of tokens that stay, which are then remasked
    more often. With $\eta = 0$ no token is remasked, which gives the `ConfidenceSampler`; with $\eta = 1$ old and new
    tokens are treated equally.

    Its distribution does not converge to that of the data (`converges` is False), because the drawn tokens affect which
    tokens stay.

    A network trained only on masks has no trained prediction for visible tokens, and one that copies visible tokens is
    certain of them: self-planning is then not possible, and a planner is required.

    **Arguments:**

    - `process`: an interpolating process.
    - `denoiser`: as for every sampler. It is evaluated at masks and, unless there is a planner or `stochasticity` is 0,
      at tokens that may stay.
    - `planner`: a denoiser that is evaluated on the sequence filled with all candidates, at the lower end of the domain
      (clean), and scores the tokens that stay. Its logits are used without conversion; a masked language model (BERT)
      is suitable.
    - `stochasticity`: $\eta$, non-negative.
    - `draw`: whether candidates are drawn; otherwise each is the most probable one.

    **Raises:** `ValueError` if the process is not interpolating, the planner is not a denoiser or predicts scores, or
    `stochasticity` is negative.

    **Source:** Peng et al. (2025), "Path Planning for Masked Diffusion Model Sampling" (P2), arXiv 2502.03540; $\eta$
    on the logarithm is that of its code. Zheng et al. (2023), arXiv 2302.05737, for sampling with uniform noise by
    ranked scores.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.PathPlanningSampler(process, oracle, stochasticity=1)
    x = sampler.sample((4, 8), steps=16, generator=torch.Generator().manual_seed(0))
    assert (x < 2).all()
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    has_static = True
    variants: ClassVar[Variants] = {"path planning": {}}
    known_as = "P2"
    evaluated = "at all positions"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        planner: Denoiser | None = None,
        *,
        stochasticity: float | int = 1.0,
        draw: bool = True,
    ):
        super().__init__(process, denoiser)
        if planner is not None and not (isinstance(planner, Denoiser) and planner.predicts != "score"):
            came = "one that predicts scores" if isinstance(planner, Denoiser) else type(planner).__name__
            raise ValueError(f"planner must be a noiselab.Denoiser that predicts logits of tokens; got {came}")
        self.planner = None if planner is None else checked(planner, process)
        self.stochasticity, self.draw = require_number("stochasticity", stochasticity, 0), draw
        self.quiet_end = is_quiet(self.process)

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One step of planning and replacing; the network is not evaluated if all tokens are known and none is to be masked."""
        u = uniforms(*z.shape, UNIFORMS_PER_TOKEN, generator=generator, device=z.device)
        if self.is_static(z):
            return self._static_step(z, t, s, u)
        t, s = as_token_times(t, z), as_token_times(s, z)
        known = self.process.is_clean(z, t)
        moving = (s < t) & (~known | self.process.data_tokens(z.device)[z])
        due, left = count_noise(self.process, s, moving)
        judged = moving & (left > 0)[:, None]
        here = self.planner is None and self.stochasticity > 0
        rows = (moving & ~known) | judged if here else moving & ~known
        candidate, score = z, torch.zeros(z.shape, dtype=torch.float64, device=z.device)
        if rows.any():
            evidence = evidence_of(self.process, z[rows], t.expand(z.shape)[rows])
            drawn, log_prob = self._candidates(self.denoiser(z, t, rows), z[rows], known[rows], evidence, u[rows][:, 0])
            candidate, score = replace_tokens(z, rows, drawn), scatter_rows(log_prob, rows)
        score = self.with_stability(score, candidate, judged & (candidate == z))
        free = moving & ~due
        clean = (moving & due) | select_best(score, free, free.sum(-1) - left)
        new = torch.where(clean, candidate, self.process.noise(s).choose(u[..., 1], u[..., 2]))
        return torch.where(moving, new, z)

    def _candidates(
        self, logits: Tensor, z: Tensor, known: Tensor, evidence: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For each row a token of the posterior, or z where it is known to be clean, and its log-probability under x_hat."""
        found = []
        for chunk in chunks(logits, self.denoiser.check):
            law, mass, here = chunk.logits, chunk.mass, z[chunk.some]
            # Only the mass of z itself differs from that of x_hat; a larger one would overflow, and z is certain then.
            inside, at_z = here[:, None] < law.shape[-1], here[:, None].clamp(max=law.shape[-1] - 1)
            more = torch.where(inside, evidence[chunk.some, None], 0).to(law)
            mass.scatter_(-1, at_z, (law.gather(-1, at_z) - chunk.top + more).clamp(max=80).exp_())
            drawn = choose(mass, u[chunk.some]) if self.draw else find_largest(mass)[1][:, 0]
            drawn = torch.where(known[chunk.some], here, drawn)
            found.append((drawn, chunk.log_probs_at(drawn[:, None].clamp(max=law.shape[-1] - 1))[:, 0].double()))
        drawn, log_prob = (torch.cat(parts) for parts in zip(*found, strict=True))
        return drawn, log_prob

    def with_stability(self, score: Tensor, candidate: Tensor, stays: Tensor) -> Tensor:
        """The scores; for tokens that stay, those of the planner times the stochasticity."""
        if self.stochasticity == 0:
            return torch.where(stays, torch.inf, score)
        if self.planner is not None and stays.any():
            low = torch.full(candidate.shape[:1], self.process.domain[0], dtype=torch.float64, device=score.device)
            log_probs = normalize_logits(self.planner(candidate, low, stays), self.process)
            score = score.masked_scatter(stays, gather_log_probs(log_probs, candidate[stays]))
        return torch.where(stays, self.stochasticity * score, score)

    def _static_step(self, z: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
        new, tops, planned = self.move(z, t, s, u, known_weights(self.process, t, s))
        if planned is not None and self.planner is not None:
            new = finish((new, planned), None, self.planner)
        return finish((new, tops), t, self.denoiser)

    def move(  # type: ignore[override]
        self,
        z: Tokens,
        t: Times,
        s: Times,
        u: Float[Tensor, "batch length draws"],
        weights: Float[Tensor, "batch times parts"] | None = None,
    ) -> tuple[Tokens, Float[Tensor, "..."], Float[Tensor, "..."] | None]:
        """One step with static shapes, from three uniform numbers per position: new tokens, and for the checks the
        largest logits of the denoiser, and of the planner if there is one.
        """
        both, n = join_times(s, t, z)
        signal, noise = self.process.signal_and_noise(both, weights)
        earlier, mass = noise.between(0, n), mass_at(noise.between(n, 2 * n), z)
        # Noise of the time of z can have made each of its tokens that is not data, or z is impossible.
        still = as_token_times(s, z) >= as_token_times(t, z)
        rows = (mass > 0) > still
        share = total = earlier.total()
        if not self.quiet_end:
            share = share.masked_fill(both[:, :n] <= self.process.domain[0], 0)
        share = share.masked_fill(still, 0)
        odds = 1 + signal[:, n:] / mass
        candidate, score, top = self._everywhere(self.denoiser.everywhere(z, t), z, rows, odds, u[..., 0])
        score, planned = self._planned(score, candidate, candidate == z)
        # Tokens that do not move, or to a time without noise, come first of all.
        score = score.masked_fill(share <= 0, torch.inf)
        rank = score.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        # The number of noise tokens is that of `round_share`: a whole number is below x if it is below the next whole one.
        clean = rank < z.shape[1] - (0.5 + 1e-9) - share.expand(z.shape).sum(-1, keepdim=True)
        new = torch.where(clean, candidate, earlier.choose(u[..., 1], u[..., 2], total).to(z.dtype))
        judged = self.planner is None and self.stochasticity > 0
        return new, tops_outside(top, still if judged else ~rows), planned

    def _everywhere(
        self, logits: Tensor, z: Tensor, rows: Tensor, odds: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For each position a token of the posterior, or z outside of `rows`, its log-probability under x_hat, and the largest
        logit; `odds` are those of the posterior at z to x_hat.
        """
        top, best = logits.max(-1, keepdim=True)
        law = logits - top
        mass = law.exp()
        others = mass.scatter(-1, best, 0).sum(-1, keepdim=True)
        # A larger one would overflow.
        odds = odds.clamp(max=math.exp(80))[..., None].to(law)
        mass = mass.scatter_reduce(-1, z.long()[..., None], odds, "prod")
        drawn = torch.where(rows, choose(mass, u) if self.draw else mass.argmax(-1), z)
        return drawn.to(z.dtype), (law.gather(-1, drawn[..., None]) - others.log1p())[..., 0], top[..., 0]

    def _planned(self, score: Tensor, candidate: Tensor, stays: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `with_stability`, for all positions, but finite; and the largest logits of the planner."""
        if self.stochasticity == 0:
            return torch.where(stays, torch.finfo(score.dtype).max, score), None
        tops = None
        if self.planner is not None:
            low = torch.full(candidate.shape[:1], self.process.domain[0], dtype=torch.float64, device=score.device)
            log_probs, top = normalize_all(self.planner.everywhere(candidate, low).flatten(0, 1))
            score = torch.where(stays, gather_log_probs(log_probs, candidate.flatten().long()).view(stays.shape), score)
            tops = tops_of(top.view(stays.shape), stays)
        if self.stochasticity != 1:
            score = torch.where(stays, self.stochasticity * score.double(), score)
        return score, tops

    def _networks(self) -> tuple[Denoiser, ...]:
        return (self.denoiser,) if self.planner is None else (self.denoiser, self.planner)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        planner = "" if self.planner is None else f"{in_a_line(self.planner)}, "
        return f"{planner}stochasticity={self.stochasticity:g}" + ("" if self.draw else ", draw=False")
