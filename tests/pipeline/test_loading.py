"""What is loaded is what was written, under any of the formats, and what cannot be trusted or does not fit is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small import LENGTH, network, pipeline, random, tokenizer
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from noiselab.data import vocabulary_size
from noiselab.pipeline import AutoregressivePipeline, DiffusionPipeline, GiddPipeline, ModelSettings, Pipeline

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "tiny-gidd-hf"
QUIET = {"show_progress": False}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_the_published_format_gives_the_published_logits():
    with pytest.warns(UserWarning, match="trust_remote_code is ignored"):
        pipe = GiddPipeline.from_pretrained(PUBLISHED, trust_remote_code=True)
    reference = load_file(PUBLISHED / "reference_logits.safetensors")
    with torch.no_grad():
        logits = pipe.denoiser(reference["input_ids"], reference["t"].double())
    wanted = reference["logits"]
    allowed = pipe.support
    error = (logits - wanted)[..., allowed].abs().max() / wanted.abs().max()
    assert error < 1e-5 and (logits[..., ~allowed] == -torch.inf).all()
    assert repr(pipe.process).startswith("Interpolation(1 - t, {Absorbing(319): t, Uniform(319 of 320): 0.5")
    texts = pipe.generate(num_samples=4, num_inference_steps=16, generator=random(), **QUIET)
    corrected = pipe.self_correction(texts, num_inference_steps=16, early_stopping=True, temperature=0.1, **QUIET)
    assert len(corrected) == 4 and corrected != texts


def original(folder, rounded=False, compiled=False, **model):
    """A checkpoint as GIDD's training code writes it."""
    words = tokenizer()
    size = vocabulary_size(words)
    net = network(size + (-size % 128 if rounded else 0))
    words.save_pretrained(folder)
    names = {f"_orig_mod.{name}" if compiled else name: value for name, value in net.state_dict().items()}
    torch.save(names, folder / "model.pt")
    sizes = {"hidden_size": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 2, "dropout": 0.0, "max_seq_len": LENGTH}
    config = {"type": "diffusion", "diffusion_process": "gidd", "p_uniform": 0.1, "t_eps": 1e-4, **sizes, **model}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": config, "training": {"seed": 1}}))
    return net, words


@pytest.mark.parametrize("rounded", [False, True])
def test_original_checkpoints_are_read_rounded_vocabularies_too(tmp_path, rounded):
    net, words = original(tmp_path, rounded, compiled=rounded)
    pipe = Pipeline.from_pretrained(tmp_path)
    assert isinstance(pipe, DiffusionPipeline) and pipe.settings.noise["p_uniform"] == 0.1
    size = vocabulary_size(words)
    x = pipe.process.prior(2, LENGTH, generator=random())
    with torch.no_grad():
        logits = pipe.denoiser(x, torch.full((2,), 0.5))
        wanted = net(x, torch.full((2,), 0.5)).logits
    assert logits.shape[-1] == size and (wanted.shape[-1] > size) == rounded
    assert torch.equal(logits[..., pipe.support], wanted[..., :size][..., pipe.support])
    texts = pipe.generate(50, 3, generator=random(), **QUIET)  # of a network that gives the ids beyond as much as any
    assert max(max(text.tokens) for text in texts) < size


def test_other_original_checkpoints(tmp_path):
    original(tmp_path, diffusion_process="mdlm")
    assert repr(Pipeline.from_pretrained(tmp_path).process).startswith("Interpolation(")
    assert Pipeline.from_pretrained(tmp_path).settings.noise["family"] == "masked"
    words = tokenizer()
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=LENGTH, **sizes))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    config = {"type": "autoregressive", "hidden_size": 16, "n_blocks": 1, "n_heads": 2, "max_seq_len": LENGTH}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": config}))
    pipe = Pipeline.from_pretrained(tmp_path)
    assert isinstance(pipe, AutoregressivePipeline)
    x = torch.tensor([[3, 4, 5]])
    assert torch.equal(pipe.network(x).logits, model.eval()(x).logits)


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_original_checkpoints_with_objects_or_other_weights_are_refused(tmp_path, capsys):
    net, _ = original(tmp_path)
    torch.save({"weights": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt must contain only tensors"):
        Pipeline.from_pretrained(tmp_path)
    assert "must not run" not in capsys.readouterr().out
    state = net.state_dict()
    del state["blocks.0.attn_qkv.weight"]
    state["blocks.0.attn_out.weight"] = torch.zeros(3, 3)
    state["more"] = torch.zeros(1)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError) as refused:
        Pipeline.from_pretrained(tmp_path)
    for words in ("attn_qkv.weight is missing", "more is unexpected", "must have shape [32, 32]; it has [3, 3]"):
        assert words in str(refused.value)
    (tmp_path / "config.yaml").write_text("model: {hidden_size: 32}")
    with pytest.raises(ValueError, match=r"config\.yaml must give model\.max_seq_len"):
        Pipeline.from_pretrained(tmp_path)
    (tmp_path / "config.yaml").write_text("nothing")
    with pytest.raises(ValueError, match="must have a section `model`"):
        Pipeline.from_pretrained(tmp_path)


def test_masked_language_models_are_pipelines_of_pure_masking(tmp_path):
    words = tokenizer()
    model = BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=LENGTH, **SIZES)).eval()
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"no noiselab.json, so that its noise is assumed to be .*Absorbing\(2\)"):
        pipe = Pipeline.from_pretrained(tmp_path)
    assert isinstance(pipe, DiffusionPipeline) and pipe.length == LENGTH
    assert pipe.settings.noise["family"] == "masked" and "Absorbing(2)" in repr(pipe.process)
    x = torch.full((1, 5), 2)
    with torch.no_grad():
        logits = pipe.denoiser(x, torch.ones(1))
        assert torch.allclose(logits[..., pipe.support], model(x).logits[..., pipe.support], atol=1e-6)
    assert len(pipe.generate(2, 4, **QUIET)) == 2


