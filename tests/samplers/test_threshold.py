"""Masks revealed by rules: the law of whole sequences by enumeration, what never changes, and what is refused."""

import itertools
import math

import pytest
import torch
from exact_worlds import NOISES, chi_square, generator, oracle_of, p_value

import noiselab as nl
from noiselab.samplers import (
    Acceptance,
    BlockSampler,
    ConfidenceThreshold,
    EntropyBound,
    EntropyThreshold,
    Factor,
    LocalMaxima,
    Quota,
    StableConfidence,
    ThresholdSampler,
    even_quotas,
)

MASK, LENGTH, N = 3, 4, 20_000
WORLD = list(itertools.product(range(MASK), repeat=LENGTH))


def world():
    process = NOISES["masked"]()
    return process, oracle_of(process)


def entropy(law):
    return -sum(p * math.log(p) for p in law if p > 0)


def law_of(where, oracle, steps=LENGTH, draw=True):
    """The law of whole sequences, summed over all proposals at all masks, state by state.

    **Arguments:**

    - `where`: masked positions, their laws, their proposed tokens -> the positions to be revealed.
    """
    states = {(MASK,) * LENGTH: 1.0}
    for step in range(steps):
        after = {}
        for state, mass in states.items():
            masked = [i for i, token in enumerate(state) if token == MASK]
            laws = oracle(torch.tensor([state]), torch.tensor([0.5]))[0].softmax(-1).tolist()
            laws = {i: laws[i][:MASK] for i in masked}
            best = [[max(range(MASK), key=lambda v, i=i: laws[i][v])] for i in masked]
            for tokens in itertools.product(range(MASK), repeat=len(masked)) if draw else itertools.product(*best):
                proposed = dict(zip(masked, tokens, strict=True))
                chance = mass * (math.prod(laws[i][v] for i, v in proposed.items()) if draw else 1)
                shown = masked if step == steps - 1 else where(masked, laws, proposed)
                new = tuple(proposed[i] if i in shown else token for i, token in enumerate(state))
                after[new] = after.get(new, 0) + chance
        states = after
    return torch.tensor([states.get(x, 0) for x in WORLD], dtype=torch.float64)


def best_of(masked, score, count=1):
    return sorted(masked, key=lambda i: (-score[i], i))[:count]


def by_confidence(threshold, drawn=False):
    def where(masked, laws, proposed):
        sure = {i: laws[i][proposed[i]] if drawn else max(laws[i]) for i in masked}
        return {i for i in masked if sure[i] >= threshold} | set(best_of(masked, sure))

    return where


def by_entropy(threshold):
    def where(masked, laws, proposed):
        doubt = {i: entropy(laws[i]) for i in masked}
        return {i for i in masked if doubt[i] <= threshold} | set(best_of(masked, {i: -doubt[i] for i in masked}))

    return where


def by_bound(bound):
    def where(masked, laws, proposed):
        order = sorted(masked, key=lambda i: (entropy(laws[i]), i))
        taken, total = [], 0
        for i in order:
            if taken and total > bound:
                break
            taken.append(i)
            total += entropy(laws[i])
        return taken

    return where


def by_factor(factor):
    def where(masked, laws, proposed):
        order = best_of(masked, {i: max(laws[i]) for i in masked}, LENGTH)
        count = 0
        while count < len(order) and (count + 2) * (1 - max(laws[order[count]])) <= factor:
            count += 1
        return order[: max(count, 1)]

    return where


def by_peaks(low, high):
    def where(masked, laws, proposed):
        sure = {i: max(laws[i]) for i in masked}
        runs = [[i for _, i in run] for _, run in itertools.groupby(enumerate(masked), lambda pair: pair[1] - pair[0])]
        peaks = {best_of(run, sure)[0] for run in runs}
        return {i for i in peaks if sure[i] > low} | {i for i in masked if sure[i] > high} | set(best_of(masked, sure))

    return where


