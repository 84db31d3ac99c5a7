"""Laws of the order of many rows: each once in a pass, in an order that no other pass has, without memory."""

import itertools
from collections import Counter

import pytest

from noiselab.training import feeding
from noiselab.training.feeding import LargeOrder, Loading, RowFeed, Share, order_of_pass


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 17, 255, 1000])
def test_each_row_occurs_once(rows):
    for seed in range(3):
        order = LargeOrder(rows, seed)
        assert sorted(order[place] for place in range(rows)) == list(range(rows))


def test_all_orders_of_four_rows_occur_equally_often():
    counts = Counter(tuple(LargeOrder(4, seed)[place] for place in range(4)) for seed in range(4800))
    assert len(counts) == 24 and sum((n - 200) ** 2 / 200 for n in counts.values()) < 49.7  # chi-square, 23 df, .1 %


def test_rows_far_apart_and_near_are_as_independent_as_in_random_orders():
    """The distance of rows that follow each other is that of two random ones: a third of the number of rows."""
    order = LargeOrder(2**20 + 7, 5)
    found = [order[place] for place in range(20_000)]
    mean = sum(abs(a - b) for a, b in itertools.pairwise(found)) / (len(found) - 1) / 2**20
    assert mean == pytest.approx(1 / 3, abs=4 * (1 / 18 / len(found)) ** 0.5 * 2)
    bins = Counter(row * 16 // (2**20 + 7) for row in found)
    assert sum((n - 1250) ** 2 / 1250 for n in bins.values()) < 37.7  # chi-square, 15 df, .1 %


def test_a_feed_of_many_rows_resumes_in_any_step(monkeypatch):
    monkeypatch.setattr(feeding, "SMALL", 10)
    order_of_pass.cache_clear()
    loading = Loading(lambda rows: {"rows": rows})
    whole = RowFeed(range(30), Share(6, 6), loading, seed=3).steps(0)
    steps = [next(whole)[0]["rows"] for _ in range(10)]
    assert sorted(itertools.chain(*steps[:5])) == sorted(itertools.chain(*steps[5:])) == list(range(30))
    assert steps[:5] != steps[5:]
    later = RowFeed(range(30), Share(6, 6), loading, seed=3).steps(7)
    assert [next(later)[0]["rows"] for _ in range(3)] == steps[7:]
    halves = [RowFeed(range(30), Share(6, 3, rank, 2), loading, seed=3).steps(0) for rank in (0, 1)]
    first, second = (next(half)[0]["rows"] for half in halves)
    assert first == steps[0][::2] and second == steps[0][1::2]
    order_of_pass.cache_clear()
