"""Grids of times: rules by their closed forms, and the measured one by exact costs and exact laws."""

import math

import pytest
import torch
from torch.testing import assert_close
from worlds import PROCESSES

import noiselab as nl
from noiselab.processes import TokenRates
from noiselab.samplers import grid_costs, grids
from noiselab.samplers.grid_costs import outdating
from noiselab.samplers.grids import adaptive_grid, cosine_grid, even_grid, log_snr_grid, power_grid, signal_grid

INITIAL = torch.tensor([0.6, 0.4], dtype=torch.float64)
TRANSITION = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
SMALL = {
    "masked": lambda: nl.masked(vocab_size=3, mask_id=2),
    "gidd": lambda: nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2),
    "uniform": lambda: nl.uniform(vocab_size=2),
    "log-SNR hybrid": lambda: nl.processes.log_snr_hybrid(vocab_size=3, mask_id=2, shift=1),
    "token rates": lambda: TokenRates(torch.tensor([1.0, 2.0, 1.0]), mask_id=2),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_world(name, length=4):
    process = SMALL[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = oracle.tokens[nl.likelihood.every_sequence(2, length)]
    return process, oracle, x, oracle.log_prob(x).exp()


def path_cost(process, oracle, x, law, times):
    """The divergence of the path of data from that of samples: what a discrete bound has beyond the entropy."""
    bound = nl.likelihood.expected_discrete_bound(process, oracle, x, times).mean(law).total.item()
    return bound + (law * law.log()).sum().item()


def divergence(process, oracle, x, law, times):
    """KL from the law of data to that of samples."""
    drawn = nl.likelihood.model_law(process, oracle, x.shape[1], times)
    places = (x * process.vocab_size ** torch.arange(x.shape[1] - 1, -1, -1)).sum(-1)
    return (law * (law / drawn[places]).log()).sum().item()


class Late(nl.InterpolatingProcess):
    """A process on a part of time only."""

    domain = (0.25, 0.75)

    def alpha(self, t):
        return 1.5 - 2 * t

    def mixing(self, t):
        return torch.full((3,), 1 / 3)


def test_rules_by_hand():
    process = SMALL["masked"]()
    assert_close(even_grid(process, 4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    assert_close(power_grid(process, 2, power=3), torch.tensor([1, 0.125, 0], dtype=torch.float64))
    roots = torch.tensor([1, 0.75**0.5, 0.5**0.5, 0.5, 0], dtype=torch.float64)
    assert_close(power_grid(process, 4, power=0.5), roots)
    want = [math.cos(math.pi / 2 * (1 - i / 5)) for i in range(5, -1, -1)]
    assert_close(cosine_grid(process, 5), torch.tensor(want, dtype=torch.float64))
    first = 1 - cosine_grid(process, 32)[1].item()
    assert first == pytest.approx((math.pi / 64) ** 2 / 2, rel=1e-3)  # few tokens at first: 0.1 % instead of 3 %


RULES = [even_grid, power_grid, cosine_grid, signal_grid, log_snr_grid]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", [*PROCESSES, "late"])
def test_every_rule_falls_through_the_domain(rule, name):
    process = Late() if name == "late" else PROCESSES[name]()
    for steps in (1, 40):
        grid = rule(process, steps)
        assert grid.dtype == torch.float64 and len(grid) == steps + 1
        assert (grid[0].item(), grid[-1].item()) == process.domain[::-1]
        assert (grid[1:] < grid[:-1]).all() and not grid.requires_grad


@pytest.mark.parametrize("name", [*PROCESSES, "late"])
def test_signal_and_log_snr_rise_by_equal_amounts(name):
    process = Late() if name == "late" else PROCESSES[name]()
    alpha = process.alpha(signal_grid(process, 9)).detach()
    assert_close(alpha.diff(), (alpha[-1] - alpha[0]).expand(9) / 9, rtol=1e-9, atol=1e-12)
    times = log_snr_grid(process, 9, limit=3)
    alpha = process.alpha(times).detach()[1:-1]
    assert_close((alpha / (1 - alpha)).log(), torch.linspace(-3, 3, 10, dtype=torch.float64)[1:-1])


def test_log_snr_within_the_limits_is_that_of_the_whole_domain():
    process = SMALL["log-SNR hybrid"]()  # from 9 to -9, linear in t
    assert_close(log_snr_grid(process, 12, limit=20), even_grid(process, 12))
    assert_close(log_snr_grid(process, 4, limit=3), torch.tensor([1, 7 / 12, 0.5, 5 / 12, 0], dtype=torch.float64))


def test_the_signal_of_a_token_dependent_process_is_the_mean_over_its_data():
    process = SMALL["token rates"]()
    t = signal_grid(process, 5)
    assert_close((t + t**2) / 2, even_grid(process, 5))


def test_few_steps_and_processes_without_a_signal_are_refused():
    process, oracle, *_ = small_world("masked")
    for rule in RULES:
        with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
            rule(process, 0)
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        adaptive_grid(process, oracle, 0, length=3)
    for power in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="power must be positive and finite"):
            power_grid(process, 3, power)
        with pytest.raises(ValueError, match="limit must be positive and finite"):
            log_snr_grid(process, 3, power)

    class Jump(nl.InterpolatingProcess):
        def alpha(self, t):
            return torch.where(t < 0.5, 1 - t / 10, (1 - t) / 10)

        def mixing(self, t):
            return torch.tensor([0.5, 0.5])

    with pytest.raises(ValueError, match="must decrease without jumps"):
        signal_grid(Jump(), 20)


def test_of_a_process_of_its_own_kind_the_signal_is_what_its_tokens_do_not_share():
    process = SMALL["gidd"]()
    assert_close(signal_grid(opaque(process), 5), signal_grid(process, 5))


def opaque(process):
    """The same process as one of its own kind, of which only the two primitives are known."""

    def delegate(name):
        return lambda self, *args, **kwargs: getattr(process, name)(*args, **kwargs)

    kind = type("Opaque", (nl.NoiseProcess,), {name: delegate(name) for name in nl.NoiseProcess.__abstractmethods__})
    own = kind(process.support)
    own.vocab_size = process.vocab_size
    return own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of x and length"),
        ({"length": 3, "x": torch.zeros(2, 3, dtype=torch.long)}, "exactly one of x and length"),
        ({"length": 0}, "length must be at least 1"),
        ({"length": 3, "sequences": 0}, "sequences must be at least 1; got 0"),
        ({"length": 3, "resolution": 1}, "resolution must be at least 2; got 1"),
        ({"x": torch.tensor([[0, 1, 2]])}, "x must be clean sequences"),
        ({"x": torch.tensor([[0, 1, -1]])}, "x must lie in"),
        ({"x": torch.tensor([[0, 1, 7]])}, "x must lie in"),
    ],
)
def test_pilots_that_are_none_are_refused(arguments, message):
    process, oracle, *_ = small_world("masked")
    with pytest.raises(ValueError, match=message):
        adaptive_grid(process, oracle, 4, **arguments)


