"""The laws of an interpolating process."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from ..categorical import uniforms
from ..elbo import nelbo, nelbo_dense, nelbo_fused
from ..elbo.tokens import outside
from ..process import InterpolatingProcess
from ..samplers.ancestral import DRAWS, finish, plan


def check_process(process: InterpolatingProcess, laws: Sequence[Callable[[InterpolatingProcess], None]] = ()) -> None:
    """Run the laws on a process.

    **Arguments:**

    - `process`: of at most a few dozen tokens; a large one is checked at a small size.
    - `laws`: which of `PROCESS_LAWS`; all by default.

    **Raises:** `AssertionError` that names the law that fails, and where.
    """
    process = copy.deepcopy(process).cpu()
    for law in laws or PROCESS_LAWS:
        try:
            law(process)
        except (AssertionError, ValueError) as error:
            summary = (law.__doc__ or law.__name__).split("\n")[0]
            raise AssertionError(f"{process} breaks the law «{law.__name__}» ({summary})\n{error}") from error


def is_a_markov_process(process: InterpolatingProcess) -> None:
    """Alpha falls from 1, mixing is a distribution, and no rate is negative."""
    process.validate()


def noise_is_the_share_of_mixing(process: InterpolatingProcess) -> None:
    """The factored noise is (1 - alpha) times mixing."""
    t = _times(process, 9)
    want = (1 - process.alpha(t))[:, None] * process.mixing(t)
    assert_close(process.noise(t[:, None]).dense()[:, 0], want.double())


def time_is_elementwise(process: InterpolatingProcess) -> None:
    """Times of shape [batch, length] give what the same times give one by one."""
    t = _times(process, 6)
    assert_close(process.alpha(t.view(2, 3)).flatten(), process.alpha(t))
    states = process.vocab_size
    both = [process.mixing(time).expand(*time.shape, states).reshape(-1, states) for time in (t.view(2, 3), t)]
    assert_close(*both)
    x = _tokens(process, 2, 3)
    z = process.corrupt(x, t.view(2, 3), generator=Generator().manual_seed(0))
    assert_close(process.rate(z, t.view(2, 3)).flatten(), process.rate(z.view(6, 1), t)[:, 0])


def shortcuts_equal_definitions(process: InterpolatingProcess) -> None:
    """`at`, `choose` and `profile` of every mixing say what `probs` says."""
    t = _times(process, 4)[:, None]
    u, which = uniforms(4, 5000, 2, generator=Generator().manual_seed(0)).unbind(-1)
    z, mass, support = _every_token(process, 4), process.noise(t), process.host_support()
    want = mass.dense()[:, 0]
    assert_close(mass.at(z), want)
    assert_close(mass.total()[:, 0], want.sum(-1))
    share = _frequencies(mass.choose(u, which), process.vocab_size)
    _within_errors(share, want / want.sum(-1, keepdim=True), 5000, "draws of the noise")
    for part in mass.parts:
        profile, probs = part.profile(support), part.probs(t)[:, 0]
        if isinstance(profile, float):
            assert_close(probs[:, support], torch.full_like(probs[:, support], profile))
        elif profile is not None:
            assert_close(probs[:, support], profile.to(probs)[support].expand(4, -1))


def two_jumps_are_one(process: InterpolatingProcess) -> None:
    """Chapman-Kolmogorov: from r to s and from s to t is from r to t."""
    r, s, t = _times(process, 3)[:, None]
    assert_close(_kernel(process, r, s) @ _kernel(process, s, t), _kernel(process, r, t))
    assert_close(_kernel(process, s, t).sum(-1), torch.ones(process.vocab_size, dtype=torch.float64))
    data = torch.eye(process.vocab_size, dtype=torch.float64)[None]
    assert_close(process.marginal(data, s)[0] @ _kernel(process, s, t), process.marginal(data, t)[0])


def rate_is_the_slope_of_jump(process: InterpolatingProcess) -> None:
    """The rate is the derivative of the jump at equal times."""
    t, h = _times(process, 7), 1e-6
    z = _every_token(process, len(t))
    slope = process.jump(z, t - h / 2, t + h / 2)[1] / h
    assert_close(process.rate(z, t).expand(z.shape), slope, rtol=1e-3, atol=1e-4)


def draws_have_the_marginal_law(process: InterpolatingProcess) -> None:
    """Tokens drawn by `corrupt` and `prior` are distributed as `marginal` says."""
    n, x = 20_000, process.data_tokens().nonzero()[:, 0].cpu()
    generator = Generator().manual_seed(0)
    for t in _times(process, 3):
        z = process.corrupt(x.expand(n, -1), t.expand(n), generator=generator)
        want = process.marginal(x[None], t[None])[0]
        _within_errors(_frequencies(z.T, process.vocab_size), want, n, f"corrupt at t = {t.item():.3f}")
    end = torch.tensor([[process.domain[1]]], dtype=torch.float64)
    want = process.noise(end).dense()[0] / process.noise(end).total()[0]
    z = process.prior(n, 1, generator=generator)
    _within_errors(_frequencies(z.T, process.vocab_size), want, n, "the prior")


def posterior_is_bayes(process: InterpolatingProcess) -> None:
    """The reverse transition is Bayes' rule applied to the jump and the marginal, by enumeration."""
    s, t = _times(process, 2)[:, None]
    x_hat = _logits(process, 1, process.vocab_size).softmax(-1)
    # Row z of the joint has its own x_hat; its columns are z_s.
    joint = process.marginal(x_hat, s)[0] * _kernel(process, s, t).T
    possible = joint.sum(-1) > 0
    posterior = process.posterior(_every_token(process, 1), x_hat, s, t)[0]
    assert_close(posterior[possible], (joint / joint.sum(-1, keepdim=True))[possible])
    assert_close(joint.sum(-1), process.marginal(x_hat, t)[0].diagonal())


