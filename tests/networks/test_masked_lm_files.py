"""Files of masked language models: what is loaded is what was written, and what must be refused is."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import noiselab as nl
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.networks.masked_lm_files import load_masked_lm

V, LENGTH, BASE = 24, 7, 5e5
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": BASE}}
Z = torch.randint(0, V, (3, LENGTH), generator=torch.Generator().manual_seed(1))
T = torch.full((3,), 0.5, dtype=torch.float64)

# The settings of a published LLaDA but for its sizes, with those that only matter for training or for the code left out.
LLADA = {
    "activation_type": "silu",
    "alibi": False,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        "AutoModel": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 16,
    "embedding_size": V,
    "eos_token_id": 3,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": V - 1,
    "max_sequence_length": 32,
    "mlp_hidden_size": 24,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "pad_token_id": 3,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": BASE,
    "scale_logits": False,
    "use_cache": False,
    "vocab_size": V - 4,
    "weight_tying": False,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def randomise(model):
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=random))
    return model.eval()


def edit_config(folder, drop=(), **settings):
    path = folder / "config.json"
    found = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in found.items() if key not in drop}))


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


# --- models that transformers knows -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_bert_is_read_as_a_masked_model(tmp_path, dtype):
    model = randomise(BertForMaskedLM(BertConfig(**SIZES)))
    model.save_pretrained(tmp_path)
    denoiser = load_masked_lm(tmp_path, dtype=dtype)
    assert type(denoiser.model) is BertForMaskedLM and not denoiser.model.training and not denoiser.bidirectional
    assert denoiser.model.dtype == (dtype or torch.float32)
    expected = model if dtype is None else model.to(dtype)
    assert torch.equal(denoiser(Z, T), MaskedLanguageModel(expected)(Z, T))


@torch.no_grad()
def test_a_checkpoint_with_other_heads_is_read_without_them(tmp_path):
    whole = randomise(BertForPreTraining(BertConfig(**SIZES)))
    whole.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert any("pooler" in key for key in weights) and any("seq_relationship" in key for key in weights)
    torch.testing.assert_close(load_masked_lm(tmp_path)(Z, T), whole(Z).prediction_logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_causal_file_is_opened_and_options_are_handed_on(tmp_path):
    model = randomise(LlamaForCausalLM(LlamaConfig(**GROUPED)))
    model.save_pretrained(tmp_path)
    denoiser = load_masked_lm(tmp_path, shifted=True, vocab_size=V - 2, predicts="leave_one_out")
    assert (denoiser.shifted, denoiser.bidirectional, denoiser.predicts) == (True, True, "leave_one_out")
    expected = MaskedLanguageModel(model, shifted=True, vocab_size=V - 2)
    assert torch.equal(denoiser(Z, T), expected(Z, T))
    causal = load_masked_lm(str(tmp_path), bidirectional=False)
    torch.testing.assert_close(causal(Z, T), model(Z).logits, rtol=0, atol=1e-5)


# --- Dream --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dream(tmp_path_factory):
    """A Qwen2, and the folder where it is written as Dream's code writes itself."""
    folder, model = tmp_path_factory.mktemp("dream"), randomise(Qwen2ForCausalLM(Qwen2Config(**GROUPED)))
    model.save_pretrained(folder)
    edit_config(
        folder,
        drop=("rope_parameters", "layer_types", "dtype"),
        model_type="Dream",
        architectures=["DreamModel"],
        auto_map={"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        mask_token_id=V - 1,
        rope_theta=BASE,
        rope_scaling=None,
        sliding_window=None,
        torch_dtype="float32",
        transformers_version="4.46.2",
    )
    return model, folder


@torch.no_grad()
def test_dream_is_a_qwen2_that_sees_all_and_is_shifted(dream):
    model, folder = dream
    denoiser = load_masked_lm(folder)
    assert type(denoiser.model) is Qwen2ForCausalLM and denoiser.shifted and denoiser.bidirectional
    assert denoiser.model.config.mask_token_id == V - 1
    assert denoiser.model.config.rope_parameters["rope_theta"] == BASE
    logits = model(Z, attention_mask=torch.zeros(3, 1, LENGTH, LENGTH)).logits
    expected = torch.cat([logits[:, :1], logits[:, :-1]], 1)
    torch.testing.assert_close(denoiser(Z, T), expected, rtol=0, atol=1e-5)
    assert (load_masked_lm(folder, shifted=False)(Z, T) - expected).abs().max() > 0.1
    x = nl.AncestralSampler(nl.masked(vocab_size=V, mask_id=V - 1), denoiser).sample((2, LENGTH), steps=3)
    assert (x < V - 1).all()


# --- LLaDA --------------------------------------------------------------------------------------------------------


def llada_weights(tied=False, seed=0):
    """Random weights under LLaDA's names."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"wte": (V, 16), "ln_f": (16,)} | ({} if tied else {"ff_out": (V, 16)})
    for block in range(2):
        shapes |= {
            f"blocks.{block}.{name}": shape
            for name, shape in {
                "attn_norm": (16,),
                "q_proj": (16, 16),
                "k_proj": (8, 16),
                "v_proj": (8, 16),
                "attn_out": (16, 16),
                "ff_norm": (16,),
                "ff_proj": (24, 16),
                "up_proj": (24, 16),
                "ff_out": (16, 24),
            }.items()
        }
    return {f"model.transformer.{k}.weight": 0.3 * torch.randn(s, generator=random) for k, s in shapes.items()}


def llada(weights, z, *, gate="ff_proj", up="up_proj"):
    """LLaDA's rule: every token sees every token; the feed-forward layer is ff_out(silu(ff_proj h) * (up_proj h))."""

    def weight(key):
        return weights[f"model.transformer.{key}.weight"]

    def norm(x, key):
        return x * (x.square().mean(-1, keepdim=True) + LLADA["rms_norm_eps"]).rsqrt() * weight(key)

    def heads(x):
        return x.unflatten(-1, (-1, 4)).transpose(1, 2)

    def rotate(x):
        angle = torch.arange(LENGTH)[:, None] / BASE ** (torch.arange(2) / 2)
        return x * angle.cos().repeat(1, 2) + torch.cat([-x[..., 2:], x[..., :2]], -1) * angle.sin().repeat(1, 2)

    x = weight("wte")[z]
    for block in ("blocks.0", "blocks.1"):
        h = norm(x, f"{block}.attn_norm")
        q, k, v = (heads(h @ weight(f"{block}.{part}_proj").T) for part in "qkv")
        k, v = (part.repeat_interleave(2, 1) for part in (k, v))
        h = (rotate(q) @ rotate(k).mT / 2).softmax(-1) @ v
        x = x + h.transpose(1, 2).flatten(2) @ weight(f"{block}.attn_out").T
        h = norm(x, f"{block}.ff_norm")
        h = nn.functional.silu(h @ weight(f"{block}.{gate}").T) * (h @ weight(f"{block}.{up}").T)
        x = x + h @ weight(f"{block}.ff_out").T
    head = "ff_out" if "model.transformer.ff_out.weight" in weights else "wte"
    return norm(x, "ln_f") @ weight(head).T


def write_llada(folder, weights, parts=1, **settings):
    (folder / "config.json").write_text(json.dumps(LLADA | settings))
    if parts == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    index = {key: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, key in enumerate(sorted(weights))}
    for file in set(index.values()):
        part = {key: weights[key] for key, name in index.items() if name == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@torch.no_grad()
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_llada_is_a_llama_that_sees_all(tmp_path, tied, parts):
    weights = llada_weights(tied)
    write_llada(tmp_path, weights, parts, weight_tying=tied)
    denoiser = load_masked_lm(tmp_path)
    assert type(denoiser.model) is LlamaForCausalLM and denoiser.bidirectional and not denoiser.shifted
    assert denoiser.model.config.mask_token_id == V - 1
    expected = llada(weights, Z)
    torch.testing.assert_close(denoiser(Z, T), expected, rtol=0, atol=1e-4)
    # The mistake of taking the wrong projection for the gate is seen.
    assert (llada(weights, Z, gate="up_proj", up="ff_proj") - expected).abs().max() > 0.1


@torch.no_grad()
def test_llada_is_saved_as_the_llama_it_became(tmp_path):
    write_llada(tmp_path, llada_weights())
    denoiser = load_masked_lm(tmp_path, dtype=torch.bfloat16)
    assert denoiser.model.dtype == torch.bfloat16
    denoiser.model.save_pretrained(tmp_path / "again")
    again = load_masked_lm(tmp_path / "again")
    assert torch.equal(again(Z, T), denoiser(Z, T)) and again.model.dtype == torch.bfloat16
    assert LlamaForCausalLM.from_pretrained(tmp_path / "again").config.model_type == "llama"


def test_llada_of_other_sizes(tmp_path):
    weights = llada_weights()
    for key in weights:
        if "k_proj" in key or "v_proj" in key:
            weights[key] = weights[key][:4].clone()
        if any(part in key for part in ("ff_proj", "up_proj")):
            weights[key] = weights[key].repeat(2, 1)
        if "blocks" in key and "ff_out" in key:
            weights[key] = weights[key].repeat(1, 2)
    settings = {"n_kv_heads": None, "multi_query_attention": True, "mlp_hidden_size": None, "mlp_ratio": 3}
    write_llada(tmp_path, weights, **settings)
    config = load_masked_lm(tmp_path).model.config
    assert (config.num_key_value_heads, config.intermediate_size, config.vocab_size) == (1, 48, V)


@torch.no_grad()
def test_llada_samples_the_same_batched_or_one_by_one(tmp_path):
    write_llada(tmp_path, llada_weights())
    denoiser = load_masked_lm(tmp_path, dtype=torch.float64)
    sampler = nl.AncestralSampler(nl.masked(vocab_size=V, mask_id=V - 1), denoiser)
    generators = [[torch.Generator().manual_seed(seed) for seed in range(3)] for _ in range(2)]
    x = sampler.sample((3, LENGTH), steps=4, generator=generators[0])
    alone = [sampler.sample((1, LENGTH), steps=4, generator=[g]) for g in generators[1]]
    assert torch.equal(x, torch.cat(alone)) and (x < V - 1).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"block_type": "sequential"}, "block_type must be 'llama'; it is 'sequential'"),
        ({"scale_logits": True}, "scale_logits must be False; it is True"),
        ({"include_qkv_bias": True}, "include_qkv_bias must be False; it is True"),
        ({"block_group_size": 2}, "block_group_size must be 1; it is 2"),
        ({"d_model": "wide"}, "hidden_size"),
        ({"n_layers": 3}, r"model.layers.2.input_layernorm.weight is missing"),
        ({"n_layers": 1}, r"model.layers.1.input_layernorm.weight is unexpected"),
        ({"mlp_hidden_size": 32}, r"gate_proj.weight must have shape \[32, 16\]; it has \[24, 16\]"),
        ({"weight_tying": "perhaps"}, "weight_tying|tie_word_embeddings"),
    ],
)
def test_a_llada_that_is_no_llama_is_refused(tmp_path, settings, message):
    write_llada(tmp_path, llada_weights(), **settings)
    with pytest.raises(ValueError, match=message):
        load_masked_lm(tmp_path)