def test_autoregressive_models_are_pipelines_too(tmp_path):
    words = tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=LENGTH, **SIZES)).eval()
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    pipe = Pipeline.from_pretrained(tmp_path)
    assert isinstance(pipe, AutoregressivePipeline)
    before = torch.random.get_rng_state()
    texts = pipe.generate(2, generator=random())
    assert texts == pipe.generate(2, generator=random()) != pipe.generate(2, generator=random(1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(len(text.tokens) == LENGTH for text in texts)
    prompted = pipe.generate(1, prompts=["the cat"], length=9, generator=random())
    assert prompted[0].startswith("the cat") and len(prompted[0].tokens) == 9
    # By hand: the first token's law, at a temperature that leaves one token.
    with torch.no_grad():
        likely = model(torch.tensor([[words.bos_token_id]])).logits[0, -1].argmax()
    assert pipe.generate(1, temperature=1e-4, length=2)[0].tokens[1] == likely
    for bad, said in (
        ({"num_samples": 0}, "num_samples must be at least 1; got 0"),
        ({"length": 99}, r"\[1, 16\]"),
        ({"prompts": ["a " * 40]}, "must fit"),
        ({"prompts": ["the cat sat"], "length": 2}, "must be shorter than 2"),
    ):
        with pytest.raises(ValueError, match=said):
            pipe.generate(**{"num_samples": 1, **bad})
    with pytest.raises(ValueError, match="GiddPipeline needs another kind of model"):
        GiddPipeline.from_pretrained(tmp_path)


@pytest.fixture
def saved(tmp_path):
    pipeline(dtype=torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(folder, words, **options):
    with pytest.raises(ValueError, match=words):
        Pipeline.from_pretrained(folder, **options)


def test_what_is_not_there_is_said(tmp_path, saved):
    refused(tmp_path / "nothing", "there is no folder")
    refused("./nothing", "there is no folder")
    refused(str(saved / "config.json"), "is a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"must contain config\.json and model\.safetensors")
    refused("nobody/nothing", r"folder or a name on the Hugging Face hub, with a config\.json")  # offline
    refused(saved, r"takes settings, base, dtype, revision .*; got \['device_map'\]", device_map="auto")
    (saved / "tokenizer.json").unlink()
    refused(saved, "must come with a tokenizer")


def test_pickles_are_refused_with_the_way_to_convert(saved):
    weights = load_file(saved / "model.safetensors")
    torch.save(weights, saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    refused(
        saved, r"must be safetensors, because pickled files can run code; .*pytorch_model\.bin.*save_file\(torch\.load"
    )
    save_file(torch.load(saved / "pytorch_model.bin", weights_only=True), saved / "model.safetensors", {"format": "pt"})
    Pipeline.from_pretrained(saved)  # converted that way, it loads


def test_weights_that_differ_are_named(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["blocks.0.attn_qkv.weight"]
    weights["blocks.1.attn_out.weight"] = torch.zeros(3, 3)
    weights["more"] = torch.zeros(1)
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError) as error:
        Pipeline.from_pretrained(saved)
    for words in ("attn_qkv.weight is missing", "more is unexpected", "must have shape [32, 32]; it has [3, 3]"):
        assert words in str(error.value)


def test_configs_and_settings_that_do_not_fit_are_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "no_such_model"}))
    refused(saved, "no_such_model")
    (saved / "config.json").write_text(json.dumps(config))
    own = json.loads((saved / "noiselab.json").read_text())
    for change, words in (
        ({"noise": {"family": "snow"}}, "family must be one of"),
        ({"noise": {**own["noise"], "vocab_size": 9999, "mask_id": 3}}, "the model must cover all tokens"),
        ({"noise": None}, "must describe the noise of this model"),
        ({"predicts": "the weather"}, "predicts"),
        ({"more": 1}, r"noiselab\.json must be a JSON object of"),
    ):
        (saved / "noiselab.json").write_text(json.dumps({**own, **change}))
        refused(saved, words)
    (saved / "noiselab.json").write_text("{")
    refused(saved, r"noiselab\.json must be a JSON object of")
    # Settings of one's own take the place of the file.
    Pipeline.from_pretrained(saved, settings=ModelSettings(own["noise"]))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(saved):
    words = tokenizer()
    words.add_tokens([f"<{i}>" for i in range(40)])
    words.save_pretrained(saved)
    refused(saved, r"tokenizer must not have more tokens than the model; .* has \d+, its model \d+")


def test_a_pickle_beside_intact_weights_is_not_read(saved):
    (saved / "optimizer.pt").write_bytes(b"no tensors")
    Pipeline.from_pretrained(saved)
