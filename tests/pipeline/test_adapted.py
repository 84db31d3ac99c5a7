"""The noise in noiselab.json decides what a folder is, whatever the architecture; what was trained comes back."""

import json

import pytest
import torch
from small import LENGTH, random, tokenizer
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from noiselab.data import TokenBlocks, vocabulary_size
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.pipeline import AutoregressivePipeline, DiffusionPipeline, ModelSettings, Pipeline
from noiselab.training import Optimization, Run, Trainer

WIDTHS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
QUIET = {"show_progress": False}


def llama(size, **more):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=size, max_position_embeddings=LENGTH, **WIDTHS, **more)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # every token matters to every other
    return model


def noise(words, family="gidd"):
    more = {"p_uniform": 0.2} if family == "gidd" else {}
    return {"family": family, "vocab_size": vocabulary_size(words), "mask_id": words.mask_token_id, **more}


def logits(pipe, z):
    with torch.no_grad():
        return pipe.denoiser(z, torch.full((len(z),), 0.5))


@pytest.mark.parametrize("shifted", [False, True])
def test_a_causal_architecture_with_noise_comes_back_as_a_diffusion_model(tmp_path, shifted):
    words = tokenizer()
    denoiser = MaskedLanguageModel(llama(vocabulary_size(words)), shifted=shifted)
    pipe = DiffusionPipeline(denoiser, words, ModelSettings(noise(words))).eval()
    pipe.save_pretrained(tmp_path / "model")
    again = Pipeline.from_pretrained(tmp_path / "model")
    assert isinstance(again, DiffusionPipeline) and again.settings == pipe.settings
    assert again.model.shifted == shifted and again.model.bidirectional
    z = torch.randint(3, 200, (2, LENGTH), generator=random())
    assert torch.equal(logits(again, z), logits(pipe, z))
    one, two = (p.generate(2, 4, generator=random(1), **QUIET) for p in (pipe, again))
    assert one == two
    # The mistake, a model that attends to the left only or has its logits elsewhere, gives other logits.
    file = tmp_path / "model" / "noiselab.json"
    content = json.loads(file.read_text())
    assert content["network"] == {"shifted": shifted, "bidirectional": True}
    for name in ("shifted", "bidirectional"):
        file.write_text(json.dumps({**content, "network": {**content["network"], name: not content["network"][name]}}))
        assert not torch.allclose(logits(Pipeline.from_pretrained(tmp_path / "model"), z), logits(pipe, z), atol=1e-3)


def test_without_noise_the_same_folder_is_autoregressive(tmp_path):
    words = tokenizer()
    pipe = AutoregressivePipeline(llama(vocabulary_size(words)), words, ModelSettings()).eval()
    pipe.save_pretrained(tmp_path)
    assert isinstance(Pipeline.from_pretrained(tmp_path), AutoregressivePipeline)
    with_noise = Pipeline.from_pretrained(tmp_path, settings=ModelSettings(noise(words)))
    assert isinstance(with_noise, DiffusionPipeline) and with_noise.model.bidirectional


def test_a_trained_denoiser_is_loaded_by_the_pipeline_and_by_transformers(tmp_path):
    words = tokenizer()
    size = vocabulary_size(words)
    settings = ModelSettings(noise(words))
    denoiser = MaskedLanguageModel(llama(size), predicts="leave_one_out", shifted=True)
    blocks = TokenBlocks(torch.randint(3, size, (16, 8), generator=random()), torch.full((16,), 8), vocab_size=size)
    optimization, run = Optimization(steps=2, batch=8, ema=0.5), Run(tmp_path / "run", cpu=True, progress=False)
    trainer = Trainer(denoiser, optimization, run, train_dataset=blocks, process=settings.process())
    trainer.train()
    denoiser.eval()
    z = torch.randint(3, size, (2, 8), generator=random())
    trained = denoiser(z, torch.ones(2))
    with trainer.average.applied():
        averaged = denoiser(z, torch.ones(2))
    trainer.save_final(tmp_path / "final", tokenizer=words, parts=[settings])
    for folder, wanted in ((tmp_path / "final", trained), (tmp_path / "final" / "ema", averaged)):
        pipe = Pipeline.from_pretrained(folder)
        assert pipe.model.shifted and torch.equal(logits(pipe, z)[..., pipe.support], wanted[..., pipe.support])
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert all(torch.equal(plain.state_dict()[name], p) for name, p in pipe.network.state_dict().items())
        assert AutoModel.from_pretrained(folder).config.hidden_size == 16
    # Without its noise it is not taken for an autoregressive model.
    trainer.save_final(tmp_path / "bare", tokenizer=words)
    with pytest.raises(ValueError, match=r"must describe the noise of this model, which is a denoiser.*pass settings="):
        Pipeline.from_pretrained(tmp_path / "bare")
    assert Pipeline.from_pretrained(tmp_path / "bare", settings=settings).model.shifted


@pytest.mark.parametrize("network", [{"shifted": 1}, {"shifted": "yes"}, {"more": True}])
def test_odd_settings_of_a_network_are_refused_in_words(network):
    with pytest.raises(ValueError, match="network must map shifted and bidirectional to true or false; got"):
        ModelSettings(network=network)


def few_words(**special):
    """A tokenizer of two words with only these special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    return words


def test_tokenizers_without_padding_mask_or_end_of_text_that_the_model_has_no_room_to_add(tmp_path):
    few_words().save_pretrained(tmp_path)
    llama(3).save_pretrained(tmp_path)
    pipe = Pipeline.from_pretrained(tmp_path)
    assert isinstance(pipe, AutoregressivePipeline) and pipe.tokenizer.pad_token_id is None
    assert pipe.generate(1, prompts=["a b"], length=5)[0].startswith("a b")
    with pytest.raises(ValueError, match="prompts must be given if the tokenizer has no token that starts or ends"):
        pipe.generate(1)
    # Without a mask a model of uniform noise works; gaps cannot be marked, and masks cannot be the noise.
    pipe = Pipeline.from_pretrained(tmp_path, settings=ModelSettings({"family": "uniform", "vocab_size": 3}))
    texts = pipe.generate(2, 3, length=4, generator=random(), **QUIET)
    assert len(pipe.self_correction([*texts, "a"], 2, generator=random(), **QUIET)) == 3
    with pytest.raises(ValueError, match="must have a mask token, by which a text marks its gaps"):
        pipe.infill(["a [MASK]"])


def test_end_of_text_is_the_padding_where_there_is_none(tmp_path):
    few_words(eos_token="b").save_pretrained(tmp_path)
    llama(3).save_pretrained(tmp_path)
    pipe = Pipeline.from_pretrained(tmp_path)
    assert pipe.tokenizer.pad_token_id == pipe.tokenizer.eos_token_id == 1 and pipe.tokenizer.mask_token_id is None
    llama(4).save_pretrained(tmp_path)  # room for one more
    assert Pipeline.from_pretrained(tmp_path).tokenizer.mask_token_id == 3
