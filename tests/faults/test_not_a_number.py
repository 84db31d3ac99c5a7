"""Logits that are no numbers, of another width, and numbers out of range end in a sentence; nothing random comes out."""

import math

import pytest
import torch
from small import pipeline
from worlds import PROCESSES, V

import noiselab as nl
from noiselab.autoregressive import BackspaceSampler, RandomTokenBackspace, UniformTokens
from noiselab.bench import registry
from noiselab.denoisers.checked import LogitChecks, require_logits

Z = torch.zeros(2, 4, dtype=torch.long)


class Spoilt(nl.Denoiser):
    """Uniform logits, with one number in the place of those of the first token, or of all tokens of data."""

    def __init__(self, value, everywhere=False, width=V):
        super().__init__()
        self.value, self.everywhere, self.width = value, everywhere, width

    def forward(self, z, t):
        logits = torch.zeros(*z.shape, self.width)
        logits[..., : self.width if self.everywhere else 1] = self.value
        return logits


BAD = {
    "NaN": (Spoilt(math.nan), "logits must be finite numbers.*got NaN from Spoilt"),
    "inf": (Spoilt(math.inf), "logits must be finite numbers.*got inf from Spoilt"),
    "-inf": (Spoilt(-math.inf, everywhere=True), "got -inf at every token from Spoilt"),
    "narrow": (Spoilt(0.0, width=V - 1), f"width of the process, {V}; got {V - 1} from Spoilt"),
    "wide": (Spoilt(0.0, width=V + 1), f"width of the process, {V}; got {V + 1} from Spoilt"),
}


def process_for(kind):
    return next(
        p for p in (PROCESSES["gidd"](), PROCESSES["masked"]()) if registry.takes(getattr(kind, "for_process", kind), p)
    )


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", registry.find_samplers())
def test_samplers(name, bad):
    kind, (denoiser, message) = registry.find_samplers()[name], BAD[bad]
    random = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=message):
        sampler = kind(process_for(kind), denoiser)
        sampler.sample((2, 4), steps=4, generator=random)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", registry.find_correctors())
def test_correctors(name, bad):
    kind, (denoiser, message) = registry.find_correctors()[name], BAD[bad]
    process = process_for(kind)
    time = torch.full((2,), 0.5, dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=message.replace("process", "(process|support)")):
        corrector = kind.for_process(process, denoiser)
        for _ in range(20):
            corrector.step(process.corrupt(Z, time, generator=random), time, generator=random)


@pytest.mark.parametrize("bad", ["NaN", "inf", "-inf"])
def test_walks_and_guesses_of_correction(bad):
    denoiser, message = BAD[bad]
    correction = nl.SelfCorrection(denoiser)
    with pytest.raises(ValueError, match=message):
        correction.correct(Z)
    if bad == "NaN":
        with pytest.raises(ValueError, match=message):
            nl.correctors.BestGuessReviser(denoiser, threshold=1.0)(Z)


def test_logits_that_are_right_pass():
    """-inf at some tokens, and anything at all at tokens that data do not contain."""
    support = torch.tensor([True, True, False])
    for row in ([0.0, -math.inf, 0.0], [1e30, -1e30, math.nan], [0.0, 0.0, math.inf]):
        require_logits(torch.tensor([row]), support, 3, "a network")
    with pytest.raises(ValueError, match="-inf at every token"):
        require_logits(torch.tensor([[-math.inf, -math.inf, 0.0]]), support, 3, "a network")


def test_on_an_accelerator_the_flag_is_read_once_a_walk():
    """The device is that of meta tensors, which cannot be read before: what is added is read by the walk, and only once."""
    walk = LogitChecks()
    with walk.deferred(), LogitChecks().deferred():
        require_logits(torch.zeros(2, 3, device="meta"), None, 3, "a network")
    assert walk._bad is not None and walk._bad.device.type == "meta"
    walk = LogitChecks()
    for bad in (False, True, False):
        walk.add(torch.tensor(bad), "a network")
    with pytest.raises(ValueError, match=r"logits must be finite numbers.*from a network"):
        walk.read()
    walk.read()


class Broken(torch.nn.Module):
    """A causal model with NaN in place of logits."""

    def forward(self, input_ids, **others):
        return torch.full((*input_ids.shape, V), math.nan)


@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_decoders(heat, unchecked):
    edits = RandomTokenBackspace(vocab_size=V, backspace=V - 1, rate=0.1, wrong=UniformTokens(V - 1))
    decoder = BackspaceSampler(Broken(), edits, start=0, semantics="erasing", deep=False, temperature=heat, cache=False)
    with pytest.raises(ValueError, match="logits of the network must not be NaN"):
        decoder.sample(2, length=4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pipelines(value, unchecked):
    pipe = pipeline()
    texts = pipe.generate(1, 2, length=4, show_progress=False)
    with torch.no_grad():
        next(pipe.network.parameters()).fill_(value)
    calls = {
        "generate": lambda: pipe.generate(1, 4, length=8, show_progress=False),
        "infill": lambda: pipe.infill(["the [MASK] sat"], 4, show_progress=False),
        "correct": lambda: pipe.self_correction(texts, 4, show_progress=False),
        "correct without stopping": lambda: pipe.self_correction(texts, 4, early_stopping=False, show_progress=False),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match="logits must be finite numbers"):
            call()


@pytest.mark.parametrize("heat", [math.inf, 1e-40])
def test_temperatures_of_pipelines(heat, unchecked):
    pipe = pipeline()
    with pytest.raises(ValueError, match="temperature must be positive and lie in"):
        pipe.generate(1, 4, length=8, temperature=heat, show_progress=False)


SETTINGS = {
    "Temperature": lambda d, n: nl.Temperature(d, n),
    "SelfCorrection": lambda d, n: nl.SelfCorrection(d, temperature=n),
}


@pytest.mark.parametrize("make", SETTINGS)
@pytest.mark.parametrize("heat", [math.inf, math.nan, 1e-40, 0, -1.0, 1e40, "hot"])
def test_temperatures(make, heat, unchecked):
    with pytest.raises(ValueError, match=r"temperature must be positive and lie in .*; got"):
        SETTINGS[make](BAD["NaN"][0], heat)


COUNTS = {
    "TopK": lambda d, p, n: nl.denoisers.TopK(d, n),
    "tokens of self-correction": lambda d, p, n: nl.SelfCorrection(d, tokens_per_step=n),
    "Gibbs": lambda d, p, n: nl.GibbsCorrector(p, d, tokens_per_step=n),
    "repeats": lambda d, p, n: nl.PredictorCorrector(nl.AncestralSampler(p, d), nl.GibbsCorrector(p, d), repeats=n),
    "patience": lambda d, p, n: nl.samplers.EarlyStopping(nl.AncestralSampler(p, d), patience=n),
    "block size": lambda d, p, n: nl.samplers.BlockSampler(nl.AncestralSampler(p, d), block_size=n),
    "steps": lambda d, p, n: nl.AncestralSampler(p, d).grid(steps=n),
}


@pytest.mark.parametrize("make", COUNTS)
@pytest.mark.parametrize("count", [0, -1, 1.5, math.nan, math.inf, "two"])
def test_counts(make, count, unchecked):
    with pytest.raises(ValueError, match=r"must be .*; got"):
        COUNTS[make](BAD["NaN"][0], PROCESSES["gidd"](), count)
