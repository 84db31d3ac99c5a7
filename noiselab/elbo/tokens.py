r"""What the bound needs of each token, as float64 scalars: no vocabulary axis anywhere.

With u = x_hat, p = a u + b, h = a u / p, rho = q(z|x) / q(z|x_hat), w = r(z) / q(z|x) and S the support of b,

    KL   = (a + b_x) log(a + b_x) - b_x log b_x - a log p_x - sum_S b log1p(a u / b)
    IS   = rho - log rho - 1
    H    = sum_S b h + a h_x + (rho - 1) h_z
    dL/dlogits = w ( H u - b h - a h_x e_x - (rho - 1) h_z e_z )

where e_v is the one-hot of v. Only the two sums over S know of the vocabulary.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from ..mixing import Mixing, NoiseMass
from ..numerics import TIME_SLACK, as_time_shape, require_not_negative, require_times, require_tokens

if TYPE_CHECKING:
    from ..process import InterpolatingProcess, NoiseProcess

# Lower limit of the noise of a token, so that nothing is divided by zero. Large enough for the product of two ratios a
# u / b (`_sum_log1p`) and of two clamped factors; small enough that terms of tokens without noise are below 1e-16.
SMALLEST = 1e-18


class TokenTerms(NamedTuple):
    """Per-token scalars, as rows [n] in row-major order of [batch, length]."""

    x: Tensor
    z: Tensor
    a: Tensor  # alpha
    b_x: Tensor
    b_z: Tensor
    w: Tensor  # the weight of the token in the bound
    x_is_data: Tensor  # elsewhere x_hat of x is zero
    z_is_data: Tensor

    def rows(self, i: int, j: int) -> "TokenTerms":
        """Rows i to j."""
        return TokenTerms(*(v[i:j] for v in self))

    def ends(self, logits: Tensor) -> Tensor:
        """The logits at x and at z, float64 [n, 2]: all that the scalars need of them."""
        return logits.gather(-1, torch.stack([self.x, self.z], -1)).double()

    def value(self, ends: Tensor, lse: Tensor, kl_sum: Tensor) -> Tensor:
        """The bound's integrand from the logits' logsumexp over the data and sum_S b log1p(a u / b)."""
        x, z, a, b_x, b_z, w, *_ = self
        log_u_x, u_z = self._log_u_x(ends, lse), self._u_z(ends, lse)
        q_x, q_z = a + b_x, a * (x == z) + b_z
        # A token known to be clean has weight 0, and its ratio may be infinite.
        rho = q_z / torch.where(w == 0, q_z, a * u_z + b_z)
        # log p_x by logaddexp: exact also where the probability itself underflows.
        log_p_x = torch.logaddexp(a.log() + log_u_x, b_x.log())
        kl = q_x * q_x.log() - torch.special.xlogy(b_x, b_x) - a * log_p_x - kl_sum
        return torch.where(w == 0, 0, w * (kl + rho - rho.log() - 1))

    def corners(self, ends: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """A h_x and (rho - 1) h_z: the terms of the gradient at x and z in addition to the sum over S."""
        x, z, a, b_x, b_z, w, _, z_is_data = self
        a_u_x, a_u_z = a * self._log_u_x(ends, lse).exp(), a * self._u_z(ends, lse)
        at_x = torch.where(b_x > 0, a * a_u_x / (a_u_x + b_x), a)
        p_z = a_u_z + b_z
        at_z = ((a * (x == z) + b_z) / p_z - 1) * a_u_z / p_z
        return at_x, torch.where(z_is_data & (w != 0), at_z, 0)

    def _log_u_x(self, ends: Tensor, lse: Tensor) -> Tensor:
        return torch.where(self.x_is_data, ends[:, 0] - lse, -torch.inf)

    def _u_z(self, ends: Tensor, lse: Tensor) -> Tensor:
        return torch.where(self.z_is_data, (ends[:, 1] - lse).exp(), 0)


class NoiseOnData(NamedTuple):
    r"""b on the data tokens, factored: $b = level + \sum_k weights_k\, parts_k$. Nothing of size [n, state] is stored."""

    level: Tensor | None  # float64 [n]: the sum of all parts that are constant over the data
    weights: Tensor  # float64 [n, K]
    parts: tuple[Tensor | Mixing, ...]  # K of them: a row [state], or a mixing that is evaluated at its time
    t: Tensor  # float64 [n / shared]
    shared: int  # number of consecutive rows with the same time: the length, or 1

    @property
    def constant(self) -> bool:
        """Whether b is a column: the same on all data tokens."""
        return not self.parts

    @property
    def rank_one(self) -> bool:
        """Whether b is a column, or a column times a row, so that nothing needs to be computed for rows of different
        times.
        """
        return self.constant or (self.level is None and len(self.parts) == 1 and isinstance(self.parts[0], Tensor))

    def prepared(self, dtype: torch.dtype) -> "NoiseOnData":
        """Convert the rows to the work dtype, with values of at least `SMALLEST`."""
        parts = (part.clamp(min=SMALLEST).to(dtype) if isinstance(part, Tensor) else part for part in self.parts)
        level = None if self.level is None else self.level.clamp(min=SMALLEST)
        return self._replace(level=level, weights=self.weights.clamp(min=SMALLEST), parts=tuple(parts))

    def window(self, i: int, j: int) -> "NoiseOnData":
        """Rows i to j, one of `spans`, as a separate object."""
        level = None if self.level is None else self.level[i:j]
        times = self.t[i // self.shared : (j - 1) // self.shared + 1]
        return self._replace(level=level, weights=self.weights[i:j], t=times)

    def product(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """A column [n] and a row [state] whose product is b; `None` if there is no such product."""
        if self.rank_one and isinstance(self.parts[0], Tensor):
            return self.weights[:, 0], self.parts[0]
        if len(self.t) > 1:
            return None
        # With a single time, all parts sum to one row.
        ones = torch.ones_like(self.weights[:, 0])
        first = self._replace(level=None if self.level is None else self.level[:1], weights=self.weights[:1])
        return ones, first.over(ones[:1], dtype)[0]

    def over(self, scale: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """The noise divided by `scale` [n], dense, [n, state]."""
        # One pass over `out` per part: for rows in cache as fast as a matrix product, without rounding to TF32 or
        # bfloat16.
        for k, part in enumerate(self.parts):
            row = part if isinstance(part, Tensor) else self._moving(k).to(dtype)
            weight = (self.weights[:, k] / scale).to(dtype)[:, None]
            out = torch.mul(row, weight, out=out) if k == 0 else cast(Tensor, out).addcmul_(row, weight)
        assert out is not None
        return out if self.level is None else out.add_((self.level / scale).to(dtype)[:, None])

    def _moving(self, k: int) -> Tensor:
        part = self.parts[k]
        assert not isinstance(part, Tensor)
        probs = part.probs(self.t[:, None])[:, 0].clamp(min=SMALLEST)
        return probs if len(probs) == 1 else probs.repeat_interleave(self.shared, 0)

    def spans(self, n: int, step: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most `step` rows; where times matter, each is within one time or consists of whole times."""
        if not self.rank_one and step >= self.shared:
            step -= step % self.shared
        block = n if self.rank_one or step >= self.shared else self.shared
        for start in range(0, n, max(1, block)):
            stop = min(start + block, n)
            yield from ((i, min(i + step, stop)) for i in range(start, stop, step))


