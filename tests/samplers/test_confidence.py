"""Samplers that choose where to reveal: their exact laws, the published rules by hand, and what they never do."""

import itertools
import math

import pytest
import torch

import noiselab as nl
from noiselab.samplers.confidence import BLIND, ConfidenceSampler, EntropyBoundedSampler
from noiselab.samplers.path_planning import PathPlanningSampler

MASK, LENGTH = 3, 4
INITIAL = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
TRANSITION = torch.tensor([[0.75, 0.2, 0.05], [0.1, 0.3, 0.6], [0.45, 0.05, 0.5]], dtype=torch.float64)
WORLD = torch.tensor(list(itertools.product(range(MASK), repeat=LENGTH)))
N = 20_000
MAKERS = [ConfidenceSampler, EntropyBoundedSampler, PathPlanningSampler]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def masking():
    return nl.masked(vocab_size=MASK + 1, mask_id=MASK)


def oracle_of(process):
    return nl.MarkovOracle(INITIAL, TRANSITION, process)


def world():
    process = masking()
    return process, oracle_of(process)


def statistic(x, law):
    """Chi-square of sequences against a law over WORLD; 80 degrees of freedom, so 80 +- 13 if it is the law."""
    assert (x < MASK).all()
    count = torch.bincount(x @ MASK ** torch.arange(LENGTH - 1, -1, -1), minlength=len(WORLD))
    expected = law * len(x)
    return ((count - expected) ** 2 / expected).sum().item()


LIMIT = 80 + 5 * math.sqrt(160)


def reveal_law(oracle, steps, where):
    """The exact law of a rule: `where(log_probs, drawn, masked, left)` gives the revealed positions for every outcome.

    Written without the library: sums over all candidates at all masks, state by state.
    """
    states = {(MASK,) * LENGTH: 1.0}
    for step in range(steps):
        left = math.floor(LENGTH * (steps - step - 1) / steps + 0.5 + 1e-9)
        after = {}
        for state, mass in states.items():
            masked = [i for i, token in enumerate(state) if token == MASK]
            if not masked:
                after[state] = after.get(state, 0) + mass
                continue
            law = oracle(torch.tensor([state]), torch.tensor([0.5]))[0].exp()
            for drawn in itertools.product(range(MASK), repeat=len(masked)):
                chance = mass * math.prod(law[i, v].item() for i, v in zip(masked, drawn, strict=True))
                new = list(state)
                for k in where([law[i, :MASK] for i in masked], drawn, left if step < steps - 1 else 0):
                    new[masked[k]] = drawn[k]
                after[tuple(new)] = after.get(tuple(new), 0) + chance
        states = after
    return torch.tensor([states.get(tuple(x), 0) for x in WORLD.tolist()], dtype=torch.float64)


def by_score(score):
    def where(laws, drawn, left):
        scores = [score(law, v) for law, v in zip(laws, drawn, strict=True)]
        order = sorted(range(len(laws)), key=lambda k: (-scores[k], k))
        return order[: max(len(laws) - left, 0)]

    return where


def entropy(law):
    return -sum(p * math.log(p) for p in law.tolist() if p > 0)


def within_bound(bound):
    def where(laws, drawn, left):
        entropies = [entropy(law) for law in laws]
        order = sorted(range(len(laws)), key=lambda k: entropies[k])
        k = 1
        while k < len(laws) and sum(entropies[i] for i in order[: k + 1]) - entropies[order[k]] <= bound:
            k += 1
        return order if left == 0 else order[:k]

    return where


HAND = {
    "confidence": lambda law, v: law[v].item(),
    "margin": lambda law, v: (law.sort().values[-1] - law.sort().values[-2]).item(),
    "entropy": lambda law, v: -entropy(law),
}


@pytest.mark.parametrize("steps", [LENGTH, 7])
@pytest.mark.parametrize("score", BLIND)
def test_one_token_a_step_is_exact_where_the_order_does_not_see_the_drawn_token(score, steps):
    process, oracle = world()
    sampler = ConfidenceSampler(process, oracle, score)
    x = sampler.sample((N, LENGTH), steps=steps, generator=generator(steps))
    assert sampler.converges and statistic(x, oracle.log_prob(WORLD).exp()) < LIMIT


