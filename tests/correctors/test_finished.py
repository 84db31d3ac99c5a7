"""Correctors and samplers that revise finished sequences, against laws by enumeration."""

import itertools

import pytest
import torch
from by_hand import World, fit

import noiselab as nl
from noiselab.correctors import BalancedCorrector, CorrectorReviser, ResamplingReviser
from noiselab.denoisers import EarliestTime, Temperature

SEEDED = lambda seed=0: torch.Generator().manual_seed(seed)  # noqa: E731


def clean_conditionals(world, x):
    """p(x_i = v | all other tokens), [i, v], from the law of clean sequences alone."""
    law = torch.zeros(world.length, len(world.initial), dtype=torch.float64)
    for i, v in itertools.product(range(world.length), range(len(world.initial))):
        law[i, v] = world.chance((*x[:i], v, *x[i + 1 :]))
    return law / law.sum(-1, keepdim=True)


def counts_of(world, reviser, n):
    """How often each clean sequence becomes each other one."""
    z = torch.tensor(world.clean).repeat(n, 1)
    reviser.batch_size = len(z)
    after = reviser(z, generator=SEEDED()).tokens
    states = len(world.initial)
    code = lambda x: (x * states ** torch.arange(world.length - 1, -1, -1)).sum(-1)  # noqa: E731
    return torch.bincount(code(z) * len(world.clean) + code(after), minlength=len(world.clean) ** 2)


def moves(world, choose_position):
    """The kernel of one Gibbs move of clean tokens."""
    want = torch.zeros(len(world.clean), len(world.clean), dtype=torch.float64)
    for n, x in enumerate(world.clean):
        law = clean_conditionals(world, x)
        for i, chance in choose_position(law, x):
            for v, p in enumerate(law[i].tolist()):
                want[n, world.clean.index((*x[:i], v, *x[i + 1 :]))] += chance * p
    return want


def anywhere(law, x):
    return [(i, 1 / len(x)) for i in range(len(x))]


def least(law, x):
    own = [law[i, v].item() for i, v in enumerate(x)]
    first = [i for i, p in enumerate(own) if p < min(own) + 1e-9]
    return [(i, 1 / len(first)) for i in first]


