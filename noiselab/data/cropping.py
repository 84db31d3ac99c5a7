"""One crop of each document, with a start and an end token: how GIDD's published code makes its sequences."""

from collections.abc import Callable, Sequence

import numpy as np


def crop_document(
    document: Sequence[int] | np.ndarray, length: int, *, begin: int, end: int, draw: Callable[[int], int]
) -> np.ndarray:
    """A part of a document of at most `length` tokens, at a random place.

    The start and the end token are added where the document does not have them. A document with n tokens more than `length`,
    these included, is cut at one of its first n places. As in the published code, the place after them is left out, so that
    the end token occurs only in documents that are not cut.

    **Arguments:**

    - `document`: the token ids of a text.
    - `length`: the largest number of tokens, at least 2.
    - `begin`, `end`: the ids of the start and the end token.
    - `draw`: a function that draws a number in [0, n) for a given n; it is called for documents that are too long.

    **Returns:** int32 ids, at most `length`.

    **Source:** `subsample_collator` of github.com/dvruette/gidd, gidd/data.py (commit f67acc9), with its setting
    `max_add_padding: 0`.

    **Example:**

    ```python
    from noiselab.data.cropping import crop_document

    assert crop_document([5, 6], 6, begin=1, end=2, draw=lambda n: 0).tolist() == [1, 5, 6, 2]
    assert crop_document([5, 6, 7, 8], 4, begin=1, end=2, draw=lambda n: n - 1).tolist() == [5, 6, 7, 8]
    ```
    """
    tokens = np.asarray(document, dtype=np.int32)
    if not len(tokens):
        return np.array([begin, end], dtype=np.int32)
    if tokens[0] != begin:
        tokens = np.append(np.int32(begin), tokens)
    if tokens[-1] != end:
        tokens = np.append(tokens, np.int32(end))
    more = len(tokens) - length
    place = draw(more) if more > 0 else 0
    return tokens[place : place + length]
