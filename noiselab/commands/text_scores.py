"""Log-likelihoods of windows or whole texts under a model of any kind, for `evaluate bound` and `compare`."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data import FileCorpus, TokenBlocks, pack
from ..data.tokenizers import Encoder
from ..evaluation import canvas_validation_bound, generative_perplexity, validation_bound
from ..networks.lengths import USUAL, generated_length
from ..numerics import require_count
from ..pipeline import AutoregressivePipeline, CanvasPipeline

NOISE = ("seed", "repeats", "nodes", "low", "length")
"""The options that the noise of a bound depends on."""


class Windows(NamedTuple):
    """Windows of tokens, and the texts that they are of.

    **Arguments:**

    - `blocks`: the windows.
    - `owners`: the number of the text of each window; `None` if texts are joined, and each window counts as one.
    - `texts`: the texts, if they are not joined.
    """

    blocks: TokenBlocks
    owners: list[int] | None
    texts: list[str]


class Measured(NamedTuple):
    """What a model says of windows.

    **Arguments:**

    - `found`: bound or exact value, nats per token, standard error, terms and the number of tokens.
    - `nats`, `tokens`: of each window, [windows].
    - `words`: the scored text of each window.
    """

    found: dict[str, Any]
    nats: Tensor
    tokens: Tensor
    words: list[str]


def read_texts(files: Sequence[str]) -> list[str]:
    """The texts of files, folders and patterns.

    **Raises:** `ValueError` if there are none.
    """
    if not files:
        raise ValueError("files must name at least one file; got none")
    return [text for pattern in files for text in FileCorpus(pattern)]


def make_windows(pipe: Any, files: Sequence[str], options: Any, per_text: bool) -> Windows:
    """The texts of files in windows of the model's context.

    **Arguments:**

    - `options`: with `length` and `max_sequences`.
    - `per_text`: whether each text has windows of its own; otherwise texts are joined, each with an end of text.
    """
    limit = None if pipe.length is None else pipe.length - len(getattr(pipe, "opening", ()))
    whole = USUAL if limit is None else min(limit, 1 << 16)
    length = require_count("length", generated_length(options.length or whole, limit), 2)
    texts, most = read_texts(files), options.max_sequences
    most = None if most is None else require_count("max-sequences", most)
    if per_text:
        texts = texts[:most]
        parts = [
            (i, ids[k : k + length])
            for i, ids in enumerate(Encoder(pipe.tokenizer)(texts))
            for k in range(0, len(ids), length)
        ]
        tokens = torch.zeros(len(parts), length, dtype=torch.long)
        for row, (_, ids) in enumerate(parts):
            tokens[row, : len(ids)] = torch.tensor(ids)
        real = torch.tensor([len(ids) for _, ids in parts])
        return Windows(TokenBlocks(tokens, real, int(tokens.max()) + 1), [i for i, _ in parts], texts)
    blocks = pack(texts, pipe.tokenizer, length)
    if most is not None:
        blocks = TokenBlocks(blocks.tokens[:most], blocks.real[:most], blocks.vocab_size, blocks.about)
    return Windows(blocks, None, [])


def measure(pipe: Any, windows: Windows, options: Any, processes: Any) -> Measured:
    """The bound of a diffusion model, or the exact value of an autoregressive one.

    **Raises:** `ValueError` for whole texts under an autoregressive model whose tokenizer has no token to begin with.
    """
    blocks = windows.blocks
    x, skip = blocks.tokens.long(), 0
    real = torch.arange(blocks.length) < blocks.real.long()[:, None]
    if isinstance(pipe, AutoregressivePipeline):
        start, skip = None, 1
        if windows.owners is not None:
            bos, eos = pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id
            start, skip = eos if bos is None else bos, 0
            if start is None:
                raise ValueError(
                    "per-text needs a token before the first of a text; the tokenizer has no start and no end"
                )
        settings: dict[str, Any] = {"start": start, "batch_size": options.batch_size, "processes": processes}
        judged = generative_perplexity(pipe.network, x, attention_mask=real, **settings)
        found = {"bound": False, "nats": judged.nats, "error": judged.error, "tokens": judged.tokens}
        nats, tokens = judged.total, judged.lengths
    else:
        bound = _bound(pipe, blocks, options, processes)
        found = {"bound": True, "nats": bound.nelbo, "error": bound.error, "diffusion": bound.diffusion}
        found |= {"reconstruction": bound.reconstruction, "prior": bound.prior, "tokens": bound.tokens}
        nats, tokens = bound.nats, bound.lengths
    scored = [row[kept].tolist()[skip:] for row, kept in zip(x, real, strict=True)]
    words = pipe.tokenizer.batch_decode(scored, clean_up_tokenization_spaces=False, skip_special_tokens=True)
    return Measured(found, nats, tokens, words)


def score_rows(windows: Windows, measured: Measured) -> list[dict[str, Any]]:
    """One row for each text, or for each window of joined texts: what it is, its nats, tokens and bytes."""
    nats, tokens, texts, unit = measured.nats, measured.tokens, measured.words, "window"
    if windows.owners is not None:
        owners, unit, texts = torch.tensor(windows.owners), "text", windows.texts
        nats = torch.zeros(len(texts), dtype=torch.float64).index_add(0, owners, nats.double())
        tokens = torch.zeros(len(texts), dtype=torch.long).index_add(0, owners, tokens.long())
    kind = "bound_nats" if measured.found["bound"] else "nats"
    return [
        {unit: i, "sha256": text_hash(text), kind: each, "tokens": count, "bytes": len(text.encode())}
        for i, (text, each, count) in enumerate(zip(texts, nats.tolist(), tokens.tolist(), strict=True))
    ]


def text_hash(text: str) -> str:
    """By what a text is known in results."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def noise_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the noise depends on."""
    return {name: options.get(name) for name in NOISE}


def column(rows: Iterable[Mapping[str, Any]], *names: str) -> list[Any]:
    """The values of a column, of the first of these names that a row has.

    **Raises:** `ValueError` if a row has none of them.
    """
    found = []
    for number, row in enumerate(rows):
        name = next((name for name in names if name in row), None)
        if name is None:
            raise ValueError(f"rows must have {' or '.join(names)}; row {number} has {list(row)}")
        found.append(row[name])
    return found


def _bound(pipe: Any, blocks: TokenBlocks, options: Any, processes: Any) -> Any:
    """The bound of a diffusion model on windows; a block-diffusion model reads them after its beginning of text."""
    names = ("low", "nodes", "repeats", "batch_size")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings["processes"] = processes
    settings["generator"] = torch.Generator(pipe.device).manual_seed(options.seed)
    if not isinstance(pipe, CanvasPipeline):
        return validation_bound(pipe.process, pipe.denoiser, blocks, **settings)
    opening = pipe.opening
    rows = [opening + row[:size].tolist() for row, size in zip(blocks.tokens.long(), blocks.real.tolist(), strict=True)]
    return canvas_validation_bound(pipe.process, pipe.network, rows, given=[len(opening)] * len(rows), **settings)
