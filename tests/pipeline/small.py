"""Small models for the tests of pipelines."""

import contextlib

import torch

from noiselab.data import character_tokenizer, train_tokenizer, vocabulary_size
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import DiffusionPipeline, ModelSettings

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 10
LENGTH = 16
SIZES = {"max_seq_len": LENGTH, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=290)


def network(size, seed=0, **more):
    """A network whose answers depend on everything: its gates are open, its head is no zero."""
    torch.manual_seed(seed)
    model = DiT(DiTConfig(vocab_size=size, timestep_cond_dim=16, **(SIZES | more))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if (weight == 0).all():
                weight.normal_(std=0.1)
    return model


def pipeline(family="gidd", seed=0, dtype=torch.float64, **noise):
    words = tokenizer()
    size = vocabulary_size(words)
    noise = {"family": family, "vocab_size": size, **noise}
    if family == "gidd":
        noise |= {"mask_id": words.mask_token_id, "p_uniform": noise.get("p_uniform", 0.2)}
    if family == "masked":
        noise |= {"mask_id": words.mask_token_id}
    return DiffusionPipeline(network(size, seed).to(dtype), words, ModelSettings(noise)).eval()


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def letters(family, length=16):
    """Three letters and an end of text, which comes often."""
    words = character_tokenizer(["abc"])
    size = vocabulary_size(words)
    noise = {"family": family, "vocab_size": size}
    noise |= {} if family == "uniform" else {"mask_id": words.mask_token_id}
    noise |= {"p_uniform": 0.2} if family == "gidd" else {}
    return DiffusionPipeline(network(size, max_seq_len=length).double(), words, ModelSettings(noise)).eval()


@contextlib.contextmanager
def counted_calls(module):
    """The number of sequences in each call of a module."""
    calls = []
    hook = module.register_forward_hook(lambda module, given, z: calls.append(len(z)))
    yield calls
    hook.remove()


def cut(tokens, end, prompt):
    """By hand: after the first end behind the prompt."""
    tokens = list(tokens)
    return tokens[: tokens.index(end, prompt) + 1] if end in tokens[prompt:] else tokens


def rows(texts):
    return [list(text.tokens) for text in texts]
