"""GIDD at scale: the logits of the public code, on a checkpoint with every switch on and one with every switch off."""

import pytest
import torch
from published_folders import FORMATS, copied, difference, edit_config, edit_weights, reference

from noiselab.networks import load_network
from noiselab.processes import process_from

NAMES = ("tiny-gidd-easydel", "tiny-gidd-easydel-unif")


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_public_code(name):
    network, wanted = load_network(FORMATS / name), reference(name)
    ids, noisy = wanted["input_ids"], wanted["noise_mask"]
    assert difference(network, wanted["logits"], ids) < 1e-4
    assert difference(network, wanted["logits_padded"], ids, attention_mask=wanted["attention_mask"]) < 1e-4
    # Clean positions do not see noisy ones.
    seen = noisy[:, :, None] >= noisy[:, None]
    assert difference(network, wanted["logits_noise_mask"], ids, None, seen) < 1e-4
    assert difference(network, wanted["logits_noise_mask"], ids, attention_mask=seen[:, None].long()) < 1e-4
    added = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]
    assert difference(network, wanted["logits_noise_mask"], ids, attention_mask=added) < 1e-4


def test_the_rotary_base_is_read_as_either_transformers_writes_it(tmp_path):
    name, wanted = NAMES[1], reference(NAMES[1])
    folder = edit_config(
        copied(name, tmp_path), remove=["rope_theta"], rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    )
    assert difference(load_network(folder), wanted["logits"], wanted["input_ids"]) < 1e-4
    with pytest.raises(ValueError, match=r"rope_theta must be given once.*\[500\.0, 600\.0\]"):
        load_network(edit_config(folder, rope_theta=600.0))
    with pytest.raises(ValueError, match="rope_theta must be given once"):
        load_network(edit_config(folder, remove=["rope_theta", "rope_parameters"]))
    with pytest.raises(ValueError, match=r"rope_type 'default'.*yarn"):
        load_network(edit_config(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_comes_back(name, tmp_path):
    wanted = reference(name)
    load_network(FORMATS / name).save_pretrained(tmp_path)
    assert difference(load_network(tmp_path), wanted["logits"], wanted["input_ids"]) < 1e-4


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timesteps", torch.ones(2)),
        ("condition", torch.tensor([0, 1])),
        ("prefix", object()),
        ("self_conditioning", torch.zeros(2, 20, 96)),
    ],
)
def test_inputs_that_it_does_not_know_are_refused(option, value):
    network = load_network(FORMATS / NAMES[1])
    with pytest.raises(ValueError, match=f"'gidd' networks take no {option}"):
        network(torch.zeros(2, 20, dtype=torch.long), **{option: value})


@pytest.mark.parametrize(
    "shape", [(2, 7), (1, 8), (2, 8, 7), (1, 8, 8), (2, 1, 8, 7), (3, 1, 8, 8), (8,), (2, 1, 1, 8, 8)]
)
def test_masks_of_other_shapes_are_refused(shape):
    network = load_network(FORMATS / NAMES[1])
    with pytest.raises(ValueError, match=r"attention_mask must have shape \[2, 8\] or \[2, 8, 8\], or four axes"):
        network(torch.zeros(2, 8, dtype=torch.long), attention_mask=torch.ones(shape).bool())


def test_a_mask_of_ones_to_be_added_is_refused():
    network = load_network(FORMATS / NAMES[1])
    with pytest.raises(ValueError, match="zeros and ones must be Bool or Int"):
        network(torch.zeros(2, 8, dtype=torch.long), attention_mask=torch.ones(2, 1, 8, 8))
    with pytest.raises(ValueError, match="at most 20 tokens; got 21"):
        network(torch.zeros(1, 21, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling = .* is not implemented"),
        ({"head_dim": 8}, "head_dim = 8 is not implemented"),
        ({"num_key_value_heads": 1}, "num_key_value_heads = 1 is not implemented"),
        ({"hidden_act": "silu"}, "hidden_act = 'silu' is not implemented"),
        ({"weight_scaling": "fan_avg"}, "'fan_in' or 'fan_out'; got 'fan_avg'"),
        ({"attn_soft_cap": None}, "attn_soft_cap must be given"),
        ({"attn_soft_cap": -1.0}, "attn_soft_cap"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = .* is not implemented"),
        ({"hidden_size": 33}, "hidden_size must be an even multiple"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers must be a positive integer, not 2.5"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer, not 0"),
        ({"model_type": "giddy"}, "model_type must be one of .*'gidd'.*; got 'giddy'"),
        ({"auto_map": {"AutoModel": "x"}, "attn_implementation": "someone/kernel"}, "code must not be named"),
    ],
)
def test_values_that_change_the_computation_are_refused_by_name(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_network(edit_config(copied(NAMES[1], tmp_path), **settings))


def test_other_unknown_fields_give_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="ignores: colour, shape") as caught:
        load_network(edit_config(copied(NAMES[1], tmp_path), colour="red", shape=[1]))
    assert len([one for one in caught if "noiselab" in str(one.message)]) == 1


def test_each_wrong_weight_is_named(tmp_path):
    def damage(weights):
        del weights["model.layers.0.mlp.up_proj.weight"]
        weights["model.norm.weight"] = torch.zeros(31)
        weights["model.layers.1.self_attn.q_proj.weight"][0, 0] = torch.nan
        weights["model.layers.7.extra"] = torch.zeros(2)

    with pytest.raises(ValueError) as error:
        load_network(edit_weights(copied(NAMES[1], tmp_path), damage))
    for part in (
        "model.layers.0.mlp.up_proj.weight is missing",
        "model.layers.7.extra is unexpected",
        "model.norm.weight must have shape [32]; it has [31]",
        "model.layers.1.self_attn.q_proj.weight is not finite",
    ):
        assert part in str(error.value)


def test_the_noise_is_that_of_the_config():
    masks, words = (process_from(load_network(FORMATS / name).noise(3)) for name in NAMES)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for process, size in ((masks, 160), (words, 96)):
        assert process.vocab_size == size
        torch.testing.assert_close(process.alpha(t), torch.sigmoid(9 - 18 * t))
    noise = [process.mixing(t[1:2])[0] for process in (masks, words)]
    torch.testing.assert_close(noise[0], torch.eye(160, dtype=torch.float64)[3])
    torch.testing.assert_close(noise[1], (torch.arange(96) != 3).double() / 95)
    with pytest.raises(ValueError, match=r"mask_id must be a token of the network, in \[0, 96\).*got None"):
        load_network(FORMATS / NAMES[1]).noise()


@pytest.mark.parametrize("tensor", [torch.float64, torch.bfloat16])
def test_other_dtypes(tensor):
    network, wanted = load_network(FORMATS / NAMES[0], dtype=tensor), reference(NAMES[0])
    with torch.no_grad():
        found = network(wanted["input_ids"])
    assert found.dtype == tensor
    assert (found.double() - wanted["logits"].double()).abs().max() < (1e-4 if tensor == torch.float64 else 0.5)