@pytest.mark.long_for("log-SNR*")
@pytest.mark.parametrize("name", SMALL)
def test_the_measured_cost_is_what_steps_of_double_length_add_to_the_bound(name, monkeypatch):
    """An identity for any grid, to Monte-Carlo error; for the exact denoiser, and pilots of the law of data."""
    monkeypatch.setattr(grid_costs, "NEW_IN_STALE", 0.0)
    process, oracle, x, law = small_world(name, 3)
    times = power_grid(process, 6, 1.5)
    want = path_cost(process, oracle, x, law, times[::2]) - path_cost(process, oracle, x, law, times)
    n, batches = 1000, 8
    pilots = oracle.sample(n * batches, 3, generator=generator())
    g = generator(1)
    found = torch.stack(
        [outdating(process, oracle, times, part, part.shape, g)[::2].sum() / n for part in pilots.split(n)]
    )
    error = found.std() / batches**0.5
    assert abs(found.mean() - want) < 5 * error and error < 0.1 * want
    other = outdating(process, oracle, times, torch.zeros(n, 3, dtype=torch.long), (n, 3), generator(1))[::2].sum() / n
    assert abs(other - want) > 10 * error  # pilots of another law have another cost


@pytest.mark.long_for("log-SNR*", "gidd-16*", "uniform*")
@pytest.mark.parametrize(
    ("name", "steps", "given"),
    [
        ("gidd", 8, "x"),
        ("gidd", 16, "length"),
        ("uniform", 8, "length"),
        ("uniform", 16, "x"),
        ("log-SNR hybrid", 8, "length"),
        ("masked", 8, "length"),
        ("masked", 16, "x"),
    ],
)
def test_the_measured_grid_samples_better_than_the_rules(name, steps, given):
    """The exact law of samples, and the cost of their paths, against the law of data."""
    process, oracle, x, law = small_world(name)
    pilots = {"x": oracle.sample(512, 4, generator=generator())} if given == "x" else {"length": 4, "sequences": 512}
    measured = adaptive_grid(process, oracle, steps, **pilots, generator=generator(1))
    for measure, slack in (divergence, 0.02), (path_cost, 0.015):
        even, power, found = (
            measure(process, oracle, x, law, times)
            for times in (even_grid(process, steps), power_grid(process, steps), measured)
        )
        assert found < (1 + slack) * min(even, power)
        assert found < 0.8 * even or name == "masked"  # which even steps suit


