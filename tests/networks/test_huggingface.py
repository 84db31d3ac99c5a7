"""Checkpoints that must be refused, and models of transformers as denoisers."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from noiselab.denoisers.base import ProjectedDenoiser
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser, load_dit

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny-gidd-hf"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path):
    """A copy of the checkpoint, to be damaged."""
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return load_dit(FOLDER)


@pytest.fixture(scope="module")
def noisy():
    tensors = load_file(FOLDER / "reference_logits.safetensors")
    return tensors["input_ids"], tensors["t"].double()


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


# --- load_dit ----------------------------------------------------------------------------------------------------


def test_load_takes_what_is_whole(folder, model):
    expected = load_file(FOLDER / "model.safetensors")
    assert type(model) is DiT and not model.training
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert load_dit(str(folder), dtype=torch.bfloat16).dtype == torch.bfloat16
    # Rotary tables may be absent, and may have been stored in less precision.
    for kind in (torch.bfloat16, None):

        def tables(weights, kind=kind):
            for key in [key for key in weights if "rotary" in key]:
                table = weights.pop(key)
                if kind is not None:
                    weights[key] = table.to(kind)

        edit_weights(folder, tables)
        loaded = load_dit(folder)
        assert loaded.dtype == torch.float32
        table = loaded.rotary_emb.cos_cached.float()
        torch.testing.assert_close(table, expected["rotary_emb.cos_cached"], rtol=0, atol=4e-3)


def test_missing_files(folder, tmp_path):
    with pytest.raises(ValueError, match=r"must have a config.json and intact safetensors weights; .*nowhere"):
        load_dit(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must have a config.json and intact safetensors weights; 'no-one/nothing'"):
        load_dit("no-one/nothing")
    (folder / "model.safetensors").rename(folder / "aside")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_dit(folder)
    # Weights that would have to be unpickled do not count.
    torch.save(load_file(folder / "aside"), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_dit(folder)
    (folder / "aside").rename(folder / "model.safetensors")
    load_dit(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json"):
        load_dit(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 5000, 200_000])
def test_truncated_weights(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="intact safetensors weights"):
        load_dit(folder)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model_type": "bert"}, "model_type in config.json must be 'dit'; got 'bert'"),
        ({"hidden_size": "wide"}, "hidden_size must be a positive integer; got 'wide'"),
        ({"attention_dropout": "none"}, r"attention_dropout must be a number in \[0, 1\); got 'none'"),
        ({"num_attention_heads": 3}, "hidden_size=32, num_attention_heads=3"),
        ({"hidden_size": 64}, r"vocab_embed.embedding must have shape \[320, 64\]; it has \[320, 32\]"),
        ({"vocab_size": 321}, r"output_layer.linear.bias must have shape \[321\]; it has \[320\]"),
        (
            {"max_seq_len": 64},
            r"rotary_emb.cos_cached must have shape \[1, 64, .*\]; it has \[1, 32, 3, 1, 16\]",
        ),
        ({"num_hidden_layers": 3}, "blocks.2.adaLN_modulation.bias is missing"),
        ({"num_hidden_layers": 1}, "blocks.1.adaLN_modulation.bias is unexpected"),
    ],
)
def test_config_of_another_model(folder, settings, message):
    edit_config(folder, **settings)
    with pytest.raises(ValueError, match=message):
        load_dit(folder)


@pytest.mark.parametrize("text", ['{"model_type": "dit", ', "[]", '{"model_type": "dit", "torch_dtype": "float33"}'])
def test_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"must have a config\.json"):
        load_dit(folder)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda w: w.pop("blocks.0.mlp.2.weight"), "blocks.0.mlp.2.weight is missing"),
        (lambda w: w.update(head=torch.ones(2)), "head is unexpected"),
        (lambda w: w["vocab_embed.embedding"].view(-1)[3].fill_(torch.nan), "vocab_embed.embedding is not finite"),
        (lambda w: w["rotary_emb.sin_cached"].mul_(-1), "rotary_emb must be the table of base 10000"),
    ],
)
def test_weights_of_another_model(folder, edit, message):
    edit_weights(folder, edit)
    with pytest.raises(ValueError, match=f"must match config.json: {message}"):
        load_dit(folder)


# --- TransformersDenoiser ----------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A model that gives its logits in one piece, and notes the dtype of the times it was given."""

    def __init__(self, wrapped):
        super().__init__()
        self.table = nn.Embedding(7, 7)
        self.wrapped = wrapped

    def forward(self, input_ids, timesteps):
        self.kind = timesteps.dtype
        times = timesteps if timesteps.ndim == 2 else timesteps[:, None]
        logits = self.table(input_ids) * times[..., None]
        return SimpleNamespace(logits=logits) if self.wrapped else logits


