"""Texts are corrected by the rule of that name, or by an object, as their tokens are."""

import pytest
import torch
from small import pipeline, random

import noiselab as nl
from noiselab.correctors import BalancedCorrector, CorrectorReviser, DraftCorrector
from noiselab.denoisers import EarliestTime, Temperature
from noiselab.pipeline.corrections import GIDD, chosen_rule

QUIET = {"show_progress": False}
TEXTS = ["the cat sat on the mat", "a dog", "the log", "a cat and a dog on the log"]


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


def corrector_of(pipe, level=0.01, temperature=0.7, t0=0.01):
    denoiser = EarliestTime(Temperature(pipe.denoiser, temperature), t0)
    return BalancedCorrector(pipe.process, denoiser, level=level)


def tokens(texts):
    return [list(text.tokens) for text in texts]


def test_the_published_rule_is_the_default(pipe):
    named, plain = (
        pipe.self_correction(TEXTS, 6, 0.5, generator=random(), **QUIET, **more) for more in ({"method": "gidd"}, {})
    )
    assert tokens(named) == tokens(plain)


@pytest.mark.parametrize("t0", [0.01, 0.2])
def test_balanced_is_the_corrector_at_a_temperature_and_time(pipe, t0):
    texts = pipe.generate(3, 6, generator=random(), **QUIET)
    corrected = pipe.self_correction(texts, 12, t0=t0, method="balanced", generator=random(), **QUIET)
    x = torch.tensor(tokens(texts))
    assert tokens(corrected) == corrector_of(pipe, t0=t0).correct(x, steps=12, generator=random()).tolist()
    assert tokens(corrected) != x.tolist()
    rule = chosen_rule(pipe, "balanced", t0=t0, as_released=False, **GIDD)
    assert f"time={t0:g}" in repr(rule.denoiser) and "level=0.01, duration=5" in repr(rule)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_padding_is_neither_seen_nor_changed(pipe, batch_size):
    rule = corrector_of(pipe, level=0.3)
    found = pipe.self_correction(
        TEXTS, 9, method=rule, generator=[random(i) for i in range(4)], batch_size=batch_size, **QUIET
    )
    for i, ids in enumerate(pipe.encode(TEXTS)):
        alone = rule.correct(torch.tensor([ids]), steps=9, generator=[random(i)])
        assert list(found[i].tokens) == alone[0].tolist(), TEXTS[i]


class Ones:
    """Writes one token everywhere it may, and keeps what it was given."""

    def __init__(self, token):
        self.token = token

    def correct(self, z, *, steps=128, rows=None, generator=None):
        self.given = (z, steps, rows)
        new = torch.full_like(z, self.token)
        return new if rows is None else torch.where(rows, new, z)


def test_an_object_corrects(pipe):
    rule = Ones(pipe.encode(["the"])[0][0])
    texts = pipe.self_correction(["a dog", "a log"], 7, method=rule, **QUIET)
    assert all(set(text.tokens) == {rule.token} for text in texts)
    assert rule.given[0].tolist() == pipe.encode(["a dog", "a log"]) and rule.given[1:] == (7, None)
    correction = nl.SelfCorrection(pipe.denoiser, temperature=0.3, support=pipe.support)
    by_object = pipe.self_correction(TEXTS[:1], 5, method=correction, generator=random(), **QUIET)
    assert tokens(by_object) == tokens(pipe.self_correction(TEXTS[:1], 5, 0.3, generator=random(), **QUIET))


def test_each_jump_is_a_state_of_a_stream(pipe):
    rule = corrector_of(pipe, level=0.3)
    x = torch.tensor(pipe.encode(TEXTS[:1]))
    walk = list(rule.walk(x, steps=9, generator=random()))
    states = list(pipe.stream(TEXTS[:1], 9, method="self_correction", correction_method=rule, generator=random()))
    assert [state.tokens.tolist() for state in states][: len(walk)] == [z.tolist() for z in walk]
    last = pipe.self_correction(TEXTS[:1], 9, method=rule, generator=random(), **QUIET)
    assert states[-1].texts == last


@pytest.mark.parametrize("method", ["best", "", None, 3, Ones, nl.SelfCorrection])
def test_what_is_no_method_is_refused_with_the_list(pipe, method, unchecked):
    words = "method must be one of 'gidd', 'balanced', an object with a method `correct`.*or a Reviser.*; got"
    with pytest.raises(ValueError, match=words):
        pipe.self_correction(TEXTS, method=method, **QUIET)


def test_a_corrector_that_does_not_stop_is_refused_with_what_makes_a_method_of_it(pipe, unchecked):
    corrector = DraftCorrector(pipe.process, pipe.denoiser)
    with pytest.raises(ValueError, match=r"got DraftCorrector.*CorrectorReviser\(corrector, time=0\.01, steps=8\)"):
        pipe.self_correction(TEXTS, method=corrector, **QUIET)


def test_a_reviser_corrects_in_its_own_steps(pipe):
    """As the reviser alone, text by text; the number of steps is that of the reviser."""
    reviser = CorrectorReviser(nl.GibbsCorrector(pipe.process, pipe.denoiser), time=0.3, steps=3)
    found = pipe.self_correction(TEXTS, method=reviser, generator=[random(i) for i in range(4)], batch_size=1, **QUIET)
    for i, ids in enumerate(pipe.encode(TEXTS)):
        assert list(found[i].tokens) == reviser(torch.tensor([ids]), generator=[random(i)]).tokens[0].tolist()
    assert tokens(found) != pipe.encode(TEXTS)
    with pytest.raises(ValueError, match=r"num_inference_steps must be left at 128 for a Reviser.*got 7"):
        pipe.self_correction(TEXTS[:1], 7, method=reviser, **QUIET)
    with pytest.raises(ValueError, match="correct them one by one"):
        pipe.self_correction(TEXTS, method=reviser, **QUIET)
    with pytest.raises(ValueError, match=r"unless method is 'gidd'; got temperature=0\.5"):
        pipe.self_correction(TEXTS[:1], temperature=0.5, method=reviser, **QUIET)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.5}, {"tokens_per_step": 2}, {"early_stopping": False}, {"as_released": True}]
)
def test_settings_of_the_published_rule_are_refused_for_others(pipe, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"unless method is 'gidd'; got {name}={value}"):
        pipe.self_correction(TEXTS, method="balanced", **settings, **QUIET)
    with pytest.raises(ValueError, match=r"got t0=0\.2"):
        pipe.self_correction(TEXTS, method=Ones(1), t0=0.2, **QUIET)


def test_what_an_object_returns_is_checked(pipe):
    class Wrong(Ones):
        def correct(self, z, *, steps=128, rows=None, generator=None):
            return self.token(z)

    padded = "texts of different lengths are padded, which needs a network that accepts attention_mask"
    with pytest.raises(ValueError, match=padded):
        pipe.self_correction(TEXTS, method=Ones(1), **QUIET)
    with pytest.raises(ValueError, match=r"Wrong\.correct must return tokens of shape \[1, \d+\]; got \[1, 1\]"):
        pipe.self_correction(TEXTS[:1], method=Wrong(lambda z: z[:, :1]), **QUIET)
    chat = Wrong(lambda z: z + 1)
    chat.denoiser = pipe.denoiser
    with pytest.raises(ValueError, match=r"Wrong\.correct must change tokens in rows only; got \d+ changes outside"):
        pipe.self_correction(TEXTS, method=chat, **QUIET)
