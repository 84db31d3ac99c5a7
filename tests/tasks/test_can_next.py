import itertools
import random
from collections import Counter

import pytest
import torch

from noiselab.autoregressive import RetryUponRegret
from noiselab.revisions import Detector
from noiselab.tasks.igsm import (
    CanNextDetector,
    PerfectDetector,
    Words,
    can_next_examples,
    can_next_row,
    draw_problem,
    draw_small,
    ends_of_steps,
)

WORDS = {level: Words(level) for level in ("logic", "nano", "micro", "med")}


def draw(level, seed, layout="pq"):
    if level == "med":
        return draw_problem(random.Random(seed), level=level, ops=6, layout=layout)
    return draw_small(random.Random(seed), level=level, layout=layout)


@pytest.fixture(scope="module", params=[("logic", "pq"), ("nano", "qp"), ("micro", "pq"), ("med", "pq"), ("med", "qp")])
def problem_and_words(request):
    level, layout = request.param
    return draw(level, 3, layout), WORDS[level]


def text_of(problem, words, *steps):
    """The tokens of a question and words behind it, as `RetryUponRegret` hands them to detectors."""
    return words.encode([*problem.question, *(word for step in steps for word in step)])


# Examples.


@pytest.mark.parametrize("balanced", [False, True])
def test_a_label_says_what_the_checker_says_of_the_step(problem_and_words, balanced):
    """What can be found next gives a right step at once; any other is wrong, by the checker's rules for the words alone."""
    problem, words = problem_and_words
    found = can_next_examples(problem, words, random.Random(0), 60, balanced=balanced)
    assert len(found.rows) == len(found.labels) == 60
    labels = found.labels.tolist()
    for row, label, parameter, place in zip(found.rows, labels, found.parameters, found.places, strict=True):
        known = problem.order[:place]
        needed = set(problem.needs[parameter])
        assert label == (parameter not in known and needed <= set(known))
        before = [word for earlier in range(place) for word in problem.step(earlier)]
        begun = words.decode(row)[1 + len(problem.question) + len(before) :]
        assert words.decode(row)[0] == "<start>"
        assert words.decode(row)[1 : 1 + len(problem.question) + len(before)] == (*problem.question, *before)
        assert begun == problem.mistake(parameter)[: len(begun)] and begun[-1] == "as"
        if parameter in problem.order:  # its step in the solution begins with the same words
            assert begun == problem.step(problem.order.index(parameter))[: len(begun)]


def test_places_and_parameters_are_uniform():
    problem, words, n = draw("nano", 8), WORDS["nano"], 2400
    found = can_next_examples(problem, words, random.Random(1), n)
    pairs = Counter(zip(found.places, found.parameters, strict=True))
    cells = [(place, parameter) for place in range(len(problem.order)) for parameter in problem.needs]
    expected = n / len(cells)
    chi = sum((pairs[cell] - expected) ** 2 / expected for cell in cells)
    assert sum(pairs[cell] for cell in cells) == n  # and no others
    assert abs(chi - len(cells)) < 5 * (2 * len(cells)) ** 0.5


def test_balanced_is_half_yes_where_there_are_both():
    problem, words = draw("nano", 8), WORDS["nano"]
    found = can_next_examples(problem, words, random.Random(1), 1200, balanced=True)
    assert all(0 < len(problem.ready(problem.order[:p])) < len(problem.needs) for p in range(len(problem.order)))
    assert abs(found.labels.double().mean() - 0.5) < 0.05
    plain = can_next_examples(problem, words, random.Random(1), 1200)
    ready = [len(problem.ready(problem.order[:p])) / len(problem.needs) for p in range(len(problem.order))]
    assert abs(plain.labels.double().mean() - sum(ready) / len(ready)) < 0.05


