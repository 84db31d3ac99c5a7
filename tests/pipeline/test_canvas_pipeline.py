"""Block-diffusion models as pipelines: the published sampler, prompts of any lengths, streams, folders, and what is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from small_canvas import LETTERS, QUIET, canvas_pipeline, folder_of, random, rows, tokenizer

import noiselab as nl
from noiselab.data.reading import derive_seed
from noiselab.networks import load_network
from noiselab.networks.canvas import CanvasDenoiser
from noiselab.pipeline import (
    CanvasPipeline,
    CanvasSettings,
    GenerationSettings,
    ModelSettings,
    Pipeline,
    canvas_drawing,
)
from noiselab.pipeline.base import Text
from noiselab.pipeline.seeds import text_generators

sys.path.insert(0, str(Path(__file__).parents[1] / "networks"))
from published_generate import settings as published_call
from published_generate import stored

FACTS, PAD = stored(), 0
PROMPTS = ["hello", "a", "the cat sat on the mat", "b"]
SHORT = {"length": 16, "stop": False, **QUIET}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return canvas_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def exact(pipe, tmp_path_factory):
    """In float64, so that rounding does not depend on the batch."""
    return canvas_pipeline(tmp_path_factory.mktemp("exact"), dtype=torch.float64)


def text(pipe, ids):
    return Text.of("", ids, pipe.tokenizer)


def cut(ids, ends, given):
    """By hand: after the first end behind the prompt."""
    found = [i for i, one in enumerate(ids) if i >= given and one in ends]
    return ids[: found[0] + 1] if found else ids


def test_a_constraint_is_for_models_of_whole_texts(pipe):
    for call in (pipe.generate, pipe.stream):
        with pytest.raises(ValueError, match="constraints need a diffusion model of whole texts"):
            call(constraint="a+", **SHORT)


class Published(nl.samplers.RenoisingSampler):
    """With torch's global draws in the published order, and the canvases noted."""

    seen: list
    size = 8

    def start(self, batch, length, *, generator=None, device=None):
        return torch.zeros(batch, length, dtype=torch.long)

    def stages(self, z, t, s, *, generator=None):
        t, s = (nl.process.as_token_times(time, z).expand(z.shape) for time in (t, s))
        if (t[:, -self.size :] == 1).any():
            z = torch.cat([z[:, : -self.size], torch.randint(0, 70, (len(z), self.size))], 1)
        if (s < t).any():
            self.seen.append(z[:, -self.size :])
        return super().stages(z, t, s, generator=generator)

    def candidates(self, log_probs, u, rows):
        canvas = rows[:, -self.size :]
        numbers = torch.empty(canvas.numel(), log_probs.shape[-1]).exponential_()
        self.noise = torch.randint(0, log_probs.shape[-1], canvas.shape)
        return (log_probs.exp() / numbers[canvas.flatten()]).argmax(-1)

    def renoised(self, z, s, u):
        return torch.cat([z[:, : -self.size], self.noise], 1)


@pytest.mark.parametrize("name", ["two_blocks", "short_prompt", "rounded_up", "stops_early"])
def test_with_the_recorded_draws_the_texts_are_those_of_transformers(pipe, name, monkeypatch):
    """The canvases of all steps of all blocks, and the texts up to their ends; settings from generation_config.json."""
    call, canvases = published_call(name), []
    monkeypatch.setattr(Published, "seen", canvases, raising=False)
    monkeypatch.setattr(canvas_drawing, "RenoisingSampler", Published)
    changed = {"bound": call["entropy_bound"], "t_min": call["t_min"], "t_max": call["t_max"]}
    changed |= {"stability": call["stability_threshold"], "confidence": call["confidence_threshold"]}
    own = pipe.canvas
    if name != "two_blocks":  # which has all of the file
        own = CanvasSettings(**changed, length=call["max_new_tokens"], ends=tuple(call["eos_token_id"]))
    steps = GenerationSettings(steps=call["max_denoising_steps"])
    made = CanvasPipeline(pipe.model, pipe.tokenizer, ModelSettings(generation=steps, canvas=own))
    assert name != "two_blocks" or (made.generation, made.canvas) == (pipe.generation, pipe.canvas)
    prompts = FACTS[f"generate.{name}.input_ids"].tolist()
    torch.manual_seed(call["seed"])
    texts = made.generate(prompts=[text(made, ids) for ids in prompts], generator=random(), **QUIET)
    assert torch.rand(1) == FACTS[f"generate.{name}.next_uniform"]
    whole = FACTS[f"generate.{name}.sequences"].tolist()
    assert rows(texts) == [cut(ids, call["eos_token_id"], len(ids0)) for ids, ids0 in zip(whole, prompts, strict=True)]
    wanted, over = FACTS[f"generate.{name}.canvas_before_step"], FACTS[f"generate.{name}.finished_after_step"]
    assert len(canvases) == len(wanted)
    over = torch.cat([torch.zeros_like(over[:1]), over[:-1]])  # of a finished sequence we keep the most probable tokens
    for found, theirs, done in zip(canvases, wanted, over, strict=True):
        same = (found == theirs).all(-1)
        assert (same | done | (found == PAD).all(-1)).all()