def test_one_token_a_step_stays_exact_with_a_choice_temperature():
    process, oracle = world()
    sampler = ConfidenceSampler(process, oracle, "entropy", choice_temperature=0.7)
    x = sampler.sample((N, LENGTH), steps=LENGTH, generator=generator())
    assert sampler.converges and statistic(x, oracle.log_prob(WORLD).exp()) < LIMIT


def test_the_confidence_of_the_drawn_token_makes_likely_tokens_too_likely():
    process, oracle = world()
    sampler = ConfidenceSampler(process, oracle)
    exact = oracle.log_prob(WORLD).exp()
    for steps in (LENGTH, 16):
        x = sampler.sample((N, LENGTH), steps=steps, generator=generator(steps))
        assert statistic(x, exact) > 10 * LIMIT
        assert oracle.log_prob(x).mean() > -oracle.entropy(LENGTH) + 0.1
    assert not sampler.converges


def test_what_claims_to_converge():
    process, oracle = world()
    assert not ConfidenceSampler(process, oracle, lambda log_probs, drawn: drawn).converges
    assert not ConfidenceSampler(process, oracle, "entropy", draw=False).converges
    assert EntropyBoundedSampler(process, oracle, 0).converges
    assert not EntropyBoundedSampler(process, oracle, 0, score="confidence").converges
    assert not EntropyBoundedSampler(process, oracle, 0, draw=False).converges
    assert not EntropyBoundedSampler(process, oracle, 0.1).converges
    assert not PathPlanningSampler(process, oracle).converges


@pytest.mark.parametrize("steps", [2, 3, LENGTH])
@pytest.mark.parametrize("score", HAND)
def test_the_law_of_each_score_is_that_of_the_rule_summed_by_hand(score, steps):
    process, oracle = world()
    law = reveal_law(oracle, steps, by_score(HAND[score]))
    assert abs(law.sum() - 1) < 1e-12
    if steps == LENGTH and score in BLIND:  # the proof, to rounding
        torch.testing.assert_close(law, oracle.log_prob(WORLD).exp())
    x = ConfidenceSampler(process, oracle, score).sample((N, LENGTH), steps=steps, generator=generator(steps))
    assert statistic(x, law) < LIMIT


@pytest.mark.parametrize("bound", [0, 0.7, 1.2])
def test_the_entropy_bound_has_the_law_of_the_rule_summed_by_hand_and_keeps_its_word(bound):
    process, oracle = world()
    law, exact = reveal_law(oracle, LENGTH, within_bound(bound)), oracle.log_prob(WORLD).exp()
    x = EntropyBoundedSampler(process, oracle, bound).sample((N, LENGTH), steps=LENGTH, generator=generator(1))
    assert statistic(x, law) < LIMIT
    error = (exact * (exact / law).log()).sum().item()
    if bound == 0:
        assert abs(error) < 1e-12
    else:
        # At most length / 2 steps reveal more than one token.
        assert 1e-3 < error <= bound * LENGTH / 2 and statistic(x, exact) > 2 * LIMIT


def test_the_entropy_bound_needs_fewer_calls_for_a_larger_bound():
    process, oracle = world()
    calls = []
    for bound in (0, 0.7, 3, math.inf):
        counting = nl.denoisers.CallCounter(oracle)
        EntropyBoundedSampler(process, counting, bound).sample((1, 12), steps=12, generator=generator())
        calls.append(counting.calls)
    assert calls[0] == 12 > calls[1] > calls[2] > calls[3] == 1


def test_certain_tokens_are_revealed_beside_one_other_at_bound_zero():
    """After the first token of an alternating chain nothing is uncertain: two calls, or one for a known start."""
    process = nl.masked(vocab_size=3, mask_id=2)
    flip = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for initial, calls in (([0.5, 0.5], 2), ([1.0, 0.0], 1)):
        counting = nl.denoisers.CallCounter(nl.MarkovOracle(torch.tensor(initial), flip, process))
        x = EntropyBoundedSampler(process, counting, 0).sample((6, 9), steps=9, generator=generator())
        assert ((x[:, 1:] + x[:, :-1]) == 1).all() and counting.calls == calls


