"""A trace as a page: one HTML file that plays the walk and needs nothing from anywhere else."""

import html
import json
import math
import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .style import Decode, colours, no_data, texts, tokens_of
from .template import PAGE

if TYPE_CHECKING:
    from .trace import Trace


def write_trace(
    trace: "Trace",
    path: str | Path,
    *,
    sequence: int | Sequence[int] | None = None,
    decode: Decode | None = None,
    title: str = "From noise to data",
) -> Path:
    """Write a page that plays the walk: text at every stage, who changed what, when and why.

    It shows the tokens that change coloured by the kind of change, and under the pointer the story of each token.
    Keys: space plays, arrows step, Home and End jump. The file stands by itself: no library, no font, no picture is loaded.
    `page.html#stage=12&sequence=1` opens it there. Only changes are stored.

    **Arguments:**

    - `path`: the file; it appears as a whole or not at all.
    - `sequence`: which one, or which ones; all by default.
    - `decode`: the text of a token, with its blanks; by default its number.
    - `title`: plain text.

    **Returns:** the path.

    **Raises:** `ValueError` for sequences that are not there, or none.
    """
    chosen = range(len(trace.start)) if sequence is None else [sequence] if isinstance(sequence, int) else sequence
    if not chosen:
        raise ValueError("sequence must name at least one; got none")
    data = json.dumps(encode(trace, chosen, decode), separators=(",", ":"), allow_nan=False)
    # Only these could end a script element or begin a comment in it. json.dumps has made all else ASCII.
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    filled = {"title": html.escape(title), "data": data}
    content = re.sub(r"\{\{ (title|data) \}\}", lambda name: filled[name[1]], PAGE)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def encode(trace: "Trace", sequences: Sequence[int], decode: Decode | None) -> dict[str, Any]:
    """What the page knows, as JSON has it.

    **Returns:** `kinds` and their `colours`; `stages`, the kind and the step of each; `texts` by token; `off`, the tokens
    that data do not contain; `times` of each stage, see `_runs`; `sequences` with their `start`, their `changes` as
    [stage, position, new, p_old, p_new], and their own `times` where they are not those of the first.
    """
    ones = {index: trace.sequence(index) for index in sequences}
    kinds, paint = list(dict.fromkeys(trace.kinds)), colours(trace)
    shared = _times(ones[sequences[0]])
    tokens = set().union(*(tokens_of(one) for one in ones.values()))
    found = []
    for index, one in ones.items():
        rows = zip(one.changed.tolist(), one.probs.tolist(), strict=True)
        changes = [[stage, position, new, *map(_known, probs)] for (stage, _, position, _, new), probs in rows]
        found.append({"index": index, "start": one.start[0].tolist(), "changes": changes})
        times = _times(one)
        if times != shared:
            found[-1]["times"] = times
    return {
        "kinds": kinds,
        "colours": [paint.get(kind) for kind in kinds],
        "stages": {"kind": [kinds.index(kind) for kind in trace.kinds], "step": list(trace.steps)},
        "texts": {str(token): text for token, text in texts(tokens, decode).items()},
        "spaced": decode is None,
        "off": no_data(trace, tokens),
        "times": shared,
        "sequences": found,
    }


def _times(one: "Trace") -> list[Any]:
    return [_runs(stage) for stage in one.times[:, 0].tolist()]


def _runs(times: list[float]) -> float | list[list[Any]] | None:
    """One number where all tokens have the same time, else runs of [time, number of tokens]; null is no number."""
    runs = [[time, len(list(run))] for time, run in groupby(map(_known, times))]
    return runs[0][0] if len(runs) == 1 else runs


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
