"""A corpus: texts that can be read again, and split without overlap."""

import abc
import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator


class Corpus(abc.ABC):
    """Texts that can be read any number of times, always in the same order.

    A subclass sets two attributes and writes `__iter__`, which yields texts that are not empty:

    - `name`: a short word for file names and messages.
    - `key`: a string that changes whenever the texts change; caches of packed tokens are found by it.

    Whatever reads only a share of the texts calls `part`, which may be overridden for speed.
    """

    name: str
    key: str

    @abc.abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Yield the texts, none of them empty."""

    def part(self, index: int, count: int, order: int | None = None) -> Iterator[str]:
        """Yield one of `count` disjoint parts, which together hold every text once.

        **Arguments:**

        - `index`: which part, 0 to `count - 1`.
        - `count`: how many parts there are: processes times loader workers.
        - `order`: a number by which a corpus that can do so cheaply rearranges its texts before they are dealt out;
          parts are disjoint between calls with the same number. `None` keeps the order of `__iter__`.
        """
        check_part(index, count)
        return itertools.islice(iter(self), index, None, count)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, key={self.key[:12]!r})"


class TextCorpus(Corpus):
    """Texts held in memory.

    **Arguments:**

    - `texts`: the documents; empty ones are left out.
    - `name`: a short word for file names and messages.

    **Raises:** `ValueError` if no text remains.

    **Example:**

    ```python
    from noiselab.data import TextCorpus

    corpus = TextCorpus(["to be, or not to be", "that is the question"], name="hamlet")
    assert len(corpus) == 2
    ```
    """

    def __init__(self, texts: Iterable[str], *, name: str = "texts") -> None:
        self.texts = tuple(text for text in texts if text)
        if not self.texts:
            raise ValueError(f"a corpus must hold at least one text that is not empty; {name!r} holds none")
        self.name = name
        self.key = fingerprint(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, index: int, count: int, order: int | None = None) -> Iterator[str]:
        """Yield one of `count` disjoint parts; with `order`, of a random arrangement of all texts."""
        check_part(index, count)
        places = list(range(len(self.texts)))
        if order is not None:
            random.Random(order).shuffle(places)
        return (self.texts[place] for place in places[index::count])


class _Side(Corpus):
    """The texts of a corpus that lie on one side of a split by content."""

    def __init__(self, corpus: Corpus, share: float, validation: bool) -> None:
        side = "validation" if validation else "train"
        self.corpus, self.share, self.validation = corpus, share, validation
        self.name = f"{corpus.name}-{side}"
        self.key = fingerprint([corpus.key, side, repr(share)])

    def _keep(self, texts: Iterable[str]) -> Iterator[str]:
        return (text for text in texts if (hash_share(text) < self.share) == self.validation)

    def __iter__(self) -> Iterator[str]:
        return self._keep(self.corpus)

    def part(self, index: int, count: int, order: int | None = None) -> Iterator[str]:
        return self._keep(self.corpus.part(index, count, order))


def hold_out(corpus: Corpus, share: float = 0.05) -> tuple[Corpus, Corpus]:
    """Split a corpus into one for training and one for validation, by a hash of each text.

    A text keeps its side whatever else is added, and copies of one text never lie on both sides. Nothing is read here.

    **Arguments:**

    - `corpus`: what to split.
    - `share`: the expected share of the texts for validation, in (0, 1).

    **Returns:** the training corpus and the validation corpus.

    **Raises:** `ValueError` if the share is outside (0, 1).

    **Example:**

    ```python
    from noiselab.data import TextCorpus, hold_out

    training, validation = hold_out(TextCorpus(str(number) for number in range(1000)), share=0.1)
    assert not set(training) & set(validation)
    ```
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must lie between 0 and 1; got {share}")
    return _Side(corpus, share, validation=False), _Side(corpus, share, validation=True)


def as_corpus(texts: Iterable[str]) -> Corpus:
    """Return a corpus as it is, and gather any other texts in memory."""
    if isinstance(texts, str):
        raise ValueError("texts must be a corpus or a list of texts; got one string")
    return texts if isinstance(texts, Corpus) else TextCorpus(texts)


def fingerprint(parts: Iterable[str]) -> str:
    """Return a hexadecimal hash of strings, in which the borders between them count."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def hash_share(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone, uniform over texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6)
    return int.from_bytes(digest.digest(), "little") / 2**48


def check_part(index: int, count: int) -> None:
    """Raise `ValueError` unless 0 <= index < count."""
    if not 0 <= index < count:
        raise ValueError(f"a part must be numbered from 0 to count - 1; got part {index} of {count}")
