"""Batches of unlike prompts with kept keys and values: each text as that of its prompt alone; costs, compiled steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_block_cache import NoAnswer
from test_language_model_cache import HYBRID, LENGTH, MASKED, SIZE, generator, lm
from tiny_models import V

import noiselab as nl
from noiselab.denoisers import BlockDenoiser, Temperature, attending_to
from noiselab.networks.approximate_cache import DualCache, PrefixCache
from noiselab.networks.block_cache import BlockCausal, CachedBlockCausal
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.samplers import AncestralSampler, BlockSampler, ConfidenceSampler, EarlyStopping, EndToken, Prompted

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


@pytest.mark.long_for("BERT-*", "DiT-*", "GPT-2-True", "shifted Llama-False")
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
from test_cached_prompts import NETWORKS
from test_language_model_cache import MASKED, SIZE, generator
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
