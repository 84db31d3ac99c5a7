"""Rows of data sets: one way to stack them into batches, with words for what does not fit, and which tokens are learned."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ..typing import Positions, Selection, Tokens, TokenSequence

Batch = Mapping[str, Tensor]
"""`input_ids` [batch, length]; optional, of the same shape: `attention_mask` (1 for real tokens; default all), and
`scored` (1 for tokens that the model learns; default all real tokens) or `labels` (-100 for tokens that it does not learn), and
`documents` (the number of the document that a token belongs to, of which each is one stretch of the row: tokens attend to their
own document only, in which positions begin at 0).
Tokens that are not learned are conditioned on: a diffusion loss does not noise them, and a causal loss does not score them.
"""


def stack_rows(rows: Sequence[Any]) -> dict[str, Tensor]:
    """Stack rows of a data set into a batch of tensors.

    Columns may be tensors, arrays, numbers or lists of numbers, as `datasets.Dataset` returns them. A row without an
    `attention_mask` has no padding.

    **Arguments:**

    - `rows`: dicts with `input_ids`, the token ids of a sequence, and optionally `attention_mask` and other columns.

    **Returns:** one tensor for each column; no `attention_mask` if all tokens are real, because attention is faster without.

    **Raises:** `ValueError` naming the row and the column if a row is no dict, columns differ between rows, a value is
    not numerical, lengths differ, `input_ids` are not integers, or the mask or `documents` have another shape.

    **Example:**

    ```python
    from noiselab.data.rows import stack_rows

    batch = stack_rows([{"input_ids": [5, 6]}, {"input_ids": [7, 0], "attention_mask": [1, 0]}])
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    ```
    """
    found = [_tensors(index, row) for index, row in enumerate(rows)]
    for row in found:
        if any("attention_mask" in other for other in found):
            row.setdefault("attention_mask", torch.ones_like(row["input_ids"]))
    columns = list(found[0])
    for index, row in enumerate(found):
        if row.keys() != found[0].keys():
            raise ValueError(f"all rows must have the same columns; row 0 has {columns}, row {index} has {list(row)}")
    batch = {name: _stacked(name, [row[name] for row in found]) for name in columns}
    mask = batch.get("attention_mask")
    if mask is not None and bool(mask.all()):
        del batch["attention_mask"]
    return batch


def group_equal(keys: Sequence[Hashable], size: int) -> list[list[int]]:
    """The numbers of rows in batches of at most `size` with equal keys, in the order of the first row of each key.

    **Arguments:**

    - `keys`: one for each row, such as its length, where rows of different lengths cannot be in one batch.
    - `size`: the number of rows in a batch.

    **Example:**

    ```python
    from noiselab.data.rows import group_equal

    assert group_equal([5, 7, 5, 5], 2) == [[0, 2], [3], [1]]
    ```
    """
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def real_tokens(batch: Batch) -> Selection:
    """The mask of real tokens: those with attention mask 1, or all."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def noised_tokens(batch: Batch) -> Selection:
    """The mask of tokens that a diffusion model is trained on: real, `scored`, and with labels other than -100. The others
    are not noised.
    """
    chosen = real_tokens(batch)
    if "scored" in batch:
        chosen = chosen & batch["scored"].bool()
    return chosen & (batch["labels"] != -100) if "labels" in batch else chosen


def predicted_tokens(batch: Batch) -> Bool[Tensor, "batch scored"]:
    """The mask of tokens that a causal model is trained on: those of `noised_tokens` that follow a real token (not the
    first) of the same document.
    """
    found = noised_tokens(batch)[:, 1:] & real_tokens(batch)[:, :-1]
    if "documents" not in batch:
        return found
    return found & (batch["documents"][:, 1:] == batch["documents"][:, :-1])


