"""Text is read and written as UTF-8 on every machine: no file is opened in the encoding of the locale."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "noiselab").rglob("*.py")), *sorted((ROOT / "recipes").rglob("*.py"))]


def in_the_locale(text):
    """The lines of calls that open a text file, or read or write one at once, without an encoding."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        method = isinstance(node.func, ast.Attribute)
        if method and ast.unparse(node.func) == "os.open":  # a descriptor
            continue
        name = node.func.attr if method else getattr(node.func, "id", "")
        modes = [word.value for word in node.keywords if word.arg == "mode"] or node.args[0 if method else 1 :][:1]
        binary = any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
        if method and (
            (name == "read_text" and not node.args)
            or (name == "write_text" and len(node.args) == 1)
            or (name == "open" and not binary)
        ):
            found.append(node.lineno)
        if not method and name == "open" and not binary:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_text_file_is_opened_in_the_encoding_of_the_locale(file):
    assert in_the_locale(file.read_text(encoding="utf-8")) == []


def test_such_a_call_is_seen():
    wrong = 'p.read_text()\np.write_text("a")\np.open()\np.open("w")\nopen("a")\nopen("a", "w")\n'
    right = 'p.read_text(encoding="utf-8")\np.open("rb")\nos.open(p, f)\nopen(a, mode="ab")\nwrite_text(p, "a")\n'
    assert in_the_locale(wrong) == [1, 2, 3, 4, 5, 6] and in_the_locale(right) == []