def test_the_last_step_of_the_entropy_bound_reveals_everything():
    process, oracle = world()
    x = EntropyBoundedSampler(process, oracle, 0).sample((50, 12), steps=3, generator=generator())
    assert (x < MASK).all()


class Table(nl.Denoiser):
    """Logits that depend on the tokens beside, so that every reveal changes them; float32."""

    def __init__(self, states, seed=0, predicts="leave_one_out"):
        super().__init__()
        self.table = torch.randn(3, states, states, generator=generator(seed)) * 2
        self.predicts, self.calls = predicts, 0

    def forward(self, z, t):
        self.calls += 1
        left, right = z.roll(1, -1), z.roll(-1, -1)
        place = torch.linspace(0, 1, z.shape[1])[:, None]
        return self.table[0][left] + self.table[1][right] + place * self.table[2][z]


def test_llada_by_hand():
    """Low-confidence remasking with arg-max tokens, a row and a token at a time; N divides into the steps."""
    states, length, steps = 7, 12, 4
    process, network = nl.masked(vocab_size=states, mask_id=6), Table(states)
    z = torch.full((5, length), 6)
    x = z.clone()
    for step in range(steps):
        logits = network(x, torch.full((5,), 1 - step / steps, dtype=torch.float64))
        logits[..., 6] = -torch.inf
        probs = logits.double().softmax(-1)
        for row in range(5):
            masked = [i for i in range(length) if x[row, i] == 6]
            tokens = {i: int(probs[row, i].argmax()) for i in masked}
            best = sorted(masked, key=lambda i: -probs[row, i, tokens[i]].item())[: length // steps]
            for i in best:
                x[row, i] = tokens[i]
    sampler = ConfidenceSampler(process, network, draw=False)
    assert torch.equal(list(sampler.walk(z, torch.linspace(1, 0, steps + 1)))[-1], x)
    left_to_right = ConfidenceSampler(process, network, lambda log_probs, drawn: drawn * 0, draw=False)
    assert not torch.equal(list(left_to_right.walk(z, torch.linspace(1, 0, steps + 1)))[-1], x)


@pytest.mark.parametrize("make", [ConfidenceSampler, PathPlanningSampler])
def test_exactly_the_scheduled_number_of_masks_is_left(make):
    cosine = nl.masked(vocab_size=4, mask_id=3, signal=nl.schedules.cosine())
    sampler, times = make(cosine, oracle_of(cosine)), torch.linspace(1, 0, 6, dtype=torch.float64)
    start = torch.full((20, 17), 3)
    for s, z in zip(times[1:], sampler.walk(start, times, generator=generator()), strict=True):
        left = math.floor(17 * (1 - cosine.alpha(s).item()) + 0.5 + 1e-9)
        assert ((z == 3).sum(-1) == left).all()


@pytest.mark.parametrize("make", MAKERS)
def test_tokens_with_clocks_of_their_own(make):
    """Those with s = t stay, masks too, and do not count; those at s = 0 are revealed; the others keep their number."""
    process, oracle = world()
    sampler = make(process, oracle)
    t = torch.full((30, 12), 0.75, dtype=torch.float64)
    z = process.corrupt(oracle.sample(30, 12, generator=generator()), t, generator=generator(1))
    s = t.clone()
    s[:, 3:6], s[:, 6:] = 0, 0.5
    kept = z.clone()
    after = sampler.step(z, t, s, generator=generator(2))
    assert torch.equal(z, kept) and torch.equal(after[:, :3], z[:, :3]) and (after[:, 3:6] < MASK).all()
    left = (after[:, 6:] == MASK).sum(-1)
    if make is PathPlanningSampler:
        assert (left == 3).all()
    elif make is ConfidenceSampler:
        assert torch.equal(left, (z[:, 6:] == MASK).sum(-1).clamp(max=3))
    revealed = z < MASK
    assert torch.equal(after[revealed], z[revealed]) == (make is not PathPlanningSampler)


SAMPLERS = {
    "confidence": lambda p, d: ConfidenceSampler(p, d, choice_temperature=2 * nl.t),
    "random": lambda p, d: ConfidenceSampler(p, d, "random"),
    "margin": lambda p, d: ConfidenceSampler(p, d, "margin", draw=False),
    "entropy bound": lambda p, d: EntropyBoundedSampler(p, d, 0.5),
    "path planning": lambda p, d: PathPlanningSampler(p, d, stochasticity=2),
    "a planner": lambda p, d: PathPlanningSampler(p, d, d),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_batched_equals_one_by_one_with_a_generator_each(name):
    process, oracle = world()
    sampler = SAMPLERS[name](process, oracle)
    together = sampler.sample((6, 9), steps=5, generator=[generator(seed) for seed in range(6)])
    alone = [sampler.sample((1, 9), steps=5, generator=[generator(seed)]) for seed in range(6)]
    assert torch.equal(together, torch.cat(alone)) and (together < MASK).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_not_called_where_nothing_can_change(name):
    process, oracle = world()
    counting = nl.denoisers.CallCounter(oracle)
    sampler = SAMPLERS[name](process, counting)
    z, t = oracle.sample(3, 6, generator=generator()), torch.full((3,), 0.4)
    for s in (t, torch.zeros(3)):
        assert torch.equal(sampler.step(z, t, s, generator=generator()), z)
    assert counting.calls == 0
    sampler.step(torch.where(z == 0, MASK, z), t, t * 0, generator=generator())
    assert counting.rows == (z == 0).sum()  # and then about masks only


@pytest.mark.parametrize(("eta", "planned", "rows"), [(0, False, 3), (1, False, 8), (0, True, 3), (1, True, 3)])
def test_planning_evaluates_visible_tokens_only_where_their_scores_count(eta, planned, rows):
    """Three masks of eight tokens; with a planner, or without remasking, the denoiser is evaluated at masks alone."""
    process, network = nl.masked(vocab_size=7, mask_id=6), Table(7)
    counting = nl.denoisers.CallCounter(network)
    sampler = PathPlanningSampler(process, counting, network if planned else None, stochasticity=eta)
    z = torch.tensor([[0, 6, 2, 6, 4, 5, 6, 1]])
    sampler.step(z, torch.tensor([0.5]), torch.tensor([0.25]), generator=generator())
    assert counting.rows == rows


def test_no_call_in_a_step_that_reveals_nothing():
    process, oracle = world()
    counting = nl.denoisers.CallCounter(oracle)
    ConfidenceSampler(process, counting).sample((10, 8), steps=64, generator=generator())
    assert counting.calls == 8


def test_the_choice_temperature_is_that_of_gumbel_noise():
    """One position of four is revealed; with temperature T it is chosen with probability proportional to p^(1/T)."""
    process = masking()

    class Steady(nl.Denoiser):
        def forward(self, z, t):
            return (1 + torch.arange(4.0))[:, None].mul(torch.tensor([0.5, 0, 0, 9])).expand(len(z), -1, -1)

    confidence = Steady()(torch.zeros(1, 4, dtype=torch.long), torch.ones(1))[0, :, :3].double().softmax(-1).amax(-1)
    z, t = torch.full((N, 4), MASK), torch.ones(N)
    for temperature in (0.5, 3):
        sampler = ConfidenceSampler(process, Steady(), choice_temperature=temperature, draw=False)
        after = sampler.step(z, t, torch.full((N,), 0.75), generator=generator())
        share = (after != MASK).double()
        assert (share.sum(-1) == 1).all()
        want = confidence ** (1 / temperature) / (confidence ** (1 / temperature)).sum()
        assert ((share.mean(0) - want).abs() < 5 * (want * (1 - want) / N).sqrt()).all()
    falling = ConfidenceSampler(process, Steady(), choice_temperature=3 * (nl.t - 0.75) ** 2, draw=False)
    after = falling.step(z, t, torch.full((N,), 0.75), generator=generator())  # none at s
    assert (after == torch.tensor([MASK, MASK, MASK, 0])).all()


def test_each_score_prefers_another_position():
    laws = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.55, 0.225, 0.225, 0.0], [0.6, 0.39, 0.01, 0.0]])

    class Three(nl.Denoiser):
        def forward(self, z, t):
            return laws.log().expand(len(z), -1, -1)

    for k, score in enumerate(["entropy", "margin", "confidence"]):
        sampler = ConfidenceSampler(masking(), Three(), score, draw=False)
        after = sampler.step(torch.full((1, 3), MASK), torch.ones(1), torch.full((1,), 2 / 3))
        assert (after[0] < MASK).tolist() == [i == k for i in range(3)]


