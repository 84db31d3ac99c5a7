"""Generation is the library's own sampling: nothing is added, nothing is lost on the way to text and back."""

import pickle

import pytest
import torch
from small import LENGTH, pipeline, random

import noiselab as nl
from noiselab.pipeline import GenerationSettings, ModelSettings, Pipeline
from noiselab.pipeline.base import Text

QUIET = {"show_progress": False}


@pytest.fixture(scope="module", params=["gidd", "masked", "uniform"])
def pipe(request):
    return pipeline(request.param)


def test_generation_is_the_ancestral_sampler(pipe):
    texts = pipe.generate(3, 5, generator=random(), **QUIET)
    x = nl.AncestralSampler(pipe.process, pipe.denoiser).sample((3, LENGTH), steps=5, generator=random())
    assert [list(text.tokens) for text in texts] == x.tolist()
    assert texts == pipe.tokenizer.batch_decode(x, skip_special_tokens=True)
    assert pipe.support[x].all()


def test_batches_do_not_matter(pipe):
    seeds = [random(i) for i in range(5)]
    together = pipe.generate(5, 4, generator=seeds, **QUIET)
    apart = pipe.generate(5, 4, batch_size=2, generator=[random(i) for i in range(5)], **QUIET)
    assert [text.tokens for text in together] == [text.tokens for text in apart]


def test_samplers_may_be_classes_functions_or_made(pipe):
    own = nl.samplers.TauLeapingSampler(pipe.process, nl.Temperature(pipe.denoiser, 0.5))
    first = pipe.generate(2, 6, sampler=own, generator=random(), **QUIET)
    assert first == pipe.generate(
        2, 6, sampler=nl.samplers.TauLeapingSampler, temperature=0.5, generator=random(), **QUIET
    )
    assert first != pipe.generate(2, 6, sampler=nl.samplers.TauLeapingSampler, generator=random(), **QUIET)
    with pytest.raises(ValueError, match="must be None with a sampler instance"):
        pipe.generate(2, 6, sampler=own, temperature=0.5, **QUIET)
    with pytest.raises(ValueError, match=r"sampler must build a noiselab\.Sampler; got int"):
        pipe.generate(2, 6, sampler=lambda process, denoiser: 3, **QUIET)


def test_defaults_are_those_of_the_model(pipe):
    settings = ModelSettings(
        pipe.settings.noise, generation=GenerationSettings(steps=3, temperature=0.7, top_k=5, top_p=0.9)
    )
    own = type(pipe)(pipe.model, pipe.tokenizer, settings)
    asked = {"temperature": 0.7, "top_k": 5, "top_p": 0.9}
    assert own.generate(2, generator=random(), **QUIET) == pipe.generate(2, 3, **asked, generator=random(), **QUIET)


def test_prompts_stay(pipe):
    prompts = ["the cat", "a dog and a cat"]
    texts = pipe.generate(2, 4, prompts=prompts, generator=random(), **QUIET)
    for i, text in enumerate(texts):
        start = pipe.tokenizer(prompts[i // 2])["input_ids"]
        assert list(text.tokens[: len(start)]) == start and len(text.tokens) == LENGTH
    assert texts[0] != texts[1]
    assert len(pipe.generate(1, 4, length=5, **QUIET)[0].tokens) == 5


def test_gaps_are_filled_and_all_else_stays(pipe):
    texts = ["the [MASK] sat", "[MASK][MASK] on the log"]
    for text, filled in zip(texts, pipe.infill(texts, 4, generator=random(), **QUIET), strict=True):
        before = torch.tensor(pipe.tokenizer(text)["input_ids"])
        after, gap = torch.tensor(filled.tokens), before == pipe.tokenizer.mask_token_id
        assert torch.equal(after[~gap], before[~gap]) and pipe.support[after].all()


def test_a_text_keeps_its_tokens_where_they_mean_something(pipe):
    text = pipe.generate(1, 4, generator=random(), **QUIET)[0]
    assert pipe.encode([text]) == [list(text.tokens)]
    assert type(pickle.loads(pickle.dumps(text))) is str and type(text + "") is str
    made = Text.of("the cat", [3, 4], pipe.tokenizer)
    assert pipe.encode([made]) == [[3, 4]] and pipe.encode(["the cat", made, "a"])[1] == [3, 4]


def test_as_released_starts_a_step_late_and_leaves_noise():
    pipe = pipeline()
    texts = pipe.generate(400, 3, as_released=True, batch_size=400, generator=random(), **QUIET)
    margin = 1e-4
    times = margin + (1 - 2 * margin) * torch.tensor([2 / 3, 1 / 3, 0], dtype=torch.float64)
    sampler, one = nl.AncestralSampler(pipe.process, pipe.denoiser), random()
    z = pipe.process.prior(400, LENGTH, generator=one)
    for state in sampler.walk(z, times, generator=one):
        z = state
    found = torch.tensor([text.tokens for text in texts])
    assert torch.equal(found, z)
    with pytest.raises(ValueError, match=r"at least 2; got 1 \(with as_released"):
        pipe.generate(1, 1, as_released=True, **QUIET)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1; got 0"),
        ({"length": LENGTH + 1}, r"length must lie in \[1, 16\]; got 17"),
        ({"prompts": []}, "at least one text"),
        ({"prompts": "the cat"}, "prompts must be a list"),
        ({"prompts": [""]}, "prompts must not be empty; prompt 0 is"),
        ({"prompts": ["the cat sat on the mat " * 9]}, r"prompt 0 must fit the context of 16 tokens; got \d+"),
        ({"prompts": ["the cat sat"], "length": 2}, "prompts must fit 2 tokens; got one of"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_what_cannot_be_generated_is_refused(pipe, settings, words):
    with pytest.raises(ValueError, match=words):
        pipe.generate(**{"num_samples": 1, "num_inference_steps": 2, **QUIET, **settings})


def test_texts_without_gaps_are_refused(pipe):
    for texts, words in (([], "at least one"), ("a [MASK]", "must be a list"), (["a cat"], "text 0 does not")):
        with pytest.raises(ValueError, match=words):
            pipe.infill(texts, 2, **QUIET)


def test_it_is_a_module(pipe):
    assert isinstance(pipe, torch.nn.Module) and isinstance(pipe, Pipeline) and not pipe.training
    assert pipe.to("cpu") is pipe and pipe.device == torch.device("cpu")
