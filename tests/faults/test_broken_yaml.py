"""A settings file that is not YAML, or not text, ends in one line that names it."""

import pytest

from noiselab.training.options import run_recipe, yaml_flags


@pytest.mark.parametrize("content", [b"steps: [1, 2", b"a: b: c", b"\xff\xfe\x00", b"\tsteps: 1", b"- 1", b""])
def test_it_is_named_in_one_line(content, tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"settings\.yaml must") as error:
        yaml_flags(file)
    assert "\n" not in str(error.value)
    with pytest.raises(SystemExit) as end:
        run_recipe(lambda: yaml_flags(file))
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