@torch.no_grad()
@pytest.mark.parametrize("per_token", [False, True])
def test_denoiser_gives_the_logits_of_the_model(model, noisy, per_token):
    z, t = noisy
    if per_token:
        t = t[:, None] * torch.linspace(0, 1, z.shape[1], dtype=torch.float64)
    denoiser = TransformersDenoiser(model)
    assert isinstance(denoiser, ProjectedDenoiser) and denoiser.predicts == "leave_one_out"
    logits = model(z, t.float()).logits
    torch.testing.assert_close(denoiser(z, t), logits, rtol=0, atol=0)
    torch.testing.assert_close(denoiser.project(denoiser.hidden(z, t)), logits, rtol=0, atol=0)


@torch.no_grad()
def test_only_the_selected_rows_are_projected(model, noisy):
    z, t = noisy
    rows = torch.rand(z.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    projected = []
    handle = model.output_layer.linear.register_forward_hook(lambda _, inputs, __: projected.append(inputs[0].shape))
    try:
        logits = TransformersDenoiser(model)(z, t, rows)
    finally:
        handle.remove()
    assert projected == [(rows.sum(), model.config.hidden_size)]
    torch.testing.assert_close(logits, model(z, t).logits[rows], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_is_given_at_construction(model, noisy):
    z, t = noisy
    mask = torch.arange(z.shape[1]) < torch.tensor([[32], [20], [5]])
    denoiser = TransformersDenoiser(model, attention_mask=mask)
    torch.testing.assert_close(denoiser(z, t), model(z, t, attention_mask=mask).logits, rtol=0, atol=0)
    shared = TransformersDenoiser(model, attention_mask=mask[1:2].long())
    junk = torch.where(mask[1], z, (z + 1) % 320)
    torch.testing.assert_close(shared(junk, t)[:, :20], shared(z, t)[:, :20], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"tokens \[2, 32\] or \[1, 32\]; got \[3, 32\]"):
        denoiser(z[:2], t[:2])
    # The mask belongs to the sequences, not to the weights.
    assert "attention_mask" not in denoiser.state_dict()


@torch.no_grad()
@pytest.mark.parametrize("wrapped", [False, True])
def test_any_model_called_with_tokens_and_times(wrapped):
    plain = Plain(wrapped)
    denoiser = TransformersDenoiser(plain, predicts="posterior")
    z, t = torch.arange(6).view(2, 3), torch.tensor([0.25, 0.5], dtype=torch.float64)
    expected = plain.table.weight[z] * t.float()[:, None, None]
    torch.testing.assert_close(denoiser(z, t), expected, rtol=0, atol=0)
    assert plain.kind == torch.float32
    rows = torch.tensor([[True, False, True], [False, False, True]])
    torch.testing.assert_close(denoiser(z, t, rows), expected[rows], rtol=0, atol=0)
    assert denoiser.predicts == "posterior"


def test_gradients_reach_the_model():
    model = DiT(DiTConfig(vocab_size=7, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    TransformersDenoiser(model)(torch.zeros(2, 4, dtype=torch.long), torch.rand(2)).logsumexp(-1).sum().backward()
    # With the weight still at zero the bias has the gradient softmax = 1/7 for each of 8 tokens.
    torch.testing.assert_close(model.output_layer.linear.bias.grad, torch.full((7,), 8 / 7))


def test_unknown_prediction(model):
    with pytest.raises((ValueError, TypeError)):
        TransformersDenoiser(model, predicts="noise")