def test_scores_of_your_own():
    process, oracle = world()
    seen = []

    def rare_first(log_probs, drawn):
        seen.append((log_probs.shape, drawn.shape))
        return -log_probs.gather(-1, drawn[:, None])[:, 0]

    rare = ConfidenceSampler(process, oracle, rare_first).sample((N, LENGTH), steps=LENGTH, generator=generator())
    law = reveal_law(oracle, LENGTH, by_score(lambda law, v: -law[v].item()))
    assert statistic(rare, law) < LIMIT and seen[0] == ((N * LENGTH, 4), (N * LENGTH,))
    # Not-a-number is the worst score, and the worst score never counts a revealed token instead of a mask.
    z, t = torch.tensor([[0, 0, MASK, MASK, MASK, MASK]]), torch.tensor([0.7])
    for scores, left in (([math.nan, 1, math.nan, 2], [2, 4]), ([-math.inf] * 4, [4, 5]), ([math.nan] * 4, [4, 5])):
        mine = ConfidenceSampler(process, oracle, lambda log_probs, drawn, scores=scores: torch.tensor(scores))
        after = mine.step(z, t, torch.tensor([1 / 3]), generator=generator())
        assert (after[0] == MASK).nonzero()[:, 0].tolist() == left
    wrong = ConfidenceSampler(process, oracle, lambda log_probs, drawn: log_probs)
    with pytest.raises(ValueError, match=r"one number for each position, \[4\]; got \[4, 4\]"):
        wrong.sample((1, 4), steps=2)


