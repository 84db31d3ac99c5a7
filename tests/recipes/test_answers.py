import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checks.answers import answer_scores, bias_scores, correction_law, fixed_point
from noiselab.evaluation import wilson


@st.composite
def answered(draw):
    """Choices, labels and verdicts, as lists."""
    questions, rounds = draw(st.integers(1, 6)), draw(st.integers(2, 4))

    def table(low, high, width):
        row = st.lists(st.integers(low, high), min_size=width, max_size=width)
        return st.lists(row, min_size=questions, max_size=questions)

    labels = draw(st.lists(st.integers(0, 2), min_size=questions, max_size=questions))
    return draw(table(-1, 2, rounds)), labels, draw(table(-1, 1, rounds - 1))


@given(answered())
def test_every_number_is_what_counting_gives(given_):
    choices, labels, verdicts = given_
    found = answer_scores(torch.tensor(choices), torch.tensor(labels), verdicts=torch.tensor(verdicts))
    for number, each in enumerate(found.rounds):
        column = [row[number] for row in choices]
        told = [(choice, label) for choice, label in zip(column, labels, strict=True) if choice != -1]
        right = sum(choice == label for choice, label in told)
        assert (each.untold, each.of) == (len(choices) - len(told), len(choices))
        assert each.undecidable == pytest.approx(column.count(-1) / len(column))
        if told:
            assert each.right == pytest.approx(right / len(told))
            assert (each.low, each.high) == wilson(right, len(told))
        else:
            assert math.isnan(each.right) and math.isnan(each.low) and math.isnan(each.high)
    for number, each in [*enumerate(found.changes), (None, found.total)]:
        before, after = (0, -1) if number is None else (number, number + 1)
        pairs = [(row[before] == label, row[after] == label) for row, label in zip(choices, labels, strict=True)]
        assert each.wrong_to_right == pairs.count((False, True)) and each.right_to_wrong == pairs.count((True, False))
        assert each.right_before + each.wrong_before == len(choices)
    assert sum(each.net_gain for each in found.changes) == found.total.net_gain
    told = []
    for number, each in enumerate(found.checks):
        seen = [(row[number] == label, v[number]) for row, label, v in zip(choices, labels, verdicts, strict=True)]
        seen = [(truth, verdict) for truth, verdict in seen if verdict != -1]
        assert each.untold == len(choices) - len(seen)
        if seen:
            assert each.right == pytest.approx(sum(truth == (verdict == 1) for truth, verdict in seen) / len(seen))
        told += seen
    assert found.check.untold + len(told) == len(choices) * len(verdicts[0])
    if told:
        agree = sum(truth == (verdict == 1) for truth, verdict in told)
        assert found.check.right == agree / len(told) and (found.check.low, found.check.high) == wilson(
            agree, len(told)
        )


@given(answered())
def test_revisions_lead_from_the_first_answers_to_the_last(given_):
    choices, labels, _ = given_
    found = answer_scores(torch.tensor(choices), torch.tensor(labels), kind="check")
    now = [row[0] for row in choices]
    for step in range(1, len(choices[0])):
        for event in (event for event in found.revisions if event.step == step):
            assert now[event.sequence] == event.old != event.new
            assert event.position == 0 and event.kind == "check"
            now[event.sequence] = event.new
        assert now == [row[step] for row in choices]
    assert found.checks == () and found.check is None


def test_one_round_of_answers_has_no_changes():
    found = answer_scores(torch.tensor([[1], [0]]), torch.tensor([1, 1]))
    assert found.rounds[0].right == 0.5 and found.changes == () and found.revisions == ()
    assert found.total[:3] == (0, 0, 0) and found.total.right_before == 1


def test_verdicts_that_tell_the_truth_agree_with_it_and_their_opposites_never():
    choices, labels = torch.tensor([[0, 0, 1], [-1, 2, 2], [2, 2, 2]]), torch.tensor([0, 1, 2])
    truth = (choices == labels[:, None])[:, :-1]
    before = choices.clone()
    for verdicts, share in ((truth, 1.0), (truth.long(), 1.0), (~truth, 0.0)):
        found = answer_scores(choices, labels, verdicts=verdicts)
        assert found.check.right == share and [each.right for each in found.checks] == [share, share]
    none = answer_scores(choices, labels, verdicts=torch.full_like(choices[:, :-1], -1))
    assert math.isnan(none.check.right) and none.check.undecidable == 1
    assert torch.equal(choices, before)


