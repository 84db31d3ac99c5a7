"""What is saved is restored: the same samples in a process of its own, bit for bit, on any noise."""

import json
import subprocess
import sys

import family
import pytest
import torch
from small import pipeline, random

import noiselab as nl
from noiselab.pipeline import DiffusionPipeline, GenerationSettings, ModelSettings, Pipeline
from noiselab.processes import FAMILIES, process_from

QUIET = {"show_progress": False}
PROGRAM = """
import json, sys, torch
from noiselab.pipeline import Pipeline
pipe = Pipeline.from_pretrained(sys.argv[1])
texts = pipe.generate(2, 5, generator=torch.Generator().manual_seed(3), show_progress=False)
texts += pipe.self_correction(texts, 5, generator=torch.Generator().manual_seed(4), show_progress=False)
print(json.dumps([text.tokens for text in texts]))
"""


@pytest.mark.parametrize("family", ["gidd"])
def test_a_fresh_process_draws_the_same_samples(tmp_path, family):
    pipe = pipeline(family, dtype=torch.float32)
    pipe.save_pretrained(tmp_path / "model")
    texts = pipe.generate(2, 5, generator=random(3), **QUIET)
    texts += pipe.self_correction(texts, 5, generator=random(4), **QUIET)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == [list(text.tokens) for text in texts]


NOISES = [settings for module in family.modules().values() for settings in getattr(module, "SETTINGS", [])]


@pytest.mark.parametrize("settings_of", NOISES, ids=lambda settings_of: settings_of(9)["family"])
def test_noise_and_defaults_are_restored(tmp_path, settings_of):
    plain = pipeline()
    noise = settings_of(plain.process.vocab_size)
    settings = ModelSettings(noise, generation=GenerationSettings(steps=7, temperature=0.9, top_p=0.8))
    pipe = DiffusionPipeline(plain.model.float(), plain.tokenizer, settings)
    pipe.save_pretrained(tmp_path / "model")
    again = Pipeline.from_pretrained(tmp_path / "model")
    assert again.settings == settings and repr(again.process) == repr(pipe.process)
    t = torch.linspace(*pipe.process.domain, 7, dtype=torch.float64)
    assert torch.equal(again.process.alpha(t), pipe.process.alpha(t))
    assert again.generate(1, generator=random(), **QUIET) == pipe.generate(1, 7, generator=random(), **QUIET)


def test_frequencies_and_families_of_ones_own():
    process = process_from({"family": "unigram", "frequencies": [0.5, 0.3, 0.2]})
    assert torch.allclose(process.noise(torch.ones(1, 1).double()).dense(), torch.tensor([[[0.5, 0.3, 0.2]]]).double())

    class Mine(nl.InterpolatingProcess):
        def __init__(self, power):
            super().__init__()
            self.power = power

        def alpha(self, t):
            return 1 - t**self.power

        def mixing(self, t):
            return torch.full((*t.shape, 4), 0.25)

    FAMILIES["mine"] = Mine
    try:
        assert process_from({"family": "mine", "power": 3}).alpha(torch.tensor(0.5)) == 0.875
    finally:
        del FAMILIES["mine"]
    for settings, words in (
        ({}, "family must be one of"),
        ({"family": "masked", "vocab_size": 4, "mask_id": 3, "signal": "sine"}, "signal must be one of"),
        ({"family": "masked", "vocab_size": 4, "mask_id": 3, "sigma": 1}, "must be its arguments"),
        (
            {"family": "masked", "vocab_size": 4, "mask_id": 3, "signal": {"name": "cosine", "a": 1}},
            "arguments of 'cosine'",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            process_from(settings)


def test_a_half_written_model_does_not_replace_a_whole_one(tmp_path, monkeypatch):
    pipe = pipeline(dtype=torch.float32)
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(ModelSettings, "save_pretrained", lambda self, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipe.save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    assert Pipeline.from_pretrained(tmp_path / "model").settings == pipe.settings
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_card_says_what_the_model_is(tmp_path):
    pipe = pipeline(dtype=torch.float32)
    pipe.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: noiselab\n") and repr(pipe.process) in card
    assert f"{pipe.network.num_parameters():,}" in card and "pipe.self_correction" in card


def test_push_to_hub_uploads_what_is_saved(monkeypatch, tmp_path):
    seen = {}

    class Api:
        def create_repo(self, name, private=None, exist_ok=False):
            seen["private"] = private
            return type("Made", (), {"repo_id": f"me/{name}"})

        def upload_folder(self, repo_id, folder_path, commit_message):
            made = Pipeline.from_pretrained(folder_path)
            seen.update(repo=repo_id, settings=made.settings, message=commit_message)
            return "the address"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    pipe = pipeline(dtype=torch.float32)
    assert pipe.push_to_hub("mine", private=True, message="first") == "the address"
    assert seen == {"private": True, "repo": "me/mine", "settings": pipe.settings, "message": "first"}
