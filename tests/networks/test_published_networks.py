"""MDLM, UDLM, Duo, LLaDA2 and A2D: the logits of the public code, and configs and weights that must be refused."""

import pytest
import torch
from published_folders import FORMATS, copied, difference, edit_config, edit_weights, reference
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from noiselab.networks import load_network
from noiselab.networks.published import FORMATS as KNOWN
from noiselab.networks.published.a2d import A2DLlamaLMHeadModel, A2DQwen2LMHeadModel
from noiselab.processes import process_from

ALL = ("tiny-mdlm", "tiny-udlm", "tiny-udlm-cfg", "tiny-duo", "tiny-llada2-moe", "tiny-a2d-qwen3")
TIMED = ("tiny-udlm", "tiny-udlm-cfg", "tiny-duo")


def published(name):
    """The network, the recorded tensors and the arguments of the plain call."""
    wanted = reference(name)
    time = [wanted["sigma"]] if "sigma" in wanted else []
    return load_network(FORMATS / name), wanted, (wanted["input_ids"], *time)


def blocks(wanted):
    """The mask of block diffusion: a query sees its own block and those before."""
    block = torch.arange(wanted["input_ids"].shape[1]) // wanted["block_length"]
    return (block[:, None] >= block).expand(len(wanted["input_ids"]), -1, -1)


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_the_public_code(name):
    network, wanted, call = published(name)
    assert difference(network, wanted["logits"], *call) < 1e-4


@pytest.mark.parametrize("name", ALL)
def test_what_is_saved_comes_back(name, tmp_path):
    network, wanted, call = published(name)
    network.save_pretrained(tmp_path)
    assert difference(load_network(tmp_path), wanted["logits"], *call) < 1e-4


def test_mdlm_sets_the_time_to_zero():
    network, wanted, (ids, sigma) = published("tiny-mdlm")
    for time in (None, torch.zeros(3), sigma, wanted["times"]):
        assert difference(network, wanted["logits"], ids, time) < 1e-4


@pytest.mark.parametrize("name", TIMED)
def test_the_time_is_sigma(name):
    network, wanted, (ids, sigma) = published(name)
    torch.testing.assert_close(sigma, -torch.log(1 - (1 - 1e-3) * wanted["times"]))
    assert difference(network, wanted["logits"], ids, wanted["times"]) > 0.05
    assert difference(network, wanted["logits"], ids, sigma[:, None].expand(ids.shape)) < 1e-4  # one for each token
    torch.testing.assert_close(network.published_time(1 - (1 - 1e-3) * wanted["times"]), sigma)
    with pytest.raises(ValueError, match=r"timesteps must be sigma = -log\(alpha\).*got None"):
        network(ids)


def test_times_of_another_shape_are_refused(unchecked):
    network, _, (ids, _) = published("tiny-udlm")
    with pytest.raises(ValueError, match=r"timesteps must be .*\[3\] or \[3, 12\]; got \[1\]"):
        network(ids, torch.ones(1))


def test_the_class_of_udlm():
    network, wanted, call = published("tiny-udlm-cfg")
    assert difference(network, wanted["logits_cond"], *call, condition=wanted["cond"]) < 1e-4
    none = torch.full_like(wanted["cond"], 3)
    assert difference(network, wanted["logits"], *call, condition=none) > 0.01  # "no class" is a row of its own
    with pytest.raises(ValueError, match=r"condition must lie in \[0, 3\]"):
        network(*call, condition=none + 1)


@pytest.mark.parametrize("name", ["tiny-llada2-moe", "tiny-a2d-qwen3"])
def test_attention_in_blocks(name):
    network, wanted, call = published(name)
    seen = blocks(wanted)
    for mask in (
        seen,
        seen[:, None],
        seen[:1, None].long(),
        torch.zeros(seen[:, None].shape).masked_fill(~seen[:, None], -1e9),
    ):
        assert difference(network, wanted["logits_block_causal"], *call, attention_mask=mask) < 1e-4


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_padding_of_a2d(kind):
    network, wanted, call = published("tiny-a2d-qwen3")
    network.set_attn_implementation(kind)
    real = wanted["attention_mask"]
    assert difference(network, wanted["logits_padded"], *call, attention_mask=real, where=real.bool()) < 1e-4


