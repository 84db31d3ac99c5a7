"""Validation of processes, with messages that state what fails and where."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..numerics import TIME_EPS, require_made

if TYPE_CHECKING:
    from .base import NoiseProcess
    from .interpolating import InterpolatingProcess
    from .token_dependent import TokenDependentProcess

MAX_CHECKED_ENTRIES = 1 << 18  # maximum number of entries [times, state] of a check, which several tensors have at once
END_TOLERANCE = 1e-3  # tolerance of alpha at the ends, required by SEDD's and MDLM's published schedules
FLOAT32_ROUNDING = 1e-6  # tolerance for values computed in float32
FLOAT32_RESOLUTION = 1e-7  # tolerance for a single float32 value, absolute
MAX_SLOPE = 1e4  # per unit of time, over 1e-10: steeper curves have a jump or an infinite slope
MAX_CURVES = 8  # number of tokens whose noise is followed as a curve
MAX_END_TOKENS = 8  # number of clean tokens whose laws are checked at the ends of time
MAX_FOLLOWED_TOKENS = 1024  # largest vocabulary for which this is done at all times needed to find jumps


def interior_times(domain: tuple[float, float], points: int) -> Tensor:
    """Interior times of `domain`, float64, spaced by sin^2, with additional times very near the ends."""
    low, high = domain
    u = torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)
    near = torch.tensor([1e-6, 1e-4], dtype=torch.float64)
    return low + (high - low) * torch.cat([near, torch.sin(torch.pi * u / 2) ** 2, 1 - near]).sort().values


def size_of_mixing(process: "InterpolatingProcess | TokenDependentProcess") -> int:
    """The number of tokens, determined from `mixing`.

    **Raises:** `ValueError` if `mixing` itself needs `vocab_size`.
    """
    middle = torch.full((1, 1), sum(process.domain) / 2, dtype=torch.float64, device=process.device)
    try:
        return process.mixing(middle).shape[-1]
    except (AttributeError, RecursionError) as error:
        # Otherwise nn.Module would report these errors as a missing `vocab_size`.
        raise ValueError(f"mixing(t) must work without vocab_size, or set vocab_size first; {error}") from error


def require_kind(process: "NoiseProcess", kind: type, name: str, others: Sequence[str] = ()) -> "NoiseProcess":
    """Check that a process is of the kind that a method needs.

    **Arguments:**

    - `name`: the name of the method.
    - `others`: methods that accept any process.

    **Raises:** `ValueError` that states what is needed, what was given, and which methods accept it.
    """
    if not isinstance(process, kind):
        instead = f" ({', '.join(others)} take any process)" if others else ""
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(f"{name} needs {article} {kind.__name__}; got {process}{instead}")
    return process


def check_domain(process: "NoiseProcess") -> None:
    """Raise `ValueError` unless the domain is two times, or if the process was not made completely."""
    require_made(process)
    low, high = process.domain
    if not 0 <= low < high <= 1:
        raise ValueError(f"domain must be two times 0 <= low < high <= 1; got {process.domain}")


def check_support(process: "NoiseProcess") -> None:
    """Raise `ValueError` unless the support is a set of tokens."""
    support, states = process.support, process.vocab_size
    if support is None:
        return
    if support.dtype != torch.bool or support.shape != (states,):
        raise ValueError(f"support must be Bool of shape [{states}]; got {support.dtype} {list(support.shape)}")
    if not support.any():
        raise ValueError("support must contain at least one token; got none")


def check_ends(process: "NoiseProcess") -> None:
    """Raise `ValueError` unless tokens are clean at t = 0 and noise at t = 1 does not depend on them."""
    low, high = process.domain
    data = process.data_tokens(process.device).nonzero()[:, 0]
    x = data[:: max(1, len(data) // MAX_END_TOKENS)][None]
    ends = [process.marginal(x, torch.full((1,), end, dtype=torch.float64, device=x.device))[0] for end in (low, high)]
    kept = ends[0].gather(-1, x[0, :, None])[:, 0]
    if low == 0 and not (kept >= 1 - 1e-3).all():
        token = int((kept < 1 - 1e-3).nonzero()[0])
        raise ValueError(
            f"tokens must be clean at t = 0; token {int(x[0, token])} is so with probability {kept[token].item():.6g}"
        )
    apart = (ends[1] - process.prior_law()).abs().sum(-1)
    if high == 1 and not (apart < 2e-3).all():
        token = int(apart.argmax())
        raise ValueError(
            "at t = 1 noise must not depend on the clean token any more; that of token "
            f"{int(x[0, token])} is {apart[token].item():.4g} away from the mean (sum of absolute differences)"
        )


@torch.no_grad()
def check_dense(process: "NoiseProcess", times: int) -> None:
    """Raise `ValueError` unless `marginal` and `transition` are a Markov process from data to noise on their domain."""
    check_domain(process)
    check_support(process)
    states, device = process.vocab_size, process.device
    t = interior_times(process.domain, times).to(device)
    z = torch.arange(states, device=device)
    for part in t.split(max(1, MAX_CHECKED_ENTRIES // states**2)):
        here, every = part[:, None], z.expand(len(part), -1)
        after = (here + 0.01 * (process.domain[1] - here)).contiguous()
        law, later = process.marginal(every, part), process.marginal(every, after[:, 0])
        into = process.transition(every, part, after[:, 0])
        for name, rows in (("marginal", law), ("transition", into.mT)):
            if rows.shape != (len(part), states, states):
                raise ValueError(
                    f"{name} of tokens [{len(part)}, {states}] must be [{len(part)}, {states}, {states}]; "
                    f"got {list(rows.shape)}"
                )
            low, sums = rows.min(-1).values, rows.sum(-1)
            bad = ~((low >= -FLOAT32_ROUNDING) & ((sums - 1).abs() < 1e-5))
            if bad.any():
                row, token = bad.nonzero()[0].tolist()
                raise ValueError(
                    f"{name} must be non-negative and sum to 1 over the tokens that token {token} becomes; got sum "
                    f"{sums[row, token].item():.6g} and smallest entry {low[row, token].item():.3g} at "
                    f"t = {part[row].item():.6g}"
                )
        gap = (law @ into.mT - later).abs().amax((1, 2))
        if not (gap < FLOAT32_ROUNDING).all():
            row = int(gap.nan_to_num(torch.inf).argmax())
            raise ValueError(
                "transition must lead from the marginal at s to that at t; it misses it by "
                f"{gap[row].item():.3g} from s = {part[row].item():.6g} to t = {after[row, 0].item():.6g}"
            )
        rate = process.rate(every, part)
        bad = ~(rate >= -FLOAT32_ROUNDING * (1 + rate.abs().amax((-2, -1), keepdim=True)))
        if bad.any():
            row, into_z, token = bad.nonzero()[0].tolist()
            raise ValueError(
                f"no rate may be negative, or this is not a Markov process; got {rate[row, into_z, token].item():.4g} "
                f"from token {token} into token {into_z} at t = {part[row].item():.6g}"
            )
    check_ends(process)


@torch.no_grad()
def check_interpolating(process: "InterpolatingProcess", times: int) -> None:
    """Raise `ValueError` unless a signal and a mixing are a Markov process from data to noise on their domain."""
    check_domain(process)
    low, high = process.domain
    states = process.vocab_size
    home = process.device
    check_support(process)
    t = interior_times(process.domain, times).to(home)
    ends = torch.tensor([low, high], dtype=torch.float64, device=home)
    _check_signal(process, torch.cat([ends[:1], t, ends[1:]]))
    for end in ends:
        if not process.noise(end.view(1, 1)).dense().isfinite().all():
            raise ValueError(f"the noise must be finite at both ends of time; it is not at t = {end.item():g}")
    _check_parts(process, t)
    _check_curves(process, t)
    _check_early_end(process, t)
    tokens = torch.arange(states, device=home)
    for part in t.split(max(1, MAX_CHECKED_ENTRIES // states)):
        _check_mixing(process, part, states)
        _check_rate(process, part, tokens)
    _check_jumps(process, torch.cat([ends[:1], t, ends[1:]]), max(1, MAX_CHECKED_ENTRIES // states))
    _check_columns(process, t)


def _check_signal(process: "InterpolatingProcess", t: Tensor) -> None:
    try:
        alpha = process.alpha(t)
    except RuntimeError as error:  # such as `max(0, 1 - t)`, which needs a single truth value
        raise ValueError(f"alpha must be elementwise in a tensor of times; it failed with: {error}") from error
    if alpha.shape != t.shape:
        raise ValueError(f"alpha must be elementwise: shape {list(t.shape)}; got {list(alpha.shape)}")
    bad = ~((alpha >= -1e-9) & (alpha <= 1 + 1e-9))
    if bad.any():
        raise ValueError(f"alpha must lie in [0, 1]; got {alpha[bad][0].item():.6g} at t = {t[bad][0].item():.6g}")
    if process.domain[0] == 0 and abs(alpha[0].item() - 1) > END_TOLERANCE + 1e-9:
        raise ValueError(f"alpha must be 1 at t = 0, where tokens are clean; got {alpha[0].item():.6g}")
    if process.domain[1] == 1 and alpha[-1].item() > END_TOLERANCE + 1e-9:
        raise ValueError(f"alpha must fall to 0 at t = 1, where only noise is left; got {alpha[-1].item():.6g}")
    left = (process.alpha(t[-1:] - TIME_EPS) - alpha[-1:]).item()
    if left > END_TOLERANCE:
        raise ValueError(
            f"alpha must come down to its end continuously; it still falls by {left:.3g} within {TIME_EPS:g} of "
            f"t = {process.domain[1]:g}"
        )
    rise = alpha.diff() > 1e-9
    if rise.any():
        raise ValueError(f"alpha must not rise with t; it does at t = {t[1:][rise][0].item():.6g}")


def _check_early_end(process: "InterpolatingProcess", t: Tensor) -> None:
    early = process.alpha(t) <= 0
    if early.any():
        k = int(early.nonzero()[0])
        before = torch.cat([t.new_tensor([process.domain[0]]), t])
        raise ValueError(
            f"alpha must not reach 0 before the end of time; it does at t = {_last_signal(process, before[k], t[k]):.6g}, "
            "where the domain should end: give that time as the upper end of `domain`"
        )


def _last_signal(process: "InterpolatingProcess", low: Tensor, high: Tensor) -> float:
    """The time at which alpha reaches 0 between two times, in six digits, rounded down."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if process.alpha(middle[None]) > 0 else (low, middle)
    return math.floor(high.item() * 1e6 + 1e-3) / 1e6


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
    rate = process.rate_into(z, t).expand(z.shape)
    # A rate is a difference of terms of this size, since all rates add up to -alpha'/alpha; below rounding it is zero. A
    # small noise may itself be a difference of shares near 1, rounded at their size: 1 - sin^2 beside sin^2.
    rounding = 1e-6 * process.noise(t[:, None]).at(z) + 4 * torch.finfo(torch.float64).eps
    slack = rate.sum(-1, keepdim=True).abs() * rounding
    bad = ~(rate >= -slack)
    if bad.any():
        row, token = bad.nonzero()[0].tolist()
        if not rate[row, token].isfinite():
            raise ValueError(
                f"rates must be finite inside the domain; got {rate[row, token].item()} into token {token} "
                f"at t = {t[row].item():.6g}"
            )
        raise ValueError(
            f"the rate into every token must be non-negative, or this is not a Markov process; got "
            f"{rate[row, token].item():.4g} into token {token} at t = {t[row].item():.6g} (the noise of a token, "
            "(1 - alpha) mixing, must not fall faster than alpha)"
        )


