"""Networks inside wrappers of torch and peft: weights keep their names, and kinds are recognized."""

import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DataParallel
from toy_training import L, V, llama, make, network
from transformers.modeling_layers import GradientCheckpointingLayer

from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.networks.wrapped import bare, innermost, plain_names
from noiselab.training import Average


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)


def compiled_layers():
    model = Layers()
    model.first = torch.compile(model.first, backend="eager")
    return model


WRAPPED = {
    "compiled": lambda: torch.compile(Layers(), backend="eager"),
    "data parallel": lambda: DataParallel(Layers()),
    "compiled, data parallel": lambda: torch.compile(DataParallel(Layers()), backend="eager"),
    "one layer compiled": compiled_layers,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_an_average_has_the_names_of_the_network(name):
    model = WRAPPED[name]()
    found = Average(model, 0.9).tensors()
    assert sorted(found) == ["first.bias", "first.weight", "second.bias", "second.weight"]
    assert all(torch.equal(plain_names(model)[key], average) for key, average in found.items())


def test_an_average_that_is_applied_twice_gives_the_trained_weights_back():
    model = nn.Linear(2, 2)
    average = Average(model, decay=0.5)
    with torch.no_grad():
        model.weight.add_(1)
    average.update()
    trained = model.weight.detach().clone()
    with average.applied():
        inside = model.weight.detach().clone()
        with average.applied():
            assert torch.equal(model.weight, inside)
        assert torch.equal(model.weight, inside)
        with pytest.raises(ValueError, match="updated with trained weights"):
            average.update()
    assert torch.equal(model.weight, trained) and not torch.equal(inside, trained)


def test_the_trainer_takes_the_network_itself(tmp_path):
    for model in (torch.compile(network(), backend="eager"), DataParallel(network())):
        with pytest.raises(ValueError, match=r"must be the network itself.*compile=True"):
            make(tmp_path, model=model)
    inside = network()
    inside.blocks[0] = torch.compile(inside.blocks[0], backend="eager")
    with pytest.raises(ValueError, match="must be the network itself"):
        make(tmp_path, model=inside)


@pytest.mark.long
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own, while it compiles
@pytest.mark.parametrize("kind", ["network", "denoiser"])
def test_a_network_that_the_trainer_compiles_learns_the_same_under_the_same_names(tmp_path, kind, unchecked):
    def run(folder, **options):
        model = network(0.0) if kind == "network" else TransformersDenoiser(network(0.0))
        trainer = make(folder, model=model, steps=4, save_every=2, **options)
        trainer.train()

    run(tmp_path / "plain")
    run(tmp_path / "compiled", compile=True)
    file = "shard-00001-model-00001-of-00001.safetensors"
    a, b = (load_file(tmp_path / name / "checkpoint-4" / "state" / file) for name in ("plain", "compiled"))
    assert a.keys() == b.keys()
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=1e-4, atol=1e-5)


def adapted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses deprecated functions of transformers
        return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2, task_type="CAUSAL_LM"))


@pytest.mark.parametrize(
    "wrap", [adapted, lambda m: torch.compile(m, backend="eager"), lambda m: torch.compile(adapted(m), backend="eager")]
)
def test_a_wrapped_causal_model_is_made_bidirectional(wrap, unchecked):
    """It was recognized by its class alone: a wrapped one saw the tokens before each token only."""
    z = torch.tensor([[1, 2, 3, 4, 5, 6]])
    t = torch.full((1,), 0.5)
    plain = MaskedLanguageModel(llama())
    wrapped = MaskedLanguageModel(wrap(llama()))
    assert wrapped.bidirectional
    with torch.no_grad():
        torch.testing.assert_close(wrapped(z, t), plain(z, t))  # updates are zero at the start


def test_a_causal_model_is_refused_by_a_diffusion_trainer_in_any_wrapper(tmp_path):
    with pytest.raises(ValueError, match="LlamaForCausalLM, in which a token attends to earlier tokens only"):
        make(tmp_path, model=adapted(llama()))


def test_what_is_inside():
    model = network()
    assert bare(torch.compile(DataParallel(model), backend="eager")) is model and bare(model) is model
    other = llama()
    assert innermost(torch.compile(adapted(other), backend="eager")) is other


# Activation checkpointing.


@pytest.mark.parametrize("kind", ["DiT", "denoiser of a DiT", "masked language model"])
def test_activation_checkpointing_changes_no_loss_and_recomputes_blocks(tmp_path, kind):
    def model():
        if kind == "masked language model":
            return MaskedLanguageModel(llama(), vocab_size=V)
        return network() if kind == "DiT" else TransformersDenoiser(network())

    data = [{"input_ids": row} for row in torch.randint(V - 2, (8, L), generator=torch.Generator().manual_seed(0))]
    runs = {}
    for enabled in (False, True):
        trainer = make(
            tmp_path / str(enabled),
            data=data,
            model=model(),
            steps=2,
            save_every=9,
            checkpointing=enabled,
        )
        block = next(m for m in trainer.network.modules() if isinstance(m, GradientCheckpointingLayer))
        calls = []
        (block.norm1 if "DiT" in kind else block.input_layernorm).register_forward_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        trainer.train()
        runs[enabled] = trainer.losses_of_steps.seen, len(calls)
    assert runs[True][0] == runs[False][0]
    assert runs[True][1] == 2 * runs[False][1]


def test_networks_without_activation_checkpointing_are_refused(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(V, V)

        def forward(self, input_ids, timesteps, attention_mask=None):
            return self.embed(input_ids)

    with pytest.raises(ValueError, match=r"checkpointing needs a network of transformers .* Own does not"):
        make(tmp_path, model=Own(), checkpointing=True)
