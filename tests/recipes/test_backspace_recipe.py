import json

import pytest
from test_recipes import SMALL, load, texts  # noqa: F401


@pytest.mark.long
def test_the_whole_comparison(tmp_path, texts, capsys):  # noqa: F811
    recipe = load("backspace")
    few = ["--seeds", "3", "--samples", "2", "--streams", "2", "--share", "0.3", "--gidd", "1"]
    arms = ["--only", "plain", "erasing", "visible, model"]
    arguments = ["demo", *SMALL, *texts, *few, *arms, "--output", str(tmp_path / "run")]
    found = recipe.main(arguments)
    models = [
        *("plain, without backspaces", "erasing, with backspaces", "erasing, without backspaces"),
        *("visible, model, with backspaces", "visible, model, without backspaces", "GIDD+, 1 × the tokens"),
    ]
    assert [row["model"] for row in found.texts] == models
    for row in found.texts:
        assert 0 < row["nats"] < 8
        # Without a backspace nothing is deleted; a text costs one evaluation for each token, and one to keep it.
        if "without" in row["model"]:
            assert row["taken_back"]["mean"] == 0
            assert row["evaluations"]["mean"] == pytest.approx(1 + 1 / 16)
    assert any("with backspaces" in row["model"] and row["taken_back"]["mean"] > 0 for row in found.texts)
    diffusion = [f"{models[-1]}, {way}" for way in ("best guess", "self-correction")]
    assert [row.model for row in found.forced_errors] == [*models[:-1], *diffusion]
    for row in found.forced_errors:
        assert 0 <= row.area.mean <= 1 and row.mended.mean + row.miscorrected.mean <= 1
    assert list(found.recovery) == [*models, f"{models[-1]}, self-correction"]
    for rows in found.recovery.values():
        assert [row.errors for row in rows] == [0, 1, 2, 4] and rows[0].cost.mean == 0
    # Only a model that may backtrack can mend the end of a prompt.
    assert all(row.fixed.mean == 0 for row in found.recovery["erasing, without backspaces"])
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {model} |") >= 2 for model in models[:-1])
    # Each model is compared with the first one text by text.
    own, first = (found.texts[n]["per_text"] for n in (1, 0))
    differences = [a - b for a, b in zip(own, first, strict=True)]
    mean = sum(differences) / len(differences)
    assert len(own) == 6 and mean == pytest.approx(found.texts[1]["nats"] - found.texts[0]["nats"])
    assert f"| {mean:+.3f} ± " in printed
    written = json.loads((tmp_path / "run" / "table.json").read_text())
    assert written["texts"] == found.texts and len(written["forced_errors"]) == len(found.forced_errors)
    assert (tmp_path / "run" / "backspace.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="only must be among"):
        recipe.main([*arguments[:-2], "--only", "nobody", "--output", str(tmp_path / "run")])


def test_likelihoods_of_the_same_texts_are_compared_in_pairs():
    """Texts differ by 1, two models by 0.1 and 0.3 on them: 0.2, with 12.706 (Student's t, one degree) times 0.1."""
    from backspaces.measures import format_difference

    assert format_difference([1.1, 2.3], [1.0, 2.0]) == "+0.200 ± 1.271"
    assert format_difference([1.0, 2.0], [1.0, 2.0]) == format_difference(None, [1.0]) == ""
