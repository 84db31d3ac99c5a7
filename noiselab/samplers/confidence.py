r"""Confidence-based sampling for absorbing noise: the model determines which positions to unmask next.

The network is evaluated at all masks, a token is drawn for each, and the positions with the best scores are revealed.
Their number follows the schedule (`ConfidenceSampler`) or a bound on the error (`EntropyBoundedSampler`).

With the exact denoiser, revealing one token per step is exact if the choice of the position does not depend on the
drawn token: x, in an order chosen from the tokens revealed so far, has the probability
$\prod_k \pi(i_k \mid x_{i_1 \dots i_{k-1}})\, p(x_{i_k} \mid x_{i_1 \dots i_{k-1}}) = p(x) \prod_k \pi(i_k \mid \cdot)$,
and the last product sums to 1 over all orders. If the score depends on the drawn token, $\pi$ also depends on
$x_{i_k}$.
"""

import abc
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..denoisers import Denoiser
from ..numerics import require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.three_way import join_times
from ..schedules import ScheduleLike, as_schedule
from ..typing import Times, Tokens, Variants
from .base import Sampler
from .positions import (
    BLIND,
    SCORES,
    OrderScore,
    choose_tokens,
    compute_entropy,
    draw_gumbel,
    normalize_all,
    normalize_logits,
    round_share,
    scatter_rows,
    score_positions,
    select_best,
    select_within,
    sum_of_logs,
)
from .reading import read_rows
from .shapes import Moved, finish, tops_of
from .tables import known_weights

UNIFORMS_PER_MASK = 2  # uniform numbers per position and step: for the token and for the choice of the position


