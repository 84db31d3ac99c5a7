"""Masked language models of transformers as denoisers: what they see, where their logits are, what is projected."""

import itertools
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

import noiselab as nl
from noiselab.networks.masked_lm import HEADS, MaskedLanguageModel

V, LENGTH, PAD = 24, 7, 1
MASK = V - 1
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": PAD,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 4, "cls_token_id": 2, "sep_token_id": 3}
FAMILIES = {
    "bert": (BertForMaskedLM, BertConfig, SIZES),
    "roberta": (RobertaForMaskedLM, RobertaConfig, SIZES),
    "xlm-roberta": (XLMRobertaForMaskedLM, XLMRobertaConfig, SIZES),
    "distilbert": (
        DistilBertForMaskedLM,
        DistilBertConfig,
        {"vocab_size": V, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32},
    ),
    "modernbert": (
        ModernBertForMaskedLM,
        ModernBertConfig,
        SIZES | MODERN | {"bos_token_id": 2, "eos_token_id": 3},
    ),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config,
        {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32},
    ),
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPED),
    # A window of 3 tokens, which would hide the ends of a sequence from each other.
    "mistral": (MistralForCausalLM, MistralConfig, GROUPED | {"sliding_window": 3}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, GROUPED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, GROUPED | {"head_dim": 4}),
}
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
ROTARY = ("llama", "mistral", "qwen2", "qwen3")


def make(name, attention="sdpa", dtype=torch.float64):
    """A small model with weights large enough for every token to matter to every other."""
    kind, config, sizes = FAMILIES[name]
    model = kind._from_config(config(**sizes), attn_implementation=attention).to(dtype).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            centre = 1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0
            weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=random, dtype=torch.float64))
    return model


