"""Laws of the implementation of `alpha` and `mixing`: the assumptions of derived methods."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ..numerics import gauss_legendre
from ..process import InterpolatingProcess, NoiseProcess
from .tools import Places, agree, random_times, times

WRITTEN = ("alpha", "mixing")


def time_is_elementwise(process: NoiseProcess) -> None:
    """Times of any shape give the same values as one by one, with tokens as the last axis."""
    for name in WRITTEN:
        for shape in ((1,), (7,), (2, 3), (process.vocab_size,), (1, process.vocab_size)):
            t = random_times(process, *shape)
            got = _ask(process, name, t).flatten(0, len(shape) - 1)
            want = torch.cat([_ask(process, name, one[None]) for one in t.flatten()])
            if not want.isfinite().all():
                where = ~want.flatten(1).isfinite().all(1)
                at = f"at t = {t.flatten()[where][0].item():.6g}"
                raise AssertionError(f"`{name}` must be finite inside the domain; it is not {at}")
            what = f"`{name}` of times of shape {list(shape)} differs from the same times one by one"
            agree(what, got, want, rtol=1e-6, **_places(t.flatten(), want))


def same_times_same_answer(process: NoiseProcess) -> None:
    """Two calls of `alpha` or `mixing` with the same times return the same values."""
    t = random_times(process, 6)
    for name in WRITTEN:
        first, second = _ask(process, name, t), _ask(process, name, t)
        agree(f"`{name}` answers differently when asked again", second, first, rtol=0.0, atol=0.0, **_places(t, first))


def arguments_stay_as_they_are(process: NoiseProcess) -> None:
    """Neither `alpha` nor `mixing` modifies its argument."""
    low, high = process.domain
    before = torch.cat([torch.tensor([low, low + 1e-9, high - 1e-9, high]).double(), random_times(process, 6)])
    for name in WRITTEN:
        t = before.clone()
        getattr(process, name)(t)
        agree(f"`{name}` edits its argument t in place", t, before, rtol=0.0, atol=0.0, t=before)


def derivatives_reach_time(process: NoiseProcess) -> None:
    """The derivatives of `alpha` and `mixing` with respect to time integrate to their changes."""
    low, high = process.domain
    edges = low + (high - low) * torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    node, weight = gauss_legendre(16)
    a, b = edges[:-1], edges[1:]
    t = a[:, None] + (b - a)[:, None] * node
    for name in WRITTEN:
        _no_jump(process, name, edges)
        slope = _slope(process, name, t)
        weights = ((b - a)[:, None] * weight).view(*t.shape, *[1] * (slope.dim() - 2))
        got, want = (slope * weights).sum(1), _ask(process, name, b) - _ask(process, name, a)
        if (slope == 0).all() and (want.abs() > 1e-6).any():
            raise AssertionError(
                f"the derivative of `{name}` is 0 at every time, though `{name}` changes: write it with torch operations on "
                "t itself (no detach, no float(), no numpy, no table)"
            )
        what = f"the derivative of `{name}` does not add up to its change over {(b[0] - a[0]).item():.2g} of time"
        agree(what, got, want, rtol=2e-2, atol=1e-4, **_places((a + b) / 2, want))


def _no_jump(process: NoiseProcess, name: str, edges: Tensor) -> None:
    """Raise `AssertionError` if the values jump between two of these times, found by halving where they change most."""
    low, high = edges[:-1], edges[1:]
    for _ in range(40):
        middle = (low + high) / 2
        ends = [_ask(process, name, t).double().reshape(len(t), -1) for t in (low, middle, high)]
        first = (ends[1] - ends[0]).abs().amax(1) >= (ends[2] - ends[1]).abs().amax(1)
        low, high = torch.where(first, low, middle), torch.where(first, middle, high)
    change = (_ask(process, name, high) - _ask(process, name, low)).abs().reshape(len(low), -1).amax(1)
    if (change > 0.02).any():  # smaller steps are those of a table
        place = int(change.argmax())
        raise AssertionError(
            f"`{name}` jumps by {change[place].item():.4g} at t = {low[place].item():.9g}: it must be continuous, "
            "because rates are derivatives; let it change over a short time instead"
        )


def times_keep_their_digits(process: NoiseProcess) -> None:
    """`alpha` and `mixing` are computed in float64: rates and short jumps are differences of nearly equal masses."""
    t, h = random_times(process, 32, seed=5), 1e-6
    for name in WRITTEN:
        slope = _slope(process, name, t)
        change = (_ask(process, name, t + h).double() - _ask(process, name, t - h).double()) / (2 * h)
        error = (change - slope).abs() / (1 + slope.abs())
        if not (error < 1e-3).all():
            place = int(error.view(len(t), -1).amax(1).argmax())
            raise AssertionError(
                f"`{name}` is rounded, as by float32: its change between t = {t[place].item():.6g} ± {h:g} is off by "
                f"{2 * h * error[place].max().item():.2g}. The times are float64; keep them so"
            )


def low_precision_leaves_it_alone(process: NoiseProcess) -> None:
    """A process without parameters returns the same values after its model is converted to bfloat16."""
    if any(True for _ in process.parameters()):
        return
    t, moved = times(process, 5), copy.deepcopy(process).to(torch.bfloat16)
    for name in WRITTEN:
        want = _ask(process, name, t)
        what = f"`{name}` changes when the process is moved to bfloat16 (keep its numbers in float64 buffers)"
        agree(what, _ask(moved, name, t), want, rtol=1e-6, **_places(t, want))


def _ask(process: NoiseProcess, name: str, t: Tensor) -> Tensor:
    """The values of `alpha` or `mixing`, as [*t.shape, rest]; raises `AssertionError` if the shape is wrong."""
    states = process.vocab_size
    ends = (states,) if isinstance(process, InterpolatingProcess) else (states, states)
    rests: tuple[tuple[int, ...], ...] = (ends,) if name == "mixing" else ((), (states,))[: len(ends)]
    forgotten = "" if name == "alpha" else "; a factor of time needs an axis for the tokens: t[..., None]"
    try:
        value = getattr(process, name)(t.clone())
    except Exception as error:
        problem = str(error).split("\n")[0]
        raise AssertionError(
            f"`{name}` must take times of any shape; for {list(t.shape)} it failed with: {problem}{forgotten}"
        ) from error
    if not isinstance(value, Tensor):
        raise AssertionError(f"`{name}` must return a torch tensor; got a {type(value).__name__}")
    if value.shape == (states,) and name == "mixing" and ends == (states,):
        return value.expand(*t.shape, states)  # one row for all times
    if value.shape not in [(*t.shape, *rest) for rest in rests]:
        at = f" at t = {t.item():.6g}" if t.numel() == 1 else ""
        want = " or ".join(str([*t.shape, *rest]) for rest in rests)
        raise AssertionError(
            f"`{name}` must have shape {want} for times of shape {list(t.shape)}; got {list(value.shape)}{at}{forgotten}"
        )
    return value


def _slope(process: NoiseProcess, name: str, t: Tensor) -> Tensor:
    def ask(t: Tensor) -> Tensor:
        return getattr(process, name)(t)

    try:
        slope = torch.func.jvp(ask, (t.contiguous(),), (torch.ones_like(t),))[1]
    except Exception as error:
        raise AssertionError(
            f"no derivative of `{name}` can be taken; write it with torch operations on t, none in place. It failed with: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return slope.expand(_ask(process, name, t).shape)


def _places(t: Tensor, value: Tensor) -> Places:
    """Coordinates of values [*t.shape, rest]: the time, and the token if there is one."""
    rest = value.dim() - t.dim()
    named: Places = {"token": torch.arange(value.shape[-1])} if rest else {}
    if rest == 2:
        named = {"x": torch.arange(value.shape[-2])[:, None], "z": named["token"]}
    return {**named, "t": t.view(*t.shape, *[1] * rest)}


WRITING_LAWS: tuple[Callable[[NoiseProcess], None], ...] = (
    time_is_elementwise,
    same_times_same_answer,
    arguments_stay_as_they_are,
    derivatives_reach_time,
    times_keep_their_digits,
    low_precision_leaves_it_alone,
)
"""The laws of the implementation of `alpha` and `mixing`."""