RULES = {
    "confidence, 0.55": (ConfidenceThreshold(0.55), by_confidence(0.55)),
    "confidence of the drawn token, 0.7": (
        ConfidenceThreshold(0.7, confidence="proposed"),
        by_confidence(0.7, drawn=True),
    ),
    "confidence of the drawn token, 1": (ConfidenceThreshold(1, confidence="proposed"), by_confidence(1, drawn=True)),
    "entropy, 0.95": (EntropyThreshold(0.95), by_entropy(0.95)),
    "entropy bound, 0.9": (EntropyBound(0.9), by_bound(0.9)),
    "factor, 1": (Factor(1.0), by_factor(1.0)),
    "local maxima": (LocalMaxima(0.4, 0.55), by_peaks(0.4, 0.55)),
    "two a step": (
        Quota(2, order="entropy"),
        lambda m, laws, p: best_of(m, {i: -entropy(laws[i]) for i in m}, 2),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_the_law_is_that_of_the_rule_by_enumeration(name):
    """And it is not that of the data: each of these rules has a bias, and says so."""
    (process, oracle), (rule, where) = world(), RULES[name]
    sampler = ThresholdSampler(process, oracle, rule, draw=True)
    law, truth = law_of(where, oracle), oracle.log_prob(torch.tensor(WORLD)).exp()
    x = sampler.sample((N, LENGTH), steps=LENGTH, generator=generator(1))
    assert chi_square(x, law) > 1e-3
    assert not sampler.converges and chi_square(x, truth) < 1e-4
    assert (truth * (truth / law).log()).sum() > 1e-4


EXACT = {
    "threshold 1": ConfidenceThreshold(1),
    "entropy 0": EntropyThreshold(0),
    "bound 0": EntropyBound(0),
    "factor 0": Factor(0),
    "one by confidence": Quota(1),
    "one from left to right": Quota(1, order="position"),
    "one by entropy": Quota([1, 1], order="entropy"),
}


@pytest.mark.parametrize("name", EXACT)
def test_one_token_a_step_without_regard_to_it_is_exact(name):
    process, oracle = world()
    sampler = ThresholdSampler(process, oracle, EXACT[name], draw=True)
    assert sampler.converges and p_value(sampler, steps=LENGTH) > 1e-3
    blocks = BlockSampler(sampler, 2)
    assert blocks.converges and p_value(blocks, n=4000, steps=2) > 1e-3
    assert not ThresholdSampler(process, oracle, EXACT[name]).converges  # most probable tokens are no draws


def test_the_law_of_one_token_a_step_is_that_of_the_data_to_rounding():
    _, oracle = world()
    truth = oracle.log_prob(torch.tensor(WORLD)).exp()
    for where in (by_confidence(1), by_entropy(0), by_bound(0), by_factor(0)):
        torch.testing.assert_close(law_of(where, oracle), truth)
    assert (law_of(by_confidence(1, drawn=True), oracle) - truth).abs().sum() > 0.05


@pytest.mark.parametrize("draw", [False, True])
def test_certain_tokens_are_revealed_together(draw):
    """After the first token of an alternating chain nothing is uncertain: two evaluations at the strictest setting."""
    process = nl.masked(vocab_size=3, mask_id=2)
    flip = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), process)
    for rule in (ConfidenceThreshold(1), EntropyThreshold(0), EntropyBound(0), Factor(0)):
        counting = nl.denoisers.CallCounter(flip)
        x = ThresholdSampler(process, counting, rule, draw=draw).sample((6, 9), steps=9, generator=generator())
        assert ((x[:, 1:] + x[:, :-1]) == 1).all() and counting.calls == 2


class Sure(nl.Denoiser):
    """Position l predicts token 0 with a given probability, whatever the tokens; it counts its calls."""

    def __init__(self, *chances):
        super().__init__()
        self.chances, self.calls = torch.tensor(chances, dtype=torch.float64), 0

    def forward(self, z, t):
        self.calls += 1
        p = self.chances[: z.shape[1], None]
        return torch.cat([p, (1 - p) / 2, (1 - p) / 2, 0 * p], -1).log().expand(len(z), -1, -1)


def revealed(rule, *chances, known=(), step=0):
    """The positions that a rule reveals in the step with this number, on one sequence."""
    process, network = NOISES["masked"](), Sure(*chances)
    z = torch.full((1, len(chances)), MASK)
    z[:, list(known)] = 0
    sampler, times = ThresholdSampler(process, network, rule), torch.linspace(1, 0, 20)
    states = [z, *itertools.islice(sampler.walk(z, times), step + 1)]
    return ((states[-2] == MASK) & (states[-1] != MASK))[0].nonzero()[:, 0].tolist()


