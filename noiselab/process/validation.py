"""What makes `alpha` and `mixing` a process, checked once at the edge, in words."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .interpolating import InterpolatingProcess

MASS_AT_ONCE = 1 << 22  # entries [times, state] that a check may hold


def interior_times(domain: tuple[float, float], points: int) -> Tensor:
    """Interior times of `domain`, float64, spaced by sin^2 and with a few more very near the ends."""
    low, high = domain
    u = torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)
    near = torch.tensor([1e-6, 1e-4], dtype=torch.float64)
    return low + (high - low) * torch.cat([near, torch.sin(torch.pi * u / 2) ** 2, 1 - near.flip(0)])


@torch.no_grad()
def require_markov(process: "InterpolatingProcess", times: int) -> None:
    """Raise `ValueError` unless `process` is a Markov process from data to noise on its domain."""
    low, high = process.domain
    if not 0 <= low < high <= 1:
        raise ValueError(f"domain must be two times 0 <= low < high <= 1; got {process.domain}")
    states = process.vocab_size
    home = process._home()
    _check_support(process, states)
    t = interior_times(process.domain, times).to(home)
    ends = torch.tensor([low, high], dtype=torch.float64, device=home)
    _check_signal(process, torch.cat([ends[:1], t, ends[1:]]))
    for end in ends:
        if not process.noise(end.view(1, 1)).dense().isfinite().all():
            raise ValueError(f"the noise must be finite at both ends of time; it is not at t = {end.item():g}")
    tokens = torch.arange(states, device=home)
    for part in t.split(max(1, MASS_AT_ONCE // states)):
        _check_mixing(process, part, states)
        _check_rate(process, part, tokens)


def _check_support(process: "InterpolatingProcess", states: int) -> None:
    support = process.support
    if support is None:
        return
    if support.dtype != torch.bool or support.shape != (states,):
        raise ValueError(f"support must be Bool of shape [{states}]; got {support.dtype} {list(support.shape)}")
    if not support.any():
        raise ValueError("support must hold at least one token; got none")


def _check_signal(process: "InterpolatingProcess", t: Tensor) -> None:
    try:
        alpha = process.alpha(t)
    except RuntimeError as error:  # such as `max(0, 1 - t)`, which asks a tensor of many times for one truth
        raise ValueError(f"alpha must be elementwise in a tensor of times; it failed with: {error}") from error
    if alpha.shape != t.shape:
        raise ValueError(f"alpha must be elementwise: shape {list(t.shape)}; got {list(alpha.shape)}")
    bad = ~((alpha >= -1e-9) & (alpha <= 1 + 1e-9))
    if bad.any():
        raise ValueError(f"alpha must lie in [0, 1]; got {alpha[bad][0].item():.6g} at t = {t[bad][0].item():.6g}")
    if process.domain[0] == 0 and abs(alpha[0].item() - 1) > 1e-3:
        raise ValueError(f"alpha must be 1 at t = 0, where tokens are clean; got {alpha[0].item():.6g}")
    if process.domain[1] == 1 and alpha[-1].item() > 1e-3:
        raise ValueError(f"alpha must fall to 0 at t = 1, where only noise is left; got {alpha[-1].item():.6g}")
    rise = alpha.diff() > 1e-9
    if rise.any():
        raise ValueError(f"alpha must not rise with t; it does at t = {t[1:][rise][0].item():.6g}")


def _check_mixing(process: "InterpolatingProcess", t: Tensor, states: int) -> None:
    pi = process.mixing(t)
    if pi.shape not in ((*t.shape, states), (states,)):
        raise ValueError(f"mixing must have shape {[*t.shape, states]} or [{states}]; got {list(pi.shape)}")
    pi = pi.expand(*t.shape, states)
    low, sums = pi.min(-1).values, pi.sum(-1)
    bad = ~((low >= 0) & ((sums - 1).abs() < 1e-5))
    if bad.any():
        raise ValueError(
            f"mixing must be non-negative and sum to 1; got sum {sums[bad][0].item():.6g} and smallest entry "
            f"{low[bad][0].item():.3g} at t = {t[bad][0].item():.6g}"
        )


def _check_rate(process: "InterpolatingProcess", t: Tensor, tokens: Tensor) -> None:
    z = tokens.expand(len(t), -1)
    rate = process.rate(z, t).expand(z.shape)
    # A rate is a difference of terms of this size, since all rates add up to -alpha'/alpha; below rounding it is zero.
    slack = 1e-6 * rate.sum(-1, keepdim=True).abs() * process.noise(t[:, None]).at(z)
    bad = ~(rate >= -slack)
    if bad.any():
        row, token = bad.nonzero()[0].tolist()
        raise ValueError(
            f"the rate into every token must be non-negative, or this is no Markov process; got "
            f"{rate[row, token].item():.4g} into token {token} at t = {t[row].item():.6g}"
        )
