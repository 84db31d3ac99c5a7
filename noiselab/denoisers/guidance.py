r"""Guidance: combining a conditional and an unconditional prediction, or a prediction and a classifier, in a denoiser.

Both act on x_hat. Published guidance acts on the reverse transition or its rates, where a weight other than 0 (1 for a
classifier) also changes how fast tokens change, for masks by the factor $\sum_v c_v^{1 + w} u_v^{-w}$. Guidance on
x_hat changes only their destination.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..numerics import require_count
from ..process import NoiseProcess, as_token_times
from ..schedules import Schedule, ScheduleLike, as_schedule
from ..typing import Selection, Times, Tokens
from .base import Denoiser, WrappedDenoiser, in_a_line, require_denoiser

LogLikelihoods: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
r"""A function (z, t, rows), called like a denoiser: $\log p(y \mid z_{-i}, x_i = v)$ for every token v of every
position i, up to a constant for each position; [batch, length, state], or [n, state] for the selected rows.
"""


class ClassifierFreeGuidance(WrappedDenoiser):
    r"""Classifier-free guidance of x_hat: $\hat x_v \propto c_v^{1 + w}\, u_v^{-w}$.

    A weight of 0 gives the conditional prediction c, -1 the unconditional one u, and weights between them a geometric
    mean. Above 0 the condition is amplified, below -1 it is avoided. (The scale $\gamma = 1 + w$ is also common.) For a
    sequence of one token, samples have this distribution for any number of steps; for longer sequences, the
    distribution is not $p(x)\, p(y \mid x)^{1 + w}$ unless w is 0 or -1.

    - A token excluded by c stays excluded for w > -1, one excluded by u for w < 0.
    - A token excluded by u but not by c has an infinite ratio c / u. Exact distributions have no such tokens, but
      truncated predictions do. For w > 0 it keeps its probability under c, as if u were equal; for w < -1 the roles are
      exchanged.
    - If no token is left (-1 < w < 0, and no token is allowed by both), c is used.

    If both denoisers predict posteriors, so does this one: the likelihood of a token's own noisy value is a factor of
    all three.

    **Arguments:**

    - `conditional`, `unconditional`: denoisers of the same vocabulary and prediction type. Each is evaluated once; for
      a network that takes the condition as an input, write a denoiser that evaluates both in one batch.
    - `weight`: the weight w, any finite number, or a schedule.

    **Raises:** `ValueError` if the weight is not finite, or the denoisers differ in prediction type or predict scores.

    **Source:** Ho and Salimans (2022), arXiv 2207.12598; for discrete diffusion Nisonoff et al. (2024), arXiv
    2406.01572, by rates, and Schiff et al. (2024), arXiv 2412.10193, by the reverse transition.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    stay, any_ = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.full((2, 2), 0.5)
    half = torch.tensor([0.5, 0.5])
    guided = nl.ClassifierFreeGuidance(
        nl.MarkovOracle(half, stay, process), nl.MarkovOracle(half, any_, process), weight=1.0
    )
    x_hat = guided(torch.tensor([[0, 2]]), torch.tensor([0.5])).softmax(-1)[0, 1]
    assert torch.allclose(x_hat[:2], torch.tensor([81 / 82, 1 / 82]).double())  # 0.9^2 : 0.1^2
    ```
    """

    accepts_scores = False

    def __init__(self, conditional: Denoiser, unconditional: Denoiser, weight: ScheduleLike):
        super().__init__(conditional)
        require_denoiser(unconditional, "ClassifierFreeGuidance", scores=False)
        if conditional.predicts != unconditional.predicts:
            raise ValueError(
                "both denoisers must have the same prediction type; got one that predicts "
                f"{conditional.predicts!r} and one that predicts {unconditional.predicts!r}"
            )
        self.unconditional, self.weight = unconditional, finite_weight(weight)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The combined log-probabilities; at least float32."""
        c, u = _log_probs(self.inner(z, t, rows)), _log_probs(self.unconditional(z, t, rows))
        if c.shape != u.shape:
            raise ValueError(
                f"both denoisers must have the same vocabulary; got outputs {list(c.shape)} and {list(u.shape)}"
            )
        guided = mix_log_probs(c, u, weights_at(self.weight, z, t, rows).to(c))
        return torch.where(guided.isneginf().all(-1, keepdim=True), c, guided)

    def extra_repr(self) -> str:
        """The unconditional denoiser and the weight."""
        return f"{in_a_line(self.unconditional)}, weight={self.weight}"


class ClassifierGuidance(WrappedDenoiser):
    r"""Classifier guidance of x_hat: $\hat x_v\; p(y \mid z_{-i}, x_i = v)^w$, normalised.

    At w = 1, with the exact classifier, this is Bayes' rule: the leave-one-out prediction for data that satisfy y, so
    that the distribution of samples tends to $p(x \mid y)$. The classifier must condition on all noisy tokens except
    the token's own, which is *clean* with value v. This differs from $p(y \mid z)$ with v in place of $z_i$, except for
    absorbing noise, where any token other than a mask is clean. Given $x_i$, $z_i$ carries no information about y, so
    the same factor applies to a denoiser that predicts posteriors.

    If the classifier excludes every token that the prediction allows, the prediction is unchanged.

    **Arguments:**

    - `inner`: the denoiser to guide.
    - `log_likelihoods`: a function (z, t, rows), called like a denoiser: $\log p(y \mid z_{-i}, x_i = v)$ for every v,
      up to a constant for each position; [batch, length, state], or [n, state] for the selected rows. `by_enumeration`
      and `first_order` build one from a classifier.
    - `weight`: the weight w, finite and non-negative, or a schedule. To avoid y, use the likelihoods of its complement.

    **Raises:** `ValueError` for an invalid weight, or a denoiser that predicts scores.

    **Source:** Schiff et al. (2024), arXiv 2412.10193, and Nisonoff et al. (2024), arXiv 2406.01572, who put the
    noisy token v in place of $z_i$.

    **Example:** guidance to sequences that end in token 0; the log-likelihoods come from the posterior of the last
    token.

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)

    def ends_in_0(z, t):
        return nl.denoisers.Posterior(oracle, process)(z, t)[:, -1].log_softmax(-1)[:, 0]

    guided = nl.denoisers.ClassifierGuidance(oracle, nl.denoisers.by_enumeration(ends_in_0, process))
    x = nl.AncestralSampler(process, guided).sample((20, 6), steps=8)
    assert (x[:, -1] == 0).all()
    ```
    """

    accepts_scores = False

    def __init__(self, inner: Denoiser, log_likelihoods: LogLikelihoods, weight: ScheduleLike = 1.0):
        super().__init__(inner)
        self.log_likelihoods, self.weight = log_likelihoods, finite_weight(weight, least=0.0)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits plus weighted log-likelihoods; at least float32."""
        logits = self.inner(z, t, rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        fit = self.log_likelihoods(z, t, rows).to(logits)
        if fit.shape != logits.shape:
            raise ValueError(
                f"log_likelihoods must have the shape of the logits, {list(logits.shape)}; got {list(fit.shape)}"
            )
        w = weights_at(self.weight, z, t, rows).to(logits)
        # Impossible tokens need no classifier, which may be undefined there.
        guided = torch.where((w == 0) | logits.isneginf(), logits, logits + w * fit)
        return torch.where(guided.isneginf().all(-1, keepdim=True), logits, guided)

    def extra_repr(self) -> str:
        """The classifier and the weight."""
        return f"{_name(self.log_likelihoods)}, weight={self.weight}"


def by_enumeration(
    classifier: Callable[[Tensor, Tensor], Tensor],
    process: NoiseProcess,
    *,
    clean: bool = True,
    masks: bool = False,
    at_once: int = 4096,
) -> LogLikelihoods:
    r"""Log-likelihoods for `ClassifierGuidance` by evaluating the classifier for every data token at every position.

    They are as exact as the classifier. The classifier is evaluated once for each data token and each selected
    position, so this is only for small vocabularies.

    **Arguments:**

    - `classifier`: (z, t) to $\log p(y \mid z)$, [batch], up to a constant; with times [batch, length]. It must not
      be NaN, which samplers refuse; -inf says that z excludes y.
    - `process`: the noise process; tokens outside its support are impossible and not evaluated.
    - `clean`: whether the inserted token is given as clean: its time is then the lower end of the domain (where a
      process should have no noise left), and the time of the others is t. Otherwise all have time t, as published, and
      the token is treated as noisy.
    - `masks`: whether tokens outside the support are inserted too: a guided *step* may lead to them
      (`GuidedStepSampler`). A clean mask makes no sense, so this goes with `clean=False`.
    - `at_once`: the maximum number of sequences in one call.

    **Raises:** `ValueError` unless `at_once` is positive, or for `masks` that are clean.
    """
    require_count("at_once", at_once)
    if clean and masks:
        raise ValueError("clean must be False with masks=True, because a mask is not a clean token; got True")

    def enumerated(z: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        time = as_token_times(t, z).expand(z.shape)
        tokens = (process.data_tokens(z.device) | masks).nonzero()[:, 0]
        wanted = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        sequence, position = wanted.nonzero(as_tuple=True)
        fit = time.new_full((len(sequence), process.vocab_size), -torch.inf)
        asked = torch.cartesian_prod(torch.arange(len(sequence), device=z.device), tokens)
        for row, token in (part.unbind(-1) for part in asked.split(at_once)):
            here = position[row, None]
            # The inserted token is clean: it has its own time.
            own = time[sequence[row]].scatter(1, here, process.domain[0]) if clean else time[sequence[row]]
            replaced = z[sequence[row]].scatter(1, here, token[:, None].to(z.dtype))
            fit[row, token] = classifier(replaced, own).to(fit)
        return fit.view(*z.shape, -1) if rows is None else fit

    enumerated.__name__ = f"by_enumeration({_name(classifier)})"
    return enumerated


def first_order(classifier: Callable[[Tensor, Tensor], Tensor], process: NoiseProcess) -> LogLikelihoods:
    r"""Log-likelihoods for `ClassifierGuidance` from one gradient: a linear approximation of the classifier in the
    one-hot tokens.

    $$\log p(y \mid z^{i \to v}) \approx \log p(y \mid z) + g_{i v} - g_{i z_i}, \qquad
    g = \nabla_{\text{onehot}(z)} \log p(y \mid z)$$

    Exact for a classifier that is linear in the one-hot tokens; otherwise accurate only if a single token has little
    effect. It takes one forward and one backward pass for any vocabulary size.

    **Arguments:**

    - `classifier`: (one_hot [batch, length, state], t as it is given) to $\log p(y \mid z)$, [batch], differentiable
      in the one-hot tokens. A network takes them as `one_hot @ embedding.weight`.
    - `process`: the noise process, which determines the vocabulary.

    **Source:** Grathwohl et al. (2021), arXiv 2102.04509, for the approximation; Vignac et al. (2022), arXiv
    2209.14734, and Schiff et al. (2024), arXiv 2412.10193, for guidance by it.
    """

    def linear(z: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        # Samplers run without gradients or in inference mode, so both are switched here.
        with torch.inference_mode(False), torch.enable_grad():
            one_hot = nn.functional.one_hot(z.long(), process.vocab_size).to(torch.get_default_dtype())
            one_hot = one_hot.requires_grad_()
            (slope,) = torch.autograd.grad(classifier(one_hot, t.clone()).sum(), one_hot)
        here = z if rows is None else z[rows]
        slope = slope if rows is None else slope[rows]
        return slope - slope.gather(-1, here[..., None].long())

    linear.__name__ = f"first_order({_name(classifier)})"
    return linear


def _name(function: Callable[..., Tensor]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _log_probs(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def mix_log_probs(c: Tensor, u: Tensor, w: Tensor) -> Tensor:
    r"""$(1 + w)\, c - w\, u$ for log-probabilities, not normalised; zeros as `ClassifierFreeGuidance` says."""
    ratio = torch.where(c.isneginf() | u.isneginf(), 0, c - u)  # NaN of either remains, for samplers to refuse
    # Written relative to the prediction with positive exponent, so that a weight of 0 gives exactly c, and -1
    # exactly u.
    excluded = (w < 0) & u.isinf()
    near, far = (c + w * ratio).masked_fill(excluded, -torch.inf), u + (1 + w) * ratio
    return torch.where(w > -1, near, far)


def weights_at(weight: Schedule, z: Tensor, t: Tensor, rows: Tensor | None) -> Tensor:
    """The weight at the time of each token, as a column."""
    w = weight(as_token_times(t, z)).expand(z.shape)
    return (w if rows is None else w[rows])[..., None]


def finite_weight(weight: ScheduleLike, least: float = -torch.inf) -> Schedule:
    """The weight as a schedule, checked.

    **Raises:** `ValueError` unless it is finite and at least `least` at times over [0, 1].
    """
    schedule = as_schedule(weight)
    home = next((tensor.device for tensor in (*schedule.parameters(), *schedule.buffers())), None)
    found = schedule(torch.linspace(0, 1, 33, dtype=torch.float64, device=home)).detach()
    bad = ~found.isfinite() | (found < least)
    if bad.any():
        raise ValueError(
            f"the weight must be finite{'' if least < 0 else ' and non-negative'} at every time; got {weight}, which is "
            f"{found[bad][0].item():g} somewhere in [0, 1]"
        )
    return schedule
