"""Reading a problem of full iGSM from its text, for example one of the released generator."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from string import ascii_letters

from .dependency import Dependency, ordered
from .formula import Definition
from .full import FullProblem
from .structure import ABSTRACT, INSTANCE, Quantity, Structure
from .text import spell, words

Names = Mapping[tuple[str, ...], Quantity]
"""Parameters by the words in which a sentence names them."""

_START, _EQUALS = ("The", "number", "of", "each"), ("equals",)
_MORE, _TIMES = ("more", "than"), ("times", "as", "much", "as")
_SUM, _DIFFERENCE = ("the", "sum", "of"), ("the", "difference", "of")


def read_problem(text: str, categories: Sequence[str], items: Sequence[Sequence[str]]) -> FullProblem:
    """Read a problem of full iGSM from its sentences and its question.

    The edges of the structure are the parameters that have a sentence. The solution of the result is one of several right
    ones; `FullProblem.check` accepts the others too.

    **Arguments:**

    - `text`: the sentences and the question, which comes first or last.
    - `categories`: the name of each layer, from whole to part (`problem.ln` in the released code).
    - `items`: the names of the items of each layer (`problem.N` in the released code); they may have apostrophes, digits,
      hyphens and letters of any alphabet.

    **Returns:** the problem; its letters are the first ones of the alphabet.

    **Raises:** `ValueError` if a sentence has another form or names a parameter that does not exist, if the sentences do
    not define every parameter in use exactly once and without cycles, or if two names are alike.

    **Source:** Ye et al. (2024), arXiv 2407.20311.

    **Example:**

    ```python
    from noiselab.tasks.igsm import read_problem

    problem = read_problem(
        "The number of each Sam's Shop's Rice equals 2 more than each Mill's Food. How many Food does Sam's Shop have?",
        ("Shop", "Food"),
        (("Sam's Shop", "Mill"), ("Rice",)),
    )
    right = "Define Mill's Food as a; so a = 0. Define Sam's Shop's Rice as b; so b = 2 + a = 2 + 0 = 2. "
    assert problem.check(right + "Define Sam's Shop's Food as c; so c = b = 2.").right
    ```
    """
    every = _every_parameter(categories, items)
    names = {words(f"{owner}'s {thing}"): quantity for quantity, owner, thing in every}
    questions = {words(f"How many {thing} does {owner} have?"): quantity for quantity, owner, thing in every}
    if min(len(names), len(questions)) < len(every):
        raise ValueError(f"names must differ, also when one follows another; got {[list(layer) for layer in items]}")
    asked: list[tuple[int, Quantity]] = []
    definitions: list[tuple[Quantity, Definition]] = []
    sentences = _sentences(text)
    for place, said in enumerate(sentences):
        if said[-1] != "?":
            definitions.append(_Sentence(said, names).read())
        elif said in questions:
            asked.append((place, questions[said]))
        else:
            raise ValueError(f"a question must be about a parameter of the problem; got {spell(said[:24])!r}")
    if len(asked) != 1 or asked[0][0] not in (0, len(sentences) - 1):
        raise ValueError(f"one question must come first or last; got {len(asked)} among {len(sentences)} sentences")
    place, query = asked[0]
    edges = {quantity for quantity, _ in definitions}
    children = tuple(
        tuple(tuple(k for k in range(len(below)) if Quantity(INSTANCE, i, j, k) in edges) for j in range(len(layer)))
        for i, (layer, below) in enumerate(pairwise(items))
    )
    structure = Structure(tuple(categories), tuple(map(tuple, items)), children)
    if query not in structure.quantities:
        raise ValueError(f"the question must be about a parameter that has a sentence; got {structure.name(query)}")
    dependency = Dependency(structure, tuple(definitions))
    order = tuple(ordered(dependency.needs, (query,)))
    ops = sum(map(dependency.ops, order))
    return FullProblem(dependency, order, ascii_letters[:ops], "pq" if place else "qp")


def _every_parameter(categories: Sequence[str], items: Sequence[Sequence[str]]) -> list[tuple[Quantity, str, str]]:
    """All parameters that a problem with these names could have, with owner and thing."""
    found = []
    for i, (layer, below) in enumerate(pairwise(items)):
        for j, owner in enumerate(layer):
            found += [(Quantity(INSTANCE, i, j, k), owner, thing) for k, thing in enumerate(below)]
            later = range(i + 1, len(categories))
            found += [(Quantity(ABSTRACT, i, j, k), owner, categories[k]) for k in later]
    return found


def _sentences(text: str) -> list[tuple[str, ...]]:
    """The sentences, each with its stop."""
    sentences: list[list[str]] = [[]]
    for word in words(text):
        sentences[-1].append(word)
        if word in (".", "?"):
            sentences.append([])
    if rest := sentences.pop():
        raise ValueError(f"a sentence must end with a full stop or a question mark; got {spell(rest[:24])!r}")
    return [tuple(sentence) for sentence in sentences]


class _Sentence:
    """Reads the words of one sentence from left to right."""

    def __init__(self, said: tuple[str, ...], names: Names) -> None:
        self.said, self.names, self.place = said, names, 0
        self.longest = max(map(len, names), default=0)

    def read(self) -> tuple[Quantity, Definition]:
        self._expect(*_START)
        quantity = self._name()
        self._expect(*_EQUALS)
        number = factor = None
        if self.said[self.place].isascii() and self.said[self.place].isdigit():
            number = int(self.said[self.place][:9])  # numbers are below 23: what is cut off is too large either way
            self.place += 1
            if self._take("."):
                return quantity, Definition(number)
            factor = self._take(*_TIMES)
            if not factor:
                self._expect(*_MORE)
        difference = self._take(*_DIFFERENCE)
        several = difference or self._take(*_SUM)
        operands = [self._operand()]
        while several and (self._take(",", "and") or self._take(",") or self._take("and")):
            operands.append(self._operand())
        self._expect(".")
        if several and len(operands) < 2:
            raise self._wrong()
        return quantity, Definition(number, tuple(operands), bool(factor), difference)

    def _take(self, *wanted: str) -> bool:
        """Whether the next words are these; if so, they are passed."""
        here = self.said[self.place : self.place + len(wanted)] == wanted
        self.place += len(wanted) * here
        return here

    def _expect(self, *wanted: str) -> None:
        if not self._take(*wanted):
            raise self._wrong()

    def _operand(self) -> Quantity:
        self._expect("each")
        return self._name()

    def _name(self) -> Quantity:
        """The parameter with the longest name that the next words are."""
        for end in range(min(self.place + self.longest, len(self.said)), self.place, -1):
            if found := self.names.get(self.said[self.place : end]):
                self.place = end
                return found
        raise self._wrong()

    def _wrong(self) -> ValueError:
        begun, rest = spell(self.said[: self.place]), spell(self.said[self.place : self.place + 12])
        return ValueError(
            "a sentence must be 'The number of each A's B equals ...' about parameters of the problem; "
            f"got {begun!r}, and then {rest!r}"
        )
