r"""Path planning: every step selects which positions are clean, so that revealed tokens may be remasked."""

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..denoisers.base import in_a_line
from ..parametrization import to_posterior
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..typing import PerRow, PerToken, RowLogits, RowTokens, Selection, Times, Tokens, Variants
from .base import Sampler

DRAWS = 3  # uniform numbers per position and step: the candidate, and two for a token of the noise


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

    **Source:** Peng et al. (2025), "Path Planning for Masked Diffusion Model Sampling" (P2), arXiv 2502.03540; $\eta$ on the
    logarithm is that of its code. Zheng et al. (2023), arXiv 2302.05737, for uniform noise that is sampled by ranking.

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
    variants: ClassVar[Variants] = {"path planning": {}}
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
        if not 0 <= stochasticity < float("inf"):
            raise ValueError(f"stochasticity must be finite and non-negative; got {stochasticity}")
        self.planner, self.stochasticity, self.draw = planner, stochasticity, draw

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Make a new plan; the network is not evaluated if all tokens are known and none is to be masked."""
        u = uniforms(*z.shape, DRAWS, generator=generator, device=z.device)
        t, s = as_token_times(t, z), as_token_times(s, z)
        known = self.process.is_clean(z, t)
        moving = (s < t) & (~known | self.process.data_tokens(z.device)[z])
        due, left = noise_at(self.process, s, moving)
        judged = moving & (left > 0)[:, None]
        here = self.planner is None and self.stochasticity > 0
        rows = (moving & ~known) | judged if here else moving & ~known
        candidate, score = z, torch.zeros(z.shape, dtype=torch.float64, device=z.device)
        if rows.any():
            log_probs = log_law(self.denoiser(z, t, rows), self.process)
            law = to_posterior(self.process, log_probs, z[rows], t.expand(z.shape)[rows], check=False)
            candidate = z.masked_scatter(rows, choose_tokens(law.log_softmax(-1), u[..., 0][rows], self.draw))
            score = scatter_rows(gather_log_probs(log_probs, candidate[rows]), rows)
        score = self.with_stability(score, candidate, judged & (candidate == z))
        free = moving & ~due
        clean = (moving & due) | best(score, free, free.sum(-1) - left)
        new = torch.where(clean, candidate, self.process.noise(s).choose(u[..., 1], u[..., 2]))
        return torch.where(moving, new, z)

    def with_stability(self, score: Tensor, candidate: Tensor, stays: Tensor) -> Tensor:
        """The scores; for tokens that stay, those of the planner times the stochasticity."""
        if self.stochasticity == 0:
            return torch.where(stays, torch.inf, score)
        if self.planner is not None and stays.any():
            low = torch.full(candidate.shape[:1], self.process.domain[0], dtype=torch.float64, device=score.device)
            log_probs = log_law(self.planner(candidate, low, stays), self.process)
            score = score.masked_scatter(stays, gather_log_probs(log_probs, candidate[stays]))
        return torch.where(stays, self.stochasticity * score, score)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        planner = "" if self.planner is None else f"{in_a_line(self.planner)}, "
        return f"{planner}stochasticity={self.stochasticity:g}" + ("" if self.draw else ", draw=False")


def noise_at(process: InterpolatingProcess, s: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """The mask of tokens without noise at s, and the number of the other `moving` tokens that are noise then."""
    share = process.noise(s).total().expand(moving.shape)
    due = (share == 0) | (s <= process.domain[0]).expand(moving.shape)
    # Halves are rounded up, regardless of rounding errors in the sum.
    return due, ((share * (moving & ~due)).sum(-1) + 0.5 + 1e-9).floor().long()


def log_law(logits: RowLogits, process: InterpolatingProcess) -> RowLogits:
    """Log-probabilities of data tokens.

    What is nearly certain keeps its digits, which a softmax rounds to certain: sharp predictions would tie, and be revealed
    from left to right. A row that is no number is given as uniform: an oracle knows nothing about a token whose neighbours
    cannot stand together. So it is the token without which they can, and which it knows to be impossible, that scores worst.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    off = process.off_support()
    # A copy, modified in place, because each operation is a pass over [rows, state].
    law = logits.clone() if off is None else logits.index_fill(-1, off, -torch.inf)
    top, index = law.max(-1, keepdim=True)
    others = law.sub_(top).scatter_(-1, index, -torch.inf).exp().sum(-1, keepdim=True)
    law.scatter_(-1, index, 0).sub_(others.log1p())
    unknown = ~top.isfinite()
    if unknown.any():
        data = process.data_tokens(law.device)
        law = torch.where(unknown, torch.where(data, -data.sum().to(law).log(), -torch.inf), law)
    return law


def gather_log_probs(log_probs: RowLogits, z: RowTokens) -> PerRow:
    """The log-probability of the token z in each row, float64."""
    return log_probs.gather(-1, z[:, None])[:, 0].double()


def choose_tokens(log_probs: RowLogits, u: PerRow, draw: bool) -> RowTokens:
    """Choose a token of each row: drawn, or the most probable one."""
    return choose(log_probs.exp(), u) if draw else log_probs.argmax(-1)


def scatter_rows(values: PerRow, rows: Selection) -> PerToken:
    """Scatter the values of rows to their positions, with 0 elsewhere."""
    return torch.zeros(rows.shape, dtype=torch.float64, device=rows.device).masked_scatter(rows, values.double())


def ranked(score: PerToken, rows: Selection) -> Tokens:
    """Positions from the best score to the worst; those outside `rows` are last, and NaN is worst."""
    low = torch.finfo(score.dtype).min
    return (
        score.nan_to_num(low, neginf=low).masked_fill(~rows, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    )


def best(score: PerToken, rows: Selection, count: Int[Tensor, " batch"]) -> Selection:
    """The `count` best of `rows` in each sequence; ties are broken from left to right."""
    return rows & (ranked(score, rows).argsort(-1) < count[:, None])
