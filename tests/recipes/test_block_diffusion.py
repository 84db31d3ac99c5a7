"""The recipe of block diffusion and diffusion forcing, at its smallest size."""

import re

import pytest
import torch
from one_pass_worlds import SeparatePasses
from test_recipes import SMALL, load, texts  # noqa: F401 (a fixture)

import noiselab as nl
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.pipeline import Pipeline

pytestmark = pytest.mark.long


@pytest.mark.parametrize("share", ["0.1", "0"])
def test_blocks_are_trained_bounded_and_sampled(tmp_path, texts, share, capsys):  # noqa: F811
    recipe = load("block_diffusion")
    output = ["--output", str(tmp_path / "run"), "--block-size", "4", "--p-uniform", share]
    trainer = recipe.main(["demo", *SMALL, *texts, *output])
    said = float(re.search(r"bound on held-out text: ([\d.]+) ±", capsys.readouterr().out)[1])
    pipe = Pipeline.from_pretrained(tmp_path / "run" / "final" / "ema")
    assert pipe.settings.block_size == 4 and repr(pipe.process) == repr(trainer.loss.keywords["process"])
    held_out = torch.stack([row["input_ids"] for row in trainer.eval_dataset])
    denoiser = SeparatePasses(TransformersDenoiser(pipe.network), 4, held_out)
    with torch.no_grad():
        terms = nl.continuous_bound(
            pipe.process, denoiser, held_out, nodes=32, generator=torch.Generator().manual_seed(0)
        )
    assert said == pytest.approx(terms.total.mean().item() / held_out.shape[1], rel=0.3)
    (text,) = pipe.generate(1, 2, show_progress=False)
    assert len(text.tokens) == 16


def test_diffusion_forcing_draws_a_time_for_each_token(tmp_path, texts, capsys):  # noqa: F811
    recipe = load("block_diffusion")
    trainer = recipe.main(["forcing", *SMALL, *texts, "--output", str(tmp_path / "run"), "--token-times", "1.0"])
    times = trainer.loss.keywords["times"](8, 16, generator=torch.Generator().manual_seed(0))
    assert (times.std(1) > 0.1).all() and trainer.settings["times"] == repr(trainer.loss.keywords["times"])
    assert "bound on held-out text" in capsys.readouterr().out
    assert Pipeline.from_pretrained(tmp_path / "run" / "final" / "ema").settings.block_size is None
    with pytest.raises(ValueError, match="token_times must be 0 in blocks"):
        recipe.main(["demo", *SMALL, *texts, "--output", str(tmp_path / "other"), "--token-times", "0.5"])
