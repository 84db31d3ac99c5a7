"""Words that this library no longer uses, in code and in prose. `python tests/test_retired_words.py` lists where they are left.

A retired name is an identifier, or is written as code in a page or a docstring. A retired phrase may be written anywhere,
broken over lines or with underscores. What a word means in another sense is allowed, file by file, in `ALLOWED`.
"""

import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NAMES = {
    "Mass": "NoiseMass",
    "reveals": "is_clean",
    "lift": "as_token_times",
    "_home": "device",
    "AskedOnly": "ActiveOnly",
    "Counting": "CallCounter",
    "Meter": "CallCounter",
    "Believer": "CopyObserved",
    "Said": "KeywordVerdict",
    "Keeper": "TrainerHooks",
    "Tally": "ChangeSummary",
    "tallies": "a name that says what is summarised",
    "Writer": "BacktrackingDecoder",
    "Written": "Generation",
    "Memory": "DecoderCache",
    "KeysAndValues": "KVCache",
    "Rereading": "NoCache",
    "carry_out": "apply",
    "EDGE": "TIME_EPS",
    "ROUNDING": "a constant named for what it bounds",
    "DRAWS": "a constant named for what it bounds",
    "AT_ONCE": "a constant named for what it bounds",
    "MOST": "a constant named for what it bounds",
    "SHARE": "a constant named for what it bounds",
    "NO_SIGNAL": "a constant named for what it bounds",
    "Suspicion": "Detector",
    "PositionScore": "Detector",
}
METHODS = {"jump": "transition", "decide": "plan"}
FUNCTIONS = {"share", "rest", "at", "free", "some", "say", "key", "pick", "spread", "alike"}
FILES = {"moves", "planned", "leaping", "events", "looks", "tallies", "writing", "memory", "counting", "asked_only"}

PHRASES = {
    r"(?<!twice\s)(?<!times\s)as many": "the same number of",
    r"so many of": "the first n",
    r"stands?": "is, is stored",
    r"standing": "is, is stored",
    r"stood": "was, was stored",
    r"likeliest": "most likely",
    r"unlikeliest": "least likely",
    r"dear(?:er|est|ly)?": "expensive",
    r"can not": "cannot",
    r"not a number": "NaN",
    r"no number": "NaN",
    r"whoever": "the user who",
    r"tak(?:e|es|en|ing)(?: (?:it|them|things|that|this|tokens|one|words|mistakes))? back": "backtrack, delete, undo",
    r"took(?: (?:it|them|things))? back": "backtrack, delete, undo",
    r"(?:is|are|was|were|be|been|being)(?: not| never| only)? asked(?! for)": "is evaluated",
    r"asked about": "evaluated",
    r"(?:is|are|was|were|be|been|being)(?: not| never| only)? told": "is given",
    r"forgets?": "state-independent corruption",
    r"noise that shows": "absorbing noise",
    r"silence is consent": "returns nothing if all laws hold",
}

# (files, phrase or name as written, why it has another sense there)
ALLOWED = [
    ("tests/test_retired_words.py", "*", "this list"),
    ("recipes/backspaces/*", "taken_back", "a key of files with results"),
    ("tests/recipes/test_backspace_recipe.py", "taken_back", "a key of files with results"),
    ("recipes/checks/refusals.py", "can not", "what a model writes"),
]


def patterns() -> dict[str, re.Pattern[str]]:
    """Phrases as expressions: words end where letters end; between them are blanks, line breaks, comment signs, underscores."""
    gap = r"(?:[\s_>#|*]+)"
    return {
        phrase: re.compile(rf"(?<![A-Za-z]){phrase.replace(' ', gap)}(?![A-Za-z])", re.IGNORECASE) for phrase in PHRASES
    }


