"""Do the tests notice? Small seeded changes of the library, one at a time, each with the tests that reach its line.

    python tests/mutants.py cover                    # which test reaches which line of the last commit: a quarter of an hour
    python tests/mutants.py run samplers --count 60  # changes in a folder or file of noiselab/

Needs pytest-cov. Works in a clone of the last commit, in the folder for temporary files. Prints "survived" for a change
that no test noticed and "killed" for one that a test noticed, with the number of tests that ran, out of those that reach
the line (or, for what runs when the module is imported, any line of its file).
"""

import argparse
import ast
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parents[1]
TREE = Path(tempfile.gettempdir()) / "noiselab-mutants"
PYTEST = (
    "-q",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:anyio",
    "-p",
    "no:xdist",
    "-m",
    "not long and not docs",
)
OWN = 60  # tests of the package itself that run first, since those of a few files start sooner
LATER = 5000  # seconds by which a changed file is newer, so that no compiled copy of it is used

SWAPS = {
    **{ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")},
    **{ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is")},
    **{ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")},
    **{ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&")},
}
WORDS = {"any": "all", "all": "any", "amax": "amin", "amin": "amax", "argmax": "argmin", "argmin": "argmax"}
WORDS |= {"min": "max", "max": "min"}


class Source:
    """A file, and the places in it that can be changed: line, first byte, length, new text."""

    def __init__(self, path: Path):
        self.path, self.raw = path, path.read_bytes()
        lines = self.raw.splitlines(keepends=True)
        self.starts = [sum(map(len, lines[:i])) for i in range(len(lines))]

    def at(self, line: int | None, column: int | None) -> int:
        return self.starts[(line or 1) - 1] + (column or 0)

    def begin(self, node: ast.AST) -> int:
        return self.at(node.lineno, node.col_offset)

    def end(self, node: ast.AST) -> int:
        return self.at(node.end_lineno, node.end_col_offset)

    def places(self) -> list[tuple[int, int, int, str]]:
        tree = ast.parse(self.raw)
        skipped = {id(part) for node in ast.walk(tree) for part in untouched(node)}
        found = {place for node in ast.walk(tree) if id(node) not in skipped for place in self.of(node)}
        return sorted(found)

    def of(self, node: ast.AST) -> Iterator[tuple[int, int, int, str]]:
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            for left, right, operator in zip(parts, parts[1:], node.ops, strict=False):
                yield from self.between(left, right, operator)
        elif isinstance(node, ast.BinOp):
            yield from self.between(node.left, node.right, node.op)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from self.between(left, right, node.op)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            yield node.lineno, self.begin(node), self.begin(node.operand) - self.begin(node), ""
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            value = node.value
            new = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 2 * value or 1.0
            yield node.lineno, self.begin(node), self.end(node) - self.begin(node), repr(new)
        elif isinstance(node, ast.Name) and node.id in WORDS:
            yield node.lineno, self.begin(node), len(node.id), WORDS[node.id]
        elif isinstance(node, ast.keyword) and node.arg in WORDS:
            yield node.lineno, self.begin(node), len(node.arg), WORDS[node.arg]
        elif isinstance(node, ast.Attribute) and node.attr in WORDS:
            yield node.end_lineno or 0, self.end(node) - len(node.attr), len(node.attr), WORDS[node.attr]

    def between(self, left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[tuple[int, int, int, str]]:
        if type(operator) in SWAPS:
            old, new = SWAPS[type(operator)]
            place = self.raw[self.end(left) : self.begin(right)].find(old.encode())
            if place >= 0:
                yield left.end_lineno or 0, self.end(left) + place, len(old), new

    def statement(self, line: int) -> range:
        """The lines of the smallest statement around a line; of one with a body, those before the body."""
        found = [node for node in ast.walk(ast.parse(self.raw)) if isinstance(node, ast.stmt)]
        spans = [range(node.lineno, (node.end_lineno or node.lineno) + 1) for node in found if node.lineno <= line]
        around = [(lines.start, lines.stop) for lines in spans if line in lines]
        first, last = min(around, key=lambda ends: ends[1] - ends[0], default=(line, line + 1))  # of a decorator
        bodies = [body[0].lineno for node in found if (body := getattr(node, "body", None)) and node.lineno == first]
        return range(first, max(first + 1, min(bodies, default=last)))

    @contextlib.contextmanager
    def changed(self, first: int, size: int, new: str) -> Iterator[None]:
        stat = self.path.stat()
        try:
            self.path.write_bytes(self.raw[:first] + new.encode() + self.raw[first + size :])
            os.utime(self.path, (stat.st_mtime + LATER, stat.st_mtime + LATER))
            yield
        finally:
            self.path.write_bytes(self.raw)
            os.utime(self.path, (stat.st_mtime, stat.st_mtime))


def untouched(node: ast.AST) -> Iterator[ast.AST]:
    """Parts whose change says nothing: annotations, messages, and what is printed."""
    for field in ("annotation", "returns"):
        if isinstance(part := getattr(node, field, None), ast.AST):
            yield from ast.walk(part)
    printed = isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "extra_repr")
    if printed or isinstance(node, ast.Raise | ast.JoinedStr):
        yield from ast.walk(node)


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def cover() -> None:
    shutil.rmtree(TREE, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(HERE), str(TREE)], check=True)
    options = [
        "--cov=noiselab",
        "--cov-context=test",
        "--cov-report=",
        "--durations=0",
        "--durations-min=0",
        "-W",
        "ignore",
    ]
    with (TREE / "durations.txt").open("w") as out:
        subprocess.run(
            [sys.executable, "-m", "pytest", *PYTEST, *options], cwd=TREE, env=os.environ | environment(), stdout=out
        )


def seconds_of_tests() -> dict[str, float]:
    lines = [line.split(None, 2) for line in (TREE / "durations.txt").read_text().splitlines()]
    return {words[2]: float(words[0][:-1]) for words in lines if len(words) == 3 and words[1] == "call"}


def noticed(tests: list[str], limit: float) -> bool:
    """Whether one of the tests fails, or takes too long; in a process that has imported what is slow to import."""
    import pytest

    child = os.fork()
    if child == 0:
        os.setpgrp()
        out = os.open(str(TREE / "last.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os._exit(
            int(pytest.main(["-x", *PYTEST, "-p", "no:cov", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]))
        )
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def run(part: str, count: int, seed: int, budget: float) -> None:
    import datasets  # noqa: F401
    import transformers.trainer  # noqa: F401
    from coverage import CoverageData

    os.environ |= environment()
    os.chdir(TREE)
    sys.path.insert(0, str(TREE))
    sys.dont_write_bytecode = True
    reached, seconds = CoverageData(basename=".coverage"), seconds_of_tests()
    reached.read()
    base = TREE / "noiselab" / part
    sources = [Source(path) for path in ([base] if base.is_file() else sorted(base.rglob("*.py")))]
    places = [(source, place) for source in sources for place in source.places()]
    random.Random(seed).shuffle(places)
    killed = survived = 0
    for source, (line, first, size, new) in places:
        lines = reached.contexts_by_lineno(str(source.path))
        contexts = {c for near in source.statement(line) for c in lines.get(near, [])}
        contexts = contexts if contexts != {""} else {c for found in lines.values() for c in found}
        tests = sorted({c.split("|")[0] for c in contexts if c}, key=lambda test: seconds.get(test, 0.0))
        chosen = [test for i, test in enumerate(tests[:500]) if sum(seconds.get(t, 0.0) for t in tests[:i]) < budget]
        package = source.path.relative_to(TREE / "noiselab").parts[0].removesuffix(".py")
        own = [test for test in chosen if package in test.split("::")[0]][:OWN]
        with source.changed(first, size, new):
            found = any(noticed(some, 5 * budget) for some in (own, [t for t in chosen if t not in own]) if some)
        killed, survived = killed + found, survived + (not found)
        text = source.raw.splitlines()[line - 1].strip().decode()
        old = source.raw[first : first + size].decode()
        place = f"{source.path.relative_to(TREE)}:{line}"
        verdict = "killed  " if found else "survived"
        print(f"{verdict} {len(chosen)}/{len(tests)} {place} {old!r} -> {new!r}: {text}", flush=True)
        if killed + survived == count:
            break
    print(f"{part}: {killed} killed, {survived} survived")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["cover", "run"])
    parser.add_argument("part", nargs="?", default="")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=45.0, help="seconds of tests for a change, the quickest first")
    given = parser.parse_args()
    if given.step == "cover":
        cover()
    else:
        run(given.part, given.count, given.seed, given.budget)
