"""Walks that end early and sequences that do, against walks that do not."""

import itertools

import pytest
import torch
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.denoisers.active_only import ActiveOnly
from noiselab.samplers.wrappers.blocks import BlockSampler
from noiselab.samplers.wrappers.infilling import Infilling, Prompted
from noiselab.samplers.wrappers.stopping import EarlyStopping, EndToken, lengths


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generators(*seeds):
    return [generator(seed) for seed in seeds]


def world(name, transition=TRANSITION):
    process = PROCESSES[name]()
    oracle = nl.MarkovOracle(INITIAL, transition, process)
    return nl.AncestralSampler(process, oracle), oracle


def last(parts):
    return parts[-1][-1].z


# --- walks that end early ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 3])
def test_under_masking_nothing_is_lost(patience):
    sampler, _ = world("masked")
    counts = []
    for seed in range(3):
        plain = list(sampler.run((1, 3), steps=64, generator=generator(seed)))
        early = list(EarlyStopping(sampler, patience).run((1, 3), steps=64, generator=generator(seed)))
        assert torch.equal(last(early), last(plain))
        # The walk ends `patience` steps after the last mask is filled.
        masks = [(part[-1].z == 4).any() for part in plain]
        assert len(early) == min(sum(masks) + 2 + patience, 66)
        counts.append(len(early))
    assert min(counts) < 60


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform", "chain"])
def test_a_batch_stops_as_its_sequences_do_alone(name):
    sampler, _ = world(name)
    early = EarlyStopping(sampler, 5)
    together = early.sample((6, 4), steps=64, generator=generators(*range(6)))
    alone = [early.sample((1, 4), steps=64, generator=generators(seed)) for seed in range(6)]
    assert torch.equal(together, torch.cat(alone))


def test_a_stopped_sequence_stays_and_is_not_evaluated():
    """With little patience each sequence changes no more after a quiet step, though others walk on."""
    sampler, oracle = world("uniform")
    counting = nl.denoisers.CallCounter(oracle)
    early = EarlyStopping(nl.AncestralSampler(sampler.process, ActiveOnly(counting)), 2)
    parts = list(
        early.path(
            sampler.process.prior(20, 4, generator=generator()), torch.linspace(1, 0, 41), generator=generator(1)
        )
    )
    states = torch.stack([part[-1].z for part in parts])
    same = (states[1:] == states[:-1]).all(-1)
    for sequence in same.T:
        quiet = (sequence[1:] & sequence[:-1]).nonzero()
        if len(quiet):
            assert sequence[int(quiet[0]) :].all()
    full = nl.denoisers.CallCounter(oracle)
    list(nl.AncestralSampler(sampler.process, full).path(states[0], torch.linspace(1, 0, 41), generator=generator(1)))
    assert counting.sequences < 0.5 * full.sequences


def test_no_sequence_stops_while_masks_are_left():
    sampler, _ = world("gidd")
    x = EarlyStopping(sampler, 1).sample((100, 4), steps=256, generator=generator())
    assert (x < 4).all()


def test_too_little_patience_gives_another_law():
    """It is an approximation, and seen to be: with patience for every step there is none."""
    sampler, oracle = world("uniform")
    forbearing = EarlyStopping(sampler, 64)
    x, y = (s.sample((3000, 4), steps=64, generator=generator()) for s in (sampler, forbearing))
    assert torch.equal(x, y)
    hasty = EarlyStopping(sampler, 1).sample((3000, 4), steps=64, generator=generator())
    true, found = (oracle.log_prob(sequences).mean() for sequences in (x, hasty))
    assert found < true - 0.5


