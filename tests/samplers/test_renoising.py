"""Entropy-bounded acceptance with renoising: its step by hand, its stopping rule, and where it is exact."""

import math

import pytest
import torch
from by_hand import World, fit_of_step
from exact_worlds import NOISES, generator, oracle_of, p_value

import noiselab as nl
from noiselab.samplers import (
    BlockSampler,
    ConfidenceThreshold,
    EntropyBound,
    EntropyBoundedSampler,
    Quota,
    RenoisingSampler,
    StableConfidence,
)

NOISE = {  # what replaces tokens at time s, by hand
    "uniform": lambda s: [1 / 3, 1 / 3, 1 / 3],
    "masked": lambda s: [0, 0, 1],
    "gidd": lambda s: [(c := 0.5 * math.sqrt(s * (1 - s))) / 2 / (c + s), c / 2 / (c + s), s / (c + s)],
}


def tempered(law, heat):
    powered = law ** (1 / heat)
    return powered / powered.sum()


def entropy(law):
    return -sum(p * math.log(p) for p in law.tolist() if p > 0)


def accepted(entropies, bound):
    """The positions in order of entropy, as long as the sum of the others accepted is within the bound."""
    found, total = set(), 0.0
    for i in sorted(range(len(entropies)), key=lambda i: (entropies[i], i)):
        if total > bound + 1e-12:
            break
        found.add(i)
        total += entropies[i]
    return found


@pytest.mark.parametrize(("name", "length"), [("uniform", 2), ("uniform", 3), ("gidd", 3), ("masked", 3)])
@pytest.mark.parametrize(("bound", "heat"), [(0, 1), (0.6, 1), (1.0, 0.5)])
def test_the_law_of_one_step(name, length, bound, heat):
    world, t, s = World(name, length), 0.7, 0.4
    possible = world.marginal(t) > 0

    def step(z):
        if not possible[world.noisy.index(z)]:
            return None
        laws = [tempered(law, heat) for law in world.posterior(z, t)]
        kept = accepted([entropy(law) for law in laws], bound)
        noise = torch.tensor(NOISE[name](s), dtype=torch.float64)
        # Without noise on data, what is visible stays.
        free = [i for i in range(length) if name == "masked" and z[i] != 2]
        return [torch.eye(3).double()[z[i]] if i in free else laws[i] if i in kept else noise for i in range(length)]

    sampler = RenoisingSampler(world.process(), world.oracle(), bound, temperature=heat)

    def advance(z, generator):
        return sampler.step(z, torch.full((len(z),), t), torch.full((len(z),), s), generator=generator)

    kernel = world.kernel(step)
    assert fit_of_step(world, advance, kernel, t) > 1e-3
    other = RenoisingSampler(world.process(), world.oracle(), bound, temperature=1.5 * heat)
    sampler = other
    if bound < 1:  # seen to fail
        assert fit_of_step(world, advance, kernel, t) < 1e-6


def test_temperature_is_that_of_the_beginning_of_a_step():
    world = World("uniform", 2)
    warm = RenoisingSampler(world.process(), world.oracle(), 9.0, temperature=0.4 + 0.4 * nl.t)
    same = RenoisingSampler(world.process(), world.oracle(), 9.0, temperature=0.6)
    z, time = torch.tensor(world.noisy).repeat(100, 1), torch.full((900,), 0.5)
    one, two = (a.step(z, time, time - 0.3, generator=generator()) for a in (warm, same))
    assert torch.equal(one, two)
    later = warm.step(z, time + 0.4, time - 0.3, generator=generator())
    assert not torch.equal(one, later)


@pytest.mark.parametrize("name", NOISES)
def test_the_last_step_takes_the_most_probable_tokens(name):
    process = NOISES[name]()
    oracle = oracle_of(process)
    z = process.corrupt(oracle.sample(50, 4, generator=generator()), torch.full((50,), 0.6), generator=generator(1))
    time = torch.full((50,), 0.6, dtype=torch.float64)
    x = RenoisingSampler(process, oracle).step(z, time, torch.zeros(50), generator=generator())
    assert torch.equal(x, nl.denoisers.Posterior(oracle, process)(z, time).argmax(-1))
    noisy = RenoisingSampler(process, oracle).clean(z, time, generator=generator())
    assert torch.equal(noisy, x)


