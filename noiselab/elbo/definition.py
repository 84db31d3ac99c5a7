"""The bound by its definition: dense and differentiable in all inputs."""

from typing import TYPE_CHECKING

import torch

from ..typing import Elementwise, ElementwiseProbs, Logits, PerToken, Times, Tokens
from .tokens import check_inputs, check_width

if TYPE_CHECKING:
    from ..process import InterpolatingProcess


def nelbo_dense(
    process: "InterpolatingProcess", logits: Logits, x: Tokens, z: Tokens, t: Times, *, weight: PerToken | None = None
) -> PerToken:
    """The integrand of the negative ELBO by its definition, in nats per unit of time for each token.

    The reference for tests of the fast methods, and the method for learned processes, because gradients also reach the
    process. It allocates several [batch, length, state] tensors.

    **Arguments:** as for `nelbo`.
    """
    check_width(process, logits)
    t = process.interior(check_inputs(process, logits, x, z, t, weight=weight), z)
    logits, one_hot = process.on_support(logits), process.as_law(x)
    q, p = process.marginal(one_hot, t), process.marginal(logits.double().softmax(-1), t)
    q_z = q.gather(-1, z[..., None])[..., 0]
    w = process.rate_into(z, t) / q_z if weight is None else weight
    # A token known to be clean has weight 0, even if an underflowed prediction makes its divergence infinite.
    lost = (w == 0) & ((q > 0) & (p == 0)).any(-1)
    p = torch.where(lost[..., None], q, p)
    rho = q_z / p.gather(-1, z[..., None])[..., 0]
    return (w * (kl_divergence(q, p) + rho - rho.log() - 1)).to(torch.promote_types(logits.dtype, torch.float32))


def kl_divergence(q: ElementwiseProbs, p: ElementwiseProbs) -> Elementwise:
    r"""$KL(q\,\|\,p)$ over the last axis, with a finite gradient where q is 0, assuming that q stays 0.

    (The derivative of q log q is infinite there, and a parameter that does not affect q would receive 0 times
    infinity.)
    """
    some = q > 0
    log_ratio = torch.where(some, q, 1).log() - torch.where(some, p, 1).log()
    return torch.where(some, q * log_ratio, 0).sum(-1)
