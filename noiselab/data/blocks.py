"""TokenBlocks: packed token sequences of equal length, stored compactly in memory and in a single file."""

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Integer
from torch import Tensor
from torch.utils.data import Dataset

from ..files import new_file
from .rows import document_numbers

_FORMAT = "noiselab.token_blocks.1"


class TokenBlocks(Dataset[dict[str, Tensor]]):
    """A map-style data set of token blocks of equal length, padded at the end.

    Tokens are stored in 2 bytes each if the vocabulary allows it, otherwise in 4. An item is a dict of `input_ids`
    (Long, [length]) and `attention_mask` (Bool, [length], true for real tokens), as data loaders and trainers expect.

    **Arguments:**

    - `tokens`: token ids; positions after a block's real tokens are padding.
    - `real`: the number of real tokens at the start of each block, from 1 to `length`.
    - `vocab_size`: the size of the vocabulary; every id must be smaller.
    - `about`: metadata stored with the data; must be serializable as JSON.
    - `separate_at`: the id of the end-of-text token, for items that also have `documents` (Long, [length]), the number of the
      document that each token belongs to; see `pack(..., separate=True)`.

    **Raises:** `ValueError` if there is no block, an id is outside the vocabulary, or a count is outside [1, length].

    **Example:**

    ```python
    import torch
    from noiselab.data import TokenBlocks

    blocks = TokenBlocks(torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([3, 1]), vocab_size=10)
    assert blocks[1]["attention_mask"].tolist() == [True, False, False]
    ```
    """

    def __init__(
        self,
        tokens: Integer[Tensor, "block length"],
        real: Integer[Tensor, " block"],
        vocab_size: int,
        about: dict[str, Any] | None = None,
        *,
        separate_at: int | None = None,
    ) -> None:
        if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] < 2:
            raise ValueError(
                f"tokens must hold at least one block of at least 2 tokens; got shape {tuple(tokens.shape)}"
            )
        if real.shape != tokens.shape[:1]:
            raise ValueError(
                f"real must hold one count for each of {len(tokens)} blocks; got shape {tuple(real.shape)}"
            )
        _check_range("token ids", tokens, 0, vocab_size - 1)
        _check_range("counts of real tokens", real, 1, tokens.shape[1])
        self.tokens = tokens.to(compact_dtype(vocab_size))
        self.real = real.to(torch.int32)
        self.vocab_size = vocab_size
        self.about = dict(about or {})
        self.separate_at = separate_at
        self._places = torch.arange(tokens.shape[1])

    @property
    def length(self) -> int:
        """The number of tokens in a block, including padding."""
        return self.tokens.shape[1]

    @property
    def real_tokens(self) -> int:
        """The total number of real tokens in all blocks."""
        return int(self.real.sum())

    @property
    def key(self) -> str:
        """A hash of all that items depend on."""
        digest = hashlib.sha256(f"{self.vocab_size} {tuple(self.tokens.shape)}".encode())
        for array in (self.tokens.numpy(), self.real.numpy()):
            digest.update(np.ascontiguousarray(array).data)
        if self.separate_at is not None:
            digest.update(f"separate at {self.separate_at}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return as_row(self.tokens[index], self._places < self.real[index], self.separate_at)

    def __repr__(self) -> str:
        return (
            f"TokenBlocks(blocks={len(self)}, length={self.length}, "
            f"real_tokens={self.real_tokens}, vocab_size={self.vocab_size})"
        )

    def save(self, path: str | Path) -> None:
        """Write the blocks to a safetensors file atomically: the file appears only once it is complete.

        **Raises:** `OSError` if it cannot be written, for example on a full disk.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        about = {"format": _FORMAT, "vocab_size": str(self.vocab_size), "about": json.dumps(self.about)}
        if self.separate_at is not None:
            about["separate_at"] = str(self.separate_at)
        with new_file(Path(path)) as temporary:
            try:
                save_file({"tokens": self.tokens.contiguous(), "real": self.real}, temporary, metadata=about)
            except SafetensorError as error:  # it names the error of the system in words alone
                number = re.search(r"os error (\d+)", str(error))
                code = int(number[1]) if number else errno.EIO
                raise OSError(code, os.strerror(code), str(path)) from error

    @classmethod
    def load(cls, path: str | Path, vocab_size: int | None = None) -> "TokenBlocks":
        """Read blocks written by `save`. Tokens are memory-mapped: they are read from disk when used.

        **Arguments:**

        - `path`: the file.
        - `vocab_size`: check the ids against this vocabulary size, for instance a model's; default: the size stored in
          the file.

        **Raises:** `ValueError` if the file is missing, has another format, or holds ids outside the vocabulary.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ValueError(f"the file of token blocks must exist; nothing found at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT:
                    raise ValueError(f"the file must be of the format {_FORMAT!r}; {path} is {about.get('format')!r}")
                tokens, real = file.get_tensor("tokens"), file.get_tensor("real")
        except SafetensorError as error:
            raise ValueError(f"the file of token blocks must be readable; {path}: {error}") from error
        states = int(about["vocab_size"]) if vocab_size is None else vocab_size
        try:
            end = int(about["separate_at"]) if "separate_at" in about else None
            return cls(tokens, real, states, json.loads(about["about"]), separate_at=end)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def is_blocks(path: Path) -> bool:
    """Whether a file is one that `TokenBlocks.save` has written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == _FORMAT
    except (SafetensorError, OSError):
        return False


def as_row(
    tokens: Integer[Tensor, " length"], real: Bool[Tensor, " length"], separate_at: int | None = None
) -> dict[str, Tensor]:
    """A row of a data set: `input_ids`, `attention_mask` and, to separate documents, `documents`."""
    ids = tokens.to(torch.int64)
    row = {"input_ids": ids, "attention_mask": real}
    return row if separate_at is None else {**row, "documents": document_numbers(ids, separate_at)}


def compact_dtype(vocab_size: int) -> torch.dtype:
    """Return the smallest dtype of 2 or 4 bytes that holds every id."""
    return torch.uint16 if vocab_size <= 2**16 else torch.uint32


def _check_range(what: str, values: Tensor, low: int, high: int) -> None:
    # numpy, because torch cannot compare unsigned dtypes; in chunks, because the tokens may be larger than memory.
    array = values.numpy()
    step = max(1, 2**24 // max(1, values[0].numel()))
    for start in range(0, len(array), step):
        piece = array[start : start + step]
        least, most = int(piece.min()), int(piece.max())
        if least < low or most > high:
            raise ValueError(f"{what} must lie between {low} and {high}; got {least} to {most}")
