"""lm-evaluation-harness: a token on both sides of the border of context and continuation ends nothing and hides nothing."""

import pytest
import torch

pytest.importorskip("lm_eval", reason="optional: pip install noiselab[harness]; continuous integration has it")
from lm_eval.api.instance import Instance

from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import DiffusionPipeline, ModelSettings
from noiselab.pipeline.harness import HarnessModel

LENGTH = 16


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer(["the cat sat on the mat", "the dog sat on the log"] * 10, vocab_size=290)
    size = vocabulary_size(tokenizer)
    torch.manual_seed(0)
    network = DiT(
        DiTConfig(vocab_size=size, max_seq_len=LENGTH, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape))
    noise = {"family": "gidd", "vocab_size": size, "mask_id": tokenizer.mask_token_id, "p_uniform": 0.2}
    return HarnessModel(DiffusionPipeline(network.eval(), tokenizer, ModelSettings(noise)), nodes=4, draws=2)


def score(model, *pairs):
    return [nats for nats, _ in model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])]


def words(model, ids):
    return [model.pipe.tokenizer.decode([token]) for token in ids]


@pytest.mark.parametrize(
    ("context", "continuation", "head", "tail"),
    [
        ("the", " cat", "the", " cat"),
        ("the ", "cat", "the", " cat"),  # spaces belong to the continuation, as in the harness
        ("th", "e", "th", "e"),
        ("t", "he cat", "t", "he cat"),
        ("the c", "at sat", "the c", "at sat"),
        ("", "the cat", "", "the cat"),
    ],
)
def test_all_of_the_continuation_is_scored(model, context, continuation, head, tail):
    found = model.pair(context, continuation)
    assert ["".join(words(model, ids)) for ids in found] == [head, tail]


def test_a_token_on_both_sides_is_split_and_the_evaluation_goes_on(model):
    tokenizer = model.pipe.tokenizer
    assert len(tokenizer("the", add_special_tokens=False)["input_ids"]) == 1  # so "th" + "e" has no border
    merged, cat, part, whole = score(model, ("th", "e"), ("the", " cat"), ("t", "he cat"), ("the", " cat"))
    assert all(nats < 0 for nats in (merged, cat, part, whole))
    assert part < whole == cat  # it has to predict "he", too


def test_what_cannot_be_scored_is_named(model):
    with pytest.raises(ValueError, match="a continuation must have at least one token; got ''"):
        score(model, ("the cat", ""))
    with pytest.raises(ValueError, match=f"must fit the context of {LENGTH} tokens"):
        score(model, ("the", " cat" * 40))
    head, tail = model.pair("the cat sat on " * 10, "the mat")
    assert len(head) + len(tail) == LENGTH


def test_requests_of_a_model_without_a_longest_sequence(model, monkeypatch):
    monkeypatch.setattr(model, "limit", None)
    text = "the cat sat"
    (rolling,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    assert rolling == pytest.approx(score(model, ("", text))[0])
