"""Every number in a public signature has a range that is checked where it enters; the packages are walked to find them."""

import importlib
import inspect
import math
import pkgutil
import types
import typing

import pytest
import torch
from small import pipeline
from worlds import DATA, INITIAL, TRANSITION, V

import noiselab as nl
from noiselab.denoisers.one_by_one import OneByOne
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.numerics import require_count, require_number
from noiselab.pipeline.settings import GenerationSettings

PROCESS = nl.masked(vocab_size=V, mask_id=V - 1)
ORACLE = nl.MarkovOracle(INITIAL, TRANSITION, PROCESS)
SAMPLER = nl.AncestralSampler(PROCESS, ORACLE)
X = torch.zeros(2, 3, dtype=torch.long)
GRID = torch.linspace(1, 0, 3)
CORRECTION = nl.SelfCorrection(ORACLE)
WRAPPED = {"inner": SAMPLER}
NOISY = {"process": PROCESS, "denoiser": ORACLE}
HYBRID = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)

TINY = TransformersDenoiser(
    DiT(DiTConfig(vocab_size=V, max_seq_len=8, hidden_size=4, num_attention_heads=2, num_hidden_layers=1))
)
ANY = nl.constraints.TokenAutomaton(torch.zeros(1, V, dtype=torch.long), [0])

# What else is needed to call it with one number; all that have numbers must be here.
ARGUMENTS = {
    "BlockDenoiser": {"inner": TINY, "block_size": 2},
    "EarliestTime": {"inner": ORACLE, "time": 0.1},
    "MinP": {"inner": ORACLE, "p": 0.5},
    "OneByOne": {"inner": ORACLE, "mask_id": V - 1, "passes": 2},
    "Perturbed": {"inner": ORACLE, "scale": 0.5, "vocab_size": V},
    "Temperature": {"inner": ORACLE, "temperature": 1.0},
    "TopK": {"inner": ORACLE, "k": 2},
    "TopP": {"inner": ORACLE, "p": 0.5},
    "by_enumeration": {"classifier": lambda z, t: t, "process": PROCESS},
    "BlockSampler": {**WRAPPED, "block_size": 2},
    "SlidingBlockSampler": {**WRAPPED, "block_size": 2},
    "DeterministicSampler": NOISY,
    "CommittingSampler": {"process": HYBRID, "denoiser": ORACLE},
    "DraftSampler": {**NOISY, "block_size": 2},
    "EarlyStopping": {**WRAPPED, "patience": 2},
    "EndToken": {**WRAPPED, "token": 1},
    "EntropyBoundedSampler": NOISY,
    "JointThresholdSampler": {"process": HYBRID, "denoiser": ORACLE, "edit": 0.5},
    "Constrained": {"inner": ORACLE, "automaton": ANY, "process": PROCESS},
    "Credit": {"inner": ORACLE},
    "NeighbourPenalty": {"inner": ORACLE, "penalty": 0.5, "block_size": 2},
    "PathPlanningSampler": NOISY,
    "RemaskingSampler": NOISY,
    "RenoisingSampler": NOISY,
    "adaptive_grid": {**NOISY, "steps": 2, "length": 3, "sequences": 2, "resolution": 4},
    "cosine_grid": {"process": PROCESS, "steps": 2},
    "even_grid": {"process": PROCESS, "steps": 2},
    "log_snr_grid": {"process": PROCESS, "steps": 2},
    "power_grid": {"process": PROCESS, "steps": 2},
    "signal_grid": {"process": PROCESS, "steps": 2},
    "lengths": {"x": X, "token": 1},
    "ConfidenceThreshold": {},
    "EntropyBound": {},
    "EntropyThreshold": {},
    "Factor": {},
    "LocalMaxima": {},
    "Quota": {},
    "StableConfidence": {},
    "even_quotas": {"block_size": 8, "steps": 3},
    "BalancedCorrector": NOISY,
    "BestGuessReviser": {"denoiser": ORACLE, "threshold": 1.0},
    "DFMCorrector": NOISY,
    "DenoiserDetector": {"denoiser": ORACLE, "length": 4, "filler": 0},
    "ForwardBackwardCorrector": {"process": PROCESS, "predictor": ORACLE},
    "GibbsCorrector": NOISY,
    "InfillingReviser": {"sampler": SAMPLER, "given": 1, "steps": 2},
    "PredictorCorrector": {"predictor": SAMPLER, "corrector": nl.GibbsCorrector(PROCESS, ORACLE)},
    "RemaskingCorrector": NOISY,
    "DraftCorrector": NOISY,
    "QualityDenoiser": {"inner": TINY, "width": 4},
    "QualityDetector": {"denoiser": nl.denoisers.QualityDenoiser(TINY, 4), "mask_id": V - 1},
    "SuspectCorrector": NOISY,
    "CorrectorReviser": {"corrector": nl.GibbsCorrector(PROCESS, ORACLE)},
    "ResamplingReviser": {"sampler": SAMPLER, "time": 0.5, "steps": 2},
    "SelfCorrection": {"denoiser": ORACLE},
    "Clipped": {},
    "Dynamic": {"scale": 1.0},
    "DynamicV11": {"scale": 1.0},
    "average": {"draw": lambda: torch.zeros(1), "repeats": 2},
    "continuous_bound": {**NOISY, "x": X},
    "every_sequence": {"tokens": 2, "length": 2},
    "expected_bound": {**NOISY, "x": X, "nodes": 2},
    "importance_bound": {**NOISY, "x": X, "times": GRID, "draws": 1},
    "model_law": {**NOISY, "length": 2, "times": GRID},
    "process_quadrature": {"process": PROCESS, "nodes": 2},
    "nelbo": {"process": PROCESS, "logits": torch.zeros(2, 3, V), "x": X, "z": X, "t": torch.full((2,), 0.5)},
    "GenerationSettings": {},
}
ARGUMENTS |= {name: ARGUMENTS["nelbo"] for name in ("score_entropy", "step_kl")}
ARGUMENTS["score_entropy"] = {("log_scores" if k == "logits" else k): v for k, v in ARGUMENTS["nelbo"].items()}
ARGUMENTS["step_kl"] = ARGUMENTS["nelbo"] | {"s": torch.full((2,), 0.4)}
ARGUMENTS["nelbo_fused"] = {
    **{k: v for k, v in ARGUMENTS["nelbo"].items() if k != "logits"},
    "hidden": torch.zeros(2, 3, 4),
    "projection": torch.zeros(V, 4),
    "bias": None,
    "scale": torch.ones(2, 3),
}
UNBOUNDED = {("EntropyBoundedSampler", "bound"), ("RenoisingSampler", "bound"), ("BestGuessReviser", "threshold")} | {
    (name, "max_weight") for name in ("Clipped", "Dynamic", "DynamicV11")
}
UNBOUNDED |= {
    ("SuspectCorrector", "threshold"),
    ("EntropyBound", "bound"),
    ("EntropyThreshold", "threshold"),
    ("StableConfidence", "change"),
}


