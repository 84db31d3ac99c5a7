"""Shared parts of the commands: loading models without warnings, reading and writing samples, printing results."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..devices import select_device
from ..files import write_text

if TYPE_CHECKING:
    import torch

    from ..pipeline import Pipeline


def load(model: str, device: str | None, settings: Any = None) -> "Pipeline":
    """Load a pipeline from a folder or the Hub, on a GPU if available, without transformers' progress bars and
    warnings.
    """
    import transformers

    from ..pipeline import Pipeline

    place = select_device(device)
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


@dataclass(frozen=True)
class Sample:
    """A text from a file, with its tokens if the file contains them."""

    text: str
    tokens: tuple[int, ...] | None = None
    model: str | None = None


def write_samples(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines atomically."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_samples(path: Path) -> list[Sample]:
    """Read samples from a file: JSON Lines with `text` and optionally `tokens`, or plain text split at empty lines.

    **Raises:** `ValueError` if there are no samples or a line cannot be read (the message gives the line).
    """
    if not path.is_file():
        raise ValueError(f"samples must be a file; nothing found at {path}")
    content = path.read_text(encoding="utf-8")
    if path.suffix not in (".jsonl", ".json"):
        found = [Sample(part.strip("\n")) for part in content.split("\n\n") if part.strip()]
    else:
        found = [_sample(path, i, line) for i, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not found:
        raise ValueError(f"samples must contain at least one text; {path} has none")
    return found


def _sample(path: Path, number: int, line: str) -> Sample:
    try:
        record = json.loads(line)
        tokens = record.get("tokens")
        return Sample(str(record["text"]), None if tokens is None else tuple(map(int, tokens)), record.get("model"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"each line must be a JSON object with `text`; {path}, line {number}: {error!r}") from error


def texts_for(pipe: "Pipeline", samples: Iterable[Sample]) -> tuple[list[str], int]:
    """Return the texts, and how many keep the tokens of the file: those whose tokens decode to the text."""
    from ..pipeline.base import Text

    found: list[str] = []
    kept = 0
    for sample in samples:
        if (
            sample.tokens
            and max(sample.tokens) < len(pipe.tokenizer)
            and pipe.decode([list(sample.tokens)]) == [sample.text]
        ):
            found.append(Text.of(sample.text, sample.tokens, pipe.tokenizer))
            kept += 1
        else:
            found.append(sample.text)
    return found, kept


def report_results(found: Mapping[str, Any], out: Path | None, as_json: bool, text: str) -> None:
    """Write results to a file if given, and print them as JSON or as text."""
    if out is not None:
        write_text(out, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2) if as_json else text, flush=True)
