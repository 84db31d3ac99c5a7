"""Every Python block of the pages, of README.md and of the docstrings runs unchanged."""

import ast
import re
import textwrap
from pathlib import Path

import jaxtyping
import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [*sorted((ROOT / "noiselab").rglob("*.py")), *sorted((ROOT / "recipes").rglob("*.py"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(text):
    """The Python blocks of a text, and the number of lines before each."""
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start(2)), textwrap.dedent(match[2])


def docstrings(path):
    """(name, docstring, line before it) of a module and all it defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    scopes = [(module, tree)]
    while scopes:
        name, node = scopes.pop()
        if text := ast.get_docstring(node, clean=False):
            yield name, text, node.body[0].lineno - 1
        inner = (ast.ClassDef, ast.FunctionDef)
        scopes += [(f"{name}.{child.name}", child) for child in node.body if isinstance(child, inner)]


def run(text, path, namespace, lines_before=0):
    for line, source in blocks(text):
        # Empty lines in front, so that a traceback points to the line of the file.
        code = compile("\n" * (lines_before + line) + source, path, "exec")
        exec(code, namespace)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """An empty folder; what an example sets for the whole process is put back."""
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_default_dtype(torch.float32)
    jaxtyping.config.update("jaxtyping_disable", False)


WITH_CODE = [page for page in PAGES if page.exists() and BLOCK.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page):
    torch.manual_seed(0)
    run(page.read_text(encoding="utf-8"), str(page), {"__name__": "__main__"})


EXAMPLES = {name: (path, text, line) for path in MODULES for name, text, line in docstrings(path) if BLOCK.search(text)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_runs(name):
    path, text, line = EXAMPLES[name]
    torch.manual_seed(0)
    run(text, str(path), {"__name__": "__main__"}, line)


def test_all_examples_are_found():
    """Each Example heading has a block that the tests above run."""
    marked = {name for path in MODULES for name, text, _ in docstrings(path) if "**Example" in text}
    assert marked == set(EXAMPLES) and len(marked) > 10
    assert ROOT / "docs" / "learn" / "own_process.md" in WITH_CODE


def test_messages_on_the_page_are_those_of_the_code():
    import noiselab as nl

    class Process(nl.InterpolatingProcess):
        def __init__(self, alpha=lambda t: 1 - t, row=(0.5, 0.5, 0.0, 0.0), support=None):
            super().__init__(support)
            self.written, self.row = alpha, torch.tensor(row)

        def alpha(self, t):
            return self.written(t)

        def mixing(self, t):
            return self.row

    page = (ROOT / "docs" / "learn" / "own_process.md").read_text(encoding="utf-8")
    for process in (
        Process(alpha=lambda t: t),
        Process(alpha=lambda t: t.mean()),
        Process(row=(0.5, 0.4, 0.0, 0.0)),
        Process(support=torch.ones(3, dtype=torch.bool)),
    ):
        with pytest.raises(ValueError) as error:
            process.validate()
        assert f"| `{error.value}` |" in page
