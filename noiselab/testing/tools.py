"""Tools for laws: test times and tokens, exact kernels, and comparisons that report where they fail."""

from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor

from ..process import NoiseProcess

Places: TypeAlias = dict[str, Any]
"""Coordinates by name, tensors that broadcast with what is compared."""


def times(process: NoiseProcess, n: int) -> Tensor:
    """Uniform times inside the domain, avoiding round numbers, at which the schedules of chains have kinks."""
    low, high = process.domain
    return low + (high - low) * torch.linspace(0.0537, 0.9471, n, dtype=torch.float64)


def random_times(process: NoiseProcess, *shape: int, seed: int = 0) -> Tensor:
    """Random times inside the domain."""
    low, high = process.domain
    u = torch.rand(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))
    return low + (high - low) * (0.05 + 0.9 * u)


def every_token(process: NoiseProcess, n: int) -> Tensor:
    """Every token of the vocabulary, in each of n rows."""
    return torch.arange(process.vocab_size).expand(n, -1)


def data_tokens(process: NoiseProcess) -> Tensor:
    """The indices of the data tokens."""
    return process.data_tokens().nonzero()[:, 0].cpu()


def select_tokens(these: Tensor, at_most: int) -> Tensor:
    """Select at most `at_most` of these tokens, evenly spread and including the first and last."""
    return these[torch.linspace(0, len(these) - 1, min(at_most, len(these))).round().long()]


def draws(process: NoiseProcess, n: int) -> int:
    """The number of draws; smaller if each draw may cost a row of a large vocabulary."""
    return n if process.vocab_size <= 16 else n // 4


def tokens(process: NoiseProcess, *shape: int) -> Tensor:
    """Random clean tokens."""
    data = data_tokens(process)
    return data[torch.randint(len(data), shape, generator=Generator().manual_seed(3))]


def pairs(process: NoiseProcess) -> tuple[Tensor, Tensor]:
    """Pairs of each token z with a few clean tokens x, including itself if it is one: two rows [length]."""
    data, z = data_tokens(process), torch.arange(process.vocab_size)
    few = range(min(len(data), 3))
    x = torch.cat([z[process.data_tokens().cpu()], *(data[(z + k) % len(data)] for k in few)])
    return x, torch.cat([z[process.data_tokens().cpu()], *(z for _ in few)])


def logits(process: NoiseProcess, *shape: int) -> Tensor:
    """Random predictions, -inf outside the support."""
    values = torch.randn(*shape, process.vocab_size, dtype=torch.float64, generator=Generator().manual_seed(4))
    return values.masked_fill(~process.data_tokens().cpu(), -torch.inf)


def kernel(process: NoiseProcess, s: Tensor, t: Tensor) -> Tensor:
    """q(z_t | z_s) as a matrix, rows z_s."""
    return process.transition(every_token(process, 1), s, t)[0].T


def agree(what: str, got: Tensor, want: Tensor, *, rtol: float = 1e-7, atol: float = 1e-8, **places: Tensor) -> None:
    """Raise `AssertionError` unless `got` equals `want`, reporting the place with the largest difference.

    **Arguments:**

    - `what`: the beginning of the message.
    - `got`, `want`: tensors of shapes that broadcast with each other; NaN equals NaN.
    - `places`: coordinates that broadcast with them too: `token=z`, `t=t[:, None]`.

    **Raises:** `AssertionError`: "`rate` differs from its definition at token 3, t = 0.35: got 1.2, want 1.5".
    """
    if got.dtype == torch.bool or want.dtype == torch.bool:
        bad = got != want
        excess = bad.double()
    else:
        got, want = got.detach().double(), want.detach().double()
        bad = ~torch.isclose(got, want, rtol=rtol, atol=atol, equal_nan=True)
        excess = ((got - want).abs() / (atol + rtol * want.abs())).nan_to_num(torch.inf, torch.inf)
    if bad.any():
        place = int(torch.where(bad, excess, -1).argmax())
        shape = bad.shape
        value, right = (v.expand(shape).reshape(-1)[place].item() for v in (got, want))
        raise AssertionError(f"{what} at {_place(shape, place, places)}: got {_show(value)}, want {_show(right)}")


def within_errors(what: str, share: Tensor, want: Tensor, n: int, **places: Tensor) -> None:
    """Raise unless each frequency is within five standard errors (and four draws) of its probability, and 0 where that is 0.

    **Arguments:**

    - `share`: frequencies among `n` draws, the last axis is that of the tokens.
    - `places`: coordinates of the other axes.
    """
    want = want.double().expand(share.shape)
    # Four additional draws, because counts of rare tokens have the longer tail of a Poisson distribution.
    slack = torch.where(want > 0, 5 * (want * (1 - want) / n).sqrt() + 4 / n, 1e-9)
    excess = (share - want).abs() - slack
    if not (excess <= 0).all():
        place = int(excess.nan_to_num(torch.inf).argmax())
        here = {"token": torch.arange(share.shape[-1]), **{name: v[..., None] for name, v in places.items()}}
        got, right = (v.reshape(-1)[place].item() for v in (share, want))
        raise AssertionError(
            f"{what} at {_place(share.shape, place, here)}: {got:.5f} of {n} draws, probability {right:.5f}"
        )


def frequencies(drawn: Tensor, states: int) -> Tensor:
    """The frequency of each token in each row of [rows, draws]."""
    return torch.stack([torch.bincount(row, minlength=states) for row in drawn]) / drawn.shape[-1]


def _place(shape: torch.Size, index: int, places: dict[str, Tensor]) -> str:
    here = {name: v.expand(shape).reshape(-1)[index].item() for name, v in places.items()}
    return ", ".join(
        f"token {value}" if name == "token" else f"{name} = {_show(value)}" for name, value in here.items()
    )


def _show(value: float | int) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
