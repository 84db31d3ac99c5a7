"""The batch size changes no result: every public function, class, method and command that has one, with two of them."""

import functools
import importlib
import inspect
import json
import pkgutil
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from small import TEXTS, pipeline, random, tokenizer
from small_canvas import canvas_pipeline
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.autoregressive import Proofreader, SurpriseProofreader
from noiselab.bench import force_errors, measure_forced_errors
from noiselab.commands.main import COMMANDS, run
from noiselab.correctors import (
    BalancedCorrector,
    CorrectorReviser,
    DenoiserDetector,
    ResamplingReviser,
)
from noiselab.data import vocabulary_size
from noiselab.evaluation import (
    canvas_validation_bound,
    generative_perplexity,
    text_perplexity,
    token_nats,
    validation_bound,
)
from noiselab.pipeline import AutoregressivePipeline, ModelSettings

LENGTH, TOKENS = 16, 9
QUIET = {"show_progress": False}
X = torch.randint(3, (5, TOKENS), generator=random(1))
GIDD = nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2)
ORACLE = nl.MarkovOracle(torch.tensor([0.5, 0.3, 0.2]), torch.full((3, 3), 0.1).fill_diagonal_(0.8), GIDD)


def judge(states=4):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=states, max_position_embeddings=LENGTH, **sizes)).double().eval()


def causal():
    words = tokenizer()
    return AutoregressivePipeline(judge(vocabulary_size(words)), words, ModelSettings())


@functools.cache
def canvas():
    """In float64, so that rounding does not depend on the batch."""
    with tempfile.TemporaryDirectory() as folder:
        return canvas_pipeline(Path(folder), dtype=torch.float64)


LINES = ["hello", "a", "the cat", "b", "cat"]


def each(count=5):
    return [random(seed) for seed in range(count)]


def bound(**options):
    return lambda size: validation_bound(GIDD, ORACLE, X, batch_size=size, generator=random(), **options).nats


def read_again(cls, **options):
    return lambda size: (
        cls(judge(), start=3, threshold=0.3, temperature=1.0, cache=False, batch_size=size, **options)(
            X, generator=each()
        ).tokens
    )


def corrected(size):
    hot = nl.SelfCorrection(ORACLE, process=GIDD, temperature=5.0)
    return CorrectorReviser(hot, steps=3, batch_size=size)(X, generator=each()).tokens


def jumped(size):
    return CorrectorReviser(BalancedCorrector(GIDD, ORACLE, level=0.4), batch_size=size)(X, generator=each()).tokens


def moved(size):
    return CorrectorReviser(nl.GibbsCorrector(GIDD, ORACLE), steps=3, batch_size=size)(X, generator=each()).tokens


def resampled(size):
    sampler = nl.AncestralSampler(GIDD, ORACLE)
    return ResamplingReviser(sampler, time=0.5, steps=2, batch_size=size)(X, generator=each()).tokens


def forced(size):
    sets = [force_errors(X, torch.arange(3), 0.3, generator=random(seed)) for seed in range(2)]
    reviser = CorrectorReviser(nl.SelfCorrection(ORACLE, process=GIDD))
    row = measure_forced_errors(
        "m", sets, DenoiserDetector(ORACLE), reviser, judge=judge(), start=3, batch_size=size, generator=each()
    )
    return torch.tensor([row.better.mean, row.better.half])


CALLS = {
    "noiselab.evaluation.validation_bound": (bound(), bound(steps=4), bound(nodes=4, repeats=2)),
    "noiselab.evaluation.generative_perplexity": (lambda n: generative_perplexity(judge(), X, batch_size=n).total,),
    "noiselab.evaluation.text_perplexity": (
        lambda n: text_perplexity(causal().network, tokenizer(), TEXTS[:3], batch_size=n).total,
    ),
    "noiselab.evaluation.token_nats": (lambda n: token_nats(judge(), X, start=3, batch_size=n),),
    "noiselab.bench.measure_forced_errors": (forced,),
    "noiselab.correctors.CorrectorReviser": (corrected, jumped, moved),
    "noiselab.correctors.ResamplingReviser": (resampled,),
    "noiselab.autoregressive.Proofreader": (read_again(Proofreader, backspace=3, semantics="erasing"),),
    "noiselab.autoregressive.SurpriseProofreader": (read_again(SurpriseProofreader),),
    "noiselab.pipeline.DiffusionPipeline.generate": (
        lambda n: pipeline().generate(5, 3, batch_size=n, generator=each(), **QUIET),
        lambda n: pipeline().generate(2, 3, prompts=["a", "the cat"], batch_size=n, generator=each(4), **QUIET),
    ),
    "noiselab.evaluation.canvas_validation_bound": (
        lambda n: (
            canvas_validation_bound(
                canvas().process, canvas().network, canvas().encode(LINES), nodes=2, batch_size=n, generator=random()
            ).nats
        ),
    ),
    "noiselab.pipeline.CanvasPipeline.bound": (
        lambda n: canvas().bound(LINES, nodes=2, batch_size=n, generator=random()).nats,
    ),
    "noiselab.pipeline.CanvasPipeline.generate": (
        lambda n: canvas().generate(1, 2, prompts=LINES, length=8, batch_size=n, generator=each(), **QUIET),
    ),
    "noiselab.pipeline.CanvasPipeline.self_correction": (
        lambda n: canvas().self_correction(LINES, 2, batch_size=n, generator=each(), **QUIET),
    ),
    "noiselab.pipeline.AutoregressivePipeline.generate": (
        lambda n: causal().generate(5, length=7, batch_size=n, generator=each()),
        lambda n: causal().generate(2, prompts=["a", "the cat"], length=7, batch_size=n, generator=each(4)),
    ),
    "noiselab.pipeline.DiffusionPipeline.self_correction": (
        lambda n: pipeline().self_correction(TEXTS[:5], 3, 1.0, batch_size=n, generator=each(), **QUIET),
    ),
}
"""With a generator for each text, where they are taken: with a single one, it is shared by the texts of a batch."""
COMMANDS_CALLED = {
    "generate": (
        ("MODEL", "--num-samples", "5", "--steps", "3"),
        ("MODEL", "--num-samples", "3", "--steps", "3", "--prompt", "a", "--prompt", "the cat"),
        ("JUDGE", "--num-samples", "5", "--temperature", "0.9", "--top-k", "50", "--top-p", "0.95", "--min-p", "1e-4"),
        ("JUDGE", "--num-samples", "3", "--prompt", "a", "--prompt", "the cat"),
    ),
    "correct": (("MODEL", "TEXTS", "--steps", "3", "--temperature", "1"),),
    "evaluate bound": (
        ("MODEL", "TEXTS", "--length", "8"),
        ("MODEL", "TEXTS", "--length", "8", "--nodes", "4"),
        ("JUDGE", "TEXTS"),
    ),
    "evaluate perplexity": (("TEXTS", "--judge", "JUDGE"),),
    "compare": (("MODEL", "JUDGE", "--texts", "LINES", "--length", "8"),),
}
FIGURES = ("nats", "difference", "error", "half")
ELSEWHERE = {"evaluate harness"}  # tests/pipeline/test_harness_batches.py