@pytest.mark.parametrize("name", ["uniform", "gidd"])
@pytest.mark.parametrize(("positions", "rule"), [("random", anywhere), ("unlikely", least)])
def test_a_gibbs_move_of_finished_sequences_is_the_enumerated_one(name, positions, rule):
    world = World(name, 3)
    want, law = moves(world, rule), world.data
    reviser = CorrectorReviser(nl.GibbsCorrector(world.process(), world.oracle(), positions=positions), steps=1)
    assert fit(counts_of(world, reviser, 30_000 // len(world.clean)), want) > 1e-4
    # Moves at random positions keep the law of the data; those at the least probable ones make sequences too probable.
    assert ((law @ want - law).abs().sum() < 1e-12) == (positions == "random")
    nats = torch.tensor([world.chance(x) for x in world.clean]).log().double()
    assert ((law @ want) @ nats > law @ nats + 0.01) == (positions == "unlikely")


def test_one_step_of_gidds_rule_is_the_enumerated_one():
    """Every position draws a proposal at the temperature; the most probable one that differs is taken; of ties, the first."""
    world, heat = World("gidd", 2), 0.7
    want = torch.zeros(len(world.clean), len(world.clean), dtype=torch.float64)
    for n, x in enumerate(world.clean):
        law = world.leave_one_out(x, 0.01)[:, : len(world.initial)] ** (1 / heat)
        law = law / law.sum(-1, keepdim=True)
        for proposal in world.clean:
            score = [law[i, v].item() if v != x[i] else 0.0 for i, v in enumerate(proposal)]
            best = max(range(len(x)), key=score.__getitem__)
            taken = tuple(proposal[i] if i == best and score[i] > 0 else v for i, v in enumerate(x))
            chance = torch.tensor([law[i, v] for i, v in enumerate(proposal)]).prod().item()
            want[n, world.clean.index(taken)] += chance
    process = world.process()
    rule = nl.SelfCorrection(world.oracle(process), temperature=heat, support=process.support)
    assert fit(counts_of(world, CorrectorReviser(rule, steps=1), 10_000), want) > 1e-4
    assert (world.data @ want - world.data).abs().sum() > 0.02  # it does not sample


def test_a_jump_without_noise_draws_each_token_from_its_posterior():
    world, t = World("gidd", 2), 0.3
    want = torch.zeros(len(world.clean), len(world.clean), dtype=torch.float64)
    for n, x in enumerate(world.clean):
        law = world.posterior(x, t)
        for m, y in enumerate(world.clean):
            want[n, m] = law[0, y[0]] * law[1, y[1]]
    process = world.process()
    sampler = nl.AncestralSampler(process, world.oracle(process))
    jump = ResamplingReviser(sampler, time=t, steps=0, noise=False)
    assert fit(counts_of(world, jump, 10_000), want) > 1e-4


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_resampling_adds_the_noise_of_the_time_and_steps_back(name):
    """q_t(z | x), then the reverse step to t = 0: for a single token this leaves the law of the data."""
    world, t = World(name, 2), 0.6
    states = len(world.initial)
    inside = [world.noisy.index(x) for x in world.clean]
    want = world.sequences(t) @ world.ancestral(t, 1e-9)[:, inside]
    process = world.process()
    reviser = ResamplingReviser(nl.AncestralSampler(process, world.oracle(process)), time=t, steps=1)
    assert want.shape == (states**2, states**2)
    assert fit(counts_of(world, reviser, 40_000 // len(world.clean)), want) > 1e-4


def test_evaluations_are_counted_and_rows_are_kept():
    world = World("gidd", 3)
    process = world.process()
    oracle = world.oracle(process)
    z = torch.tensor(world.clean)
    rows = torch.tensor([True, False, True]).expand(z.shape)
    sampler = nl.AncestralSampler(process, oracle)
    for reviser, cost in (
        (CorrectorReviser(nl.GibbsCorrector(process, oracle), steps=5), 5 * len(z)),
        (ResamplingReviser(sampler, time=0.5, steps=0, noise=False), len(z)),
        (CorrectorReviser(BalancedCorrector(process, oracle, level=0.3)), None),
        (ResamplingReviser(sampler, time=0.5, steps=3), None),
        (CorrectorReviser(nl.SelfCorrection(oracle, process=process), steps=3), None),
    ):
        found = reviser(z, rows=rows, generator=SEEDED())
        assert torch.equal(found.tokens[:, 1], z[:, 1]) and (found.tokens < 2).all()
        assert found.evaluations > 0 if cost is None else found.evaluations == cost
        many = type(reviser).__call__(reviser, z.repeat(3, 1), rows=rows.repeat(3, 1), generator=SEEDED(1)).tokens
        assert (many != z.repeat(3, 1)).any(), reviser
        assert type(reviser).__name__ in repr(reviser)


class Ages(nl.Corrector):
    """Adds to each token the number of the step, up to 2, and keeps the times that it is given."""

    def step(self, z, t, *, rows=None, generator=None):
        self.times = [*getattr(self, "times", []), *t.tolist()]
        return (z + 1).clamp(max=2)


def test_steps_are_made_at_one_time_until_nothing_changes():
    world = World("uniform", 3)
    z = torch.zeros(3, 3, dtype=torch.long)
    for settings, steps, time in (
        ({"steps": 5}, 5, 0.0),
        ({"steps": 5, "settles": True}, 3, 0.0),
        ({"steps": 1, "time": 0.3, "settles": True}, 1, 0.3),
    ):
        ages = Ages(nl.uniform(vocab_size=3), nl.MarkovOracle(torch.ones(3) / 3, torch.ones(3, 3) / 3, world.process()))
        revised = CorrectorReviser(ages, **settings)(z)
        assert ages.times == [time] * 3 * steps and (revised.tokens == min(2, steps)).all()


@pytest.mark.parametrize("make", [CorrectorReviser, lambda rule, **settings: rule], ids=["corrector", "sampler"])
def test_a_sequence_is_revised_alone_as_in_a_batch(make):
    world = World("gidd", 3)
    process = world.process()
    oracle = world.oracle(process)
    revisers = [
        lambda size: CorrectorReviser(BalancedCorrector(process, oracle, level=0.3), batch_size=size),
        lambda size: ResamplingReviser(nl.AncestralSampler(process, oracle), time=0.5, steps=2, batch_size=size),
    ]
    reviser = revisers[make is not CorrectorReviser]
    z = torch.tensor(world.clean)
    seeds = lambda: [SEEDED(i) for i in range(len(z))]  # noqa: E731
    together = reviser(100)(z, generator=seeds())
    for size in (1, 3):
        assert torch.equal(reviser(size)(z, generator=seeds()).tokens, together.tokens)


def test_the_earliest_time_is_the_one_that_the_network_gets():
    world = World("gidd", 2)
    oracle = world.oracle()
    z = torch.tensor(world.clean)
    careful = EarliestTime(oracle, 0.2)
    for t, seen in ((0.0, 0.2), (0.2, 0.2), (0.7, 0.7)):
        at, want = torch.full((len(z),), t), torch.full((len(z),), seen, dtype=torch.float64)
        assert torch.allclose(careful(z, at), oracle(z, want), atol=1e-6)
        rows = torch.tensor([True, False]).expand(z.shape)
        assert torch.allclose(careful(z, at, rows), oracle(z, want)[rows], atol=1e-6)
    both = torch.tensor([[0.0, 0.7]]).expand(z.shape)
    assert torch.allclose(careful(z, both), oracle(z, both.double().clamp(min=0.2)))
    assert Temperature(careful, 0.5).predicts == "leave_one_out"
    assert repr(careful).endswith("time=0.2)")


def test_what_does_not_fit_is_refused(unchecked):
    world = World("gidd", 2)
    process = world.process()
    oracle = world.oracle(process)
    sampler = nl.AncestralSampler(process, oracle)
    with pytest.raises(ValueError, match=r"corrector must be a noiselab\.Corrector; got AncestralSampler"):
        CorrectorReviser(sampler)
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        CorrectorReviser(nl.GibbsCorrector(process, oracle), steps=0)
    with pytest.raises(ValueError, match=r"time must lie in \[0, 1\]; got 1.5"):
        CorrectorReviser(nl.GibbsCorrector(process, oracle), time=1.5)
    for settings in ({"time": 0.1}, {"settles": True}):
        with pytest.raises(ValueError, match="must be left out for BalancedCorrector, which has its own time"):
            CorrectorReviser(BalancedCorrector(process, oracle), **settings)
    with pytest.raises(ValueError, match=r"sampler must be a noiselab.Sampler; got MarkovOracle"):
        ResamplingReviser(oracle, time=0.5, steps=1)
    with pytest.raises(ValueError, match=r"time must lie in \[0, 1\]; got 1.5"):
        ResamplingReviser(sampler, time=1.5, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 0; got -1"):
        ResamplingReviser(sampler, time=0.5, steps=-1)
    with pytest.raises(ValueError, match=r"time must lie in \[0, 1\]; got -1"):
        EarliestTime(oracle, -1)
    with pytest.raises(ValueError, match=r"inner must predict leave-one-out .*; got 'posterior'"):
        EarliestTime(nl.denoisers.Posterior(oracle, process), 0.1)


@pytest.mark.parametrize("kind", ["committing", "drafts"])
def test_what_a_sampler_keeps_from_step_to_step_is_kept(kind):
    world = World("gidd" if kind == "committing" else "masked", 6)
    process = world.process()
    oracle = nl.MarkovOracle(torch.tensor(world.initial), torch.tensor(world.transition), process)
    rule = nl.samplers.ConfidenceThreshold(0.95)
    sampler = {
        "committing": lambda: nl.samplers.CommittingSampler(process, oracle, 0.9),
        "drafts": lambda: nl.samplers.DraftSampler(process, oracle, rule, every=2),
    }[kind]()
    x = torch.randint(len(world.initial), (64, 6), generator=SEEDED(1))
    random, t = SEEDED(), torch.full((64,), 0.8, dtype=torch.float64)
    z = process.corrupt(x, t, generator=random)
    want = list(sampler.walk(z, torch.linspace(0.8, 0, 7, dtype=torch.float64), generator=random))[-1]
    got = ResamplingReviser(sampler, time=0.8, steps=6)(x, generator=SEEDED()).tokens
    assert torch.equal(got, want)