def test_for_absorbing_noise_it_is_the_entropy_bounded_sampler():
    """With one position at a time both are exact; a larger bound gives both the same law."""
    process = NOISES["masked"]()
    exact = RenoisingSampler(process, oracle_of(process), 0, draw=True)
    assert exact.converges and p_value(exact, steps=4) > 1e-3
    counts = []
    for kind, options in ((RenoisingSampler, {"draw": True}), (EntropyBoundedSampler, {})):
        sampler = kind(process, oracle_of(process), 0.7, **options)
        assert not sampler.converges
        x = sampler.sample((20_000, 3), steps=3, generator=generator(5))
        counts.append(torch.bincount(x @ torch.tensor([9, 3, 1]), minlength=27).double())
    a, b = counts
    statistic = ((a - b) ** 2 / (a + b).clamp(min=1)).sum()
    assert statistic < 26 + 5 * math.sqrt(52)


def by_confidence(laws):
    """The positions with a most probable token above 0.6, and the most probable one."""
    sure = [max(law).item() for law in laws]
    return {i for i, c in enumerate(sure) if c >= 0.6} | {max(range(len(sure)), key=lambda i: sure[i])}


@pytest.mark.parametrize("name", ["uniform", "gidd"])
def test_another_rule_of_acceptance(name):
    """The law of one step by hand, where a rule by confidence decides; and that of the rule by entropy is the bound."""
    world, t, s = World(name, 3), 0.7, 0.4
    noise = torch.tensor(NOISE[name](s), dtype=torch.float64)

    def step(z):
        laws = world.posterior(z, t)
        return [laws[i] if i in by_confidence(laws) else noise for i in range(3)]

    def advance_by(sampler):
        return lambda z, random: sampler.step(z, torch.full((len(z),), t), torch.full((len(z),), s), generator=random)

    kernel, process, oracle = world.kernel(step), world.process(), world.oracle()
    right, wrong = (RenoisingSampler(process, oracle, accept=ConfidenceThreshold(c)) for c in (0.6, 0.95))
    assert fit_of_step(world, advance_by(right), kernel, t) > 1e-3
    assert fit_of_step(world, advance_by(wrong), kernel, t) < 1e-6
    z, time = torch.tensor(world.noisy).repeat(50, 1), torch.full((50 * len(world.noisy),), t)
    same = (RenoisingSampler(process, oracle, 0.6), RenoisingSampler(process, oracle, accept=EntropyBound(0.6)))
    one, two = (sampler.step(z, time, time - t + s, generator=generator()) for sampler in same)
    assert torch.equal(one, two)


def test_a_rule_that_accepts_one_token_is_exact_for_absorbing_noise():
    process = NOISES["masked"]()
    exact = RenoisingSampler(process, oracle_of(process), accept=Quota(1), draw=True)
    assert exact.converges and p_value(exact, steps=4) > 1e-3
    assert not RenoisingSampler(NOISES["gidd"](), oracle_of(NOISES["gidd"]()), accept=Quota(1), draw=True).converges
    assert not RenoisingSampler(process, oracle_of(process), accept=ConfidenceThreshold(0.5), draw=True).converges
    assert "accept=Quota(1)" in repr(exact)
    for rule, message in ((StableConfidence(), "must not compare"), (Quota, "accept must be")):
        with pytest.raises(ValueError, match=message):
            RenoisingSampler(process, oracle_of(process), accept=rule)


@pytest.mark.parametrize("name", ["uniform", "gidd"])
@pytest.mark.parametrize("bound", [0, 0.7])
def test_for_noise_on_data_it_is_not_exact_and_says_so(name, bound):
    sampler = RenoisingSampler(NOISES[name](), oracle_of(NOISES[name]()), bound, draw=True)
    assert not sampler.converges and p_value(sampler, steps=16) < 1e-10


def test_only_plain_settings_claim_to_converge():
    process = NOISES["masked"]()
    for options in (
        {},
        {"draw": True, "stability": 1},
        {"draw": True, "temperature": 0.9},
        {"draw": True, "bound": 0.1},
    ):
        assert not RenoisingSampler(process, oracle_of(process), **({"bound": 0} | options)).converges


