"""The paired comparison of two models: by hand, in both units, and what cannot be compared."""

import math

import pytest

from noiselab.evaluation import TextScores, compare_texts

TEXTS = ["v", "w", "x", "y", "z"]


def scores(nats, **more):
    given = {"texts": TEXTS, "tokens": [10] * 5, "sizes": [20, 40, 40, 20, 80], "tokenizer": "one"} | more
    return TextScores(more.pop("name", "model"), nats=nats, **{k: v for k, v in given.items() if k != "name"})


def test_five_numbers_by_hand():
    """Differences per token -0.3, -0.1, 0.1, -0.4, -0.2: mean -0.18, squared deviations 0.0144, 0.0064, 0.0784, 0.0484 and
    0.0004, in all 0.148, variance 0.037, standard error sqrt(0.037 / 5) = 0.0860; the 97.5 % quantile of Student's t with 4
    degrees of freedom is 2.7764.
    """
    found = compare_texts(scores([17.0, 24.0, 31.0, 16.0, 28.0]), scores([20.0, 25.0, 30.0, 20.0, 30.0]))
    assert found.unit == "nats per token"
    assert found.differences == pytest.approx([-0.3, -0.1, 0.1, -0.4, -0.2])
    assert found.difference.mean == pytest.approx(-0.18)
    assert found.error == pytest.approx(0.086023, abs=1e-6)
    assert found.difference.half == pytest.approx(2.7764 * 0.086023, abs=2e-4)
    assert not found.same_noise


def test_a_difference_that_all_texts_share_is_certain_although_the_texts_differ_much():
    hard = [10.0, 500.0, 90.0, 2000.0, 70.0]
    found = compare_texts(scores([nats - 1 for nats in hard]), scores(hard))
    assert found.difference.mean == pytest.approx(-0.1) and found.difference.half < 1e-12


def test_unlike_tokenizers_are_compared_in_bits_per_byte():
    other = {"tokenizer": "another", "tokens": [7, 8, 9, 10, 11]}
    bits = [[1.0, 2.0, 1.5, 1.0, 3.0], [1.5, 2.0, 1.0, 1.0, 2.0]]
    sizes = [20, 40, 40, 20, 80]
    nats = [[rate * size * math.log(2) for rate, size in zip(row, sizes, strict=True)] for row in bits]
    found = compare_texts(scores(nats[0]), scores(nats[1], **other))
    assert found.unit == "bits per byte" and found.first == pytest.approx(bits[0])
    assert found.difference.mean == pytest.approx((-0.5 + 0 + 0.5 + 0 + 1) / 5)


def test_the_same_noise_is_said_only_of_bounds_with_the_same_settings():
    one, nats = {"noise": {"seed": 1}}, [1.0, 2.0, 3.0, 4.0, 5.0]
    assert compare_texts(scores(nats, **one), scores(nats, **one)).same_noise
    for other in ({"noise": {"seed": 2}}, {}, {"bound": False, **one}):
        assert not compare_texts(scores(nats, **one), scores(nats, **other)).same_noise


def test_what_cannot_be_compared_is_refused():
    nats = [1.0, 2.0, 3.0, 4.0, 5.0]
    one = {"texts": ["v"], "tokens": [1], "sizes": [1]}
    for first, second, words in (
        (scores(nats), scores(nats, texts=TEXTS[::-1]), "the same texts in the same order"),
        (scores(nats), scores(nats, texts=["v", "w", "x", "y", "q"]), "of which 4 are the same"),
        (scores(nats), scores(nats, tokens=[9] * 5), "must score the same tokens; model has 50, model 45"),
        (scores(nats, sizes=[1, 1, 0, 1, 1]), scores(nats, tokenizer="another"), "must have bytes.*; text 2 has none"),
        (scores([1.0], **one), scores([2.0], **one), "at least two texts, for an interval; got 1"),
    ):
        with pytest.raises(ValueError, match=words):
            compare_texts(first, second)
    for bad, words in (
        ({"nats": [1.0, 2.0]}, "one value of each kind for each text"),
        ({"nats": [1.0, 2.0, 3.0, 4.0, math.inf]}, "nats of model must be finite; text 4 has inf"),
        ({"nats": nats, "tokens": [1, 1, 0, 1, 1]}, "tokens of text 2 must be .*; got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            scores(**bad)
