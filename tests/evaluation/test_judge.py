"""Perplexity of samples: every real token scored once, none that is not; and the company it must keep."""

import itertools
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.data import train_tokenizer
from noiselab.evaluation import generative_perplexity, text_perplexity, token_entropy
from noiselab.evaluation.judge import distinct

V = 11


class Bigram(torch.nn.Module):
    """A causal model whose every answer is known: token v is followed by w with probability table[v, w]."""

    def __init__(self):
        super().__init__()
        table = torch.rand(V, V, generator=torch.Generator().manual_seed(0)).double()
        self.register_buffer("table", table / table.sum(-1, keepdim=True))

    def forward(self, input_ids, attention_mask):
        return self.table.log()[input_ids]

    def surprise(self, text):
        return -sum(self.table[a, b].log().item() for a, b in itertools.pairwise(text))


def samples(count=7, length=9):
    return torch.randint(V, (count, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_every_token_but_the_first_once_and_the_last_batch_too(size):
    judge, x = Bigram(), samples()
    found = generative_perplexity(judge, x, batch_size=size)
    want = sum(judge.surprise(row) for row in x.tolist())
    assert found.tokens == 7 * 8
    assert found.nats == pytest.approx(want / 56, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(want / 56), rel=1e-6)
    assert found.total.tolist() == pytest.approx([judge.surprise(row) for row in x.tolist()], rel=1e-6)


def test_behind_a_start_token_the_first_counts():
    judge, x = Bigram(), samples()
    found = generative_perplexity(judge, x, start=3)
    assert found.tokens == 7 * 9
    assert found.nats == pytest.approx(sum(judge.surprise([3, *row]) for row in x.tolist()) / 63, rel=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_scored(side):
    """Neither padding, nor the first padding token behind a text, nor the first token behind padding on the left."""
    judge, x = Bigram(), samples()
    kept = torch.tensor([9, 4, 1, 7, 2, 9, 3])
    place = torch.arange(9)
    mask = place < kept[:, None] if side == "right" else place >= 9 - kept[:, None]
    texts = [row[m].tolist() for row, m in zip(x, mask, strict=True)]
    found = generative_perplexity(judge, x, attention_mask=mask.long(), batch_size=2)
    assert found.tokens == sum(len(text) - 1 for text in texts)
    assert found.nats * found.tokens == pytest.approx(sum(map(judge.surprise, texts)), rel=1e-6)
    filled = generative_perplexity(judge, torch.where(mask, x, 5), attention_mask=mask)
    assert (filled.nats, filled.entropy, filled.distinct) == (
        pytest.approx(found.nats, rel=1e-6),
        found.entropy,
        found.distinct,
    )


def test_a_transformer_scores_padded_texts_as_it_scores_them_alone():
    torch.manual_seed(0)
    judge = LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    ).train()
    x, kept = samples(), torch.tensor([9, 4, 2, 7, 3, 9, 5])
    found = generative_perplexity(judge, x, attention_mask=torch.arange(9) < kept[:, None], batch_size=4)
    alone = [generative_perplexity(judge, row[None, :n]).total.item() for row, n in zip(x, kept.tolist(), strict=True)]
    assert found.total.tolist() == pytest.approx(alone, rel=1e-5)
    assert judge.training  # left as it was


def test_ids_and_text_agree_where_the_tokenizer_is_one():
    tokenizer = train_tokenizer(["the cat sat on the mat", "a dog sat on the cat"] * 5, vocab_size=290)
    torch.manual_seed(0)
    judge = LlamaForCausalLM(
        LlamaConfig(vocab_size=290, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    texts = ["the cat sat", "a dog", "on the mat the cat"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, ids))
    rows = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    mask = torch.arange(width) < torch.tensor([[len(row)] for row in ids])
    by_ids = generative_perplexity(judge, rows, attention_mask=mask, start=0)
    by_text = text_perplexity(judge, tokenizer, texts, start=0)
    assert by_ids.nats == pytest.approx(by_text.nats, rel=1e-6)
    assert by_ids.tokens == by_text.tokens == sum(map(len, ids))
    assert text_perplexity(judge, tokenizer, texts, max_tokens=2).tokens == 3


def test_repetition_is_likely_and_has_no_entropy():
    """What perplexity alone would reward."""
    assert token_entropy([[4] * 20]) == 0
    assert token_entropy([[1, 2, 3, 4], [1, 1, 2, 2]]) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert distinct([[1, 1, 1, 1]], 2) == pytest.approx(1 / 3)
    assert distinct([[1, 2], [1, 2], [2, 1]], 2) == pytest.approx(2 / 3)
    assert math.isnan(distinct([[1]], 2))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(3, 1, dtype=torch.long), {}, "follows another"),
        (torch.full((1, 4), V), {}, "index|vocabulary"),
        (torch.zeros(1, 4, dtype=torch.long), {"attention_mask": torch.tensor([[1, 0, 1, 1]])}, "gaps"),
    ],
)
def test_refusals(x, options, message):
    with pytest.raises((ValueError, IndexError), match=message):
        generative_perplexity(Bigram(), x, **options)