@pytest.mark.parametrize("score", ["confidence", "margin", "entropy"])
def test_nearly_certain_tokens_are_distinguished(score):
    """Sharp float32 logits: a softmax rounds all of these to probability 1, and the leftmost would be revealed first."""

    class Sharp(nl.Denoiser):
        def forward(self, z, t):
            gap = torch.tensor([20.0, 25.0, 40.0, 30.0])
            return torch.stack([gap, 0 * gap, 0 * gap, 99 + gap], -1).expand(len(z), -1, -1)

    sampler = ConfidenceSampler(masking(), Sharp(), score, draw=False)
    z = torch.full((1, 4), MASK)
    states = sampler.walk(z, torch.linspace(1, 0, 5))
    assert [(state < MASK)[0].tolist().index(True) for state in itertools.islice(states, 1)] == [2]
    assert Sharp()(z, torch.ones(1))[..., :3].softmax(-1).amax(-1).eq(1).all()


def test_noise_that_does_not_show_is_refused():
    class TwoMethods(nl.InterpolatingProcess):
        def alpha(self, t):
            return 1 - t

        def mixing(self, t):
            return torch.tensor([0.0, 0.0, 0.0, 1.0])

    data, betas = torch.arange(4) != 3, nl.processes.absorbing_betas(5)
    shown = [
        masking(),
        nl.processes.d3pm(nl.Absorbing(3, 4), betas),
        TwoMethods(data),
        nl.process.ChangeOfTime(masking(), nl.t**2),
    ]
    for process in shown:
        oracle = oracle_of(process)
        for make in (ConfidenceSampler, EntropyBoundedSampler):
            assert (make(process, oracle).sample((3, 6), steps=5, generator=generator()) < 3).all()
    hidden = [nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.1), nl.uniform(vocab_size=4), TwoMethods()]
    for process in hidden:
        for make in (ConfidenceSampler, EntropyBoundedSampler):
            with pytest.raises(ValueError, match=r"absorbing noise.*PathPlanningSampler or AncestralSampler"):
                make(process, oracle_of(process))
    rates = nl.processes.TokenRates(torch.ones(4), mask_id=3)
    for make in (ConfidenceSampler, EntropyBoundedSampler, PathPlanningSampler):
        with pytest.raises(ValueError, match="needs an InterpolatingProcess; got TokenRates"):
            make(rates, oracle_of(rates))


