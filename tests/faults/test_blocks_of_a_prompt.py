"""Blocks are counted from the end of the prompt, as in LLaDA, also where prompts have unlike lengths."""

import pytest
import torch

import noiselab as nl
from noiselab.data import train_tokenizer, vocabulary_size
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import DiffusionPipeline, ModelSettings
from noiselab.samplers import BlockSampler, ConfidenceSampler, EarlyStopping, Prompted

STATES, LENGTH, BLOCK = 7, 17, 4
PROCESS = nl.masked(vocab_size=STATES + 1, mask_id=STATES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Table(nl.Denoiser):
    """A denoiser whose predictions, and their certainty, depend on all tokens, so that the order matters."""

    predicts = "leave_one_out"

    def __init__(self):
        super().__init__()
        self.table = torch.randn(2 * LENGTH, STATES + 1, STATES, generator=generator(3), dtype=torch.float64)

    def forward(self, z, t):
        apart = torch.arange(z.shape[1])[:, None] - torch.arange(z.shape[1]) + LENGTH
        logits = self.table[apart, z[:, None]].sum(2)
        return torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], -1)


@pytest.fixture(scope="module")
def table():
    return Table()


def llada(table, prompt, length, block, steps):
    """LLaDA's greedy decoding with low-confidence remasking: in each block after the prompt, and in each step, the most
    probable token of every mask of the block, of which the block / steps most confident ones are kept.
    """
    x = torch.cat([prompt, torch.full((length - len(prompt),), STATES)])
    for begin in range(len(prompt), length, block):
        inside = torch.arange(begin, min(begin + block, length))
        for _ in range(steps):
            law = table(x[None], torch.tensor([0.5]))[0].softmax(-1)
            sure, token = law[inside].max(-1)
            sure = torch.where(x[inside] == STATES, sure, -1)
            for k in sure.topk(min(block // steps, int((sure >= 0).sum()))).indices:
                x[inside[k]] = token[k]
    return x


def sampler(table):
    return ConfidenceSampler(PROCESS, table, draw=False)


@pytest.mark.parametrize("steps", [4, 2])
@pytest.mark.parametrize("prompt", [0, 1, 5, 8])
def test_tokens_are_those_of_a_loop_by_hand(prompt, steps, table):
    length = prompt + 2 * BLOCK + 1
    starts = torch.randint(STATES, (8, prompt), generator=generator(prompt))
    want = torch.stack([llada(table, start, length, BLOCK, steps) for start in starts])
    inner = sampler(table)
    around, known = torch.zeros(8, length, dtype=torch.long), torch.zeros(8, length, dtype=torch.bool)
    around[:, :prompt], known[:, :prompt] = starts, True
    for blocks in (
        BlockSampler(Prompted(inner, starts), BLOCK),
        Prompted(BlockSampler(inner, BLOCK), starts),
        nl.Infilling(EarlyStopping(BlockSampler(inner, BLOCK), 99), around, known),
        BlockSampler(Prompted(inner, starts), BLOCK, given=prompt),
    ):
        assert torch.equal(blocks.sample((8, length), steps=steps), want), blocks
    if prompt % BLOCK:  # counted from the start of the sequence, as networks with block-causal attention need it
        other = BlockSampler(Prompted(inner, starts), BLOCK, given=0).sample((8, length), steps=steps)
        assert (other != want).any()


def test_prompts_of_unlike_lengths(table):
    """Each sequence has the blocks of its own prompt: the same tokens as alone, with noise left at the end, too."""
    starts = [torch.randint(STATES, (n,), generator=generator(n)) for n in (0, 3, 5, 6, 16, 17)]
    tokens, known = torch.zeros(6, LENGTH, dtype=torch.long), torch.zeros(6, LENGTH, dtype=torch.bool)
    for row, start in enumerate(starts):
        tokens[row, : len(start)], known[row, : len(start)] = start, True
    blocks = BlockSampler(sampler(table), BLOCK)
    together = nl.Infilling(blocks, tokens, known).sample((6, LENGTH), steps=BLOCK)
    want = torch.stack([llada(table, start, LENGTH, BLOCK, BLOCK) for start in starts])
    assert torch.equal(together, want)
    times, inner = torch.linspace(1, 0.3, 4), BlockSampler(nl.AncestralSampler(PROCESS, table), BLOCK)
    for clean in (True, False):
        mixed = nl.Infilling(inner, tokens, known).sample((6, LENGTH), times=times, clean=clean, generator=generator())
        assert (mixed[known] == tokens[known]).all() and bool((mixed == STATES).any()) != clean
        # Only the last block of a sequence keeps noise.
        begin = torch.tensor([16, 15, 13, 14, 16, 17])
        assert (mixed[torch.arange(LENGTH) < begin[:, None]] < STATES).all()
    past = nl.Infilling(BlockSampler(sampler(table), BLOCK, context="past"), tokens, known)
    with pytest.raises(ValueError, match=r"needs prompts of one length; got \[0, 3, 5, 6, 16, 17\]"):
        past.sample((6, LENGTH), steps=BLOCK)
    same = nl.Infilling(BlockSampler(sampler(table), BLOCK, context="past"), tokens[2:3], known[2:3])
    assert (same.sample((1, LENGTH), steps=BLOCK) < STATES).all()


def test_wrapping_leaves_the_sampler_as_it_was(table):
    blocks = BlockSampler(sampler(table), BLOCK)
    before = blocks.sample((2, LENGTH), steps=BLOCK)
    Prompted(EarlyStopping(blocks, 2), torch.zeros(2, 5, dtype=torch.long))
    assert torch.equal(blocks.sample((2, LENGTH), steps=BLOCK), before)


def test_texts_of_a_pipeline_are_the_same_alone_and_together():
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=290)
    size = vocabulary_size(tokenizer)
    torch.manual_seed(0)
    model = DiT(DiTConfig(vocab_size=size, max_seq_len=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape))
    noise = {"family": "masked", "vocab_size": size, "mask_id": tokenizer.mask_token_id}
    pipe = DiffusionPipeline(model.eval(), tokenizer, ModelSettings(noise))

    def written(*prompts):
        def blocks(process, denoiser):
            return BlockSampler(ConfidenceSampler(process, denoiser, draw=False), BLOCK)

        return [text.tokens for text in pipe.generate(1, 4, prompts=prompts, sampler=blocks, show_progress=False)]

    prompts = ["the", "the cat sat", "the cat"]
    assert written(*prompts) == [tokens for prompt in prompts for tokens in written(prompt)]
