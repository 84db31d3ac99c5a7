"""Self-conditioning: what a network is conditioned on, in every step of every walk, is what it predicted the step before."""

import itertools

import pytest
import torch
from exact_worlds import generator, oracle_of

import noiselab as nl
from noiselab.denoisers import ActiveOnly, CallCounter, SelfConditioned, Support, Temperature
from noiselab.samplers import BlockSampler, EarlyStopping, EndToken, RenoisingSampler


class Recording(SelfConditioned):
    """Says what it was conditioned on, and predicts something that depends on it, on its tokens and on the time."""

    def __init__(self, predicts="posterior"):
        super().__init__()
        self.predicts, self.log = predicts, []
        table = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        self.register_buffer("table", table)

    def forward(self, z, t):
        before = self.previous(0, z)
        logits = self.table[z, z.roll(1, -1)] + t.double().view(len(z), -1)[..., None]
        if before is not None:
            mixed = logits + 0.7 * before.logits.roll(1, -1)
            logits = torch.where(before.known[:, None, None], mixed, logits)
        self.log.append((before, logits))
        self.keep(0, logits)
        return logits


PROCESS = nl.uniform(vocab_size=3)


def test_each_step_reads_the_prediction_of_the_step_before():
    network = Recording()
    nl.samplers.PathPlanningSampler(PROCESS, network).sample((2, 4), steps=20, generator=generator())
    assert network.log[0][0] is None and len(network.log) > 10
    for (_, made), (before, _) in itertools.pairwise(network.log):
        assert torch.equal(before.logits, made) and before.known.all() and before.first == 0


def test_outside_of_a_walk_there_is_none():
    network, z, t = Recording(), torch.zeros(2, 4, dtype=torch.long), torch.full((2,), 0.5)
    sampler = nl.AncestralSampler(PROCESS, network)
    sampler.sample((2, 4), steps=4, generator=generator())
    network.log.clear()
    network(z, t), sampler.step(z, t, t / 2, generator=generator()), sampler.clean(z, t, generator=generator())
    assert [before for before, _ in network.log] == [None] * 3
    assert network.carried is None


def test_two_walks_of_one_sampler_do_not_mix():
    times, starts = torch.linspace(1, 0, 9), [torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)]

    def walks():
        sampler = RenoisingSampler(PROCESS, Recording(), 1.0)
        return [sampler.walk(z, times, generator=generator(k)) for k, z in enumerate(starts)]

    together = list(zip(*walks(), strict=True))
    apart = list(zip(*[list(walk) for walk in walks()], strict=True))
    for one, two in zip(together, apart, strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.mark.parametrize(
    "wrap",
    [lambda d: d, CallCounter, ActiveOnly, lambda d: Temperature(d, 0.5), lambda d: Support(d, torch.ones(3) > 0)],
)
def test_wrappers_let_it_through(wrap):
    network = Recording()
    nl.samplers.PathPlanningSampler(PROCESS, wrap(network)).sample((2, 4), steps=8, generator=generator())
    assert network.log[0][0] is None
    for (_, made), (before, _) in itertools.pairwise(network.log):
        assert torch.equal(before.logits, made)  # its own prediction, whatever a wrapper makes of it


def test_the_renoising_sampler_feeds_back_what_it_draws_from():
    network = Recording()
    sampler = RenoisingSampler(PROCESS, network, 1.0, temperature=0.4 + 0.4 * nl.t)
    sampler.sample((2, 4), steps=8, generator=generator())
    assert len(network.log) == 8
    for k, ((_, made), (before, _)) in enumerate(itertools.pairwise(network.log)):
        assert torch.allclose(before.logits, made / (0.4 + 0.4 * (8 - k) / 8), rtol=1e-12, atol=0)


def test_it_is_fed_back_through_conversions_of_the_prediction():
    """A leave-one-out network is fed its posterior, which tokens are drawn from."""
    network = Recording("leave_one_out")
    RenoisingSampler(PROCESS, network, 1.0).sample((2, 4), steps=4, generator=generator())
    (_, made), (before, _) = network.log[1:3]
    assert not torch.allclose(before.logits.softmax(-1), made.softmax(-1), atol=1e-3)


def samplers(network):
    plain = RenoisingSampler(PROCESS, network, 0.7, stability=1, confidence=0.9)
    yield "renoising", plain
    yield "blocks", BlockSampler(plain, 2)
    yield "active only", RenoisingSampler(PROCESS, ActiveOnly(network), 0.7, stability=1, confidence=0.9)
    ancestral = nl.AncestralSampler(PROCESS, ActiveOnly(network))
    yield "stopped", EndToken(EarlyStopping(ancestral, 2), 2)
    corrector = nl.GibbsCorrector(PROCESS, network)
    yield "corrected", nl.PredictorCorrector(nl.AncestralSampler(PROCESS, network), corrector, when=(0.2, 0.8))


@pytest.mark.parametrize("name", [name for name, _ in samplers(Recording())])
def test_sequences_do_not_depend_on_their_batch(name):
    def sample(batch, generators):
        return dict(samplers(Recording()))[name].sample((batch, 4), steps=10, generator=generators)

    together = sample(5, [generator(i) for i in range(5)])
    alone = torch.cat([sample(1, [generator(i)]) for i in range(5)])
    assert torch.equal(together, alone)


def test_a_sequence_without_a_prediction_has_none_and_others_keep_theirs():
    network = Recording()
    predictions = nl.denoisers.self_conditioning.Predictions(3)
    z, t = torch.zeros(3, 2, dtype=torch.long), torch.full((3,), 0.5)
    for some in ([0, 2], [1, 2], [0, 1, 2]):
        index = torch.tensor(some)
        with nl.denoisers.self_conditioning.carrying([network], predictions):
            with nl.denoisers.selected_sequences(network, index):
                network(z[index], t[index])
    (_, first), (second, made), (third, _) = network.log
    assert second.known.tolist() == [False, True]
    assert torch.equal(second.logits[1], first[1])
    assert third.known.all() and torch.equal(third.logits[0], first[0]) and torch.equal(third.logits[1:], made)


def test_a_wrapper_that_does_not_name_its_sequences_is_refused():
    class Twice(nl.WrappedDenoiser):
        def forward(self, z, t, rows=None):
            return self.inner(z.repeat(2, 1), t.repeat(2), None).chunk(2)[0][rows]

    with pytest.raises(ValueError, match="at most once; got 4 for 2 sequences"):
        nl.AncestralSampler(PROCESS, Twice(Recording())).sample((2, 4), steps=4)


def test_other_denoisers_are_not_searched():
    assert nl.denoisers.self_conditioning.self_conditioned(oracle_of(PROCESS)) == []


def test_all_calls_of_one_step_read_the_step_before():
    network, predictions = Recording(), nl.denoisers.self_conditioning.Predictions(2)
    z, t = torch.zeros(2, 3, dtype=torch.long), torch.full((2,), 0.5)
    for tokens in (z, z + 1):
        with nl.denoisers.self_conditioning.carrying([network], predictions):
            network(tokens, t), network(tokens + 1, t)
    (a, _), (b, last), (c, _), (d, _) = network.log
    assert a is None and b is None and torch.equal(c.logits, last) and torch.equal(d.logits, last)
