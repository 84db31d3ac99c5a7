"""Small models, and samples of one, that the commands read."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.commands.main import run
from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import AutoregressivePipeline, DiffusionPipeline, ModelSettings

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 10
LENGTH = 16


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of a diffusion model and of a judge with the same tokenizer."""
    folder, words = tmp_path_factory.mktemp("models"), train_tokenizer(TEXTS, vocab_size=290)
    size = vocabulary_size(words)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DiT(DiTConfig(vocab_size=size, max_seq_len=LENGTH, **sizes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if (weight == 0).all():
                weight.normal_(std=0.1)
    noise = {"family": "gidd", "vocab_size": size, "mask_id": words.mask_token_id, "p_uniform": 0.2}
    DiffusionPipeline(model, words, ModelSettings(noise)).save_pretrained(folder / "model")
    judge = LlamaForCausalLM(
        LlamaConfig(vocab_size=size, intermediate_size=32, max_position_embeddings=LENGTH, **sizes)
    )
    AutoregressivePipeline(judge.eval(), words, ModelSettings()).save_pretrained(folder / "judge")
    return str(folder / "model"), str(folder / "judge")


@pytest.fixture
def samples(models, tmp_path):
    file = tmp_path / "samples.jsonl"
    words = ["generate", models[0], "--num-samples", "3", "--steps", "4", "--seed", "7", "--out", str(file)]
    run(words[0], [*words[1:], "--device", "cpu"])
    return file
