"""Correctors between the steps of a sampler."""

import pytest
import torch
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.correctors.base import Corrector
from noiselab.correctors.flow_matching import DFMCorrector
from noiselab.correctors.forward_backward import ForwardBackwardCorrector
from noiselab.correctors.gibbs import GibbsCorrector
from noiselab.correctors.predictor_corrector import PredictorCorrector
from noiselab.correctors.self_correction import SelfCorrection
from noiselab.samplers.base import WrappedSampler

LENGTH = 6
CORRECTORS = {
    "gibbs": lambda process, oracle: GibbsCorrector(process, oracle),
    "forward-backward": lambda process, oracle: ForwardBackwardCorrector(process, oracle, span=0.2),
    "dfm": lambda process, oracle: DFMCorrector(process, oracle, size=0.3),
    "self-correct": lambda process, oracle: SelfCorrection(oracle, support=process.support),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def world(name):
    process = PROCESSES[name]()
    return process, nl.MarkovOracle(INITIAL, TRANSITION, process)


class Recording(Corrector):
    """Changes nothing, and keeps its arguments."""

    kind, converges = "recording", True

    def __init__(self, process, denoiser):
        super().__init__(process, denoiser)
        self.asked = []

    def step(self, z, t, *, rows=None, generator=None):
        self.asked.append((z, t, rows, generator))
        return z


def gap_and_distance(oracle, x):
    """How far the mean log-probability is from its exact mean, and the pairs' law from theirs (total variation)."""
    law, exact = INITIAL, torch.zeros(V, V, dtype=torch.float64)
    for _ in range(LENGTH - 1):
        exact[:4, :4] += law[:, None] * TRANSITION / (LENGTH - 1)
        law = law @ TRANSITION
    pairs = torch.bincount((x[:, :-1] * V + x[:, 1:]).flatten(), minlength=V * V) / x[:, 1:].numel()
    gap = (oracle.log_prob(x).mean() + oracle.entropy(LENGTH)).abs().item()
    return gap, 0.5 * (pairs - exact.flatten()).abs().sum().item()


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform on words", "mask and unigram"])
def test_exact_corrections_bring_few_steps_closer_to_the_data(name):
    """At the same steps of the predictor; the last of them is short, since nothing corrects it."""
    process, oracle = world(name)
    predictor, n = nl.AncestralSampler(process, oracle), 4000
    times = torch.tensor([1, 0.7, 0.4, 0.1, 0], dtype=torch.float64)
    gap, far = gap_and_distance(oracle, predictor.sample((n, LENGTH), times=times, generator=generator()))
    sampler = PredictorCorrector(predictor, GibbsCorrector(process, oracle), repeats=2 * LENGTH)
    x = sampler.sample((n, LENGTH), times=times, generator=generator(1))
    better_gap, nearer = gap_and_distance(oracle, x)
    assert sampler.converges and better_gap < 0.5 * gap and nearer < 0.6 * far


@pytest.mark.parametrize("kind", ["forward-backward", "dfm"])
def test_first_order_corrections_do_so_too(kind):
    process, oracle = world("gidd")
    predictor, n = nl.AncestralSampler(process, oracle), 4000
    times = torch.tensor([1, 0.7, 0.4, 0.1, 0], dtype=torch.float64)
    gap, far = gap_and_distance(oracle, predictor.sample((n, LENGTH), times=times, generator=generator()))
    sampler = PredictorCorrector(predictor, CORRECTORS[kind](process, oracle), repeats=10)
    better_gap, nearer = gap_and_distance(oracle, sampler.sample((n, LENGTH), times=times, generator=generator(1)))
    assert not sampler.converges and better_gap < 0.6 * gap and nearer < 0.8 * far


@pytest.mark.parametrize("kind", CORRECTORS)
def test_batched_equals_one_by_one_with_a_generator_each(kind):
    process, oracle = world("gidd")
    sampler = PredictorCorrector(nl.AncestralSampler(process, oracle), CORRECTORS[kind](process, oracle), repeats=2)
    together = sampler.sample((4, LENGTH), steps=5, generator=[generator(seed) for seed in range(4)])
    alone = [sampler.sample((1, LENGTH), steps=5, generator=[generator(seed)]) for seed in range(4)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("kind", CORRECTORS)
def test_so_it_is_where_sequences_and_tokens_have_times_of_their_own(kind):
    """A sequence that is not corrected draws no random numbers for what others need."""
    process, oracle = world("gidd")
    sampler = PredictorCorrector(nl.AncestralSampler(process, oracle), CORRECTORS[kind](process, oracle), (0.2, 0.6))
    t = torch.rand(6, LENGTH, generator=generator(1), dtype=torch.float64)
    s = torch.where(torch.rand(t.shape, generator=generator(2)) < 0.3, t, t / 2)
    t[0], s[0] = 0.9, 0.8  # not corrected at all
    z = process.corrupt(oracle.sample(6, LENGTH, generator=generator(3)), t, generator=generator(4))
    generators, others = ([generator(seed) for seed in range(6)] for _ in range(2))
    for _ in range(4):
        together = sampler.step(z, t, s, generator=generators)
        alone = [sampler.step(z[i : i + 1], t[i : i + 1], s[i : i + 1], generator=[others[i]]) for i in range(6)]
        assert torch.equal(together, torch.cat(alone)) and torch.equal(together[s == t], z[s == t])


def test_only_tokens_that_moved_are_corrected_and_only_when_it_is_said():
    process, oracle = world("gidd")
    predictor, recording = nl.AncestralSampler(process, oracle), Recording(process, oracle)
    sampler = PredictorCorrector(predictor, recording, when=(0.2, 0.5))
    t = torch.tensor([[0.6, 0.3, 0.3], [0.6, 0.6, 0.6], [0.3, 0.3, 0.3]], dtype=torch.float64)
    s = torch.tensor([[0.5, 0.3, 0.25], [0.55, 0.2, 0.0], [0.3, 0.21, 0.3]], dtype=torch.float64)
    z = process.corrupt(oracle.sample(3, 3, generator=generator()), t, generator=generator(1))
    after = sampler.step(z, t, s, generator=generator(2))
    ((seen, time, rows, _),) = recording.asked
    assert torch.equal(seen, after[[0, 2]]) and torch.equal(time, s[[0, 2]])
    assert rows.tolist() == [[False, False, True], [False, True, False]]
    assert torch.equal(after, predictor.step(z, t, s, generator=generator(2)))


def test_without_rows_of_their_own_all_sequences_are_handed_over_whole():
    process, oracle = world("gidd")
    recording, when = Recording(process, oracle), []

    def early(s):
        when.append(s)
        return s > 0.3

    sampler = PredictorCorrector(nl.AncestralSampler(process, oracle), recording, early, repeats=3)
    kinds = [[stage.kind for stage in stages] for stages in sampler.run((2, 3), steps=4, generator=generator())]
    assert kinds == [["noise"]] + 2 * [["denoise", *3 * ["recording"]]] + 2 * [["denoise"]] + [["clean"]]
    assert [t[0].item() for _, t, _, _ in recording.asked] == 3 * [0.75] + 3 * [0.5]
    assert all(rows is None and t.shape == (2,) for _, t, rows, _ in recording.asked)
    assert all(s.dtype == torch.float64 and s.shape == (2, 1) for s in when)


def test_by_default_clean_tokens_are_not_corrected():
    process, oracle = world("gidd")
    recording = Recording(process, oracle)
    sampler = PredictorCorrector(nl.AncestralSampler(process, oracle), recording)
    plain = nl.AncestralSampler(process, oracle).sample((5, 3), steps=4, generator=generator())
    assert torch.equal(sampler.sample((5, 3), steps=4, generator=generator()), plain)
    assert [t[0].item() for _, t, _, _ in recording.asked] == [0.75, 0.5, 0.25]
    everywhere = PredictorCorrector(nl.AncestralSampler(process, oracle), recording, when=(-1, 1))
    everywhere.sample((5, 3), steps=1)
    assert recording.asked[-1][1].tolist() == 5 * [0]


def test_correctors_are_nested_in_their_order():
    process, oracle = world("gidd")
    sampler = nl.AncestralSampler(process, oracle)
    for kind in ("gibbs", "self-correct"):
        sampler = PredictorCorrector(sampler, CORRECTORS[kind](process, oracle), repeats=2)
    assert not sampler.converges and isinstance(sampler, WrappedSampler)
    first = list(sampler.run((2, 3), steps=2, generator=generator()))[1]
    assert [stage.kind for stage in first] == ["denoise", "gibbs", "gibbs", "self-correct", "self-correct"]
    assert all((stage.time == 0.5).all() for stage in first)


def test_a_prompt_stays_through_self_correction_between_steps():
    """Tokens whose time stays 0."""
    process, oracle = world("gidd")
    sampler = PredictorCorrector(
        nl.AncestralSampler(process, oracle), SelfCorrection(oracle, process=process, tokens_per_step=2), repeats=3
    )
    n, prompt = 200, torch.tensor([0, 1, 0])
    t = torch.tensor([0, 0, 0, 0.5, 0.5, 0.5], dtype=torch.float64).expand(n, -1)
    x = oracle.sample(n, LENGTH, generator=generator())
    z = process.corrupt(torch.cat([prompt.expand(n, -1), x[:, 3:]], 1), t, generator=generator(1))
    plain = nl.AncestralSampler(process, oracle).step(z, t, t / 2, generator=generator(2))
    after = sampler.step(z, t, t / 2, generator=generator(2))
    assert torch.equal(after[:, :3], prompt.expand(n, -1)) and (after != plain).any()
    # Masks are for the sampler to fill.
    assert torch.equal(after == V - 1, plain == V - 1)


def test_bad_input_is_named():
    process, oracle = world("masked")
    predictor, gibbs = nl.AncestralSampler(process, oracle), GibbsCorrector(process, oracle)
    make = PredictorCorrector.__init__.__wrapped__
    with pytest.raises(ValueError, match=r"a corrector must be a noiselab.Corrector; got AncestralSampler"):
        make(PredictorCorrector.__new__(PredictorCorrector), predictor, predictor)
    for when in ((0.5, 0.5), (1, 0), (0, float("nan"))):
        with pytest.raises(ValueError, match="when must be two increasing times"):
            PredictorCorrector(predictor, gibbs, when)
    with pytest.raises(ValueError, match="repeats must be at least 1; got 0"):
        PredictorCorrector(predictor, gibbs, repeats=0)
    with pytest.raises(ValueError, match="when must be elementwise from times to Bool"):
        PredictorCorrector(predictor, gibbs, lambda s: s).sample((1, 2), steps=2)


def test_it_prints_in_a_line():
    process, oracle = world("masked")
    text = repr(PredictorCorrector(nl.AncestralSampler(process, oracle), GibbsCorrector(process, oracle), (0, 0.5), 2))
    assert text.startswith("PredictorCorrector(AncestralSampler(") and text.endswith("when=(0, 0.5), repeats=2)")
