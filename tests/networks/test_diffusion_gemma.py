"""DiffusionGemma as published: logits, generation step by step, the encoder's cache, and folders that are refused."""

import json
import shutil

import pytest
import torch
from published_generate import CALLS, FOLDER, generate, given, settings, stored
from torch.testing import assert_close
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

from noiselab.networks import load_network
from noiselab.networks.published.diffusion_gemma import DiffusionGemma

NEAR = {"rtol": 0, "atol": 1e-4}
FACTS = stored()


@pytest.fixture(scope="module")
def network():
    return load_network(FOLDER).requires_grad_(False)


@pytest.fixture(scope="module")
def eager():
    """The same with attention and experts written out."""
    options = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return DiffusionGemma(DiffusionGemmaForBlockDiffusion.from_pretrained(FOLDER, **options)).requires_grad_(False)


@pytest.mark.parametrize("attention", ["network", "eager"])
@pytest.mark.parametrize("name", ["short", "long"])
def test_published_logits(name, attention, request):
    """Prompts shorter and longer than the sliding window; padded on the left; with the logits of an earlier step."""
    network = request.getfixturevalue(attention)
    ids, canvas, previous = FACTS[f"{name}.input_ids"], FACTS["canvas"], FACTS["self_conditioning_logits"]
    real = FACTS[f"{name}.attention_mask"]
    both = torch.cat([real, torch.ones_like(canvas, dtype=torch.bool)], 1)
    for logits, wanted in (
        (network(canvas, prefix=ids), "logits"),
        (network(canvas, prefix=ids, self_conditioning=previous), "logits_self_conditioned"),
        (network(canvas, prefix=ids, attention_mask=real), "logits_padded"),
        (network(canvas, prefix=ids, attention_mask=both.long()), "logits_padded"),
        (network(canvas, prefix=network.encode(ids, real)), "logits_padded"),
        (network(canvas, prefix=network.encode(ids, real), attention_mask=real), "logits_padded"),
    ):
        assert_close(logits, FACTS[f"{name}.{wanted}"], **NEAR)
    apart = (FACTS[f"{name}.logits"] - FACTS[f"{name}.logits_padded"]).abs().amax((1, 2))
    assert apart[0] > 0.01 and apart[1] < 1e-4


def test_each_sequence_has_its_own_previous_logits_or_none(network):
    ids, previous = FACTS["long.input_ids"], FACTS["self_conditioning_logits"]
    some = torch.tensor([False, True])
    logits = network.project(network.states(FACTS["canvas"], prefix=ids, self_conditioning=previous, conditioned=some))
    assert_close(logits[0], FACTS["long.logits"][0], **NEAR)
    assert_close(logits[1], FACTS["long.logits_self_conditioned"][1], **NEAR)


@pytest.mark.parametrize("name", CALLS)
def test_published_generation_is_followed_token_by_token(network, name):
    ids, log = generate(network, name, FACTS)
    for key, values in log.items():
        assert torch.equal(values, FACTS[f"generate.{name}.{key}"]), key
    assert torch.equal(ids, FACTS[f"generate.{name}.sequences"])
    assert torch.rand(1) == FACTS[f"generate.{name}.next_uniform"]


@pytest.mark.parametrize("name", CALLS)
def test_generate_of_transformers_visits_the_same_canvases(network, name):
    call, seen = settings(name), []
    call["sampler_config"] = EntropyBoundSamplerConfig(entropy_bound=call.pop("entropy_bound"))
    torch.manual_seed(call.pop("seed"))

    def note(module, args, kwargs):
        seen.append(kwargs["decoder_input_ids"])

    hook = network.model.model.decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        made = network.model.generate(**given(FACTS, name), **call)
    finally:
        hook.remove()
    ids, log = generate(network, name, FACTS)
    assert torch.equal(made.sequences, ids) and torch.equal(torch.stack(seen), log["canvas_before_step"])


