"""The vocabulary of iGSM."""

from collections.abc import Iterable, Sequence
from string import ascii_letters

import torch
from torch import Tensor

from ...typing import TokenSequence
from .formula import MODULUS
from .full import Level
from .names import CHAINS, POOLS
from .small_text import FULL_STOP, SmallLevel, small_words
from .text import BACK

PADDING, START, END = "<padding>", "<start>", "<end>"


class Words:
    """The closed vocabulary of a level: one token for each word of its problems and solutions, and four special tokens.

    **Arguments:**

    - `level`: "logic", "nano", "micro", or "med" and "hard" of full iGSM, which share one vocabulary.
    - `modulus`: the modulus of the values of "nano" and "micro", at least 2; `None` means 5. Other levels have a fixed
      one.

    The id of a token is its index in `entries`. `padding`, `start` and `end` delimit rows of tokens, `back` is the
    backspace, which deletes a step, and `full_stop` ends a step.

    **Raises:** `ValueError` for an unknown level, or a modulus that the level does not allow.

    **Example:**

    ```python
    from noiselab.tasks.igsm import Words

    words = Words("nano")
    ids = words.encode("D cat as dog = 4 .".split())
    assert words.decode(ids) == ("D", "cat", "as", "dog", "=", "4", ".") and ids[-1] == words.full_stop
    ```
    """

    padding, start, end, back, full_stop = range(5)

    def __init__(self, level: Level | SmallLevel = "nano", *, modulus: int | None = None) -> None:
        self.level, self.modulus = level, modulus
        if level == "med" or level == "hard":
            if modulus is not None:
                raise ValueError(f"modulus must be None for {level!r}, which has {MODULUS}; got {modulus}")
            words = _full_words()
        else:
            words = small_words(level, modulus)
        self.entries: tuple[str, ...] = (PADDING, START, END, BACK, *words)
        self._ids = {word: token for token, word in enumerate(self.entries)}

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.entries)

    def encode(self, words: Iterable[str]) -> TokenSequence:
        """Return the token ids of words.

        **Raises:** `ValueError` if a word is not in the vocabulary.
        """
        return torch.tensor(self.ids(words), dtype=torch.long)

    def ids(self, words: Iterable[str]) -> list[int]:
        """Return the token ids of words as a list, which is faster for short texts.

        **Raises:** as `encode`.
        """
        try:
            return [self._ids[word] for word in words]
        except KeyError as error:
            raise ValueError(f"words must be in the vocabulary of {self!r}; got {error.args[0]!r}") from None

    def decode(self, ids: TokenSequence | Sequence[int]) -> tuple[str, ...]:
        """Return the words of token ids; padding, start and end are included, in angle brackets.

        **Raises:** `ValueError` if an id is out of range.
        """
        tokens = ids.tolist() if isinstance(ids, Tensor) else ids
        if wrong := [token for token in tokens if not 0 <= token < self.size]:
            raise ValueError(f"tokens must lie in [0, {self.size}); got {wrong[0]}")
        return tuple(self.entries[token] for token in tokens)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Words({self.level!r}{'' if self.modulus is None else f', modulus={self.modulus}'})"


def _full_words() -> tuple[str, ...]:
    """All words of full iGSM, starting with the full stop."""
    first = [word for pool in POOLS.values() for word in pool.split()]
    last = [word for chain in CHAINS for category, lists in chain.items() for word in (category, *lists)]
    said = "The number of each 's equals more than times as much the sum difference and How many does have".split()
    signs = [*", ; ? = + - *".split(), "Define", "as", "so", *ascii_letters, *map(str, range(MODULUS))]
    return tuple(dict.fromkeys((FULL_STOP, *signs, *said, *first, *last)))
