import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from empty_start import causal, dit, empty, tied
from safetensors.torch import save_file
from torch import nn
from toy_training import V, make

from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.training import Optimization
from noiselab.training.checks import check_sharding
from noiselab.training.identity import fingerprint
from noiselab.training.initial import FirstWeights
from noiselab.training.layout import Layout

HERE = Path(__file__).parent


def filled(network, *arguments):
    FirstWeights(network, *arguments).fill(network)
    return network


def gpt2():
    sizes = {"vocab_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))


def wide_dit():
    return DiT(DiTConfig(vocab_size=64, max_seq_len=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=2))


@pytest.mark.parametrize("build", [gpt2, wide_dit])
def test_weights_have_the_law_of_those_of_the_constructor(build):
    """Those that are constant are equal; of others mean and deviation, within four standard errors."""
    torch.manual_seed(0)
    for (name, ours), (_, theirs) in zip(
        filled(empty(build), 1).named_parameters(), build().named_parameters(), strict=True
    ):
        n, deviation = theirs.numel(), theirs.std()
        if deviation == 0:
            assert torch.equal(ours, theirs), name
            continue
        assert (ours.mean() - theirs.mean()).abs() < 4 * deviation * (2 / n) ** 0.5, name
        assert (ours.std() / deviation - 1).abs() < 4 / n**0.5, name
        assert not torch.equal(ours, theirs), name


def test_buffers_are_those_of_the_constructor_and_tied_weights_stay_tied():
    ours, theirs = filled(empty(tied), 1), tied()
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    for (name, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_weights_depend_on_seed_and_name_alone():
    whole, parts, other = filled(empty(dit), 1), empty(dit), filled(empty(dit), 2)
    torch.manual_seed(5)
    first = FirstWeights(parts, 1)
    first.fill(parts, parts.blocks)
    for block in reversed(parts.blocks):
        first.fill(block)
    assert fingerprint(dict(parts.named_parameters())) == fingerprint(dict(whole.named_parameters()))
    assert fingerprint(dict(other.named_parameters())) != fingerprint(dict(whole.named_parameters()))
    first, second = (block.attn_qkv.weight for block in whole.blocks)
    assert not torch.equal(first, second)
    drawn = torch.random.get_rng_state()
    filled(empty(dit), 1)
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_weights_are_read_by_name_also_inside_a_denoiser(tmp_path):
    sizes = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=16))
    model.save_pretrained(tmp_path)
    found = filled(empty(lambda: MaskedLanguageModel(transformers.BertForMaskedLM(model.config))), 1, tmp_path)
    for name, weight in model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), weight), name


def test_weights_may_be_changed_when_they_are_drawn(tmp_path):
    def ones(module):
        if isinstance(module, nn.Linear):
            nn.init.ones_(module.weight)

    trainer = make(tmp_path, model=empty(dit), extra={"weights": ones})
    assert trainer.network.output_layer.linear.weight.eq(1).all()
    assert trainer.network.vocab_embed.embedding.std() > 0


