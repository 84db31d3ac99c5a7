"""Texts that end: cut where the whole text would be, in any batch, with the evaluations that this saves."""

import itertools

import pytest
import torch
from small import counted_calls, cut, letters, rows

import noiselab as nl

QUIET = {"show_progress": False}
PROMPTS = ["ab", "c", "abab"]


@pytest.fixture(scope="module", params=["masked", "gidd", "uniform"])
def pipe(request):
    return letters(request.param)


@pytest.fixture(scope="module")
def masked():
    return letters("masked")


def counted(pipe):
    """That of the network."""
    return counted_calls(pipe.network.vocab_embed)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_it_is_the_whole_text_cut_after_its_end(pipe, size, block):
    options = {"prompts": PROMPTS, "seeds": [*range(6)], "block_length": block, **QUIET}
    whole = rows(pipe.generate(2, 6, **options))
    texts = pipe.generate(2, 6, stop=True, batch_size=size, **options)
    sizes = [len(PROMPTS[i // 2]) for i in range(6)]
    assert rows(texts) == [cut(row, 0, start) for row, start in zip(whole, sizes, strict=True)]
    assert len({len(text.tokens) for text in texts}) > 1 and pipe.tokenizer.mask_token_id not in {
        token for row in rows(texts) for token in row
    }
    assert texts[0] == pipe.tokenizer.decode([token for token in texts[0].tokens if token])
    states = list(pipe.stream(2, 6, stop=True, batch_size=size, **options))
    assert rows(states[-1].texts) == rows(texts) and states[-1].last.tolist() == [len(text.tokens) for text in texts]


def test_a_text_that_has_ended_is_not_evaluated(masked):
    """By the states of the whole walk: a text is evaluated where a token of it is revealed, until its end is certain."""
    seeds, steps, mask = [*range(8)], 12, 2
    states = [torch.full((8, 16), mask)] + [state.tokens for state in masked.stream(8, steps, seeds=seeds)]
    wanted, without = 0, 0
    for before, after in itertools.pairwise(states):
        for old, new in zip(before.tolist(), after.tolist(), strict=True):
            ended = 0 in old and mask not in old[: old.index(0)]
            wanted += old != new and not ended
            without += old != new
    with counted(masked) as calls:
        masked.generate(8, steps, stop=True, seeds=seeds, **QUIET)
    assert sum(calls) == wanted < 0.9 * without


def test_a_sampler_that_remasks_ends_no_text_early(masked):
    def remasking(process, denoiser):
        return nl.samplers.RemaskingSampler(process, denoiser, schedule="cap", amount=0.5)

    options = {"sampler": remasking, "seeds": [*range(8)], **QUIET}
    whole = rows(masked.generate(8, 8, **options))
    assert rows(masked.generate(8, 8, stop=True, **options)) == [cut(row, 0, 0) for row in whole]


def test_where_no_token_is_certain_nothing_is_saved():
    pipe = letters("uniform")
    with counted(pipe) as calls:
        pipe.generate(4, 6, stop=True, seed=0, **QUIET)
    assert calls == [4] * 6


def test_no_block_is_sampled_after_all_texts_have_ended(pipe):
    options = {"length": "auto", "block_length": 2, "seeds": [1, 2]}
    with counted(pipe) as calls:
        states = list(pipe.stream(2, 5, **options))
    ends = [len(text.tokens) for text in states[-1].texts]
    blocks = -(-max(ends) // 2)
    assert len(calls) <= 5 * blocks and (max(ends) < 15 or blocks == 8)
    assert states[-1].step == states[-1].steps == 40 and len(states) == min(5 * blocks + 1, 40)
    whole = pipe.generate(2, 5, block_length=2, seeds=[1, 2], **QUIET)
    assert rows(states[-1].texts) == [cut(row, 0, 0) for row in rows(whole)]


def test_auto_is_the_context_with_stop(pipe):
    texts = pipe.generate(3, 5, length="auto", prompts=["ab"], seed=3, **QUIET)
    assert rows(texts) == rows(pipe.generate(3, 5, stop=True, prompts=["ab"], seed=3, **QUIET))


def test_a_text_that_a_callback_ends_is_cut_too(pipe):
    options = {"callback": lambda state: state.step == 2, "seed": 5, **QUIET}
    whole = rows(pipe.generate(4, 6, **options))
    texts = rows(pipe.generate(4, 6, stop=True, **options))
    assert texts == [cut(row, 0, 0) for row in whole] and pipe.tokenizer.mask_token_id not in {
        token for row in texts for token in row
    }


def test_what_cannot_stop_is_refused(masked):
    for settings in ({"stop": True}, {"length": "auto"}, {"block_length": 4}):
        with pytest.raises(ValueError, match="must be left out with"):
            masked.generate(1, 4, as_released=True, **settings, **QUIET)
    with pytest.raises(ValueError, match="block_length must be at least 1; got 0"):
        masked.generate(1, 4, block_length=0, **QUIET)
    endless = letters("masked")
    endless.support[0] = False
    with pytest.raises(ValueError, match=r"outside the support of the noise"):
        endless.generate(1, 4, stop=True, **QUIET)
    endless.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="the tokenizer has none"):
        endless.generate(1, 4, length="auto", **QUIET)


KEEPING = [sampler for sampler in vars(nl.samplers).values() if getattr(sampler, "keeps_clean", False) is True]
SETTINGS = {
    "CommittingSampler": [{"threshold": 0.5}],
    "ConstrainedSampler": [
        {"automaton": nl.constraints.TokenAutomaton(torch.tensor([[0, 1, 0, -1], [1, -1, 1, -1]]), [1])}
    ],
}


@pytest.mark.parametrize("sampler", KEEPING, ids=lambda sampler: sampler.__name__)
def test_samplers_that_say_so_keep_clean_tokens(sampler):
    process = nl.masked(vocab_size=4, mask_id=3)
    oracle = nl.MarkovOracle(torch.full((3,), 1 / 3), torch.full((3, 3), 0.2).fill_diagonal_(0.6), process)
    for settings in SETTINGS.get(sampler.__name__) or sampler.variants.values() or [{}]:
        made, random = sampler(process, oracle, **settings), torch.Generator().manual_seed(0)
        z = process.prior(50, 8, generator=random)
        for state in made.walk(z, torch.linspace(1, 0, 9), generator=random):
            assert (state == z)[z != 3].all()
            z = state
        assert (z != 3).all()


def test_those_that_change_them_do_not_say_so():
    names = {sampler.__name__ for sampler in KEEPING}
    assert names == {
        *("AncestralSampler", "ConfidenceSampler", "EntropyBoundedSampler", "FirstHittingSampler", "RenoisingSampler"),
        *("CommittingSampler", "ConstrainedSampler", "ThresholdSampler"),
    }
    masked = nl.masked(vocab_size=4, mask_id=3)
    oracle = nl.MarkovOracle(torch.full((3,), 1 / 3), torch.full((3, 3), 1 / 3), masked)
    inner = nl.AncestralSampler(masked, oracle)
    corrected = nl.PredictorCorrector(inner, nl.GibbsCorrector(masked, oracle))
    assert not corrected.keeps_clean and not nl.samplers.BlockSampler(corrected, 2).keeps_clean
    assert nl.samplers.BlockSampler(inner, 2).keeps_clean