def public():
    for found in pkgutil.walk_packages(nl.__path__, "noiselab."):
        module = importlib.import_module(found.name) if found.ispkg else None
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            yield f"{found.name}.{name}", thing
            if inspect.isclass(thing):
                for method, function in vars(thing).items():
                    if not method.startswith("_") and inspect.isfunction(function):
                        yield f"{found.name}.{name}.{method}", function


def test_all_that_has_a_batch_size_is_called():
    found = {}
    for label, thing in public():
        if callable(thing):
            try:
                there = "batch_size" in inspect.signature(thing).parameters
            except (TypeError, ValueError):
                continue
            if there:
                found.setdefault(id(thing), set()).add(label)
    assert len(found) == len(CALLS)
    assert all(labels & set(CALLS) for labels in found.values()), found
    commands = {
        name
        for name in COMMANDS
        if hasattr(module := importlib.import_module(f"noiselab.commands.{name.replace(' ', '_')}"), "Options")
        and "batch_size" in {field.name for field in fields(module.Options)}
    }
    assert commands == set(COMMANDS_CALLED) | ELSEWHERE


@pytest.mark.parametrize("label", CALLS)
def test_functions(label):
    for call in CALLS[label]:
        first, *others = (call(size) for size in (5, 1, 2))
        for other in others:
            if isinstance(first, torch.Tensor):
                torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9)
            else:
                assert [text.tokens for text in other] == [text.tokens for text in first]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    diffusion = pipeline()
    diffusion.save_pretrained(place / "MODEL")
    causal().save_pretrained(place / "JUDGE")
    texts = ["the cat sat", "a dog", "the mat sat on the dog", "a", "on the log"]
    (place / "TEXTS.txt").write_text("\n\n".join(texts))
    (place / "LINES.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return place


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", COMMANDS_CALLED)
def test_commands(folder, name):
    places = {
        "MODEL": folder / "MODEL",
        "JUDGE": folder / "JUDGE",
        "TEXTS": folder / "TEXTS.txt",
        "LINES": folder / "LINES.jsonl",
    }
    for words in COMMANDS_CALLED[name]:
        given = [str(places.get(word, word)) for word in words]
        found = [run(name, [*given, "--device", "cpu", "--batch-size", size]) for size in ("5", "1", "2")]
        for other in found[1:]:
            if isinstance(other, list):
                assert [record["tokens"] for record in other] == [record["tokens"] for record in found[0]]
            else:
                figures = [{name: one[name] for name in FIGURES if name in one} for one in (other, found[0])]
                assert figures[0] and figures[0] == pytest.approx(figures[1], rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_texts_of_causal_models_differ_by_text_and_by_seed(folder):
    def tokens(seed, count=5):
        given = [str(folder / "JUDGE"), "--num-samples", str(count), "--seed", str(seed), "--device", "cpu"]
        return [tuple(record["tokens"]) for record in run("generate", given)]

    found = tokens(3)
    assert len(set(found)) == 5 and found == tokens(3, 7)[:5] and not set(found) & set(tokens(4))


def test_a_drawn_token_has_the_probability_of_the_model():
    """The first token of 4,000 texts, against the softmax of the logits by hand, cut to three tokens."""
    pipe = causal()
    begin = pipe.tokenizer.bos_token_id
    logits = pipe.network(torch.tensor([[begin]])).logits[0, -1].detach() / 0.5
    top, places = logits.topk(3)
    want = torch.zeros_like(logits).scatter(0, places, top.softmax(-1))
    texts = pipe.generate(4000, length=2, temperature=0.5, top_k=3, generator=random())
    count = torch.bincount(torch.tensor([text.tokens[1] for text in texts]), minlength=len(want))
    assert not count[want == 0].any()
    assert ((count - 4000 * want).square()[places] / (4000 * want[places])).sum() < 13.8  # chi-square, p = .001


def test_the_generators_are_one_for_each_text():
    with pytest.raises(ValueError, match="one generator for each of 4 texts is needed; got 3"):
        causal().generate(2, prompts=["a", "the"], generator=each(3))
    with pytest.raises(ValueError, match="times or nodes must be given with one generator for each sequence"):
        nl.continuous_bound(GIDD, ORACLE, X, generator=each())