def gain(process, oracle, x, law, grid):
    """How much less of its cost a grid would have with one of its points elsewhere."""
    cost, best = path_cost(process, oracle, x, law, grid), math.inf
    for k in range(1, len(grid) - 1):
        for towards in (grid[k - 1], grid[k + 1]):
            moved = grid.clone()
            moved[k] += 0.2 * (towards - grid[k])
            best = min(best, path_cost(process, oracle, x, law, moved))
    return 1 - best / cost


@pytest.mark.long_for("gidd")
@pytest.mark.parametrize("name", ["gidd", "uniform"])
def test_no_point_of_the_measured_grid_can_be_moved_for_more_than_a_little(name, monkeypatch):
    """The density is the square root of the cost; the cost itself, a planted mistake, makes a grid that costs more."""
    process, oracle, x, law = small_world(name, 3)
    pilots = oracle.sample(1000, 3, generator=generator())

    grid, smooth = adaptive_grid(process, oracle, 6, x=pilots, generator=generator(1)), grids._smooth
    assert gain(process, oracle, x, law, grid) < 0.005
    monkeypatch.setattr(grids, "_smooth", lambda cost, reach: smooth(cost, reach) ** 2)
    planted = adaptive_grid(process, oracle, 6, x=pilots, generator=generator(1))
    assert path_cost(process, oracle, x, law, planted) > 1.05 * path_cost(process, oracle, x, law, grid)


def test_tokens_that_know_nothing_of_each_other_cost_nothing():
    """Without a cost, points are even on the pilots' clock: half time, half the angle, cos^2 angle = alpha."""
    process = SMALL["gidd"]()
    oracle = nl.MarkovOracle(INITIAL, INITIAL.expand(2, 2), process)
    for one, error in ((process, 1e-9), (opaque(process), 1e-8)):
        times = adaptive_grid(one, oracle, 5, length=3, sequences=9)
        for k, t in enumerate(times.tolist()):
            alpha = (1 - t) / (1 + 0.5 * math.sqrt(t * (1 - t)))  # B = 2 * .2 / .8
            clock = (t + math.acos(math.sqrt(alpha)) * 2 / math.pi) / 2
            assert clock == pytest.approx(1 - k / 5, abs=error)


def test_pilots_do_not_depend_on_their_neighbours(monkeypatch):
    process, oracle, *_ = small_world("gidd")
    times, x = power_grid(process, 6), oracle.sample(5, 4, generator=generator())
    for part in (x, None):
        together = outdating(process, oracle, times, part, (5, 4), [generator(seed) for seed in range(5)])
        alone = [
            outdating(process, oracle, times, part if part is None else part[i : i + 1], (1, 4), [generator(i)])
            for i in range(5)
        ]
        assert_close(together, sum(alone))
        with monkeypatch.context() as patch:
            patch.setattr(grid_costs, "ENTRIES_AT_ONCE", 2 * 4 * 3)  # two at a time
            split = outdating(process, oracle, times, part, (5, 4), [generator(seed) for seed in range(5)])
        assert_close(together, split)


def test_every_prediction_gives_one_grid_and_few_questions():
    process, oracle, *_ = small_world("gidd")
    counting = nl.denoisers.CallCounter(oracle)
    found = [
        adaptive_grid(process, denoiser, 6, length=4, sequences=16, resolution=20, generator=generator())
        for denoiser in (oracle, nl.denoisers.Posterior(oracle, process), counting)
    ]
    assert_close(found[1], found[0])
    assert torch.equal(found[2], found[0])
    assert counting.calls == 20 and counting.sequences == 20 * 16
    masked, oracle, *_ = small_world("masked")
    adaptive_grid(masked, counting := nl.denoisers.CallCounter(oracle), 6, length=4, generator=generator())
    assert counting.rows < 0.6 * 64 * 64 * 4  # of masks only


def test_a_truncated_prediction_has_a_finite_cost():
    process, oracle, *_ = small_world("masked")
    grid = adaptive_grid(process, nl.TopP(oracle, 0.7), 8, length=4, generator=generator())
    assert grid.isfinite().all() and (grid != even_grid(process, 8)).any()