def document_numbers(tokens: TokenSequence, end: int) -> TokenSequence:
    """The number of the document of each token of a block, from 0; the end-of-text token is the last of its document.

    Padding after the last document belongs to none of them.

    **Arguments:**

    - `tokens`: the token ids of one block.
    - `end`: the id of the end-of-text token, which occurs only at ends of documents.

    **Example:**

    ```python
    import torch
    from noiselab.data.rows import document_numbers

    assert document_numbers(torch.tensor([5, 6, 0, 7, 0, 8]), end=0).tolist() == [0, 0, 0, 1, 1, 2]
    ```
    """
    ends = (tokens == end).long()
    return ends.cumsum(0) - ends


def same_document(documents: Tokens) -> Bool[Tensor, "batch length length"]:
    """The mask of attention within documents: which tokens (second axis) attend to which (third axis).

    **Arguments:**

    - `documents`: the number of the document of each token, as in batches of rows with `separate=True`.

    **Example:**

    ```python
    import torch
    from noiselab.data.rows import same_document

    mask = same_document(torch.tensor([[0, 0, 1]]))
    assert mask.int().tolist() == [[[1, 1, 0], [1, 1, 0], [0, 0, 1]]]
    ```
    """
    return documents[:, :, None] == documents[:, None, :]


def document_positions(documents: Tokens) -> Positions:
    """The position of each token within its document, from 0.

    **Arguments:**

    - `documents`: the number of the document of each token; each document is one stretch of the row.

    **Example:**

    ```python
    import torch
    from noiselab.data.rows import document_positions

    assert document_positions(torch.tensor([[0, 0, 0, 1, 1, 2]])).tolist() == [[0, 1, 2, 0, 1, 0]]
    ```
    """
    place = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return place - torch.where(begins, place, 0).cummax(-1).values


def document_attention(documents: Tokens | None) -> dict[str, Tensor]:
    """The arguments of `noiselab.denoisers.attending_to` for rows of several documents; none for `None`."""
    if documents is None:
        return {}
    return {"may_attend": same_document(documents), "positions": document_positions(documents)}


def _tensors(index: int, row: Any) -> dict[str, Tensor]:
    if not isinstance(row, Mapping):
        raise ValueError(
            f"rows of a data set must be dicts with input_ids, such as {{'input_ids': tokens}}; row {index} is a "
            f"{type(row).__name__}"
        )
    if "input_ids" not in row:
        raise ValueError(f"rows of a data set must have a column input_ids; row {index} has {list(row)}")
    found = {str(name): _tensor(index, str(name), value) for name, value in row.items()}
    ids = found["input_ids"]
    if ids.dim() != 1 or ids.is_floating_point() or ids.dtype == torch.bool or not len(ids):
        raise ValueError(
            f"input_ids must be the integer ids of the tokens of one sequence; row {index} has {ids.dtype} of shape "
            f"{list(ids.shape)}"
        )
    for name in ("attention_mask", "documents"):
        if name in found and found[name].shape != ids.shape:
            raise ValueError(
                f"{name} must have the shape of input_ids, {list(ids.shape)}; row {index} has {list(found[name].shape)}"
            )
    return found


def _tensor(index: int, name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        shown = repr(value)
        raise ValueError(
            f"columns must hold numbers; {name!r} of row {index} holds {shown if len(shown) <= 60 else shown[:57] + '...'} "
            f"(remove the column, as with dataset.remove_columns({name!r}), or encode texts with noiselab.data.pack)"
        )
    # As torch.tensor of the list would be.
    return torch.from_numpy(array.astype({"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.int64)))


def _stacked(name: str, values: list[Tensor]) -> Tensor:
    for index, value in enumerate(values):
        if value.shape != values[0].shape:
            raise ValueError(
                f"rows of a batch must have one length; {name} has shape {list(values[0].shape)} in row 0 and "
                f"{list(value.shape)} in row {index}: pad the rows and mark real tokens in attention_mask, or cut texts into "
                "blocks with noiselab.data.pack"
            )
    return torch.stack(values)
