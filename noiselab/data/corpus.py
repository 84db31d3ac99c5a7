"""Corpora: collections of texts that can be read repeatedly and split into disjoint parts."""

import abc
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from .texts import each_text

Place: TypeAlias = Any
"""A place between the texts of a part, of JSON types; `None` is its start."""
Item = TypeVar("Item")


class Part(abc.ABC):
    """A part of a corpus that can be read apart from the others, and continued at any of its texts.

    **Example:**

    ```python
    from noiselab.data import Corpus, Part

    class Row(Part):
        def __init__(self, a):
            self.a = a

        def read(self, start=None):
            for b in range(start or 0, 10):
                yield f"{self.a} times {b} is {self.a * b}.", b + 1

    class Table(Corpus):
        name, key = "table", "table-10"

        def __iter__(self):
            return (text for part in self.parts() for text, place in part.read())

        def parts(self):
            return [Row(a) for a in range(10)]

    assert next(Table().parts()[7].read(start=8)) == ("7 times 8 is 56.", 9)
    ```
    """

    @abc.abstractmethod
    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        """Yield each non-empty text with the place after it, at which a later call can start."""


class Mapped(Sequence[Part]):
    """Parts that are made when they are needed.

    **Arguments:**

    - `items`: one for each part.
    - `make`: makes the part of an item.
    """

    def __init__(self, items: Sequence[Item], make: Callable[[Item], Part]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Mapped(self._items[index], self._make)
        return self._make(self._items[index])


class Corpus(abc.ABC):
    """A collection of texts that can be iterated any number of times, always in the same order.

    A subclass sets two attributes and implements `__iter__`, which yields non-empty texts:

    - `name`: a short name used in file names and messages.
    - `key`: a string that changes whenever the texts change; it identifies caches of packed tokens.

    Readers that share the texts call `parts`; override it if the corpus can be read from places other than its start.
    """

    name: str
    key: str

    @abc.abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Yield the texts; none is empty."""

    def parts(self) -> Sequence[Part]:
        """The disjoint parts that can be read apart; together they contain every text once, in the order of `__iter__`.

        By default there is one, which is read from its first text to find a later place.
        """
        return [_Whole(self)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, key={self.key[:12]!r})"


class _Whole(Part):
    """A corpus that can only be read from its start; a place is a number of texts."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        first = start or 0
        for number, text in enumerate(itertools.islice(iter(self.corpus), first, None), start=first + 1):
            yield text, number


class _One(Part):
    """One text in memory."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        if start is None:
            yield self.text, 1


class _Kept(Part):
    """The texts of a part that belong to one side of a split."""

    def __init__(self, part: Part, keeps: Callable[[str], bool]) -> None:
        self.part, self.keeps = part, keeps

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        return ((text, place) for text, place in self.part.read(start) if self.keeps(text))


class TextCorpus(Corpus):
    """Texts held in memory.

    **Arguments:**

    - `texts`: the documents; empty ones are skipped.
    - `name`: a short name used in file names and messages.

    **Raises:** `ValueError` if `texts` is not a collection of texts (one string is not), or all are empty.

    **Example:**

    ```python
    from noiselab.data import TextCorpus

    corpus = TextCorpus(["to be, or not to be", "that is the question"], name="hamlet")
    assert len(corpus) == 2
    ```
    """

    def __init__(self, texts: Iterable[str], *, name: str = "texts") -> None:
        self.texts = tuple(text for text in each_text(texts) if text)
        if not self.texts:
            raise ValueError(f"a corpus must contain at least one non-empty text; {name!r} has none")
        self.name = name
        self.key = fingerprint(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def parts(self) -> Sequence[Part]:
        """One part for each text."""
        return Mapped(self.texts, _One)


class _Side(Corpus):
    """The texts of a corpus that belong to one side of a split by content."""

    def __init__(self, corpus: Corpus, share: float, validation: bool) -> None:
        side = "validation" if validation else "train"
        self.corpus, self.share, self.validation = corpus, share, validation
        self.name = f"{corpus.name}-{side}"

    @property
    def key(self) -> str:  # type: ignore[override]
        """That of the corpus, which may change, and of the side."""
        return fingerprint([self.corpus.key, "validation" if self.validation else "train", repr(self.share)])

    def keeps(self, text: str) -> bool:
        """Whether a text belongs to this side."""
        return (hash_share(text) < self.share) == self.validation

    def __iter__(self) -> Iterator[str]:
        return filter(self.keeps, self.corpus)

    def parts(self) -> Sequence[Part]:
        return Mapped(self.corpus.parts(), lambda part: _Kept(part, self.keeps))


def hold_out(corpus: Corpus | Iterable[str], share: float = 0.05) -> tuple[Corpus, Corpus]:
    """Split a corpus into training and validation corpora by a hash of each text.

    The split of a text depends only on the text: adding other texts does not change it, and duplicates are always on
    the same side. The split is lazy: no text is read here.

    **Arguments:**

    - `corpus`: the corpus to split, or a list of texts.
    - `share`: the expected fraction of texts in the validation corpus, in (0, 1).

    **Returns:** the training corpus and the validation corpus.

    **Raises:** `ValueError` if `share` is outside (0, 1).

    **Example:**

    ```python
    from noiselab.data import TextCorpus, hold_out

    training, validation = hold_out(TextCorpus(str(number) for number in range(1000)), share=0.1)
    assert not set(training) & set(validation)
    ```
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must lie between 0 and 1; got {share}")
    corpus = as_corpus(corpus)
    return _Side(corpus, share, validation=False), _Side(corpus, share, validation=True)


def as_corpus(texts: Iterable[str]) -> Corpus:
    """Return a corpus unchanged; collect any other texts in memory.

    **Raises:** `ValueError` if a corpus lacks an attribute, or can be read only once.
    """
    if not isinstance(texts, Corpus):
        return TextCorpus(texts)
    kind, own = type(texts), vars(texts)
    for name in ("name", "key"):
        if not (hasattr(kind, name) or isinstance(own.get(name), str)):
            raise ValueError(
                "a corpus must have the attributes name, a short text, and key, a text that changes whenever the texts of the "
                f"corpus do; {kind.__name__} has no {name}"
            )
    if not inspect.isgeneratorfunction(kind.__iter__):  # those start anew at each call
        reader = iter(texts)
        if reader is texts or any(reader is value for value in own.values()):
            raise ValueError(
                "a corpus must start from its first text at each call of __iter__, because it is read several times; "
                f"{kind.__name__} returns the same iterator again"
            )
    return texts


def fingerprint(parts: Iterable[str]) -> str:
    """Return a hexadecimal hash of a sequence of strings; it also depends on the boundaries between them."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def hash_share(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text and is uniform over texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6)
    return int.from_bytes(digest.digest(), "little") / 2**48
