"""Noise that a folder does not name is assumed with a warning, never in silence."""

import json
import warnings

import pytest
from small import network, tokenizer

from noiselab.data import vocabulary_size
from noiselab.pipeline import ModelSettings, Pipeline
from noiselab.processes import process_from

NO_FILE = r"no noiselab.json, so that its noise is assumed to be (?P<assumed>.*): pass settings=ModelSettings\(\.\.\.\)"


def folder(tmp_path, p_uniform=0.0, process=None):
    """What `Trainer.save_final` writes without `parts`."""
    words = tokenizer()
    network(vocabulary_size(words), p_uniform=p_uniform).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    if process is not None:
        (tmp_path / "settings.json").write_text(json.dumps({"step": 1, "numbers": {"process": process}}))
    return tmp_path


def noise(p_uniform):
    words = tokenizer()
    return {
        "family": "gidd",
        "vocab_size": vocabulary_size(words),
        "mask_id": words.mask_token_id,
        "p_uniform": p_uniform,
    }


def test_an_assumption_is_stated(tmp_path):
    with pytest.warns(UserWarning, match=NO_FILE) as found:
        pipe = Pipeline.from_pretrained(folder(tmp_path))
    (warned,) = (w for w in found if w.category is UserWarning)
    assert repr(pipe.process) in str(warned.message)


def test_what_the_trainer_wrote_is_compared(tmp_path):
    other = "Interpolation(1 - t, {Uniform(290): t})"
    with pytest.warns(
        UserWarning, match="although its settings.json says that it was trained with Interpolation.*Uniform"
    ):
        Pipeline.from_pretrained(folder(tmp_path / "other", process=other))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline.from_pretrained(folder(tmp_path / "same", process=repr(process_from(noise(0.0)))))


def test_noise_that_is_named_is_not_warned_about(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline.from_pretrained(folder(tmp_path / "config", p_uniform=0.2))
        Pipeline.from_pretrained(folder(tmp_path / "given"), settings=ModelSettings(noise(0.1)))
        ModelSettings(noise(0.1)).save_pretrained(folder(tmp_path / "stored"))
        Pipeline.from_pretrained(tmp_path / "stored")
