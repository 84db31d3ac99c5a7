"""The table of edges: what samplers, correctors, pipelines and bounds do with NaN, infinite heat, times and tokens outside.

Its rows are found by walking the packages, so that a new one without an entry here fails. `pytest -s` prints it.
"""

import inspect
import math
import tempfile
from pathlib import Path

import pytest
import torch
from small import pipeline, tokenizer
from small_canvas import canvas_pipeline
from transformers import LlamaConfig, LlamaForCausalLM
from worlds import PROCESSES, V

import noiselab as nl
from noiselab import correctors, elbo, likelihood, objectives, samplers
from noiselab.bench import registry
from noiselab.data import vocabulary_size
from noiselab.denoisers import ProjectedDenoiser, QualityDenoiser
from noiselab.pipeline import AutoregressivePipeline, ModelSettings
from noiselab.pipeline.base import Pipeline
from noiselab.revisions import Detector, Reviser

COLUMNS = ("NaN logits", "infinite temperature", "times outside", "tokens outside")
X = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
HALF, LATE = torch.full((2,), 0.5, dtype=torch.float64), torch.full((2,), 1.5, dtype=torch.float64)
AWAY = torch.where(X == 2, -100, X)
GRID, BEYOND = torch.linspace(1, 0, 5), torch.linspace(2, 0, 5)


