"""Kept keys and values of models of transformers in blocks, against whole passes."""

import pytest
import torch
from test_block_cache import network
from tiny_models import CONFIGS, V, make
from transformers import LlamaForCausalLM

import noiselab as nl
from noiselab.denoisers import BlockDenoiser, attending_to
from noiselab.networks import kept_keys
from noiselab.networks.approximate_cache import PrefixCache
from noiselab.networks.block_cache import BlockCausal, CachedBlockCausal, in_blocks
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.networks.windows import Window

SIZE, LENGTH = 4, 14  # the last block is shorter
REFUSED = {
    "DistilBertForMaskedLM": r"must attend to the keys and values that it is given \(past_key_values\); in DistilBert",
    "AlbertForMaskedLM": r"must attend to the keys and values that it is given \(past_key_values\); in Albert",
    "ModernBertForMaskedLM": "in ModernBertForMaskedLM a mask replaces attention of its own",
    "MPNetForMaskedLM": "must use the given positions; in MPNetForMaskedLM",
}
KEPT = [name for name in CONFIGS if name not in REFUSED]
# The attention of GPT-J is computed in float32.
ATOL = {"GPTJForCausalLM": 2e-6}
MASKED = nl.masked(vocab_size=V, mask_id=V - 1)
HYBRID = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def lm(name, **settings):
    return MaskedLanguageModel(make(name, **settings.pop("model", {})), **settings)


@torch.no_grad()
def walk_apart(cached, wanted, steps=3, seed=0):
    """The largest difference of logits of two denoisers along a walk of blocks, in which a sequence ends early."""
    numbers, worst = generator(seed), 0.0
    z, t = torch.randint(V, (3, LENGTH), generator=numbers), torch.ones(3, LENGTH, dtype=torch.float64)
    for begin in range(0, LENGTH, SIZE):
        for step in range(steps):
            z, t = z.clone(), t.clone()
            z[:, begin : begin + SIZE] = torch.randint(V, z[:, begin : begin + SIZE].shape, generator=numbers)
            t[:, begin : begin + SIZE] = 1 - step / steps
            rows = torch.zeros_like(z, dtype=torch.bool)
            rows[:, begin : begin + SIZE] = True
            rows[1] &= begin < 2 * SIZE
            worst = max(worst, (cached(z, t, rows) - wanted(z, t, rows)).abs().max().item())
        t[:, : begin + SIZE] = 0
    return worst


# --- every architecture ------------------------------------------------------------------------------------------


QUICK = [
    "GPT2LMHeadModel",
    "GPTJForCausalLM",
    "OPTForCausalLM",
    "LlamaForCausalLM",
    "Gemma3ForCausalLM",
    "BertForMaskedLM",
]


@pytest.mark.parametrize("shifted", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.long) for n in KEPT])
def test_logits_are_those_of_whole_passes(name, shifted):
    inner = lm(name, shifted=shifted)
    cached, plain = CachedBlockCausal(inner, SIZE), BlockCausal(inner, SIZE)
    for wanted in (BlockDenoiser(inner, SIZE), plain):
        cached.reset()
        assert walk_apart(cached, wanted) < ATOL.get(name, 1e-10)
    # Two sequences of four blocks, of which three are entered once more, and one of two: 3 steps each.
    block = SIZE * (3 * 2 + 1) + SIZE * 3 + 2 * 3 + 2 * SIZE
    assert cached.evaluated == 2 * block + SIZE * (3 * 2 + 1)
    assert plain.evaluated == 3 * (2 * (4 + 8 + 12 + 14) + 4 + 8)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_in_single_precision_and_by_eager_attention(name):
    single = lm(name, model={"dtype": torch.float32})
    with torch.no_grad():
        size = single(torch.arange(LENGTH)[None], torch.ones(1)).abs().max().item()
    assert walk_apart(CachedBlockCausal(single, SIZE), BlockDenoiser(single, SIZE)) < 1e-6 * max(1.0, size)
    eager = lm(name, model={"attention": "eager"})
    assert walk_apart(CachedBlockCausal(eager, SIZE), BlockDenoiser(eager, SIZE)) < 1e-10


