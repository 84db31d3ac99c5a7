"""Self-correction of texts is that of their tokens, whatever is beside them in a batch."""

import warnings

import pytest
import torch
from small import LENGTH, pipeline, random

import noiselab as nl

QUIET = {"show_progress": False}
TEXTS = ["the cat sat on the mat", "a dog", "the log", "a cat and a dog on the log"]


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


def test_it_is_self_correction_of_the_tokens(pipe):
    texts = pipe.generate(3, 6, generator=random(), **QUIET)
    corrected = pipe.self_correction(texts, 12, 0.3, generator=random(), **QUIET)
    correction = nl.SelfCorrection(pipe.denoiser, temperature=0.3, support=pipe.support)
    x = correction.correct(torch.tensor([text.tokens for text in texts]), steps=12, generator=random())
    assert [list(text.tokens) for text in corrected] == x.tolist()
    assert corrected != texts


def by_hand(pipe, ids, generator, steps=9):
    """Self-correction of one sequence without padding."""
    correction = nl.SelfCorrection(pipe.denoiser, temperature=0.3, support=pipe.support)
    z = torch.tensor([ids])
    for _ in range(steps):
        u = torch.rand(z.shape, generator=generator, dtype=torch.float64)
        z, before = correction.revise(z, u)[0], z
        if torch.equal(z, before):
            break
    return z[0].tolist()


def test_padding_is_neither_seen_nor_changed(pipe):
    seeds = [random(i) for i in range(len(TEXTS))]
    together = pipe.self_correction(TEXTS, 9, 0.3, generator=seeds, **QUIET)
    for i, ids in enumerate(pipe.encode(TEXTS)):
        assert list(together[i].tokens) == by_hand(pipe, ids, random(i)), TEXTS[i]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_with_a_generator_each_the_batch_size_changes_nothing(pipe, batch_size, early_stopping):
    def corrected(size):
        seeds = [random(i) for i in range(len(TEXTS))]
        texts = pipe.self_correction(
            TEXTS, 5, 0.3, early_stopping=early_stopping, generator=seeds, batch_size=size, **QUIET
        )
        return [text.tokens for text in texts]

    assert corrected(batch_size) == corrected(16)


def test_as_released_pads_to_the_context_and_may_change_padding(pipe):
    corrected = pipe.self_correction(TEXTS[:2], 30, 1.0, as_released=True, generator=random(), **QUIET)
    assert all(len(text.tokens) == LENGTH for text in corrected)
    pad = pipe.tokenizer.pad_token_id
    changed = [
        sum(token != pad for token in text.tokens[len(ids) :])
        for text, ids in zip(corrected, pipe.encode(TEXTS[:2]), strict=True)
    ]
    assert min(changed) > 0
    with pytest.warns(UserWarning, match=r"truncates texts to the context of 16 tokens; this affects texts \[1\]"):
        pipe.self_correction(["a", "the cat " * 20], 2, as_released=True, generator=random(), **QUIET)


def test_without_early_stopping_every_step_is_taken(pipe):
    counted = nl.denoisers.CallCounter(pipe.denoiser)
    ids = torch.tensor([pipe.tokenizer(TEXTS[0])["input_ids"]])
    z, one = ids, random()
    for _ in range(40):
        u = torch.rand(ids.shape, generator=one, dtype=torch.float64)
        z = nl.SelfCorrection(counted, support=pipe.support).revise(z, u)[0]
    found = pipe.self_correction(TEXTS[:1], 40, early_stopping=False, generator=random(), **QUIET)
    assert list(found[0].tokens) == z[0].tolist() and counted.calls == 40


def test_masks_alone_warn():
    with pytest.warns(UserWarning, match="never"):
        pipeline("masked").self_correction(["the cat"], 1, **QUIET)


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        ([], {}, "list of at least one text"),
        ("the cat", {}, "list of texts; got one string"),
        ([""], {}, "must not be empty; text 0 is"),
        (["a", "the cat " * 20], {}, r"must fit the context of 16 tokens; got \d+ .texts are not truncated"),
        (["a"], {"num_inference_steps": 0}, "num_inference_steps must be at least 1; got 0"),
        (["a"], {"temperature": 0}, r"temperature must lie in \[1e-20, 1e\+20\]; got 0"),
        (["a"], {"t0": 2}, r"time must lie in \[0, 1\]"),
        ([], {"as_released": True}, "list of at least one text"),
    ],
)
def test_what_cannot_be_corrected_is_refused(pipe, texts, settings, words):
    with warnings.catch_warnings(), pytest.raises(ValueError, match=words):
        pipe.self_correction(texts, **QUIET, **settings)
