"""The bound as it is defined: dense and differentiable in everything."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..process import InterpolatingProcess


def nelbo_dense(
    process: InterpolatingProcess,
    logits: Float[Tensor, "batch length state"],
    x: Int[Tensor, "batch length"],
    z: Int[Tensor, "batch length"],
    t: Float[Tensor, "..."],
    *,
    weight: Float[Tensor, "batch length"] | None = None,
) -> Float[Tensor, "batch length"]:
    """The integrand of the negative ELBO, nats per unit of time for each token, written out.

    The oracle that the fast path is tested against, and what learned processes are trained with: gradients reach the
    process too. It holds several [batch, length, state] tensors.

    **Arguments:** as for `nelbo`.
    """
    t = process.interior(t, z)
    if process.support is not None:
        logits = logits.masked_fill(~process.support, -torch.inf)
    one_hot = torch.nn.functional.one_hot(x.long(), logits.shape[-1]).double()
    q, p = process.marginal(one_hot, t), process.marginal(logits.double().softmax(-1), t)
    safe = torch.where(q > 0, p, 1)
    kl = (torch.special.xlogy(q, q) - torch.special.xlogy(q, safe)).sum(-1)
    q_z, p_z = (law.gather(-1, z[..., None])[..., 0] for law in (q, p))
    rho = q_z / p_z
    w = process.rate(z, t) / q_z if weight is None else weight
    return (w * (kl + rho - rho.log() - 1)).to(torch.promote_types(logits.dtype, torch.float32))