def check_shapes(rows: Tensor, x: Tensor, z: Tensor, *more: Tensor | None) -> None:
    """Raise `ValueError` unless everything is [batch, length], apart from the last axis of `rows`.

    Otherwise tokens would be silently paired with the logits of others.
    """
    shapes = [list(rows.shape[:-1]), *(list(v.shape) for v in (x, z, *more) if v is not None)]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"all must have one [batch, length]; got {', '.join(map(str, shapes))}")


def check_width(process: "NoiseProcess", logits: Tensor) -> None:
    """Raise `ValueError` unless there is a logit for each token of the process."""
    require_floats(logits)
    width = logits.shape[-1] if logits.dim() else None
    if width != process.vocab_size:
        raise ValueError(f"logits must have the width of the process, {process.vocab_size}; got {width}")


def require_floats(logits: Tensor) -> None:
    """Raise `ValueError` for integers."""
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating-point numbers; got {logits.dtype}")


def check_inputs(
    process: "NoiseProcess",
    rows: Tensor,
    x: Tensor,
    z: Tensor,
    t: Tensor,
    *,
    weight: Tensor | None = None,
    more: tuple[Tensor, ...] = (),
) -> Tensor:
    """What users give to a bound, checked: shapes and dtypes everywhere, values on the CPU.

    **Arguments:**

    - `rows`: logits or hidden states of the tokens.
    - `more`: other numbers, one for each token.

    **Returns:** the times; on an accelerator, which reading them would stall, NaN in place of those outside the domain, so
    that the bound is NaN too.
    """
    check_shapes(rows, x, z, weight, *more)
    require_floats(rows)
    require_tokens("x", x, process.vocab_size)
    require_tokens("z", z, process.vocab_size)
    if weight is not None:
        require_not_negative("weight", weight)
    return inside(process, t, z)