def test_padding_of_llada2_leaves_attention_bidirectional():
    network, _, (ids,) = published("tiny-llada2-moe")
    real = torch.arange(ids.shape[1]) < torch.tensor([[16], [9]])
    with torch.no_grad():
        padded, alone = network(ids, attention_mask=real), network(ids[1:, :9])
    torch.testing.assert_close(padded[1, :9], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("tiny-mdlm", "attention_mask", torch.ones(3, 12).bool()),
        ("tiny-udlm", "condition", torch.zeros(3, dtype=torch.long)),
        ("tiny-mdlm", "condition", torch.zeros(3, dtype=torch.long)),
        ("tiny-duo", "self_conditioning", torch.zeros(3, 12, 61)),
        ("tiny-llada2-moe", "timesteps", torch.ones(2)),
        ("tiny-a2d-qwen3", "timesteps", torch.ones(3)),
        ("tiny-a2d-qwen3", "prefix", object()),
    ],
)
def test_inputs_that_it_does_not_know_are_refused(name, option, value):
    network, _, call = published(name)
    arguments = {"timesteps": call[1]} if len(call) > 1 else {}
    with pytest.raises(ValueError, match=f"networks take no {option}"):
        network(call[0], **(arguments | {option: value}))


def test_model_types_are_compared_without_case(tmp_path):
    assert {"gidd", "mdlm", "udlm", "duo", "llada2_moe", "a2d-qwen3", "a2d-qwen2", "a2d-llama"} <= set(KNOWN)
    wanted = reference("tiny-duo")
    folder = edit_config(copied("tiny-duo", tmp_path), model_type="Duo")
    assert difference(load_network(folder), wanted["logits"], wanted["input_ids"], wanted["sigma"]) < 1e-4


@pytest.mark.parametrize("name", ["tiny-llada2-moe", "tiny-a2d-qwen3"])
def test_the_rotary_base_is_read_as_either_transformers_writes_it(name, tmp_path):
    wanted = reference(name)
    theta = {"tiny-llada2-moe": 6e5, "tiny-a2d-qwen3": 1e6}[name]
    folder = edit_config(
        copied(name, tmp_path), remove=["rope_theta"], rope_parameters={"rope_type": "default", "rope_theta": theta}
    )
    assert difference(load_network(folder), wanted["logits"], wanted["input_ids"]) < 1e-4
    other = edit_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    assert difference(load_network(other), wanted["logits"], wanted["input_ids"]) > 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tiny-mdlm", {"time_conditioning": None}, "time_conditioning must be given"),
        ("tiny-mdlm", {"causal": True}, "causal = True is not implemented"),
        ("tiny-mdlm", {"cfg": True}, "cfg = True is not implemented"),
        ("tiny-mdlm", {"n_heads": 5}, "even multiple"),
        ("tiny-duo", {"causal": True}, "causal = True is not implemented"),
        ("tiny-duo", {"time_conditioning": False}, "time_conditioning = False is not implemented"),
        ("tiny-udlm-cfg", {"cfg_num_classes": -1}, "cfg_num_classes must be a positive integer, not -1"),
        ("tiny-llada2-moe", {"score_function": "softmax"}, "score_function = 'softmax' is not implemented"),
        ("tiny-llada2-moe", {"norm_topk_prob": False}, "norm_topk_prob = False is not implemented"),
        ("tiny-llada2-moe", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not implemented"),
        ("tiny-llada2-moe", {"use_sliding_window": True}, "use_sliding_window = True is not implemented"),
        ("tiny-llada2-moe", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling = .* is not implemented"),
        ("tiny-llada2-moe", {"rotary_dim": 8}, r"rotary_dim must be head_dim \* partial_rotary_factor = 4; got 8"),
        ("tiny-llada2-moe", {"n_group": 3}, "n_group groups of at least two"),
        ("tiny-llada2-moe", {"partial_rotary_factor": None, "head_dim": 0}, "head_dim must be a positive integer"),
        ("tiny-a2d-qwen3", {"use_sliding_window": True}, "use_sliding_window = True is not implemented"),
        ("tiny-a2d-qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ("tiny-a2d-qwen3", {"right_shift_logits": True}, "right_shift_logits = True is not implemented"),
        ("tiny-a2d-qwen3", {"quantization_config": {"bits": 4}}, "quantization_config = .* is not implemented"),
    ],
)
def test_values_that_change_the_computation_are_refused_by_name(name, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_network(edit_config(copied(name, tmp_path), **settings))


@pytest.mark.parametrize("name", ALL)
def test_other_unknown_fields_give_one_warning(name, tmp_path):
    with pytest.warns(UserWarning, match="ignores: colour$") as caught:
        load_network(edit_config(copied(name, tmp_path), colour="red"))
    assert len([one for one in caught if "noiselab" in str(one.message)]) == 1


@pytest.mark.parametrize("name", ALL)
def test_the_published_config_gives_no_warning(name, recwarn):
    load_network(FORMATS / name)
    assert [str(one.message) for one in recwarn] == []


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("tiny-mdlm", "backbone.blocks.1.adaLN_modulation.weight"),
        ("tiny-udlm-cfg", "backbone.cond_map.embedding_table.weight"),
        ("tiny-llada2-moe", "model.layers.2.mlp.experts.7.up_proj.weight"),
        ("tiny-llada2-moe", "model.layers.1.mlp.gate.expert_bias"),
        ("tiny-a2d-qwen3", "model.layers.1.self_attn.q_norm.weight"),
    ],
)
def test_a_weight_that_is_missing_unexpected_or_not_finite_is_named(name, weight, tmp_path):
    folder = copied(name, tmp_path)
    with pytest.raises(ValueError, match=f"{weight} is missing"):
        load_network(edit_weights(folder, lambda weights: weights.pop(weight)))
    with pytest.raises(ValueError, match="extra is unexpected"):
        load_network(edit_weights(copied(name, tmp_path), lambda weights: weights.update(extra=torch.ones(1))))
    with pytest.raises(ValueError, match=f"{weight} is not finite"):
        load_network(edit_weights(copied(name, tmp_path), lambda weights: weights[weight].fill_(torch.inf)))