def test_examples_hang_on_the_generator_alone():
    problem, words = draw("nano", 2), WORDS["nano"]
    one, two = (can_next_examples(problem, words, random.Random(5), 20) for _ in range(2))
    assert one.parameters == two.parameters and one.places == two.places
    assert all(torch.equal(a, b) for a, b in zip(one.rows, two.rows, strict=True))
    assert not can_next_examples(problem, words, random.Random(5), 0).rows


def test_examples_refuse_what_is_none():
    problem, words = draw("nano", 2), WORDS["nano"]
    with pytest.raises(ValueError, match="count"):
        can_next_examples(problem, words, random.Random(0), -1)
    with pytest.raises(ValueError, match="place must"):
        can_next_row(problem, words, len(problem.order) + 1, problem.query)
    with pytest.raises(ValueError, match="parameter must"):
        can_next_row(problem, words, 0, "no such")


# The perfect detector.


def test_perfect_calls_no_right_step_wrong(problem_and_words):
    problem, words = problem_and_words
    for errors in ("any", "not ready"):
        detector = PerfectDetector(problem, words, errors=errors)
        for place in range(len(problem.order) + 1):
            steps = [problem.step(earlier) for earlier in range(place)]
            assert detector.score_step(text_of(problem, words, *steps)) == 0
            assert detector.score_step(torch.cat([torch.tensor([words.start]), text_of(problem, words, *steps)])) == 0


def test_perfect_finds_the_first_wrong_step_and_no_later_one(problem_and_words):
    problem, words = problem_and_words
    steps = [problem.step(place) for place in range(len(problem.order))]
    for errors in ("any", "not ready"):
        detector = PerfectDetector(problem, words, errors=errors)
        for place in range(len(steps) - 1):
            later = [p for p in problem.not_ready(problem.order[:place]) if p in problem.order]
            for parameter in later:
                skipped = [*steps[:place], steps[problem.order.index(parameter)]]
                assert detector.score_step(text_of(problem, words, *skipped)) == 1
                assert detector.score_step(text_of(problem, words, *skipped, steps[place])) == 0  # not the last one
        assert detector.score_step(text_of(problem, words, steps[0], steps[0])) == 1  # known already
        assert detector.score_step(text_of(problem, words, steps[0], ["."])) == 1  # no step


def test_not_ready_leaves_numbers_alone():
    problem, words = draw("nano", 3), WORDS["nano"]
    step = list(problem.step(0))
    wrong = [*step[:-2], str((int(step[-2]) + 1) % 5), "."]
    text = text_of(problem, words, wrong)
    assert not problem.check(wrong).right and problem.check(wrong).parameters[0] == problem.order[0]
    assert PerfectDetector(problem, words).score_step(text) == 1
    assert PerfectDetector(problem, words, errors="not ready").score_step(text) == 0


def test_a_wrong_operation_in_the_last_step_is_an_error_but_not_of_readiness():
    """The checker of full iGSM sees it in the answer alone."""
    words, seed = WORDS["med"], 0
    while "+" not in (step := (problem := draw("med", seed)).step(len(problem.order) - 1))[-9:]:
        seed += 1
    left, _, right, _, a, _, b, _, _, _ = step[-10:]
    wrong = [*step[:-10], left, "-", right, "=", a, "-", b, "=", str((int(a) - int(b)) % 23), "."]
    before = [problem.step(place) for place in range(len(problem.order) - 1)]
    assert problem.check([*(word for s in before for word in s), *wrong]).kind == "answer"
    text = text_of(problem, words, *before, wrong)
    assert PerfectDetector(problem, words).score_step(text) == 1
    assert PerfectDetector(problem, words, errors="not ready").score_step(text) == 0


def test_perfect_finds_the_problem_of_a_text():
    words = WORDS["nano"]
    problems = [draw("nano", seed) for seed in range(8)]
    detector = PerfectDetector(problems, words)
    for problem, other in itertools.pairwise(problems):
        assert detector.score_step(text_of(problem, words, problem.step(0))) == 0
        assert detector.score_step(text_of(problem, words, other.step(len(other.order) - 1))) == 1
    with pytest.raises(ValueError, match="begin with the question"):
        detector.score_step(text_of(draw("nano", 99), words))


