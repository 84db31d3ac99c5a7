r"""The bound of any process as a sum over all jumps.

$$\sum_{y \ne z} \Big[ \lambda_y \log\frac{\lambda_y}{\hat\lambda_y} - \lambda_y + \hat\lambda_y \Big], \qquad
\lambda_y = R_t(y, z)\, \frac{q_t(y \mid x)}{q_t(z \mid x)}, \quad
\hat\lambda_y = R_t(y, z)\, \frac{q_t(y \mid \hat x)}{q_t(z \mid \hat x)}$$

If no rate depends on the token left, it simplifies to KL + IS (`definition`).
"""

from typing import TYPE_CHECKING

import torch

from ..typing import Logits, PerToken, Times, Tokens
from .tokens import check_inputs, check_width

if TYPE_CHECKING:
    from ..process import NoiseProcess


def nelbo_by_token(process: "NoiseProcess", logits: Logits, x: Tokens, z: Tokens, t: Times) -> PerToken:
    """The integrand of the negative ELBO as a sum over all jumps, nats per unit of time for each token.

    The definition for every process, used by `nelbo` if the process has no faster method. It is dense, differentiable
    in all inputs, and allocates several float64 [batch, length, state] tensors.

    **Arguments:** as for `nelbo`.

    **Source:** Campbell et al. (2022), arXiv 2205.14987, for the bound of a jump process; derived on the theory page.
    """
    check_width(process, logits)
    t = process.interior(check_inputs(process, logits, x, z, t), z)
    logits = process.on_support(logits)
    q, p = process.marginal(x, t), process.marginal(logits.double().softmax(-1), t)
    rate = process.rate(z, t)
    # A token without jumps into it contributes 0, even if its prediction has underflowed to 0.
    reached = (rate > 0).any(-1, keepdim=True)
    true, guessed = (rate * law / torch.where(reached, law.gather(-1, z[..., None]), 1) for law in (q, p))
    # If x cannot have become y, the true rate is 0 and only the predicted rate contributes.
    real = true > 0
    log = torch.where(real, torch.where(real, true, 1) / torch.where(real, guessed, 1), 1).log()
    return (true * log - true + guessed).sum(-1).to(torch.promote_types(logits.dtype, torch.float32))