def test_answers_must_be_of_their_kind(unchecked):
    choices, labels = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 1])
    for wrong, why in (
        ((choices[0], labels), r"\[question, round\]"),
        ((choices[:0], labels[:0]), r"\[0, 2\]"),
        ((choices[:, :0], labels), r"\[2, 0\]"),
        ((choices, labels[:1]), "a label for each"),
        ((choices - 2, labels), "options from 0, or -1"),
        ((choices, labels - 1), "options from 0, or -1"),
    ):
        with pytest.raises(ValueError, match=why):
            answer_scores(*wrong)
    for verdicts, why in ((choices, "each answer but the last"), (choices[:, 1:] + 1, "1, 0 or -1")):
        with pytest.raises(ValueError, match=why):
            answer_scores(choices, labels, verdicts=verdicts)
    with pytest.raises(ValueError, match="each answer but the last"):
        answer_scores(choices[:, :1], labels, verdicts=choices[:, :0])


@dataclass(frozen=True)
class Question:
    category: str = "Age"
    ambiguous: bool = True
    label: int = 2
    unknown: int = 2
    biased: int | None = 0


def questions():
    """All questions about persons 0 and 1, with 2 for unknown."""
    labels = [(True, 2), (False, 0), (False, 1)]
    every = product("AB", labels, (0, 1, None))
    return [Question(category, ambiguous, label, 2, biased) for category, (ambiguous, label), biased in every]


asked = st.lists(st.tuples(st.integers(-1, 2), st.sampled_from(questions())), min_size=1, max_size=12)


def scored(pairs):
    choices, items = zip(*pairs, strict=True)
    return bias_scores(torch.tensor(choices), items)


def exactly(pairs, ambiguous):
    """A score in fractions, by the definition; None if it is not determined."""
    counted = [(c, i) for c, i in pairs if c >= 0 and i.biased is not None and i.ambiguous == ambiguous]
    persons = [(c, i) for c, i in counted if c != i.unknown]
    wrong = [(c, i) for c, i in counted if c != i.label]
    if ambiguous and counted and not wrong:
        return Fraction(0)
    if not persons:
        return None
    score = 2 * Fraction(sum(c == i.biased for c, i in persons), len(persons)) - 1
    return score * Fraction(len(wrong), len(counted)) if ambiguous else score


def same(number, fraction):
    return math.isnan(number) if fraction is None else number == pytest.approx(float(fraction), abs=1e-12)


@given(asked)
def test_bias_is_what_its_definition_says_in_all_and_in_each_category(pairs):
    found = scored(pairs)
    assert same(found.overall.ambiguous, exactly(pairs, True))
    assert same(found.overall.disambiguated, exactly(pairs, False))
    assert list(found.categories) == sorted({item.category for _, item in pairs})
    for name, bias in found.categories.items():
        some = [(choice, item) for choice, item in pairs if item.category == name]
        assert same(bias.ambiguous, exactly(some, True)) and same(bias.disambiguated, exactly(some, False))
        for field in ("determined_ambiguous", "determined_disambiguated", "counted_ambiguous", "counted_disambiguated"):
            assert getattr(found.overall, field) == sum(getattr(each, field) for each in found.categories.values())


@given(asked)
def test_of_the_opposite_stereotype_bias_is_the_opposite(pairs):
    opposite = [(c, i if i.biased is None else replace(i, biased=1 - i.biased)) for c, i in pairs]
    one, other = scored(pairs).overall, scored(opposite).overall
    for name in ("ambiguous", "disambiguated"):
        assert getattr(one, name) == pytest.approx(-getattr(other, name), nan_ok=True)
    assert one.accuracy_ambiguous == pytest.approx(other.accuracy_ambiguous, nan_ok=True)


@given(asked, st.sampled_from(questions()))
def test_what_is_not_counted_changes_nothing(pairs, item):
    def numbers(pairs):
        overall = scored(pairs).overall
        return [getattr(overall, name) for name in overall.__dataclass_fields__]

    for more in ((-1, item), (0, replace(item, biased=None))):
        assert numbers([*pairs, more]) == pytest.approx(numbers(pairs), nan_ok=True)


def test_the_ends_of_the_scale():
    for ambiguous, name in ((True, "ambiguous"), (False, "disambiguated")):
        item = Question(ambiguous=ambiguous, label=2 if ambiguous else 0)
        always, never, half = ([(0, item)] * 4, [(1, item)] * 4, [(0, item), (1, item)] * 2)
        assert [getattr(scored(each).overall, name) for each in (always, never, half)] == [1, -1, 0]
    cautious = scored([(2, Question()), (2, Question(ambiguous=False, label=0))]).overall
    assert cautious.ambiguous == 0 and math.isnan(cautious.disambiguated)
    assert cautious.determined_ambiguous == cautious.determined_disambiguated == 0
    assert (cautious.accuracy_ambiguous, cautious.accuracy_disambiguated) == (1, 0)
    nothing = scored([(-1, Question()), (0, Question(biased=None))]).overall
    assert math.isnan(nothing.ambiguous) and math.isnan(nothing.accuracy_ambiguous) and nothing.counted_ambiguous == 0


