r"""What the bound needs of each token, as float64 scalars: no vocabulary axis anywhere.

With u = x_hat, p = a u + b, h = a u / p, rho = q(z|x) / q(z|x_hat), w = r(z) / q(z|x) and S the support of b,

    KL   = (a + b_x) log(a + b_x) - b_x log b_x - a log p_x - sum_S b log1p(a u / b)
    IS   = rho - log rho - 1
    H    = sum_S b h + a h_x + (rho - 1) h_z
    dL/dlogits = w ( H u - b h - a h_x e_x - (rho - 1) h_z e_z )

where e_v is the one-hot of v. Only the two sums over S know of the vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..mixing import Mixing
from ..process import InterpolatingProcess


class Tokens(NamedTuple):
    """Per-token scalars, as rows [n] in row-major order of [batch, length]."""

    x: Tensor
    z: Tensor
    a: Tensor  # alpha
    b_x: Tensor
    b_z: Tensor
    w: Tensor  # weight of the token in the bound
    x_is_data: Tensor  # elsewhere x_hat of x is zero
    z_is_data: Tensor

    def rows(self, i: int, j: int) -> "Tokens":
        """Rows i to j."""
        return Tokens(*(v[i:j] for v in self))

    def value(self, logits: Tensor, lse: Tensor, kl_sum: Tensor) -> Tensor:
        """The bound's integrand from the logits' logsumexp over the data and sum_S b log1p(a u / b)."""
        x, z, a, b_x, b_z, w, *_ = self
        log_u_x, u_z = self._log_u_x(logits, lse), self._u_z(logits, lse)
        q_x, q_z = a + b_x, a * (x == z) + b_z
        # A revealed token has no weight, and its ratio may be infinite.
        rho = q_z / torch.where(w == 0, q_z, a * u_z + b_z)
        # log p_x by logaddexp: exact also where the probability itself underflows.
        log_p_x = torch.logaddexp(a.log() + log_u_x, b_x.log())
        kl = q_x * q_x.log() - torch.special.xlogy(b_x, b_x) - a * log_p_x - kl_sum
        return torch.where(w == 0, 0, w * (kl + rho - rho.log() - 1))

    def corners(self, logits: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """A h_x and (rho - 1) h_z: what the gradient has at x and at z beyond the sum over S."""
        x, z, a, b_x, b_z, w, _, z_is_data = self
        a_u_x, a_u_z = a * self._log_u_x(logits, lse).exp(), a * self._u_z(logits, lse)
        at_x = torch.where(b_x > 0, a * a_u_x / (a_u_x + b_x), a)
        p_z = a_u_z + b_z
        at_z = ((a * (x == z) + b_z) / p_z - 1) * a_u_z / p_z
        return at_x, torch.where(z_is_data & (w != 0), at_z, 0)

    def _log_u_x(self, logits: Tensor, lse: Tensor) -> Tensor:
        return torch.where(self.x_is_data, self._at(logits, lse, self.x), -torch.inf)

    def _u_z(self, logits: Tensor, lse: Tensor) -> Tensor:
        return torch.where(self.z_is_data, self._at(logits, lse, self.z).exp(), 0)

    @staticmethod
    def _at(logits: Tensor, lse: Tensor, token: Tensor) -> Tensor:
        return logits.gather(-1, token[:, None])[:, 0].double() - lse


class NoiseOnData(NamedTuple):
    """b on the data tokens, row by row, in its smallest shape."""

    weights: Tensor  # float64 [n, K]: the mass of each part
    profiles: tuple[float | Tensor | Mixing, ...]  # a constant, a row [state], or a mixing to be asked at its time
    t: Tensor  # float64 [n / shared]
    shared: int  # consecutive rows that have one time: the length, or 1

    def rows(self, i: int, j: int, dtype: torch.dtype) -> Tensor:
        """Rows i to j: [j - i, 1] if constant over the data, [1, state] if all have one time, else [j - i, state]."""
        first, last = i // self.shared, (j - 1) // self.shared + 1
        weights, one_time = self.weights[i:j], last - first == 1
        if one_time and not self.constant:
            weights = weights[:1]
        b: Tensor | float = 0.0
        for weight, profile in zip(weights.unbind(-1), self.profiles, strict=True):
            if isinstance(profile, float):
                b = b + (weight * profile)[:, None].to(dtype)
                continue
            if not isinstance(profile, Tensor):
                profile = profile.probs(self.t[first:last, None])[:, 0]
                if not one_time:
                    profile = profile.repeat_interleave(self.shared, 0)[i - first * self.shared :][: j - i]
            b = b + weight[:, None].to(dtype) * profile.to(dtype)
        assert isinstance(b, Tensor)
        # A token without noise: its terms vanish, and nothing divides by zero. A constant is kept large enough for the
        # product of two ratios a u / b (`_sum_log1p`), where its terms are below 1e-16.
        return b.clamp(min=1e-18 if self.constant else torch.finfo(dtype).tiny)

    def window(self, i: int, j: int) -> "NoiseOnData":
        """Rows i to j as a field of their own; they must not straddle two times, unless the times are one per row."""
        first, last = i // self.shared, (j - 1) // self.shared + 1
        if last - first > 1 and self.shared > 1 and not self.constant:
            t, shared = self.t.repeat_interleave(self.shared)[i:j], 1
        else:
            t, shared = self.t[first:last], self.shared
        return NoiseOnData(self.weights[i:j], self.profiles, t, shared)

    @property
    def constant(self) -> bool:
        """Whether b is the same on all data tokens."""
        return all(isinstance(profile, float) for profile in self.profiles)

    def spans(self, n: int, step: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most `step` rows that, where noise is a row of the vocabulary, do not straddle two times."""
        shared = self.shared if not self.constant and step < self.shared else n
        for start in range(0, n, max(1, shared)):
            stop = min(start + shared, n)
            yield from ((i, min(i + step, stop)) for i in range(start, stop, step))


