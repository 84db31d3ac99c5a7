"""Kept keys and values of models of transformers in blocks, against whole passes; and batches of unlike prompts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_block_cache import NoAnswer, network
from tiny_models import CONFIGS, V, make
from transformers import LlamaForCausalLM

import noiselab as nl
from noiselab.denoisers import BlockDenoiser, Temperature, attending_to
from noiselab.networks import kept_keys
from noiselab.networks.approximate_cache import DualCache, PrefixCache
from noiselab.networks.block_cache import BlockCausal, CachedBlockCausal, in_blocks
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.networks.masked_lm import MaskedLanguageModel
from noiselab.networks.windows import Window
from noiselab.samplers import AncestralSampler, BlockSampler, ConfidenceSampler, EarlyStopping, EndToken, Prompted

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


# --- batches of unlike prompts -----------------------------------------------------------------------------------

PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12, 13], [4], [14, 15, 16, 17]]
NEW = 10


def padded(prompts, length):
    tokens, known = torch.full((len(prompts), length), 4), torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], known[row, : len(prompt)] = torch.tensor(prompt), True
    return tokens, known


def written(inner, process, prompts, kind=CachedBlockCausal, *, ends=None, given=False, numbers=None, idle=False):
    """The texts after prompts, of a generator each, and the denoiser."""
    count = torch.tensor([len(prompt) for prompt in prompts])
    more = {"given": count} if given else {}
    denoiser = kind(inner, SIZE, **more)
    tokens, known = padded(prompts, 7 + NEW)
    steps = AncestralSampler(process, Temperature(denoiser, 0.8))
    blocks = BlockSampler(EarlyStopping(steps, 1) if idle else steps, SIZE)
    sampler = nl.Infilling(blocks, tokens, known)
    if ends is not None:
        sampler = EndToken(sampler, ends, fill=4, prompt=count)
    numbers = range(len(prompts)) if numbers is None else numbers
    found = sampler.sample(tuple(tokens.shape), steps=5, generator=[generator(i) for i in numbers])
    assert torch.equal(found[known], tokens[known])
    return found, denoiser


def dit():
    model = DiT(
        DiTConfig(vocab_size=V, max_seq_len=32, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
    ).eval()
    numbers = generator(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=numbers))
    return model.double()


NETWORKS = {
    "GPT-2": lambda: lm("GPT2LMHeadModel"),
    "shifted Llama": lambda: lm("LlamaForCausalLM", shifted=True),
    "BERT": lambda: lm("BertForMaskedLM"),
    "DiT": lambda: TransformersDenoiser(dit()),
}


@pytest.mark.long_for("BERT-*", "DiT-True", "shifted Llama-False")
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_text_of_unlike_prompts_is_that_of_its_prompt_alone(name, given):
    """Blocks from position 0 and from the end of each prompt; with ends, and with sequences that rest and come back."""
    inner = NETWORKS[name]()
    for process, more in ((HYBRID, {}), (MASKED, {"ends": [5, 9, 12]}), (HYBRID, {"idle": True})):
        together, cached = written(inner, process, PROMPTS, given=given, **more)
        plain, whole = written(inner, process, PROMPTS, BlockCausal, given=given, **more)
        assert torch.equal(together, plain) and cached.evaluated < whole.evaluated
        for i, prompt in enumerate(PROMPTS):
            alone, _ = written(inner, process, [prompt], given=given, numbers=[i], **more)
            assert torch.equal(alone[0], together[i])
    tokens, time = padded(PROMPTS, 7 + NEW)[0], torch.full((len(PROMPTS),), 0.5)
    with torch.no_grad():
        both = [CachedBlockCausal(inner, SIZE, given=count)(tokens, time) for count in (0, torch.tensor([2, 7, 1, 4]))]
    assert (both[0] - both[1]).abs().max() > 1e-4


@torch.no_grad()
def test_blocks_from_the_end_of_a_prompt_are_those_of_a_mask_by_hand():
    inner, count = lm("GPT2LMHeadModel"), torch.tensor([3, 6])
    z, t = torch.randint(V, (2, LENGTH), generator=generator()), torch.ones(2, dtype=torch.float64)
    block = [[0] * n + [1 + i // SIZE for i in range(LENGTH - n)] for n in count.tolist()]
    block = torch.tensor(block)
    with attending_to(inner, may_attend=block[:, None] <= block[:, :, None]):
        wanted = inner(z, t)
    for kind in (BlockCausal, CachedBlockCausal):
        torch.testing.assert_close(kind(inner, SIZE, given=count)(z, t), wanted, rtol=0, atol=1e-10)
        one = kind(inner, SIZE, given=3)
        torch.testing.assert_close(one(z[:1], t[:1]), wanted[:1], rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="given must be that of each of 3 sequences; got 2"):
        kind(inner, SIZE, given=count)(z[[0, 0, 1]], t[[0, 0, 1]])
    with pytest.raises(ValueError, match="have no pass with a clean text"), attending_to(one, clean=z):
        one(z, t)
    steps = AncestralSampler(MASKED, one)
    with pytest.raises(ValueError, match="given must be left out"):
        BlockSampler(steps, SIZE, given=4)
    with pytest.raises(ValueError, match="must count blocks of these 3 sequences; got 2"):
        BlockSampler(AncestralSampler(MASKED, kind(inner, SIZE, given=count)), SIZE).sample((3, LENGTH), steps=2)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", ["GPT-2", "shifted Llama", "DiT"])
def test_padding_on_the_left_is_never_attended(name, given):
    """Texts are those without padding: padded by whole blocks, or with prompts that end at one place.

    The most probable tokens, because a sampler draws random numbers for padding, too.
    """
    inner, width = NETWORKS[name](), 8
    prompts = PROMPTS if given else [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]]
    count = torch.tensor([len(prompt) for prompt in prompts])
    before = (width - count)[:, None]
    place = torch.arange(width + NEW)
    real, positions = place >= before, (place - before).clamp(min=0)
    found = []
    for junk in (4, 18):
        rows = torch.tensor([[junk] * (width - len(prompt)) + prompt for prompt in prompts])
        denoiser = CachedBlockCausal(inner, SIZE, given=width if given else 0)
        sampler = Prompted(BlockSampler(ConfidenceSampler(MASKED, denoiser, draw=False), SIZE, context="past"), rows)
        with attending_to(sampler.denoiser, real, positions=positions):
            found.append(sampler.sample((len(rows), width + NEW), steps=4)[:, width:])
    assert torch.equal(*found)
    for i, prompt in enumerate(prompts):
        denoiser = CachedBlockCausal(inner, SIZE, given=len(prompt) if given else 0)
        sampler = Prompted(BlockSampler(ConfidenceSampler(MASKED, denoiser, draw=False), SIZE), torch.tensor([prompt]))
        alone = sampler.sample((1, len(prompt) + NEW), steps=4)[:, len(prompt) :]
        assert torch.equal(alone[0], found[0][i])


# --- how much is evaluated ---------------------------------------------------------------------------------------


class Everything(nl.WrappedSampler):
    """Asks about the whole block at each step, as a sampler by confidence does."""

    def stages(self, z, t, s, *, generator=None):
        self.denoiser(z, t, s < t)
        return self.inner.stages(z, t, s, generator=generator)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_step_costs_one_block_and_the_step_into_a_block_two(shifted):
    """B blocks of S steps: B (S + 1) - 1 blocks of tokens are evaluated, not those of all blocks before each."""
    inner, blocks, steps = lm("LlamaForCausalLM", shifted=shifted), 6, 5
    for kind, work in (
        (CachedBlockCausal, blocks * (steps + 1) - 1),
        (BlockCausal, steps * blocks * (blocks + 1) // 2),
    ):
        denoiser = kind(inner, SIZE)
        sampler = Everything(AncestralSampler(MASKED, denoiser))
        sampler.inner.denoiser = NoAnswer(MASKED)
        x = BlockSampler(sampler, SIZE).sample((3, blocks * SIZE), steps=steps, generator=generator())
        assert denoiser.evaluated == 3 * SIZE * work and (x < V - 1).all()


def test_steps_on_an_accelerator_ask_for_rows_if_there_is_a_cache():
    """There steps have static shapes by default, in which every position is evaluated, and a cache would be of no use."""
    inner, z = lm("LlamaForCausalLM"), torch.zeros(2, 4, dtype=torch.long, device="meta")
    cached, plain = (
        AncestralSampler(MASKED, Temperature(kind(inner, SIZE), 0.8)) for kind in (CachedBlockCausal, BlockDenoiser)
    )
    assert plain.is_static(z) and not cached.is_static(z) and not plain.is_static(z.new_zeros(2, 4, device="cpu"))
    assert cached.with_shapes("static").is_static(z)
    both = [cached.with_shapes("static"), plain.with_shapes("static")]
    texts = [BlockSampler(one, SIZE).sample((2, LENGTH), steps=3, generator=generator()) for one in (cached, *both)]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])


COMPILED = """
import torch
from test_language_model_cache import MASKED, NETWORKS, SIZE, generator
from noiselab.networks.block_cache import CachedBlockCausal
from noiselab.samplers import AncestralSampler, BlockSampler