class _PlannedSampler(Sampler):
    """Base class: evaluates the network at masks, draws and scores tokens, and reveals those selected by `chosen`."""

    process: InterpolatingProcess
    takes = InterpolatingProcess
    keeps_clean = True
    has_static = True
    uses: ClassVar[tuple[str, ...]] = ()  # numbers that the cost is, beside the score

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, score: OrderScore, draw: bool):
        super().__init__(process, denoiser)
        refuse_noise_on_data(self.process, type(self).__name__)
        if isinstance(score, str) and score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)} or a function; got {score!r}")
        self.score, self.draw = score, draw
        self.quiet_end = is_quiet(self.process)

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Reveal some of the masks; the network is not evaluated if there are none or none is due."""
        u = uniforms(*z.shape, UNIFORMS_PER_MASK, generator=generator, device=z.device)
        if self.is_static(z):
            return finish(self.move(z, t, s, u, known_weights(self.process, t, s)), t, self.denoiser)
        rows, due, left = self._due(z, t, s)
        rows = rows & self.live(due, rows & ~due, left)[:, None]
        if not rows.any():
            return z
        s = as_token_times(s, z).expand(z.shape)
        drawn, score, cost = self._judged(self.denoiser(z, as_token_times(t, z), rows), u[rows], s[rows])
        shown = due | self.chosen(scatter_rows(score, rows), scatter_rows(cost, rows), rows & ~due, left)
        return torch.where(shown, replace_tokens(z, rows, drawn), z)

    def move(
        self,
        z: Tokens,
        t: Times,
        s: Times,
        u: Float[Tensor, "batch length draws"],
        weights: Float[Tensor, "batch times parts"] | None = None,
    ) -> Moved:
        """One step with static shapes, from two uniform numbers per position."""
        rows, due, left = self._due(z, t, s, weights)
        log_probs, top = normalize_all(self.denoiser.everywhere(z, t).flatten(0, 1))
        found = self._rated(log_probs, u.flatten(0, 1), as_token_times(s, z).expand(z.shape))
        drawn, score, cost = (part.view(z.shape) for part in found)
        shown = due | self.chosen(score, cost, rows ^ due, left)
        return torch.where(shown, drawn.to(z.dtype), z), tops_of(top.view(z.shape), rows)

    def _due(self, z: Tensor, t: Tensor, s: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The masks that may be revealed, those that must be, and the number of the others that are to remain."""
        both, n = join_times(s, t, z)
        _, noise = self.process.signal_and_noise(both, weights)
        noisy = noise.between(n, 2 * n).at(z) > 0
        falls = both[:, :n] < both[:, n:]
        share = noise.total()[:, :n]
        if not self.quiet_end:
            share = share.masked_fill(both[:, :n] <= self.process.domain[0], 0)
        rows = falls & noisy
        return rows, rows & (share == 0), self._left(share, rows, falls, z)

    def _left(self, share: Tensor, rows: Tensor, falls: Tensor, z: Tensor) -> Tensor:
        """The number of masks of each sequence that are to remain, by its tokens whose time falls."""
        return round_share(share, rows | (falls & self.process.data_tokens(z.device)[z]))

    def _judged(self, logits: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token, score and cost of each row, as `_rated`; a user-defined score needs the log-probabilities of all tokens."""
        if callable(self.score):
            return self._rated(normalize_logits(logits, self.process), u, s)
        wanted = (self.score, *self.uses)
        drawn, numbers = read_rows(logits, self.denoiser.check, u[:, 0] if self.draw else None, wanted)
        if self.score == "random":
            score = draw_gumbel(u[:, 1])
        elif self.score == "entropy":
            score = -numbers["entropy"]
        else:
            score = numbers["log_confidence" if self.score == "confidence" else "margin"]
        return drawn, self.stirred(score, u[:, 1], s), numbers["entropy"] if "entropy" in self.uses else score

    def _rated(self, log_probs: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token, score and cost of each row."""
        drawn = choose_tokens(log_probs, u[:, 0], self.draw)
        score = self.rate(log_probs, drawn, u[:, 1], s)
        return drawn, score, self.cost(log_probs, score)

    def cost(self, log_probs: Tensor, score: Tensor) -> Tensor:
        """The cost of revealing a position together with others; by default the score, which `chosen` does not read as a
        cost.
        """
        return score

    def live(self, due: Tensor, others: Tensor, left: Tensor) -> Tensor:
        """The sequences in which something is revealed: those with masks."""
        return (due | others).any(-1)

    def rate(self, log_probs: Tensor, drawn: Tensor, u: Tensor, s: Tensor) -> Tensor:
        """The scores of the evaluated positions."""
        score = draw_gumbel(u) if self.score == "random" else score_positions(self.score, log_probs, drawn)
        return self.stirred(score, u, s)

    def stirred(self, score: Tensor, u: Tensor, s: Tensor) -> Tensor:
        """The scores with what is added to them."""
        return score

    @abc.abstractmethod
    def chosen(self, score: Tensor, cost: Tensor, rows: Tensor, left: Tensor) -> Tensor:
        """The mask of revealed positions among `rows`, which may stay masked; `left` masks are to remain."""

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return ", ".join(self.options())

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        score = self.score if isinstance(self.score, str) else getattr(self.score, "__name__", repr(self.score))
        return [f"score={score}"] + ["draw=False"] * (not self.draw)


class ConfidenceSampler(_PlannedSampler):
    r"""Reveals the positions with the best scores; their number follows the schedule.

    Of the N tokens of a sequence that move to s, $\mathrm{round}(N (1 - \alpha_s))$ are masked afterwards; all are
    revealed at the lower end of the domain. A token is drawn for every mask, and the best-scored positions are
    revealed.

    | `score` | | with one token per step and the exact denoiser |
    |---|---|---|
    | `"confidence"` | $\log \hat x_v$ of the drawn token v | biased to likely tokens: the drawn token affects the position |
    | `"margin"` | $\log(\hat x_{(1)} - \hat x_{(2)})$, the two most probable | exact |
    | `"entropy"` | $\sum_v \hat x_v \log \hat x_v$ | exact |
    | `"random"` | a random number | exact |

    Exactness follows from the chain rule, which holds in every order that depends only on revealed tokens; see
    `converges`. It requires one token per step, hence at least one step for each token. Several tokens in one
    step are drawn independently, which causes an error for any score.

    To choose positions more randomly, Gumbel noise is added to the scores, $\text{score} + T g$ with
    $g = -\log(-\log u)$: with one position per step, positions are chosen with probability proportional to
    $\exp(\text{score} / T)$. In MaskGIT the temperature decreases with time: `choice_temperature=4.5 * nl.t`. The
    temperature of the tokens is set by `nl.Temperature(denoiser, ...)`, which also changes the scores.

    **Arguments:**

    - `process`: a process with absorbing noise, without noise on data tokens (such as `nl.masked`).
    - `denoiser`: as for every sampler; it is evaluated only at masks.
    - `score`: a name, or a function of log-probabilities [n, state] and drawn tokens [n], where n counts the masks of
      all sequences, to scores [n]. Ties are broken from left to right.
    - `choice_temperature`: T, non-negative; a number, or a schedule of the final time s of the step.
    - `draw`: whether tokens are drawn; otherwise each is the most probable one (temperature 0).

    **Raises:** `ValueError` for noise on data tokens, or an invalid score or temperature.

    **Source:** Chang et al. (2022), "MaskGIT", arXiv 2202.04200, section 3.2; Nie et al. (2025), "Large Language Diffusion
    Models" (LLaDA), arXiv 2502.09992, for `draw=False` ("low-confidence remasking"); Kim et al. (2025), arXiv 2502.06768,
    for the margin; Ye et al. (2025), "Dream 7B", arXiv 2508.15487, for the entropy. MaskGIT rounds the number of masks down,
    LLaDA reveals a remainder of N / steps in the first steps.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.ConfidenceSampler(process, oracle, score="entropy")
    x = sampler.sample((4, 8), steps=8, generator=torch.Generator().manual_seed(0))
    assert (x < 2).all() and sampler.converges
    ```
    """

    variants: ClassVar[Variants] = {"most confident first": {}, "least entropy first": {"score": "entropy"}}
    known_as = "MaskGIT, LLaDA, Dream"
    law = 'none with "margin", "entropy" or "random" and one token per step; never exact with "confidence"'
    evaluated = "at all masks"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        score: OrderScore = "confidence",
        *,
        choice_temperature: ScheduleLike = 0,
        draw: bool = True,
    ):
        super().__init__(process, denoiser, score, draw)
        self.choice_temperature = as_schedule(choice_temperature)
        self.cool = str(self.choice_temperature) == "0"
        values = self.choice_temperature(torch.linspace(*process.domain, 9, dtype=torch.float64))
        if not ((values >= 0) & values.isfinite()).all():
            raise ValueError(f"choice_temperature must be non-negative; got {values.min().item():g}")
        self.converges = draw and score in BLIND

    def live(self, due: Tensor, others: Tensor, left: Tensor) -> Tensor:
        """The sequences with more masks than are to remain."""
        return due.any(-1) | (others.sum(-1) > left)

    def stirred(self, score: Tensor, u: Tensor, s: Tensor) -> Tensor:
        """The score plus Gumbel noise."""
        if self.score == "random" or self.cool:
            return score
        return score + self.choice_temperature(s.flatten()) * draw_gumbel(u)

    def chosen(self, score: Tensor, cost: Tensor, rows: Tensor, left: Tensor) -> Tensor:
        """The positions with the best scores, such that `left` masks remain."""
        return select_best(score, rows, rows.sum(-1) - left)

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        score, *rest = super().options()
        noise = str(self.choice_temperature)
        return [score, *([] if noise == "0" else [f"choice_temperature={noise}"]), *rest]


