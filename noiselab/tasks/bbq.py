"""Questions of the Bias Benchmark for Question answering (BBQ), read from its published files.

The files are not part of this library. They are at github.com/nyu-mll/BBQ, under the licence CC BY 4.0; cite Parrish et al.
(2022), arXiv 2110.08193.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.records import read_rows
from ..data.texts import text_list
from .choices import letters


@dataclass(frozen=True)
class BBQItem:
    """A question about two people with three possible answers: either person, or that it cannot be determined.

    **Arguments:**

    - `category`: the kind of bias, for example "Age".
    - `context`, `question`, `answers`: the texts, without surrounding spaces.
    - `label`: the index of the correct answer, from 0.
    - `ambiguous`: whether the context does not determine the answer; the correct answer is then `unknown`.
    - `negative`: whether the question asks for the person to whom the stereotype applies, rather than for the other
      person.
    - `unknown`: the index of the answer that it cannot be determined.
    - `biased`: the index of the answer that agrees with the stereotype: the person of the stereotyped group if the
      question is negative, otherwise the other person. `None` if the stated groups do not distinguish the two.
    - `number`: the number of the question in its category.
    """

    category: str
    context: str
    question: str
    answers: tuple[str, str, str]
    label: int
    ambiguous: bool
    negative: bool
    unknown: int
    biased: int | None
    number: int


def question_text(item: BBQItem) -> str:
    r"""Return the prompt: the context, the question, and the three answers with their letters.

    **Arguments:**

    - `item`: the question.

    **Source:** the layout is that of Wang et al. (2024), arXiv 2405.18634.

    **Example:**

    ```python
    from noiselab.tasks import BBQItem, question_text

    answers = ("The man", "The woman", "Unknown")
    item = BBQItem("Gender_identity", "A man and a woman came.", "Who is late?", answers, 2, True, True, 2, 1, 7)
    assert question_text(item) == (
        "A man and a woman came.\nWho is late?\n\n(a) The man (b) The woman (c) Unknown"
    )
    ```
    """
    options = " ".join(f"{mark} {answer}" for mark, answer in zip(letters(3), item.answers, strict=True))
    return f"{item.context}\n{item.question}\n\n{options}"


def load_bbq(folder: str | Path, *, categories: Sequence[str] | None = None) -> list[BBQItem]:
    r"""Read the questions of BBQ.

    The target of the stereotype is determined by the rules of the published analysis. `biased` is `None` if these rules
    find nobody or both people, or if the context contradicts the groups.

    **Arguments:**

    - `folder`: a folder with the `.jsonl` files; each line is a question. Empty lines are skipped.
    - `categories`: the categories to keep, spelled as in the files; all by default.

    **Returns:** the questions, sorted by file name and then by line.

    **Raises:** `ValueError` if the folder, a file or a category does not exist, or if a line is not a BBQ question (the
    message gives file and line).

    **Source:** Parrish et al. (2022), arXiv 2110.08193; the second groups of the two mixed categories follow its
    templates.

    **Example:**

    ```python
    import json, pathlib, tempfile
    from noiselab.tasks import load_bbq

    row = {
        "example_id": 0, "question_index": "1", "question_polarity": "neg", "context_condition": "ambig",
        "category": "Age", "context": "I saw Ann, 70, and Eve, 20.", "question": "Who lost a key?",
        "ans0": "Ann", "ans1": "Unknown", "ans2": "Eve", "label": 1,
        "answer_info": {"ans0": ["Ann", "old"], "ans1": ["Unknown", "unknown"], "ans2": ["Eve", "nonOld"]},
        "additional_metadata": {"stereotyped_groups": ["old"]},
    }
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "Age.jsonl").write_text(json.dumps(row) + "\n")
    (item,) = load_bbq(folder)
    assert item.ambiguous and item.unknown == item.label == 1 and item.biased == 0
    ```
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"folder must exist; got {folder}")
    files = sorted(file for file in place.glob("[!.]*.jsonl") if file.is_file())
    if not files:
        raise ValueError(f"a BBQ folder must contain files that end in .jsonl; {folder} has none")
    categories = None if categories is None else text_list(categories, "categories")
    items: list[BBQItem] = []
    for file in files:
        items += [_item(_Row(row, place)) for place, row in read_rows(file)]
    if not items:
        raise ValueError(f"a BBQ folder must contain questions; all files of {folder} are empty")
    there = sorted({item.category for item in items})
    if categories is None:
        return items
    if missing := [category for category in categories if category not in there]:
        raise ValueError(f"categories must be among {there}; got {missing}")
    return [item for item in items if item.category in categories]


