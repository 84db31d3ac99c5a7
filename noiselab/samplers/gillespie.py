r"""The reverse chain simulated event by event: no step size, and no error but that of the denoiser.

A token at z leaves by the reverse rate, which depends on the network only through x_hat_z >= 0:

$$\sum_{y \ne z} r_t(z)\, \frac{q_t(y \mid \hat x)}{q_t(z \mid \hat x)} \;\le\; \frac{r_t(z)}{b_t(z)} = \frac{d}{dt} \log \frac{b_t(z)}{\alpha_t}$$

Candidates for jumps therefore follow from the schedule alone, by inverting the odds $b_t(z) / \alpha_t$, and the
network is evaluated at a candidate only if the outcome depends on it (thinning). A candidate is accepted with
probability $b / (b + \alpha \hat x_z)$ and jumps to a token of x_hat with probability $\alpha_t$, otherwise to one of
the noise.
"""  # noqa: E501

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ..categorical import Randomness, choose, select_generators, uniforms
from ..denoisers import Denoiser
from ..numerics import TIME_EPS
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..typing import Times, Tokens, Variants
from .base import Sampler

ROUNDS, CLOSE = (
    120,
    1e-8,
)  # iterations of the search for a time, and its tolerance, on the logit of time and in log-odds


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
        times = _crossing(lambda c: process.noise(c).total().log() - target.log(), s, t, process.domain, hit)
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
    candidates many times, and each requires an evaluation, so that the sampler is exact but expensive. The distribution
    does not depend on the grid. Closer than 1e-12 to the lower end of the domain, tokens jump to clean ones.

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
        process = self.process
        low, high = process.domain
        s_, t_ = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        s_in, t_in = s_.clamp(low + TIME_EPS, high - TIME_EPS), t_.clamp(low + TIME_EPS, high - TIME_EPS)
        u = uniforms(*z.shape, generator=generator, device=z.device)
        after = torch.where(s_in < t_in, self._candidate(z, t_in, s_in, u), -torch.inf)
        sequences, in_data = torch.arange(len(z), device=z.device), process.data_tokens(z.device)
        live = (after > -torch.inf).any(-1)
        waiting = torch.zeros_like(live)
        held: dict[str, Tensor] = {}  # random numbers drawn by waiting sequences
        while live.any():
            free = sequences[live & ~waiting]
            if len(free):  # continue until every sequence needs the network
                now, where = after[free].max(-1)
                old, draws = (
                    z[free, where],
                    uniforms(len(free), 6, generator=select_generators(generator, free), device=z.device),
                )
                alpha, noise = process.alpha(now[:, None]).double()[:, 0], process.noise(now[:, None])
                to_data = draws[:, 1] < alpha
                token = noise.choose(draws[:, 2:3], draws[:, 3:4])[:, 0]
                needs = (to_data | in_data[old]) & (to_data | (token != old))
                event = {
                    "where": where, "now": now, "token": token, "draws": draws, "alpha": alpha,
                    "noise": noise.at(old[:, None])[:, 0].expand(len(free)), "to_data": to_data,
                }  # fmt: skip
                held = {
                    k: held.get(k, v.new_zeros(len(z), *v.shape[1:])).index_put((free,), v) for k, v in event.items()
                }
                waiting = waiting.index_put((free,), needs)
                done = free[~needs]
                z = z.index_put((done, held["where"][done]), held["token"][done])
            else:
                done = sequences[waiting]
                e = {k: v[done] for k, v in held.items()}
                old = z[done, e["where"]]
                law = _evaluate(self, z[done], e["where"], e["now"], s_[done], t_[done]).softmax(-1)
                x_hat_z = torch.where(in_data[old], law.gather(-1, old[:, None])[:, 0], 0)
                accept = e["draws"][:, 0] * (e["noise"] + e["alpha"] * x_hat_z) < e["noise"]
                token = torch.where(e["to_data"], choose(law, e["draws"][:, 4]), e["token"])
                z = z.index_put((done, e["where"]), torch.where(accept, token, old))
                waiting = torch.zeros_like(waiting)
            where, now = held["where"][done], held["now"][done]
            upcoming = self._candidate(
                z[done, where][:, None], now[:, None], s_in[done, where][:, None], held["draws"][done][:, 5:6]
            )
            after = after.index_put((done, where), upcoming[:, 0])
            live = (after > -torch.inf).any(-1)
        ends = (s_ <= low) & (s_ < t_)
        if not ends.any():
            return z
        return torch.where(ends, self.clean(z, torch.where(ends, low + TIME_EPS, s_), generator=generator), z)

    def _candidate(self, z: Tensor, now: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """The next candidate event of each token before `now`; -inf if it is below s."""
        process = self.process

        def log_odds(z: Tensor, t: Tensor) -> Tensor:
            return process.noise(t).at(z).log() - process.alpha(t).double().log()

        target = log_odds(z, now) + torch.log(1 - u)
        # A token known to be clean has no candidates; its odds are always 0.
        some = (target > log_odds(z, s)) & (target > -torch.inf)
        found = _crossing(lambda c: log_odds(z, c) - target, s, now, process.domain, some)
        return torch.where(some, found, -torch.inf)


def _evaluate(sampler: Sampler, z: Tensor, where: Tensor, now: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Logits, float64, of one token of each sequence, at the time of the sequence; tokens that do not move keep their
    time.
    """
    rows = torch.arange(z.shape[1], device=z.device) == where[:, None]
    still = ~(s < t)
    time = torch.where(still, t, now[:, None]) if still.any() else now
    logits, off = sampler.denoiser(z, time, rows).double(), sampler.process.off_support()
    return logits if off is None else logits.index_fill(-1, off, -torch.inf)


def _crossing(
    f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, domain: tuple[float, float], wanted: Tensor
) -> Tensor:
    """The root of an increasing function of time between low and high; arbitrary where it is not wanted.

    The search uses the logit of time, in which the log-odds of most schedules are nearly linear: the Illinois secant
    method, with a bisection at every third iteration. Each entry stops independently of the others.
    """
    start, length = domain[0], domain[1] - domain[0]

    def logit(t: Tensor) -> Tensor:
        return torch.logit(((t - start) / length).clamp(TIME_EPS, 1 - TIME_EPS))

    a, b, at_a, at_b = logit(low), logit(high), f(low), f(high)
    t, before, settled = high, torch.zeros_like(wanted), ~wanted
    for k in range(ROUNDS):
        secant = a - at_a * (b - a) / (at_b - at_a)
        middle = torch.where(secant.isfinite() & (secant > a) & (secant < b) & (k % 3 < 2), secant, (a + b) / 2)
        t = torch.where(settled, t, start + length * torch.sigmoid(middle))
        value = f(t)
        below = value <= 0
        # The value at an end that is kept twice is halved (Illinois), so that it does not stagnate.
        again = (below == before) & (k > 0)
        a, at_a = torch.where(below, middle, a), torch.where(below, value, torch.where(again, at_a / 2, at_a))
        b, at_b = torch.where(below, b, middle), torch.where(below, torch.where(again, at_b / 2, at_b), value)
        before = below
        settled = settled | (b - a < CLOSE) | (value.abs() < CLOSE)
        if settled.all():
            break
    return torch.minimum(torch.maximum(t, low), high)