def modules():
    for package in (nl.denoisers, nl.samplers, nl.correctors, nl.likelihood, nl.elbo):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(info.name)
    yield from (nl.objectives, importlib.import_module("noiselab.pipeline.settings"))


def kinds_of(annotation):
    return set(typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation]) & {int, float}


def public():
    """The public functions, and the classes that can be made, of the modules."""
    exported = set()
    for package in (nl, nl.denoisers, nl.samplers, nl.correctors, nl.likelihood, nl.elbo):
        exported |= {id(value) for value in vars(package).values()}
    exported |= {id(OneByOne), id(GenerationSettings), *(id(value) for value in vars(nl.objectives).values())}
    for module in modules():
        for name, value in vars(module).items():
            mine = getattr(value, "__module__", None) == module.__name__ and id(value) in exported
            if mine and (inspect.isfunction(value) or (inspect.isclass(value) and not inspect.isabstract(value))):
                yield name, value


def numbers():
    for name, value in public():
        if name in ("BoundTerms", "Estimate"):  # results
            continue
        for parameter in inspect.signature(value).parameters.values():
            for kind in [{int}, {float, int}, {float}]:
                if kinds_of(parameter.annotation) == kind:
                    yield pytest.param(value, parameter.name, kind == {int}, id=f"{name}-{parameter.name}")