def reverse_move_has_the_posterior_law(process: InterpolatingProcess) -> None:
    """The three-way move draws from the dense posterior, also from t = 1 and down to s = 0."""
    n, generator, (low, high) = 40_000, Generator().manual_seed(0), process.domain
    logits = _logits(process, 1, process.vocab_size)
    for pair in ((0.7, 0.3), (1.0, 0.5), (0.4, 0.0)):
        t, s = low + (high - low) * torch.tensor(pair, dtype=torch.float64)[:, None]
        possible = (process.marginal(logits.softmax(-1), t)[0].diagonal() > 0).nonzero()[:, 0]
        want = process.posterior(possible[None], logits[:, possible].softmax(-1), s, t)[0]
        z, u = possible.repeat(n, 1), uniforms(n, len(possible), DRAWS, generator=generator)
        moves = plan(process, z, s.expand(n), t.expand(n), u)
        out = finish(moves, logits[:, possible].expand(n, -1, -1)[moves.rows], outside(process))
        _within_errors(_frequencies(out.T, process.vocab_size), want, n, f"moves from {t.item()} to {s.item()}")


def revealed_tokens_stay(process: InterpolatingProcess) -> None:
    """Where noise cannot have produced z, the reverse move keeps it."""
    s, t = _times(process, 2)[:, None]
    z = _every_token(process, 1)
    certain = process.reveals(z, t)
    u = uniforms(1, process.vocab_size, DRAWS, generator=Generator().manual_seed(0))
    moves = plan(process, z, s, t, u)
    assert not moves.rows[certain].any() and (moves.z == z)[certain].all(), "a revealed token was asked about or moved"


def bound_equals_definition(process: InterpolatingProcess) -> None:
    """The streaming and the fused bound equal the dense definition, in value and gradient."""
    batch, length, states, width = 4, 6, process.vocab_size, 3
    generator = Generator().manual_seed(1)
    x = _tokens(process, batch, length)
    names = ("value", "sum", "d hidden", "d projection", "d bias")
    scale = torch.linspace(0.5, 2, batch * length, dtype=torch.float64).view(batch, length)
    hidden = torch.randn(batch, length, width, dtype=torch.float64, generator=generator)
    matrix = torch.randn(states, width, dtype=torch.float64, generator=generator)
    bias = torch.randn(states, dtype=torch.float64, generator=generator)
    process = copy.deepcopy(process).requires_grad_(False)  # with learned parameters, the dense path would be taken
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
                logits = torch.addmm(b, h.flatten(0, 1), w.T).view(batch, length, -1)
                if kind == "dense":
                    value = nelbo_dense(process, logits, x, z, t)
                else:
                    value = nelbo(process, logits, x, z, t, chunk_bytes=4 * states * 8)
                total = (value * scale).sum()
            total.backward()
            results.append((kind, [value.detach(), total.detach(), h.grad, w.grad, b.grad]))
        for kind, got in results[1:]:
            for name, one, other in zip(names, got, results[0][1], strict=True):
                message = f"{kind} differs from the definition in its {name}"
                assert_close(one, other, rtol=1e-9, atol=1e-9, msg=message)


