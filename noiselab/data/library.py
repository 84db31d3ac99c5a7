"""The default corpus: the text that comes with every Python installation, so that nothing is downloaded."""

import ast
import functools
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from .corpus import TextCorpus, hash_share

# Not part of the library proper, or absent on some machines: tests and installed packages. The modules in `encodings`
# are mostly tables of characters.
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings"}

# The documentation of the language, as one dictionary of plain texts.
_TOPICS = "pydoc_data/topics.py"

_COMMENTS = re.compile(r"(?:^[ \t]*#.*\n)+", re.MULTILINE)
_COMMENT_SIGN = re.compile(r"^[ \t]*#+:? ?", re.MULTILINE)
_NOT_PROSE = re.compile(r">>>|[|]  |[=*~^_#-]{4,}")
_WORDY = set(" .,;:'\"")


def standard_library(
    contents: str = "sources",
    split: str = "train",
    *,
    validation_share: float = 0.05,
    folder: str | Path | None = None,
) -> TextCorpus:
    """Return the sources and the documentation of Python's standard library, as found on this machine.

    The text differs a little between versions of Python. Files are taken in the order of their paths, and a hash of
    the path decides the side of the split, so that a file keeps its side from version to version. Files that are
    empty or not UTF-8 are skipped.

    **Arguments:**

    - `contents`: `"sources"`: every module, and the topics of the language reference (about 11 MB); `"prose"`: only
      the English paragraphs of the topics, docstrings and comments, each on one line and each once (about 1.8 MB).
      A small model reaches readable samples much sooner on prose.
    - `split`: `"train"`, `"validation"` or `"all"`.
    - `validation_share`: the expected share of the documents for validation, in (0, 1).
    - `folder`: read this folder instead of the standard library's.

    **Returns:** a corpus in memory; its documents are modules and topics.

    **Raises:** `ValueError` if there is no text, as in an installation without sources.

    **Example:**

    ```python
    from noiselab.data import standard_library

    validation = standard_library("prose", "validation")
    text = next(iter(validation))
    ```
    """
    if contents not in ("sources", "prose"):
        raise ValueError(f"contents must be 'sources' or 'prose'; got {contents!r}")
    if split not in ("train", "validation", "all"):
        raise ValueError(f"split must be 'train', 'validation' or 'all'; got {split!r}")
    if not 0.0 < validation_share < 1.0:
        raise ValueError(f"validation_share must lie between 0 and 1; got {validation_share}")
    root = Path(sysconfig.get_path("stdlib") if folder is None else folder)
    documents = _documents(contents, root)
    texts = [
        text
        for name, text in documents
        if split == "all" or (hash_share(name) < validation_share) == (split == "validation")
    ]
    if not texts:
        raise ValueError(
            f"the standard library must hold text for contents {contents!r} and split {split!r}; "
            f"{root} gave {len(documents)} documents in all"
        )
    return TextCorpus(texts, name=f"library-{contents}-{split}")


@functools.lru_cache(maxsize=4)
def _documents(contents: str, root: Path) -> tuple[tuple[str, str], ...]:
    """Read (name, text) pairs, sorted by path. Kept, since the splits share them and parsing takes seconds."""
    documents: list[tuple[str, str]] = []
    for name, text in _modules(root):
        if name == _TOPICS:
            documents.extend(_topics(text))
        elif contents == "sources":
            documents.append((name, text))
        else:
            documents.append((name, "\n\n".join([*_docstrings(text), *_comments(text)])))
    if contents == "prose":
        known: set[str] = set()  # a paragraph counts once, for the split too: duplicates would leak into validation
        documents = [(name, "\n".join(_paragraphs(text, known))) for name, text in documents]
    return tuple((name, text) for name, text in documents if text.strip())


def _modules(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the relative path and the text of each module."""
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(paths):
        # `_sysconfigdata...` is written by the build and holds paths of the machine.
        if _LEFT_OUT.isdisjoint(name.split("/")) and not name.startswith("_sysconfigdata"):
            try:
                yield name, paths[name].read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old modules hold invalid escapes
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def _topics(source: str) -> Iterator[tuple[str, str]]:
    tree = _parse(source)
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                yield f"{_TOPICS}/{topic}", text


def _docstrings(source: str) -> Iterator[str]:
    tree = _parse(source)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _comments(source: str) -> Iterator[str]:
    for block in _COMMENTS.findall(source):
        yield _COMMENT_SIGN.sub("", block)


def _paragraphs(text: str, known: set[str]) -> Iterator[str]:
    """Yield paragraphs that read as English and are not yet `known`, each on one line; add them to `known`."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        words = block.split()
        if len(words) < 5 or _NOT_PROSE.search(block):
            continue
        line = " ".join(words)
        starts = line[0].isupper() or line[0] in "\"'("
        wordy = sum(sign.isalpha() or sign in _WORDY for sign in line) / len(line)
        if starts and line[-1] in ".!?:" and wordy >= 0.93 and line not in known:
            known.add(line)
            yield line