def test_rules_by_hand():
    chances = (0.6, 0.95, 0.5, 0.91, 0.85)
    assert revealed(ConfidenceThreshold(0.9), *chances) == [1, 3]
    assert revealed(ConfidenceThreshold(0.9, minimum=3), *chances) == [1, 3, 4]
    assert revealed(ConfidenceThreshold(0.99), *chances) == [1]
    assert revealed(ConfidenceThreshold(0.5), *chances) == [0, 1, 2, 3, 4]
    # 1 - f / (r + 1) for f = 0.5: 0.75, 0.83, 0.875, 0.9: the third, 0.85, fails.
    assert revealed(Factor(0.5), *chances) == [1, 3]
    # 0.5, 0.67, 0.75, 0.8: the fourth, 0.6, fails.
    assert revealed(Factor(1.0), *chances) == [1, 3, 4]
    assert revealed(Factor(0.01), *chances) == [1]
    assert revealed(Quota(2, order="position"), *chances) == [0, 1]
    assert revealed(Quota(2, order="position"), *chances, step=1) == [2, 3]
    # Runs of masks: 0; 2, 3, 4.
    assert revealed(LocalMaxima(0.55, 0.99), *chances, known=[1]) == [0, 3]
    assert revealed(LocalMaxima(0.7, 0.99), *chances, known=[1]) == [3]
    assert revealed(LocalMaxima(0.7, 0.84), *chances, known=[1]) == [3, 4]
    assert revealed(LocalMaxima(0.99, 0.99), *chances, known=[1]) == [3]
    # Entropies: 0.95, 0.23, 1.04, 0.37, 0.53.
    assert revealed(EntropyThreshold(0.6), *chances) == [1, 3, 4]
    assert revealed(EntropyBound(0.6), *chances) == [1, 3, 4]  # 0.23 + 0.37 is within
    assert revealed(EntropyBound(0.59), *chances) == [1, 3]


def test_quotas_are_those_of_the_step_in_the_block():
    assert even_quotas(8, 3) == [3, 3, 2] and even_quotas(2, 4) == [1, 1, 0, 0] and even_quotas(6, 1) == [6]
    chances = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    assert [revealed(Quota([3, 2, 1]), *chances, step=k) for k in range(3)] == [[0, 1, 2], [3, 4], [5]]
    process, network = NOISES["masked"](), Sure(*chances)
    blocks = BlockSampler(ThresholdSampler(process, network, Quota([2, 1])), 3)
    seen = [(z == MASK).sum().item() for z in blocks.walk(torch.full((1, 6), MASK), torch.linspace(1, 0, 4))]
    assert seen == [4, 3, 3, 1, 0, 0] and network.calls == 4


def test_a_stable_prediction_is_needed_for_a_number_of_steps():
    """The network never changes: divergences are 0 from the second step on, and infinite in the first."""
    chances = (0.99, 0.5, 0.98, 0.97)
    for history, steps in ((1, [[0], [2, 3], [1]]), (2, [[0], [2], [3]]), (3, [[0], [2], [3], [1]])):
        rule = StableConfidence(0.01, 0.9, history=history)
        assert [revealed(rule, *chances, step=k) for k in range(len(steps))] == steps
    # With three steps of history, the last token is stable in the fourth step, but not sure: the quota takes it.
    one = StableConfidence(0.01, 0.6, history=1, pick="most confident")
    assert [revealed(one, *chances, step=k) for k in range(3)] == [[0], [2], [3]]
    three = StableConfidence(0.01, 0.995, history=1, minimum=[1, 3])
    assert [revealed(three, *chances, step=k) for k in range(2)] == [[0], [1, 2, 3]]


def test_what_a_rule_keeps_belongs_to_the_walk():
    """Two walks of one sampler in turns are as one after the other; and a walk leaves nothing in the sampler."""
    process, oracle = world()
    sampler = ThresholdSampler(process, oracle, StableConfidence(0.2, 0.5, history=1), draw=True)
    blocks, times = BlockSampler(sampler, 3), torch.linspace(1, 0, 4)
    z = torch.full((5, 6), MASK)
    before = [dict(vars(part)) for part in (sampler, blocks, sampler.accept)]
    one = list(blocks.walk(z, times, generator=generator(1)))
    two = list(blocks.walk(z, times, generator=generator(2)))
    assert [dict(vars(part)) for part in (sampler, blocks, sampler.accept)] == before
    first, second = blocks.walk(z, times, generator=generator(1)), blocks.walk(z, times, generator=generator(2))
    for k in range(len(one)):
        assert torch.equal(next(first), one[k]) and torch.equal(next(second), two[k])
    fresh = BlockSampler(ThresholdSampler(process, oracle, sampler.accept, draw=True), 3)
    assert torch.equal(list(fresh.walk(z, times, generator=generator(1)))[-1], one[-1])