def test_bad_settings_are_refused():
    process, oracle = world()
    for wrong, message in [
        (lambda: ConfidenceSampler(process, oracle, "top"), "score must be one of confidence, margin, entropy, random"),
        (lambda: ConfidenceSampler(process, oracle, choice_temperature=-1), "choice_temperature must be non-negative"),
        (
            lambda: ConfidenceSampler(process, oracle, choice_temperature=nl.t - 0.5),
            "choice_temperature must be non-negative",
        ),
        (lambda: EntropyBoundedSampler(process, oracle, -0.1), "bound must be non-negative; got -0.1"),
        (lambda: EntropyBoundedSampler(process, oracle, math.nan), "bound must be non-negative; got nan"),
        (lambda: PathPlanningSampler(process, oracle, stochasticity=-1), "stochasticity must be .* finite; got -1"),
        (
            lambda: PathPlanningSampler(process, oracle, stochasticity=math.inf),
            "stochasticity must be .* finite; got inf",
        ),
        (
            lambda: PathPlanningSampler(process, oracle, nl.denoisers.Score(oracle, process)),
            "planner must be .* got one that predicts",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


def test_they_say_what_they_are():
    process, oracle = world()
    inside = f"{process}, {oracle}"
    assert repr(ConfidenceSampler(process, oracle)) == f"ConfidenceSampler({inside}, score=confidence)"
    annealed = ConfidenceSampler(process, oracle, "margin", choice_temperature=4.5 * nl.t, draw=False)
    assert repr(annealed) == f"ConfidenceSampler({inside}, score=margin, choice_temperature=4.5 * t, draw=False)"
    assert repr(EntropyBoundedSampler(process, oracle)) == f"EntropyBoundedSampler({inside}, bound=0.1, score=entropy)"
    planned = PathPlanningSampler(process, oracle, oracle, stochasticity=2)
    assert repr(planned) == f"PathPlanningSampler({inside}, {oracle}, stochasticity=2)"


# Path planning.


def p2_by_hand(z, t, s, u, denoiser, planner, eta, share):
    """The published step, a row and a token at a time: masks take candidates, all are ranked, the worst become masks."""
    mask = 6
    raw = denoiser(z, t)
    raw[..., mask] = -torch.inf
    probs = raw.double().softmax(-1)
    after = z.clone()
    for row in range(len(z)):
        length = z.shape[1]
        filled = [int(v) for v in z[row]]
        for i in range(length):
            if filled[i] == mask:
                filled[i] = int(nl.categorical.choose(probs[row, i], u[row, i, 0]))
        judge = probs[row]
        if planner is not None:
            judge = planner(torch.tensor([filled]), torch.zeros(1, dtype=torch.float64))[0]
            judge[:, mask] = -torch.inf
            judge = judge.double().softmax(-1)
        score = [
            math.log(probs[row, i, filled[i]]) if z[row, i] == mask else eta * math.log(judge[i, filled[i]])
            for i in range(length)
        ]
        order = sorted(range(length), key=lambda i: (-score[i], i))
        clean = order[: length - math.floor(length * share + 0.5)]
        for i in range(length):
            after[row, i] = filled[i] if i in clean else mask
    return after


@pytest.mark.parametrize("eta", [0.5, 1, 2])
@pytest.mark.parametrize("planned", [False, True])
def test_p2_by_hand(eta, planned):
    states, length = 7, 12
    process, network = nl.masked(vocab_size=states, mask_id=6), Table(states)
    planner = Table(states, seed=1, predicts="posterior") if planned else None
    sampler = PathPlanningSampler(process, network, planner, stochasticity=eta)
    z, times = torch.full((6, length), 6), torch.linspace(1, 0, 9, dtype=torch.float64)
    remasked = 0
    for step, (t, s) in enumerate(itertools.pairwise(times)):
        u = nl.categorical.uniforms(6, length, 3, generator=generator(step))
        want = p2_by_hand(z, t.expand(6), s.expand(6), u, network, planner, eta, s.item())
        after = sampler.step(z, t.expand(6), s.expand(6), generator=generator(step))
        assert torch.equal(after, want)
        remasked += ((z < 6) & (after == 6)).sum()
        z = after
    assert remasked > 0


def test_a_token_is_masked_again_where_the_model_no_longer_believes_in_it():
    """The chain forbids the third token: it has the worst score, at any stochasticity but 0."""
    process = nl.masked(vocab_size=3, mask_id=2)
    flip = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), flip, process)
    z, t, s = torch.tensor([[0, 1, 1, 1, 0, 1]]), torch.tensor([0.5]), torch.tensor([1 / 6])
    sampler = PathPlanningSampler(process, Likely(), stochasticity=1)
    assert sampler.step(z, t, s, generator=generator()).tolist() == [[0, 1, 2, 1, 0, 1]]
    fixed = PathPlanningSampler(process, Likely(), stochasticity=0)
    assert (fixed.step(z, t, s, generator=generator()) == 2).sum() == 1
    # The exact denoiser ignores that token for all others, and is certain of them.
    exact = PathPlanningSampler(process, oracle)
    assert oracle(z, t).argmax(-1).tolist() == [[0, 1, 0, 1, 0, 1]]
    after = exact.step(z, t, s, generator=generator())
    assert after.tolist() == [[0, 1, 2, 1, 0, 1]]
    assert exact.step(after, s, s * 0, generator=generator()).tolist() == [[0, 1, 0, 1, 0, 1]]
    # And where more than one has to be ignored: the right count, and data in the end.
    after = exact.step(torch.tensor([[0, 0, 2, 1, 1, 1]]), t, s, generator=generator())
    assert (after == 2).sum() == 1 and (exact.step(after, s, s * 0, generator=generator()) < 2).all()


