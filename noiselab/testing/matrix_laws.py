"""Laws of noise that depends on the token it destroys, by enumeration of its matrices."""

import torch
from torch import Generator, Tensor

from ..denoisers.base import Denoiser, select
from ..elbo import nelbo
from ..process import InterpolatingProcess, TokenDependentProcess
from ..samplers.ancestral import dense_step
from .overrides import BareMatrices
from .tools import (
    agree,
    draws,
    every_token,
    frequencies,
    kernel,
    logits,
    random_times,
    some,
    times,
    tokens,
    within_errors,
)


def rows_are_distributions(process: TokenDependentProcess) -> None:
    """Every row of the matrix of the marginal is non-negative and sums to 1, at the ends of time too."""
    low, high = process.domain
    t = torch.cat([torch.tensor([low, high], dtype=torch.float64), times(process, 7)])
    rows = process.marginal(every_token(process, len(t)), t)
    token = torch.arange(process.vocab_size)
    agree("a row of `marginal` does not sum to 1", rows.sum(-1), torch.ones(()), x=token, t=t[:, None])
    what = "`marginal` is negative"
    agree(what, rows.clamp(max=0), torch.zeros(()), x=token[:, None], token=token, t=t[:, None, None])


def rates_are_the_slope_of_jump(process: TokenDependentProcess) -> None:
    """The rate from each token into another is the derivative of the jump at equal times."""
    t, h = times(process, 5), 1e-5
    z = every_token(process, len(t))
    off = ~torch.eye(process.vocab_size, dtype=torch.bool)
    token = torch.arange(process.vocab_size)
    slope = torch.where(off, process.transition(z, t - h / 2, t + h / 2) / h, 0)
    places = {"from token": token, "into token": token[:, None], "t": t[:, None, None]}
    agree("`rate` is not the slope of `transition`", process.rate(z, t), slope, rtol=1e-3, atol=1e-3, **places)


def revealed_tokens_are_certain(process: TokenDependentProcess) -> None:
    """Where `is_clean` says so, no other clean token can have become z, and the reverse step keeps it."""
    s, t = times(process, 2)[:, None]
    z = every_token(process, 1)
    x_hat = logits(process, 1, process.vocab_size).softmax(-1)
    certain = process.is_clean(z, t)[0]
    data = process.data_tokens().cpu()
    others = torch.where(torch.eye(process.vocab_size, dtype=torch.bool) | ~data, 0, process.likelihood(z, t)[0])
    agree("`is_clean` a token that others may have become", others[certain], torch.zeros(()), atol=0.0,
          token=z[0, certain, None], x=z[0], t=t)  # fmt: skip
    kept = process.posterior(z, x_hat, s, t)[0].diagonal()[certain & data]
    agree(
        "the reverse step moves a token that `is_clean` calls certain",
        kept,
        torch.ones(()),
        token=z[0, certain & data],
        t=t,
    )


class _Given(Denoiser):
    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = rows

    def forward(self, z: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        return select(self.rows.expand(*z.shape, -1), rows)


def reverse_step_has_the_posterior_law(process: TokenDependentProcess) -> None:
    """The sampler's step draws from the posterior that Bayes' rule gives, also from t = 1 and down to s = 0."""
    n, (low, high) = draws(process, 20_000), process.domain
    x_hat = logits(process, 1, process.vocab_size)
    for pair in ((0.7, 0.3), (1.0, 0.5), (0.4, 0.0)):
        t, s = low + (high - low) * torch.tensor(pair, dtype=torch.float64)[:, None]
        law = process.marginal(x_hat.softmax(-1), s)[0]
        possible = some((process.marginal(x_hat.softmax(-1), t)[0].diagonal() > 1e-9).nonzero()[:, 0], 8)
        joint = (law * kernel(process, s, t).T)[possible]
        want = joint / joint.sum(-1, keepdim=True)
        z, given = possible.repeat(n, 1), _Given(x_hat[:, possible])
        out = dense_step(process, given, z, s.expand(n), t.expand(n), generator=Generator().manual_seed(0))
        places = {"z_t": possible, "t": t.expand(len(possible)), "s": s.expand(len(possible))}
        within_errors("reverse steps", frequencies(out.T, process.vocab_size), want, n, **places)


def bound_of_matrices_does_not_depend_on_the_clock(process: TokenDependentProcess) -> None:
    """Under a change of time t = g(u) the integrand is multiplied by g'(u), so the bound stays."""
    low, high = process.domain

    class Warped(BareMatrices):
        def clock(self, u: Tensor) -> Tensor:
            return low + (high - low) * (0.3 * u + 0.7 * u**2)

        def alpha(self, t: Tensor) -> Tensor:
            return process.alpha(self.clock(t))

        def mixing(self, t: Tensor) -> Tensor:
            return process.mixing(self.clock(t))

    warped = Warped(process)
    warped.domain = (0.0, 1.0)
    u = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    t, slope = warped.clock(u), (high - low) * (0.3 + 1.4 * u)
    x, x_hat = tokens(process, 5, 4), logits(process, 5, 4)
    z = process.corrupt(x, t, generator=Generator().manual_seed(0))
    with torch.no_grad():
        want = slope[:, None] * nelbo(process, x_hat, x, z, t)
        what = "the bound changes with the clock by another factor than the clock's slope"
        agree(what, nelbo(warped, x_hat, x, z, u), want, rtol=1e-6, x=x, z=z, t=t[:, None])


def equal_rows_are_an_interpolating_process(process: TokenDependentProcess) -> None:
    """Where all rows of the mixing are the same, the bound is that of the `InterpolatingProcess` of such a row."""
    t = random_times(process, 4)
    alpha, pi = process.alpha(t), process.mixing(t)
    if alpha.shape != t.shape or (pi - pi[:, :1]).abs().max() > 1e-9:
        return

    class OneRow(InterpolatingProcess):
        def alpha(self, t: Tensor) -> Tensor:
            return process.alpha(t)

        def mixing(self, t: Tensor) -> Tensor:
            return process.mixing(t)[..., 0, :]

    same = OneRow(process.support)
    same.domain = process.domain
    x, x_hat = tokens(process, 4, 4), logits(process, 4, 4)
    z = same.corrupt(x, t, generator=Generator().manual_seed(0))
    with torch.no_grad():
        what = "the bound differs from that of the interpolating process of its one row"
        got, want = nelbo(process, x_hat, x, z, t), nelbo(same, x_hat, x, z, t)
        agree(what, got, want, rtol=1e-6, x=x, z=z, t=t[:, None])
