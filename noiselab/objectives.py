"""Training losses: token weights, cross-entropies, masking an exact number of tokens, and the mean over tokens.

Distributions of times are in `times`.
"""

from collections.abc import Callable
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from .categorical import Randomness, uniforms
from .elbo import nelbo
from .elbo.score import score_entropy
from .elbo.tokens import check_inputs, check_shapes, check_width, noise_on_data
from .numerics import require_count, require_number, require_tokens
from .parametrization import Prediction, to_leave_one_out, to_posterior
from .process import InterpolatingProcess, NoiseProcess, as_token_times
from .typing import Logits, PerToken, Scalar, Selection, Times, Tokens

IGNORED = -(2**62)  # an index that no token has

Objective: TypeAlias = Callable[[InterpolatingProcess, Tensor, Tensor, Tensor], Tensor]
"""(process, x, z, t) -> the weight of each token's divergence KL + IS, float64 [batch, length]."""


def elbo(process: InterpolatingProcess, x: Tokens, z: Tokens, t: Times) -> PerToken:
    r"""The weight of the plain negative ELBO, $w_t(z, x) = r_t(z) / q_t(z \mid x)$."""
    return process.elbo_weight(x, z, t)


class Clipped:
    r"""The ELBO's weight, clipped: $\min(w_t(z, x), w_{max})$.

    **Arguments:**

    - `max_weight`: the maximum weight, positive; 1 in the paper's ablation, 2 in the released settings.

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 4.
    """

    def __init__(self, max_weight: float | int = 1.0):
        self.max_weight = require_number("max_weight", max_weight, 0, above=True, infinite=True)

    def __call__(self, process: InterpolatingProcess, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The weight of each token."""
        return process.elbo_weight(x, z, t).clamp(max=self.max_weight)

    def __repr__(self) -> str:
        return f"Clipped({self.max_weight:g})"


class Dynamic:
    r"""GIDD's dynamic weights, as in the paper and in release v1.0.0: 2 for a mask, 1 for a wrong token, and

    $$\mathrm{scale} \cdot e^{-\gamma \lambda_t / 2}, \qquad \lambda_t = \log\frac{\alpha_t}{1 - \alpha_t}$$

    for a clean token, all clipped at `max_weight`. A mask is a token outside the process's support. To first order, the
    ratio of the weights of clean and wrong tokens is that of the ELBO.

    **Arguments:**

    - `scale`: the weight of a clean token at equal signal and noise; `Dynamic.gidd` computes the published value.
    - `gamma`: as in the process.
    - `max_weight`: the maximum weight, positive; 2 as released.

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 4; release v1.0.0.
    """

    def __init__(self, scale: float | int, gamma: float | int = 1.0, max_weight: float | int = 2.0):
        self.scale, self.gamma = require_number("scale", scale, 0), require_number("gamma", gamma)
        self.max_weight = require_number("max_weight", max_weight, 0, above=True, infinite=True)

    @classmethod
    def gidd(
        cls, *, vocab_size: int, p_uniform: float | int, gamma: float | int = 1.0, max_weight: float | int = 2.0
    ) -> "Dynamic":
        """Dynamic weights with the published scale B / vocab_size for the process `noiselab.gidd` with the same
        arguments.
        """
        require_count("vocab_size", vocab_size)
        require_number("p_uniform", p_uniform, 0, 1, below=True)
        return cls(2**gamma * p_uniform / (1 - p_uniform) / vocab_size, gamma, max_weight)

    def __call__(self, process: InterpolatingProcess, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The weight of each token."""
        exponent = -self.gamma / 2 * self.snr(process, as_token_times(t, z))
        clean = self.scale * exponent.exp().expand(z.shape)
        noisy = torch.where(process.data_tokens(z.device)[z], 1.0, 2.0).to(clean)
        return torch.where(z == x, clean, noisy).clamp(max=self.max_weight)

    @staticmethod
    def snr(process: InterpolatingProcess, t: Tensor) -> Tensor:
        """The log signal-to-noise ratio, clipped to [-20, 20] as published."""
        return torch.logit(process.alpha(t)).clamp(-20, 20)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self.scale:.4g}, gamma={self.gamma:g}, max_weight={self.max_weight:g})"


class DynamicV11(Dynamic):
    r"""GIDD's dynamic weights as in release v1.1.0, which uses $-\mathrm{sigmoid}(-t)$ in place of $\lambda_t$.

    Use it only to reproduce that release: the weight of a clean token is then almost constant in time, unlike the
    paper's formula.

    **Arguments:** as for `Dynamic`.

    **Source:** github.com/dvruette/gidd, release v1.1.0.
    """

    @staticmethod
    def snr(process: InterpolatingProcess, t: Tensor) -> Tensor:
        """The value that the release uses as log signal-to-noise ratio."""
        return -torch.sigmoid(-t)