def test_perfect_refuses_what_it_cannot_judge(unchecked):
    problems, words = [draw("nano", 1)], WORDS["nano"]
    with pytest.raises(ValueError, match="there must be problems"):
        PerfectDetector([], words)
    with pytest.raises(ValueError, match="errors be"):
        PerfectDetector(problems, words, errors="some")


class Careless(torch.nn.Module):
    """Writes the right step with some probability, otherwise that of another parameter, whatever came before."""

    def __init__(self, problem, words, mistakes):
        super().__init__()
        self.problem, self.words, self.mistakes = problem, words, mistakes
        self.steps = [words.encode(problem.step(place)).tolist() for place in range(len(problem.order))]
        self.asked = len(problem.question)

    def forward(self, input_ids):
        logits = torch.full((*input_ids.shape, self.words.size), -torch.inf)
        for row, tokens in zip(logits, input_ids.tolist(), strict=True):
            solution = tokens[1 + self.asked :]
            begin = max((i + 1 for i, token in enumerate(solution) if token == self.words.full_stop), default=0)
            place, begun = solution[:begin].count(self.words.full_stop), solution[begin:]
            if place == len(self.steps):
                row[-1, self.words.end] = 0
                continue
            laws = [self.mistakes / len(self.steps)] * len(self.steps)
            laws[place] += 1 - self.mistakes
            for step, p in zip(self.steps, laws, strict=True):
                if step[: len(begun)] == begun:
                    old = row[-1, step[len(begun)]].exp()
                    row[-1, step[len(begun)]] = (old + p).log()
        return logits


def wrote(problem, words, detector, retries, seed):
    network = Careless(problem, words, mistakes=0.7)
    settings = {"vocab_size": words.size, "boundary": [words.full_stop], "start": words.start, "cache": False}
    sampler = RetryUponRegret(network, detector, retries=retries, **settings)
    question = words.encode(problem.question)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(6)]
    written = sampler.sample([question] * 6, length=250, end=words.end, generator=generators)
    solutions = [words.decode(text[len(question) :]) for text in written.texts]
    return written, [problem.check([w for w in s if w != "<end>"]) for s in solutions]


class SuspectsNothing(Detector):
    unit = "step"

    def score(self, z):
        return torch.zeros(z.shape, dtype=torch.float64)


def test_with_a_perfect_detector_no_step_is_wrong_unless_retries_are_spent():
    words = WORDS["nano"]
    problem = draw_small(random.Random(4), level="nano", ops=4)
    detector = PerfectDetector(problem, words)
    written, verdicts = wrote(problem, words, detector, retries=300, seed=0)
    assert written.revisions and not any(written.spent) and all(v.right for v in verdicts)
    written, verdicts = wrote(problem, words, detector, retries=2, seed=0)
    assert any(written.spent)
    for verdict, spent in zip(verdicts, written.spent, strict=True):
        assert verdict.right or spent
    _, verdicts = wrote(problem, words, SuspectsNothing(), retries=300, seed=0)
    assert not all(v.right for v in verdicts)  # the network needs it


# The probe's detector for problems.


def test_the_probe_reads_up_to_the_word_that_examples_end_with(problem_and_words):
    """The row that the probe reads while a solution is written is the row that it was trained on."""
    problem, words = problem_and_words
    read = []

    class Spy(torch.nn.Module):
        def forward(self, input_ids):
            read.append(input_ids[0])
            return torch.tensor([2.0])

    detector = CanNextDetector(Spy(), words)
    for place in range(len(problem.order)):
        text = text_of(problem, words, *(problem.step(earlier) for earlier in range(place + 1)))
        assert detector.score_step(text) == pytest.approx(float(torch.tensor(-2.0, dtype=torch.float64).sigmoid()))
        assert torch.equal(read.pop(), can_next_row(problem, words, place, problem.order[place]))
    assert set(ends_of_steps(words)) > {words.full_stop}