def _check_parts(process: "InterpolatingProcess", t: Tensor) -> None:
    """Mixings that declare a `support` have no mass outside it."""
    inside = (part for mixing in getattr(process, "mixings", ()) for part in mixing.modules() if hasattr(part, "probs"))
    for part in inside:
        shape, states = part.probs(t[:2, None]).shape, process.vocab_size
        if shape != (2, 1, states):
            raise ValueError(
                f"probs of {part} must have shape [*t.shape, {states}]; for times of shape [2, 1] it has {list(shape)}"
            )
        support = getattr(part, "support", None)
        if support is None:
            continue
        for time in t[[*range(0, len(t), max(1, len(t) // 4)), -1]]:
            outside = part.probs(time.view(1, 1))[0, 0].masked_fill(support.to(t.device), 0)
            if (outside != 0).any():
                token = int((outside != 0).nonzero()[0])
                raise ValueError(
                    f"a mixing must have no mass outside its support; {part} has {outside[token].item():.4g} on token "
                    f"{token} at t = {time.item():.6g}"
                )


def _check_curves(process: "InterpolatingProcess", t: Tensor) -> None:
    """Check that alpha and the masses of the noises are continuous, with finite slopes equal to their derivatives."""
    parts = process.noise(t[:1, None]).parts
    names = ["alpha", *(f"the mass of {part}" if len(parts) > 1 else "the noise" for part in parts)]

    def curves(t: Tensor) -> Tensor:
        return torch.cat([process.alpha(t).double()[..., None], process.noise(t[:, None]).weights[:, 0]], -1)

    slopes = torch.func.jvp(curves, (t,), (torch.ones_like(t),))[1]
    bad = ~slopes.isfinite()
    if bad.any():
        row, k = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{names[k]} must have a finite slope inside the domain; got {slopes[row, k].item()} at t = {t[row].item():.6g}"
        )
    _check_continuity(curves, t, process.domain, names)
    _check_slopes(curves, slopes, t, process.domain, names, torch.full_like(slopes[0], FLOAT32_ROUNDING))


def _check_columns(process: "InterpolatingProcess", t: Tensor) -> None:
    """The same check for the noise on a few tokens, because a mixing may also jump or be detached from its time."""
    states = process.vocab_size
    mass = process.noise(t[:: max(1, len(t) // 4), None]).dense().amax((0, 1))
    heavy = mass.topk(min(MAX_CURVES // 2, states)).indices
    spread = torch.linspace(0, states - 1, min(MAX_CURVES // 2, states), dtype=torch.float64).round().to(heavy)
    z = torch.cat([heavy, spread]).unique()
    names = [f"the noise on token {token}" for token in z.tolist()]

    def columns(t: Tensor) -> Tensor:
        at_once = t.split(max(1, MAX_CHECKED_ENTRIES // states))
        return torch.cat(
            [process.noise(part[:, None]).at(z.expand(len(part), -1)).expand(-1, len(z)) for part in at_once]
        )

    values, slopes, *_ = torch.func.jvp(columns, (t,), (torch.ones_like(t),))
    if states <= MAX_FOLLOWED_TOKENS:
        _check_continuity(columns, t, process.domain, names)
    # Frequencies of rare tokens are small, but so is their rounding, in float32 down to that of a difference from 1.
    _check_slopes(columns, slopes, t, process.domain, names, FLOAT32_ROUNDING * values.amax(0) + FLOAT32_RESOLUTION)


def _check_continuity(
    curves: Callable[[Tensor], Tensor], t: Tensor, domain: tuple[float, float], names: list[str]
) -> None:
    """Follow the steepest part of every interval down to a width of 1e-10, and check that the slope is finite."""
    # Square roots at the ends are valid, but steep nearby.
    margin = 1e-4 * (domain[1] - domain[0]) * (1 - 1e-6)
    t = t[(t >= domain[0] + margin) & (t <= domain[1] - margin)]
    low, high = t[:-1], t[1:]
    steps = torch.linspace(0, 1, 33, dtype=t.dtype, device=t.device)
    bad = torch.zeros(0, 0, dtype=torch.bool)
    while len(low) and (high - low).max() > 1e-10:
        points = low + (high - low) * steps[:, None]
        changes = curves(points.flatten()).view(*points.shape, -1).diff(dim=0).abs()
        total, piece = changes.sum(-1).max(0)
        low, high = (points.gather(0, i[None])[0] for i in (piece, piece + 1))
        steepest = (total / (high - low)).topk(min(16, len(total))).indices  # others cannot become the steepest
        low, high = low[steepest], high[steepest]
        change = changes[piece[steepest], steepest]
        bad = (change > FLOAT32_ROUNDING) & (change > MAX_SLOPE * (high - low)[:, None])
    if bad.any():
        row, k = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{names[k]} must be continuous and of finite slope inside the domain; it changes by "
            f"{change[row, k].item():.3g} within {(high - low)[row].item():.1g} of t = {low[row].item():.6g}"
        )


def _check_slopes(
    curves: Callable[[Tensor], Tensor],
    slopes: Tensor,
    t: Tensor,
    domain: tuple[float, float],
    names: list[str],
    rounding: Tensor,
) -> None:
    """Compare derivatives with differences of two widths: one may be affected by kinks or steep parts, the other by
    rounding.
    """
    low, high = domain
    width = t.new_tensor([1e-2, 1e-4])[:, None] * torch.minimum(t - low, high - t)
    # Evaluated in one call, because the cost of validation is the number of calls.
    after, before = curves(torch.stack([t + width, t - width]).flatten()).view(2, *width.shape, -1)
    differences = (after - before) / (2 * width)[..., None]
    slack = 0.02 * (slopes.abs() + differences.abs()) + rounding / width[..., None]
    close = (differences - slopes).abs() <= slack
    wrong = ~close.any(0)
    many = wrong.sum(0) >= 3  # a single kink is valid
    if many.any():
        k = int(many.nonzero()[0])
        row = int(wrong[:, k].nonzero()[0])
        raise ValueError(
            f"the slope of {names[k]} must be that of its values: everything must be differentiable by torch; automatic "
            f"differentiation gives {slopes[row, k].item():.4g}, differences {differences[-1, row, k].item():.4g} "
            f"at t = {t[row].item():.6g}"
        )


def _check_jumps(process: "InterpolatingProcess", t: Tensor, at_once: int) -> None:
    """Check that noise is added to every token from each time to the next; `transition` would clamp negative values to
    0.
    """
    for start in range(0, len(t) - 1, at_once):
        part = t[start : start + at_once + 1]
        noise = process.noise(part[:, None]).dense()[:, 0]
        alpha = process.alpha(part).double()
        keep = torch.where(alpha[:-1] > 0, alpha[1:] / alpha[:-1], 0).clamp(max=1)[:, None]
        gained = noise[1:] - keep * noise[:-1]
        bad = ~(gained >= -FLOAT32_ROUNDING)
        if bad.any():
            row, token = bad.nonzero()[0].tolist()
            raise ValueError(
                f"noise must not decrease, or the process is not Markov; from t = {part[row].item():.6g} to "
                f"{part[row + 1].item():.6g} token {token} gains {gained[row, token].item():.4g}"
            )