def test_the_settings_are_those_of_the_folder_or_the_published_ones(pipe, tmp_path):
    assert type(pipe) is CanvasPipeline
    assert pipe.canvas == CanvasSettings(1.0, 0.4, 0.8, 1, 0.005, 16, (1,)) and pipe.generation.steps == 6
    folder = folder_of(tmp_path)
    (folder / "generation_config.json").unlink()
    plain = Pipeline.from_pretrained(folder)
    assert plain.canvas == CanvasSettings(0.1, 0.4, 0.8, 1, 0.005, 256, ()) and plain.generation.steps == 48
    assert plain.ends == [1] and repr(plain.process) == repr(nl.uniform(vocab_size=70))
    sampler = canvas_drawing.canvas_sampler(plain, None, None, None, None, None)(plain.process, plain.denoiser_after(3))
    assert type(sampler) is nl.samplers.RenoisingSampler
    assert (sampler.bound, sampler.stability, sampler.confidence, sampler.draw) == (0.1, 1, 0.005, False)
    assert [sampler.temperature(torch.tensor(t, dtype=torch.float64)).item() for t in (1.0, 0.5)] == [
        0.8,
        0.4 + 0.4 / 2,
    ]


@pytest.mark.parametrize("sampler", [None, nl.AncestralSampler])
def test_a_text_is_that_of_the_chain_by_hand(pipe, sampler):
    prompt = torch.tensor(pipe.encode(["hello"]))
    denoiser = CanvasDenoiser(pipe.network, given=5)
    steps = nl.AncestralSampler(pipe.process, denoiser)
    if sampler is None:
        steps = nl.samplers.RenoisingSampler(
            pipe.process, denoiser, 1.0, temperature=0.4 + 0.4 * nl.t, stability=1, confidence=0.005
        )
    chain = nl.samplers.Prompted(nl.samplers.BlockSampler(steps, 8, given=5, context="past"), prompt)
    each = [random(i) for i in (3, 4)]
    x = chain.sample((2, 5 + 16), steps=7, generator=each)
    texts = pipe.generate(2, 7, prompts=["hello"], sampler=sampler, seeds=[3, 4], **SHORT)
    assert rows(texts) == x.tolist() and texts == pipe.decode(x)


