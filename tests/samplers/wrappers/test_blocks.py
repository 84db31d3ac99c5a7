"""Sequences made block by block, in a world where the truth is known."""

import itertools

import pytest
import torch
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.process import as_token_times
from noiselab.processes import Coarse
from noiselab.samplers.wrappers.blocks import BlockSampler
from noiselab.samplers.wrappers.infilling import Infilling, Prompted

LENGTH = 4
LEAKY = {
    "geometric masking": lambda: nl.masked(vocab_size=V, mask_id=V - 1, signal=nl.schedules.geometric(1e-3, 20)),
    "log-SNR hybrid": lambda: nl.processes.log_snr_hybrid(vocab_size=V, mask_id=V - 1, shift=1),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generators(*seeds):
    return [generator(seed) for seed in seeds]


def world(name):
    process = (PROCESSES | LEAKY)[name]()
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    return nl.AncestralSampler(process, oracle), oracle


def fine(steps):
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


def excess(oracle, x, tokens=None, known=None):
    """By how many standard deviations the chi-square statistic of samples lies above its mean."""
    sequences = torch.tensor(list(itertools.product(oracle.tokens.tolist(), repeat=x.shape[1])))
    if known is not None:
        sequences = sequences[((sequences == tokens) | ~known).all(-1)]
    law, code = oracle.log_prob(sequences).softmax(0), V ** torch.arange(x.shape[1])
    same = x @ code == (sequences @ code)[:, None]
    assert same.any(0).all()  # no others
    seen, want = same.sum(-1).double(), law * len(x)
    rare = want < 5
    if rare.any():
        seen = torch.cat([seen[~rare], seen[rare].sum()[None]])
        want = torch.cat([want[~rare], want[rare].sum()[None]])
    freedom = len(want) - 1
    return (((seen - want) ** 2 / want).sum().item() - freedom) / (2 * freedom) ** 0.5


@pytest.mark.long_for("uniform*", "gidd-1-past")
@pytest.mark.parametrize(("size", "context"), [(1, "past"), (2, "all"), (3, "past")])
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_the_law_is_that_of_the_data_for_any_block_size(name, size, context):
    sampler, oracle = world(name)
    blocks = BlockSampler(sampler, size, context=context)
    assert blocks.converges
    assert excess(oracle, blocks.sample((3000, LENGTH), times=fine(40), generator=generator(1))) < 4


class Misled(BlockSampler):
    """The planted mistake: all tokens are said to be where those of the current block are."""

    def _place(self, t, z, block):
        return as_token_times(t, z)


@pytest.mark.parametrize("name", ["gidd", "uniform"])
def test_blocks_whose_times_are_not_given_have_another_law(name):
    sampler, oracle = world(name)
    x = Misled(sampler, 2).sample((3000, LENGTH), times=fine(40), generator=generator(1))
    assert excess(oracle, x) > 8


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform", "chain", "geometric masking", "log-SNR hybrid"])
def test_one_block_is_the_inner_sampler_bit_for_bit(name):
    sampler, _ = world(name)
    low, high = sampler.process.domain
    for times in (torch.linspace(high, low, 9), torch.linspace(high, low + 0.1, 9)):
        for blocks in (BlockSampler(sampler, LENGTH), BlockSampler(sampler, 9, context="past")):
            same = (s.sample((100, LENGTH), times=times, generator=generator()) for s in (sampler, blocks))
            assert torch.equal(*same)


class Witness(nl.WrappedDenoiser):
    """Keeps its arguments."""

    def __init__(self, inner):
        super().__init__(inner)
        self.seen = []

    def forward(self, z, t, rows=None):
        self.seen.append((z, as_token_times(t, z).expand(z.shape), rows))
        return self.inner(z, t, rows)


@pytest.mark.parametrize("context", ["all", "past"])
def test_the_whole_grid_is_walked_for_each_block(context):
    sampler, oracle = world("gidd")
    witness, times = Witness(oracle), torch.linspace(1, 0, 7, dtype=torch.float64)
    blocks = BlockSampler(nl.AncestralSampler(sampler.process, witness), 3, context=context)
    noise = sampler.process.prior(50, 8, generator=generator(1))
    parts = list(blocks.path(noise, times, generator=generator()))
    assert len(parts) == 3 * 6
    before = noise
    for number, part in enumerate(parts):
        begin = number // 6 * 3
        (stage,) = part
        assert stage.z.shape == noise.shape and stage.time.shape == noise.shape
        assert (stage.time[:, :begin] == 0).all() and (stage.time[:, begin + 3 :] == 1).all()
        assert (stage.time[:, begin : begin + 3] == times[number % 6 + 1]).all()
        # What is done stays, and what is to come has not begun.
        assert torch.equal(stage.z[:, :begin], before[:, :begin])
        assert torch.equal(stage.z[:, begin + 3 :], noise[:, begin + 3 :])
        before = stage.z
    assert (before < 4).all()
    ends = set()
    for z, t, rows in witness.seen:
        inside = (t > 0) & rows.any(0)
        begin = int(rows.any(0).nonzero()[0, 0]) // 3 * 3
        end = min(begin + 3, 8)
        assert not rows[:, end:].any() and (t[:, :begin] == 0).all() and (t[:, end:] == 1).all() and inside.any()
        assert z.shape[1] == (end if context == "past" else 8)
        ends.add(end)
    assert ends == {3, 6, 8}


@pytest.mark.parametrize("name", ["masked", "gidd"])
def test_a_block_is_clean_before_the_next_one_begins(name):
    sampler, _ = world(name)
    times = torch.linspace(1, 0.3, 5, dtype=torch.float64)
    blocks = BlockSampler(sampler, 3)
    noisy = blocks.sample((300, 8), times=times, clean=False, generator=generator())
    assert (noisy[:, :6] < 4).all() and (noisy[:, 6:] == 4).any()
    x = blocks.sample((300, 8), times=times, generator=generator())
    assert (x < 4).all() and torch.equal(x[:, :6], noisy[:, :6])
    ends = [part[-1].time.view(300, -1)[0, 0] for part in blocks.run((300, 8), times=times, generator=generator())]
    assert len(ends) == 1 + 5 + 5 + 4 + 1 and ends[5] == 0
    assert len(list(BlockSampler(sampler, 4).run((3, 8), times=times, generator=generator()))) == 1 + 5 + 4 + 1


@pytest.mark.parametrize("name", LEAKY)
def test_noise_at_the_lower_end_of_time_is_removed_from_all_blocks(name):
    sampler, _ = world(name)
    blocks = BlockSampler(sampler, 3)
    x = blocks.sample((1000, 8), steps=8, generator=generator())
    left = blocks.sample((1000, 8), steps=8, clean=False, generator=generator())
    assert (x < 4).all()
    if name == "geometric masking":
        assert (left[:, :6] == 4).any() and torch.equal(x[left < 4], left[left < 4])


def test_blocks_that_end_noisily_have_the_law_of_the_data_after_the_jump():
    sampler, oracle = world("masked")
    x = BlockSampler(sampler, 2).sample((3000, LENGTH), times=torch.linspace(1, 0.02, 40), generator=generator(2))
    assert excess(oracle, x) < 4


@pytest.mark.parametrize("end", [0.0, 0.05])
@pytest.mark.parametrize("context", ["all", "past"])
@pytest.mark.parametrize("name", ["masked", "gidd", "chain"])
def test_batched_equals_one_by_one_with_a_generator_each(name, context, end):
    """Also where some sequences have noise left at the end of a block and others have none."""
    sampler, _ = world(name)
    blocks, times = BlockSampler(sampler, 2, context=context), torch.linspace(1, end, 6)
    together = blocks.sample((6, 5), times=times, generator=generators(*range(6)))
    alone = [blocks.sample((1, 5), times=times, generator=generators(seed)) for seed in range(6)]
    assert torch.equal(together, torch.cat(alone))


def test_the_end_of_a_prompt_may_be_that_of_a_block():
    """A sequence with fewer blocks than the others rests while they are completed, and is the one that it is alone."""
    sampler, _ = world("uniform")
    given, prompt = torch.tensor([[0], [2], [1], [4]]), torch.tensor([[3, 0, 1, 2, 0, 1]])
    known, times = torch.arange(6) < given, torch.linspace(1, 0.1, 5)

    def sample(some):
        blocks = BlockSampler(Infilling(sampler, prompt.expand(len(some), -1), known[some]), 2)
        return blocks.sample((len(some), 6), times=times, clean=False, generator=generators(*some))

    assert torch.equal(sample([0, 1, 2, 3]), torch.cat([sample([i]) for i in range(4)]))


KNOWN = torch.tensor([[True, False, False, False, True, False]])
TOKENS = torch.tensor([[3, 0, 0, 0, 1, 0]])


@pytest.mark.parametrize("context", ["all", "past"])
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform on words"])
def test_known_tokens_inside_and_around_blocks_are_the_same(name, context):
    sampler, _ = world(name)
    inside = BlockSampler(Infilling(sampler, TOKENS, KNOWN), 4, context=context)
    around = Infilling(BlockSampler(sampler, 4, context=context), TOKENS, KNOWN)
    x, y = (s.sample((100, 6), steps=6, generator=generator()) for s in (inside, around))
    assert torch.equal(x, y) and (x[:, KNOWN[0]] == TOKENS[:, KNOWN[0]]).all()
    # With noise left at the ends of blocks, too, they stay.
    for s in (inside, around):
        x = s.sample((100, 6), times=torch.linspace(1, 0.2, 5), generator=generator())
        assert (x[:, KNOWN[0]] == TOKENS[:, KNOWN[0]]).all() and (x < 4).all()


@pytest.mark.long_for("gidd")
@pytest.mark.parametrize("name", ["masked", "gidd"])
def test_blocks_around_known_tokens_have_the_conditional_law(name):
    sampler, oracle = world(name)
    known, tokens = torch.tensor([[False, False, True, False]]), torch.tensor([[0, 0, 3, 0]])
    x = BlockSampler(Infilling(sampler, tokens, known), 2).sample((3000, 4), times=fine(40), generator=generator(1))
    assert excess(oracle, x, tokens, known) < 4
    # The past alone does not know of a token that comes later: the planted mistake.
    cut = BlockSampler(Infilling(sampler, tokens, known), 2, context="past")
    assert excess(oracle, cut.sample((3000, 4), times=fine(40), generator=generator(1)), tokens, known) > 20


def test_blocks_that_are_given_are_not_walked():
    sampler, _ = world("gidd")
    prompt = torch.tensor([[3, 0, 1, 1, 2]])
    blocks = BlockSampler(Prompted(sampler, prompt), 2, given=5)
    parts = list(blocks.run((20, 8), steps=4, generator=generator()))
    assert len(parts) == 1 + 2 * 4 + 1
    assert all((stage.z[:, :5] == prompt).all() for part in parts for stage in part)
    assert (parts[-1][-1].z < 4).all()
    assert not list(BlockSampler(sampler, 2, given=8).path(parts[-1][-1].z, torch.linspace(1, 0, 3)))


class Halves(nl.WrappedSampler):
    """A sampler with a path of its own: it skips every other time."""

    def path(self, z, times, *, generator=None, advance=None):
        return self.inner.path(z, times[::2], generator=generator, advance=advance or self.stages)


def test_the_path_of_the_inner_sampler_is_that_of_each_block():
    sampler, _ = world("gidd")
    blocks = BlockSampler(Halves(sampler), 3)
    assert len(list(blocks.run((2, 6), steps=8, generator=generator()))) == 1 + 2 * 4 + 1


class Restless(nl.WrappedSampler):
    """A sampler that does not leave tokens with s = t alone."""

    def stages(self, z, t, s, *, generator=None):
        (done,) = self.inner.stages(z, t, s, generator=generator)
        return [done._replace(z=torch.where(nl.process.as_token_times(s, z) < 1, done.z, 3))]


def test_tokens_of_other_blocks_stay_whatever_the_sampler_does():
    sampler, _ = world("masked")
    for part in BlockSampler(Restless(sampler), 2).path(torch.full((5, 6), 4), torch.linspace(1, 0, 3)):
        assert (part[-1].z[:, 4:] == 4).all() or (part[-1].time[:, 5] < 1).all()


def test_token_dependent_noise_works_as_well():
    process = Coarse(torch.tensor([4, 4, 5, 5, 4, 5, 6]), mask_id=6)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    x = BlockSampler(nl.AncestralSampler(process, oracle), 2).sample(
        (3000, 3), times=fine(32)[:-1], generator=generator()
    )
    assert excess(oracle, x) < 4


def test_settings_are_checked_and_printed():
    sampler, _ = world("gidd")
    with pytest.raises(ValueError, match="block_size must be at least 1; got 0"):
        BlockSampler(sampler, 0)
    with pytest.raises((ValueError, TypeError)):
        BlockSampler(sampler, 2, context="future")
    assert repr(BlockSampler(sampler, 2, given=3)).endswith("block_size=2, context='all', given=3)")
    assert repr(BlockSampler(sampler, 2)).endswith("block_size=2, context='all')")
    assert BlockSampler(sampler, 2).sample((0, 5), steps=2).shape == (0, 5)
    assert BlockSampler(sampler, 2).sample((3, 0), steps=2).shape == (3, 0)