def test_each_block_stops_by_itself_and_no_walk_before_its_last_block():
    for name in ("masked", "uniform"):
        sampler, _ = world(name)
        inside = BlockSampler(EarlyStopping(sampler, 8), 3, context="past")
        noise, times = sampler.process.prior(1, 6, generator=generator()), torch.linspace(1, 0, 65)
        parts = list(inside.path(noise, times, generator=generator()))
        begun = [(part[-1].time[0] < 1).sum().item() for part in parts]
        assert set(begun) == {3, 6} and begun.count(3) < 64 and begun.count(6) <= 64
        around = EarlyStopping(BlockSampler(sampler, 3), 1)
        parts = list(around.path(noise, times, generator=generator()))
        assert len(parts) > 64 and (parts[-1][-1].z < V).all()
    # Under masking they make no difference at all.
    sampler, _ = world("masked")
    blocks, context = BlockSampler(sampler, 3), {"steps": 32, "generator": generators(*range(5))}
    plain = blocks.sample((5, 6), **context)
    for early in (EarlyStopping(blocks, 1), BlockSampler(EarlyStopping(sampler, 32), 3)):
        assert torch.equal(early.sample((5, 6), steps=32, generator=generators(*range(5))), plain)


# --- sequences that end early ------------------------------------------------------------------------------------

END = 3
ENDING = TRANSITION.clone()
ENDING[:, END] = torch.tensor([0.3, 0.2, 0.4, 0.7], dtype=torch.float64)
ENDING[:3, :3] *= (1 - ENDING[:3, END:]) / ENDING[:3, :3].sum(-1, keepdim=True)
ENDING[END, :3] *= 0.3 / ENDING[END, :3].sum()


def test_lengths_by_hand():
    x = torch.tensor([[0, 1, 9, 2], [9, 9, 9, 9], [0, 1, 2, 3], [9, 1, 9, 9]])
    assert lengths(x, 9).tolist() == [2, 0, 4, 0]
    assert lengths(x, 9, prompt=1).tolist() == [2, 1, 4, 2]
    assert lengths(x[:, :0], 9).tolist() == [0] * 4


def filled(x, fill=END, prompt=0):
    """By hand, one sequence after the other."""
    rows = []
    for row in x.tolist():
        end = row.index(END, prompt) if END in row[prompt:] else len(row)
        rows.append([fill if i > end else token for i, token in enumerate(row)])
    return torch.tensor(rows)


@pytest.mark.parametrize("context", ["all", "past"])
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform on words"])
def test_it_is_the_whole_walk_cut_after_the_end(name, context):
    sampler, _ = world(name, ENDING)
    blocks = BlockSampler(sampler, 2, context=context)
    ending = EndToken(blocks, END, fill=0)
    x = blocks.sample((60, 9), steps=6, generator=generator())
    assert torch.equal(ending.sample((60, 9), steps=6, generator=generator()), filled(x, fill=0))
    plain = EndToken(sampler, END).sample((60, 9), steps=6, generator=generator())
    assert torch.equal(plain, filled(sampler.sample((60, 9), steps=6, generator=generator())))
    # Where noise is left at the end of the grid, it is cut after the jump to clean tokens.
    times = torch.linspace(1, 0.1, 6)
    for inner in (blocks, sampler):
        x = inner.sample((60, 9), times=times, generator=generator())
        y = EndToken(inner, END).sample((60, 9), times=times, generator=generator())
        assert torch.equal(y, filled(x))