SAMPLERS = {name: rule for name, (rule, _) in RULES.items()} | {
    "stable": StableConfidence(0.3, 0.5, history=1),
    "a function": lambda found: found.rows & (found.confidence > 0.7) & (found.entropy < 0.9),
}


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_in_a_batch_or_alone(name, blocks):
    """Sequences that are finished early wait for the others, and are not evaluated."""
    process, oracle = world()

    def sample(batch, generators):
        sampler = ThresholdSampler(process, oracle, SAMPLERS[name], draw=True)
        sampler = BlockSampler(sampler, 3) if blocks else sampler
        return sampler.sample((batch, 7), steps=5, generator=generators)

    together = sample(3, [generator(i) for i in range(3)])
    alone = torch.cat([sample(1, [generator(i)]) for i in range(3)])
    assert torch.equal(together, alone) and (together < MASK).all()


def test_the_network_is_evaluated_at_masks_of_the_block_only_and_not_at_all_without_any():
    process, oracle = world()
    counting = nl.denoisers.CallCounter(oracle)
    BlockSampler(ThresholdSampler(process, counting, ConfidenceThreshold(0)), 2).sample((3, 8), steps=8)
    assert counting.calls == 4 and counting.rows == 3 * 8
    z, t = torch.zeros(2, 3, dtype=torch.long), torch.full((2,), 0.5)
    assert torch.equal(ThresholdSampler(process, counting).step(z, t, t / 2), z) and counting.calls == 4
    # What is compared with later predictions is evaluated beforehand, in all blocks behind.
    counting = nl.denoisers.CallCounter(oracle)
    BlockSampler(ThresholdSampler(process, counting, StableConfidence(0, 0)), 2).sample((1, 6), steps=2)
    assert counting.calls == 6 and counting.rows == 6 + 5 + 4 + 3 + 2 + 1


def test_the_last_step_reveals_all():
    process, oracle = world()
    x = ThresholdSampler(process, oracle, Quota(1)).sample((4, 9), steps=3)
    assert (x < MASK).all()
    none = ThresholdSampler(process, oracle, lambda found: torch.zeros_like(found.rows))
    states = list(none.walk(torch.full((2, 5), MASK), torch.linspace(1, 0, 4)))
    assert (states[1] == MASK).all() and (states[2] < MASK).all()


def test_revealed_tokens_and_those_that_do_not_move_stay():
    process, oracle = world()
    z = torch.tensor([[0, MASK, 2, MASK, MASK, 1]])
    t = torch.full((1, 6), 0.8, dtype=torch.float64)
    s = t.clone()
    s[:, :4] = 0.4
    everything = ThresholdSampler(process, oracle, lambda found: torch.ones_like(found.rows))
    kept, after = z.clone(), everything.step(z, t, s)
    assert torch.equal(z, kept) and (after != z)[0].nonzero()[:, 0].tolist() == [1, 3]


