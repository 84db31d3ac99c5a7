"""Correctors against laws by enumeration: a few tokens, three positions, every noisy sequence counted."""

import itertools

import pytest
import torch
from worlds import row

import noiselab as nl
from noiselab.correctors.flow_matching import DFMCorrector
from noiselab.correctors.forward_backward import ForwardBackwardCorrector
from noiselab.correctors.gibbs import GibbsCorrector
from noiselab.correctors.remasking import RemaskingCorrector
from noiselab.correctors.self_correction import SelfCorrection
from noiselab.processes.neighbours import Neighbours
from noiselab.processes.token_rates import TokenRates

LENGTH, N = 3, 20_000
CHAIN = {
    2: (row(0.6, 0.4), torch.tensor([[0.9, 0.1], [0.25, 0.75]], dtype=torch.float64)),
    3: (row(0.5, 0.3, 0.2), torch.tensor([[0.8, 0.1, 0.1], [0.05, 0.9, 0.05], [0.4, 0.1, 0.5]], dtype=torch.float64)),
}
# Processes, states of the chain, and a time.
WORLDS = {
    "masked": (lambda: nl.masked(vocab_size=3, mask_id=2), 2, 0.4),
    "gidd": (lambda: nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2), 2, 0.5),
    "uniform": (lambda: nl.uniform(vocab_size=3), 3, 0.6),
    "token rates": (lambda: TokenRates(row(0.5, 3, 1), mask_id=2), 2, 0.5),
    "neighbours": (
        lambda: Neighbours(torch.tensor([[1, 2], [2, 0], [0, 1], [3, 3]]), torch.tensor([[3.0, 1]] * 4), mask_id=3),
        3,
        0.3,
    ),
}
FORGETFUL = ["masked", "gidd", "uniform"]
CORRECTORS = {
    "gibbs": lambda process, oracle: GibbsCorrector(process, oracle),
    "gibbs, 2 tokens": lambda process, oracle: GibbsCorrector(process, oracle, 2),
    "gibbs, unlikely": lambda process, oracle: GibbsCorrector(process, oracle, positions="unlikely"),
    "forward-backward": lambda process, oracle: ForwardBackwardCorrector(process, oracle, span=0.5),
    "dfm": lambda process, oracle: DFMCorrector(process, oracle, size=0.5),
    "remask": lambda process, oracle: RemaskingCorrector(process, oracle, amount=0.3),
    "self-correct": lambda process, oracle: SelfCorrection(oracle, support=process.support, temperature=1),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class World:
    """All noisy sequences at one time, and their exact law."""

    def __init__(self, name, length=LENGTH, time=None):
        make, states, default = WORLDS[name]
        self.process, self.length = make(), length
        self.time = default if time is None else time
        self.oracle = nl.MarkovOracle(*CHAIN[states], self.process)
        self.states = self.process.vocab_size
        self.every = torch.tensor(list(itertools.product(range(self.states), repeat=length)))
        like = self.process.likelihood(self.every, self.at(len(self.every)))  # [z, i, v]
        q = like[:, torch.arange(length)[None], self.every].prod(-1)  # q_t(z | x)
        self.law = q @ self.oracle.log_prob(self.every).exp()
        assert abs(self.law.sum() - 1) < 1e-12

    def at(self, batch):
        return torch.full((batch,), self.time, dtype=torch.float64)

    def code(self, z):
        return (z * self.states ** torch.arange(self.length - 1, -1, -1)).sum(-1)

    def sample(self, n=N, seed=0):
        x = self.oracle.sample(n, self.length, generator=generator(seed))
        return self.process.corrupt(x, self.at(n), generator=generator(seed + 1))

    def fits(self, z, law=None):
        return chi_square(torch.bincount(self.code(z), minlength=len(self.every)), self.law if law is None else law)

    def gibbs(self):
        """By hand from the law alone: each position in turn, given the others."""
        kernel = torch.zeros(len(self.every), len(self.every), dtype=torch.float64)
        for i in range(self.length):
            others = torch.arange(self.length) != i
            same = (self.every[:, None, others] == self.every[None, :, others]).all(-1)
            share = same * self.law
            kernel += (share / share.sum(-1, keepdim=True)).nan_to_num() / self.length
        return kernel


def chi_square(counts, law):
    """The probability of so bad a fit by chance; rare cells are put together."""
    n, seldom = counts.sum(), counts.sum() * law < 5
    assert not counts[law == 0].any()
    counts = torch.cat([counts[~seldom], counts[seldom].sum()[None]]).double()
    want = torch.cat([law[~seldom], law[seldom].sum()[None]]) * n
    counts, want = counts[want > 0], want[want > 0]
    statistic = ((counts - want) ** 2 / want).sum()
    return torch.special.gammaincc(torch.tensor((len(want) - 1) / 2).double(), statistic / 2).item()


def kernel_fits(world, corrector, kernel, n=600):
    """One step from every sequence that noise can make, against the rows of a matrix."""
    possible = world.law > 0
    start = world.every[possible]
    z = corrector.step(start.repeat(n, 1), world.at(n * len(start)), generator=generator(7))
    pairs = torch.arange(len(start)).repeat(n) * len(world.every) + world.code(z)
    counts = torch.bincount(pairs, minlength=len(start) * len(world.every))
    return chi_square(counts, kernel[possible].flatten() / len(start))


class Posterior(nl.Denoiser):
    """The planted mistake: predicts the posterior, and says that it leaves the token out."""

    def __init__(self, oracle, process):
        super().__init__()
        self.inner, self.predicts = nl.denoisers.Posterior(oracle, process), "leave_one_out"

    def forward(self, z, t, rows=None):
        return self.inner(z, t, rows)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("time", [0.1, 0.9])
def test_gibbs_steps_leave_the_law_of_noisy_sequences_as_it_is(name, time):
    world = World(name, time=time)
    corrector, z = GibbsCorrector(world.process, world.oracle), world.sample()
    assert corrector.converges and world.fits(z) > 1e-4
    for step in range(6):
        z = corrector.step(z, world.at(N), generator=generator(step))
    assert world.fits(z) > 1e-4


@pytest.mark.parametrize("name", WORLDS)
def test_a_sharper_prediction_or_one_of_another_time_is_found_out(name):
    """The planted mistakes: the same steps with another law."""
    world = World(name)
    early = GibbsCorrector(world.process, world.oracle)
    sharp = GibbsCorrector(world.process, nl.Temperature(world.oracle, 0.6))
    for corrector, time in ((sharp, world.at(N)), (early, 0.8 * world.at(N))):
        z = world.sample()
        for step in range(6):
            z = corrector.step(z, time, generator=generator(step))
        assert world.fits(z) < 1e-10


@pytest.mark.parametrize("name", WORLDS)
def test_the_posterior_in_its_place_would_keep_the_law_but_move_less(name):
    """x_i given all of z, then z_i given x_i: a walk through pairs, which is exact too, and hardly leaves its place."""
    world = World(name)
    mistaken, z = GibbsCorrector(world.process, Posterior(world.oracle, world.process)), world.sample()
    assert kernel_fits(world, mistaken, world.gibbs()) < 1e-10
    still = mistaken.step(z, world.at(N), generator=generator())
    mine = GibbsCorrector(world.process, world.oracle).step(z, world.at(N), generator=generator())
    assert world.fits(still) > 1e-4 and (still != z).sum() < 0.97 * (mine != z).sum()


@pytest.mark.parametrize("name", ["gidd", "uniform"])
def test_a_denoiser_that_says_posterior_is_converted(name):
    world = World(name)
    denoisers = (world.oracle, nl.denoisers.Posterior(world.oracle, world.process))
    t = world.at(len(world.every))
    steps = [GibbsCorrector(world.process, d, 2).step(world.every, t, generator=generator()) for d in denoisers]
    assert torch.equal(*steps)


def test_several_tokens_at_once_or_unlikely_positions_move_the_law():
    world = World("gidd")
    for options in ({"tokens_per_step": 3}, {"positions": "unlikely"}):
        corrector, z = GibbsCorrector(world.process, world.oracle, **options), world.sample()
        for step in range(6):
            z = corrector.step(z, world.at(N), generator=generator(step))
        assert not corrector.converges and world.fits(z) < 1e-10


def test_positions_are_drawn_evenly_among_the_rows():
    """Of 50 equal tokens, 49 are another one."""
    process = nl.uniform(vocab_size=50)
    oracle = nl.MarkovOracle(torch.full((50,), 0.02), torch.full((50, 50), 0.02), process)
    z, n = torch.zeros(10_000, 5, dtype=torch.long), 10_000
    rows = torch.tensor([True, False, True, True, False]).expand(n, -1)
    t = torch.full((n,), 0.5)
    for k in (1, 2, 4):
        moved = GibbsCorrector(process, oracle, k).step(z, t, rows=rows, generator=generator(k)) != z
        assert moved.sum(-1).max() == min(k, 3) and not moved[:, [1, 4]].any()
        share, want = moved.double().mean(0)[[0, 2, 3]], min(k, 3) / 3 * 0.98
        assert ((share - want).abs() < 5 * (want * (1 - want) / n) ** 0.5).all()


def test_gibbs_asks_the_network_only_for_tokens_that_carry_signal():
    world = World("gidd", time=0.9)
    counting = nl.denoisers.CallCounter(world.oracle)
    corrector, z = GibbsCorrector(world.process, counting), world.sample(4000)
    corrector.step(z, world.at(4000), generator=generator())
    alpha = world.process.alpha(world.at(1)).item()
    assert counting.calls == 1 and abs(counting.rows / 4000 - alpha) < 0.03
    corrector.step(z, world.at(4000), rows=torch.zeros_like(z, dtype=torch.bool), generator=generator())
    corrector.step(z, torch.ones(4000), generator=generator())
    assert counting.calls == 1


@pytest.mark.long_for("uniform", "masked")
@pytest.mark.parametrize("name", FORGETFUL)
def test_many_small_dfm_steps_leave_the_law_as_it_is(name):
    world = World(name)
    corrector, z = DFMCorrector(world.process, world.oracle, size=0.02), world.sample()
    for step in range(30):
        z = corrector.step(z, world.at(N), generator=generator(step))
    assert world.fits(z) > 1e-4
    # The planted mistake: with the posterior, tokens go back at wrong rates.
    corrector = DFMCorrector(world.process, Posterior(world.oracle, world.process), size=0.3)
    for step in range(8):
        z = corrector.step(z, world.at(N), generator=generator(step))
    assert (world.fits(z) < 1e-10) == (name != "masked")  # where only masks go back, both predictions are one


def test_a_dfm_token_surely_jumps_where_its_probabilities_exceed_one():
    """Masks at a time when there are hardly any, of noise whose rate into them is high: all go back."""
    process = nl.Interpolation(1 - nl.t, {nl.Absorbing(2, 3): nl.t**4, nl.Unigram(row(0.5, 0.5, 0)): nl.t})
    oracle = nl.MarkovOracle(*CHAIN[2], process)
    z, t = torch.full((500, 3), 2), torch.full((500,), 0.1)
    after = DFMCorrector(process, oracle, size=1).step(z, t, generator=generator())
    assert ((after == 2).sum() <= 2) and after.min() == 0
    z = torch.zeros(500, 3, dtype=torch.long)
    for time in (0.0, 1.0):  # rates are taken just inside
        after = DFMCorrector(process, oracle, size=0.5).step(z, torch.full((500,), time), generator=generator())
        assert torch.equal(after, z) == (time == 0)


def test_where_the_signal_rests_nothing_jumps_by_dfm():
    """No token is destroyed between t = .5 and .875, so that none may be restored either."""
    resting = nl.schedules.Function(lambda t: torch.maximum(1 - t, torch.minimum(torch.full_like(t, 0.5), 4 - 4 * t)))
    z, t = torch.tensor([[0, 1, 2, 2]]).expand(500, -1), torch.full((500,), 0.7)
    for process in (nl.masked(vocab_size=3, mask_id=2, signal=resting), nl.uniform(vocab_size=3, signal=resting)):
        corrector = DFMCorrector(process, nl.MarkovOracle(*CHAIN[process.data_tokens().sum().item()], process), size=1)
        assert torch.equal(corrector.step(z, t, generator=generator()), z)
        assert not torch.equal(corrector.step(z, t / 2, generator=generator()), z)


@pytest.mark.parametrize("time", [0.05, 0.2])
def test_dfm_steps_do_not_depend_on_how_slowly_the_signal_falls(time):
    """A step of size 1 masks a token with probability 1 - alpha and fills a mask with alpha, whatever the slope is."""
    process, n = nl.masked(vocab_size=3, mask_id=2, signal=1 - nl.t**2), 4000
    corrector = DFMCorrector(process, nl.MarkovOracle(*CHAIN[2], process), size=1)
    after = corrector.step(torch.tensor([[0, 2]]).expand(n, -1), torch.full((n,), time), generator=generator())
    masked, noise = (after == 2).double().mean(0), time**2
    assert ((masked - noise).abs() < 5 * (noise * (1 - noise) / n) ** 0.5).all()


@pytest.mark.parametrize("kind", CORRECTORS)
def test_batched_equals_one_by_one_with_a_generator_each(kind):
    world = World("gidd")
    corrector, z = CORRECTORS[kind](world.process, world.oracle), world.sample(6)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    rows = torch.rand(z.shape, generator=generator(5)) < 0.6
    together, alone = z, list(z.split(1))
    generators, others = ([generator(seed) for seed in range(6)] for _ in range(2))
    for _ in range(5):
        together = corrector.step(together, t, rows=rows, generator=generators)
        alone = [
            corrector.step(one, t[i : i + 1], rows=rows[i : i + 1], generator=[others[i]])
            for i, one in enumerate(alone)
        ]
    assert torch.equal(together, torch.cat(alone)) and (together != z).any()


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in WORLDS for kind in CORRECTORS if kind not in ("dfm", "remask") or name in FORGETFUL],
)
def test_tokens_outside_the_rows_stay_and_nothing_is_edited(name, kind):
    world = World(name)
    corrector, z = CORRECTORS[kind](world.process, world.oracle), world.sample(400)
    kept, times = z.clone(), world.at(400)[:, None].expand(-1, LENGTH)
    rows = torch.rand(z.shape, generator=generator(5)) < 0.5
    state = z
    for step in range(10):
        state = corrector.step(state, times, rows=rows, generator=generator(step))
        assert torch.equal(state[~rows], z[~rows])
    assert (state != z).any() and torch.equal(z, kept)
    # All rows are what no rows are.
    everything = torch.ones_like(rows)
    steps = (corrector.step(z, world.at(400), rows=r, generator=generator()) for r in (None, everything))
    assert torch.equal(*steps)
    assert torch.equal(corrector.step(z, world.at(400), rows=~everything, generator=generator()), z)