@pytest.mark.parametrize(("make", "name", "whole"), list(dict((p.id, p) for p in numbers()).values()))
def test_numbers_of_public_signatures(make, name, whole, unchecked):
    given = ARGUMENTS[make.__name__]
    make(**given)
    several = "Sequence" in str(inspect.signature(make).parameters[name].annotation)
    bad = [math.nan, True, "two", 1j, [math.nan] if several else [1], *([2.5, -1, math.inf] if whole else [])]
    if not whole and (make.__name__, name) not in UNBOUNDED:
        bad += [math.inf, -math.inf]
    for value in bad:
        with pytest.raises(ValueError, match=r"must.*; got|must rise within"):
            make(**given | {name: value})


RUNS = {
    "steps": lambda n: SAMPLER.grid(steps=n),
    "steps of correction": lambda n: list(CORRECTION.walk(X, steps=n)),
    "batch": lambda n: SAMPLER.sample((n, 3), steps=2),
    "length": lambda n: SAMPLER.sample((2, n), steps=2),
    "batch of noise": lambda n: PROCESS.prior(n, 3),
    "length of data": lambda n: ORACLE.sample(2, n),
    "length of entropy": lambda n: ORACLE.entropy(n),
    "suppressed": lambda n: nl.denoisers.Suppress(ORACLE, [n]),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("value", [2.5, math.nan, math.inf, True, "two", -1, None])
def test_counts_of_methods(run, value, unchecked):
    with pytest.raises(ValueError, match=r"must .*; got"):
        RUNS[run](value)


@pytest.mark.parametrize("heat", [math.inf, math.nan, 1e-40, 0, -1.0, 1e40, True, "hot"])
def test_temperatures(heat, unchecked):
    """At infinity the text has masks; below 1e-38 all logits overflow."""
    pipe = pipeline()
    for call in (
        lambda: nl.Temperature(ORACLE, heat),
        lambda: nl.SelfCorrection(ORACLE, temperature=heat),
        lambda: GenerationSettings(temperature=heat),
        lambda: pipe.generate(1, 4, length=8, temperature=heat, show_progress=False),
        lambda: pipe.infill(["the [MASK] sat"], 4, temperature=heat, show_progress=False),
        lambda: pipe.self_correction(["the cat"], 4, temperature=heat, show_progress=False),
    ):
        with pytest.raises(ValueError, match=r"temperature must lie in \[1e-20, 1e\+20\]; got"):
            call()


@pytest.mark.parametrize("shape", [4, (4,), (1, 2, 3), "ab"])
def test_shapes_of_samples(shape, unchecked):
    with pytest.raises(ValueError, match=r"shape must be \(batch, length\)|batch must be a whole number"):
        SAMPLER.sample(shape, steps=2)


@pytest.mark.parametrize("support", [[0, 1, 2], torch.tensor([0, 1]), DATA[None], "all"])
def test_sets_of_tokens(support, unchecked):
    for make in (
        lambda: nl.denoisers.Support(ORACLE, support),
        lambda: nl.SelfCorrection(ORACLE, support=support),
        lambda: nl.correctors.BestGuessReviser(ORACLE, threshold=1.0, support=support),
    ):
        with pytest.raises(ValueError, match=r"support must be Bool of shape \[state\]; got"):
            make()


def test_ranges_in_words():
    for name, settings, words in (
        (math.inf, {"low": 0}, "must be non-negative and finite; got inf"),
        (0, {"low": 0, "above": True}, "must be positive and finite; got 0"),
        (math.nan, {"infinite": True, "low": 0}, "must be non-negative; got nan"),
        (math.inf, {}, "must be finite; got inf"),
        (1, {"low": 0, "high": 1, "below": True}, r"must lie in \[0, 1\); got 1"),
        (True, {"low": 0, "high": 1}, r"must lie in \[0, 1\]; got True"),
    ):
        with pytest.raises(ValueError, match=words):
            require_number("n", name, **settings)
    assert require_number("n", 1, 0, infinite=True) == 1.0 and require_number("n", math.inf, infinite=True) == math.inf
    assert require_count("n", 3, 3, 3) == 3
    for value, words in ((4, r"must lie in \[1, 3\]; got 4"), (0.5, r"must be a whole number, in \[1, 3\]; got 0.5")):
        with pytest.raises(ValueError, match=words):
            require_count("n", value, 1, 3)
