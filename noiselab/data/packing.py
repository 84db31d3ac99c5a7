"""Packing texts into blocks of equal length, with a cache on disk."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from .blocks import TokenBlocks, compact_dtype
from .corpus import as_corpus, fingerprint
from .cropping import crop_document
from .reading import derive_seed
from .tokenizers import Encoder, start_token, tokenizer_key, vocabulary_size

if TYPE_CHECKING:
    import transformers

MODES = ("concatenate", "document")
"""The modes in which a row depends on the texts alone, and has one special token for each text."""
PUBLISHED_MODES = ("wrap", "crop")
"""The modes of published code: rows that begin with a start token, and crops at random places."""


def pack(
    texts: Iterable[str],
    tokenizer: "transformers.PreTrainedTokenizerBase",
    length: int,
    *,
    mode: str = "concatenate",
    keep_partial: bool = True,
    separate: bool = False,
    learn_padding: bool = False,
    seed: int = 0,
    cache: str | Path | None = None,
) -> TokenBlocks:
    """Encode texts and pack them into blocks of equal length.

    Each text is followed by the end-of-text token.

    **Arguments:**

    - `texts`: a corpus, or any iterable of texts (collected in memory first).
    - `tokenizer`: must have padding and end-of-text tokens; `load_tokenizer` and `train_tokenizer` add them.
    - `length`: the number of tokens in a block, at least 2.
    - `mode`: `"concatenate"`: texts are joined without gaps and cut into blocks at any position, so that no token is
      lost. `"document"`: one text per block, padded or truncated to the length of the block. `"wrap"`: as
      `"concatenate"`, but each block begins with the start token and ends with the end-of-text token (MDLM). `"crop"`: one
      text per block, from a start to an end-of-text token, cut at a random place if it is too long and padded if it is too
      short (GIDD; `noiselab.data.cropping.crop_document`).
    - `keep_partial`: in the modes that join texts, pad the last block if it is not full instead of dropping it.
    - `separate`: give each row a column `documents`, the number of the document of each token within the row, from which
      `noiselab.data.rows.same_document` makes a mask for attention within documents. Not with `"wrap"`, `"crop"` or
      `learn_padding`.
    - `learn_padding`: let padding count as real tokens, which are seen, noised and learned, as in GIDD's published training.
    - `seed`: of the places of crops; each block has one that stays.
    - `cache`: a folder for packed blocks. The file name is derived from the contents of the corpus, the tokenizer and
      the settings; a later run with the same inputs reads the file instead of packing again.

    **Returns:** the blocks.

    **Raises:** `ValueError` if the length is below 2, the mode is unknown, the tokenizer lacks a token, the corpus is
    empty or does not fill a block, or a cached file holds ids outside the tokenizer's vocabulary.

    **Example:**

    ```python
    from noiselab.data import pack, train_tokenizer

    tokenizer = train_tokenizer(["ab"], vocab_size=259)
    blocks = pack(["abc", "de"], tokenizer, length=4)
    assert [tokenizer.decode(block["input_ids"]) for block in blocks] == ["abc<|endoftext|>", "de<|endoftext|>[PAD]"]
    ```
    """
    modes = (*MODES, *PUBLISHED_MODES)
    check_packing(tokenizer, length, mode, modes, separate=separate, learn_padding=learn_padding)
    corpus = as_corpus(texts)
    states = vocabulary_size(tokenizer)
    more = [*(["separate"] if separate else []), *(["padding"] if learn_padding else [])]
    settings = [mode, str(length), str(keep_partial), *more, *mode_key(tokenizer, mode, seed)]
    key = fingerprint([corpus.key, tokenizer_key(tokenizer), *settings])
    path = None
    if cache is not None:
        path = Path(cache) / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', corpus.name)}-{length}-{key[:16]}.safetensors"
        if path.is_file():
            blocks = TokenBlocks.load(path, states)
            if blocks.about.get("key") == key:
                return blocks

    dtype = np.uint16 if compact_dtype(states) == torch.uint16 else np.uint32
    rows = [
        row.astype(dtype)
        for row in pack_rows(Encoder(tokenizer).arrays(corpus), packer_for(tokenizer, length, mode), seed)
        if mode in ("document", "crop") or keep_partial or len(row) == length
    ]
    if not rows:
        raise ValueError(f"the corpus must fill at least one block of {length} tokens; {corpus.name!r} does not")
    tokens = np.full((len(rows), length), tokenizer.pad_token_id, dtype=dtype)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    real = torch.tensor([length if learn_padding else len(row) for row in rows], dtype=torch.int32)
    about = {"key": key, "corpus": corpus.name, "mode": mode, "keep_partial": keep_partial}
    end = int(tokenizer.eos_token_id) if separate else None
    blocks = TokenBlocks(torch.from_numpy(tokens), real, states, about, separate_at=end)
    if path is not None:
        blocks.save(path)
    return blocks


def pack_rows(documents: Iterable[Sequence[int] | np.ndarray], packer: "Packer", seed: int = 0) -> Iterator[np.ndarray]:
    """Yield the real tokens of each block; in the modes that join texts, all blocks but the last are full.

    **Arguments:**

    - `documents`: the token ids of each text; may be infinite.
    - `packer`: how they become rows.
    - `seed`: of the places of crops.
    """
    for number, document in enumerate(documents):
        for row, _ in packer.add(document, draw=partial(draw_place, seed, number)):
            yield row
    if len(packer.rest):
        yield packer.last()


def draw_place(seed: int, place: Any, count: int) -> int:
    """A number in [0, count) that depends on the arguments alone."""
    return derive_seed("crop", seed, json.dumps(place)) % count


def packer_for(tokenizer: "transformers.PreTrainedTokenizerBase", length: int, mode: str) -> "Packer":
    """The packer of a mode with the special tokens of a tokenizer."""
    begin = start_token(tokenizer) if mode in PUBLISHED_MODES else None
    return Packer(length, mode, int(tokenizer.eos_token_id), begin)


class Packer:
    """Packs documents one after another, and knows how far each row reaches into the document that was added last.

    **Arguments:**

    - `length`, `mode`: as in `pack`.
    - `end`: the id of the end-of-text token, appended to each text.
    - `begin`: the id of the start token, for modes that have one.
    """

    def __init__(self, length: int, mode: str, end: int, begin: int | None = None) -> None:
        self.length, self.mode, self.end, self.begin = length, mode, end, begin
        self.rest = np.zeros(0, dtype=np.int32)
        """The tokens that do not fill a row yet."""

    def add(
        self, document: Sequence[int] | np.ndarray, start: int = 0, draw: Callable[[int], int] | None = None
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Yield the rows that a document completes, each with the number of its tokens that are in rows so far, or -1 after
        its last token.

        **Arguments:**

        - `document`: the token ids of a text.
        - `start`: the number of its tokens to leave out, because they are in earlier rows.
        - `draw`: draws the place of a crop, as for `crop_document`.
        """
        if self.mode == "document":
            yield np.append(document[: self.length], self.end)[: self.length].astype(np.int32), -1
            return
        if self.mode == "crop":
            assert self.begin is not None and draw is not None
            yield crop_document(document, self.length, begin=self.begin, end=self.end, draw=draw), -1
            return
        size = self.length - 2 if self.mode == "wrap" else self.length
        tokens = np.append(document, self.end).astype(np.int32)[start:]
        place = start - len(self.rest)
        joined = np.concatenate([self.rest, tokens])
        full = len(joined) // size * size
        self.rest = joined[full:].copy()  # a view would keep all of them
        for first in range(0, full, size):
            used = place + first + size
            yield self._row(joined[first : first + size]), -1 if used == len(document) + 1 else used

    def last(self) -> np.ndarray:
        """The row of the tokens that do not fill one."""
        return self._row(self.rest)

    def _row(self, tokens: np.ndarray) -> np.ndarray:
        if self.mode != "wrap":
            return tokens
        assert self.begin is not None
        return np.concatenate([np.array([self.begin]), tokens, np.array([self.end])]).astype(np.int32)