def low_variance(process: InterpolatingProcess, x: Tokens, z: Tokens, t: Times) -> PerToken:
    r"""The plain cross-entropy at masked tokens, $-\log \hat x_x$, without the bound's $1/t$; for absorbing noise.

    At a mask $KL + IS = -\alpha_t \log \hat x_x$, so that the weight is $1/\alpha_t$ at masks and 0 elsewhere. The loss
    has the same minimiser as the bound and no large weights, but it is not a bound: all times have equal weight.

    **Raises:** `ValueError` if the process has noise other than masks.

    **Source:** Sahoo et al. (2026), "Scaling Beyond Masked Diffusion Language Models", arXiv 2602.15014.
    """
    _refuse_noise_on_data(process, z, process.token_times(t, z, x))
    masked = ~process.data_tokens(z.device)[z]
    return torch.where(masked, 1 / process.alpha(process.interior(t, z)).double(), 0)


def objective_loss(
    process: NoiseProcess,
    outputs: Logits,
    x: Tokens,
    z: Tokens,
    t: Times,
    objective: Objective = elbo,
    *,
    predicts: Prediction = "leave_one_out",
) -> PerToken:
    r"""The loss of each token: the objective's weight times $KL + IS$ (see `nelbo`), for any prediction type.

    With the plain `elbo` this is the bound of the reverse process defined by the prediction. For posterior logits it is
    the bound of the marginalised reverse step $\sum_v q(z_s \mid z_t, v)\, p(v \mid z_t)$; for log-scores the score
    entropy.

    **Arguments:**

    - `outputs`: logits or log-scores, according to `predicts`.
    - `x`, `z`, `t`: as for `nelbo`.
    - `objective`: the weight of each token.
    - `predicts`: the prediction type of the outputs. Posterior logits are converted; gradients pass through.

    **Raises:** `ValueError` for another objective than `elbo` where noise depends on the token it destroys: a token has no
    single weight there.
    """
    if objective is elbo:
        weight = None  # the losses have it themselves, for every process
    else:
        process.accept_weight(torch.ones_like(z, dtype=torch.float64))
        weight = objective(cast(InterpolatingProcess, process), x, z, t)  # no other accepts weights
    return weighted_loss(process, outputs, x, z, t, weight, predicts=predicts)


def weighted_loss(
    process: NoiseProcess,
    outputs: Logits,
    x: Tokens,
    z: Tokens,
    t: Times,
    weight: PerToken | None,
    *,
    predicts: Prediction = "leave_one_out",
) -> PerToken:
    """`objective_loss` for weights that are known; `None` for those of the bound."""
    if predicts == "score":
        return score_entropy(process, outputs, x, z, t, weight=weight)
    check_inputs(process, outputs, x, z, t)
    return nelbo(process, _by_rows(to_leave_one_out, process, outputs, z, t, predicts), x, z, t, weight=weight)


def cross_entropy(
    process: NoiseProcess, outputs: Logits, x: Tokens, z: Tokens, t: Times, *, predicts: Prediction = "posterior"
) -> PerToken:
    r"""The cross-entropy of each noisy token, $-\log p(x_i \mid z)$, in nats.

    Its minimiser is the posterior, for every process and at every time. A network trained on its raw outputs with this
    loss therefore predicts the posterior and must be declared accordingly. The loss is not a bound on the likelihood.
    Outputs of other prediction types are converted first, so that the network learns its own prediction type.

    **Arguments:**

    - `outputs`: logits or log-scores, according to `predicts`; tokens outside the support are ignored.
    - `x`, `z`, `t`: clean tokens, noisy tokens, and their times.

    **Returns:** nats in the dtype of the outputs, at least float32.

    **Raises:** `ValueError` as for `nelbo`.

    **Source:** the auxiliary loss of Austin et al. (2021), arXiv 2107.03006, section 3.4; for masks, BERT and LLaDA.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.uniform(vocab_size=3)
    x, z, t = torch.tensor([[0, 1]]), torch.tensor([[0, 2]]), torch.tensor([0.5])
    loss = nl.objectives.cross_entropy(process, torch.zeros(1, 2, 3), x, z, t)
    assert torch.allclose(loss, torch.tensor(3.0).log())
    ```
    """
    t = check_inputs(process, outputs, x, z, t)
    logits = _by_rows(to_posterior, process, outputs, z, t, predicts)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = process.on_support(logits)
    return _cross_entropy(logits, x)


def mask_exactly(
    process: InterpolatingProcess,
    x: Tokens,
    counts: Int[Tensor, " batch"],
    *,
    attention_mask: Selection | Tokens | None = None,
    generator: Randomness = None,
) -> Tokens:
    """Mask an exact number of tokens of each sequence; all sets of that size are equally likely.

    **Arguments:**

    - `process`: a process with absorbing noise and one mask token.
    - `x`: clean tokens.
    - `counts`: the number of tokens to mask in each sequence; for `any_order_loss`, uniform on 1 to the number of real
      tokens. Pass `counts / length` as the time to networks with time input.
    - `attention_mask`: 1 or True for real tokens; padding is not masked.
    - `generator`: the source of randomness; draws three uniform numbers for each token.

    **Raises:** `ValueError` if the process has noise other than masks.
    """
    batch, length = x.shape
    _refuse_noise_on_data(process, x, torch.full((batch,), sum(process.domain) / 2, device=x.device))
    require_tokens("x", x, process.vocab_size)
    real = _real(attention_mask, x)
    if counts.shape != (batch,):
        raise ValueError(f"counts must have shape [{batch}], one for each sequence; got {list(counts.shape)}")
    require_tokens("counts", counts, length + 1)
    u = torch.where(real, uniforms(batch, length, generator=generator, device=x.device), 2)
    rank = u.argsort(-1).argsort(-1)
    return torch.where(rank < counts[:, None], process.prior(batch, length, generator=generator, device=x.device), x)


