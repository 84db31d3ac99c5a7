"""Laws of mistakes in solutions: they are of the right pools, of the stated number, and nothing is left of them."""

import math
import random
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from written import WRITTEN

from noiselab.tasks.igsm import ProblemMistakes, Rule, SmallProblem, Words, draw_problem, draw_small
from noiselab.testing import check_edits

SEEDS = st.integers(0, 2**32)
KINDS = ("retry", "weak", "miss", "filler")
WORDS = Words("nano")
X = WORDS.encode(WRITTEN.answer)
POOLS = {
    "retry": ("cat dog elk ant gnu", "dog elk ant gnu", "elk ant gnu", "ant gnu", "gnu"),
    "weak": ("cat dog elk ant", "dog elk ant", "elk ant", "ant", ""),
    "miss": ("cat dog elk ant fox gnu", "dog elk ant fox gnu", "elk ant fox gnu", "ant fox gnu", "fox gnu"),
    "filler": ("", "bee", "bee cat", "bee cat dog", "bee cat dog elk"),
}


def random_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def begun(z: torch.Tensor) -> list[list[str]]:
    """The parameters of the mistakes before each step, read off the words."""
    found: list[list[str]] = [[]]
    text = WORDS.decode(z)
    for at, word in enumerate(text):
        if word == "BACK":
            assert text[at - 3] == "D" and text[at - 1] == "as"
            found[-1].append(text[at - 2])
        elif word == ".":
            found.append([])
    return found[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_pools_of_a_written_problem(kind):
    mistakes = ProblemMistakes(WRITTEN, WORDS, 0.5, kind=kind)
    assert [set(mistakes.pool(place)) for place in range(5)] == [set(pool.split()) for pool in POOLS[kind]]
    seen: list[set[str]] = [set() for _ in range(5)]
    for seed in range(60):
        for place, names in enumerate(begun(mistakes.corrupt(X, generator=random_of(seed)))):
            assert len(set(names)) == len(names), "without replacement"
            seen[place].update(names)
    assert seen == [set(pool.split()) for pool in POOLS[kind]]


def test_weak_mistakes_may_contain_the_step_itself():
    mistakes = ProblemMistakes(WRITTEN, WORDS, 0.5, kind="weak", self_contain=True)
    assert [set(mistakes.pool(place)) for place in range(5)] == [set(WRITTEN.order[place:]) for place in range(5)]
    check_edits(mistakes, [X])


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_obey_the_laws_of_edits(kind):
    with_end = torch.cat([X, torch.tensor([WORDS.end])])
    check_edits(ProblemMistakes(WRITTEN, WORDS, 0.4, kind=kind), [X, with_end])


@settings(max_examples=25)
@given(
    seed=SEEDS,
    level=st.sampled_from(["logic", "nano", "micro"]),
    kind=st.sampled_from(KINDS),
    rate=st.floats(0, 0.95),
)
def test_streams_are_right_solutions_with_retries(seed: int, level, kind, rate: float):
    problem, words = draw_small(random.Random(seed), level=level), Words(level)
    mistakes = ProblemMistakes(problem, words, rate, kind=kind)
    x = words.encode(problem.answer)
    z = mistakes.corrupt(x, generator=random_of(seed))
    assert torch.equal(mistakes.clean(z), x) and mistakes.log_probability(z, x) > -math.inf
    verdict = problem.check(words.decode(z))
    assert verdict.right and verdict.retries == int((z == words.back).sum())
    wrong = words.decode(z[mistakes.wrong(z)])
    assert wrong[::3] == ("D",) * verdict.retries and wrong[2::3] == ("as",) * verdict.retries


@settings(max_examples=60)
@given(pieces=st.lists(st.sampled_from([*WRITTEN.answer, "BACK", "BACK", ".", "D gnu as BACK"]), max_size=30))
def test_the_checker_reads_a_stream_as_what_it_comes_to(pieces: list[str]):
    mistakes = ProblemMistakes(WRITTEN, WORDS, 0.5)
    z = WORDS.encode(" ".join(pieces).split())
    clean, found = WRITTEN.check(WORDS.decode(mistakes.clean(z))), WRITTEN.check(WORDS.decode(z))
    assert (found.step, found.kind, found.parameters) == (clean.step, clean.kind, clean.parameters)
    assert clean.retries == 0 and found.retries == int((z == WORDS.back).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_streams_sum_to_one_and_have_the_stated_length(kind):
    problem = SmallProblem(
        "micro",
        (("ant", Rule(("bee",))), ("bee", Rule(("cat",))), ("cat", Rule((), 1)), ("dog", Rule(("ant", "cat")))),
        ("cat", "bee", "ant"),
    )
    words = Words("micro")
    x = words.encode(problem.answer)
    mistakes = ProblemMistakes(problem, words, 0.6, kind=kind)
    before = [
        [some for k in range(len(pool) + 1) for some in permutations(pool, k)] for pool in map(mistakes.pool, range(3))
    ]
    total = mean = 0.0
    for choice in product(*before):
        said: list[str] = []
        for place, some in enumerate(choice):
            said += [word for parameter in some for word in problem.mistake(parameter)]
            said += problem.step(place)
        z = words.encode(said)
        q = mistakes.log_probability(z, x).exp().item()
        total, mean = total + q, mean + q * len(z)
    assert total == pytest.approx(1) and mean == pytest.approx(mistakes.expected_length(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_number_of_mistakes_is_that_of_the_closed_form(kind):
    rate, draws, generator = 0.5, 800, random_of(0)
    mistakes = ProblemMistakes(WRITTEN, WORDS, rate, kind=kind)
    counts = torch.tensor(
        [list(map(len, begun(mistakes.corrupt(X, generator=generator)))) for _ in range(draws)], dtype=torch.float64
    )
    for place, pool in enumerate(POOLS[kind]):
        stated = sum(rate**k for k in range(1, len(pool.split()) + 1))
        error = counts[:, place].std().item() / draws**0.5
        assert abs(counts[:, place].mean().item() - stated) <= 4 * error
    stated = len(X) + 4 * sum(sum(rate**k for k in range(1, len(pool.split()) + 1)) for pool in POOLS[kind])
    assert mistakes.expected_length(X) == pytest.approx(stated)


def test_probability_of_a_written_stream():
    mistakes = ProblemMistakes(WRITTEN, WORDS, 0.2, kind="filler")
    steps = [" ".join(WRITTEN.step(place)) for place in range(5)]

    def of(text: str) -> float:
        return mistakes.log_probability(WORDS.encode(text.split()), X).exp().item()

    # Pools of 0, 1, 2, 3, 4; none is left after the first mistake, one of three and one of two are drawn before step 3.
    text = f"{steps[0]} D bee as BACK {steps[1]} {steps[2]} D dog as BACK D bee as BACK {steps[3]} {steps[4]}"
    assert of(text) == pytest.approx(0.2 * 0.8 * (0.2 / 3 * 0.2 / 2 * 0.8) * 0.8)
    for never in (
        text.replace("D dog as BACK", "D bee as BACK"),
        text.replace("D dog as BACK", "D elk as BACK"),
        text.replace("D dog as BACK", "D dog BACK"),
        f"D gnu as BACK {text}",
        f"{text} D bee as BACK",
        steps[0],
        "",
    ):
        assert of(never) == 0


def test_no_mistakes_without_a_rate():
    mistakes = ProblemMistakes(WRITTEN, WORDS, 0)
    z = mistakes.corrupt(X, generator=random_of(0))
    assert torch.equal(z, X) and mistakes.log_probability(z, X) == 0 and mistakes.expected_length(X) == len(X)
    assert mistakes.log_probability(torch.cat([WORDS.encode(WRITTEN.mistake("gnu")), X]), X) == -math.inf


def test_streams_hang_on_the_generator_alone():
    mistakes = ProblemMistakes(WRITTEN, WORDS, 0.7)
    first, again = (mistakes.corrupt(X.int(), generator=random_of(5)) for _ in range(2))
    assert torch.equal(first, again) and first.dtype == torch.int32
    assert not torch.equal(first, mistakes.corrupt(X.int(), generator=random_of(6)))


def test_only_the_solution_of_its_problem_is_a_text():
    mistakes = ProblemMistakes(WRITTEN, WORDS, 0.5)
    end = torch.tensor([WORDS.end])
    for x in (X[:-1], X[:0], torch.cat([X, end, end]), X.flip(0), torch.cat([end, X])):
        for wrong in (mistakes.corrupt, mistakes.expected_length):
            with pytest.raises(ValueError, match="x must be the solution"):
                wrong(x)
        assert mistakes.log_probability(X, x) == -math.inf
    with pytest.raises(ValueError, match="backspace"):
        mistakes.corrupt(mistakes.corrupt(X, generator=random_of(0)))


def test_arguments_are_checked(unchecked):
    for rate in (-0.1, 1, 1.5):
        with pytest.raises(ValueError, match="rate must lie"):
            ProblemMistakes(WRITTEN, WORDS, rate)
    with pytest.raises(ValueError, match="kind must be"):
        ProblemMistakes(WRITTEN, WORDS, 0.5, kind="strong")
    with pytest.raises(ValueError, match="self_contain"):
        ProblemMistakes(WRITTEN, WORDS, 0.5, self_contain=True)
    with pytest.raises(ValueError, match="words must be in the vocabulary"):
        ProblemMistakes(WRITTEN, Words("logic"), 0.5)
    assert repr(ProblemMistakes(WRITTEN, WORDS, 0.5)) == "ProblemMistakes(of 5 steps, Words('nano'), 0.5, kind='retry')"


@settings(max_examples=12)
@given(seed=SEEDS, kind=st.sampled_from(KINDS))
def test_solutions_of_full_problems_take_mistakes_too(seed: int, kind):
    problem, words = draw_problem(random.Random(seed), ops=5), Words("med")
    mistakes = ProblemMistakes(problem, words, 0.5, kind=kind)
    words.encode((*problem.question, *(word for p in problem.needs for word in problem.mistake(p))))
    x = words.encode(problem.answer)
    z = mistakes.corrupt(x, generator=random_of(seed))
    assert torch.equal(mistakes.clean(z), x) and mistakes.log_probability(z, x) > -math.inf
    assert problem.check(words.decode(mistakes.clean(z))).right
    assert set(words.decode(z)) <= {*problem.answer, "BACK", *(w for p in problem.needs for w in problem.mistake(p))}