@pytest.mark.parametrize("settings", [{}, {"sampler": nl.AncestralSampler, "temperature": 0.7, "top_k": 20}])
@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_text_is_the_same_alone_and_in_any_batch(exact, settings, size):
    """With prompts of other lengths, in any order."""
    whole = exact.generate(2, 4, prompts=PROMPTS, seeds=[*range(8)], batch_size=size, **settings, **SHORT)
    assert [len(ids) for ids in rows(whole)] == [len(PROMPTS[i // 2]) + 16 for i in range(8)]
    assert all(one.startswith(PROMPTS[i // 2]) for i, one in enumerate(whole)) and len(set(whole)) == 8
    back = exact.generate(1, 4, prompts=PROMPTS[::-1], seeds=[6, 4, 2, 0], batch_size=size, **settings, **SHORT)
    assert rows(back) == [rows(whole)[i] for i in (6, 4, 2, 0)]
    if size == 1:
        for i in range(0, 8, 3):
            alone = exact.generate(1, 4, prompts=[PROMPTS[i // 2]], seeds=[i], **settings, **SHORT)
            assert rows(alone) == [rows(whole)[i]]


def test_seeds_of_texts_and_one_seed(exact):
    options = {"prompts": ["ab", "c"], **SHORT}
    whole = rows(exact.generate(2, 3, seed=5, **options))
    assert whole == rows(exact.generate(2, 3, seeds=[derive_seed(5, i) for i in range(4)], batch_size=1, **options))
    assert whole == rows(exact.generate(2, 3, generator=[random(derive_seed(5, i)) for i in range(4)], **options))


@pytest.mark.parametrize("prompts", [None, PROMPTS])
@pytest.mark.parametrize("stop", [True, False])
def test_the_last_state_is_what_generate_returns(pipe, prompts, stop):
    options = {"prompts": prompts, "length": 24, "seed": 2, "batch_size": 3, "stop": stop, "temperature": 3.0}
    states, seen = list(pipe.stream(3, 5, **options)), []
    texts = pipe.generate(3, 5, callback=seen.append, **options, **QUIET)
    assert rows(states[-1].texts) == rows(texts) and states[-1].texts == texts
    assert states[-1].finished.all() and (states[-1].time == 0).all() and not states[0].finished.any()
    assert states[-1].step == states[-1].steps == 3 * 5 * (1 if prompts is None else 4)
    for mine, theirs in zip(states, seen, strict=True):
        assert torch.equal(mine.tokens, theirs.tokens)
    first = states[0]  # what has not begun has its prompt alone
    if prompts is not None:
        assert first.texts[3].startswith("a") and first.tokens[9, :1].tolist() == pipe.encode(["b"])[0]
        assert first.last.tolist() == [len(PROMPTS[i // 3]) + 24 for i in range(12)]


def test_it_ends_at_an_end_of_text(pipe):
    """The text up to its end is that without an end, and no canvas is sampled after all texts have ended."""
    end = 40
    own = CanvasPipeline(
        pipe.model, pipe.tokenizer, ModelSettings(canvas=CanvasSettings(bound=50.0, length=64, ends=(end, 41, 42)))
    )
    options = {"prompts": PROMPTS, "seeds": [*range(12)], "temperature": 2.0, **QUIET}
    whole = rows(own.generate(3, 4, stop=False, **options))
    texts = rows(own.generate(3, 4, **options))
    sizes = [len(PROMPTS[i // 3]) for i in range(12)]
    assert texts == [cut(ids, (end, 41, 42), size) for ids, size in zip(whole, sizes, strict=True)]
    assert len({len(ids) for ids in texts}) > 4 and texts == rows(own.generate(3, 4, length="auto", **options))
    states = list(own.stream(3, 4, prompts=["a"], seeds=[3, 4, 5], temperature=2.0))
    longest = max(len(ids) - 1 for ids in texts[3:6])
    assert len(states) <= -(-longest // 8) * 4 + 1 and states[-1].step == states[-1].steps == 32
    assert states[-1].last.tolist() == [len(ids) for ids in texts[3:6]]


def test_length_is_that_after_the_prompt_in_whole_canvases(pipe):
    for length, wanted in ((1, 8), (8, 8), (9, 16), (None, 16)):
        texts = pipe.generate(1, 2, prompts=["hello", "a"], length=length, stop=False, seed=0, **QUIET)
        assert [len(ids) for ids in rows(texts)] == [5 + wanted, 1 + wanted]
    # By default what the context of 128 tokens leaves, prompt by prompt.
    texts = pipe.generate(1, 1, prompts=["a" * 115, "a" * 112, "a"], stop=False, seed=0, **QUIET)
    assert [len(ids) for ids in rows(texts)] == [123, 128, 17]
    assert len(rows(pipe.generate(1, 2, stop=False, seed=0, **QUIET))[0]) == 16


@pytest.mark.parametrize("sampler", [None, nl.AncestralSampler])
@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_callback_ends_texts_after_the_canvas_in_progress(pipe, sampler, step):
    """Three steps a canvas, two prompts of other lengths: texts that have not begun are left out."""
    options = {"prompts": ["hello", "a"], "sampler": sampler, "seeds": [0, 1, 2, 3], **SHORT}
    states = []

    def callback(state):
        states.append(state)
        return state.step == step

    texts = rows(pipe.generate(2, 3, callback=callback, **options))
    assert [len(ids) for ids in texts] == [5 + (8 if step <= 3 else 16)] * 2
    assert all(ids[:5] == pipe.encode(["hello"])[0] for ids in texts) and len(states) == step
    whole = torch.tensor(rows(pipe.generate(2, 3, **options))[:2])
    if step == 3:
        assert texts == whole[:, :13].tolist()
    if step == 5:
        assert torch.equal(torch.tensor(texts)[:, :13], whole[:, :13])
    last = list(pipe.stream(2, 3, callback=callback, **options))[-1]
    assert rows(last.texts) == texts and last.finished.all()


def test_an_ended_canvas_has_the_most_probable_tokens_of_its_step(pipe):
    prompt = torch.tensor(pipe.encode(["hello"]))
    texts = pipe.generate(1, 3, prompts=["hello"], seed=0, callback=lambda state: True, **SHORT)
    z = pipe.process.prior(1, 21, generator=text_generators(0, 1))
    logits = pipe.network(z[:, 5:13], prefix=prompt)
    assert rows(texts)[0][5:] == logits.argmax(-1)[0].tolist()


def test_the_tokens_before_each_text(tmp_path):
    pipe = canvas_pipeline(tmp_path, tokenizer(opening=True))
    texts = pipe.generate(1, 2, prompts=["ab", text(pipe, [2, 5])], seed=0, **SHORT)
    assert [ids[:2] for ids in rows(texts)] == [[2, 4], [2, 5]] and [len(ids) for ids in rows(texts)] == [19, 18]
    assert texts[0].startswith("ab")
    (alone,) = rows(pipe.generate(1, 2, seed=0, **SHORT))
    assert alone[0] == 2 and len(alone) == 17
    again = pipe.generate(1, 2, prompts=[texts[0]], seed=0, **SHORT)
    assert rows(again)[0][:19] == rows(texts)[0]


def test_conversations(tmp_path):
    """The answers are what follows the rendered prompt, up to an end of text or what the template ends messages by."""
    words = tokenizer()
    words.chat_template = (
        "{% for m in messages %}{{ m.role[:1] + ':' + m.content + '<bos>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    pipe = canvas_pipeline(tmp_path, words)
    chats = [[{"role": "user", "content": "hello"}], [{"role": "user", "content": "a"}]]
    starts = [pipe.tokenizer(one)["input_ids"] for one in ("u:hello<bos>a:", "u:a<bos>a:")]
    assert starts[0][7] == 2 and len(starts[1]) == len(starts[0]) - 4
    options = {"seeds": [*range(8)], "temperature": 9.0, "length": 40, **QUIET}
    answers = rows(pipe.generate(4, 3, prompts=chats, stop=False, **options))
    whole = rows(pipe.generate(4, 3, prompts=[text(pipe, ids) for ids in starts], stop=False, **options))
    each = [len(starts[i // 4]) for i in range(8)]
    assert answers == [cut(ids, (1, 2), size)[size:] for ids, size in zip(whole, each, strict=True)]
    assert {ids[-1] for ids in answers} >= {1, 2} and len({len(ids) for ids in answers}) > 3
    pipe.save_pretrained(tmp_path / "saved")
    again = Pipeline.from_pretrained(tmp_path / "saved")
    assert rows(again.generate(4, 3, prompts=chats, **options)) == answers


def test_a_saved_pipeline_comes_back_bit_for_bit(pipe, tmp_path):
    own = CanvasSettings(0.7, 0.3, 0.9, None, 0.01, 24, (5, 1))
    made = CanvasPipeline(
        pipe.model, pipe.tokenizer, ModelSettings(generation=GenerationSettings(steps=5, top_k=40), canvas=own)
    ).eval()
    made.save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    assert type(again) is CanvasPipeline and again.settings == made.settings and not again.training
    one, two = (rows(p.generate(2, prompts=["hello", "a"], seed=1, **QUIET)) for p in (made, again))
    assert one == two and one != rows(pipe.generate(2, prompts=["hello", "a"], seed=1, **QUIET))
    network, ids = load_network(tmp_path), FACTS["long.input_ids"]
    with torch.no_grad():
        assert torch.equal(network(FACTS["canvas"], prefix=ids), pipe.network(FACTS["canvas"], prefix=ids))
    assert "block-diffusion" in (tmp_path / "README.md").read_text()
    content = json.loads((tmp_path / "noiselab.json").read_text())
    (tmp_path / "noiselab.json").write_text(json.dumps(content | {"canvas": content["canvas"] | {"bound": -1}}))
    with pytest.raises(ValueError, match=r"noiselab\.json must be.*bound must"):
        Pipeline.from_pretrained(tmp_path)
    (tmp_path / "noiselab.json").write_text(json.dumps(content | {"canvas": {"colour": 1}}))
    with pytest.raises(ValueError, match=r"noiselab\.json must be.*colour"):
        Pipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts": ["a" * 129]}, "prompt 0 must fit the context of 128 tokens; got 129"),
        ({"prompts": ["b", "a" * 121]}, "prompt 1 has 121 tokens"),
        (
            {"prompts": ["b", "a" * 100], "length": 25},
            r"prompt 1 of 100 tokens and length=25, which is 4 canvases of 8",
        ),
        ({"prompts": []}, "at least one"),
        ({"prompts": [""]}, "must not be empty"),
        ({"prompts": [[{"role": "user", "content": "a"}]]}, "chat template"),
        ({"length": 0}, "length must be at least 1; got 0"),
        ({"length": -8}, "length must be at least 1; got -8"),
        ({"length": "long"}, "length must"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"temperature": 0}, "temperature must"),
        ({"temperature": "hot"}, "schedule"),
        ({"top_k": 0}, "top_k must"),
        ({"stop": None}, "stop must be True or False"),
        ({"seeds": [1, 2]}, "one integer for each of 1 texts"),
        ({"sampler": "ancestral"}, "sampler must"),
        ({"sampler": nl.samplers.ConfidenceSampler}, "absorbing"),
        ({"sampler": nl.samplers.BlockSampler}, "a sampler must be"),
        ({"sampler": nl.AncestralSampler, "temperature": 0.4 + 0.4 * nl.t}, "temperature must"),
    ],
)
def test_what_is_refused(pipe, unchecked, options, words):
    options = {"num_samples": 1, **options}
    for call in (pipe.generate, pipe.stream):
        with pytest.raises(ValueError, match=words):
            call(**options)


def test_a_sampler_that_exists_is_refused(pipe):
    made = nl.AncestralSampler(pipe.process, pipe.denoiser_after(0))
    with pytest.raises(
        ValueError, match=r"sampler must be a class of samplers.*got a AncestralSampler: pass its class"
    ):
        pipe.generate(sampler=made)


def test_what_has_no_end_is_refused(tmp_path):
    pipe = canvas_pipeline(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    pipe = Pipeline.from_pretrained(tmp_path)
    pipe.tokenizer.eos_token = None
    for options in ({}, {"length": "auto"}):
        with pytest.raises(ValueError, match=r"end-of-text token.*the tokenizer has none: pass stop=False"):
            pipe.generate(1, 2, **options, **QUIET)
    assert len(rows(pipe.generate(1, 1, stop=False, length=8, **QUIET))[0]) == 8


def test_folders_that_do_not_match_are_refused(tmp_path, unchecked):
    folder = folder_of(tmp_path, tokenizer(LETTERS + "!"))
    with pytest.raises(ValueError, match=r"must not have more tokens than the model.*71, its model 70"):
        Pipeline.from_pretrained(folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="a model must come with a tokenizer"):
        Pipeline.from_pretrained(folder)
    folder = folder_of(tmp_path)
    with pytest.raises(ValueError, match="is one for CanvasPipeline"):
        nl.pipeline.DiffusionPipeline.from_pretrained(folder)
    config = json.loads((folder / "generation_config.json").read_text())
    for content, words in (
        ({"sampler_config": {"entropy_bound": -1.0, "_cls_name": "EntropyBoundSamplerConfig"}}, "entropy_bound"),
        ({"sampler_config": {"_cls_name": "OtherConfig"}}, "OtherConfig"),
        ({"eos_token_id": "x"}, r"generation_config\.json must have settings of the published sampler.*ends must"),
        ({"max_denoising_steps": 0}, "max_denoising_steps"),
    ):
        (folder / "generation_config.json").write_text(json.dumps(config | content))
        with pytest.raises(ValueError, match=words):
            Pipeline.from_pretrained(folder)


def test_networks_and_settings_that_do_not_match_are_refused(pipe, unchecked):
    with pytest.raises(ValueError, match=r"model must be a network of a prefix and a canvas.*got Linear"):
        CanvasPipeline(torch.nn.Linear(2, 2), pipe.tokenizer, ModelSettings())
    with pytest.raises(ValueError, match="the model has 70, the noise 71, the tokenizer 70"):
        CanvasPipeline(pipe.model, pipe.tokenizer, ModelSettings(nl.uniform(vocab_size=71)))
    with pytest.raises(ValueError, match="the model has 70, the noise 70, the tokenizer 71"):
        CanvasPipeline(pipe.model, tokenizer(LETTERS + "!"), ModelSettings())
    with pytest.raises(ValueError, match=r"ends must be tokens of the model, in \[0, 70\); got \[70\]"):
        CanvasPipeline(pipe.model, pipe.tokenizer, ModelSettings(canvas=CanvasSettings(ends=(1, 70))))
    for wrong in (
        {"bound": -1}, {"t_max": 0}, {"t_min": -1}, {"stability": -1}, {"confidence": -1}, {"length": 0}, {"ends": (-1,)},
        {"ends": 3}, {"bound": float("nan")}, {"stability": 0.5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            CanvasSettings(**wrong)


def test_tokens_that_the_tokenizer_lacks_are_not_generated(pipe):
    few = CanvasPipeline(pipe.model, tokenizer(LETTERS[:20]), pipe.settings)
    texts = rows(few.generate(4, 3, length=32, stop=False, temperature=5.0, seed=0, **QUIET))
    assert max(max(ids) for ids in texts) < 24 < max(max(ids) for ids in rows(pipe.generate(4, 3, seed=0, **SHORT)))
