"""A prompt that ends within a block: the network of a pipeline gets the tokens and times that it got in training."""

import pytest
import torch

import noiselab as nl
from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.denoisers import BlockDenoiser
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.objectives import elbo
from noiselab.pipeline import DiffusionPipeline, ModelSettings
from noiselab.training import Place, draw_noise

SIZE, LENGTH, PROMPT = 4, 12, "abcdef"  # six tokens: a block, and half of one


class Seen(DiT):
    """A network that notes its inputs."""

    def hidden(self, z, t, *arguments, **options):
        self.seen.append((z.clone(), t.clone()))
        return super().hidden(z, t, *arguments, **options)


@pytest.fixture(scope="module")
def network():
    tokenizer = train_tokenizer(["abcdef"], vocab_size=259)
    config = DiTConfig(
        vocab_size=vocabulary_size(tokenizer),
        max_seq_len=LENGTH,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = Seen(config).eval()
    model.seen = []
    return tokenizer, model


def noise(tokenizer):
    return {"family": "gidd", "vocab_size": 259, "mask_id": tokenizer.mask_token_id, "p_uniform": 0.2}


def states(model):
    """The times of the block in which the prompt ends, and whether its tokens there are clean."""
    return [t[0, SIZE : 2 * SIZE] for _, t in model.seen if t.dim() == 2 and t.shape[1] == 2 * SIZE]


def test_pipelines_give_the_tokens_of_a_prompt_the_time_of_its_block_as_training_does(network):
    tokenizer, model = network
    model.seen.clear()
    pipe = DiffusionPipeline(model, tokenizer, ModelSettings(noise(tokenizer), block_size=SIZE))
    pipe.keeps_keys = False  # the network sees all blocks up to the current one
    pipe.generate(prompts=[PROMPT], num_inference_steps=3, seed=1)
    found = states(model)
    assert len(found) >= 3 and any(0 < t[0] < 1 for t in found)
    assert all((t == t[0]).all() for t in found)

    ids = torch.tensor([tokenizer(PROMPT + "ghijkl")["input_ids"]])
    batch = {"input_ids": ids, "labels": ids.index_fill(1, torch.arange(6), -100)}
    process = nl.processes.process_from(noise(tokenizer))

    def times(batch, length, *, generator):
        return nl.times.separate_block_times(batch, length, SIZE, low=0.1, high=0.9, generator=generator)

    noisy = draw_noise(batch, process=process, objective=elbo, place=Place(0), times=times, select=0)
    assert (noisy.times[0, SIZE : 2 * SIZE] == noisy.times[0, SIZE]).all()
    assert torch.equal(noisy.seen[0, :6], ids[0, :6])


@pytest.mark.parametrize("times", ["token", "sequence"])
def test_prompted_samplers_do_so_with_the_time_of_the_sequence(network, times):
    tokenizer, model = network
    process = nl.processes.process_from(noise(tokenizer))
    model.seen.clear()
    inner = nl.AncestralSampler(process, BlockDenoiser(TransformersDenoiser(model), SIZE))
    blocks = nl.samplers.BlockSampler(inner, SIZE, context="past")
    prompt = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    sampler = nl.samplers.Prompted(blocks, prompt, times=times)
    sampler.sample((1, LENGTH), steps=3, generator=torch.Generator().manual_seed(0))
    found = states(model)
    assert len(found) >= 2
    for t in found:
        assert torch.equal(t[:2], torch.zeros_like(t[2:]) if times == "token" else t[2:])
