"""What the commands share: loading quietly, samples in files, tables."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_text

if TYPE_CHECKING:
    import torch

    from ..pipeline import Pipeline


def load(model: str, device: str | None, settings: Any = None) -> "Pipeline":
    """The pipeline of a folder or a hub name, on a GPU if there is one, without bars and warnings of transformers."""
    import torch
    import transformers

    from ..pipeline import Pipeline

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place = device or (torch.accelerator.current_accelerator() or torch.device("cpu"))
    return Pipeline.from_pretrained(model, settings=settings).to(place)


def dtype_of(name: str | None) -> "torch.dtype | None":
    """The dtype of a name such as "bfloat16"."""
    import torch

    if name is None:
        return None
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be float32, bfloat16 or float16; got {name!r}")
    return found


@dataclass(frozen=True)
class Sample:
    """A text of a file, with its tokens where the file has them."""

    text: str
    tokens: tuple[int, ...] | None = None
    model: str | None = None


def write_samples(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, complete or not at all."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_samples(path: Path) -> list[Sample]:
    """Texts of a file: JSON lines with `text` and perhaps `tokens`, or else a text, its parts cut at empty lines.

    **Raises:** `ValueError` if there are none, or a line cannot be read (it is named).
    """
    if not path.is_file():
        raise ValueError(f"samples must be a file; there is none at {path}")
    content = path.read_text(encoding="utf-8")
    if path.suffix not in (".jsonl", ".json"):
        found = [Sample(part.strip("\n")) for part in content.split("\n\n") if part.strip()]
    else:
        found = [_sample(path, i, line) for i, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not found:
        raise ValueError(f"samples must hold at least one text; {path} holds none")
    return found


def _sample(path: Path, number: int, line: str) -> Sample:
    try:
        record = json.loads(line)
        tokens = record.get("tokens")
        return Sample(str(record["text"]), None if tokens is None else tuple(map(int, tokens)), record.get("model"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"each line must be a JSON object with `text`; {path}, line {number}: {error!r}") from error


def texts_for(pipe: "Pipeline", samples: Iterable[Sample]) -> tuple[list[str], int]:
    """The texts, with the tokens that the file kept where they spell the text under this tokenizer; and how many do."""
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


def say(found: Mapping[str, Any], out: Path | None, as_json: bool, text: str) -> None:
    """Write what was found to a file, and print it: as JSON alone, or as a person reads it."""
    if out is not None:
        write_text(out, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2) if as_json else text, flush=True)
