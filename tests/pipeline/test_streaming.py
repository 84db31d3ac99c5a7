"""Streams are the same texts step by step; callbacks end them with whole texts; seeds make texts independent of batches."""

import contextlib

import pytest
import torch
from small import LENGTH, network, pipeline, random

import noiselab as nl
from noiselab.data.reading import derive_seed
from noiselab.pipeline import GenerationState

QUIET = {"show_progress": False}
TEXTS = ["the cat sat on the mat", "a dog", "the log", "a cat and a dog on the log"]
GAPS = ["the [MASK] sat", "[MASK][MASK] on the log", "a [MASK]"]
CALLS = {
    "generate": ((2, 5), {"prompts": ["the cat", "a"], "batch_size": 3}),
    "infill": ((GAPS, 4), {}),
    "self_correction": ((TEXTS, 6, 0.5), {"batch_size": 3}),
}


@pytest.fixture(scope="module", params=["gidd", "masked", "uniform"])
def pipe(request):
    return pipeline(request.param)


@pytest.fixture(scope="module")
def gidd():
    return pipeline()


@contextlib.contextmanager
def counted(pipe):
    """The number of calls of the network."""
    calls = []
    hook = pipe.network.vocab_embed.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def tokens(texts):
    return [text.tokens for text in texts]


@pytest.mark.filterwarnings("ignore:.*no visible token:UserWarning")
@pytest.mark.parametrize("method", CALLS)
def test_the_last_state_is_what_the_method_returns(pipe, method):
    given, settings = CALLS[method]
    whole = getattr(pipe, method)(*given, seed=3, **settings, **QUIET)
    states = list(pipe.stream(*given, method=method, seed=3, **settings))
    assert tokens(states[-1].texts) == tokens(whole) and states[-1].texts == whole
    assert states[-1].finished.all() and states[-1].step == states[-1].steps and (states[-1].time == 0).all()
    for state, row in zip(states[-1].texts, states[-1].tokens.tolist(), strict=True):
        assert list(state.tokens) == row[: len(state.tokens)]
    steps = [state.step for state in states]
    assert steps == sorted(steps) and not states[0].finished.all()
    if method != "self_correction":
        assert (
            steps == list(range(1, states[0].steps + 1)) and states[0].steps == {"generate": 10, "infill": 12}[method]
        )
    with pytest.raises(StopIteration):
        next(stream := pipe.stream(*given, method=method, seed=3, **settings)) and stream.close()
        next(stream)


def test_states_are_those_of_the_walk(pipe):
    seeds, sampler = [4, 5, 6], nl.AncestralSampler(pipe.process, pipe.denoiser)
    states = list(pipe.stream(3, 6, seeds=seeds))
    each = [random(seed) for seed in seeds]
    z, times = pipe.process.prior(3, LENGTH, generator=each), torch.linspace(1, 0, 7, dtype=torch.float64)
    mask = pipe.tokenizer.mask_token_id
    for state, x, time in zip(states, sampler.walk(z, times, generator=each), times[1:], strict=True):
        assert torch.equal(state.tokens, x) and (state.time == time).all()
        shows = getattr(pipe.process, "support", None) is not None and (z == mask).any()
        if shows:
            assert torch.equal(state.noisy, x == mask)
        else:
            assert state.noisy is None
    assert states[0].tokens is not states[1].tokens and not torch.equal(states[0].tokens, states[-1].tokens)


def test_texts_that_have_not_begun_have_their_prompt(gidd):
    states = list(gidd.stream(1, 3, prompts=["the cat", "a dog"], batch_size=1, seed=0))
    start = gidd.encode(["a dog"])[0]
    first = states[0]
    assert first.texts[1] == "a dog" and first.tokens[1, : len(start)].tolist() == start
    assert first.noisy[1].tolist() == [False] * len(start) + [True] * (LENGTH - len(start))
    assert (first.time[1, len(start) :] == 1).all() and (first.time[1, : len(start)] == 0).all()
    assert [state.finished.tolist() for state in states[2:4]] == [[True, False], [True, False]]