class Likely(nl.Denoiser):
    """Believes that a token differs from its neighbours, and never for certain."""

    def forward(self, z, t):
        votes = torch.zeros(*z.shape, 3)
        for beside in (z.roll(1, -1), z.roll(-1, -1)):
            votes += torch.nn.functional.one_hot(beside, 3)
        return -2 * votes


def test_stochasticity_0_never_masks_again_and_is_the_confidence_sampler():
    states = 7
    process, network = nl.masked(vocab_size=states, mask_id=6), Table(states)
    z, times = torch.full((20, 15), 6), torch.linspace(1, 0, 8)
    planned = PathPlanningSampler(process, network, stochasticity=0, draw=False).walk(z, times)
    confident = ConfidenceSampler(process, network, draw=False).walk(z, times)
    for one, other in zip(planned, confident, strict=True):
        assert torch.equal(one, other)
    revising = PathPlanningSampler(process, network, stochasticity=1, draw=False).walk(z, times)
    assert not torch.equal(one, list(revising)[-1])
    # New tokens that are certain do not push old ones out either.
    certain = nl.MarkovOracle(torch.tensor([1.0, 0.0]), torch.eye(2), nl.masked(vocab_size=3, mask_id=2))
    sampler = PathPlanningSampler(certain.process, certain, stochasticity=0)
    z, t = torch.tensor([[2, 2, 2, 0, 0]]), torch.tensor([0.6])
    assert sampler.step(z, t, torch.tensor([0.4]), generator=generator()).tolist() == [[0, 2, 2, 0, 0]]


