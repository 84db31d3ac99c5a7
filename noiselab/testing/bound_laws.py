"""Laws of the bound: all implementations agree, it is invariant under changes of time, and it is tight."""

import copy

import torch
from torch import Generator, Tensor

from ..elbo import nelbo, nelbo_dense, nelbo_fused
from ..numerics import gauss_legendre
from ..process import InterpolatingProcess, NoiseProcess
from .overrides import Primitives
from .tools import agree, data_tokens, logits, select_tokens, tokens

PANELS = 128  # subintervals of time for integrating the bound
MAX_PREDICTIONS = 1 << 21  # maximum number of entries of x_hat in memory


def bound_equals_definition(process: InterpolatingProcess) -> None:
    """The streaming and the fused bound equal the dense definition, in value and gradient."""
    batch, length, states, width = 4, 6, process.vocab_size, 3
    generator = Generator().manual_seed(1)
    x = tokens(process, batch, length)
    names = ("value", "sum", "d hidden", "d projection", "d bias")
    scale = torch.linspace(0.5, 2, batch * length, dtype=torch.float64).view(batch, length)
    hidden = torch.randn(batch, length, width, dtype=torch.float64, generator=generator)
    matrix = torch.randn(states, width, dtype=torch.float64, generator=generator)
    bias = torch.randn(states, dtype=torch.float64, generator=generator)
    process = copy.deepcopy(process).requires_grad_(
        False
    )  # with learned parameters, the dense definition would be used
    for shape in ((batch,), (batch, length)):
        low, high = process.domain
        t = low + (high - low) * (0.05 + 0.9 * torch.rand(shape, dtype=torch.float64, generator=generator))
        z = process.corrupt(x, t, generator=generator)
        results = []
        for kind in ("dense", "streaming", "fused"):
            h, w, b = (v.clone().requires_grad_() for v in (hidden, matrix, bias))
            if kind == "fused":
                total, value = nelbo_fused(process, h, w, b, x, z, t, scale, rows=5)
            else:
                rows = torch.addmm(b, h.flatten(0, 1), w.T).view(batch, length, -1)
                if kind == "dense":
                    value = nelbo_dense(process, rows, x, z, t)
                else:
                    value = nelbo(process, rows, x, z, t, chunk_bytes=4 * states * 8)
                total = (value * scale).sum()
            total.backward()
            results.append((kind, [value.detach(), total.detach(), h.grad, w.grad, b.grad]))
        place = {"x": x, "z": z, "t": t.view(batch, -1)}
        for kind, got in results[1:]:
            for name, one, other in zip(names, got, results[0][1], strict=True):
                here = place if name == "value" else {}
                assert one is not None and other is not None
                agree(f"the {kind} bound differs from the definition in its {name}", one, other,
                      rtol=1e-9, atol=1e-9, **here)  # fmt: skip


def bound_does_not_depend_on_the_clock(process: NoiseProcess) -> None:
    """Under a change of time t = g(u) the integrand is multiplied by g'(u), so that the bound is invariant."""
    low, high = process.domain

    def clock(u: Tensor) -> Tensor:
        return low + (high - low) * (0.3 * u + 0.7 * u**2)

    warped = Primitives(process, clock)
    warped.domain = (0.0, 1.0)
    u = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    t, slope = clock(u), (high - low) * (0.3 + 1.4 * u)
    x, x_hat = tokens(process, 5, 4), logits(process, 5, 4)
    z = process.corrupt(x, t, generator=Generator().manual_seed(0))
    with torch.no_grad():
        want = slope[:, None] * nelbo(process, x_hat, x, z, t)
        what = "the bound changes with the clock by another factor than the clock's slope"
        agree(what, nelbo(warped, x_hat, x, z, u), want, rtol=1e-6, x=x, z=z, t=t[:, None])


def bound_is_tight(process: NoiseProcess) -> None:
    """For one token with a known law, the bound of the exact leave-one-out prediction equals the entropy of the law."""
    clean, states = select_tokens(data_tokens(process), 5), process.vocab_size
    law = torch.zeros(states, dtype=torch.float64)
    law[clean] = torch.arange(1, len(clean) + 1, dtype=torch.float64)
    law = law / law.sum()
    low, high = process.domain
    # In panels, because schedules may have kinks; applying t = sin^2(pi u / 2) twice makes roots at both ends smooth.
    node, part = gauss_legendre(8)
    t = ((torch.arange(PANELS, dtype=torch.float64)[:, None] + node) / PANELS).flatten()
    weight = part.repeat(PANELS) / PANELS
    for _ in range(2):
        weight = weight * torch.pi / 2 * torch.sin(torch.pi * t)
        t = torch.sin(torch.pi * t / 2) ** 2
    t, weight = low + (high - low) * t, weight * (high - low)
    # Corrected for the ends of the domain: H(x | z) below it, and the remaining information of noise about x above it.
    total = _entropy(law) - _information(process, law, low) + _information(process, law, high)
    at_once = max(1, MAX_PREDICTIONS // states**2)
    with torch.no_grad():
        for some_t, some_weight in zip(t.split(at_once), weight.split(at_once), strict=True):
            z = torch.arange(states).repeat(len(some_t), 1)  # one position for each noisy token
            x_hat = law.log().repeat(*z.shape, 1)
            for x in clean:
                mass = process.probability(torch.full_like(z, int(x)), z, some_t).double()
                bound = nelbo(process, x_hat, torch.full_like(z, int(x)), z, some_t)
                total = total + law[x] * (some_weight[:, None] * torch.where(mass > 0, mass * bound, 0)).sum()
    assert (total - _entropy(law)).abs() < 2e-3, (
        f"the exact prediction's bound is {total.item():.6f} nats, want the entropy of its token, {_entropy(law):.6f}"
    )


def _entropy(law: Tensor) -> Tensor:
    return -torch.special.xlogy(law, law).sum()


@torch.no_grad()
def _information(process: NoiseProcess, law: Tensor, t: float) -> Tensor:
    """The mutual information of the clean and the noisy token at time t, nats."""
    x = law.nonzero()[:, 0]
    noisy = process.marginal(x[None], torch.tensor([t], dtype=torch.float64))[0].double()
    return _entropy(law[x] @ noisy) - (law[x, None] * -torch.special.xlogy(noisy, noisy)).sum()
