"""Shared parts of the commands: loading models without warnings, reading and writing samples, printing results, processes."""

import codecs
import errno
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.records import RecordWriter, as_line
from ..data.samples import Sample
from ..devices import select_device
from ..distributed import ProcessError, Processes, join_processes
from ..files import as_json, write_csv, write_json

if TYPE_CHECKING:
    import torch

    from ..pipeline import Pipeline


@contextmanager
def together(device: str | None) -> Iterator[Processes]:
    """The processes that `torchrun` has started, for one command; the first prints and writes, and all end together.

    **Arguments:**

    - `device`: the option of this name.
    """
    processes = join_processes(device)
    try:
        with processes.together():
            yield processes
    except Exception as error:
        if processes.repeats_first:
            raise ProcessError(f"process 0 failed with {error}") from error  # which prints it
        raise


def load(model: str, device: "str | torch.device | None", settings: Any = None) -> "Pipeline":
    """Load a pipeline from a folder or the Hub, on a GPU if available, without transformers' progress bars and
    warnings.
    """
    import transformers

    from ..pipeline import Pipeline

    place = device if device is not None and not isinstance(device, str) else select_device(device)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return Pipeline.from_pretrained(model, settings=settings).to(place)


def dtype_of(name: str | None) -> "torch.dtype | None":
    """Return the dtype with a name such as "bfloat16"."""
    import torch

    if name is None:
        return None
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be float32, bfloat16 or float16; got {name!r}")
    return found


def text_generators(seed: int, count: int) -> "list[torch.Generator]":
    """One generator for each text, so that a text does not depend on the batch that it is in."""
    from ..pipeline.seeds import text_generators as made

    return made(seed, count)


def write_samples(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, each as it comes."""
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record)


@contextmanager
def output(
    path: Path | None, *inputs: Path, processes: Processes | None = None
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a record to a file, or prints it if there is none; of several processes, the first does.

    **Arguments:**

    - `path`: the file. Enter the context before the work, so that a file that cannot be written is noticed.
    - `inputs`: files that the command reads, which must be others.

    **Raises:** `ValueError` if the file cannot be written.
    """
    if processes is not None and not processes.first:
        yield lambda record: None
        return
    if path is None:
        yield lambda record: print_text(as_line(record, ascii_only=not _prints_unicode()))
        return
    for other in inputs:
        if path.exists() and other.exists() and path.samefile(other):
            raise ValueError(f"out must be another file than those that are read; got {path}")
    with RecordWriter(path) as writer:
        yield writer.write


PLOTS = (".svg", ".png", ".pdf")
"""The suffixes of plots."""


def check_output(path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Raise `ValueError` unless a file can be written and has one of the suffixes, if any; call it before the work."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"the output must end in {', '.join(suffixes)}; got {path}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"the output must be a file that can be written; got {path}: {error.strerror}") from error


def print_text(text: str) -> None:
    """Print a text, with replacements for characters that the terminal or the locale cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _prints_unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return codecs.lookup(encoding).name == "utf-8"


def texts_for(pipe: "Pipeline", samples: Iterable[Sample]) -> tuple[list[Any], int]:
    """Return the texts or conversations, and how many keep the tokens of the file: those whose tokens decode to the text."""
    from ..pipeline.base import Text

    found: list[Any] = []
    kept = 0
    for sample in samples:
        text = sample.text
        if (
            sample.tokens
            and max(sample.tokens) < len(pipe.tokenizer)
            and pipe.decode([list(sample.tokens)]) == [sample.text]
        ):
            text = Text.of(text, sample.tokens, pipe.tokenizer)
            kept += 1
        found.append(text if sample.messages is None else answered(sample.messages[:-1], text))
    return found, kept


def answered(messages: Sequence[Mapping[str, str]], answer: str) -> list[Mapping[str, str]]:
    """A conversation with an answer at its end."""
    return [*messages, {"role": "assistant", "content": answer}]


def generated_texts(
    pipe: "Pipeline", processes: Processes, count: int, make: Callable[[int], list[str]], *, about: Sequence[Any]
) -> Iterator[str]:
    """The texts of batches, in order; of several processes, each makes one batch at a time.

    **Arguments:**

    - `count`: the number of batches.
    - `make`: makes the texts of a batch, which keep their tokens.
    - `about`: what must be the same in all processes.
    """
    import torch

    for first in range(0, count, processes.world):

        def work(numbers: Sequence[int], first: int = first) -> Iterator[list[torch.Tensor]]:
            for number in numbers:
                made: list[Any] = make(first + number)
                yield [torch.tensor(text.tokens, dtype=torch.long) for text in made]

        for found in processes.collect(work, min(processes.world, count - first), about=[first, *about]):
            yield from pipe.decode([tokens.tolist() for tokens in found])


def report_results(
    command: str,
    options: Any,
    found: Mapping[str, Any],
    text: str,
    processes: Processes | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write results to files if given (`options.out`, `options.csv`), and print them as JSON (`options.json`) or as text; of
    several processes, the first does.

    **Arguments:**

    - `rows`: the results row by row, such as those of each text, with units in the names of columns. In CSV each also has the
      command, the version and the options. `found["rows"]`, if it is there, has its place in JSON.

    **Returns:** the content of the JSON: the command, the version of noiselab and all options, with which the results can
    be computed again, the results, and the rows.
    """
    from .. import __version__

    settings = {name: _plain(value) for name, value in vars(options).items() if name not in ("json", "out", "csv")}
    head = {"command": command, "version": __version__}
    record = {**head, "options": settings, **found}
    if rows is not None:
        record.setdefault("rows", list(rows))
    if processes is not None and not processes.first:
        return record
    if options.out is not None:
        write_json(options.out, record)
    if rows is not None and options.csv is not None:
        same = {**head, "options": " ".join(as_json(settings).split())}
        write_csv(options.csv, [{**row, **same} for row in rows])
    print_text(as_json(record) if options.json else text)
    return record


def check_outputs(options: Any) -> None:
    """Raise `ValueError` unless the files of the options out, csv and plot, where there are such, can be written."""
    check_output(options.out)
    check_output(getattr(options, "csv", None), (".csv",))
    check_output(getattr(options, "plot", None), PLOTS)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


NORMAL_95 = 1.959963984540054
"""Standard errors of half a 95 % confidence interval."""


def with_interval(value: float, error: float, unit: str, over: str, digits: int = 4) -> str:
    """A value with its unit and the half-width of its 95 % confidence interval, from its standard error; without the interval
    if it is not known.

    **Arguments:**

    - `over`: what the interval is over, such as "texts".
    """
    if not math.isfinite(error):
        return f"{value:.{digits}f} {unit}"
    return f"{value:.{digits}f} ± {NORMAL_95 * error:.{digits}f} {unit} (95 % interval over {over})"