@pytest.mark.parametrize("method", CALLS)
def test_leaving_the_loop_leaves_nothing(gidd, method):
    given, settings = CALLS[method]
    before = getattr(gidd, method)(*given, seed=3, **settings, **QUIET)
    with counted(gidd) as calls:
        for number, state in enumerate(gidd.stream(*given, method=method, seed=3, dtype=torch.bfloat16, **settings), 1):
            assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
            assert len(calls) <= number and isinstance(state, GenerationState)
            if number == 2:
                break
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and not gidd.training
    assert tokens(getattr(gidd, method)(*given, seed=3, **settings, **QUIET)) == tokens(before)


def test_padding_is_hidden_within_steps_only(gidd, monkeypatch):
    denoiser = gidd.denoiser
    monkeypatch.setattr(type(gidd), "denoiser", property(lambda self: denoiser))
    for _ in gidd.stream(TEXTS, 4, 0.5, method="self_correction", seed=0):
        assert not any(getattr(part, "attended", nl.denoisers.base.Attended()).masks for part in denoiser.modules())


@pytest.mark.parametrize("sampler", [None, "blocks"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_callback_ends_generation_with_whole_texts(pipe, count, sampler):
    def blocks(process, denoiser):
        return nl.samplers.BlockSampler(nl.AncestralSampler(process, denoiser), 6)

    seen, options = [], {"prompts": ["the cat"], "sampler": sampler and blocks, "seed": 1}

    def callback(state):
        seen.append(state)
        return state.step == count

    with counted(pipe) as calls:
        texts = pipe.generate(2, 8, callback=callback, **options, **QUIET)
    # In a step in which no token changes the network is not evaluated.
    assert len(seen) == count and len(calls) <= count + 1 and len(texts) == 2
    found = torch.tensor(tokens(texts))
    assert pipe.support[found].all() and found.shape == (2, LENGTH)
    start = pipe.encode(["the cat"])[0]
    assert (found[:, : len(start)] == torch.tensor(start)).all()
    if seen[-1].noisy is not None and "Uniform" not in repr(pipe.process):  # masks alone: what is there stays
        assert seen[-1].noisy.any() and not seen[-1].noisy.all()
        assert torch.equal(found[~seen[-1].noisy], seen[-1].tokens[~seen[-1].noisy])
    states = list(pipe.stream(2, 8, callback=callback, **options))
    assert len(states) == count and states[-1].finished.all() and tokens(states[-1].texts) == tokens(texts)


def test_a_callback_that_says_nothing_changes_nothing(gidd):
    seen = []
    texts = gidd.generate(3, 4, callback=seen.append, seed=2, batch_size=2, **QUIET)
    assert tokens(texts) == tokens(gidd.generate(3, 4, seed=2, **QUIET)) and [state.step for state in seen] == [
        *range(1, 9)
    ]


def test_texts_that_have_not_begun_are_left_out_or_returned_as_they_are(gidd):
    stop = {"callback": lambda state: state.step == 2, "seed": 0, "batch_size": 2, **QUIET}
    assert len(gidd.generate(5, 4, **stop)) == 2
    whole = gidd.generate(5, 4, seed=0, **QUIET)
    stop["callback"] = lambda state: state.step == 6  # in the second batch
    ended = gidd.generate(5, 4, **stop)
    assert tokens(ended[:2]) == tokens(whole[:2]) and len(ended) == 4
    stop["callback"] = lambda state: state.step == 2
    corrected = gidd.self_correction(TEXTS, 4, 0.5, **stop)
    assert [list(text.tokens) for text in corrected[2:]] == gidd.encode(TEXTS[2:]) and len(corrected) == 4
    assert tokens(corrected[:2]) == tokens(gidd.self_correction(TEXTS[:2], 2, 0.5, seed=0, **QUIET))


@pytest.mark.parametrize("method", CALLS)
def test_with_seeds_a_text_is_the_same_alone_in_any_batch_and_order(gidd, method):
    def made(order, **more):
        if method == "generate":
            prompts = [TEXTS[i][:5] for i in order]
            return tokens(gidd.generate(1, 4, prompts=prompts, seeds=[7 + i for i in order], **more, **QUIET))
        texts = [(GAPS if method == "infill" else TEXTS)[i] for i in order]
        return tokens(getattr(gidd, method)(texts, 4, seeds=[7 + i for i in order], temperature=0.7, **more, **QUIET))

    whole, sizes = made([0, 1, 2]), [{}] if method == "infill" else [{"batch_size": 1}, {"batch_size": 2}]
    assert all(made([0, 1, 2], **size) == whole for size in sizes)
    assert made([2, 0, 1]) == [whole[2], whole[0], whole[1]]
    assert [made([i])[0] for i in range(3)] == whole
    assert len(set(whole)) == 3


def test_a_seed_is_one_of_each_text(gidd):
    whole = tokens(gidd.generate(3, 4, seed=5, **QUIET))
    assert whole == tokens(gidd.generate(3, 4, seeds=[derive_seed(5, i) for i in range(3)], **QUIET))
    assert whole == tokens(gidd.generate(3, 4, seed=5, batch_size=1, **QUIET))
    assert whole == tokens(gidd.generate(7, 4, seed=5, batch_size=4, **QUIET))[:3]
    assert not set(whole) & set(tokens(gidd.generate(3, 4, seed=6, **QUIET)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 1, "seeds": [1]}, "at most one of generator, seed and seeds must be given; got seed and seeds"),
        ({"seed": 1, "generator": random()}, "got generator and seed"),
        ({"seed": -1}, "seed must"),
        ({"seed": True}, "seed must"),
        ({"seeds": [1, 2, 3]}, "seeds must be one integer for each of 2 texts; got 3"),
        ({"seeds": [1, 2.5]}, r"seeds\[1\] must be a whole number"),
        ({"seeds": 3}, "seeds must be a list of one integer for each text; got 3"),
        ({"generator": [random()]}, "one generator for each of 2 texts is needed; got 1"),
    ],
)
def test_seeds_that_are_none_are_refused(gidd, unchecked, settings, words):
    calls = {
        "generate": lambda: gidd.generate(2, 2, **settings, **QUIET),
        "infill": lambda: gidd.infill(GAPS[:2], 2, **settings, **QUIET),
        "self_correction": lambda: gidd.self_correction(TEXTS[:2], 2, **settings, **QUIET),
        "stream": lambda: gidd.stream(2, 2, **settings),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=words):
            call()