def any_order_loss(
    process: InterpolatingProcess,
    logits: Logits,
    x: Tokens,
    z: Tokens,
    *,
    attention_mask: Selection | Tokens | None = None,
) -> PerToken:
    r"""The masked bound with an exact number of masks: $(L / k)\,(-\log \hat x_x)$ at each of k masked tokens of L.

    For k uniform on 1..L and a uniform choice of the k tokens, its mean is that of `nelbo` over uniform times, and so
    bounds $-\log p(x)$. As in any-order autoregression, only the number of visible tokens matters. The number of masks
    no longer varies at a given time, and the weight L/k is at most L, whereas the variance of $1/t$ times the
    cross-entropy is infinite over (0, 1]. The loss applies to networks that do not use time or receive k / L.

    **Arguments:**

    - `logits`: logits of the clean token, leave-one-out or posterior, which agree at masks; not scores.
    - `x`, `z`: clean tokens, and the masked tokens from `mask_exactly`.
    - `attention_mask`: 1 or True for real tokens; L is their number.

    **Returns:** nats, at least float32; 0 at tokens that are not masked. The sum over a sequence is an unbiased
    estimate of its bound.

    **Source:** Nie et al. (2025), arXiv 2502.09992, equation 6; the equivalence is Ou et al. (2024), arXiv 2406.03736.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    x = torch.tensor([[0, 1, 1, 0]])
    counts = 1 + (nl.stratified_times(len(x)) * x.shape[1]).long()
    z = nl.objectives.mask_exactly(process, x, counts)
    loss = nl.objectives.any_order_loss(process, torch.zeros(1, 4, 3), x, z)
    assert torch.allclose(loss.sum(), 4 * torch.tensor(2.0).log())  # whatever the count
    ```
    """
    check_shapes(logits, x, z)
    require_tokens("x", x, process.vocab_size)
    require_tokens("z", z, process.vocab_size)
    check_width(process, logits)
    real = _real(attention_mask, x)
    masked = ~process.data_tokens(z.device)[z] & real
    dtype = torch.promote_types(logits.dtype, torch.float32)
    weight = real.sum(-1, keepdim=True).to(dtype) / masked.sum(-1, keepdim=True).clamp(min=1)
    logits = process.on_support(logits)
    return torch.where(masked, weight * _cross_entropy(logits.to(dtype), x), 0)


def _cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """-log softmax(logits)_x of each token; no token is ignored, -100 neither, which torch would count as 0."""
    return F.cross_entropy(logits.flatten(0, 1), x.flatten().long(), reduction="none", ignore_index=IGNORED).view(
        x.shape
    )


def _by_rows(
    convert: Callable[..., Tensor], process: NoiseProcess, outputs: Tensor, z: Tensor, t: Tensor, predicts: Prediction
) -> Tensor:
    """Convert the outputs for all tokens of a batch, without checking for impossible z."""
    times = as_token_times(t, z).expand(z.shape).flatten()
    rows = convert(process, outputs.flatten(0, 1), z.flatten(), times, predicts=predicts, check=False)
    return rows.view_as(outputs)


def _refuse_noise_on_data(process: NoiseProcess, z: Tensor, t: Tensor) -> None:
    if not isinstance(process, InterpolatingProcess) or noise_on_data(process, z, t) is not None:
        raise ValueError(
            f"noise must be masks only (`noiselab.masked`); got {process}, which puts noise on data tokens"
        )


def mean_over_tokens(loss: PerToken, attention_mask: Selection | Tokens | None) -> Scalar:
    """The mean over real tokens, or over all tokens if there is no mask.

    **Arguments:**

    - `loss`: per token.
    - `attention_mask`: 1 or True for real tokens, of the shape of the loss.

    **Returns:** the mean; NaN if no token is real.

    **Raises:** `ValueError` for a mask of another shape, which would broadcast, or dtype.
    """
    if attention_mask is None:
        return loss.mean()
    real = _real(attention_mask, loss)
    return torch.where(real, loss, 0).sum() / real.sum()


def _real(attention_mask: Tensor | None, tokens: Tensor) -> Tensor:
    """The mask of real tokens as Bool of their shape."""
    if attention_mask is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    if attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask must have the shape of the tokens, {list(tokens.shape)}; got {list(attention_mask.shape)}"
        )
    if attention_mask.dtype != torch.bool:
        require_tokens("attention_mask", attention_mask, 2)
    return attention_mask.bool()
