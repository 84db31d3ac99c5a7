"""The recipe that compares rules of correction on text: the table by hand, and a run in which all rules get one start."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

import correction_rules  # noqa: E402


def row(name, nats, entropy, changed):
    return {"name": name, "nats": nats, "entropy": entropy, "pairs": 0.5, "changed": changed, "evaluations": 3.0}


def test_the_table_by_hand():
    """Two texts. Fresh samples: (entropy, nats) from (3, 4) to (2.5, 3), 2 nats for each nat. The rule gains 0.5 and 1.5 nats
    and loses 0.1 and 0.3 of entropy, so that 0.3 and 0.9 are beyond; the half of two values a, b is 12.706 |a - b| / 2.
    """
    rows = [
        row("before", [4.0, 4.0], [3.0, 3.0], 0.0),
        row("rule", [3.5, 2.5], [2.9, 2.7], 0.25),
        row("sampled at temperature 0.8", [3.0, 3.0], [2.5, 2.5], None),
    ]
    assert correction_rules.slope_of(rows) == pytest.approx(2)
    lines = correction_rules.render({"rows": rows}).splitlines()
    cells = [part.strip() for part in lines[3].strip("|").split("|")]
    assert cells == [
        *("rule", "3.000 ± 6.353", "+1.000 ± 6.353", "+0.200 ± 1.271", "+0.600 ± 3.812", "0.500", "25.0%", "3.0")
    ]
    assert lines[4].count("|") == lines[0].count("|") and "| +1.000 ± 0.000 | +0.500 ± 0.000 |  |" in lines[4]


def test_a_run_starts_every_rule_from_the_same_samples(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(40):
        (texts / f"{i}.txt").write_text(f"In chapter {i} the reader learns that {i} and {i} are {2 * i}. " * 3)
    small = (
        f"demo --corpus {texts} --steps 2 --warmup 1 --batch 8 --micro-batch 4 --length 16 --layers 1 --width 16 --heads 2 "
        "--vocab-size 300 --log-every 2 --evaluate-every 2 --save-every 2 --validation-sequences 8 --cpu True "
        "--validation 0.25"
    ).split()
    tokenizer = ["--tokenizer", str(tmp_path / "hybrid" / "tokenizer")]
    for name, output, more in (("gidd_plus", "hybrid", []), ("autoregressive", "judge", tokenizer)):
        spec = importlib.util.spec_from_file_location(f"rules_{name}", ROOT / "recipes" / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main([*small, *more, "--output", str(tmp_path / output)])
    options = correction_rules.Options(
        model=tmp_path / "hybrid" / "final",
        judge=tmp_path / "judge" / "final",
        out=tmp_path / "found" / "rules.json",
        samples=3,
        steps=2,
        moves=(2,),
        cooler=(0.5,),
    )
    content = correction_rules.main(options)
    by_name = {one["name"]: one for one in content["rows"]}
    assert len(by_name) == 1 + 2 + 3 + 2 + 1
    assert by_name["random Gibbs, 2 moves"]["evaluations"] == 2 == by_name["before"]["evaluations"]
    # At most one token for each move, of 16.
    assert 0 < by_name["random Gibbs, 2 moves"]["changed"] <= 2 / 16 >= by_name["GIDD, 2 tokens"]["changed"] > 0
    assert by_name["sampled at temperature 0.5"]["changed"] is None
    stored = json.loads(options.out.read_text())
    assert options.out.with_suffix(".md").read_text() == correction_rules.render(stored)


def test_the_table_of_the_study_is_that_of_the_stored_rows():
    folder = ROOT / "docs" / "assets" / "corrections"
    stored = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    assert (folder / "text.md").read_text(encoding="utf-8") == correction_rules.render(stored)