PATTERNS = patterns()
CODE_SPAN = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
NAME = re.compile(r"(?<![\w-])(?:" + "|".join(NAMES) + r")(?![\w-])")
SUFFIXES = {".py", ".md", ".ipynb", ".toml", ".yml", ".yaml", ".j2", ".sh", ""}


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = [ROOT / line for line in listed.stdout.splitlines()] or [
        path for path in ROOT.rglob("*") if not {".venv", "site", "runs", "build"} & set(path.parts)
    ]
    skipped = ("docs/assets/", "tests/fixtures/")
    return [
        path
        for path in paths
        if path.suffix in SUFFIXES
        and path.is_file()
        and not path.is_symlink()
        and not str(path.relative_to(ROOT)).startswith(skipped)
    ]


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def retired_names(text: str, python: bool) -> Iterator[tuple[int, str]]:
    """(line, name) of the retired names among identifiers, and in what is marked as code."""
    if python:
        before = ""
        try:
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                if token.type == tokenize.NAME:
                    if token.string in NAMES or (token.string in METHODS and before in (".", "def")):
                        yield token.start[0], token.string
                    if before == "def" and token.string in FUNCTIONS and token.start[1] == 4:
                        yield token.start[0], f"def {token.string}"
                if token.type in (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)):
                    for line, name in retired_names(token.string, python=False):
                        yield token.start[0] + line - 1, name
                before = token.string
        except tokenize.TokenError:
            pass
        return
    for span in CODE_SPAN.finditer(text):
        for match in NAME.finditer(span[0]):
            yield text.count("\n", 0, span.start() + match.start()) + 1, match[0]


def retired_phrases(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, phrase, as written) of the retired phrases in a text."""
    for phrase, pattern in PATTERNS.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, phrase, re.sub(r"\s+", " ", match[0])


@cache
def occurrences() -> list[tuple[str, int, str]]:
    """(file, line, word as written) of all that is left, but what is allowed."""
    found = []
    for path in files():
        name, text = str(path.relative_to(ROOT)), text_of(path)
        if path.suffix == ".py" and path.stem in FILES:
            found.append((name, 0, f"{path.stem}.py"))
        python = path.suffix == ".py"
        found += [(name, line, word) for line, word in retired_names(text, python)]
        found += [(name, line, word) for line, _, word in retired_phrases(text)]
    return sorted(
        (file, line, word)
        for file, line, word in found
        if not any(
            fnmatchcase(file, glob) and fnmatchcase(word.lower(), allowed.lower()) for glob, allowed, _ in ALLOWED
        )
    )


def test_no_retired_word_is_left():
    found = [f"{file}:{line}: {word}" for file, line, word in occurrences()]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("as many", "as many"),
        ("which is\n    # asked", "is # asked"),
        ("def test_what_is_taken_back(): ...", "taken_back"),
        ("It takes them\nback.", "takes them back"),
    ],
)
def test_a_phrase_is_seen(text, found):
    assert [word for _, _, word in retired_phrases(text)] == [found]


@pytest.mark.parametrize(
    "text", ["standard", "canned", "asked for", "a network asks", "is_standard", "no numbers", "back"]
)
def test_other_words_are_not(text):
    assert not list(retired_phrases(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = Mass(1)", ["Mass"]),
        ("z = process.jump(z)\njump = 3", ["jump"]),
        ("def share(x): ...", ["def share"]),
        ('"""The `Mass` of it, `_home` too."""', ["Mass", "_home"]),
        ("mass = NoiseMass(1)  # Mass of a body", []),
    ],
)
def test_a_name_is_seen(text, found):
    assert [word for _, word in retired_names(text, python=True)] == found


if __name__ == "__main__":
    wanted = sys.argv[1:]
    left = [one for one in occurrences() if not wanted or one[0].startswith(tuple(wanted))]
    for file, line, word in left:
        print(f"{file}:{line}: {word}")
    by_folder = Counter("/".join(file.split("/")[:2]) for file, _, _ in left)
    print("\n" + "\n".join(f"{count:5} {folder}" for folder, count in by_folder.most_common()))
    print(f"{len(left):5} in all")