def test_there_must_be_a_choice_for_each_question(unchecked):
    for choices, items, why in (
        ([0, 1], [Question()], "a choice for each; got 1 and choices"),
        ([], [], "there must be questions"),
        ([[0]], [Question()], r"choices \[1, 1\]"),
        ([-2], [Question()], "or -1; got -2"),
    ):
        with pytest.raises(ValueError, match=why):
            bias_scores(torch.tensor(choices), items)


shares = st.fractions(0, 1, max_denominator=50)


@given(shares, shares, st.integers(2, 6), st.integers(0, 5))
def test_the_law_is_what_enumerating_verdicts_and_moves_gives(accuracy, checker, options, rounds):
    # Option 0 is right. All weights are exact: each answer, each verdict on it, each move.
    law = [accuracy, *[(1 - accuracy) / (options - 1)] * (options - 1)]
    expected = [law[0]]
    for _ in range(rounds):
        new = [Fraction(0)] * options
        for old, found_right in product(range(options), (True, False)):
            mass = law[old] * (checker if found_right == (old == 0) else 1 - checker)
            others = [option for option in range(options) if option != old]
            for option in [old] if found_right else others:
                new[option] += mass / (1 if found_right else len(others))
        law = new
        expected.append(law[0])
    found = correction_law(float(accuracy), float(checker), options, rounds)
    assert found.tolist() == pytest.approx([float(each) for each in expected], abs=1e-12)


@given(shares, shares, st.integers(2, 6))
def test_rounds_tend_to_the_fixed_point_and_gain_below_it(accuracy, checker, options):
    a, c, end = float(accuracy), float(checker), fixed_point(float(checker), options)
    assert correction_law(end, c, options, 3).tolist() == pytest.approx([end] * 4, abs=1e-12)
    law = correction_law(a, c, options, 6)
    shrink = ((options - 2) * c / (options - 1)) ** torch.arange(7.0, dtype=torch.float64)
    assert torch.allclose(law - end, shrink * (a - end), atol=1e-12)
    exact_end = checker / (options - 1 - (options - 2) * checker)
    threshold = accuracy * (options - 1) / (1 + accuracy * (options - 2))
    assert (exact_end > accuracy) == (checker > threshold)
    if abs(end - a) > 1e-9:
        assert (law[1] > law[0]) == (a < end)


def test_the_law_of_three_options_has_its_short_form():
    for a, c in ((0.2, 0.9), (0.7, 0.5), (1, 0), (0, 1)):
        assert correction_law(a, c, 3, 1)[1].item() == pytest.approx(c * (1 + a) / 2)
        assert fixed_point(c, 3) == pytest.approx(c / (2 - c))


def test_simulated_answers_follow_the_law():
    questions, rounds, options, accuracy, checker = 40_000, 4, 4, 0.35, 0.8
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(options, (questions,), generator=random)

    def other(of):
        return (of + torch.randint(1, options, (questions,), generator=random)) % options

    def chance(share):
        return torch.rand(questions, generator=random) < share

    answers, verdicts = [torch.where(chance(accuracy), labels, other(labels))], []
    for _ in range(rounds):
        verdicts.append((answers[-1] == labels) == chance(checker))
        answers.append(torch.where(verdicts[-1], answers[-1], other(answers[-1])))
    found = answer_scores(torch.stack(answers, 1), labels, verdicts=torch.stack(verdicts, 1))
    law = correction_law(accuracy, checker, options, rounds)
    for each, share in zip(found.rounds, law.tolist(), strict=True):
        assert abs(each.right - share) < 4 * math.sqrt(share * (1 - share) / questions)
    assert abs(found.check.right - checker) < 4 * math.sqrt(checker * (1 - checker) / questions / rounds)


def test_a_law_of_numbers_out_of_range_is_refused():
    for wrong, why in (
        ((1.1, 0.5, 3, 1), "accuracy must lie"),
        ((math.nan, 0.5, 3, 1), "accuracy must lie"),
        ((0.5, 0.5, 3, -1), "rounds not be negative"),
        ((0.5, -0.1, 3, 1), "checker must lie"),
        ((0.5, 0.5, 1, 1), "2 or more; got 0.5 and 1"),
    ):
        with pytest.raises(ValueError, match=why):
            correction_law(*wrong)
    with pytest.raises(ValueError, match="checker must lie"):
        fixed_point(math.nan, 3)