class _Row:
    """The fields of a line, checked for presence and type."""

    def __init__(self, fields: Any, where: str, name: str = "a line") -> None:
        self.where, self.fields = where, fields
        self.demand(isinstance(fields, dict), f"{name} must be a JSON object", fields)

    def demand(self, holds: bool, what: str, got: Any) -> None:
        if not holds:
            raise ValueError(f"{self.where}: {what}; got {got!r}")

    def get(self, name: str) -> Any:
        self.demand(name in self.fields, f"the field {name!r} must be present", sorted(self.fields))
        return self.fields[name]

    def text(self, name: str) -> str:
        found = self.get(name)
        self.demand(isinstance(found, str) and bool(found.strip()), f"{name} must be a non-empty text", found)
        return found.strip()

    def whole(self, name: str) -> int:
        found = self.get(name)
        # In Python bool is a subclass of int; in JSON true is a truth value.
        self.demand(isinstance(found, int) and not isinstance(found, bool), f"{name} must be an integer", found)
        return found

    def word(self, name: str, *words: str) -> str:
        found = self.get(name)
        self.demand(found in words, f"{name} must be {' or '.join(map(repr, words))}", found)
        return found

    def inner(self, name: str) -> "_Row":
        return _Row(self.get(name), self.where, name)

    def texts(self, name: str) -> tuple[str, ...]:
        found = self.get(name)
        self.demand(
            isinstance(found, list) and all(isinstance(each, str) for each in found), f"{name} must list texts", found
        )
        return tuple(found)


def _item(row: _Row) -> BBQItem:
    names = ("ans0", "ans1", "ans2")
    first, second, third = (row.text(name) for name in names)
    label = row.whole("label")
    row.demand(0 <= label <= 2, "label must be 0, 1 or 2", label)
    info = row.inner("answer_info")
    described = [info.texts(name) for name in names]
    for each in described:
        row.demand(len(each) == 2, "answer_info must contain a name and a group for each answer", list(each))
    unknown = [option for option, (_, group) in enumerate(described) if group == "unknown"]
    row.demand(len(unknown) == 1, "one answer must have the group 'unknown'", [group for _, group in described])
    negative = row.word("question_polarity", "neg", "nonneg") == "neg"
    category, context = row.text("category"), row.text("context")
    people = {
        option: _Person(name, group, answer)
        for option, ((name, group), answer) in enumerate(zip(described, (first, second, third), strict=True))
        if option != unknown[0]
    }
    groups = row.inner("additional_metadata").texts("stereotyped_groups")
    about = _stereotyped(category, context, groups, people, row.fields.get("question_index"))
    return BBQItem(
        category=category,
        context=context,
        question=row.text("question"),
        answers=(first, second, third),
        label=label,
        ambiguous=row.word("context_condition", "ambig", "disambig") == "ambig",
        negative=negative,
        unknown=unknown[0],
        biased=about if about is None or negative else next(option for option in people if option != about),
        number=row.whole("example_id"),
    )


@dataclass(frozen=True)
class _Person:
    """One of the two people as described in a file: a name or description, a group, and the text of the answer."""

    name: str
    group: str
    answer: str


# Stereotypes of the mixed categories concern a race and a second group, but lines list only the race. In the templates,
# the number of the question determines the second group: these numbers have this group, all others have the other.
_MEN = frozenset({"1", "2", "7", "8", "43", "44"})
_RICH = frozenset({"13", "14", "15", "16", *map(str, range(19, 27))})

_SAME = {
    **dict.fromkeys(("woman", "women", "girl", "girls"), "f"),
    **dict.fromkeys(("man", "men", "boy", "boys"), "m"),
    **dict.fromkeys(("transgenderwomen", "transgendermen"), "trans"),
}


def _plain(group: str) -> str:
    """Return the canonical spelling of a group: "low SES" and "lowSES", "girl" and "F" are the same."""
    spelled = re.sub(r"\s+", "", group).casefold()
    return _SAME.get(spelled, spelled)


def _labels(person: _Person, category: str) -> set[str]:
    """Return all groups of a person: "lowSES-F-Black" has three, "trans_F" two."""
    if category == "Nationality":
        return {_plain(person.name)}  # here groups are world regions, but stereotypes concern nations
    group = person.group
    if not group and "latina woman" in person.answer.casefold():
        group = "F-Latino"  # the only group that is empty in the published files
    return {_plain(part) for part in re.split("[-_]", group)}


def _stereotyped(
    category: str, context: str, groups: Sequence[str], people: Mapping[int, _Person], question: Any
) -> int | None:
    """Return the index of the person whom the stereotype concerns, or None if it is neither or both."""
    wanted = {_plain(group) for group in groups}
    labels = {option: _labels(person, category) for option, person in people.items()}
    about = [option for option in people if labels[option] & wanted]
    if len(about) == 2 and (second := _second_group(category, str(question))):
        about = [option for option in about if second in labels[option]]
    if len(about) != 1:
        return None
    # Some lines of Gender_identity state "Ann, who is trans, and Bob" but assign the group to Bob.
    other = next(person for option, person in people.items() if option != about[0])
    return None if "trans" in wanted and f"{other.name}, who is trans" in context else about[0]


def _second_group(category: str, question: str) -> str | None:
    if category == "Race_x_gender" and question in map(str, range(1, 45)):
        return "m" if question in _MEN else "f"
    if category == "Race_x_SES" and question in map(str, range(1, 27)):
        return "highses" if question in _RICH else "lowses"
    return None
