"""Autoregressive models: streams, ends, callbacks, seeds and conversations are those of diffusion models."""

import threading

import pytest
import torch
from small import counted_calls, cut, rows
from test_chats import ASKED, ASKED_TOKENS, TEMPLATE
from transformers import LlamaConfig, LlamaForCausalLM

from noiselab.data import character_tokenizer, vocabulary_size
from noiselab.pipeline import AutoregressivePipeline, ModelSettings
from noiselab.pipeline.base import Text
from noiselab.pipeline.continuation import in_steps

LENGTH, END = 20, 0
PROMPTS = ["ab", "c"]


@pytest.fixture(scope="module")
def pipe():
    words = character_tokenizer(["abc"])
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=vocabulary_size(words),
        max_position_embeddings=LENGTH,
        initializer_range=0.4,
        eos_token_id=END,
        **sizes,
    )
    words.chat_template = TEMPLATE
    return AutoregressivePipeline(LlamaForCausalLM(config).double().eval(), words, ModelSettings())


def by_hand(pipe, start, seed, length=LENGTH):
    """Without a cache, one uniform number a token: the first token whose cumulative probability exceeds it."""
    random, ids = torch.Generator().manual_seed(seed), list(start)
    while len(ids) < length:
        with torch.no_grad():
            probs = pipe.network(torch.tensor([ids])).logits[0, -1].float().softmax(-1).double()
        u = torch.rand((), generator=random, dtype=torch.float64)
        ids.append(int((probs.cumsum(-1) <= u * probs.sum()).sum()))
    return ids


def test_a_constraint_is_for_diffusion_models(pipe):
    for call in (pipe.generate, pipe.stream):
        with pytest.raises(ValueError, match="constraints need a diffusion model of whole texts"):
            call(constraint="a+")
    assert pipe.generate(constraint=None, seed=1) == pipe.generate(seed=1)


def test_texts_are_drawn_as_by_hand_and_streamed(pipe):
    texts = pipe.generate(2, prompts=PROMPTS, seeds=[3, 4, 5, 6])
    starts = pipe.encode(PROMPTS)
    wanted = [by_hand(pipe, starts[i // 2], 3 + i) for i in range(4)]
    assert rows(texts) == wanted
    states = list(pipe.stream(2, prompts=PROMPTS, seeds=[3, 4, 5, 6]))
    assert rows(states[-1].texts) == wanted and len(states) == 18 + 19 == states[0].steps
    for step, state in enumerate(states[:18], 1):
        assert state.step == step and state.tokens[:2, : 2 + step].tolist() == [row[: 2 + step] for row in wanted[:2]]
        assert state.noisy[:2].sum(-1).tolist() == [18 - step] * 2 and state.noisy[2:].sum(-1).tolist() == [19] * 2
        assert state.finished.tolist() == [step == 18] * 2 + [False] * 2
    assert rows(pipe.generate(1, prompts=PROMPTS[1:], seeds=[5])) == wanted[2:3]
    assert (
        rows(pipe.generate(2, prompts=PROMPTS, seed=8)) == rows(pipe.generate(2, prompts=[*PROMPTS, "a"], seed=8))[:4]
    )


def test_a_text_is_cut_after_its_end(pipe):
    whole = rows(pipe.generate(3, prompts=PROMPTS, seed=1))
    texts = pipe.generate(3, prompts=PROMPTS, seed=1, stop=True)
    assert rows(texts) == [cut(row, END, 2 - i // 3) for i, row in enumerate(whole)]
    assert rows(pipe.generate(3, prompts=PROMPTS, seed=1, length="auto")) == rows(texts)
    with counted_calls(pipe.network.model.embed_tokens) as calls:
        states = list(pipe.stream(1, prompts=PROMPTS, seed=1, stop=True))
    ends = [len(text.tokens) for text in states[-1].texts]
    assert len(calls) == sum(ends) - 3 and states[-1].step == states[-1].steps == 37


def test_leaving_the_loop_ends_the_thread_and_the_work(pipe):
    before, own = threading.active_count(), pipe.network.generation_config
    with counted_calls(pipe.network.model.embed_tokens) as calls:
        for state in pipe.stream(2, seed=0, dtype=torch.bfloat16):
            assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
            assert pipe.network.generation_config is own and len(calls) == state.step
            if state.step == 3:
                break
    assert threading.active_count() == before and len(calls) == 3 and pipe.network.generation_config is own
    stream = pipe.stream(2, seed=0)
    next(stream)
    stream.close()
    assert threading.active_count() == before and next(stream, None) is None


def test_a_callback_ends_with_the_tokens_that_are_there(pipe):
    whole = rows(pipe.generate(2, prompts=PROMPTS, seed=2))
    texts = pipe.generate(2, prompts=PROMPTS, seed=2, callback=lambda state: state.step == 4)
    assert rows(texts) == [row[:6] for row in whole[:2]]
    texts = pipe.generate(2, prompts=PROMPTS, seed=2, callback=lambda state: state.step == 20)
    assert rows(texts) == whole[:2] + [row[:3] for row in whole[2:]]


def test_an_error_of_the_network_is_raised_where_it_is_streamed(pipe, monkeypatch):
    def failing(*given, **named):
        raise RuntimeError("no memory")

    monkeypatch.setattr(pipe.network.model, "forward", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        next(pipe.stream(1))
    with pytest.raises(RuntimeError, match="no memory"):
        pipe.generate(1)
    with pytest.raises(ValueError, match="method must be one of generate; got 'infill'"):
        pipe.stream(["a"], method="infill")


def test_an_answer_is_what_follows_the_rendered_conversation(pipe):
    prompts = [Text.of("a prompt", ids, pipe.tokenizer) for ids in ASKED_TOKENS]
    whole = rows(pipe.generate(1, prompts=prompts, seeds=[3, 4]))
    wanted = [cut(row[len(ids) :], END, 0) for row, ids in zip(whole, ASKED_TOKENS, strict=True)]
    assert rows(pipe.generate(1, prompts=ASKED, seeds=[3, 4])) == wanted
    with pytest.raises(ValueError, match="message 0 of conversation 0 lacks"):
        pipe.generate(1, prompts=[[{"content": "a"}]])


def test_values_are_handed_over_one_by_one():
    made = []

    def work(give):
        for i in range(5):
            made.append(i)
            if not give(i):
                made.append("asked to stop")
                return

    steps = in_steps(work)
    assert next(steps) == 0 and made == [0] and next(steps) == 1 and made == [0, 1]
    steps.close()
    assert made == [0, 1, "asked to stop"]
    assert list(in_steps(work)) == [0, 1, 2, 3, 4]