@pytest.fixture(scope="module")
def models():
    return {name: make(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def z():
    # No padding token, from which RoBERTa counts places.
    return torch.randint(4, V, (3, LENGTH), generator=torch.Generator().manual_seed(1))


T = torch.full((3,), 0.5, dtype=torch.float64)


def whole(model):
    """The same model as one that is not known, so that it is called as a whole."""
    other = MaskedLanguageModel(model)
    other.head = None
    return other


def close(found, expected, atol=1e-12):
    # Transformers computes norms, and the eager softmax, in float32 whatever the dtype.
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# --- the logits are those of the model ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_the_whole_model(models, z, name):
    model = models[name]
    options = {}
    if name in DECODERS:
        options["attention_mask"] = torch.zeros(3, 1, LENGTH, LENGTH, dtype=torch.float64)
    logits = model(input_ids=z, **options).logits
    denoiser = MaskedLanguageModel(model)
    assert denoiser.head is not None and denoiser.predicts == "posterior"
    assert denoiser.bidirectional == (name in DECODERS)
    close(denoiser(z, T), logits, atol=1e-6)
    close(denoiser.project(denoiser.hidden(z, T)), denoiser(z, T), atol=0)
    close(whole(model)(z, T), denoiser(z, T))
    rows = torch.rand(z.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    close(denoiser(z, T, rows), denoiser(z, T)[rows])
    close(whole(model)(z, T, rows), denoiser(z, T)[rows])
    close(denoiser(z, torch.rand(3, LENGTH)), denoiser(z, T), atol=0)


def test_every_known_head_is_compared():
    assert {kind.__name__ for kind, *_ in FAMILIES.values()} == set(HEADS)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_selected_rows_are_projected(models, z, name):
    rows = torch.rand(z.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    projected = []
    output = models[name].get_output_embeddings()
    handle = output.register_forward_hook(lambda _, inputs, __: projected.append(tuple(inputs[0].shape)))
    try:
        MaskedLanguageModel(models[name])(z, T, rows)
    finally:
        handle.remove()
    assert projected == [(int(rows.sum()), 16)]


@torch.no_grad()
def test_a_model_that_does_more_to_its_logits_is_called_as_a_whole(models, z):
    capped = Gemma2ForCausalLM(Gemma2Config(**GROUPED, head_dim=4, final_logit_softcapping=2.0)).double().eval()
    with torch.no_grad():
        capped.lm_head.weight.mul_(300)
    denoiser = MaskedLanguageModel(capped)
    assert denoiser.head is None and denoiser.bidirectional
    mask = torch.zeros(3, 1, LENGTH, LENGTH, dtype=torch.float64)
    logits = denoiser(z, T)
    close(logits, capped(z, attention_mask=mask).logits)
    assert 1.9 < logits.abs().max() <= 2  # the mistake, its head alone, would not be capped

    class Doubled(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            return SimpleNamespace(logits=2 * super().forward(*args, **kwargs).logits)

    Doubled.__name__ = "LlamaForCausalLM"  # nor does the name make it known
    doubled = Doubled(models["llama"].config).double().eval()
    doubled.load_state_dict(models["llama"].state_dict())
    close(MaskedLanguageModel(doubled)(z, T), 2 * MaskedLanguageModel(models["llama"])(z, T))


@torch.no_grad()
def test_any_module_that_gives_logits():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 5)

        def forward(self, input_ids, attention_mask=None):
            return self.table(input_ids)

    table, z = Table(), torch.arange(4).view(2, 2)
    denoiser = MaskedLanguageModel(table, vocab_size=6)
    logits = denoiser(z, T[:2])
    assert torch.equal(logits[..., :5], table.table(z)) and (logits[..., 5] == -torch.inf).all()


# --- what a token sees -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_token_sees_the_last(z, name, attention):
    model = make(name, attention)
    assert model.config._attn_implementation == attention
    other = z.clone()
    other[:, -1] = 4 + (z[:, -1] - 3) % (V - 4)
    denoiser = MaskedLanguageModel(model)
    for change in (denoiser(z, T) - denoiser(other, T), whole(model)(z, T) - whole(model)(other, T)):
        assert change[:, 0].abs().amax(-1).min() > 1e-3
    # The last token sees the first one, in a window too.
    other = z.clone()
    other[:, 0] = 4 + (z[:, 0] - 3) % (V - 4)
    assert (denoiser(z, T) - denoiser(other, T))[:, -1].abs().amax(-1).min() > 1e-3
    if name in DECODERS:  # the mistake is seen
        left = MaskedLanguageModel(model, bidirectional=False)
        other[:, 0], other[:, -1] = z[:, 0], 4 + (z[:, -1] - 3) % (V - 4)
        assert torch.equal(left(z, T)[:, :-1], left(other, T)[:, :-1])


@torch.no_grad()
@pytest.mark.parametrize("name", DECODERS)
def test_both_implementations_of_attention_agree(z, name):
    real = torch.arange(LENGTH) < torch.tensor([[7], [4], [1]])
    for mask in (None, real):
        fused, eager = (MaskedLanguageModel(make(name, kind), attention_mask=mask) for kind in ("sdpa", "eager"))
        valid = real if mask is not None else torch.ones_like(real)
        close(fused(z, T)[valid], eager(z, T)[valid], atol=1e-4)


def rotate(x, base):
    """Rotary positions of x [batch, heads, length, size], halves together."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] / base ** (torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def norm(x, weight, eps):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def by_hand(weights, z, *, seen, heads=4, base=10_000.0, eps=1e-6):
    """A Llama or Qwen2 evaluated from its weights, where `seen` [length, length] says who sees whom."""

    def linear(x, key):
        return nn.functional.linear(x, weights[f"{key}.weight"], weights.get(f"{key}.bias"))

    x = weights["model.embed_tokens.weight"][z]
    for layer in itertools.count():
        key = f"model.layers.{layer}"
        if f"{key}.input_layernorm.weight" not in weights:
            break
        h = norm(x, weights[f"{key}.input_layernorm.weight"], eps)
        q, k, v = (
            linear(h, f"{key}.self_attn.{part}_proj").unflatten(-1, (-1, 16 // heads)).transpose(1, 2) for part in "qkv"
        )
        q, k = rotate(q, base), rotate(k, base)
        k, v = (part.repeat_interleave(heads // part.shape[1], 1) for part in (k, v))
        scores = q @ k.mT / (16 // heads) ** 0.5
        h = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
        x = x + linear(h.transpose(1, 2).flatten(2), f"{key}.self_attn.o_proj")
        h = norm(x, weights[f"{key}.post_attention_layernorm.weight"], eps)
        gate = nn.functional.silu(linear(h, f"{key}.mlp.gate_proj"))
        x = x + linear(gate * linear(h, f"{key}.mlp.up_proj"), f"{key}.mlp.down_proj")
    return linear(norm(x, weights["model.norm.weight"], eps), "lm_head")


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_opened_attention_is_that_of_a_model_written_by_hand(models, z, name):
    weights, all_seen = models[name].state_dict(), torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    found = MaskedLanguageModel(models[name])(z, T)
    close(found, by_hand(weights, z, seen=all_seen), atol=1e-4)
    causal = by_hand(weights, z, seen=all_seen.tril())
    close(MaskedLanguageModel(models[name], bidirectional=False)(z, T), causal, atol=1e-4)
    assert (found - causal).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_is_not_seen(models, z, name):
    real = torch.arange(LENGTH) < torch.tensor([[7], [4], [1]])
    denoiser = MaskedLanguageModel(models[name], attention_mask=real)
    logits = denoiser(z, T)
    junk = torch.where(real, z, 4 + (z - 3) % (V - 4))
    close(denoiser(junk, T)[real], logits[real])
    alone = MaskedLanguageModel(models[name])
    for row, length in enumerate((7, 4, 1)):
        close(logits[row, :length], alone(z[row : row + 1, :length], T[:1])[0], atol=1e-5)
    # The mistake: a model without the mask of the padding sees it.
    assert (alone(junk, T) - alone(z, T))[1:, 0].abs().max() > 1e-3
    shared = MaskedLanguageModel(models[name], attention_mask=real[1:2].long())
    close(shared(z, T)[1, :4], logits[1, :4], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize("shifted", [False, True])
def test_padding_on_the_left(models, z, name, shifted):
    """Rotary models know distances only. The first real token has the logits of its own place, as without padding."""
    real = torch.arange(LENGTH) >= 3
    denoiser = MaskedLanguageModel(models[name], shifted=shifted, attention_mask=real[None])
    logits = denoiser(z, T)
    close(denoiser(torch.where(real, z, 5), T)[:, 3:], logits[:, 3:])
    close(logits[:, 3:], MaskedLanguageModel(models[name], shifted=shifted)(z[:, 3:], T), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_without_real_tokens_stays_finite(z, attention, dtype):
    real = torch.arange(LENGTH) < torch.tensor([[7], [3], [0]])
    denoiser = MaskedLanguageModel(make("llama", attention, dtype), attention_mask=real)
    logits = denoiser(z, T)
    assert logits.dtype == dtype and logits.isfinite().all()


def test_attention_that_takes_no_mask_is_refused(models):
    model = make("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"attn_implementation is 'sdpa' or 'eager'.*; got 'flash_attention_2'"):
        MaskedLanguageModel(model)
    MaskedLanguageModel(model, bidirectional=False)


# --- where the logits are, and how many ------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2", "bert"])
def test_shifted_logits_are_at_the_place_before(models, z, name):
    plain, shifted = (MaskedLanguageModel(models[name], shifted=value) for value in (False, True))
    logits = plain(z, T)
    expected = torch.cat([logits[:, :1], logits[:, :-1]], 1)  # as in Dream's generation code
    close(shifted(z, T), expected)
    rows = torch.rand(z.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    rows[:, 0] = True
    close(shifted(z, T, rows), expected[rows])
    other = whole(models[name])
    other.shifted = True
    close(other(z, T, rows), expected[rows])
    assert (logits[rows] - expected[rows]).abs().max() > 0.1


@torch.no_grad()
def test_logits_are_cut_or_filled_to_the_vocabulary(models, z):
    model = make("llama")
    logits = MaskedLanguageModel(model)(z, T)
    for denoiser in (MaskedLanguageModel(model, vocab_size=V - 3), whole(model)):
        denoiser.vocab_size = V - 3
        close(denoiser(z, T), logits[..., : V - 3], atol=0)
        assert denoiser(z, T, z > 9).shape == (int((z > 9).sum()), V - 3)
    for size in (0, V + 1):
        with pytest.raises(ValueError, match=rf"in \[1, {V}\], the tokens that the model can embed; got {size} "):
            MaskedLanguageModel(model, vocab_size=size)
    # A mask token that can be embedded and has no logit.
    model.set_input_embeddings(nn.Embedding(V + 1, 16).double())
    more = MaskedLanguageModel(model, vocab_size=V + 1)(z, T)
    assert more.shape[-1] == V + 1 and (more[..., V] == -torch.inf).all()
    assert torch.equal(more[..., :V], MaskedLanguageModel(model)(z, T))
    process = nl.masked(vocab_size=V + 1, mask_id=V)
    sampler = nl.AncestralSampler(process, MaskedLanguageModel(model, vocab_size=V + 1))
    assert (sampler.sample((2, LENGTH), steps=4, generator=torch.Generator().manual_seed(0)) < V).all()


def test_a_causal_model_can_be_given_a_mask_token(z):
    model = make("gpt2")
    model.resize_token_embeddings(V + 1, mean_resizing=False)
    denoiser = MaskedLanguageModel(model, vocab_size=V + 1)
    assert denoiser(torch.full_like(z, V), T).shape == (3, LENGTH, V + 1)


# --- what is predicted -------------------------------------------------------------------------------------------


def test_what_bert_learns_at_visible_tokens():
    """By enumeration: the posterior under even odds of kept and random tokens; less log(1 + V), leave-one-out.

    Fifteen per cent of the tokens are selected; of these 80 % become masks, 10 % random tokens, 10 % are kept, and the
    loss is that of the selected ones.
    """
    states, mask = 3, 3
    oracle = nl.MarkovOracle(
        torch.tensor([0.5, 0.3, 0.2]),
        torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]),
        nl.uniform(vocab_size=states),
    )
    x = torch.tensor(list(itertools.product(range(states), repeat=3)))
    law = oracle.log_prob(x).exp()

    def noise(clean, noisy, selected):
        random = 0.1 * (clean == noisy) + 0.1 / states
        if noisy == mask:
            return selected * 0.8
        return selected * random + (1 - selected) * (clean == noisy)

    process, half = nl.uniform(vocab_size=states), torch.tensor([0.5])
    assert process.alpha(half) == 0.5
    for z in [(0, 2, 1), (mask, 1, 0), (2, mask, 2)]:
        for i in range(3):
            posterior, leave_one_out = torch.zeros(2, states, dtype=torch.float64)
            for clean, p in zip(x.tolist(), law.tolist(), strict=True):
                others = math.prod(noise(clean[j], z[j], 0.15) for j in range(3) if j != i)
                leave_one_out[clean[i]] += p * others
                posterior[clean[i]] += p * others * noise(clean[i], z[i], 1.0)
            logits = posterior.log()
            if z[i] != mask:
                logits[z[i]] -= math.log(1 + states)
                own = torch.tensor([z[i]])
                converted = nl.parametrization.to_leave_one_out(process, posterior.log()[None], own, half)[0].softmax(
                    -1
                )
                torch.testing.assert_close(converted, leave_one_out / leave_one_out.sum())
            torch.testing.assert_close(logits.softmax(-1), leave_one_out / leave_one_out.sum())


@torch.no_grad()
def test_at_masks_both_predictions_are_one(models):
    process, drawn = nl.masked(vocab_size=V, mask_id=MASK), []
    for predicts in ("posterior", "leave_one_out"):
        denoiser = MaskedLanguageModel(models["bert"], predicts=predicts)
        sampler = nl.AncestralSampler(process, denoiser)
        drawn.append(sampler.sample((4, LENGTH), steps=5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("predicts", ["score", "noise"])
def test_other_predictions_are_refused(models, predicts):
    with pytest.raises((ValueError, TypeError)):
        MaskedLanguageModel(models["bert"], predicts=predicts)


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES, "dream"])
def test_sampling_with_rows_or_whole_batched_or_one_by_one(models, name):
    shifted = name == "dream"
    model = models["qwen2" if shifted else name]
    process = nl.masked(vocab_size=V, mask_id=MASK)
    denoiser, other = MaskedLanguageModel(model, shifted=shifted), whole(model)
    other.shifted = shifted
    sampler = nl.AncestralSampler(process, denoiser)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(4)]

    x = sampler.sample((4, LENGTH), steps=5, generator=generators())
    assert (x < MASK).all() and len(x.unique()) > 5
    assert torch.equal(x, nl.AncestralSampler(process, other).sample((4, LENGTH), steps=5, generator=generators()))
    alone = [sampler.sample((1, LENGTH), steps=5, generator=[g]) for g in generators()]
    assert torch.equal(x, torch.cat(alone))


def test_the_sampled_law_is_that_of_the_logits(models):
    """One token, masked: the law is the softmax of its logits without the mask, for logits of the place before too."""
    n, process = 20_000, nl.masked(vocab_size=V, mask_id=MASK)
    z = torch.tensor([[5, MASK]])
    laws = []
    for shifted in (False, True):
        denoiser = MaskedLanguageModel(models["qwen2"], shifted=shifted)
        with torch.no_grad():
            logits = models["qwen2"](z, attention_mask=torch.zeros(1, 1, 2, 2, dtype=torch.float64)).logits[0]
        laws.append(logits[0 if shifted else 1, :MASK].softmax(-1))
        sampler = nl.AncestralSampler(process, denoiser)
        walk = sampler.walk(z.expand(n, -1), torch.tensor([1.0, 0.4, 0.0]), generator=torch.Generator().manual_seed(0))
        x = list(walk)[-1]
        assert (x[:, 0] == 5).all()
        count, want = torch.bincount(x[:, 1], minlength=V)[:MASK].double(), n * laws[-1]
        assert ((count - want) ** 2 / want).sum() < 45  # chi-square of 22 degrees of freedom: 1 in 400
    assert (laws[0] - laws[1]).abs().sum() > 0.2


# --- the rest ----------------------------------------------------------------------------------------------------


def test_gradients_reach_the_model():
    model = make("llama", dtype=torch.float32)
    MaskedLanguageModel(model)(torch.zeros(2, 4, dtype=torch.long), torch.rand(2)).logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_by_pickle_is_the_same(models, z, name):
    denoiser = MaskedLanguageModel(models[name], shifted=True)
    assert torch.equal(pickle.loads(pickle.dumps(denoiser))(z, T), denoiser(z, T))


def test_the_mask_belongs_to_the_sequences(models):
    denoiser = MaskedLanguageModel(
        models["llama"], shifted=True, attention_mask=torch.ones(2, LENGTH, dtype=torch.bool)
    )
    assert "attention_mask" not in denoiser.state_dict()
    with pytest.raises(ValueError, match=r"tokens \[3, 7\] or \[1, 7\]; got \[2, 7\]"):
        denoiser(torch.zeros(3, LENGTH, dtype=torch.long), T)


def test_it_prints_in_a_line(models):
    denoiser = MaskedLanguageModel(models["qwen2"], shifted=True)
    assert repr(denoiser) == "MaskedLanguageModel(Qwen2ForCausalLM, 4,752 parameters, shifted, bidirectional)"
    assert repr(MaskedLanguageModel(models["bert"])).startswith("MaskedLanguageModel(BertForMaskedLM, ")
