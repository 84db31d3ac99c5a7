"""Texts of several processes are those of one, token for token, whatever their shares."""

import pytest
import torch
from several_processes import in_threads
from small import letters, pipeline, random, rows
from small_canvas import canvas_pipeline
from tiny_models import make

import noiselab as nl
from noiselab.categorical import split_generator
from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.distributed import ProcessError, Processes
from noiselab.pipeline import AutoregressivePipeline, ModelSettings

WORLDS = pytest.mark.parametrize("world", [2, 3])
QUIET = {"show_progress": False}
GAPS = ["the [MASK] sat", "a [MASK] and a [MASK]", "[MASK] dog", "the cat", "on [MASK]"]


def check(world, call):
    """The texts of `call(processes)` are those of one process, in each of them; they are not all the same."""
    alone = call(None)
    for found in in_threads(world, call):
        assert not isinstance(found, Exception), found
        assert found == alone and rows(found) == rows(alone)
    assert len(set(map(tuple, rows(alone)))) > 1
    return alone


@pytest.fixture(scope="module")
def pipe():
    return pipeline(dtype=torch.float32)


@pytest.fixture(scope="module")
def canvas(tmp_path_factory):
    return canvas_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def causal():
    words = train_tokenizer(["the cat sat on the mat", "the dog sat on the log"] * 9, vocab_size=280)
    model = make("LlamaForCausalLM", vocab_size=vocabulary_size(words), dtype=torch.float32)
    return AutoregressivePipeline(model, words, ModelSettings()).eval()


@WORLDS
@pytest.mark.parametrize(
    "how",
    [
        {"seed": 3},
        {"seeds": range(7)},
        {"seed": 3, "sampler": nl.samplers.TauLeapingSampler, "temperature": 0.8},
        {"seed": 3, "batch_size": 1},
    ],
)
def test_generation_is_that_of_one_process(pipe, world, how):
    """7 texts in batches of 2: the last batch is short, and processes have different numbers of batches."""
    options = {"batch_size": 2, **QUIET, **how}
    assert len(check(world, lambda own: pipe.generate(7, 3, **options, processes=own))) == 7


@WORLDS
def test_texts_with_prompts_and_ends_are_those_of_one_process(world):
    short = letters("masked")
    options = {"num_samples": 3, "num_inference_steps": 4, "stop": True, "batch_size": 2, "seed": 0, **QUIET}
    found = check(world, lambda own: short.generate(prompts=["a", "bc", "cab"], **options, processes=own))
    assert len(set(map(len, rows(found)))) > 1  # cut at different ends


@WORLDS
def test_gaps_and_corrections_are_those_of_one_process(pipe, world):
    gaps = [text for text in GAPS if "[MASK]" in text]
    check(world, lambda own: pipe.infill(gaps, 3, seed=1, **QUIET, processes=own))
    texts = [text.replace("[MASK]", "mat") for text in GAPS]

    def corrected(own):
        each = split_generator(random(), 5)
        return pipe.self_correction(texts, 5, 1.0, batch_size=2, generator=each, **QUIET, processes=own)

    check(world, corrected)


@WORLDS
def test_block_diffusion_is_that_of_one_process(canvas, world):
    prompts = ["the cat", "a", "b", "the dog", "ab"]
    options = {"batch_size": 2, "seed": 2, **QUIET}
    check(world, lambda own: canvas.generate(1, 3, prompts=prompts, length=12, stop=False, **options, processes=own))
    check(world, lambda own: canvas.self_correction(prompts, 3, 1.0, **options, processes=own))
    gaps = ["a<mask>b", "the <mask> cat", "<mask>b", "a<mask>c"]
    check(world, lambda own: canvas.infill(gaps, 3, seed=2, **QUIET, processes=own))
    nats = canvas.bound(prompts, generator=random(), batch_size=2).nats
    for found in in_threads(world, lambda own: canvas.bound(prompts, generator=random(), batch_size=2, processes=own)):
        assert torch.equal(found.nats, nats)


@WORLDS
def test_autoregressive_texts_are_those_of_one_process(causal, world):
    options = {"length": 9, "seed": 4, "batch_size": 2}
    check(world, lambda own: causal.generate(5, **options, processes=own))
    found = check(world, lambda own: causal.generate(3, prompts=["the", "the cat"], **options, processes=own))
    assert [text.startswith("the cat") for text in found[3:]] == [True] * 3


def test_the_batch_size_of_an_autoregressive_model_changes_no_text(causal):
    whole = causal.generate(5, prompts=["the", "the cat"], length=9, seed=4)
    assert rows(causal.generate(5, prompts=["the", "the cat"], length=9, seed=4, batch_size=2)) == rows(whole)


@pytest.mark.parametrize("how", [{}, {"generator": torch.Generator()}])
def test_texts_that_would_depend_on_the_number_of_processes_are_refused(pipe, how):
    with pytest.raises(ValueError, match="several processes need seed, seeds or a generator for each text"):
        pipe.generate(2, 2, **QUIET, **how, processes=Processes())


def test_states_and_callbacks_are_those_of_one_process_alone(pipe):
    with pytest.raises(ValueError, match="processes must be None in a stream"):
        pipe.stream(2, 2, seed=0, processes=Processes())
    with pytest.raises(ValueError, match="callback must be None with processes"):
        pipe.generate(2, 2, seed=0, callback=print, **QUIET, processes=Processes())


@pytest.mark.parametrize("differs", ["seed", "prompt", "steps"])
def test_different_calls_are_refused(pipe, differs):
    def call(own):
        other = own.rank == 1
        prompt = "the dog" if other and differs == "prompt" else "the cat"
        seed, steps = int(other and differs == "seed"), 2 + (other and differs == "steps")
        return pipe.generate(4, steps, prompts=[prompt], batch_size=2, seed=seed, **QUIET, processes=own)

    assert all(isinstance(found, ValueError) and "same call" in str(found) for found in in_threads(2, call))


def test_a_text_that_one_process_cannot_sample_is_an_error_of_all(pipe, monkeypatch):
    from noiselab.pipeline.drawing import SampledBatch

    walk = SampledBatch.walk

    def fail(self):
        if self.texts.start == 2:
            raise RuntimeError("out of memory")
        return walk(self)

    monkeypatch.setattr(SampledBatch, "walk", fail)
    first, second = in_threads(2, lambda own: pipe.generate(4, 2, batch_size=2, seed=0, **QUIET, processes=own))
    assert type(second) is RuntimeError
    assert isinstance(first, ProcessError) and str(first) == "process 1 failed with RuntimeError: out of memory"
