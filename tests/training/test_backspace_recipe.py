import json

import pytest
from test_recipes import SMALL, load, texts  # noqa: F401


def test_the_whole_comparison(tmp_path, texts, capsys):  # noqa: F811
    recipe = load("backspace")
    few = [
        "--seeds",
        "2",
        "--samples",
        "6",
        "--streams",
        "2",
        "--share",
        "0.3",
        "--only",
        "plain",
        "erasing",
        "visible, model",
    ]
    arguments = ["demo", *SMALL, *texts, *few, "--output", str(tmp_path / "run")]
    rows = recipe.main(arguments)
    assert [(row["arm"], row["backspaces"]) for row in rows] == [
        ("plain", "no"),
        ("erasing", "yes"),
        ("erasing", "no"),
        ("visible, model", "yes"),
        ("visible, model", "no"),
        ("GIDD+, p_uniform 0.2", ""),
    ]
    for row in rows:
        assert 0 < row["nats"] < 8 and 0 <= row["area"]["mean"] <= 1
        # Without a backspace nothing is taken back; a text costs one evaluation for each token, and one to let it stand.
        if row["backspaces"] == "no":
            assert row["taken_back"]["mean"] == 0
            assert row["evaluations"]["mean"] == pytest.approx(1 + 1 / 16)
    assert any(row["backspaces"] == "yes" and row["taken_back"]["mean"] > 0 for row in rows)
    printed = capsys.readouterr().out
    assert "| plain | no |" in printed and "| GIDD+, p_uniform 0.2 |" in printed
    assert json.loads((tmp_path / "run" / "table.json").read_text())["rows"] == rows
    with pytest.raises(ValueError, match="only must be among"):
        recipe.main([*arguments[:-2], "--only", "nobody", "--output", str(tmp_path / "run")])