Position = TypeVar("Position")


def pack_texts(
    texts: Iterator[tuple[str, Position, Position]],
    encoder: Encoder,
    packer: Packer,
    *,
    used: int = 0,
    batch: int = 2**18,
    draw: Callable[[Position, int], int] | None = None,
) -> Iterator[tuple[np.ndarray, Position, int]]:
    """Yield full rows of texts, each with the place after it: the position of a text, and how many of its tokens are used.

    **Arguments:**

    - `texts`: each text with the positions before and after it; may be endless.
    - `encoder`, `packer`: how they become rows.
    - `used`: the number of tokens of the first text to leave out.
    - `batch`: the number of characters encoded at a time.
    - `draw`: draws the place of a crop from the position before a text and the number of places.

    **Raises:** `ValueError` if the first text has fewer tokens.
    """
    places: deque[tuple[Position, Position]] = deque()

    def read() -> Iterator[str]:
        for text, before, after in texts:
            places.append((before, after))
            yield text

    for document in encoder.arrays(read(), batch):
        before, after = places.popleft()
        if used > len(document):
            raise ValueError(f"a state must be of the same data; it lies {used} tokens into a text of {len(document)}")
        for row, last in packer.add(document, used, None if draw is None else partial(draw, before)):
            yield (row, after, 0) if last < 0 else (row, before, last)
        used = 0


def check_packing(
    tokenizer: "transformers.PreTrainedTokenizerBase",
    length: int,
    mode: str,
    modes: Sequence[str] = MODES,
    *,
    separate: bool = False,
    learn_padding: bool = False,
) -> None:
    """Raise `ValueError` unless texts can be packed with these settings, in one of the modes."""
    least = 3 if mode == "wrap" else 2
    if length < least:
        raise ValueError(f"length must be at least {least}; got {length}")
    if mode not in modes:
        raise ValueError(f"mode must be one of {', '.join(modes)}; got {mode!r}")
    for what in ("eos_token", "pad_token"):
        if getattr(tokenizer, f"{what}_id") is None:
            raise ValueError(f"the tokenizer must have a token for {what}; got none (load_tokenizer adds it)")
    if separate and mode in PUBLISHED_MODES:  # the start token is often the end-of-text token
        raise ValueError(
            f"separate is for rows in which only ends of texts divide documents, of the modes {', '.join(MODES)}; got {mode!r}"
        )
    if separate and learn_padding:
        raise ValueError("separate must not be given with learn_padding, because padding belongs to no text; got both")
    if mode in PUBLISHED_MODES:
        start_token(tokenizer)


def mode_key(tokenizer: "transformers.PreTrainedTokenizerBase", mode: str, seed: int) -> list[str]:
    """What rows of the modes of published code depend on besides the texts, the tokenizer's key and the length."""
    if mode not in PUBLISHED_MODES:
        return []
    return [f"start {start_token(tokenizer)}", *([f"seed {seed}"] if mode == "crop" else [])]
