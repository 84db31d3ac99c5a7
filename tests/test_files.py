import errno
import json

import pytest

from noiselab.files import new_folder, write_json


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "final"
    with new_folder(target) as folder:
        (folder / "model.safetensors").write_text("old")
    with pytest.raises(OSError, match="No space"), new_folder(target) as folder:
        (folder / "model.safetensors").write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "model.safetensors").read_text() == "old"
    with new_folder(target) as folder:
        (folder / "noiselab.json").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["final"] and [p.name for p in target.iterdir()] == ["noiselab.json"]


def test_json_is_replaced_at_once(tmp_path):
    write_json(tmp_path / "s.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "s.json", {"a": object()})
    assert json.loads((tmp_path / "s.json").read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]