class EntropyBoundedSampler(_PlannedSampler):
    r"""Reveals the largest number of tokens per step for which a bound on the error of independent draws holds.

    In each step the masks are sorted by their score, and the longest prefix U of that order is revealed for which

    $$\sum_{l \in U} H_l - \max_{l \in U} H_l \le \gamma, \qquad H_l = -\sum_v \hat x_v \log \hat x_v$$

    but at least one, and in the last step (to the lower end of the domain) all. The left side is at least the total
    correlation of the tokens in U, which is the Kullback-Leibler divergence of this step, because their joint entropy
    is at least that of any single one.

    The speed is determined by the model and not by the schedule. Use one step per token, `steps=length`: once nothing
    is masked, the network is no longer evaluated. With fewer steps, the last one reveals all remaining masks regardless
    of the bound. A network with time input receives the time of the grid, at which more tokens would be masked on
    average.

    With `bound=0` and a score other than `"confidence"` it is exact for the exact denoiser: one token per step, plus
    those that are certain (`converges`). A larger bound causes an error that more steps do not remove.

    **Arguments:**

    - `process`, `denoiser`: as for `ConfidenceSampler`.
    - `bound`: $\gamma$ in nats, non-negative; an infinite bound reveals all tokens at once.
    - `score`: the score for sorting, as for `ConfidenceSampler`; by default the entropy.
    - `draw`: as for `ConfidenceSampler`.

    **Raises:** `ValueError` for noise on data tokens, a negative bound, or an invalid score.

    **Source:** Ben-Hamu et al. (2025), "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking",
    arXiv 2505.24857, where the score is called an error proxy.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    counting = nl.denoisers.CallCounter(oracle)
    x = nl.samplers.EntropyBoundedSampler(process, counting, bound=0.3).sample((1, 16), steps=16)
    assert (x < 2).all() and counting.calls < 16
    ```
    """

    variants: ClassVar[Variants] = {f"entropy-bounded, {bound:g}": {"bound": bound} for bound in (0.1, 1.0)}
    known_as = "EB-Sampler"
    law, evaluated = "none with `bound=0`", "at all masks, until none is left"
    uses = ("entropy",)

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        bound: float | int = 0.1,
        *,
        score: OrderScore = "entropy",
        draw: bool = True,
    ):
        super().__init__(process, denoiser, score, draw)
        self.bound = require_number("bound", bound, 0, infinite=True)
        self.converges = draw and bound == 0 and score in BLIND

    def _left(self, share: Tensor, rows: Tensor, falls: Tensor, z: Tensor) -> Tensor:
        """Read by none, because the bound decides: any numbers, at no cost."""
        return share[:, 0]

    def _rated(self, log_probs: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.score != "entropy":
            return super()._rated(log_probs, u, s)
        probs = log_probs.exp()  # for both
        drawn = choose(probs, u[:, 0]) if self.draw else log_probs.argmax(-1)
        score = sum_of_logs(log_probs, probs)
        return drawn, score, -score

    def chosen(self, score: Tensor, cost: Tensor, rows: Tensor, left: Tensor) -> Tensor:
        """The longest prefix of the order within the bound."""
        return select_within(score, cost, rows, self.bound)

    def cost(self, log_probs: Tensor, score: Tensor) -> Tensor:
        """The entropy."""
        return compute_entropy(log_probs)

    def options(self) -> list[str]:
        """The settings, for `repr`."""
        return [f"bound={self.bound:g}", *super().options()]


def is_quiet(process: InterpolatingProcess) -> bool:
    """Whether no noise is left at the lower end of time."""
    low = torch.full((1, 1), process.domain[0], dtype=torch.float64, device=process.device)
    return bool((process.noise(low).total() == 0).all())


def noisy_data_tokens(process: InterpolatingProcess) -> Tensor:
    """The data tokens that noise may be, so that a token of the sequence does not show whether it is noise."""
    home = process.device
    times = torch.linspace(*process.domain, 7, dtype=torch.float64, device=home)[None, 1:-1]
    return ((process.noise(times).dense()[0] > 0).any(0) & process.data_tokens(home)).nonzero()[:, 0]


def refuse_noise_on_data(process: InterpolatingProcess, name: str, instead: str = "") -> None:
    """Raise `ValueError` if there is noise on data tokens; `instead` names samplers that are nearest to this one."""
    hidden = noisy_data_tokens(process)
    if len(hidden):
        raise ValueError(
            f"{name} needs absorbing noise, without noise on data tokens; got noise on {len(hidden)} of them, such as "
            f"token {hidden[0].item()}. Use {instead}RenoisingSampler, PathPlanningSampler or AncestralSampler, or set the "
            "`support` of the process to the tokens of the data"
        )
