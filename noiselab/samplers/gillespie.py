r"""The reverse chain simulated event by event: no step size, and no error but that of the denoiser.

A token at z leaves by the reverse rate, which depends on the network only through x_hat_z >= 0:

$$\sum_{y \ne z} r_t(z)\, \frac{q_t(y \mid \hat x)}{q_t(z \mid \hat x)} \;\le\; \frac{r_t(z)}{b_t(z)} = \frac{d}{dt} \log \frac{b_t(z)}{\alpha_t}$$

Candidates for jumps therefore follow from the schedule alone, by inverting the odds $b_t(z) / \alpha_t$, and the
network is evaluated at a candidate only if the outcome depends on it (thinning). A candidate is accepted with
probability $b / (b + \alpha \hat x_z)$ and jumps to a token of x_hat with probability $\alpha_t$, otherwise to one of
the noise.
"""  # noqa: E501

from typing import ClassVar

import torch
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..numerics import TIME_EPS
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..typing import Times, Tokens, Variants
from .base import Sampler
from .candidates import Candidates, LogOdds, crossing, draw_candidates, nothing, time_grid

EARLY, LATE = 8, 32  # candidates of a token per search: in noise most are changes, in data most wait for the network
TOKENS_AT_ONCE = 8192  # sequences are evaluated ahead of time while they are no more tokens than these, or the batch
NOISED = (
    1e-4  # expected noised tokens of a sequence below which the rest is one jump; two are noised with probability 5e-9
)


