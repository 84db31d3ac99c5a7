"""How long a sequence may be: one answer for judges, pipelines and the harness, and a sentence where it is exceeded."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MPNetConfig,
    MPNetForMaskedLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.dialogue import Chat
from noiselab.evaluation import generative_perplexity, text_perplexity
from noiselab.evaluation.judge import token_nats
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.lengths import USUAL, context_length, generated_length
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.pipeline import AutoregressivePipeline, DiffusionPipeline, ModelSettings
from noiselab.pipeline.card import facts_of
from noiselab.training.batches import Collate

CONTEXT = 12
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": CONTEXT,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=290)


def gpt2(size):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=size, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2, **ENDS)
    return GPT2LMHeadModel(config).eval()


def bloom(size):
    return BloomForCausalLM(BloomConfig(vocab_size=size, hidden_size=16, n_layer=1, n_head=2, **ENDS)).eval()


def diffusion(tokenizer, length):
    size = vocabulary_size(tokenizer)
    model = DiT(
        DiTConfig(vocab_size=size, max_seq_len=length, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    noise = {"family": "masked", "vocab_size": size, "mask_id": tokenizer.mask_token_id}
    return DiffusionPipeline(model.eval(), tokenizer, ModelSettings(noise))


def test_gpt2_judges_samples_as_long_as_its_context():
    """The last token is only predicted: with a start token, the context holds samples of its own length."""
    judge, x = gpt2(50), torch.randint(2, 50, (3, CONTEXT), generator=torch.Generator().manual_seed(0))
    assert generative_perplexity(judge, x, start=0).tokens == 3 * CONTEXT
    assert generative_perplexity(judge, torch.cat([x, x[:, :1]], 1)).tokens == 3 * CONTEXT
    with torch.no_grad():
        logits = judge(torch.cat([torch.zeros(3, 1, dtype=torch.long), x[:, :-1]], 1)).logits
    want = torch.nn.functional.cross_entropy(logits.mT, x, reduction="none").double()
    torch.testing.assert_close(generative_perplexity(judge, x, start=0).total, want.sum(-1))
    torch.testing.assert_close(token_nats(judge, x, start=0), want)
    assert token_nats(judge, x[:, :0], start=0).shape == (3, 0)


def test_a_sample_that_is_too_long_is_named():
    judge = gpt2(50)
    x = torch.full((3, CONTEXT + 1), 5)
    with pytest.raises(
        ValueError, match=f"sample 0 without its last token must fit the context of {CONTEXT} tokens; got 13"
    ):
        generative_perplexity(judge, x, start=0)
    with pytest.raises(ValueError, match=f"samples must fit the context of {CONTEXT} tokens; got 13"):
        token_nats(judge, x, start=0)
    mask = torch.ones_like(x)
    mask[:, CONTEXT:] = 0
    mask[1] = 1
    with pytest.raises(ValueError, match="sample 1 "):
        generative_perplexity(judge, x, attention_mask=mask, start=0)


def test_max_tokens_is_the_length_of_the_text_itself(tokenizer):
    judge, long = gpt2(vocabulary_size(tokenizer)), ["the cat sat on the mat " * 9]
    for start, tokens in ((0, CONTEXT), (None, CONTEXT - 1)):
        assert text_perplexity(judge, tokenizer, long, max_tokens=CONTEXT, start=start).tokens == tokens
    with pytest.raises(ValueError, match="max_tokens truncates texts"):
        text_perplexity(judge, tokenizer, long)
    with pytest.raises(ValueError, match="max_tokens must be at least 1; got 0"):
        text_perplexity(judge, tokenizer, long, max_tokens=0)


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (lambda: BertForMaskedLM(BertConfig(vocab_size=50, **SIZES)), CONTEXT),
        # Positions of RoBERTa and its relatives start after that of the padding token, 1.
        (lambda: RobertaForMaskedLM(RobertaConfig(vocab_size=50, **SIZES)), CONTEXT - 2),
        (lambda: MPNetForMaskedLM(MPNetConfig(vocab_size=50, **SIZES)), CONTEXT - 2),
        (
            lambda: OPTForCausalLM(
                OPTConfig(vocab_size=50, ffn_dim=16, word_embed_proj_dim=16, **{**SIZES, "intermediate_size": 1})
            ),
            CONTEXT,
        ),
        (lambda: gpt2(50), CONTEXT),
    ],
    ids=["bert", "roberta", "mpnet", "opt", "gpt2"],
)
def test_the_length_is_that_which_the_network_accepts(make, length):
    network = make().eval()
    assert context_length(network) == length
    x = torch.full((1, length), 7)
    with torch.no_grad():
        network(input_ids=x)
        with pytest.raises((IndexError, RuntimeError)):
            network(input_ids=torch.cat([x, x[:, :1]], 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: bloom(50),
        lambda: MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)),
        lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=16)),
        lambda: torch.nn.Linear(2, 2),
    ],
    ids=["bloom", "mamba", "xlnet", "no config"],
)
def test_no_limit_is_none(make):
    assert context_length(make()) is None


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (lambda: RobertaForMaskedLM(RobertaConfig(vocab_size=50, **SIZES)), CONTEXT - 2),
        (lambda: gpt2(50), CONTEXT),
        (lambda: MaskedLanguageModel(BertForMaskedLM(BertConfig(vocab_size=50, **SIZES))), CONTEXT),
        (lambda: MaskedLanguageModel(RobertaForMaskedLM(RobertaConfig(vocab_size=50, **SIZES))), CONTEXT - 2),
        (lambda: bloom(50), None),
        (lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=16)), None),
    ],
    ids=["roberta", "gpt2", "denoiser of bert", "denoiser of roberta", "bloom", "xlnet"],
)
def test_training_has_the_same_notion(make, length):
    """The numbers are those that the networks accept, in the test above."""
    collate = Collate(make(), known=False)
    collate([{"input_ids": torch.full((length or 99,), 7)}])
    if length is not None:
        with pytest.raises(ValueError, match=f"at most the model's {length} tokens; got one of {length + 1}"):
            collate([{"input_ids": torch.full((length + 1,), 7)}])


def test_the_tokenizer_knows_where_the_config_does_not(tokenizer):
    network = bloom(50)
    tokenizer = train_tokenizer(["the cat"] * 10, vocab_size=280)
    assert tokenizer.model_max_length > 1e29 and context_length(network, tokenizer) is None
    tokenizer.model_max_length = 77
    assert context_length(network, tokenizer) == 77 and context_length(gpt2(50), tokenizer) == CONTEXT


def test_texts_have_the_whole_context_or_a_usual_length(tokenizer, monkeypatch):
    assert generated_length(None, 512) == 512
    assert generated_length(None, 8192) == generated_length(None, None) == USUAL == 1024
    assert generated_length(8192, 8192) == generated_length(8192, None) == 8192
    for length, limit, words in ((9, 8, r"lie in \[1, 8\]; got 9"), (0, None, "be at least 1; got 0")):
        with pytest.raises(ValueError, match=words):
            generated_length(length, limit)
    monkeypatch.setattr("noiselab.networks.lengths.USUAL", 16)
    pipes = [AutoregressivePipeline(bloom(vocabulary_size(tokenizer)), tokenizer, ModelSettings())]
    pipes += [diffusion(tokenizer, 64)]
    for pipe in pipes:
        options = {} if pipe is pipes[0] else {"num_inference_steps": 2, "show_progress": False}
        (text,) = pipe.generate(1, generator=torch.Generator().manual_seed(0), **options)
        assert len(text.tokens) == 16
    assert pipes[0].length is None and facts_of(pipes[0])["context"] == "no limit"
    assert len(pipes[0].encode(["the cat " * 2000])[0]) > 1024
    with pytest.raises(ValueError, match="text 1 must fit the context of 64 tokens"):
        pipes[1].encode(["the", "the cat " * 200])
    with pytest.raises(ValueError, match="text 0 must fit the context of 64 tokens"):
        pipes[1].infill(["[MASK] the cat " * 200])


def test_a_chat_has_the_same_notion(tokenizer):
    template = "{{ messages[0].content }}"
    size = vocabulary_size(tokenizer)
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=size, **SIZES))
    assert Chat(llama, tokenizer, template=template).limit == CONTEXT
    assert Chat(bloom(size), tokenizer, template=template).limit is None