for name in ("DiT", "GPT-2"):
    steps = AncestralSampler(MASKED, CachedBlockCausal(NETWORKS[name](), SIZE))
    samplers = [BlockSampler(one, SIZE) for one in (steps, steps.compiled(backend="eager"))]
    texts = [one.sample((2, 2 * SIZE), steps=2, generator=generator()) for one in samplers]
    assert torch.equal(*texts)
"""


@pytest.mark.long
def test_steps_of_a_cache_are_compiled_as_whole_passes():
    """A graph has no shapes that depend on data; its texts are those of the cache. The checks of shapes cannot be traced."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parents[1])]
    run = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", COMPILED], check=False, **run)
    assert done.returncode == 0, done.stderr[-2000:]


@torch.no_grad()
@pytest.mark.parametrize("kind", [PrefixCache, DualCache])
def test_approximate_caches_of_a_language_model(kind):
    """The first answer of a block is that of the model, and with refresh=1 every one."""
    inner = lm("Qwen3ForCausalLM")
    cached, always = kind(inner), kind(inner, refresh=1)
    assert not cached.exact
    z, t = torch.randint(V, (2, LENGTH), generator=generator()), torch.ones(2, LENGTH, dtype=torch.float64)
    t[:, :4], t[:, 4:8] = 0, 0.9
    rows = (torch.arange(LENGTH) // SIZE == 1).expand(2, -1)
    torch.testing.assert_close(cached(z, t, rows), inner(z, t, rows), rtol=0, atol=1e-10)
    later, z = torch.where(rows, 0.5, t), torch.where(rows, (z + 1) % V, z)
    torch.testing.assert_close(always(z, later, rows), inner(z, later, rows), rtol=0, atol=1e-10)
    difference = (cached(z, later, rows) - inner(z, later, rows)).abs().max()
    assert 1e-6 < difference < 10
    assert cached.evaluated == 2 * (LENGTH + (LENGTH - 4 if kind is PrefixCache else 4))