class Flat(nl.Denoiser):
    """The same logit for every token."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = value

    def forward(self, z, t):
        return torch.full((*z.shape, V), self.value)


FINE, BAD = Flat(), Flat(math.nan)


def random():
    return torch.Generator().manual_seed(0)


def process_for(make):
    return next(p for p in (PROCESSES["gidd"](), PROCESSES["masked"]()) if registry.takes(make, p))


# Cells: a function to call, or a word for what has no such argument. Rows: name -> cells in the order of COLUMNS.


def sampler_cells(make, process):
    """Drawn from noise, from a grid, and from tokens."""
    return (
        lambda: make(process, BAD).sample((2, 4), steps=4, generator=random()),
        lambda: make(process, nl.Temperature(FINE, math.inf)),
        lambda: make(process, FINE).sample((2, 4), times=BEYOND),
        lambda: list(make(process, FINE).walk(AWAY.masked_fill(X == 3, V), GRID)),
    )


AROUND = {
    "BlockSampler": lambda inner: samplers.BlockSampler(inner, 2),
    "SlidingBlockSampler": lambda inner: samplers.SlidingBlockSampler(inner, 2),
    "EarlyStopping": lambda inner: samplers.EarlyStopping(inner, 2),
    "EndToken": lambda inner: samplers.EndToken(inner, 1),
    "Infilling": lambda inner: nl.Infilling(inner, X, X == 1),
    "Prompted": lambda inner: samplers.Prompted(inner, X[:, :1]),
    "PredictorCorrector": lambda inner: nl.PredictorCorrector(inner, nl.GibbsCorrector(inner.process, inner.denoiser)),
}


def corrector_cells(make, process):
    """Of steps, many of them: a corrector evaluates only tokens that may change."""

    def step(denoiser, z, t):
        generator = random()
        return [make(process, denoiser).step(z, t, generator=generator) for _ in range(20)]

    noisy = process.corrupt(X, HALF, generator=random())
    return (
        lambda: step(BAD, noisy, HALF),
        lambda: make(process, nl.Temperature(FINE, math.inf)),
        lambda: step(FINE, X, LATE),
        lambda: step(FINE, AWAY, HALF),
    )


class States(ProjectedDenoiser):
    """A network for a quality head: one-hot tokens, whose logits are those of `FINE`."""

    def hidden(self, z, t):
        return torch.nn.functional.one_hot(z.long(), V).float()

    def project(self, hidden):
        return hidden


def quality(bias=0.0, **settings):
    denoiser = QualityDenoiser(States())
    torch.nn.init.constant_(denoiser.head.bias, bias)
    return correctors.QualityDetector(denoiser, **settings)


READERS = {
    "QualityDetector": (
        lambda: quality(math.nan)(X),
        "none",
        lambda: quality(time=1.5),
        lambda: quality()(AWAY),
    ),
    "CorrectorReviser": (
        lambda: correctors.CorrectorReviser(correctors.DraftCorrector(PROCESSES["masked"](), BAD))(X),
        "none",
        lambda: correctors.CorrectorReviser(correctors.DraftCorrector(PROCESSES["masked"](), FINE), time=1.5),
        lambda: correctors.CorrectorReviser(correctors.DraftCorrector(PROCESSES["masked"](), FINE))(AWAY),
    ),
    "DenoiserDetector": (
        lambda: correctors.DenoiserDetector(BAD)(X),
        "none",
        lambda: correctors.DenoiserDetector(FINE, time=1.5),
        lambda: correctors.DenoiserDetector(FINE)(AWAY),
    ),
    "BestGuessReviser": (
        lambda: correctors.BestGuessReviser(BAD, threshold=1.0)(X),
        "none",
        lambda: correctors.BestGuessReviser(FINE, threshold=1.0, time=1.5),
        lambda: correctors.BestGuessReviser(FINE, threshold=1.0)(AWAY),
    ),
    "InfillingReviser": (
        lambda: correctors.InfillingReviser(nl.AncestralSampler(PROCESSES["gidd"](), BAD), given=1, steps=2)(X),
        lambda: nl.SelfCorrection(FINE, temperature=math.inf),
        "none",
        lambda: correctors.InfillingReviser(nl.AncestralSampler(PROCESSES["gidd"](), FINE), given=3, steps=2)(AWAY),
    ),
    "ResamplingReviser": (
        lambda: correctors.ResamplingReviser(nl.AncestralSampler(PROCESSES["gidd"](), BAD), time=0.5, steps=2)(X),
        "none",
        lambda: correctors.ResamplingReviser(nl.AncestralSampler(PROCESSES["gidd"](), FINE), time=1.5, steps=2),
        lambda: correctors.ResamplingReviser(nl.AncestralSampler(PROCESSES["gidd"](), FINE), time=0.5, steps=2)(AWAY),
    ),
}


def spoilt():
    pipe = pipeline()
    with torch.no_grad():
        next(pipe.network.parameters()).fill_(math.nan)
    return pipe


def causal(value=None):
    words = tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary_size(words), max_position_embeddings=8, **sizes)).eval()
    if value is not None:
        with torch.no_grad():
            model.lm_head.weight.fill_(value)
    return AutoregressivePipeline(model, words, ModelSettings())


def canvas(value=None):
    with tempfile.TemporaryDirectory() as folder:
        pipe = canvas_pipeline(Path(folder))
    if value is not None:
        with torch.no_grad():
            next(pipe.network.parameters()).fill_(value)
    return pipe


QUIET = {"show_progress": False}
METHODS = {  # texts are encoded by the tokenizer, so that no token is outside
    "DiffusionPipeline.generate": (
        lambda: spoilt().generate(1, 4, length=8, **QUIET),
        lambda: pipeline().generate(1, 4, length=8, temperature=math.inf, **QUIET),
        "none",
        "none",
    ),
    "DiffusionPipeline.infill": (
        lambda: spoilt().infill(["the [MASK] sat"], 4, **QUIET),
        lambda: pipeline().infill(["the [MASK] sat"], 4, temperature=math.inf, **QUIET),
        "none",
        "none",
    ),
    "DiffusionPipeline.self_correction": (
        lambda: spoilt().self_correction(["the cat"], 4, **QUIET),
        lambda: pipeline().self_correction(["the cat"], 4, temperature=math.inf, **QUIET),
        lambda: pipeline().self_correction(["the cat"], 4, t0=1.5, **QUIET),
        "none",
    ),
    "CanvasPipeline.generate": (
        lambda: canvas(math.nan).generate(1, 2, length=8, **QUIET),
        lambda: canvas().generate(1, 2, length=8, temperature=math.inf, **QUIET),
        "none",
        "none",
    ),
    "CanvasPipeline.infill": (
        lambda: canvas(math.nan).infill(["a<mask>"], 2, **QUIET),
        lambda: canvas().infill(["a<mask>"], 2, temperature=math.inf, **QUIET),
        "none",
        "none",
    ),
    "CanvasPipeline.self_correction": (
        lambda: canvas(math.nan).self_correction(["hello"], 2, **QUIET),
        lambda: canvas().self_correction(["hello"], 2, temperature=math.inf, **QUIET),
        "none",
        "none",
    ),
    "CanvasPipeline.bound": (
        lambda: canvas(math.nan).bound(["hello"], nodes=2),
        "none",
        lambda: canvas().bound(["hello"], nodes=2, low=1.5),
        "none",
    ),
    "AutoregressivePipeline.generate": (
        lambda: causal(math.nan).generate(1, length=4),
        lambda: causal().generate(1, length=4, temperature=math.inf),
        "none",
        "none",
    ),
}

MASKED = PROCESSES["masked"]()


def rows_of(value=0.0):
    return torch.full((2, 4, V), value)


def by_logits(call, beyond=True):
    """Of a loss from logits, where NaN is passed on to the loss."""
    return (
        lambda: call(rows_of(math.nan), X, HALF),
        "none",
        (lambda: call(rows_of(), X, LATE)) if beyond else "none",
        lambda: call(rows_of(), AWAY, HALF),
    )


def by_denoiser(call, late):
    """Of a bound from a denoiser; `late` calls it with times outside."""
    return (lambda: call(BAD, X), lambda: call(nl.Temperature(FINE, math.inf), X), late, lambda: call(FINE, AWAY))


Z = torch.full_like(X, V - 1)
BOUNDS = {
    "nelbo": by_logits(lambda row, x, t: nl.nelbo(MASKED, row, x, Z, t)),
    "nelbo_dense": by_logits(lambda row, x, t: elbo.nelbo_dense(MASKED, row, x, Z, t)),
    "nelbo_by_token": by_logits(lambda row, x, t: elbo.nelbo_by_token(MASKED, row, x, Z, t)),
    "nelbo_fused": by_logits(
        lambda row, x, t: elbo.nelbo_fused(MASKED, row, torch.eye(V), None, x, Z, t, torch.ones(2, 4))[1]
    ),
    "step_kl": by_logits(lambda row, x, t: elbo.step_kl(MASKED, row, x, Z, HALF - 0.1, t)),
    "step_kl_dense": by_logits(lambda row, x, t: elbo.step_kl_dense(MASKED, row, x, Z, HALF - 0.1, t)),
    "score_entropy": by_logits(lambda row, x, t: elbo.score_entropy(MASKED, row, x, Z, t)),
    "reconstruction": by_logits(lambda row, x, t: elbo.reconstruction(MASKED, row, x, Z, t)),
    "prior_kl": (
        "none",
        "none",
        lambda: elbo.prior_kl(MASKED, X, LATE),
        lambda: elbo.prior_kl(MASKED, AWAY, HALF),
    ),
    "objective_loss": by_logits(lambda row, x, t: objectives.objective_loss(MASKED, row, x, Z, t)),
    "weighted_loss": by_logits(lambda row, x, t: objectives.weighted_loss(MASKED, row, x, Z, t, None)),
    "cross_entropy": by_logits(lambda row, x, t: objectives.cross_entropy(MASKED, row, x, Z, t)),
    "any_order_loss": by_logits(lambda row, x, t: objectives.any_order_loss(MASKED, row, x, Z), beyond=False),
    "elbo": (
        "none",
        "none",
        lambda: objectives.elbo(MASKED, X, Z, LATE),
        lambda: objectives.elbo(MASKED, AWAY, Z, HALF),
    ),
    "low_variance": (
        "none",
        "none",
        lambda: objectives.low_variance(MASKED, X, Z, LATE),
        lambda: objectives.low_variance(MASKED, X, AWAY, HALF),
    ),
    "continuous_bound": by_denoiser(
        lambda d, x: nl.continuous_bound(MASKED, d, x), lambda: nl.continuous_bound(MASKED, FINE, X, high=1.5)
    ),
    "discrete_bound": by_denoiser(
        lambda d, x: nl.discrete_bound(MASKED, d, x, GRID), lambda: nl.discrete_bound(MASKED, FINE, X, BEYOND)
    ),
    "importance_bound": by_denoiser(
        lambda d, x: likelihood.importance_bound(MASKED, d, x, GRID, draws=1),
        lambda: likelihood.importance_bound(MASKED, FINE, X, BEYOND, draws=1),
    ),
    "path_log_weight": by_denoiser(
        lambda d, x: likelihood.path_log_weight(MASKED, d, x, GRID),
        lambda: likelihood.path_log_weight(MASKED, FINE, X, BEYOND),
    ),
    "learned_nelbo": (
        lambda: likelihood.learned_nelbo(MASKED, BAD, X, HALF),
        lambda: likelihood.learned_nelbo(MASKED, nl.Temperature(FINE, math.inf), X, HALF),
        lambda: likelihood.learned_nelbo(MASKED, FINE, X, LATE),
        lambda: likelihood.learned_nelbo(MASKED, FINE, AWAY, HALF),
    ),
    "expected_bound": by_denoiser(
        lambda d, x: likelihood.expected_bound(MASKED, d, x[:, 1:3], nodes=2),
        lambda: likelihood.expected_bound(MASKED, FINE, X[:, :2], nodes=2, high=1.5),
    ),
    "expected_discrete_bound": by_denoiser(
        lambda d, x: likelihood.expected_discrete_bound(MASKED, d, x[:, 1:3], GRID),
        lambda: likelihood.expected_discrete_bound(MASKED, FINE, X[:, :2], BEYOND),
    ),
    "model_law": (
        lambda: likelihood.model_law(MASKED, BAD, 2, GRID),
        lambda: likelihood.model_law(MASKED, nl.Temperature(FINE, math.inf), 2, GRID),
        lambda: likelihood.model_law(MASKED, FINE, 2, BEYOND),
        "none",
    ),
}


def bounds():
    """The public functions of bounds and losses: those that take tokens x and a time, logits or a denoiser."""
    for package in (elbo, likelihood, objectives):
        for name, value in vars(package).items():
            inside = getattr(value, "__module__", "").startswith(package.__name__) and not name.startswith("_")
            if inside and inspect.isfunction(value):
                names = set(inspect.signature(value).parameters)
                if "process" in names and names & {"t", "times", "nodes", "logits", "outputs", "denoiser"} - (
                    {"nodes"} if "x" not in names else set()
                ):
                    yield name


def methods():
    left = [Pipeline]
    while left:
        kind = left.pop()
        left += [k for k in kind.__subclasses__() if k.__module__.startswith("noiselab")]
        for name, value in vars(kind).items():
            if inspect.isfunction(value) and "generator" in inspect.signature(value).parameters:
                yield f"{kind.__name__}.{name}"


def table():
    rows = {}
    for name, kind in registry.find_samplers().items():
        rows[name] = sampler_cells(kind, process_for(kind))
    wrappers = registry.find_classes(samplers, nl.samplers.WrappedSampler)
    wrappers |= registry.find_classes(correctors, nl.samplers.WrappedSampler)
    for name in wrappers:
        if name != "WrappedSampler":
            rows[name] = sampler_cells(
                lambda process, denoiser, around=AROUND[name]: around(nl.AncestralSampler(process, denoiser)),
                PROCESSES["gidd"](),
            )
    for name, kind in registry.find_correctors().items():
        rows[name] = corrector_cells(kind.for_process, process_for(kind.for_process))
    for kind in (Detector, Reviser):
        rows |= {name: READERS[name] for name in registry.find_classes(correctors, kind)}
    rows |= {name: METHODS[name] for name in methods()}
    rows |= {name: BOUNDS[name] for name in bounds()}
    return rows


TABLE = table()


def outcome(cell):
    """What comes of a call, as a cell of the table."""
    if isinstance(cell, str):
        return cell
    try:
        result = cell()
    except ValueError as error:
        assert "\n" not in str(error) and "; got" in str(error), error
        return "refused"
    tensors = result if isinstance(result, tuple) else (result,)
    return "NaN" if all(bool(tensor.isnan().any()) for tensor in tensors) else "accepted"


FOUND = {}


@pytest.mark.parametrize("name", TABLE)
def test_a_row_of_the_table(name, unchecked):
    FOUND[name] = [outcome(cell) for cell in TABLE[name]]
    nan, *others = FOUND[name]
    losses = (*list(vars(elbo)), *list(vars(objectives)), "learned_nelbo")
    assert nan in ({"NaN", "none"} if name in losses else {"refused"})
    assert set(others) <= {"refused", "none"}


def test_the_whole_table_is_there():
    """Each kind of row, and every sampler of the library."""
    assert len(TABLE) > 45 and set(registry.find_samplers()) | set(METHODS) | set(BOUNDS) | set(READERS) <= set(TABLE)
    print("\n| | " + " | ".join(COLUMNS) + " |\n" + "|---" * 5 + "|")
    for name, cells in FOUND.items():
        print(f"| {name} | " + " | ".join(cells) + " |")