def test_each_token_is_corrected_at_its_own_time():
    """Clean tokens beside noisy ones: Gibbs draws them from the data's law, given the noisy ones."""
    world = World("masked")
    t = torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64).expand(N, -1)
    z = world.process.corrupt(world.oracle.sample(N, LENGTH, generator=generator()), t, generator=generator(1))
    corrector = GibbsCorrector(world.process, world.oracle)
    before = torch.bincount(world.code(z), minlength=27) / N
    for step in range(6):
        z = corrector.step(z, t, generator=generator(step))
    after = torch.bincount(world.code(z), minlength=27) / N
    assert (z[:, [0, 2]] < 2).all() and ((after - before).abs() < 5 * (2 * before / N).sqrt() + 1e-3).all()


def test_bad_input_is_named(unchecked):
    process, dependent = WORLDS["gidd"][0](), WORLDS["token rates"][0]()
    oracle = nl.MarkovOracle(*CHAIN[2], process)
    with pytest.raises(ValueError, match="tokens_per_step must be at least 1; got 0"):
        GibbsCorrector(process, oracle, 0)
    with pytest.raises(ValueError, match="positions must be one of 'random', 'unlikely'"):
        GibbsCorrector(process, oracle, positions="best")
    for span in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"span must lie in \(0, 1\]"):
            ForwardBackwardCorrector(process, oracle, span=span)
    with pytest.raises(ValueError, match="predictor must be"):
        ForwardBackwardCorrector(process, 3)
    for size in (0, 1.5):
        with pytest.raises(ValueError, match=r"size must lie in \(0, 1\]"):
            DFMCorrector(process, oracle, size=size)
    with pytest.raises(ValueError, match="InterpolatingProcess"):
        DFMCorrector(dependent, nl.MarkovOracle(*CHAIN[2], dependent))
    z, t = torch.zeros(2, 3, dtype=torch.long), torch.full((2,), 0.5)
    for make in CORRECTORS.values():
        with pytest.raises(ValueError, match="rows must be Bool of shape"):
            make(process, oracle).step(z, t, rows=torch.ones(2, 2, dtype=torch.bool))
        with pytest.raises(ValueError, match="t must have shape"):
            make(process, oracle).step(z, torch.full((3,), 0.5))


