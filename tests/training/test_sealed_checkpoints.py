import json
import logging

import pytest

from noiselab.training import checkpoints as ck


@pytest.fixture
def run(tmp_path):
    for step in (9, 10, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "state").mkdir()
        (folder / "state" / "1.safetensors").write_bytes(bytes(range(200)) + bytes([step]))
        (folder / "data-0.json").write_bytes(b"readers--" * step)
        (folder / ck.SETTINGS).write_text("{}")
        (folder / ck.PROGRESS).write_text('{"processes": 1}')
        (folder / "inner").mkdir()
        (folder / "inner" / "state.json").write_text(json.dumps({"step": step}))
        ck.seal(folder)
    (tmp_path / "checkpoint-final").mkdir()  # not a checkpoint of a step
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped bit": (lambda f: flip(f / "state" / "1.safetensors"), "content of state/1.safetensors"),
    "truncated": (lambda f: (f / "data-0.json").write_bytes(b"opt"), "data-0.json has 3 bytes instead of 180"),
    "missing": (lambda f: (f / "data-0.json").unlink(), "data-0.json is missing"),
    "missing below": (lambda f: (f / "inner" / "state.json").unlink(), "inner/state.json is missing"),
    "unfinished": (lambda f: (f / ck.MANIFEST).unlink(), "never finished"),
    "half a manifest": (lambda f: (f / ck.MANIFEST).write_text('{"model'), "cannot be read"),
    "not a manifest": (lambda f: (f / ck.MANIFEST).write_text("[1]"), "cannot be read"),
    "added": (lambda f: (f / "extra").write_text(""), "extra does not belong"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_noticed_said_and_passed_over(run, name, caplog):
    hurt, reason = DAMAGES[name]
    hurt(run / "checkpoint-20")
    assert not ck.intact(run / "checkpoint-20")
    with caplog.at_level(logging.WARNING):
        assert ck.last_intact(run, set_aside=True) == run / "checkpoint-10"
    assert "checkpoint-20" in caplog.text and reason in caplog.text
    assert not (run / "checkpoint-20").exists()
    assert (run / "damaged-checkpoint-20").is_dir() == (name != "unfinished")  # what a killed save left is deleted
    caplog.clear()
    assert ck.last_intact(run) == run / "checkpoint-10" and not caplog.text


def test_newest_is_by_number_and_none_is_none(run, tmp_path):
    assert ck.last_intact(run) == run / "checkpoint-20"
    assert [f.name for f in ck.checkpoints(run)] == ["checkpoint-20", "checkpoint-10", "checkpoint-9"]
    assert ck.last_intact(tmp_path / "nowhere") is None
    for folder in ck.checkpoints(run):
        flip(folder / "state" / "1.safetensors")
    assert ck.last_intact(run) is None


def test_settings_that_differ_are_named_with_both_values(tmp_path):
    settings = {"seed": 1, "training": {"learning_rate": 1e-3, "betas": (0.9, 0.99)}, "ema": None}
    ck.write_json(tmp_path / ck.SETTINGS, settings)
    ck.check_settings(tmp_path, settings)  # a tuple is saved as a list
    now = {"seed": 1, "training": {"learning_rate": 2e-3, "betas": (0.9, 0.99)}, "ema": 0.9, "world_size": 2}
    with pytest.raises(ValueError) as refused:
        ck.check_settings(tmp_path, now)
    message = str(refused.value)
    assert "training.learning_rate: 0.001 in the checkpoint, 0.002 now" in message
    assert "ema: None in the checkpoint, 0.9 now" in message
    assert "world_size: None in the checkpoint, 2 now" in message
    assert "seed" not in message and "betas" not in message