def test_settings_that_must_be_given(tmp_path):
    write_llada(tmp_path, llada_weights())
    edit_config(tmp_path, drop=("rope_theta", "d_model"))
    with pytest.raises(
        ValueError, match="a LLaDA must be equivalent to a Llama to be loaded: d_model must be given; rope_theta"
    ):
        load_masked_lm(tmp_path)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda w: w.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda w: w.update(head=torch.ones(2)), "head is unexpected"),
        (lambda w: w["lm_head.weight"].view(-1)[3].fill_(torch.nan), "lm_head.weight is not finite"),
        (
            lambda w: w.update({"lm_head.weight": torch.ones(V, 8)}),
            r"lm_head.weight must have shape \[24, 16\]; it has",
        ),
    ],
)
def test_damaged_weights(tmp_path, edit, message):
    randomise(LlamaForCausalLM(LlamaConfig(**GROUPED))).save_pretrained(tmp_path)
    edit_weights(tmp_path, edit)
    with pytest.raises(ValueError, match=f"must match config.json: {message}"):
        load_masked_lm(tmp_path)


def test_missing_files_and_pickles(tmp_path):
    with pytest.raises(ValueError, match=r"must have a config.json .* and intact safetensors weights; .*nowhere"):
        load_masked_lm(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'no-one/nothing'"):
        load_masked_lm("no-one/nothing")
    randomise(LlamaForCausalLM(LlamaConfig(**GROUPED))).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.rename(tmp_path / "aside")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_masked_lm(tmp_path)
    weights.write_bytes((tmp_path / "aside").read_bytes()[:500])
    with pytest.raises(ValueError, match="intact safetensors weights"):
        load_masked_lm(tmp_path)


@pytest.mark.parametrize("kind", ["stranger", "llama", "llada", "Dream"])
def test_code_beside_the_weights_is_never_run(tmp_path, kind):
    randomise(LlamaForCausalLM(LlamaConfig(**GROUPED))).save_pretrained(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    auto = {"AutoConfig": "code.Config"} | dict.fromkeys(("AutoModelForCausalLM", "AutoModelForMaskedLM"), "code.Model")
    edit_config(tmp_path, model_type=kind, auto_map=auto)
    if kind == "llama":
        load_masked_lm(tmp_path)
    else:
        with pytest.raises(ValueError, match="model_type must be" if kind == "stranger" else "must"):
            load_masked_lm(tmp_path)
    assert not ran.exists()


def test_a_model_for_another_task_is_refused(tmp_path):
    randomise(LlamaForCausalLM(LlamaConfig(**GROUPED))).save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="vit", architectures=["ViTForImageClassification"])
    with pytest.raises(ValueError, match=r"of a masked or causal model.*; got 'vit' with architectures \['ViTFor"):
        load_masked_lm(tmp_path)


@pytest.mark.parametrize("text", ['{"model_type": "bert", ', "[]", '{"model_type": "bert", "hidden_size": "wide"}'])
def test_config_that_is_none(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"must have a config\.json"):
        load_masked_lm(tmp_path)