def test_a_forward_backward_corrector_takes_any_sampler():
    world = World("gidd")
    ancestral = nl.AncestralSampler(world.process, world.oracle)
    z, t = world.sample(100), world.at(100)
    a, b = (ForwardBackwardCorrector(world.process, p, span=0.3) for p in (ancestral, world.oracle))
    assert torch.equal(a.step(z, t, generator=generator()), b.step(z, t, generator=generator()))


def test_settings_that_are_not_given():
    """Those of GIDD's release for self-correction; and one token at a random position for Gibbs."""
    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(*CHAIN[2], process)
    for kind, settings in (
        (GibbsCorrector, {"tokens_per_step": 1, "positions": "random", "converges": True}),
        (ForwardBackwardCorrector, {"span": 0.1, "converges": False}),
        (DFMCorrector, {"size": 0.1, "converges": False}),
        (RemaskingCorrector, {"amount": 0.02}),
    ):
        corrector = kind(process, oracle)
        assert {name: getattr(corrector, name) for name in settings} == settings
    correction = SelfCorrection(oracle, support=process.support)
    assert repr(correction).endswith("time=0.01, temperature=0.1, tokens_per_step=1, patience=32)")
    for settings in ({"tokens_per_step": 2}, {"positions": "unlikely"}):
        assert not GibbsCorrector(process, oracle, **settings).converges


def test_correctors_print_in_a_line():
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(*CHAIN[2], process)
    for kind, make in CORRECTORS.items():
        text = repr(make(process, oracle))
        assert "\n" not in text and "MarkovOracle(2 states" in text
        assert make(process, oracle).kind == kind.split(",")[0]


@pytest.mark.parametrize("kind", CORRECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_any_precision_are_corrected_and_masks_never_drawn_from_them(kind, dtype):
    """A network that would write nothing but masks, which only the noise may."""

    class Mad(nl.Denoiser):
        def forward(self, z, t):
            return torch.zeros(*z.shape, 3, dtype=dtype).index_fill(-1, torch.tensor(2), 50.0)

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    z, t = torch.zeros(50, 8, dtype=torch.long), torch.full((50,), 1e-6)
    corrector = CORRECTORS[kind](process, Mad())
    for step in range(10):
        z = corrector.step(z, t, generator=generator(step))
    assert (z < 2).all()
