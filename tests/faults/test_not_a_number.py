"""Logits that are not numbers, or of another width, are refused in words wherever tokens are drawn from them."""

import math

import pytest
import torch
from small import pipeline
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.bench import registry
from noiselab.denoisers.checked import Checked, LogitCheck, LogitChecks
from noiselab.denoisers.modes import counting_sequences, evaluating

Z = torch.zeros(2, 4, dtype=torch.long)
HALF = torch.full((2,), 0.5, dtype=torch.float64)


class Spoilt(nl.Denoiser):
    """Logits of 0, but one number for the first token, or for all tokens; for the second sequence alone, or for both."""

    def __init__(self, value=0.0, tokens=slice(0, 1), width=V, whole=True, dtype=torch.float32):
        super().__init__()
        self.value, self.tokens, self.width, self.whole, self.dtype = value, tokens, width, whole, dtype

    def forward(self, z, t):
        logits = torch.zeros(*z.shape, self.width, dtype=self.dtype)
        logits[0 if self.whole else -1 :, :, self.tokens] = self.value
        return logits


BAD = {
    "NaN": (
        Spoilt(math.nan),
        r"must be finite, or -inf at some of .*; got NaN from Spoilt.* at t(imes from)? .*float16",
    ),
    "NaN in one sequence": (Spoilt(math.nan, whole=False), "got NaN from Spoilt"),
    "float16": (Spoilt(7e4, dtype=torch.float16), "got inf from Spoilt"),
    "inf": (Spoilt(math.inf), "got inf from Spoilt"),
    "all -inf": (Spoilt(-math.inf, tokens=slice(None)), "got -inf at all of these tokens from Spoilt"),
    "-inf at all tokens of data": (
        Spoilt(-math.inf, tokens=slice(0, V - 1)),
        "got -inf at all of these tokens from Spoilt",
    ),
    "narrow": (Spoilt(width=V - 1), f"must have the width of the process, {V}; got {V - 1} from Spoilt"),
    "wide": (Spoilt(width=V + 1), f"must have the width of the process, {V}; got {V + 1} from Spoilt"),
    "integers": (Spoilt(dtype=torch.long), "must be floating-point numbers; got torch.int64 from Spoilt"),
}


def process_for(kind):
    return next(p for p in (PROCESSES["gidd"](), PROCESSES["masked"]()) if registry.takes(kind, p))


def walk(make, process, denoiser):
    make(process, denoiser).sample((2, 4), steps=4, generator=torch.Generator().manual_seed(0))


def correct(make, process, denoiser):
    """Up to twenty steps: a corrector evaluates only what it may change."""
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        z = process.corrupt(Z, HALF, generator=random)
        make(process, denoiser).step(z, HALF, generator=random)