def test_a_larger_stochasticity_masks_more_tokens_again():
    process, oracle = world()
    changed = []
    for eta in (0, 0.5, 1, 2, 8):
        z, count = torch.full((200, 16), MASK), 0
        sampler = PathPlanningSampler(process, oracle, stochasticity=eta)
        for after in sampler.walk(z, torch.linspace(1, 0, 17), generator=generator()):
            count += ((z < MASK) & (after == MASK)).sum().item()
            z = after
        changed.append(count)
    assert changed[0] == 0 and changed == sorted(changed) and len(set(changed)) == 5


@pytest.mark.parametrize("planned", [False, True])
def test_planning_raises_the_likelihood(planned):
    process, oracle = world()
    sampler = PathPlanningSampler(process, oracle, oracle if planned else None)
    values = [
        oracle.log_prob(one.sample((500, 12), steps=4, generator=generator())).mean()
        for one in (nl.AncestralSampler(process, oracle), sampler)
    ]
    assert values[1] > values[0] + 1


HIDDEN = {
    "uniform": lambda: nl.uniform(vocab_size=4, special=[3]),
    "gidd": lambda: nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_noise_that_does_not_show_can_be_planned_too(name):
    """The share of noise is that of the schedule, the end is clean, and more steps help."""
    process = HIDDEN[name]()
    oracle = oracle_of(process)
    sampler = PathPlanningSampler(process, oracle)
    value = {}
    for steps in (1, 4, 32):
        x = sampler.sample((500, 12), steps=steps, generator=generator(steps))
        assert (x < MASK).all()
        value[steps] = oracle.log_prob(x).mean().item()
    assert value[1] + 2 < value[4] < value[32]
    assert value[32] > -oracle.entropy(12)  # too likely, as all choice by confidence
    exact, n = oracle.sample(1, 12, generator=generator()), 4000
    t, s = torch.full((n,), 1e-9), torch.full((n,), 5e-10)
    assert torch.equal(sampler.step(exact.expand(n, -1), t, s, generator=generator()), exact.expand(n, -1))


def test_hidden_noise_falls_on_the_scheduled_number_of_positions():
    """A process whose noise is one data token, shown to a model that never predicts it: it can be counted."""
    process = nl.Interpolation(1 - nl.t, {nl.Unigram(torch.tensor([0.0, 0.0, 1.0])): nl.t})

    class Never(nl.Denoiser):
        def forward(self, z, t):
            return torch.tensor([0.3, 0.0, -torch.inf]).expand(*z.shape, -1)

    sampler, times = PathPlanningSampler(process, Never()), torch.linspace(1, 0, 6, dtype=torch.float64)
    for s, z in zip(times[1:], sampler.walk(torch.full((9, 10), 2), times, generator=generator()), strict=True):
        assert ((z == 2).sum(-1) == math.floor(10 * s.item() + 0.5 + 1e-9)).all()


@pytest.mark.parametrize("make", MAKERS)
def test_a_token_that_neither_data_nor_noise_contains_stays_and_does_not_count(make):
    """Padding that moves with the rest: 5 of 8 tokens count, 5 * 0.6 masks are left."""
    process = nl.Interpolation(1 - nl.t, {nl.Absorbing(3, 5): nl.t}, support=torch.arange(5) < 3)
    z = torch.tensor([[3, 4, 3, 3, 4, 3, 3, 4]])
    after = make(process, Table(5)).step(z, torch.ones(1), torch.tensor([0.6]), generator=generator())
    assert torch.equal(after == 4, z == 4) and ((after == 3).sum() == 3 or make is EntropyBoundedSampler)


@pytest.mark.parametrize("make", MAKERS)
def test_nothing_is_masked_at_the_end_of_a_process_that_does_not_begin_clean(make):
    process = nl.masked(vocab_size=4, mask_id=3, signal=nl.schedules.geometric(1e-3, 20))
    x = make(process, Table(4)).sample((2, 1000), steps=3, clean=False, generator=generator())
    assert (x < 3).all() and 1000 * process.noise(torch.zeros(1, 1, dtype=torch.float64)).total() > 0.9