def check_shapes(rows: Tensor, x: Tensor, z: Tensor, *more: Tensor | None) -> None:
    """Raise `ValueError` unless everything is [batch, length], apart from the last axis of `rows`.

    Otherwise tokens would be paired with the logits of others without a word.
    """
    shapes = [list(rows.shape[:-1]), *(list(v.shape) for v in (x, z, *more) if v is not None)]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"all must have one [batch, length]; got {', '.join(map(str, shapes))}")


def scalars(process: InterpolatingProcess, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None) -> Tokens:
    """The scalars of every token."""
    t = process.interior(t, z)
    a, noise = process.alpha(t).double(), process.noise(t)
    b_x, b_z = noise.at(x), noise.at(z)
    w = process.rate(z, t) / (a * (x == z) + b_z) if weight is None else weight.double()
    data = process.data_tokens(z.device)
    return Tokens(*(v.expand(z.shape).reshape(-1) for v in (x, z, a, b_x, b_z, w, data[x], data[z])))


def noise_on_data(process: InterpolatingProcess, z: Tensor, t: Tensor) -> NoiseOnData | None:
    """The noise on the data tokens, where there is any."""
    t = process.interior(t, z)
    noise, host = process.noise(t), process.host_support()
    profiles = [part.profile(host) for part in noise.parts]
    keep = [k for k, profile in enumerate(profiles) if not (isinstance(profile, float) and profile == 0)]
    if not keep:
        return None
    return NoiseOnData(
        noise.weights[..., keep].expand(*z.shape, -1).reshape(-1, len(keep)),
        tuple(noise.parts[k] if profiles[k] is None else profiles[k] for k in keep),  # type: ignore[misc]
        t.reshape(-1),
        max(1, z.shape[1] // max(1, t.shape[1])),
    )


def outside(process: InterpolatingProcess) -> Tensor | None:
    """The tokens that no data contain, as indices; `None` where there are none."""
    if process.support is None:
        return None
    index = (~process.host_support()).nonzero()[:, 0]
    return index.to(process.support.device) if len(index) else None