class Forgetful(nn.Module):
    """Has a weight that nothing draws."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(V, V)])
        self.scale = nn.Parameter(torch.ones(V))


def test_what_cannot_be_filled_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"draw all of its weights .* Forgetful leaves scale as it is"):
        filled(empty(Forgetful), 1)
    half = empty(dit)
    half.vocab_embed.embedding = nn.Parameter(torch.zeros(V, 16))
    with pytest.raises(ValueError, match=r"as a whole, or not at all; it has memory for vocab_embed.embedding"):
        make(tmp_path, model=half)
    with pytest.raises(ValueError, match="this one has its own"):
        make(tmp_path, model=dit(), extra={"weights": tmp_path})
    with pytest.raises(ValueError, match="must be in a folder of safetensors"):
        make(tmp_path, model=empty(dit), extra={"weights": tmp_path})
    (tmp_path / "model.safetensors").write_bytes(b"12")
    with pytest.raises(ValueError, match=r"model.safetensors must be a file of safetensors"):
        make(tmp_path, model=empty(dit), extra={"weights": tmp_path})
    tied().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"it differs in vocab_embed.embedding, .* \.\.\."):
        make(tmp_path, model=empty(dit), extra={"weights": tmp_path})
    shared = empty(lambda: nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]))
    shared[1].weight = shared[0].weight
    first = FirstWeights(shared, 1)
    first.fill(shared[0])
    with pytest.raises(ValueError, match=r"must not be shared with other parts; 1\.weight is"):
        first.fill(shared[1])


class Keeping(nn.Module):
    """Has buffers that only its constructor sets."""

    def __init__(self, buffer, persistent=True):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(V, V)])
        self.register_buffer("table", buffer(), persistent=persistent)


class Setting(Keeping):
    """Sets them again."""

    def reset_parameters(self):
        self.table.copy_(torch.arange(V))


BUFFERS = {
    "float": lambda: torch.arange(V) / V,
    "int": lambda: torch.arange(V),
    "bool": lambda: torch.arange(V) > 2,
    "bfloat16": lambda: torch.arange(V, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_that_nothing_sets_is_refused(kind, persistent):
    """It would be whatever was in the memory before."""
    build = BUFFERS[kind]
    with pytest.raises(ValueError, match=r"must set its buffers .* Keeping leaves table as it is"):
        filled(empty(lambda: Keeping(build, persistent)), 1)
    found = filled(empty(lambda: Setting(build, persistent)), 1)
    assert torch.equal(found.table, torch.arange(V).to(found.table.dtype))

    def change(module):
        if isinstance(module, Keeping):
            module.table.copy_(build())

    assert torch.equal(filled(empty(lambda: Keeping(build, persistent)), 1, change).table, build())


def test_a_buffer_may_be_read_and_may_have_no_elements(tmp_path):
    network = Keeping(BUFFERS["int"])
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(filled(empty(lambda: Keeping(BUFFERS["int"])), 1, tmp_path).table, network.table)
    assert not filled(empty(lambda: Keeping(lambda: torch.zeros(0))), 1).table.numel()
    normed = filled(empty(lambda: nn.BatchNorm1d(3)), 1)
    assert normed.running_var.eq(1).all() and int(normed.num_batches_tracked) == 0


def written(folder, files, index=None):
    """A folder of safetensors, and its weights."""
    torch.manual_seed(0)
    weights = nn.Linear(3, 2).state_dict()
    for name, (keys, change) in files.items():
        save_file({key: change(weights[key]) for key in keys}, folder / f"{name}.safetensors")
    if index is not None:
        names = {key: f"{name}.safetensors" for key, name in index.items()}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return weights


def same(value):
    return value


def test_an_index_says_which_files_count(tmp_path):
    files = {"a": (["weight"], same), "b": (["bias"], same), "old": (["weight", "bias"], torch.zeros_like)}
    weights = written(tmp_path, files, {"weight": "a", "bias": "b"})
    found = filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)
    assert torch.equal(found.weight, weights["weight"]) and torch.equal(found.bias, weights["bias"])
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"files that model.safetensors.index.json names; b.safetensors is missing"):
        filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)
    (tmp_path / "old.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"both model.safetensors and model.safetensors.index.json"):
        filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="must be an index of safetensors"):
        filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)


def test_files_that_say_two_things_or_other_numbers_are_refused(tmp_path):
    both = ["weight", "bias"]
    written(tmp_path, {"a": (both, same), "b": (["bias"], same)})
    with pytest.raises(ValueError, match=r"each weight once; bias is in a.safetensors and in b.safetensors"):
        filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)
    (tmp_path / "b.safetensors").unlink()
    for dtype in (torch.int8, torch.int32, torch.bool, torch.complex64):
        written(tmp_path, {"a": (both, lambda value: value.to(dtype))})  # noqa: B023
        with pytest.raises(ValueError, match=rf"weight has dtype {dtype}, in the model torch.float32"):
            filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)
    weights = written(tmp_path, {"a": (both, torch.Tensor.half)})
    found = filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)
    assert torch.equal(found.weight, weights["weight"].half().float()) and found.weight.dtype == torch.float32
    written(tmp_path, {"a": (both, lambda value: value / 0)})
    with pytest.raises(ValueError, match="must contain finite weights; weight has infinities or NaN"):
        filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path)
    with pytest.raises(ValueError, match=r"a.safetensors is a file"):
        filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="nowhere is not there"):
        filled(empty(lambda: nn.Linear(3, 2)), 1, tmp_path / "nowhere")


def test_weights_that_blocks_share_are_refused_before_they_are_sharded():
    """Others may be tied, as the embedding and the output layer are."""
    layout, settings = Layout(torch.device("cpu"), 0, 2, 2), Optimization(steps=1, batch=2)
    check_sharding(layout, settings, tied())
    shared = tied()
    shared.model.layers[1].mlp.up_proj.weight = shared.model.layers[0].mlp.up_proj.weight
    with pytest.raises(
        ValueError, match=r"must not be shared with other parts .* model.layers.1.mlp.up_proj.weight is"
    ):
        check_sharding(layout, settings, shared)
    check_sharding(layout._replace(shards=1), settings, shared)


def test_a_fingerprint_sees_each_element_and_its_place():
    weights = {"a": torch.randn(3, 4), "b": torch.tensor([True, False]), "c": torch.zeros(()), "d": torch.zeros(0, 2)}
    same = fingerprint({name: value.clone() for name, value in weights.items()})
    assert fingerprint(weights) == same
    for change in (
        lambda w: w["a"].view(-1)[5].add_(1e-6),
        lambda w: w["a"].copy_(w["a"].flip(0)),
        lambda w: w["b"].copy_(w["b"].flip(0)),
        lambda w: w["c"].add_(1),
        lambda w: w.update(e=w.pop("d")),
        lambda w: w.update(d=torch.zeros(2, 0)),
    ):
        other = {name: value.clone() for name, value in weights.items()}
        change(other)
        assert fingerprint(other) != same


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What two processes saw that share the weights of their networks."""
    root = tmp_path_factory.mktemp("shared")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "empty_start.py"), str(root)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return root, json.loads((root / "results.json").read_text())