SAMPLERS = {n: f for kind in registry.find_samplers().values() for n, f in registry.factories_of(kind).items()}
CORRECTORS = {n: f for kind in registry.find_correctors().values() for n, f in registry.factories_of(kind).items()}
USES = {name: (walk, make) for name, make in SAMPLERS.items()} | {
    name: (correct, make) for name, make in CORRECTORS.items()
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", USES)
def test_samplers_and_correctors(name, bad, unchecked):
    (use, make), (denoiser, message) = USES[name], BAD[bad]
    with pytest.raises(ValueError, match=message):
        use(make, process_for(make), denoiser)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("wrap", [nl.denoisers.Posterior, nl.denoisers.Score])
def test_denoisers_that_predict_something_else(bad, wrap, unchecked):
    """What is converted is refused as well; log-scores of -inf say that the other tokens are impossible."""
    (denoiser, message), process = BAD[bad], PROCESSES["gidd"]()
    denoiser = Spoilt(
        **{k: v for k, v in vars(denoiser).items() if k in ("value", "tokens", "width", "whole", "dtype")}
    )
    denoiser.predicts = "posterior" if wrap is nl.denoisers.Posterior else "score"
    if (denoiser.predicts == "score" and "-inf" in bad) or bad == "integers":
        return
    message = message if "width" in message else "got (NaN|inf|-inf at all of these tokens) from LeaveOneOut"
    with pytest.raises(ValueError, match=message):
        walk(nl.AncestralSampler, process, denoiser)


@pytest.mark.parametrize("wrap", ["conditional", "unconditional", "likelihoods"])
def test_guidance_does_not_hide_what_it_is_made_of(wrap):
    fine, bad, process = Spoilt(0.5), Spoilt(math.nan), PROCESSES["gidd"]()
    guided = {
        "conditional": lambda: nl.ClassifierFreeGuidance(bad, fine, 1.0),
        "unconditional": lambda: nl.ClassifierFreeGuidance(fine, bad, 1.0),
        "likelihoods": lambda: nl.denoisers.ClassifierGuidance(
            fine, lambda z, t, rows: torch.full((int(rows.sum()), V), math.nan)
        ),
    }[wrap]()
    with pytest.raises(ValueError, match="got NaN from Classifier"):
        walk(nl.AncestralSampler, process, guided)


def test_planners_bounds_and_grids():
    bad, message = BAD["NaN"]
    process, fine = PROCESSES["masked"](), Spoilt(0.5)
    x, grid = Z, torch.linspace(1, 0, 4)
    calls = [
        lambda: nl.samplers.PathPlanningSampler(process, fine, bad).sample((2, 4), steps=4),
        lambda: nl.samplers.adaptive_grid(process, bad, 4, length=4, sequences=4, resolution=8),
        lambda: nl.SelfCorrection(bad).correct(Z),
        lambda: nl.correctors.BestGuessReviser(bad, threshold=1.0)(Z),
        lambda: nl.correctors.DenoiserDetector(bad)(Z),
        lambda: nl.continuous_bound(process, bad, x),
        lambda: nl.continuous_bound(process, bad, x, nodes=2),
        lambda: nl.discrete_bound(process, bad, x, grid),
        lambda: nl.likelihood.importance_bound(process, bad, x, grid, draws=2),
        lambda: nl.likelihood.expected_bound(process, bad, x[:, :2], nodes=2),
        lambda: nl.likelihood.expected_discrete_bound(process, bad, x[:, :2], grid),
        lambda: nl.likelihood.model_law(process, bad, 2, grid),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_logits_that_are_right_pass():
    """-inf at some tokens, and anything at tokens that no data contain: one run of them, or many."""
    for count in (3, 40):
        support = torch.arange(count) % 2 == 0
        check, logits = LogitCheck(count, support), torch.zeros(2, count)
        logits[:, ~support] = torch.tensor([math.nan, math.inf] * count)[: int((~support).sum())]
        logits[0, 0], logits[1, 2:] = -math.inf, torch.where(support[2:], -math.inf, logits[1, 2:])
        assert check(logits, HALF, Spoilt()) is logits
        for number in (math.nan, math.inf):
            with pytest.raises(ValueError, match=f"got {'NaN' if math.isnan(number) else 'inf'} from"):
                check(logits.index_fill(-1, torch.tensor([2]), number), HALF, Spoilt())
        with pytest.raises(ValueError, match="-inf at all of these"):
            check(torch.where(support, -math.inf, 0.0)[None], HALF, Spoilt())
    assert LogitCheck(3)(torch.zeros(0, 3), HALF, Spoilt()).shape == (0, 3)
    with pytest.raises(ValueError, match="a row of logits for each of 8 tokens; got 7 from Spoilt"):
        LogitCheck(3)(torch.zeros(7, 3), HALF, Spoilt(), torch.ones(2, 4, dtype=torch.bool))


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on an accelerator, and counts how often it is read."""

    read = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return torch.device("meta")
        if func in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__):
            cls.read += 1
        return super().__torch_function__(func, types, args, kwargs or {})


class Far(Spoilt):
    """Its logits are on an accelerator, and spoilt at times below 0.8."""

    def forward(self, z, t):
        return torch.where(t[:, None, None] < 0.8, super().forward(z, t), 0.0).as_subclass(Elsewhere)


def test_on_an_accelerator_a_walk_reads_once(unchecked, monkeypatch):
    """At its end, before the result is handed out; which denoiser and what time are still known."""
    monkeypatch.setattr(nl.AncestralSampler, "step", lambda self, z, t, s, generator=None: (self.denoiser(z, t), z)[1])
    Elsewhere.read, process = 0, PROCESSES["uniform"]()
    states = nl.AncestralSampler(process, Far(math.nan)).walk(Z, torch.linspace(1, 0, 5))
    for _ in range(3):
        next(states)
    assert Elsewhere.read == 0
    with pytest.raises(ValueError, match=r"got NaN from Far\(\) at t = 0.75"):
        next(states)
    assert Elsewhere.read == 1
    with pytest.raises(ValueError, match=r"got NaN from Far\(\) at t = 0.5"):  # outside of a walk, at once
        Checked(Far(math.nan), process)(Z, HALF)


def test_walks_within_a_walk_are_read_by_the_outer_one():
    inner, outer = LogitChecks(), LogitChecks()
    with outer, inner:
        LogitCheck(3)(torch.full((2, 3), math.nan, device="meta"), HALF.to("meta"), Spoilt())
    inner.read()
    assert len(outer._found) == 1 and not inner._found
    outer._found = [
        (torch.tensor(ends).double(), torch.tensor(times), Spoilt())
        for ends, times in (((0.0, 1.0), (0.5, 0.5)), ((-math.inf, 1.0), (0.2, 0.4)))
    ]
    with pytest.raises(ValueError, match=r"got -inf at all of these tokens from .* at times from 0.2 to 0.4"):
        outer.read()
    outer.read()


def test_what_is_put_around_a_denoiser_is_not_seen():
    """It prints as the denoiser, is not put around it twice, and its sequences are not counted twice."""
    process = PROCESSES["gidd"]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    sampler = nl.AncestralSampler(process, oracle)
    assert repr(sampler) == f"AncestralSampler({process}, {oracle})"
    again = nl.GibbsCorrector(process, sampler.denoiser)
    assert again.denoiser is sampler.denoiser and sampler.denoiser.inner is oracle
    with counting_sequences(sampler.denoiser, oracle, oracle) as count:
        sampler.denoiser(Z, HALF)
        oracle(Z, HALF)
    assert count.sequences == 4


def test_evaluation_mode_leaves_every_part_as_it_was():
    """A wrapper is made in training mode, also around a network that is not; the network stays as it is."""
    network = torch.nn.Dropout(0.5).eval()
    wrapper = torch.nn.Sequential(network, torch.nn.Dropout(0.5))
    with evaluating(wrapper):
        assert not any(part.training for part in wrapper.modules())
    assert [part.training for part in wrapper.modules()] == [True, False, True]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pipelines(value, unchecked):
    pipe = pipeline()
    texts = pipe.generate(1, 2, length=4, show_progress=False)
    with torch.no_grad():
        next(pipe.network.parameters()).fill_(value)
    calls = {
        "generate": lambda: pipe.generate(1, 4, length=8, show_progress=False),
        "infill": lambda: pipe.infill(["the [MASK] sat"], 4, show_progress=False),
        "self_correction": lambda: pipe.self_correction(texts, 4, show_progress=False),
        "self_correction without stopping": lambda: pipe.self_correction(
            texts, 4, early_stopping=False, show_progress=False
        ),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=r"logits must be finite.*from .*(DiT|Transformers)"):
            call()


def test_what_a_sampler_was_given_keeps_its_methods():
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.full((2, 2), 0.5), process)
    sampler = nl.AncestralSampler(process, oracle)
    assert sampler.denoiser.entropy(2) == oracle.entropy(2)
    with pytest.raises(AttributeError, match="no attribute 'entropies'"):
        sampler.denoiser.entropies  # noqa: B018


def test_the_checks_of_a_correction_are_read_before_its_last_state_is_handed_out(monkeypatch):
    """After the last step, too, where sequences still change."""
    read = []
    monkeypatch.setattr(LogitChecks, "read", lambda self: read.append(True))
    process = nl.uniform(vocab_size=3)
    oracle = nl.MarkovOracle(torch.tensor([0.2, 0.3, 0.5]), torch.full((3, 3), 1 / 3), process)
    correction = nl.SelfCorrection(oracle, time=0.5, temperature=1.0, patience=8)
    states = correction.walk(torch.zeros(4, 6, dtype=torch.long), steps=1, generator=torch.Generator().manual_seed(0))
    next(states)
    assert read