@pytest.mark.parametrize("name", REFUSED)
def test_networks_without_keys_of_earlier_tokens_are_refused_in_words(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        CachedBlockCausal(lm(name), SIZE)


class DropsKeys(LlamaForCausalLM):
    """A Llama that drops the keys that it is given."""

    def forward(self, input_ids=None, past_key_values=None, **options):
        return super().forward(input_ids, **options)


class Reads(LlamaForCausalLM):
    """A Llama whose first embedding is moved by the last token: it is not causal in blocks."""

    def forward(self, input_ids=None, **options):
        found = super().forward(input_ids, **options)
        found.logits = found.logits + input_ids[:, -1:, None]
        return found


def test_networks_that_do_not_attend_as_told_are_refused_in_words():
    llama = make("LlamaForCausalLM")
    drops, reads = (kind(llama.config).double() for kind in (DropsKeys, Reads))
    causal = MaskedLanguageModel(llama, bidirectional=False)
    own = MaskedLanguageModel(llama, attention_mask=torch.ones(1, LENGTH, dtype=torch.bool))

    class Table(torch.nn.Module):
        def forward(self, z, t):
            return torch.zeros(*z.shape, V)

    for make_one, words in (
        (lambda: MaskedLanguageModel(drops), "in DropsKeys the logits of a block after those of its past are not"),
        (lambda: MaskedLanguageModel(reads), "token at place 0 must not attend to"),
        (lambda: causal, "needs a model whose attention is open"),
        (lambda: own, "must be given to the cache or by attending_to"),
        (lambda: TransformersDenoiser(Table()), "got TransformersDenoiser of Table"),
        (lambda: MaskedLanguageModel(torch.compile(llama)), "without wrappers of torch; got OptimizedModule"),
    ):
        with pytest.raises(ValueError, match=words):
            CachedBlockCausal(make_one(), SIZE)
    with pytest.raises(ValueError, match="logits that are not shifted"):
        PrefixCache(MaskedLanguageModel(llama, shifted=True))
    for settings in ({"given": -1}, {"given": torch.tensor([1, -1])}):
        with pytest.raises(ValueError, match="given must be"):
            CachedBlockCausal(lm("LlamaForCausalLM"), SIZE, **settings)


def test_a_leak_within_the_check_is_seen(monkeypatch):
    """The check on the network itself: a token of a later block moves one of an earlier block."""
    right = kept_keys.states_at

    def leaks(model, z, t, pairs, positions, memory=None):
        return right(model, z, t, None if pairs is None else torch.ones_like(pairs), positions, memory)

    monkeypatch.setattr(kept_keys, "states_at", leaks)
    with pytest.raises(
        ValueError, match="must be causal in blocks; in LlamaForCausalLM a token depends on one of a later"
    ):
        CachedBlockCausal(lm("LlamaForCausalLM"), SIZE)


def test_keys_are_kept_where_they_can_be():
    assert type(in_blocks(lm("LlamaForCausalLM"), SIZE)) is CachedBlockCausal
    assert type(in_blocks(TransformersDenoiser(network()), SIZE)) is CachedBlockCausal
    assert type(in_blocks(lm("AlbertForMaskedLM"), SIZE)) is BlockDenoiser
    with pytest.raises(ValueError, match="in MPNetForMaskedLM"):
        in_blocks(lm("MPNetForMaskedLM"), SIZE)


# --- what changes ------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_any_rows_in_any_order_are_those_without_a_cache(name):
    """Other tokens and times, padding, positions, batches and lengths; sequences end and come back."""
    inner = lm(name, shifted=name.startswith("Llama"))
    cached, plain = CachedBlockCausal(inner, SIZE), BlockDenoiser(inner, SIZE)
    numbers = generator(3)

    def below(n):
        return int(torch.randint(n, (), generator=numbers))

    batch, real, positions = 3, None, None
    z, t = torch.randint(V, (3, LENGTH), generator=numbers), torch.rand(3, LENGTH, generator=numbers).double()
    for _ in range(120):
        what = below(12)
        if what == 0:
            batch = 2 + below(2)
            z, t = torch.randint(V, (batch, LENGTH), generator=numbers), torch.rand(batch, LENGTH).double()
            real = positions = None
        if what == 1:
            real = torch.arange(LENGTH) >= torch.randint(6, (batch, 1), generator=numbers)
        if what == 2:
            positions = torch.arange(LENGTH)[None] + torch.randint(5, (batch, 1), generator=numbers)
        z, t = z.clone(), t.clone()
        z[below(batch), below(LENGTH)] = below(V)
        t[:, SIZE * below(4) :] *= 0.9
        rows = torch.rand(z.shape, generator=numbers) < 0.3
        rows[:, : below(LENGTH)] = False
        rows[below(batch)] = False
        rows = None if what == 3 else rows
        where = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        seen = where if real is None else where & real
        if not seen.any():
            continue
        with attending_to(cached, real, positions=positions), attending_to(plain, real, positions=positions):
            found, wanted = cached(z, t, seen), plain(z, t, seen)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("how", ["in place", "data", "copied", "single"])
def test_changed_weights_are_seen(how):
    """In place at once; through `.data`, as averages of weights are put in, when a walk begins anew."""
    inner = lm("LlamaForCausalLM")
    cached, plain = CachedBlockCausal(inner, SIZE), BlockDenoiser(inner, SIZE)
    z, t = torch.randint(V, (2, 16), generator=generator()), torch.ones(2, 16, dtype=torch.float64)
    rows = torch.arange(16).expand(2, -1) >= 12
    for done in (4, 8, 12):
        t[:, :done] = 0
        cached(z, t, rows)
    before = cached(z, t, rows)
    weight = inner.model.model.layers[0].self_attn.k_proj.weight
    if how == "in place":
        weight.mul_(1.3)
    elif how == "data":
        weight.data.mul_(1.3)
        t[:, 8:], rows = 1, torch.arange(16).expand(2, -1) >= 8
    elif how == "copied":
        inner.model.load_state_dict(make("LlamaForCausalLM", seed=9).state_dict())
    else:
        inner.model.float()
    after = cached(z, t, rows)
    atol = 1e-4 if how == "single" else 1e-10
    torch.testing.assert_close(after, plain(z, t, rows), rtol=0, atol=atol)
    assert after.shape != before.shape or not torch.equal(after, before)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft calls it
@torch.no_grad()
def test_adapters_that_are_disabled_scaled_or_merged_are_seen():
    """Their state is no weight, and they are merged through `.data`: the same rows are requested, with no earlier block."""
    peft = pytest.importorskip("peft", reason="optional: pip install noiselab[finetune]; continuous integration has it")
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"])
    model = peft.get_peft_model(make("LlamaForCausalLM"), settings).eval()
    for name, weight in model.named_parameters():
        if "lora" in name:
            weight.normal_()
    inner = MaskedLanguageModel(model)
    cached, plain = CachedBlockCausal(inner, SIZE), BlockCausal(inner, SIZE)
    z, t = torch.randint(V, (2, 3 * SIZE), generator=generator()), torch.zeros(2, 3 * SIZE)
    rows = (torch.arange(3 * SIZE) >= 2 * SIZE).expand(2, -1)
    found = []

    def check():
        found.append(plain(z, t, rows))
        torch.testing.assert_close(cached(z, t, rows), found[-1])

    check()
    with model.disable_adapter():
        check()
    check()
    for layer in model.modules():
        if hasattr(type(layer), "merged_adapters"):
            layer.scaling["default"] = 5.0
    check()
    model.merge_adapter()
    check()
    different = [not torch.allclose(found[0], other, atol=1e-3) for other in found[1:]]
    assert different == [True, False, True, True]


def test_nothing_is_kept_where_gradients_are_recorded_or_anything_is_dropped():
    inner = lm("GPT2LMHeadModel")
    cached, plain = CachedBlockCausal(inner, SIZE), BlockDenoiser(inner, SIZE)
    z, t = torch.randint(V, (2, LENGTH), generator=generator()), torch.ones(2, dtype=torch.float64)
    gradients = []
    for denoiser in (cached, plain):
        inner.zero_grad()
        denoiser(z, t, torch.arange(LENGTH).expand(2, -1) >= 8).logsumexp(-1).sum().backward()
        gradients.append([p.grad.clone() for p in inner.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert cached._known is None
    inner.train()  # GPT-2 has dropout
    with torch.no_grad():
        assert not torch.equal(cached(z, t), cached(z, t)) and cached._known is None
        inner.eval()
        cached(z, t)
        assert cached._known is not None
        llama = lm("LlamaForCausalLM")
        training = CachedBlockCausal(llama, SIZE)
        llama.train()  # which has none
        training(z, t)
        assert training._known is not None


# --- planted mistakes --------------------------------------------------------------------------------------------


def plant(name, monkeypatch):
    """A mistake in the cache: what is evaluated, attended to, or kept."""
    pairs = Window.pairs
    if name == "a block more":
        monkeypatch.setattr(Window, "pairs", lambda self, text: pairs(self, text._replace(block=text.block // 2)))
    if name == "a block less":
        monkeypatch.setattr(
            Window, "pairs", lambda self, text: pairs(self._replace(start=(self.start - SIZE).clamp(min=0)), text)
        )
    if name == "positions":
        monkeypatch.setattr(Window, "positions", lambda self, text: torch.arange(self.places.shape[1])[None])
    if name == "stale":
        monkeypatch.setattr(
            CachedBlockCausal,
            "_unchanged",
            lambda self, text, known: torch.full_like(text.begin, known.marks[0].shape[1]),
        )
    if name == "padding":
        monkeypatch.setattr(Window, "pairs", lambda self, text: pairs(self, text._replace(real=None)))
    if name == "shift":
        monkeypatch.setattr(CachedBlockCausal, "_shift", lambda self, text, at, hidden, before: hidden)


@pytest.mark.parametrize("mistake", ["a block more", "a block less", "positions", "padding", "shift", "stale"])
def test_planted_mistakes_are_seen(mistake, monkeypatch):
    inner = lm("GPT2LMHeadModel", shifted=True)
    real = torch.arange(LENGTH) >= torch.tensor([[4], [0], [0]])
    cached, wanted = CachedBlockCausal(inner, SIZE), BlockDenoiser(inner, SIZE)
    with attending_to(cached, real), attending_to(wanted, real):
        assert walk_apart(cached, wanted) < 1e-10
    plant(mistake, monkeypatch)
    with attending_to(cached, real), attending_to(wanted, real):
        assert walk_apart(cached, wanted, seed=1) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["DistilBertForMaskedLM", "AlbertForMaskedLM", "LlamaForCausalLM", "GPT2LMHeadModel"])
def test_in_low_precision_a_network_that_ignores_its_past_is_refused_too(name, dtype):
    """The logits of a block without its past may be those of a whole pass but for what is rounding in bfloat16."""
    model = MaskedLanguageModel(make(name).to(dtype))
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            CachedBlockCausal(model, SIZE)
    else:
        CachedBlockCausal(model, SIZE)
