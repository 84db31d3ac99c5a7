"""Guidance of the reverse transition itself, as published; guidance of the prediction is in `noiselab.denoisers`."""

from typing import ClassVar

import torch

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.base import in_a_line
from ..denoisers.checked import checked
from ..denoisers.guidance import LogLikelihoods, finite_weight, mix_log_probs, weights_at
from ..process import NoiseProcess, as_token_times
from ..schedules import ScheduleLike
from ..typing import Probs, RowLogits, Selection, Times, Tokens, Variants
from .base import Sampler


class GuidedStepSampler(Sampler):
    r"""Draws from a guided reverse transition: classifier-free guidance or a classifier applied to the *step*.

    With $q_c$ and $q_u$ the reverse transitions of two denoisers,

    $$q(z_s \mid z_t) \propto q_c^{1 + w}\, q_u^{-w} \qquad\text{or}\qquad
    q(z_s = v \mid z_t) \propto q_c(v)\; p(y \mid z^{i \to v})^w$$

    position by position, over all tokens that a step may lead to, "stay" included. Weight 0 is the conditional
    transition alone, -1 the unconditional one.

    Guidance of the step also changes *how fast* tokens change. With masks the probability to stay a mask moves with
    the weight, towards earlier unmasking where both predictions disagree, so that a step no longer leaves the number
    of masks of its time. With noise on data even the law of a single token depends on the number of steps.
    `ClassifierFreeGuidance` and `ClassifierGuidance` guide the prediction instead, which keeps the speed, and the law
    of a single token is the same for any number of steps. The published codes differ:

    | code | uniform noise | masks |
    | --- | --- | --- |
    | discrete-diffusion-guidance | this step | the prediction, `ClassifierFreeGuidance` |
    | Duo | this step | this step |
    | discrete-diffusion-guidance, classifier | this step | this step |

    There, $\gamma = 1 + w$. Where both transitions have no common token, the conditional one is used.

    It is computed densely, a row of the vocabulary for each position that may change. `converges` is True only
    without a guide, which is the `AncestralSampler`.

    **Arguments:**

    - `process`: any process.
    - `denoiser`: the conditional denoiser, or the one that the classifier guides.
    - `unconditional`: the unconditional denoiser; or
    - `log_likelihoods`: a function (z, t, rows) to $\log p(y \mid z^{i \to v})$ of the *noisy* token v, masks
      included, as for `ClassifierGuidance`: from `by_enumeration(..., clean=False, masks=True)` or `first_order`.
    - `weight`: the weight w, any finite number, or a schedule of the time t at the beginning of the step.

    **Raises:** `ValueError` if both guides are given, for a weight that is not finite, or likelihoods of another shape.

    **Source:** Schiff et al. (2024), arXiv 2412.10193, equations 4 to 6; Sahoo et al. (2025), Duo, arXiv 2506.10892.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.uniform(vocab_size=2)
    half = torch.tensor([0.5, 0.5])
    stay, any_ = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.full((2, 2), 0.5)
    sampler = nl.samplers.GuidedStepSampler(
        process, nl.MarkovOracle(half, stay, process), nl.MarkovOracle(half, any_, process), weight=1.0
    )
    z, t, s = torch.tensor([[0, 0]]), torch.tensor([0.5]), torch.tensor([0.25])
    assert sampler.transition_law(z, t, s)[0, 0, 0] > 0.9
    ```
    """

    variants: ClassVar[Variants] = {"ancestral, dense": {}}
    known_as = "guidance of discrete-diffusion-guidance (uniform noise) and Duo"
    law = "falls with the number of steps without a guide; with one it has no fixed target"
    evaluated = "at positions that may be noise"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        unconditional: Denoiser | None = None,
        *,
        log_likelihoods: LogLikelihoods | None = None,
        weight: ScheduleLike = 1.0,
    ):
        super().__init__(process, denoiser)
        if unconditional is not None and log_likelihoods is not None:
            raise ValueError("unconditional or log_likelihoods must be given, not both; got both")
        self.unconditional = (
            None if unconditional is None else checked(as_leave_one_out(unconditional, process), process)
        )
        self.log_likelihoods, self.weight = log_likelihoods, finite_weight(weight)
        self.converges = unconditional is None and log_likelihoods is None

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One guided reverse transition; the networks are evaluated at positions that may change."""
        u = uniforms(*z.shape, generator=generator, device=z.device)
        rows = (as_token_times(s, z) < as_token_times(t, z)) & ~self.process.is_clean(z, t)
        if not rows.any():
            return z
        return replace_tokens(z, rows, choose(self._log_law(z, t, s, rows).softmax(-1), u[rows]))

    @torch.no_grad()
    def transition_law(self, z: Tokens, t: Times, s: Times) -> Probs:
        """The law of every token at s, given those at t; float64.

        **Arguments:** and **Raises:** as for `step`.
        """
        self.process.step_times(s, t, z)
        every = torch.ones_like(z, dtype=torch.bool)
        return self._log_law(z, t, s, every).softmax(-1).view(*z.shape, -1)

    def _log_law(self, z: Tokens, t: Times, s: Times, rows: Selection) -> RowLogits:
        """The logarithms of the guided transition at some positions, not normalised."""
        c = self._log_transition(self.denoiser, z, t, s, rows)
        weight = weights_at(self.weight, z, t, rows).to(c)
        if self.unconditional is not None:
            guided = mix_log_probs(c, self._log_transition(self.unconditional, z, t, s, rows), weight)
        elif self.log_likelihoods is not None:
            fit = self.log_likelihoods(z, t, rows).to(c)
            if fit.shape != c.shape:
                raise ValueError(
                    f"log_likelihoods must have the shape of the logits, {list(c.shape)}; got {list(fit.shape)}"
                )
            guided = torch.where((weight == 0) | c.isneginf(), c, c + weight * fit)
        else:
            return c
        return torch.where(guided.isneginf().all(-1, keepdim=True), c, guided)

    def _log_transition(self, denoiser: Denoiser, z: Tokens, t: Times, s: Times, rows: Selection) -> RowLogits:
        """The logarithms of the reverse transition with the prediction of one denoiser."""
        x_hat = self.process.on_support(denoiser(z, t, rows).double()).softmax(-1)
        low, high = (as_token_times(time, z).double().expand(z.shape)[rows][:, None] for time in (s, t))
        return self.process.posterior(z[rows][:, None], x_hat[:, None], low, high)[:, 0].log()

    def extra_repr(self) -> str:
        """The guide and the weight."""
        if self.unconditional is not None:
            return f"{in_a_line(self.unconditional)}, weight={self.weight}"
        if self.log_likelihoods is not None:
            name = getattr(self.log_likelihoods, "__name__", type(self.log_likelihoods).__name__)
            return f"{name}, weight={self.weight}"
        return ""
