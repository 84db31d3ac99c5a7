"""Folders in published formats with a tokenizer become pipelines with the noise of their training."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from noiselab.data import character_tokenizer
from noiselab.pipeline import DiffusionPipeline, Pipeline

FORMATS = Path(__file__).parents[1] / "fixtures" / "formats"
NOISE = {
    "tiny-gidd-easydel": "Absorbing",
    "tiny-gidd-easydel-unif": "Uniform",
    "tiny-mdlm": "Absorbing",
    "tiny-udlm": "Uniform",
    "tiny-duo": "Uniform",
    "tiny-llada2-moe": "Absorbing",
    "tiny-a2d-qwen3": "Absorbing",
}
TOKENIZER = character_tokenizer(["abcdefghijklmnopqrstuvwxyz .,"])  # 0 end of text, 1 padding, 2 mask
HALF = torch.tensor([0.5], dtype=torch.float64)


def folder_of(name, tmp_path):
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(FORMATS / name / file, tmp_path / file)
    TOKENIZER.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NOISE)
def test_a_folder_becomes_a_pipeline_that_generates_and_comes_back(name, tmp_path, recwarn):
    pipe = Pipeline.from_pretrained(folder_of(name, tmp_path))
    assert type(pipe) is DiffusionPipeline
    mask = {"tiny-mdlm": 60}.get(name, 2)
    noise = pipe.process.mixing(HALF)[0]
    if NOISE[name] == "Absorbing":
        assert noise[mask] == 1
        assert not pipe.support[mask]
    else:
        kept = torch.arange(len(noise)) != (2 if "gidd" in name else -1)
        torch.testing.assert_close(noise, kept.double() / kept.sum())
    alpha = (
        torch.sigmoid(9 - 18 * HALF) if "gidd" in name else 1 - 0.999 * HALF if "lm" in name or "duo" in name else HALF
    )
    torch.testing.assert_close(pipe.process.alpha(HALF), alpha)
    texts = pipe.generate(
        num_samples=2, num_inference_steps=4, length=8, generator=torch.Generator().manual_seed(0), show_progress=False
    )
    assert all((max(text.tokens) < 32 and mask not in text.tokens) or NOISE[name] == "Uniform" for text in texts)
    pipe.save_pretrained(tmp_path / "saved")
    again = Pipeline.from_pretrained(tmp_path / "saved")
    assert repr(again.process) == repr(pipe.process) and again.settings.predicts == pipe.settings.predicts
    same = again.generate(
        num_samples=2, num_inference_steps=4, length=8, generator=torch.Generator().manual_seed(0), show_progress=False
    )
    assert [text.tokens for text in same] == [text.tokens for text in texts]
    assert [str(one.message) for one in recwarn if "noiselab" in str(one.message)] == []


def test_the_denoiser_of_a_pipeline_shows_the_network_sigma(tmp_path):
    pipe = Pipeline.from_pretrained(folder_of("tiny-udlm", tmp_path))
    wanted = load_file(FORMATS / "tiny-udlm" / "reference_logits.safetensors")
    with torch.no_grad():
        found = pipe.denoiser(wanted["input_ids"], wanted["times"])
    kept = found.isfinite()
    assert kept[..., :32].all() and not kept[..., 32:].any()  # the tokenizer has 32 tokens, the network 61
    assert (found - wanted["logits"])[kept].abs().max() < 1e-4


def test_transformers_does_not_warn_of_types_that_it_does_not_know(tmp_path):
    """Its search for a tokenizer reads config.json; the message is harmless. Its other messages, and later ones, are kept."""
    said = []

    class Handler(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    source, handler = logging.getLogger("transformers.configuration_utils"), Handler()
    source.addHandler(handler)
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()  # other tests want less
    try:
        Pipeline.from_pretrained(folder_of("tiny-udlm", tmp_path))
        assert said == []
        PreTrainedConfig.from_pretrained(tmp_path)
        assert len(said) == 1 and said[0].startswith("You are using a model of type `udlm` to instantiate")
        assert source.filters == []
    finally:
        transformers.logging.set_verbosity(before)
        source.removeHandler(handler)
