r"""Candidates for events of the reverse chain: their times follow from the schedule alone, so many are drawn at once.

A token at z is a candidate for a jump at the rate $\frac{d}{dt} \log \frac{b_t(z)}{\alpha_t}$, which bounds its
reverse rate. On the scale of these log-odds the candidates of a token are a Poisson process of rate 1: their times are
the inverse of the log-odds at sums of exponential variables, for all tokens and several candidates in one search.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..categorical import Randomness, select_generators, uniforms
from ..numerics import TIME_EPS
from ..process import InterpolatingProcess

# Iterations of the search for a time, and its tolerance, on the logit of time and in log-odds.
ROUNDS, CLOSE = 120, 1e-8
GRID = 128  # times between which the roots of all tokens are bracketed at once
EPS = torch.finfo(torch.float64).eps
CERTAIN = 20.0  # log-odds above which a token is taken for noise: the signal is 2e-9, and the token jumps again later
# Uniform numbers of a candidate: time, data or noise, a token of the noise (2), acceptance, a token of the prediction.
UNIFORMS = 6


class Candidates(NamedTuple):
    """Future events of tokens, each [..., events], on the hypothesis that the network rejects all that need it.

    **Arguments:**

    - `open`: the times of the events that need the network; -inf for others, and where there is none.
    - `certain`: the times of the events that happen whatever the network predicts; -inf for others.
    - `token`: the token of the noise that the event jumps to; -1 for a jump to a token of the prediction.
    - `limit`: an open event happens if the predicted probability of the present token is below it.
    - `u`: the uniform number for a token of the prediction.
    """

    open: Tensor
    certain: Tensor
    token: Tensor
    limit: Tensor
    u: Tensor

    def padded(self, width: int) -> "Candidates":
        """The same with places for more events."""
        more = (0, width - self.u.shape[-1])
        if more == (0, 0):
            return self
        times = (pad(time, more, value=-torch.inf) for time in (self.open, self.certain))
        return Candidates(*times, *(pad(part, more) for part in (self.token, self.limit, self.u)))


def nothing(*shape: int, device: torch.device) -> Candidates:
    """Tokens without events, and a place for one."""
    none = torch.zeros(*shape, 1, dtype=torch.float64, device=device)
    return Candidates(none - torch.inf, none - torch.inf, none.long(), none, none)


def draw_candidates(
    log_odds: "LogOdds",
    z: Tensor,
    t: Tensor,
    s: Tensor,
    sequence: Tensor,
    *,
    at_once: int,
    generator: Randomness = None,
) -> Candidates:
    """All candidates of single tokens between t and s.

    **Arguments:**

    - `z`, `t`, `s`: the tokens and their intervals, [tokens].
    - `sequence`: which generator each uses.
    - `at_once`: candidates per search. Those after a change of the token are drawn again.
    """
    z, now, live = z.clone(), t.clone(), (s < t).nonzero()[:, 0]
    process = log_odds.process
    in_data = process.data_tokens(z.device)
    found: list[tuple[Tensor, Candidates]] = []
    while len(live):
        u = uniforms(
            len(live), at_once, UNIFORMS, generator=select_generators(generator, sequence[live]), device=z.device
        )
        old = z[live, None]
        time, odds = log_odds.next_times(z[live], now[live], s[live], u[..., 0])
        there, at = time > -torch.inf, torch.maximum(time, s[live, None])
        # Accepted with probability b / (b + alpha x_hat_z): if x_hat_z is below b (1 - u) / (alpha u).
        limit = torch.where(in_data[old] & (u[..., 4] > 0), odds * (1 - u[..., 4]) / u[..., 4], torch.inf)
        token = torch.where(u[..., 1] < process.alpha(at), -1, process.noise(at).choose(u[..., 2], u[..., 3]))
        # A jump of a token to itself is none, accepted or not.
        jumps = there & (token != old)
        change = jumps & (token >= 0) & (limit > 1)
        changed, first = change.any(-1), change.long().argmax(-1, keepdim=True)
        kept = jumps & (change.cumsum(-1) - change.long() == 0)
        events = Candidates(
            time.masked_fill(change, -torch.inf), time.masked_fill(~change, -torch.inf), token, limit, u[..., 5]
        )
        found.append((live[:, None].expand_as(time)[kept], Candidates(*(part[kept] for part in events))))
        z[live] = torch.where(changed, token.gather(-1, first)[:, 0], old[:, 0])
        now[live] = torch.where(changed, time.gather(-1, first)[:, 0], time[:, -1])
        live = live[changed | there[:, -1]]
    return _arranged(len(z), found, z.device)


def _arranged(rows: int, found: list[tuple[Tensor, Candidates]], device: torch.device) -> Candidates:
    """One row for each token, from events found in the order of time."""
    none = nothing(rows, device=device)
    if not found:
        return none
    row = torch.cat([where for where, _ in found])
    if not len(row):
        return none
    row, order = row.sort(stable=True)
    count = torch.bincount(row, minlength=rows)
    place = torch.arange(len(row), device=device) - (count.cumsum(0) - count)[row]
    columns = zip(*(events for _, events in found), strict=True)
    return Candidates(
        *(
            column.index_put((row, place), torch.cat(parts)[order])
            for column, parts in zip(none.padded(int(count.max())), columns, strict=True)
        )
    )


class LogOdds:
    r"""The log-odds of tokens to be noise, $\log (b_t(z) / \alpha_t)$, and the times at which they take a value."""

    def __init__(self, process: InterpolatingProcess):
        self.process = process
        self.times = time_grid(process)
        grid = self.times[:, None]
        self.noise, self.log_signal = process.noise(grid), process.alpha(grid).double().log()

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """The log-odds of each token."""
        return self.process.noise(t).at(z).log() - self.process.alpha(t).double().log()

    def next_times(self, z: Tensor, now: Tensor, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The times of the next candidates of single tokens.

        **Arguments:**

        - `z`, `now`, `s`: [tokens].
        - `u`: uniform numbers, [tokens, candidates].

        **Returns:** falling times, [tokens, candidates], -inf below s; and the odds there.
        """
        first, last = self(z[:, None].expand(-1, 2), torch.stack([now, s], 1)).split(1, -1)
        # Without signal the odds are infinite; any large number there leaves the law of the noise as it is.
        target = first.clamp(max=CERTAIN) + torch.log1p(-u).cumsum(-1)
        # A token known to be clean has no candidates; its odds are always 0.
        row, place = ((target > last) & (target > -torch.inf)).nonzero(as_tuple=True)
        found = torch.full_like(u, -torch.inf)
        if not len(row):
            return found, target.exp()
        value = target[row, place]
        low, high, at_low, at_high = self._bracket(z, target, row, place)
        early, late = low < s[row], high > now[row]
        low, at_low = torch.where(early, s[row], low), torch.where(early, last[row, 0], at_low)
        high, at_high = torch.where(late, now[row], high), torch.where(late, first[row, 0], at_high)
        z = z[row]
        times = crossing(
            lambda t, some: self(z[some, None], t[:, None])[:, 0] - value[some],
            low, high, at_low - value, at_high - value, self.process.domain,
        )  # fmt: skip
        return found.index_put((row, place), times), target.exp()

    def _bracket(self, z: Tensor, target: Tensor, row: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """Times of the grid around those of the targets, and the log-odds there."""
        tokens, which = z.unique(return_inverse=True)
        table = self.noise.at(tokens.expand(len(self.times), -1)).log() - self.log_signal
        table = table.T.nan_to_num(nan=-torch.inf).cummax(-1).values.contiguous()  # rounding must not break its order
        after = torch.searchsorted(table[which], target).clamp(1, GRID - 1)[row, place]
        which = which[row]
        return self.times[after - 1], self.times[after], table[which, after - 1], table[which, after]


def time_grid(process: InterpolatingProcess) -> Tensor:
    """Times over the whole domain, even on the logit of time."""
    low, high = process.domain
    end = torch.logit(torch.tensor(1 - TIME_EPS, dtype=torch.float64)).item()
    times = torch.linspace(-end, end, GRID, dtype=torch.float64, device=process.device)
    return low + (high - low) * torch.sigmoid(times)


def crossing(
    f: Callable[[Tensor, Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    at_low: Tensor,
    at_high: Tensor,
    domain: tuple[float, float],
) -> Tensor:
    """The roots of increasing functions of time, one for each entry, between low and high.

    The search uses the logit of time, in which the log-odds of most schedules are nearly linear: the Illinois secant
    method, with a bisection at every third iteration. Each entry stops independently of the others.

    **Arguments:**

    - `f`: the values at the times of some entries; called with the times and the indices of the entries.
    - `low`, `high`, `at_low`, `at_high`: brackets and the values there, [entries].
    """
    start, length = domain[0], domain[1] - domain[0]

    def logit(t: Tensor) -> Tensor:
        return torch.logit(((t - start) / length).clamp(TIME_EPS, 1 - TIME_EPS))

    live = torch.arange(len(low), device=low.device)
    a, b, at_a, at_b = logit(low), logit(high), at_low, at_high
    t, before = high.clone(), torch.zeros_like(live, dtype=torch.bool)
    for k in range(ROUNDS):
        secant = a - at_a * (b - a) / (at_b - at_a)
        middle = torch.where(secant.isfinite() & (secant > a) & (secant < b) & (k % 3 < 2), secant, (a + b) / 2)
        now = start + length * torch.sigmoid(middle)
        t[live] = now
        value = f(now, live)
        below = value <= 0
        # Near the upper end the logit of a time in float64 is coarser than elsewhere.
        close = CLOSE + 4 * EPS * middle.exp()
        # The value at an end that is kept twice is halved (Illinois), so that it does not stagnate.
        again = (below == before) & (k > 0)
        a, at_a = torch.where(below, middle, a), torch.where(below, value, torch.where(again, at_a / 2, at_a))
        b, at_b = torch.where(below, b, middle), torch.where(below, torch.where(again, at_b / 2, at_b), value)
        apart = (b - a >= close) & ~(value.abs() < close)
        if not apart.any():
            break
        live, a, b, at_a, at_b, before = (part[apart] for part in (live, a, b, at_a, at_b, below))
    return torch.minimum(torch.maximum(t, low), high)