@pytest.mark.parametrize("parts", [(11,), (0, 11), (3, 8), (1, 4, 5, 1)])
@pytest.mark.parametrize("padded", [False, True])
def test_what_is_read_in_parts_is_read(network, parts, padded):
    ids, real = FACTS["long.input_ids"], FACTS["long.attention_mask"]
    prefix, states, first = None, [], 0
    for size in parts:
        some = slice(first, first + size)
        states.append(prefix)
        prefix, first = network.encode(ids[:, some], real[:, some] if padded else None, after=prefix), first + size
    wanted = FACTS["long.logits_padded" if padded else "long.logits"]
    assert torch.equal(prefix.tokens, ids)
    assert_close(network(FACTS["canvas"], prefix=prefix), wanted, **NEAR)
    # A prefix is not changed by what is read after it.
    for size, before in zip([sum(parts[:k]) for k in range(len(parts))], states, strict=True):
        if before is not None:
            fresh = network(FACTS["canvas"], prefix=ids[:, :size], attention_mask=real[:, :size] if padded else None)
            assert_close(network(FACTS["canvas"], prefix=before), fresh, **NEAR)


def test_without_a_prefix_the_canvas_attends_to_itself(network):
    canvas = FACTS["canvas"]
    nothing = canvas[:, :0]
    assert torch.equal(network(canvas), network(canvas, prefix=nothing))
    assert torch.equal(network(canvas), network(canvas, prefix=network.encode(nothing)))
    assert not torch.allclose(network(canvas), network(canvas, prefix=FACTS["short.input_ids"]), atol=0.1)


def test_encoder_and_decoder_have_their_own_layer_scalars(network):
    model = network.model.model
    for ours, theirs in zip(model.encoder.language_model.layers, model.decoder.layers, strict=True):
        assert ours.layer_scalar != theirs.layer_scalar
        assert ours.mlp.up_proj.weight.data_ptr() == theirs.mlp.up_proj.weight.data_ptr()


def test_a_saved_network_is_loaded(network, tmp_path):
    network.model.save_pretrained(tmp_path)
    again = load_network(tmp_path)
    ids = FACTS["long.input_ids"]
    assert torch.equal(again(FACTS["canvas"], prefix=ids), network(FACTS["canvas"], prefix=ids))


@pytest.mark.parametrize(("dtype", "far"), [(torch.float64, 1e-4), (torch.bfloat16, 0.5)])
def test_other_dtypes(dtype, far):
    """Torch's grouped products take no float64, and no rows of 24 bytes."""
    network = load_network(FOLDER, dtype)
    logits = network(
        FACTS["canvas"], prefix=FACTS["long.input_ids"], self_conditioning=FACTS["self_conditioning_logits"]
    )
    assert network.model.dtype == dtype
    assert (logits - FACTS["long.logits_self_conditioned"]).abs().mean() < far


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": torch.zeros(2, dtype=torch.long)}, "take no condition"),
        ({"timesteps": torch.rand(2)}, "take no timesteps"),
        ({"prefix": torch.zeros(2, 121, dtype=torch.long)}, "context of 128 tokens; got 129"),
        ({"self_conditioning": torch.zeros(2, 8, 69)}, r"\[2, 8, 70\]"),
        ({"prefix": torch.zeros(3, 4, dtype=torch.long)}, "one row for each of 2"),
        ({"prefix": torch.zeros(2, 4, dtype=torch.long), "attention_mask": torch.ones(2, 5)}, r"\[2, 4\].*\[2, 5\]"),
    ],
)
def test_wrong_inputs(network, options, message):
    with pytest.raises(ValueError, match=message):
        network(FACTS["canvas"], **options)


def test_a_mask_must_be_the_one_that_was_read(network):
    ids, real = FACTS["short.input_ids"], FACTS["short.attention_mask"]
    with pytest.raises(ValueError, match="encoded with"):
        network(FACTS["canvas"], prefix=network.encode(ids), attention_mask=real)
    with pytest.raises(ValueError, match="shape of the tokens"):
        network.encode(ids, real[:, 1:])
    with pytest.raises(ValueError, match="one row for each of 1"):
        network.encode(ids[:1], after=network.encode(ids))


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(FOLDER / name, tmp_path / name)
    return tmp_path


def changed(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_wrong_folders(folder):
    changed(folder, model_type="gemma4")
    with pytest.raises(ValueError, match=r"model_type must be one of.*got 'gemma4'"):
        load_network(folder)
    changed(folder, model_type="diffusion_gemma", auto_map={"AutoModel": "here.py"})
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        load_network(folder)


def test_weights_of_another_size_are_named(folder):
    config = json.loads((folder / "config.json").read_text())
    changed(folder, text_config=config["text_config"] | {"intermediate_size": 16})
    with pytest.raises(ValueError, match=r"mlp\.up_proj\.weight must have shape"):
        load_network(folder)
