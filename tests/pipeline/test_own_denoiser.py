"""A user's own denoiser fits a pipeline: what it must offer is checked, and it is saved by a registered name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import LENGTH, pipeline, random, tokenizer

import noiselab as nl
from noiselab import t
from noiselab.data import TokenBlocks, vocabulary_size
from noiselab.pipeline import DiffusionPipeline, ModelSettings, Pipeline
from noiselab.processes import registered
from noiselab.processes.registry import KINDS
from noiselab.training import Optimization, Run, Trainer

QUIET = {"show_progress": False}


class Mixer(nl.Denoiser):
    """Two layers, with an output that is tied to its input, without a config."""

    def __init__(self, vocab_size, width=8, max_length=None):
        super().__init__()
        self.vocab_size, self.width, self.max_length = vocab_size, width, max_length
        self.embed = torch.nn.Embedding(vocab_size, width)
        self.mix = torch.nn.Conv1d(width, width, 3, padding=1)
        self.out = torch.nn.Linear(width, vocab_size, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(width))

    def forward(self, z, t):
        hidden = self.embed(z) * self.scale + t.to(self.scale).view(len(z), -1, 1)
        return self.out(torch.relu(self.mix(hidden.mT).mT))


@pytest.fixture(autouse=True)
def registry():
    before = dict(KINDS)
    registered(Mixer)
    yield
    KINDS.clear()
    KINDS.update(before)


def own_pipeline(make=Mixer, more=0, **options):
    words = tokenizer()
    size, mask = vocabulary_size(words), words.mask_token_id
    torch.manual_seed(0)
    process = nl.Interpolation(1 - t, {nl.Absorbing(mask, size): t, nl.Uniform.without(size, mask): t * (1 - t)})
    return DiffusionPipeline(make(size + more, **options), words, ModelSettings(process)).eval()


@pytest.mark.parametrize("more", [0, 7])
def test_it_generates_infills_and_corrects_like_the_denoiser_itself(more):
    pipe = own_pipeline(more=more, max_length=LENGTH)
    texts = pipe.generate(2, 4, generator=random(), **QUIET)
    allowed = nl.denoisers.Support(pipe.model if not more else pipe.denoiser.inner, pipe.support)
    x = nl.AncestralSampler(pipe.process, allowed).sample((2, LENGTH), steps=4, generator=random())
    assert [list(text.tokens) for text in texts] == x.tolist()
    assert pipe.infill(["the [MASK] sat"], 2, generator=random(), **QUIET)
    assert len(pipe.self_correction(texts, 2, generator=random(), **QUIET)) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_restored_by_its_name(tmp_path, dtype):
    pipe = own_pipeline(width=6, max_length=LENGTH)
    pipe.model.scale += torch.rand(6)
    pipe.model.to(dtype)
    pipe.save_pretrained(tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "noiselab.json").read_text())
    assert settings["network"] == {
        "kind": "Mixer",
        "vocab_size": pipe.model.vocab_size,
        "width": 6,
        "max_length": LENGTH,
    }
    again = Pipeline.from_pretrained(tmp_path / "model")
    assert type(again) is DiffusionPipeline and again.settings == pipe.settings and again.length == LENGTH
    assert again.model.out.weight is again.model.embed.weight
    for name, values in pipe.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], values) and values.dtype == dtype
    if dtype == torch.float32:
        texts = [each.generate(2, 4, generator=random(), **QUIET) for each in (pipe, again)]
        assert texts[0] == texts[1]


def test_a_denoiser_that_predicts_something_else(tmp_path):
    class Later(Mixer):
        predicts = "posterior"

    registered(Later)
    pipe = own_pipeline(Later, max_length=LENGTH)
    assert pipe.settings.predicts == pipe.denoiser.predicts == "posterior"
    pipe.save_pretrained(tmp_path / "model")
    assert Pipeline.from_pretrained(tmp_path / "model").denoiser.predicts == "posterior"


class Stranger(Mixer):
    """Not registered."""


class Forgetful(Mixer):
    """Its arguments do not build it again."""

    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.more = torch.nn.Parameter(torch.zeros(vocab_size))
        self.vocab_size = vocab_size + 1


def trained(make, folder, ema=None):
    """A trainer that has made two steps, the settings and the tokenizer."""
    words = tokenizer()
    size, mask = vocabulary_size(words), words.mask_token_id
    torch.manual_seed(0)
    settings = ModelSettings(nl.masked(vocab_size=size, mask_id=mask))
    ids = torch.randint(size - 1, (8, LENGTH), generator=random())
    blocks = TokenBlocks(ids, torch.full((8,), LENGTH), vocab_size=size)
    optimization = Optimization(steps=2, batch=8, learning_rate=0.05, ema=ema)
    run = Run(folder, cpu=True, progress=False)
    trainer = Trainer(make(size), optimization, run, train_dataset=blocks, process=settings.process())
    trainer.train()
    return trainer, settings, words


def test_what_the_trainer_writes_loads_as_a_pipeline(tmp_path):
    trainer, settings, words = trained(Mixer, tmp_path / "run", ema=0.5)
    trainer.save_final(tmp_path / "final", tokenizer=words, parts=[settings])
    now, mean = (Pipeline.from_pretrained(tmp_path / "final" / name) for name in (".", "ema"))
    assert type(now.model) is Mixer and now.settings.network["kind"] == "Mixer" and "Absorbing" in repr(now.process)
    for name, values in trainer.network.state_dict().items():
        assert torch.equal(now.model.state_dict()[name], values)
    with trainer.average.applied():
        assert torch.equal(mean.model.embed.weight, trainer.network.embed.weight)
    assert not torch.equal(mean.model.embed.weight, now.model.embed.weight)
    assert now.generate(1, 2, generator=random(), **QUIET)


def test_of_a_class_that_cannot_be_restored_the_trainer_writes_the_weights(tmp_path):
    trainer, settings, words = trained(Stranger, tmp_path / "run")
    trainer.save_final(tmp_path / "final", tokenizer=words, parts=[settings])
    assert torch.equal(load_file(tmp_path / "final" / "model.safetensors")["mix.bias"], trainer.network.mix.bias)
    with pytest.raises(ValueError, match=r"config\.json"):
        Pipeline.from_pretrained(tmp_path / "final")
    registered(Forgetful)
    trainer, settings, words = trained(Forgetful, tmp_path / "other")
    with pytest.warns(UserWarning, match="only the weights are written: a denoiser that is saved must be built again"):
        trainer.save_final(tmp_path / "weights", tokenizer=words, parts=[settings])
    assert "more" in load_file(tmp_path / "weights" / "model.safetensors")


class Sizeless(nl.Denoiser):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, z, t):
        return torch.zeros(*z.shape, self.size)


class Narrow(Sizeless):
    vocab_size = 400


class Failing(Narrow):
    def forward(self, z, t):
        raise KeyError("no such layer")


class Ids(Narrow):
    def forward(self, z, t):
        return z[..., None].expand(*z.shape, 400)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Sizeless, "must have an attribute vocab_size, the number of its logits; Sizeless has none"),
        (
            Narrow,
            r"must return floating-point logits .*; .* with vocab_size 400 returned torch.float32",
        ),
        (
            Failing,
            r"must return logits of clean tokens from tokens .* failed with: 'no such layer'",
        ),
        (Ids, "a denoiser must return .*logits"),  # by the shape checks of the tests, or in words
        (lambda size: Mixer(5), "the model must cover all tokens; it has 5"),
        (lambda size: Mixer(size, max_length=0), "max_length of Mixer, the longest sequence, must be at least 1"),
    ],
)
def test_what_it_must_offer_is_checked(make, words):
    with pytest.raises(ValueError, match=words):
        own_pipeline(make)


def test_a_class_that_is_not_registered_is_not_saved(tmp_path):
    pipe = own_pipeline(Stranger, max_length=LENGTH)
    assert pipe.generate(1, 2, generator=random(), **QUIET)
    with pytest.raises(ValueError, match=r"must be of a registered class, which Stranger is not: put the decorator"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_class_that_does_not_keep_its_arguments_is_not_saved(tmp_path):
    pipe = own_pipeline(max_length=LENGTH)
    pipe.model.width = 5
    pipe = DiffusionPipeline(pipe.model, pipe.tokenizer, pipe.settings)
    with pytest.raises(ValueError, match="must be built again by the arguments of its __init__; Mixer"):
        pipe.save_pretrained(tmp_path / "model")


def test_a_name_beside_another_model_is_refused(tmp_path):
    pipeline(dtype=torch.float32).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "noiselab.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "network": {"kind": "Mixer", "vocab_size": 300}}))
    with pytest.raises(
        ValueError, match=r"noiselab.json names the denoiser 'Mixer', but config.json a model of type 'dit'"
    ):
        Pipeline.from_pretrained(tmp_path / "model")


def test_damaged_folders_are_refused(tmp_path):
    own_pipeline(max_length=LENGTH).save_pretrained(tmp_path / "model")
    folder = tmp_path / "model"
    weights, settings = load_file(folder / "model.safetensors"), json.loads((folder / "noiselab.json").read_text())

    def refused(words):
        with pytest.raises(ValueError, match=words):
            Pipeline.from_pretrained(folder)

    for change, words in (
        ({"network": None}, "must name the denoiser as its `network`"),
        ({"network": {"kind": "os.system"}}, r"network\.kind must name a denoiser that is registered"),
        ({"network": {"kind": "Absorbing", "token": 1, "vocab_size": 3}}, r"network\.kind must name a denoiser"),
        ({"network": {**settings["network"], "depth": 3}}, r"network\.depth must be an argument of 'Mixer'"),
        ({"network": {**settings["network"], "width": 3}}, "the weights must fit Mixer"),
        ({"network": {**settings["network"], "width": "x"}}, "network: "),
        ({"network": {"shifted": True}}, "must name the denoiser as its `network`"),
        ({"noise": {"kind": "Mixer", "vocab_size": 3}}, r"noise\.kind must name a process"),
    ):
        (folder / "noiselab.json").write_text(json.dumps({**settings, **change}))
        refused(words)
    (folder / "noiselab.json").write_text(json.dumps(settings))
    for broken, words in (
        ({**weights, "more": torch.ones(1)}, "more is unexpected"),
        ({name: w for name, w in weights.items() if name != "scale"}, "scale is missing"),
        ({**weights, "scale": torch.ones(3)}, r"scale must have shape \[8\]; it has \[3\]"),
        ({**weights, "scale": torch.full((8,), torch.nan)}, "scale must be finite"),
    ):
        save_file(broken, folder / "model.safetensors", {"format": "pt"})
        refused(words)
    (folder / "model.safetensors").write_bytes(b"nothing")
    refused("must be an intact model.safetensors")
    (folder / "noiselab.json").unlink()
    refused("must name the denoiser as its `network`")
