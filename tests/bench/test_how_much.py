"""The study of how much to correct: comparisons at equal gain by hand, and pages that are those of the stored rows."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import correction_pages  # noqa: E402
import how_much  # noqa: E402
import how_much_tables  # noqa: E402

STUDY, TRAINED = (ROOT / "docs" / "assets" / name for name in ("how_much", "corrections"))


def row(rule, gap, pairs, start=8):
    place = {"chain": "sharp", "noise": "gidd", "denoiser": "exact", "start": start}
    half = {"gap": 0.0, "pairs": 0.0}
    names = dict(zip(("rule", "setting"), rule, strict=True))
    return place | names | {"gap": gap, "divergence": pairs, "pairs": pairs, "evaluations": 2.0, "half": half}


def test_rules_are_compared_at_equal_gain():
    """The other rule passes 0.1 nats a quarter of the way from 0.2 to -0.2: pairs 0.1 + (0.3 - 0.1) / 4."""
    rows = [row(how_much_tables.BALANCED, [0.3, 0.1, 0.1], [0.1, 0.05, 0.06])]
    rows.append(row(how_much_tables.PUBLISHED, [0.3, 0.2, -0.2], [0.1, 0.1, 0.3]))
    found = how_much_tables.Found(rows)
    (case,) = found.cases
    assert found.at_gap(case, how_much_tables.PUBLISHED, 0.1, "pairs") == pytest.approx(0.15)
    assert how_much_tables.compare(found, "pairs") == {"better": 1, "of": 1, "left out": 0, "median": 0.15 / 0.06}
    # A rule that never reaches the gain is left out, and one that is closer counts against.
    never = how_much_tables.Found([rows[0], row(how_much_tables.PUBLISHED, [0.3, 0.2, 0.15], [0.1, 0.1, 0.3])])
    assert how_much_tables.compare(never, "pairs")["left out"] == 1
    closer = how_much_tables.Found([rows[0], row(how_much_tables.PUBLISHED, [0.3, 0.2, -0.2], [0.1, 0.01, 0.02])])
    assert how_much_tables.compare(closer, "pairs")["better"] == 0


def test_a_run_has_a_row_for_each_rule_and_starts_from_the_samples():
    chains = {"sharp": how_much.worlds()["sharp"]}
    rows = how_much.run_all(chains, (4,), (0, 1), 20)
    assert len(rows) == 4 * len(how_much.RULES)  # two noises, the exact denoiser and a wrong one
    for case in {(one["noise"], one["denoiser"]) for one in rows}:
        same = [one for one in rows if (one["noise"], one["denoiser"]) == case]
        assert len({(one["gap"][0], one["pairs"][0]) for one in same}) == 1
        assert {len(one["gap"]) for one in same} == {how_much.STEPS + 1}
        costs = {(one["rule"], one["setting"]): one["evaluations"] for one in same}
        assert costs["GIDD", "temperature 1"] == how_much.STEPS > costs["balanced", "level 0.001"] >= 1
    assert torch.get_num_threads() >= 1


def test_the_pages_are_those_of_the_stored_rows(tmp_path):
    written = json.loads((STUDY / "rows.json").read_text(encoding="utf-8"))
    how_much_tables.write_pages(written["rows"], written["minutes"], tmp_path)
    for name in ("answer.md", "table.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (STUDY / name).read_text(encoding="utf-8")
    rows, settings = correction_pages.read_rows(TRAINED / "rows.json")
    correction_pages.write_pages(rows, settings, tmp_path)
    for name in ("answer.md", "table.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (TRAINED / name).read_text(encoding="utf-8")