class Script(nl.Denoiser):
    """Step k of sequence r predicts its k-th token everywhere, with its k-th probability; sequences by their first token."""

    predicts = "posterior"

    def __init__(self, tokens, chances, steps):
        super().__init__()
        self.tokens, self.chances, self.steps, self.seen = tokens, chances, steps, []

    def forward(self, z, t, rows=None):
        k = round(self.steps * (1 - float(t.max())))
        logits = torch.zeros(*z.shape, 3, dtype=torch.float64)
        for r in range(len(z)):
            p = self.chances[r][k]
            logits[r] = math.log((1 - p) / 2)
            logits[r, :, self.tokens[r][k]] = math.log(p)
        self.seen.append(rows.any(-1).tolist())
        return logits[rows]


def test_a_sequence_stops_when_it_is_stable_and_certain():
    """Entropies: 0.0112 for 0.999, 0.0629 for 0.99, 0.394 for 0.9."""
    tokens = [[1, 1, 1, 1, 1, 1], [2, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 2], [0, 1, 0, 1, 0, 1]]
    chances = [[0.99] * 6, [0.99] * 6, [0.9] * 5 + [0.99], [0.999] * 6]
    # With stability 2 and confidence 0.1: the first stops in its third step; the second when it says 1 for the third
    # time, in the last step; the third is stable but not certain; the last is never stable.
    wanted = {0: [3, 6, 6, 6], 1: [2, 3, 6, 6], 2: [3, 6, 6, 6]}
    results = {0: [1, 2, 0, 0], 1: [1, 0, 2, 1], 2: [1, 1, 2, 1]}
    process = nl.uniform(vocab_size=3)
    for stability in (1, 2):
        script = Script(tokens, chances, 6)
        sampler = RenoisingSampler(process, script, 0.1, stability=stability, confidence=0.1)
        states = list(sampler.run((4, 5), steps=6, generator=generator()))
        evaluations = torch.tensor(script.seen).sum(0).tolist()
        assert evaluations == wanted[stability]
        x = states[-1][-1].z
        assert torch.equal(x, torch.tensor(results[stability])[:, None].expand(4, 5))
        assert len(states) == 1 + 6 + 1
    script = Script(tokens, chances, 6)
    sampler = RenoisingSampler(process, script, 0.1, stability=0, confidence=0.1)
    x = sampler.sample((4, 5), steps=6, generator=generator())
    # Without a demand on stability, certainty is enough: in the first step for three, in the last for the third.
    assert torch.tensor(script.seen).sum(0).tolist() == [1, 1, 6, 1] and x[:, 0].tolist() == [1, 2, 2, 0]


def test_all_stopped_is_the_end():
    process, steps = nl.uniform(vocab_size=3), 20
    sampler = RenoisingSampler(process, Script([[1] * 20] * 2, [[0.999] * 20] * 2, steps), stability=1, confidence=0.1)
    states = list(sampler.run((2, 3), steps=steps, generator=generator()))
    assert len(states) == 1 + 2 + 1 and (states[-1][-1].z == 1).all()


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("blocks", [False, True])
def test_in_a_batch_or_alone(name, blocks):
    process = NOISES[name]()

    def sample(batch, generators):
        sampler = RenoisingSampler(
            process, oracle_of(process), 0.7, temperature=0.5 + nl.t / 2, stability=1, confidence=0.4
        )
        around = BlockSampler(sampler, 2) if blocks else sampler
        return around.sample((batch, 5), steps=8, generator=generators)

    together = sample(4, [generator(i) for i in range(4)])
    alone = torch.cat([sample(1, [generator(i)]) for i in range(4)])
    assert torch.equal(together, alone) and (together < 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": -1}, "bound must"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"temperature": nl.t}, "temperature must be positive"),
        ({"stability": -1}, "stability must"),
        ({"confidence": -0.1}, "confidence must"),
    ],
)
def test_settings_out_of_range(options, message):
    process = NOISES["uniform"]()
    with pytest.raises(ValueError, match=message):
        RenoisingSampler(process, oracle_of(process), **options)


def test_it_prints_its_settings():
    process = NOISES["uniform"]()
    sampler = RenoisingSampler(process, oracle_of(process), temperature=0.4 + 0.4 * nl.t, stability=1)
    assert repr(sampler).endswith("bound=0.1, temperature=0.4 + 0.4 * t, stability=1, confidence=0.005)")