def inside(process: "NoiseProcess", t: Tensor, z: Tensor) -> Tensor:
    """Times within the domain of the process, checked on the CPU; NaN elsewhere on an accelerator or if compiled."""
    low, high = process.domain
    times = as_time_shape(t, z)
    if times.device.type == "cpu" and not torch.compiler.is_compiling():
        return require_times(times, low, high)
    return torch.where((times >= low - TIME_SLACK) & (times <= high + TIME_SLACK), times, torch.nan)


def scalars(process: "InterpolatingProcess", x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None) -> TokenTerms:
    """The scalars of every token."""
    t = process.interior(t, z)
    a, noise = process.alpha(t).double(), process.noise(t)
    b_x, b_z = noise.at(x), noise.at(z)
    w = process.rate_into(z, t) / (a * (x == z) + b_z) if weight is None else weight.double()
    data = process.data_tokens(z.device)
    return TokenTerms(*(v.expand(z.shape).reshape(-1) for v in (x, z, a, b_x, b_z, w, data[x], data[z])))


def noise_on_data(process: "InterpolatingProcess", z: Tensor, t: Tensor) -> NoiseOnData | None:
    """The noise on the data tokens; `None` if there is none."""
    t = process.interior(t, z)

    def per_row(column: Tensor) -> Tensor:
        return column.expand(z.shape).reshape(-1)

    level, found = None, dict[int, tuple[Tensor, Tensor | Mixing, Mixing]]()
    for weight, part, profile in _profiles(process.noise(t), process.host_support()):
        if isinstance(profile, float):
            if profile:
                level = weight * profile + (0 if level is None else level)
        else:
            # A part that occurs twice, in a blend and outside it, is merged. Parts are kept alive, because the id of a
            # freed part could be reused.
            if id(part) in found:
                weight = weight + found[id(part)][0]
            found[id(part)] = weight, part if profile is None else profile.to(z.device), part
    if level is None and not found:
        return None
    weights = [per_row(weight) for weight, *_ in found.values()]
    return NoiseOnData(
        None if level is None else per_row(level),
        torch.stack(weights, -1) if weights else t.new_empty(z.numel(), 0),
        tuple(part for _, part, _ in found.values()),
        t.reshape(-1),
        max(1, z.shape[1] // max(1, t.shape[1])),
    )


def _profiles(mass: NoiseMass, support: Tensor) -> Iterator[tuple[Tensor, Mixing, float | Tensor | None]]:
    """Yield weight, mixing and profile of the parts of a measure; time-dependent parts are decomposed where possible."""
    for weight, part in zip(mass.weights.unbind(-1), mass.parts, strict=True):
        profile = part.profile(support)
        inner = part.factors(mass.t) if profile is None and isinstance(part, Mixing) else None
        if inner is None:
            yield weight, part, profile
        else:
            yield from ((weight * share, *rest) for share, *rest in _profiles(inner, support))  # type: ignore[misc]
