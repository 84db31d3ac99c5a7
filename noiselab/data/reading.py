"""The order in which a number of readers read a corpus endlessly, and the place of a reader in it.

The parts of a corpus form one endless sequence, a new permutation of them in each pass. Reader j of R takes every R-th part
of it, j, j + R, and so on. If there are fewer parts than readers, each reader reads all parts and takes every R-th text.
Each text is therefore read once in a pass, by any reader, and no reader is ever without texts.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .corpus import Corpus, Part, Place

HELD = 2**23
"""About how many characters all readers hold to shuffle them."""


class Position(NamedTuple):
    """A place between two texts of a reader: the start of a window of texts, and a number of texts in it.

    `part` counts the parts of all passes, `place` is one in that part, and `passed` counts the texts of all passes before it
    (only with fewer parts than readers).
    """

    part: int
    place: Place
    passed: int
    text: int


class Reading(NamedTuple):
    """What one reader reads.

    **Arguments:**

    - `parts`: all parts of the corpus.
    - `reader`, `readers`: the number of this reader, and how many there are.
    - `seed`: the seed of the order.
    - `window`: the number of texts of this reader that are shuffled among each other; 1 for none. A window of long texts has
      fewer, so that all readers together hold about 2^23 characters.
    - `first`: the pass at which the sequence begins.
    """

    parts: Sequence[Part]
    reader: int
    readers: int
    seed: int
    window: int
    first: int = 0

    def start(self) -> Position:
        """The position before the first text."""
        return Position(self.first * len(self.parts) + (0 if self.shared else self.reader), None, 0, 0)

    @property
    def shared(self) -> bool:
        """Whether every reader reads all parts."""
        return len(self.parts) < self.readers

    def texts(self, start: Position) -> Iterator[tuple[str, Position, Position]]:
        """Yield the texts from a position on, each with the positions before and after it; endless."""
        skipped = start.text
        for begin, texts, end in self._windows(start):
            order = np.arange(len(texts))
            if self.window > 1 and len(texts) > 1:
                order = permutation(len(texts), derive_seed("window", self.seed, self.reader, json.dumps(begin[:3])))
            for number in range(skipped, len(texts)):
                after = begin._replace(text=number + 1) if number + 1 < len(texts) else end
                yield texts[order[number]], begin._replace(text=number), after
            skipped = 0

    def _windows(self, start: Position) -> Iterator[tuple[Position, list[str], Position]]:
        """The texts in windows with the positions around each; a window does not extend over the end of a pass."""
        begin = end = start._replace(text=0)
        held: list[str] = []
        number = size = 0
        most = HELD // self.readers
        for text, after in self._own(begin):
            if held and after.part // len(self.parts) != number:
                yield begin, held, end
                begin, held, size = end, [], 0
            held.append(text)
            size += len(text)
            end, number = after, after.part // len(self.parts)
            if len(held) == self.window or size >= most:
                yield begin, held, end
                begin, held, size = end, [], 0

    def _own(self, start: Position) -> Iterator[tuple[str, Position]]:
        """The texts of this reader in the order of the parts, with the position after each."""
        part, place, passed, _ = start
        while True:
            number, index = divmod(part, len(self.parts))
            chosen = int(_order(len(self.parts), derive_seed("parts", self.seed, number))[index])
            for text, after in self.parts[chosen].read(place):
                own = not self.shared or passed % self.readers == self.reader
                passed += self.shared
                if own:
                    yield text, Position(part, after, passed, 0)
            part, place = part + (1 if self.shared else self.readers), None


def reader_count(corpus: Corpus, parts: Sequence[Part], most: int = 64) -> int:
    """The number of readers for a corpus: `most`, halved until each has a part and a text.

    **Raises:** `ValueError` if the corpus has no text.
    """
    texts = sum(1 for _ in itertools.islice(iter(corpus), most if len(parts) > 1 else 1))
    if not texts:
        raise ValueError(f"a corpus must contain at least one non-empty text; {corpus.name!r} has none")
    readers = most
    while readers > max(1, min(texts, len(parts))):
        readers //= 2
    return readers


@functools.lru_cache(maxsize=4)
def _order(size: int, seed: int) -> np.ndarray:
    """The order of the parts in a pass, which all readers of a process share."""
    return permutation(size, seed)


def permutation(size: int, seed: int) -> np.ndarray:
    """A permutation of the numbers below `size` that depends on nothing but the arguments, on any machine and version.

    The numbers are sorted by a hash of them, the splitmix64 sequence of the seed, in which no value occurs twice.
    """
    hashed = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashed = (hashed ^ (hashed >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(hashed ^ (hashed >> np.uint64(31)))


def derive_seed(*parts: int | str) -> int:
    """A seed in 64 bits derived from all of the parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")
