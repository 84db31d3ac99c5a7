"""The law of mixings: overridden methods of a part agree with its `probs`."""

from typing import Any

import torch
from torch import Tensor

from ..mixing import Mixing
from ..process import InterpolatingProcess
from .tools import agree, every_token, random_times


def shortcuts_equal_definitions(process: InterpolatingProcess) -> None:
    """`at`, `choose`, `profile` and `factors` of every mixing agree with its `probs`, whose mass is on its support."""
    host, z = process.host_support(), every_token(process, 4)
    token = torch.arange(process.vocab_size)
    for per_token in (False, True):
        t = random_times(process, *(z.shape if per_token else (4, 1)))
        for part in process.noise(t).parts:
            name, probs = type(part).__name__, part.probs(t).double()
            agree(f"`{name}.probs` does not sum to 1", probs.sum(-1), torch.ones(()), rtol=1e-5, t=t)
            on = getattr(part, "support", None)
            if isinstance(on, Tensor) and on.dtype == torch.bool:
                off = ~on.cpu()
                what = f"`{name}.probs` has mass outside its support"
                agree(what, probs[..., off], torch.zeros(()), atol=0.0, token=token[off], t=t[..., None])
            if not _shortcuts(part):
                continue
            want = probs.expand(*z.shape, -1).gather(-1, z[..., None])[..., 0]
            agree(f"`{name}.at` differs from `{name}.probs`", part.at(z, t), want, rtol=1e-6, token=z, t=t)
            _check_choose(part, t.flatten()[:4, None], token)
            _check_profile(part, host, probs, t)
            factors = part.factors(t)
            if factors is not None:
                what = f"`{name}.factors` differ from `{name}.probs`"
                agree(what, factors.dense(), probs, rtol=1e-6, token=token, t=t[..., None])


def _shortcuts(part: Any) -> list[str]:
    """The overridden methods of a mixing."""
    names = ("at", "choose", "profile", "factors")
    return [name for name in names if getattr(type(part), name, getattr(Mixing, name)) is not getattr(Mixing, name)]


def _check_choose(part: Any, t: Tensor, token: Tensor) -> None:
    """With n uniform values of u, each token is chosen in proportion to its probability, to one value per interval of
    u.
    """
    states = len(token)
    n = max(4000, 100 * states)
    u = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).expand(len(t), -1)
    share = torch.stack([torch.bincount(row, minlength=states) for row in part.choose(u, t)]) / n
    want = part.probs(t).double().expand(len(t), 1, -1)[:, 0]
    what = f"`{type(part).__name__}.choose` differs from `{type(part).__name__}.probs`"
    agree(what, share, want, rtol=0.0, atol=(min(states, 8) + 2) / n, token=token, t=t)
    agree(f"{what} (a token without mass)", (share > 0) & (want == 0), torch.tensor(False), token=token, t=t)


def _check_profile(part: Any, host: Tensor, probs: Tensor, t: Tensor) -> None:
    profile = part.profile(host)
    if profile is None:
        return
    on = torch.arange(len(host))[host]
    said = torch.tensor(profile, dtype=torch.float64) if isinstance(profile, float) else profile.cpu()[host]
    what = f"`{type(part).__name__}.profile` differs from `{type(part).__name__}.probs`"
    agree(what, said, probs[..., host], rtol=1e-6, token=on, t=t[..., None])