OPTIONS = {"dropout": 0.0, "batch": 8, "micro_batch": 4, "steps": 4, "save_every": 2, "log_every": 1}


@pytest.mark.long
@pytest.mark.parametrize(("name", "build", "start"), [("dit", dit, make), ("tied", tied, causal)])
def test_two_processes_that_share_a_network_begin_with_the_weights_of_one(shared, tmp_path, name, build, start):
    root, results = shared
    alone, found = start(tmp_path, model=empty(build), **OPTIONS), results[name]
    assert found["first"] == [weight.flatten().tolist() for weight in alone.network.parameters()]
    assert found["settings"] == alone.settings and found["start"] == alone.start
    assert found["resumed"] == found["trained"] == found["read"]
    alone.train()
    for ours, theirs in zip(alone.network.parameters(), found["trained"], strict=True):
        torch.testing.assert_close(ours.detach().flatten(), torch.tensor(theirs), rtol=0, atol=2e-5)
    read = start(tmp_path / "read", model=empty(build), extra={"weights": root / name / "final"}, **OPTIONS)
    assert [weight.flatten().tolist() for weight in read.network.parameters()] == found["trained"]


@pytest.mark.long
def test_no_process_ever_holds_the_full_parameters(shared):
    """At the start its shards and one block; when the model is written, one weight beside the shards."""
    found = shared[1]["measured"]
    for start in found["start"]:
        assert found["bytes"] / 2 < start < found["bytes"] / 2 + found["block"] + 8e6
    assert max(found["end"]) < found["block"] + 8e6


@pytest.mark.long
def test_a_causal_model_is_checked_when_its_weights_are_there(shared):
    assert "whose tokens attend to earlier ones only; Ahead sees the token" in shared[1]["ahead"]