def test_frequencies_of_another_base_are_refused(tmp_path):
    folder = copied("tiny-mdlm", tmp_path)
    load_network(edit_weights(folder, lambda weights: weights.pop("backbone.rotary_emb.inv_freq")))
    folder = copied("tiny-mdlm", tmp_path)
    with pytest.raises(ValueError, match="inv_freq must be the frequencies of base 10000"):
        load_network(edit_weights(folder, lambda weights: weights["backbone.rotary_emb.inv_freq"].mul_(0.5)))


@pytest.mark.parametrize(
    ("network", "plain", "config"),
    [(A2DLlamaLMHeadModel, LlamaForCausalLM, LlamaConfig), (A2DQwen2LMHeadModel, Qwen2ForCausalLM, Qwen2Config)],
)
def test_the_other_decoders_are_those_of_transformers_without_the_causal_mask(network, plain, config, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = plain(config(vocab_size=20, max_position_embeddings=16, num_key_value_heads=2, **sizes)).eval()
    model.save_pretrained(tmp_path)
    loaded = load_network(edit_config(tmp_path, model_type=network.config_class.model_type))
    assert type(loaded) is network
    ids = torch.randint(20, (2, 7))
    open_mask = torch.zeros(2, 1, 7, 7)  # added to the scores
    with torch.no_grad():
        wanted = model(ids, attention_mask=open_mask).logits
        assert (wanted - model(ids).logits).abs().max() > 1e-3
    assert difference(loaded, wanted, ids) < 1e-5


def test_the_noise_of_each_format():
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    for name, mask in (("tiny-mdlm", None), ("tiny-llada2-moe", 70), ("tiny-a2d-qwen3", 69)):
        process = process_from(load_network(FORMATS / name).noise(mask))
        wanted = 60 if mask is None else mask
        assert process.mixing(t)[1].argmax() == wanted and process.mixing(t)[1].max() == 1
    for name in TIMED:
        process = process_from(load_network(FORMATS / name).noise())
        torch.testing.assert_close(process.alpha(t), 1 - 0.999 * t)
        torch.testing.assert_close(process.mixing(t), torch.full((3, 61), 1 / 61, dtype=torch.float64))