def test_drawing_nothing_uses_no_random_numbers():
    process, oracle = world()
    random = generator()
    before = random.get_state()
    list(ThresholdSampler(process, oracle).walk(torch.full((2, 5), MASK), torch.linspace(1, 0, 6), generator=random))
    assert torch.equal(random.get_state(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConfidenceThreshold(1.1), r"threshold must lie in \[0, 1\]; got 1.1"),
        (lambda: ConfidenceThreshold(math.nan), r"threshold must lie in \[0, 1\]; got nan"),
        (lambda: ConfidenceThreshold(minimum=0), "minimum must be at least 1; got 0"),
        (lambda: ConfidenceThreshold(minimum=[]), "minimum must have a number for each step"),
        (lambda: ConfidenceThreshold(minimum=[0, 0]), "minimum must have a number for each step"),
        (lambda: ConfidenceThreshold(minimum=[2, -1]), "minimum must be at least 0; got -1"),
        (lambda: ConfidenceThreshold(confidence="top"), "confidence must be 'largest' or 'proposed'; got 'top'"),
        (lambda: EntropyThreshold(-1), "threshold must be non-negative; got -1"),
        (lambda: EntropyBound(math.nan), "bound must be non-negative; got nan"),
        (lambda: Factor(-0.5), "factor must be non-negative and finite; got -0.5"),
        (lambda: LocalMaxima(0.9, 0.6), "low must be at most the threshold, 0.6; got 0.9"),
        (lambda: LocalMaxima(-1), r"low must lie in \[0, 1\]; got -1"),
        (lambda: Quota(0), "counts must be at least 1; got 0"),
        (lambda: Quota(order="right"), "order must be one of confidence, proposed, entropy, position; got 'right'"),
        (lambda: StableConfidence(history=0), "history must be at least 1; got 0"),
        (lambda: StableConfidence(pick="first"), "pick must be one of all, most stable, most confident; got 'first'"),
        (lambda: even_quotas(0, 2), "block_size must be at least 1; got 0"),
        (lambda: ThresholdSampler(*world(), 0.9), "accept must be a noiselab.samplers.Acceptance or a function"),
        (lambda: ThresholdSampler(*world(), ConfidenceThreshold), "accept must be a noiselab.samplers.Acceptance"),
        (
            lambda: BlockSampler(ThresholdSampler(*world(), Quota(5)), 4),
            "at most 4 tokens, the size of a block, may be accepted at least; got 5",
        ),
    ],
)
def test_what_is_refused(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rule_that_returns_no_mask_is_refused(unchecked):
    process, oracle = world()
    for rule in (lambda found: found.confidence, lambda found: found.rows[:, :2], lambda found: 0.9):
        with pytest.raises(ValueError, match=r"accept must return a mask, Bool \[2, 5\]; got"):
            ThresholdSampler(process, oracle, rule).sample((2, 5), steps=5)


class Careless(Acceptance):
    uses = ("log_largest",)

    def __call__(self, found):
        return found.rows & (found.change < 1)


def test_a_rule_that_reads_what_it_does_not_name_is_refused():
    with pytest.raises(ValueError, match="must name 'change' in its attribute `uses` to read it"):
        ThresholdSampler(*world(), Careless()).sample((2, 5), steps=5)


def test_noise_on_data_tokens_is_refused_and_another_sampler_named():
    """The one named first has thresholds, too, and takes this noise."""
    for name, other in (("uniform", nl.samplers.CommittingSampler), ("gidd", nl.samplers.JointThresholdSampler)):
        process = NOISES[name]()
        with pytest.raises(ValueError, match=rf"needs absorbing noise.*Use {other.__name__}, .*RenoisingSampler"):
            ThresholdSampler(process, oracle_of(process))
        other(process, oracle_of(process), threshold=0.9)


def test_other_sequences_in_a_walk_are_refused():
    process, oracle = world()
    sampler = ThresholdSampler(process, oracle)
    sizes = iter((4, 3))

    def advance(z, t, s, *, generator=None):
        size = next(sizes)
        return sampler.stages(z[:size], t[:size], s[:size])

    with pytest.raises(ValueError, match="a walk must keep its 4 sequences in all steps; got 3"):
        list(sampler.path(torch.full((4, 5), MASK), torch.linspace(1, 0, 3), advance=advance))


def test_they_print_their_settings():
    process, oracle = world()
    inside = f"{process}, {oracle}"
    for rule, said in {
        ConfidenceThreshold(): "ConfidenceThreshold(0.9)",
        ConfidenceThreshold(0.5, minimum=[2, 1], confidence="proposed"): (
            "ConfidenceThreshold(0.5, minimum=[2, 1], confidence='proposed')"
        ),
        EntropyThreshold(0.25, minimum=2): "EntropyThreshold(0.25, minimum=2)",
        EntropyBound(1): "EntropyBound(1)",
        Factor(): "Factor(1)",
        LocalMaxima(): "LocalMaxima(0.6, 0.9)",
        Quota([2, 1], order="entropy"): "Quota([2, 1], order='entropy')",
        StableConfidence(pick="most stable"): "StableConfidence(0.01, 0.9, history=2, pick='most stable')",
    }.items():
        assert repr(rule) == said
        assert repr(ThresholdSampler(process, oracle, rule)) == f"ThresholdSampler({inside}, {said})"
    assert repr(ThresholdSampler(process, oracle, draw=True)).endswith("ConfidenceThreshold(0.9), draw=True)")
