"""Writing a trace as an interactive page: one self-contained HTML file."""

import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_text
from .style import Decode, colours, no_data, texts, tokens_of

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
    """Write an interactive page that replays a trace: the text at every stage, and when and by which kind of change
    each token changed.

    Changed tokens are coloured by the kind of change; hovering over a token shows its history. Keys: space plays,
    arrows step, Home and End jump. The file is self-contained: it loads no library, font or image.
    `page.html#stage=12&sequence=1` opens it at that stage and sequence. Only changes are stored.

    **Arguments:**

    - `path`: the file, written atomically.
    - `sequence`: the index of the sequence, or several; by default all.
    - `decode`: a function from token id to text, including blanks; by default the id is shown.
    - `title`: the title, as plain text.

    **Returns:** the path.

    **Raises:** `ValueError` if no sequence is given or one is out of range.
    """
    chosen = range(len(trace.start)) if sequence is None else [sequence] if isinstance(sequence, int) else sequence
    if not chosen:
        raise ValueError("sequence must name at least one; got none")
    data = json.dumps(encode(trace, chosen, decode), separators=(",", ":"), allow_nan=False)
    # Only these could end a script element or begin a comment in it. The rest of the output of json.dumps is plain
    # ASCII.
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    import jinja2  # only for this page

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    path = Path(path)
    write_text(path, environment.get_template("page.html.j2").render(title=title, data=data))
    return path


def encode(trace: "Trace", sequences: Sequence[int], decode: Decode | None) -> dict[str, Any]:
    """Return the data of the page, of JSON types.

    **Returns:** `kinds` and their `colours`; `stages`, the kind and the step of each; `texts` by token; `off`, the
    tokens outside the support of the data; `times` of each stage, see `_runs`; `sequences` with their `start`, their
    `changes` as [stage, position, new, p_old, p_new], and their `times` if they differ from those of the first.
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
    """Return a single time if all tokens have the same, otherwise runs of [time, number of tokens]; NaN becomes null."""
    runs = [[time, len(list(run))] for time, run in groupby(map(_known, times))]
    return runs[0][0] if len(runs) == 1 else runs


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