def test_a_stream_refuses_at_once_what_the_method_refuses(gidd, unchecked):
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        gidd.stream(0)
    with pytest.raises(ValueError, match="method must be one of generate, infill, self_correction; got 'correct'"):
        gidd.stream(["a"], method="correct")
    with pytest.raises(ValueError, match="callback must be a function of a GenerationState; got 3"):
        gidd.generate(1, 2, callback=3, **QUIET)
    with pytest.raises(TypeError, match="unexpected keyword argument 'tokens'"):
        gidd.stream(tokens=3)


def test_steps_of_blocks_are_counted_by_hand():
    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.full((2, 2), 0.5), process)
    blocks = nl.samplers.BlockSampler(nl.AncestralSampler(process, oracle), 4)
    z, times = process.prior(2, 10), torch.linspace(1, 0, 6)
    assert blocks.count_steps(z, times) == 15 and blocks.count_steps(z[:, :4], times) == 5
    assert blocks.count_steps(z, times[:-1]) == 3 * 4 + 2  # two blocks take one more step, to t = 0
    known = torch.arange(10) < torch.tensor([[2], [5]])
    assert nl.Infilling(blocks, torch.zeros_like(z), known).count_steps(z, times) == 10
    for sampler, grid in ((blocks, times), (blocks, times[:-1]), (nl.Infilling(blocks, 0 * z, known), times)):
        assert len(list(sampler.path(z, grid))) == sampler.count_steps(z, grid)


def test_the_network_is_called_as_often_as_before():
    """One call a step, whether streamed or not; `network` is that of the helper, so that the count is of the model."""
    pipe = pipeline("uniform")
    assert isinstance(pipe.network, type(network(300)))
    with counted(pipe) as calls:
        pipe.generate(3, 5, seed=0, **QUIET)
    assert len(calls) == 5
