"""One string, a table or numbers where texts are expected are refused, never read as letters or names of columns."""

import datasets
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.data import (
    TextCorpus,
    TokenStream,
    character_tokenizer,
    hold_out,
    hold_out_last,
    pack,
    train_tokenizer,
    vocabulary_size,
)
from noiselab.data.tokenizers import Encoder
from noiselab.dialogue import categories_of_bias
from noiselab.evaluation import text_perplexity
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import AutoregressivePipeline, DiffusionPipeline, ModelSettings
from noiselab.tasks import read_choice

TEXTS = ["the cat sat on the mat", "the dog sat on the log"] * 10
pytestmark = pytest.mark.usefixtures("unchecked")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(TEXTS, vocab_size=270)


@pytest.fixture(scope="module")
def causal(words):
    config = LlamaConfig(vocab_size=vocabulary_size(words), max_position_embeddings=16, intermediate_size=16, **SIZES)
    return AutoregressivePipeline(LlamaForCausalLM(config).eval(), words, ModelSettings())


@pytest.fixture(scope="module")
def diffusion(words):
    size = vocabulary_size(words)
    noise = {"family": "gidd", "vocab_size": size, "mask_id": words.mask_token_id, "p_uniform": 0.2}
    network = DiT(DiTConfig(vocab_size=size, max_seq_len=16, **SIZES)).eval()
    return DiffusionPipeline(network, words, ModelSettings(noise))


class Table:
    """Iterates over the names of its columns, as a data frame does."""

    columns = ("text", "url")

    def __iter__(self):
        return iter(self.columns)


WRONG = {
    "one string": lambda: "the cat",
    "bytes": lambda: b"the cat",
    "a mapping": lambda: {"the cat": 1},
    "a data frame": Table,
    "numbers": lambda: [1, 2],
    "none among texts": lambda: ["the cat", None],
    "no collection": lambda: 3,
}


@pytest.fixture(params=WRONG)
def wrong(request):
    return WRONG[request.param]()


def test_data(words, wrong):
    for call in (
        lambda: train_tokenizer(wrong, vocab_size=270),
        lambda: character_tokenizer(wrong),
        lambda: pack(wrong, words, 8),
        lambda: TextCorpus(wrong),
        lambda: hold_out(wrong),
        lambda: hold_out_last(wrong, 1),
        lambda: TokenStream(wrong, words, 8),
        lambda: list(Encoder(words)(wrong)),
    ):
        with pytest.raises(ValueError, match="texts must be"):
            call()


def test_pipelines(causal, diffusion, wrong):
    quiet = {"show_progress": False}
    for call in (
        lambda: causal.generate(1, prompts=wrong, length=8),
        lambda: diffusion.generate(1, 2, prompts=wrong, **quiet),
        lambda: diffusion.infill(wrong, 2, **quiet),
        lambda: diffusion.self_correction(wrong, 2, **quiet),
        lambda: diffusion.self_correction(wrong, 2, as_released=True, **quiet),
        lambda: text_perplexity(causal.network, causal.tokenizer, wrong, start=0),
    ):
        with pytest.raises(ValueError, match=r"(texts|prompts) must be"):
            call()


def test_others(wrong):
    with pytest.raises(ValueError, match="options must be"):
        read_choice("(a)", wrong)
    with pytest.raises(ValueError, match="categories must be"):
        categories_of_bias(wrong)


def test_rows_of_a_data_set_are_refused_and_its_column_is_read(words):
    rows = datasets.Dataset.from_dict({"text": TEXTS, "url": ["x"] * len(TEXTS)})
    for call in (train_tokenizer, character_tokenizer, TextCorpus, lambda texts: pack(texts, words, 8)):
        with pytest.raises(ValueError, match=r'got a Dataset.*table\["text"\]'):
            call(rows)
    assert list(TextCorpus(rows["text"])) == TEXTS


def test_one_prompt_in_a_list_is_one_text(causal):
    generator = torch.Generator().manual_seed(0)
    assert len(causal.generate(1, prompts=["the cat"], length=8, generator=generator)) == 1
    assert text_perplexity(causal.network, causal.tokenizer, ["the cat"], start=0).samples == 1
