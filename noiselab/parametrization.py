r"""Prediction types of denoisers, and conversions between them.

A denoiser predicts one of three equivalent quantities for the token at each position:

    leave_one_out   p(x_i | z_{-i}), the clean token given everything but its own noisy value: x_hat
    posterior       p(x_i | z)                                   proportional to x_hat_v q_t(z_i | v)
    score           s_y = p_t(z with z_i -> y) / p_t(z)          = q_t(y | x_hat) / q_t(z_i | x_hat)

All functions take one row for each token, as a denoiser returns them for selected `rows`, and allocate a few tensors of
that size. For state-independent corruption, $q_t(z_i \mid v) = b(z_i)$ for every v except $v = z_i$, so that
leave-one-out and posterior differ in a single logit, by $\log(1 + \alpha / b(z_i))$.
"""

from typing import Literal, TypeAlias, get_args

from torch import Tensor

from .process import NoiseProcess
from .typing import PerRow, RowLogits, RowTokens

Prediction: TypeAlias = Literal["leave_one_out", "posterior", "score"]
"""The prediction type of a denoiser: leave-one-out logits, posterior logits, or log-scores."""


def to_leave_one_out(
    process: NoiseProcess,
    outputs: RowLogits,
    z: RowTokens,
    t: PerRow,
    *,
    predicts: Prediction = "posterior",
    check: bool = True,
) -> RowLogits:
    r"""Leave-one-out logits from posterior logits or log-scores, per token.

    $$\hat x_v \propto \frac{p(x_i = v \mid z)}{q_t(z_i \mid v)}, \qquad
    \hat x \propto \max(q - b_t,\, 0) \;\text{ with }\; q_y = \frac{s_y}{\sum_u s_u}$$

    A clean token v that cannot have become z has posterior 0 for any $\hat x_v$: the posterior's logit is then returned
    unchanged, and no bound or sampler reads it. The scores of a network need not correspond to any $\hat x$: negative
    differences are set to 0, and if none is positive, q itself is used. Scores of an $\hat x$ restore it up to
    rounding, which grows as $b_t / \alpha_t$. If no signal is left (t = 1), scores do not determine $\hat x$.

    **Arguments:**

    - `outputs`, `z`, `t`: the prediction for each token, its noisy value and its time.
    - `predicts`: the prediction type of the outputs; for scores, the entry at z is assumed to be $\log 1$.
    - `check`: whether an impossible z raises an error. The check synchronizes with a GPU, so denoisers and losses omit
      it; an unchecked impossible z gives NaN or meaningless logits.

    **Raises:** `ValueError` for shapes that do not match, tokens or times out of range, an impossible z, or for scores of a
    process with state-dependent corruption, where a linear system would have to be solved for each token.

    **Source:** Bayes' rule; for scores, the plug-in ratio of Lou et al. (2024), arXiv 2310.16834, solved for x_hat.
    """
    _accept(process, outputs, z, t, predicts, check)
    if predicts == "leave_one_out":
        return outputs
    if predicts == "score":
        return process.solve_score(outputs, z, t)
    return process.remove_evidence(outputs, z, t)


def to_posterior(
    process: NoiseProcess,
    outputs: RowLogits,
    z: RowTokens,
    t: PerRow,
    *,
    predicts: Prediction = "leave_one_out",
    check: bool = True,
) -> RowLogits:
    r"""Posterior logits from leave-one-out logits or log-scores, per token.

    $$p(x_i = v \mid z) \propto \hat x_v\; q_t(z_i \mid v)$$

    If noise cannot have produced z, the posterior is one-hot at z for any prediction.

    **Arguments:** and **Raises:** as for `to_leave_one_out`.

    **Source:** Bayes' rule; the distinction is Gourevitch et al. (2026), arXiv 2605.22765.
    """
    _accept(process, outputs, z, t, predicts, check)
    if predicts == "posterior":
        return outputs
    if predicts == "score":
        outputs = process.solve_score(outputs, z, t)
    return process.add_evidence(outputs, z, t)


def to_score(
    process: NoiseProcess,
    outputs: RowLogits,
    z: RowTokens,
    t: PerRow,
    *,
    predicts: Prediction = "leave_one_out",
    check: bool = True,
) -> RowLogits:
    r"""Log-scores from leave-one-out or posterior logits, per token: $\log s_y$ for every token y, masks included.

    $$s_y = \frac{q_t(y \mid \hat x)}{q_t(z_i \mid \hat x)} = \frac{p_t(z^{i \to y})}{p_t(z)}, \qquad s_{z_i} = 1$$

    The second equality holds for the exact leave-one-out distribution and makes it the concrete score that SEDD trains.
    A posterior does not determine the score if z can only have come from a single clean token.

    **Arguments:** and **Raises:** as for `to_leave_one_out`.

    **Returns:** at least float32; exactly 0 at z, -inf at impossible tokens.

    **Source:** Lou et al. (2024), arXiv 2310.16834; Meng et al. (2022), arXiv 2211.00802.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    x_hat, z, t = torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([2]), torch.tensor([0.25])
    scores = nl.parametrization.to_score(process, x_hat.log(), z, t).exp()
    assert torch.allclose(scores, torch.tensor([[2.7, 0.3, 1.0]]))  # alpha x_hat / (1 - alpha); 1 for z itself
    ```
    """
    _accept(process, outputs, z, t, predicts, check)
    if predicts == "score":
        return outputs
    if predicts == "posterior":
        outputs = to_leave_one_out(process, outputs, z, t, check=False)
    log_q = process.log_marginal(process.on_support(outputs), t)
    at_z = z[:, None]
    return (log_q - log_q.gather(-1, at_z)).scatter(-1, at_z, 0)


def _accept(process: NoiseProcess, outputs: Tensor, z: Tensor, t: Tensor, predicts: Prediction, check: bool) -> None:
    if predicts not in get_args(Prediction):
        raise ValueError(f"predicts must be one of {', '.join(map(repr, get_args(Prediction)))}; got {predicts!r}")
    shape = (*z.shape, process.vocab_size)
    if z.dim() != 1 or t.shape != z.shape or outputs.shape != shape or not outputs.is_floating_point():
        raise ValueError(
            f"outputs must be floating-point numbers of shape [rows, {process.vocab_size}], z and t of shape [rows]; got "
            f"{outputs.dtype} {list(outputs.shape)}, {list(z.shape)} and {list(t.shape)}"
        )
    if not check:
        return
    process.token_times(t[:, None], z[:, None])
    possible = process.is_possible(z[:, None], t[:, None])[:, 0]
    if not possible.all():
        row = int((~possible).nonzero()[0])
        raise ValueError(
            f"z must be possible at time t; got token {z[row].item()} at t = {t[row].item():.6g}, which no clean token "
            "can have become"
        )
