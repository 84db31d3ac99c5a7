"""`generate(stop=False)` goes on after an end of text, whatever the settings of the model's folder say."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.pipeline import AutoregressivePipeline, ModelSettings

LENGTH = 64


@pytest.fixture(scope="module")
def pipe():
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=290)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary_size(tokenizer),
        max_position_embeddings=LENGTH,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=1e-4,  # nearly uniform: an end of text every 290 tokens
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return AutoregressivePipeline(LlamaForCausalLM(config).eval(), tokenizer, ModelSettings())


def texts(pipe, **options):
    return pipe.generate(100, length=LENGTH, generator=torch.Generator().manual_seed(0), **options)


def written(pipe):
    return torch.tensor([text.tokens for text in texts(pipe)])[:, 1:]


def test_texts_go_on_after_an_end(pipe):
    end, pad = pipe.tokenizer.eos_token_id, pipe.tokenizer.pad_token_id
    assert pipe.network.generation_config.eos_token_id == end  # as transformers writes it
    tokens = written(pipe)
    ended = (tokens == end).cumsum(-1) - (tokens == end).long() > 0
    assert ended.sum() > 100 and (tokens[ended] != pad).double().mean() > 0.9
    stopped = [text.tokens[1:] for text in texts(pipe, stop=True)]
    assert all(end not in row[:-1] for row in stopped) and any(row[-1] == end for row in stopped)


def test_settings_of_the_folder_do_not_change_the_law(pipe, monkeypatch):
    plain = written(pipe)
    for name, value in {"repetition_penalty": 5.0, "min_p": 0.9, "suppress_tokens": [5, 6, 7]}.items():
        monkeypatch.setattr(pipe.network.generation_config, name, value)
    own = pipe.network.generation_config
    assert torch.equal(written(pipe), plain)
    assert pipe.network.generation_config is own
