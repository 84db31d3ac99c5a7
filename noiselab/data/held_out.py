"""Holding out the last texts of a corpus, as published code does, instead of a share by a hash of each text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..numerics import require_count
from .corpus import Corpus, Mapped, Part, Place, as_corpus, fingerprint


class _Border(NamedTuple):
    """The first held-out text: the number of its part, and of texts before it in that part."""

    part: int
    texts: int


class _Split:
    """Finds the border between the first texts of a corpus and the last `count`, once for both sides.

    Parts are counted from the end, so that the rest of the corpus is not read.
    """

    def __init__(self, corpus: Corpus, count: int) -> None:
        self.corpus, self.count = corpus, count
        self._found: _Border | None = None

    @property
    def border(self) -> _Border:
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> _Border:
        parts, left = self.corpus.parts(), self.count
        border: _Border | None = None
        for index in reversed(range(len(parts))):
            if border is not None:  # at the start of a part: some part before it must have a text
                if next(parts[index].read(), None) is not None:
                    return border
                continue
            here = sum(1 for _ in parts[index].read())
            if here > left:
                return _Border(index, here - left)
            left -= here
            if not left:
                border = _Border(index, 0)
        raise ValueError(
            f"a corpus must have more than the {self.count} texts that are held out; {self.corpus.name!r} has "
            f"{self.count - left}"
        )


class _Head(Part):
    """The first texts of a part; a place is a number of texts and the place in the part."""

    def __init__(self, part: Part, count: int) -> None:
        self.part, self.count = part, count

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        passed, place = start or (0, None)
        if passed < self.count:
            for number, (text, after) in enumerate(self.part.read(place), start=passed + 1):
                yield text, [number, after]
                if number == self.count:
                    break


class _Tail(Part):
    """The texts of a part after the first ones."""

    def __init__(self, part: Part, count: int) -> None:
        self.part, self.count = part, count

    def read(self, start: Place = None) -> Iterator[tuple[str, Place]]:
        if start is not None:
            yield from self.part.read(start)
            return
        for number, (text, after) in enumerate(self.part.read()):
            if number >= self.count:
                yield text, after


class _End(Corpus):
    """The first texts of a corpus, or the last ones."""

    def __init__(self, split: _Split, last: bool) -> None:
        self.split, self.last = split, last
        self.name = f"{split.corpus.name}-{'validation' if last else 'train'}"

    @property
    def key(self) -> str:  # type: ignore[override]
        """That of the corpus, which may change, and of the side."""
        side = "last" if self.last else "all but the last"
        return fingerprint([self.split.corpus.key, side, str(self.split.count)])

    def __iter__(self) -> Iterator[str]:
        return (text for part in self.parts() for text, _ in part.read())

    def parts(self) -> Sequence[Part]:
        parts, border = self.split.corpus.parts(), self.split.border
        if self.last:
            own = range(border.part, len(parts))
        else:
            own = range(border.part + (border.texts > 0))

        def make(index: int) -> Part:
            if index != border.part:
                return parts[index]
            return (_Tail if self.last else _Head)(parts[index], border.texts)

        return Mapped(own, make)


def hold_out_last(corpus: Corpus | Iterable[str], count: int) -> tuple[Corpus, Corpus]:
    """Split a corpus into its first texts and its last `count` texts.

    For comparisons with published models: GIDD and MDLM hold out the last 100,000 documents of OpenWebText. Elsewhere prefer
    `hold_out`, whose split does not change when texts are added, and which keeps duplicates on one side.

    Nothing is read here. When either side is first read, the texts of the last parts of the corpus are counted until the
    border is found. Empty texts do not count.

    **Arguments:**

    - `corpus`: the corpus to split, or a list of texts.
    - `count`: the number of texts that are held out, at least 1.

    **Returns:** the training corpus and the validation corpus.

    **Raises:** `ValueError` if `count` is not positive; while reading, if the corpus has no more texts than that.

    **Example:**

    ```python
    from noiselab.data import TextCorpus, hold_out_last

    training, validation = hold_out_last(TextCorpus(["a", "b", "c"]), 1)
    assert list(training) == ["a", "b"] and list(validation) == ["c"]
    ```
    """
    split = _Split(as_corpus(corpus), require_count("count", count))
    return _End(split, last=False), _End(split, last=True)