class FirstHittingSampler(Sampler):
    """Fills masks one by one, each at its own random time, with one evaluation per token for any grid.

    The times at which masks are filled do not depend on the network. All times are therefore drawn first, and tokens
    are filled in their order, each with the prediction at its time. The result has exactly the distribution of the
    continuous-time reverse chain. A step from t to s fills the masks whose times are between s and t.

    **Arguments:**

    - `process`: a process with absorbing noise on a single token outside the data.
    - `denoiser`: a denoiser of any prediction type. It is evaluated with one time for each sequence, [batch].

    **Raises:** `ValueError` for other noise; `GillespieSampler` accepts any.

    **Source:** Zheng et al. (2024), arXiv 2409.02908, section 4.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    counting = nl.denoisers.CallCounter(oracle)
    x = nl.samplers.FirstHittingSampler(process, counting).sample((4, 8), steps=1)
    assert (x < 2).all() and counting.calls == 8
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    converges = True
    keeps_clean = True
    variants: ClassVar[Variants] = {"first hitting": {}}
    known_as = "FHS"
    law, evaluated = "none, and no steps", "once per token"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        super().__init__(process, denoiser)
        low, high = process.domain
        times = low + (high - low) * torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64, device=self.device)
        shown = (self.process.noise(times).dense() > 0).flatten(0, -2).any(0)
        if int(shown.sum()) != 1 or (shown & process.data_tokens(shown.device)).any():
            raise ValueError(
                "FirstHittingSampler needs absorbing noise on one token outside the data; got "
                f"{process} (GillespieSampler takes any noise)"
            )

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Fill the masks whose times lie between s and t."""
        process = self.process
        u = uniforms(*z.shape, 2, generator=generator, device=z.device)
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        masked = ~process.data_tokens(z.device)[z] & (s < t)
        # A mask at t is still a mask at c with probability b_c / b_t.
        target = u[..., 0] * process.noise(t.contiguous()).total()
        hit = masked & (target >= process.noise(s.contiguous()).total())
        if not hit.any():
            return z
        wanted, low, high = target[hit].log(), s[hit], t[hit]

        def excess(time: Tensor, some: Tensor) -> Tensor:
            return process.noise(time[:, None]).total()[:, 0].log() - wanted[some]

        every = torch.arange(len(low), device=z.device)
        found = crossing(excess, low, high, excess(low, every), excess(high, every), process.domain)
        times = t.masked_scatter(hit, found)
        order = torch.where(hit, times, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        count, sequences = hit.sum(-1), torch.arange(len(z), device=z.device)
        for k in range(int(count.max())):
            live = sequences[count > k]
            where = order[live, k]
            z = z.index_put(
                (live, where), self._filled(z[live], where, times[live, where], s[live], t[live], u[live, where, 1])
            )
        return z

    def _filled(self, z: Tensor, where: Tensor, now: Tensor, s: Tensor, t: Tensor, u: Tensor) -> Tensor:
        return choose(_evaluate(self, z, where, now, s, t).softmax(-1), u)


class GillespieSampler(Sampler):
    """The reverse chain of any noise, event by event: exact, with no step size.

    The network is evaluated only at candidate events whose outcome depends on it. For absorbing noise that is once for
    each token, as with `FirstHittingSampler`. With noise on data tokens, tokens that are probably correct are
    candidates many times, about ten to fifteen times each, and each requires an evaluation of a sequence, so that the
    sampler is exact but expensive. Successive candidates of a sequence are evaluated in one call, on the hypothesis
    that all are rejected, with at most the sequences of the batch or 8,192 tokens in a call: 100 sequences of 12
    tokens take 50 calls and about nine times as long as 16 ancestral steps (`benchmarks/sampling.py`).

    The distribution does not depend on the grid. Once fewer than 1e-4 tokens of a sequence are expected to be noise,
    and closer than 1e-12 to the lower end of the domain, tokens jump to clean ones; both ends of time together change
    the distribution by about 1e-8.

    **Arguments:**

    - `process`: a process with state-independent corruption.
    - `denoiser`: a denoiser of any prediction type. It is evaluated with one time for each sequence, [batch].

    **Raises:** `ValueError` for state-dependent corruption.

    **Source:** Gillespie (1977); thinning: Lewis and Shedler (1979); for masks Zheng et al. (2024), arXiv 2409.02908.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    x = nl.samplers.GillespieSampler(process, oracle).sample((2, 3), steps=1)
    assert (x < 2).all()
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    converges = True
    variants: ClassVar[Variants] = {"Gillespie": {}}
    law, evaluated = "none, and no steps", "once per candidate for an event"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        super().__init__(process, denoiser)

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """All events between s and t."""
        low, high = self.process.domain
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        ends, last = (s <= low) & (s < t), self._last(z.shape[1])
        s_in, t_in = (time.clamp(low + TIME_EPS, high - TIME_EPS) for time in (s, t))
        s_in = torch.where(ends, last, s_in)
        if (s_in < t_in).any():
            z = self._simulate(z, s_in, t_in, (s, t), generator)
        if not ends.any():
            return z
        return torch.where(ends, self.clean(z, torch.where(ends, t.clamp(max=last), s), generator=generator), z)

    def _simulate(
        self, z: Tensor, low: Tensor, high: Tensor, times: tuple[Tensor, Tensor], generator: Randomness
    ) -> Tensor:
        """The tokens after all events between high and low.

        **Arguments:**

        - `low`, `high`: s and t inside the domain, where log-odds are finite.
        - `times`: s and t.
        """
        log_odds = LogOdds(self.process)

        def candidates(z: Tensor, at: tuple[Tensor, ...], now: Tensor, at_once: int) -> Candidates:
            return draw_candidates(log_odds, z[at], now, low[at], at[0], at_once=at_once, generator=generator)

        at = (low < high).nonzero(as_tuple=True)
        z, events = z.clone(), _put(nothing(*z.shape, device=z.device), at, candidates(z, at, high[at], EARLY))
        ahead = torch.ones(len(z), dtype=torch.long, device=z.device)
        while True:
            z, events, upcoming = _advance(z, events)
            live = (upcoming > -torch.inf).nonzero()[:, 0]
            if not len(live):
                break
            now, place = _next_open(events, live, ahead[live], max(len(z), TOKENS_AT_ONCE // z.shape[1]))
            tried = now > -torch.inf
            row, rank = tried.nonzero(as_tuple=True)
            batch, width = live[row], events.u.shape[-1]
            where, event = place[tried] // width, place[tried] % width
            token = self._outcome(z, events, (batch, where, event), now[tried], *times)
            moved = torch.zeros_like(tried).index_put((row, rank), token != z[batch, where])
            # What follows the first change of a sequence was evaluated in vain, and stays.
            settled = moved.cumsum(-1) - moved.long() == 0
            done, new = settled[tried], (moved & settled)[tried]
            events.open[batch[done], where[done], event[done]] = -torch.inf
            # Twice as far ahead after each call without a change, so that at most half of all evaluations are in vain.
            ahead[live] = torch.where(moved.any(-1), 1, 2 * tried.sum(-1))
            if new.any():
                at = batch[new], where[new]
                z[at] = token[new]
                events = _put(events, at, candidates(z, at, now[tried][new], LATE))
        return z

    def _outcome(
        self, z: Tensor, events: Candidates, place: tuple[Tensor, ...], now: Tensor, s: Tensor, t: Tensor
    ) -> Tensor:
        """The tokens after single events that need the network."""
        batch, where, _ = place
        limit, noise, u = events.limit[place], events.token[place], events.u[place]
        old, in_data = z[batch, where], self.process.data_tokens(z.device)
        law = _evaluate(self, z[batch], where, now, s[batch], t[batch]).softmax(-1)
        x_hat_z = torch.where(in_data[old], law.gather(-1, old[:, None])[:, 0], 0)
        return torch.where(x_hat_z < limit, torch.where(noise < 0, choose(law, u), noise), old)

    def _last(self, length: int) -> float:
        """The time below which the noise left in a sequence is removed in one jump."""
        low = self.process.domain[0] + TIME_EPS
        times = time_grid(self.process)
        few = times[self.process.noise(times[:, None]).total()[:, 0] * length < NOISED]
        return max(low, float(few[-1])) if len(few) else low


def _put(events: Candidates, at: tuple[Tensor, ...], new: Candidates) -> Candidates:
    """Replace the events of some tokens, of which there may be more than before."""
    width = max(events.u.shape[-1], new.u.shape[-1])
    old, new = events.padded(width), new.padded(width)
    return Candidates(*(a.index_put(at, b) for a, b in zip(old, new, strict=True)))


def _advance(z: Tensor, events: Candidates) -> tuple[Tensor, Candidates, Tensor]:
    """The tokens and events once all changes before the next event that needs the network have happened, and the time
    of that event in each sequence.
    """
    upcoming = events.open.flatten(1).amax(-1)
    past = events.certain > upcoming[:, None, None]
    if past.any():
        latest = torch.where(past, events.certain, torch.inf).argmin(-1, keepdim=True)
        z = torch.where(past.any(-1), events.token.gather(-1, latest)[..., 0], z)
        events = events._replace(certain=events.certain.masked_fill(past, -torch.inf))
    return z, events, upcoming


def _next_open(events: Candidates, live: Tensor, ahead: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The times and places of the next events that need the network, until the next certain one.

    **Arguments:**

    - `live`: the sequences.
    - `ahead`: how many of each.
    - `most`: the number of all, if it is more than one of each.
    """
    count = min(int(ahead.max()), max(most // len(live), 1), events.open[0].numel())
    now, place = events.open[live].flatten(1).topk(count)
    certain = events.certain[live].flatten(1).amax(-1, keepdim=True)
    chosen = (now > certain) & (torch.arange(count, device=now.device) < ahead[:, None])
    return torch.where(chosen, now, -torch.inf), place


def _evaluate(sampler: Sampler, z: Tensor, where: Tensor, now: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Logits, float64, of one token of each sequence, at the time of the sequence; tokens that do not move keep their
    time.
    """
    rows = torch.arange(z.shape[1], device=z.device) == where[:, None]
    still = ~(s < t)
    time = torch.where(still, t, now[:, None]) if still.any() else now
    logits, off = sampler.denoiser(z, time, rows).double(), sampler.process.off_support()
    return logits if off is None else logits.index_fill(-1, off, -torch.inf)