def bound_does_not_depend_on_the_clock(process: InterpolatingProcess) -> None:
    """Under a change of time t = g(u) the integrand is multiplied by g'(u), so the bound stays."""
    low, high = process.domain

    class Warped(InterpolatingProcess):
        def clock(self, u: Tensor) -> Tensor:
            return low + (high - low) * (0.3 * u + 0.7 * u**2)

        def alpha(self, t: Tensor) -> Tensor:
            return process.alpha(self.clock(t))

        def mixing(self, t: Tensor) -> Tensor:
            return process.mixing(self.clock(t)).expand(*t.shape, process.vocab_size)

    warped = Warped(process.support)
    u = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    slope = (high - low) * (0.3 + 1.4 * u)
    x, logits = _tokens(process, 5, 4), _logits(process, 5, 4)
    z = process.corrupt(x, warped.clock(u), generator=Generator().manual_seed(0))
    with torch.no_grad():
        want = slope[:, None] * nelbo(process, logits, x, z, warped.clock(u))
        assert_close(nelbo(warped, logits, x, z, u), want, rtol=1e-7, atol=1e-9)


def bound_is_tight(process: InterpolatingProcess) -> None:
    """For one token of known law, the bound of its leave-one-out answer (that law) integrates to its entropy."""
    data, (low, high) = process.data_tokens().cpu(), process.domain
    law = (torch.arange(process.vocab_size, dtype=torch.float64) + 1) * data
    law = law / law.sum()
    u, weight = _gauss_legendre(200)
    # After t = sin^2(pi u / 2) square roots at both ends of the time range become smooth.
    t = low + (high - low) * torch.sin(torch.pi * u / 2) ** 2
    weight = weight * (high - low) * torch.pi / 2 * torch.sin(torch.pi * u)
    logits = law.log().expand(len(u), 1, -1).contiguous()
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for x in data.nonzero()[:, 0]:
            for z in range(process.vocab_size):
                xs, zs = torch.full((len(u), 1), int(x)), torch.full((len(u), 1), z)
                mass = (process.alpha(t) * (x == z) + process.noise(t[:, None]).at(zs)[:, 0]).double()
                if (mass > 0).any():
                    integrand = weight * mass * nelbo(process, logits, xs, zs, t)[:, 0]
                    total = total + law[x] * integrand[mass > 0].sum()
    entropy = -torch.special.xlogy(law, law).sum()
    gap = (total - entropy).abs().item()
    assert gap < 2e-3, f"bound {total.item():.6f} nats, entropy {entropy.item():.6f}"


PROCESS_LAWS: tuple[Callable[[InterpolatingProcess], None], ...] = (
    is_a_markov_process,
    noise_is_the_share_of_mixing,
    time_is_elementwise,
    shortcuts_equal_definitions,
    two_jumps_are_one,
    rate_is_the_slope_of_jump,
    draws_have_the_marginal_law,
    posterior_is_bayes,
    reverse_move_has_the_posterior_law,
    revealed_tokens_stay,
    bound_equals_definition,
    bound_does_not_depend_on_the_clock,
    bound_is_tight,
)
"""All laws of a process, cheap ones first."""


def _times(process: InterpolatingProcess, n: int) -> Tensor:
    low, high = process.domain
    return low + (high - low) * torch.linspace(0.05, 0.95, n, dtype=torch.float64)


def _every_token(process: InterpolatingProcess, n: int) -> Tensor:
    return torch.arange(process.vocab_size).expand(n, -1)


def _tokens(process: InterpolatingProcess, *shape: int) -> Tensor:
    data = process.data_tokens().nonzero()[:, 0].cpu()
    return data[torch.randint(len(data), shape, generator=Generator().manual_seed(3))]


def _logits(process: InterpolatingProcess, *shape: int) -> Tensor:
    logits = torch.randn(*shape, process.vocab_size, dtype=torch.float64, generator=Generator().manual_seed(4))
    return logits.masked_fill(~process.data_tokens().cpu(), -torch.inf)


def _kernel(process: InterpolatingProcess, s: Tensor, t: Tensor) -> Tensor:
    """q(z_t | z_s) as a matrix, rows z_s."""
    keep, fresh = process.jump(_every_token(process, 1), s, t)
    return keep * torch.eye(process.vocab_size, dtype=torch.float64) + fresh


def _frequencies(tokens: Tensor, states: int) -> Tensor:
    return torch.stack([torch.bincount(row, minlength=states) for row in tokens]) / tokens.shape[-1]


def _within_errors(share: Tensor, want: Tensor, n: int, what: str) -> None:
    """Each frequency within five standard errors of its probability, and never where that is zero."""
    want = want.double()
    excess = (share - want).abs() - 5 * (want * (1 - want) / n).sqrt() - 1e-9
    row, token = divmod(int(excess.argmax()), want.shape[-1])
    assert excess.max() <= 0, (
        f"{what}: token {token} of row {row} came {share[row, token]:.5f}, law {want[row, token]:.5f}"
    )


def _gauss_legendre(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights, from the eigenvectors of the Jacobi matrix (Golub and Welsch, 1969)."""
    i = torch.arange(1, nodes, dtype=torch.float64)
    off = i / (4 * i * i - 1).sqrt()
    node, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (node + 1) / 2, vectors[0] ** 2
