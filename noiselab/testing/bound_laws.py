"""Laws of the bound: all implementations agree, it is invariant under changes of time, and it is tight."""

import copy
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..elbo import nelbo, nelbo_dense, nelbo_fused
from ..numerics import gauss_legendre
from ..process import InterpolatingProcess, NoiseProcess
from .overrides import Primitives
from .tools import agree, data_tokens, logits, select_tokens, tokens

PANELS = 32  # subintervals of time for integrating the bound, at first
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
    at_once = max(1, MAX_PREDICTIONS // states**2)

    def integrand(u: Tensor) -> Tensor:
        """The expected integrand at times that are dense at both ends, t = sin^2(pi u / 2) twice: roots become smooth."""
        weight = torch.full_like(u, high - low)
        for _ in range(2):
            weight = weight * torch.pi / 2 * torch.sin(torch.pi * u)
            u = torch.sin(torch.pi * u / 2) ** 2
        t = low + (high - low) * u
        return weight * torch.cat([_expected_integrand(process, law, clean, some) for some in t.split(at_once)])

    # Corrected for the ends of the domain: H(x | z) below it, and the remaining information of noise about x above it.
    ends = _information(process, law, high) - _information(process, law, low)
    total = _entropy(law) + ends + integrate(integrand, panels=PANELS)
    assert (total - _entropy(law)).abs() < 2e-3, (
        f"the exact prediction's bound is {total.item():.6f} nats, want the entropy of its token, {_entropy(law):.6f}"
    )


@torch.no_grad()
def _expected_integrand(process: NoiseProcess, law: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """The bound per unit of time at times [n], averaged over clean tokens of this law and their noise."""
    z = torch.arange(process.vocab_size).repeat(len(t), 1)  # one position for each noisy token
    x_hat, total = law.log().repeat(*z.shape, 1), torch.zeros_like(t)
    for x in clean:
        token = torch.full_like(z, int(x))
        mass, bound = process.probability(token, z, t).double(), nelbo(process, x_hat, token, z, t)
        bad = ((mass > 0) & ~bound.isfinite()).nonzero()
        if len(bad):
            row, noisy = bad[0].tolist()
            raise AssertionError(
                f"the bound of the exact prediction is {bound[row, noisy].item()} at t = {t[row].item():.9g}, "
                f"clean token {int(x)}, noisy token {noisy}, whose probability is {mass[row, noisy].item():.3g}"
            )
        total = total + law[x] * torch.where(mass > 0, mass * bound, 0).sum(1)
    return total


def integrate(f: Callable[[Tensor], Tensor], *, panels: int, tolerance: float = 1e-7, halvings: int = 40) -> Tensor:
    """The integral over [0, 1] of a function that may have corners and jumps.

    A panel is halved until Gauss-Legendre quadrature of it and of its halves agree.

    **Arguments:**

    - `f`: takes points [n] and returns values [n], float64.
    - `panels`: the number of panels at first.
    - `tolerance`: the largest difference that is left in a panel.
    - `halvings`: the maximum number of halvings of a panel.
    """
    node, weight = gauss_legendre(8)

    def gauss(start: Tensor, width: Tensor) -> Tensor:
        points = start[:, None] + width[:, None] * node
        return (f(points.flatten()).view_as(points) * weight).sum(1) * width

    start = torch.arange(panels, dtype=torch.float64) / panels
    width, total = torch.full_like(start, 1 / panels), torch.zeros((), dtype=torch.float64)
    whole = gauss(start, width)
    for _ in range(halvings):
        half = width / 2
        left, right = gauss(start, half), gauss(start + half, half)
        rough = (left + right - whole).abs() > tolerance
        total = total + (left + right)[~rough].sum()
        if not rough.any():
            return total
        start, width = torch.cat([start[rough], (start + half)[rough]]), torch.cat([half[rough], half[rough]])
        whole = torch.cat([left[rough], right[rough]])
    return total + whole.sum()


def _entropy(law: Tensor) -> Tensor:
    return -torch.special.xlogy(law, law).sum()


@torch.no_grad()
def _information(process: NoiseProcess, law: Tensor, t: float) -> Tensor:
    """The mutual information of the clean and the noisy token at time t, nats."""
    x = law.nonzero()[:, 0]
    noisy = process.marginal(x[None], torch.tensor([t], dtype=torch.float64))[0].double()
    return _entropy(law[x] @ noisy) - (law[x, None] * -torch.special.xlogy(noisy, noisy)).sum()
