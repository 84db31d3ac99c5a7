r"""What a denoiser predicts, and the way from one answer to the other.

Three answers hold the same knowledge, and stand at each position for one token's law:

    leave_one_out   p(x_i | z_{-i}), the clean token given everything but its own noisy value: x_hat
    posterior       p(x_i | z)                                   proportional to x_hat_v q_t(z_i | v)
    score           s_y = p_t(z with z_i -> y) / p_t(z)          = q_t(y | x_hat) / q_t(z_i | x_hat)

All functions take one row for each token, as a denoiser gives them for selected `rows`, and hold a few tensors of that
size. Where noise forgets what it destroyed, $q_t(z_i \mid v) = b(z_i)$ for every v but $v = z_i$, so that leave-one-out
and posterior differ in a single logit, by $\log(1 + \alpha / b(z_i))$.
"""

from typing import Literal, TypeAlias, get_args

from torch import Tensor

from .process import NoiseProcess
from .typing import PerRow, RowLogits, RowTokens

Prediction: TypeAlias = Literal["leave_one_out", "posterior", "score"]
"""What a denoiser says it predicts: logits of either law, or the logarithms of the scores."""


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

    A clean token v that cannot have become z has posterior 0, whatever $\hat x_v$ is: there the posterior's logit is
    returned as it is, and no bound or sampler reads it. Scores that a network is free to choose need not belong to any
    $\hat x$: a negative difference counts as 0, and if none is positive, q itself is taken. Scores of an $\hat x$ give it
    back, up to rounding, which grows as $b_t / \alpha_t$. Where no signal is left (t = 1) they do not determine it.

    **Arguments:**

    - `outputs`, `z`, `t`: for each token what was predicted, its noisy value and its time.
    - `predicts`: what the outputs are; for scores, the entry at z is taken to be $\log 1$.
    - `check`: whether an impossible z raises. It is one wait for a GPU, which denoisers and losses leave out; unchecked, an
      impossible z gives not-a-number, or meaningless logits.

    **Raises:** `ValueError` for an impossible z; for scores of a process whose noise depends on the token it destroys,
    where a linear system for each token would have to be solved.

    **Source:** Bayes' rule; for scores, the plug-in ratio of Lou et al. (2024), arXiv 2310.16834, solved for x_hat.
    """
    _accept(process, z, t, predicts, check)
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

    Where noise cannot have produced z, the answer is z, whatever the network says.

    **Arguments:** and **Raises:** as for `to_leave_one_out`.

    **Source:** Bayes' rule; the distinction is Gourevitch et al. (2026), arXiv 2605.22765.
    """
    _accept(process, z, t, predicts, check)
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

    The second equality holds for the exact leave-one-out law, and makes it the concrete score that SEDD trains. A
    posterior says nothing of the score where z can have come from one clean token only.

    **Arguments:** and **Raises:** as for `to_leave_one_out`.

    **Returns:** at least float32; exactly 0 at z, -inf where a token cannot stand.

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
    _accept(process, z, t, predicts, check)
    if predicts == "score":
        return outputs
    if predicts == "posterior":
        outputs = to_leave_one_out(process, outputs, z, t, check=False)
    log_q = process.log_marginal(process.on_support(outputs), t)
    at_z = z[:, None]
    return (log_q - log_q.gather(-1, at_z)).scatter(-1, at_z, 0)


def _accept(process: NoiseProcess, z: Tensor, t: Tensor, predicts: Prediction, check: bool) -> None:
    if predicts not in get_args(Prediction):
        raise ValueError(f"predicts must be one of {', '.join(map(repr, get_args(Prediction)))}; got {predicts!r}")
    if not check:
        return
    possible = process.is_possible(z[:, None], t[:, None])[:, 0]
    if not possible.all():
        row = int((~possible).nonzero()[0])
        raise ValueError(
            f"z must be possible at time t; got token {z[row].item()} at t = {t[row].item():.6g}, which no clean token "
            "can have become"
        )
