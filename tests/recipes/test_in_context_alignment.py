"""The recipe of in-context alignment, from training to tables, with networks that learn nothing."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignment import AnswersOnALine, best_answer

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    spec = importlib.util.spec_from_file_location("in_context_alignment", RECIPES / "in_context_alignment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = ("demo", "--cpu", "True", "--steps", "2", "--batch", "4", "--answers", "5", "--contexts", "40")
SMALL = ("--layers", "1", "--width", "12", "--heads", "3")


def test_from_training_to_tables(recipe, tmp_path, capsys):
    arguments = [*TINY, *SMALL, "--only", "transformer", "linear attention", "--seeds", "1", "2"]
    arguments += ["--output", str(tmp_path)]
    found = recipe.main(arguments)
    assert [(row["law"], row["arm"], row["seed"]) for row in found["rows"]] == [
        *(("line", arm, seed) for arm in ("transformer", "linear attention") for seed in (1, 2)),
        *(("scattered", "transformer", seed) for seed in (1, 2)),
    ]
    assert json.loads((tmp_path / "table.json").read_text()) == found
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "Answers on a line, error after 4 of them" in printed and "| *gradient descent* |" in printed
    # After each number of answers from 2 on, for each share of wrong rewards.
    for row in found["rows"]:
        assert {noise: len(errors) for noise, errors in row["errors"].items()} == dict.fromkeys(
            ("0.0", "0.25", "0.5", "0.75", "1.0"), 3
        )
    line = found["baselines"]["line"]
    assert max(line["line"]["0.0"]) < 0.05 and line["best of n"]["0.0"][-1] < line["best of n"]["1.0"][-1]

    again = recipe.main(arguments)  # what is trained is found again
    assert again["rows"] == found["rows"]
    with pytest.raises(ValueError, match="has other settings"):
        recipe.main([*arguments, "--steps", "3"])
    with pytest.raises(ValueError, match="only must be among"):
        recipe.main([*arguments, "--only", "one head"])


def test_each_arm_differs_in_one_thing_and_all_are_causal(recipe):
    models = sys.modules["alignment.models"]
    shape = models.Shape(layers=2, width=12)
    ranked = AnswersOnALine(3).draw(4, 6, generator=torch.Generator().manual_seed(0))
    arms = models.list_arms(shape)
    assert arms.pop("transformer") == shape
    for name, arm in arms.items():
        fields = [key for key in vars(shape) if getattr(arm, key) != getattr(shape, key)]
        assert len(fields) == (0 if name == "2 layers" else 1)
    for arm in (shape, *arms.values()):
        network = models.InContextTransformer(3, 6, replace(arm, layers=2))
        said = network(ranked.x, ranked.y, ranked.rewards.float())
        y, rewards = ranked.y.clone(), ranked.rewards.float()
        y[:, 3:], rewards[:, 3:] = 0, 0
        other = network(ranked.x, y, rewards)
        # What is said after n answers does not know those that come later, nor does it ignore those that came.
        assert torch.allclose(said[:, :4], other[:, :4], atol=1e-5)
        assert (said[:, 4:] - other[:, 4:]).abs().max() > 1e-4


def test_the_loss_is_that_of_the_answers_read_so_far(recipe):
    models = sys.modules["alignment.models"]
    ranked = AnswersOnALine(3).draw(5, 6, generator=torch.Generator().manual_seed(0))
    said = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(1))
    each = [
        models.plackett_luce(models.cosine(said[:, n], ranked.y[:, :n]), ranked.rewards[:, :n]) for n in range(2, 6)
    ]
    assert torch.allclose(models.ranking_loss(said, ranked.y, ranked.rewards), torch.stack(each).mean(), atol=1e-6)
    # The best answer of all says a lower loss than the worst.
    best, worst = (best_answer(ranked.y, sign * ranked.rewards)[:, None].expand(-1, 6, -1) for sign in (1, -1))
    assert models.ranking_loss(best, ranked.y, ranked.rewards) < models.ranking_loss(worst, ranked.y, ranked.rewards)