def test_the_walk_ends_with_the_last_sequence_and_finished_ones_are_not_evaluated():
    sampler, oracle = world("masked", ENDING)
    counting, asked = nl.denoisers.CallCounter(oracle), nl.denoisers.CallCounter(oracle)
    times = torch.linspace(1, 0, 9)
    blocks = BlockSampler(nl.AncestralSampler(sampler.process, ActiveOnly(counting)), 2)
    noise = torch.full((20, 40), 4)
    parts = list(EndToken(blocks, END).path(noise, times, generator=generator()))
    ends = lengths(parts[-1][-1].z, END)
    # It ends with the step that reveals the last token up to an end.
    whole = [part[-1].z for part in BlockSampler(sampler, 2).path(noise, times, generator=generator())]
    over = [bool((lengths(torch.where((z == 4).cumsum(-1) > 0, -1, z), END) < 40).all()) for z in whole]
    assert (ends < 40).all() and len(parts) == over.index(True) + 1 <= (int(ends.max()) // 2 + 1) * 8
    assert (parts[-1][-1].z == filled(parts[-1][-1].z)).all()
    for step, part in enumerate(parts):
        done = ends < step // 8 * 2
        assert torch.equal(part[-1].z[done], parts[-1][-1].z[done])
    list(
        BlockSampler(nl.AncestralSampler(sampler.process, ActiveOnly(asked)), 2).path(
            noise, times, generator=generator()
        )
    )
    assert counting.sequences < 0.3 * asked.sequences


@pytest.mark.parametrize("name", ["masked", "gidd"])
def test_the_law_of_the_lengths_is_exact(name):
    sampler, oracle = world(name, ENDING)
    n, length = 4000, 5
    ending = EndToken(BlockSampler(sampler, 2), END)
    x = ending.sample((n, length), times=torch.linspace(1, 0, 33) ** 2, generator=generator())
    sequences = torch.tensor(list(itertools.product(range(4), repeat=length)))
    law = torch.zeros(length + 1, dtype=torch.float64)
    law = law.index_add(0, lengths(sequences, END), oracle.log_prob(sequences).exp())
    seen = torch.bincount(lengths(x, END), minlength=length + 1).double()
    statistic = ((seen - n * law) ** 2 / (n * law)).sum().item()
    assert (statistic - length) / (2 * length) ** 0.5 < 4


def test_an_end_token_of_the_noise_ends_nothing():
    """Under uniform noise every token is there at first; only finished ones count."""
    sampler, _ = world("uniform", ENDING)
    z = torch.full((40, 6), END)
    parts = list(EndToken(BlockSampler(sampler, 3), END).path(z, torch.linspace(1, 0, 17), generator=generator()))
    assert len(parts) > 16 and (lengths(last(parts), END) > 0).any()
    assert torch.equal(last(parts), filled(last(parts)))


def test_an_end_token_that_is_known_ends_nothing_before_what_precedes_it_is_there():
    sampler, _ = world("masked", ENDING)
    filling = Infilling(sampler, torch.tensor([[0, 0, 0, 0, END, 1]]), torch.arange(6)[None] >= 4)
    parts = list(EndToken(BlockSampler(filling, 2), END).run((200, 6), steps=4, generator=generator()))
    x = last(parts)
    assert len(parts) == 1 + 2 * 4 + 1 and (x < 4).all() and torch.equal(x, filled(x)) and (lengths(x, END) == 4).any()


@pytest.mark.parametrize("name", ["gidd", "chain"])
def test_batched_equals_one_by_one_with_a_generator_each(name):
    sampler, _ = world(name, ENDING)
    ending = EndToken(BlockSampler(sampler, 2), END)
    together = ending.sample((8, 7), steps=5, generator=generators(*range(8)))
    alone = [ending.sample((1, 7), steps=5, generator=generators(seed)) for seed in range(8)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.long_for("all")
@pytest.mark.parametrize("context", ["all", "past"])
def test_prompts_blocks_and_ends_together(context):
    sampler, _ = world("gidd", ENDING)
    prompt = torch.tensor([[1, END, 0]])
    settings = {"steps": 6, "generator": generator()}
    blocks = BlockSampler(Prompted(sampler, prompt), 2, context=context, given=3)
    x = EndToken(blocks, END, prompt=3).sample((50, 12), **settings)
    assert (x[:, :3] == prompt).all() and (x < 4).all() and torch.equal(x, filled(x, prompt=3))
    assert torch.equal(x, filled(blocks.sample((50, 12), steps=6, generator=generator()), prompt=3))
    around = EndToken(Infilling(BlockSampler(sampler, 2, context=context, given=3), *known(prompt, 12)), END, prompt=3)
    assert torch.equal(around.sample((50, 12), steps=6, generator=generator()), x)
    inside = BlockSampler(EndToken(Prompted(sampler, prompt), END, prompt=3), 2, context=context, given=3)
    assert (inside.sample((50, 12), steps=6, generator=generator())[:, :3] == prompt).all()
    early = EndToken(BlockSampler(EarlyStopping(Prompted(sampler, prompt), 3), 2, context=context), END, prompt=3)
    y = early.sample((50, 12), steps=24, generator=generator())
    assert (y[:, :3] == prompt).all() and torch.equal(y, filled(y, prompt=3)) and (y < 4).all()


def known(prompt, length):
    rest = length - prompt.shape[1]
    tokens = torch.cat([prompt, prompt.new_zeros(1, rest)], 1)
    return tokens, torch.arange(length)[None] < prompt.shape[1]


def test_settings_are_checked_and_printed():
    sampler, _ = world("gidd")
    with pytest.raises(ValueError, match="patience must be at least 1; got 0"):
        EarlyStopping(sampler, 0)
    with pytest.raises(ValueError, match=r"token must lie in \[0, 4\]; got 5"):
        EndToken(sampler, 5)
    with pytest.raises(ValueError, match="must be in the support of the process; got 4"):
        EndToken(sampler, 4)
    with pytest.raises(ValueError, match="prompt must be at least 0; got -1"):
        EndToken(sampler, 3, prompt=-1)
    assert repr(EarlyStopping(sampler, 2)).endswith("patience=2)")
    assert repr(EndToken(sampler, 3, fill=4, prompt=2)).endswith("token=3, fill=4, prompt=2)")
    assert not EarlyStopping(sampler, 2).converges and not EndToken(sampler, 3).converges


def test_several_ends_and_prompts_of_unlike_lengths_by_hand():
    x = torch.tensor([[0, 1, 9, 2], [8, 9, 1, 9], [0, 1, 2, 3]])
    assert lengths(x, [8, 9]).tolist() == [2, 0, 4]
    assert lengths(x, [8, 9], prompt=torch.tensor([3, 2, 0])).tolist() == [4, 3, 4]
    sampler, _ = world("masked", ENDING)
    ending = EndToken(sampler, [END, 2], fill=0, prompt=torch.tensor([0, 1, 2]))
    whole = sampler.sample((3, 9), steps=6, generator=generator(3)).tolist()
    wanted = []
    for row, start in zip(whole, (0, 1, 2), strict=True):
        end = next((i for i in range(start, 9) if row[i] in (END, 2)), 9)
        wanted.append([token if i <= end else 0 for i, token in enumerate(row)])
    assert ending.sample((3, 9), steps=6, generator=generator(3)).tolist() == wanted
    with pytest.raises(ValueError, match="at least one end token"):
        EndToken(sampler, [])


def test_a_sampler_around_it_may_change_what_is_revealed():
    """A corrector around resamples tokens after they are revealed, so that no sequence may end before its last step."""
    sampler, oracle = world("masked", ENDING)
    inside = nl.PredictorCorrector(EndToken(sampler, END), nl.GibbsCorrector(sampler.process, oracle))
    plain = nl.PredictorCorrector(sampler, nl.GibbsCorrector(sampler.process, oracle))
    x = plain.sample((200, 6), steps=6, generator=generator())
    assert torch.equal(inside.sample((200, 6), steps=6, generator=generator()), filled(x))


def test_around_blocks_that_do_not_see_later_ones_no_sequence_stops_before_its_last_block():
    process = PROCESSES["masked"]()
    fast = nl.samplers.ThresholdSampler(process, nl.MarkovOracle(INITIAL, TRANSITION, process))
    blocks = BlockSampler(fast, 3, context="past")
    plain = blocks.sample((2, 9), steps=8)
    assert torch.equal(EarlyStopping(blocks, 2).sample((2, 9), steps=8), plain) and (plain < 4).all()
