"""Forced errors: diffusion, backspaces, regret and checks in the context in one table and one figure."""

import itertools

import pytest
import torch
from dialogue.chats import CHECK, scripted_chat
from readers import BACK, INITIAL, START, TRANSITION, Chain, Judge, data

import noiselab as nl
from noiselab.autoregressive import (
    BackspaceDetector,
    BackspaceSampler,
    BacktrackingReviser,
    PooledDetector,
    Proofreader,
    RandomTokenBackspace,
    RetryUponRegret,
    SurpriseDetector,
    UniformTokens,
)
from noiselab.bench import (
    ForcedErrors,
    force_errors,
    measure_forced_errors,
    plot_forced_errors,
    tabulate_forced_errors,
)
from noiselab.correctors import CorrectorReviser, DenoiserDetector, SuspectCorrector
from noiselab.dialogue import CheckAsContext, CheckDetector, CheckReviser
from noiselab.evaluation import generative_perplexity, measure_detection, select_units
from noiselab.revisions import Revised, count_outcome, list_revisions

OPTIONS, TRUTH = "abc", {"red": 0, "green": 1, "blue": 2}
QUESTIONS = [f"Which one ? {color}" for color in TRUTH] * 6


def sets_of(count=2, share=0.15):
    parts = data(16 * count, 16).split(16)
    return [
        force_errors(x, torch.arange(4), share, generator=torch.Generator().manual_seed(seed))
        for seed, x in enumerate(parts)
    ]


def knows_answers(words):
    """Reviews answers truly; keeps a right one, and moves from a wrong one to the next option."""
    options = [word for before, word in itertools.pairwise(words) if word in OPTIONS and before == "is"]
    truth = OPTIONS[TRUTH[next(word for word in words if word in TRUTH)]]
    if words[-3:] == ["My", "answer", "is"]:
        return "right" if options[-1] == truth else "wrong"
    if words[-3:] == ["The", "answer", "is"]:
        reviewed = [word for word in words if word in ("right", "wrong")]
        return options[-1] if reviewed[-1] == "right" else OPTIONS[(OPTIONS.index(options[-1]) + 1) % 3]
    return "<end>"


def chat_pair(rounds=1):
    sampler = CheckAsContext(
        scripted_chat(knows_answers), CHECK, rounds=rounds, answer_prefix="The answer is", answer_tokens=3, cache=False
    )
    write = lambda number, option: f"The answer is {OPTIONS[option]}"  # noqa: E731
    read = lambda number, answer: OPTIONS.find(answer.split()[-1])  # noqa: E731
    return CheckDetector(sampler, QUESTIONS, write), CheckReviser(sampler, QUESTIONS, write, read)


def answer_sets():
    truth = torch.tensor([[TRUTH[question.split()[-1]]] for question in QUESTIONS])
    return [force_errors(truth, torch.arange(3), 0.5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


def pairs():
    """A detector and a reviser of each way to self-correct."""
    process = nl.gidd(vocab_size=5, mask_id=BACK, p_uniform=0.2)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    taught, plain = Chain(0.1), Chain(0.1, backspaces=False)
    back = BackspaceDetector(taught, BACK, start=START)
    edits = RandomTokenBackspace(5, BACK, 0.1, UniformTokens(4))
    backspaces = BackspaceSampler(taught, edits, start=START, semantics="erasing", cache=False, budget=20)
    steps = PooledDetector(SurpriseDetector(plain, start=START), boundary=[1])
    regret = RetryUponRegret(plain, steps, vocab_size=4, boundary=[1], start=START, threshold=2.0, cache=False)
    return {
        "diffusion": (DenoiserDetector(oracle), CorrectorReviser(nl.SelfCorrection(oracle, process=process))),
        "suspects": suspects(),
        "proofreading": (back, Proofreader(taught, BACK, start=START, threshold=0.5, semantics="erasing", cache=False)),
        "backtracking": (back, BacktrackingReviser(backspaces, back, threshold=0.5)),
        "regret": (steps, BacktrackingReviser(regret, steps, threshold=2.0)),
    }


def suspects():
    """Masks alone: each token is judged while it is hidden, and the most suspect ones are predicted again."""
    process = nl.masked(vocab_size=5, mask_id=4)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    corrector = SuspectCorrector(process, oracle, threshold=1.5, temperature=0)
    return DenoiserDetector(oracle, hide=4), CorrectorReviser(corrector, steps=4)


def test_all_that_corrects_itself_lands_in_one_table_and_one_figure():
    random, sets = torch.Generator().manual_seed(0), sets_of()
    rows = [measure_forced_errors(name, sets, *pair, generator=random) for name, pair in pairs().items()]
    rows.append(measure_forced_errors("check in the context", answer_sets(), *chat_pair(), generator=random))
    assert [row.unit for row in rows] == ["token", "token", "token", "token", "step", "answer"]
    for row in rows:
        assert row.area.mean > 0.8 and row.mended.mean > 0.1 and row.evaluations_per_token.mean > 0
        assert row.truth is None and row.better is None
    diffusion, suspected, proofreading, *_, checks = rows
    assert suspected.mended.mean > 0.4 and diffusion.mended.mean > 0.5 and proofreading.mended.mean > 0.3
    assert checks.area.mean == 1 and checks.harmed.mean == 0 and 0 < checks.mended.mean < 1
    assert checks.mended.mean + checks.miscorrected.mean == pytest.approx(1)
    lines = tabulate_forced_errors(rows).splitlines()
    assert len(lines) == 2 + len(rows) and {line.count("|") for line in lines} == {10}
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {row.model}" for row in rows]
    figure = plot_forced_errors(rows)
    assert [len(axes.containers) for axes in figure.axes] == [len(rows)] * 3
    drawn = figure.axes[2].containers[0][0].get_xydata()[0]
    assert drawn.tolist() == [diffusion.evaluations_per_token.mean, diffusion.gain.mean]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{row.model} ({row.unit})" for row in rows]


def test_a_row_is_what_its_parts_say():
    sets, network = sets_of(share=0.1), Chain(0.1)
    detector = BackspaceDetector(network, BACK, start=START)
    reviser = Proofreader(network, BACK, start=START, threshold=0.3, semantics="erasing", cache=False)
    row = measure_forced_errors("chain", sets, detector, reviser, judge=Judge(), start=START)
    revised = [reviser(forced.tokens) for forced in sets]
    single = [
        count_outcome(forced.tokens, after.tokens, forced.truth, evaluations=after.evaluations)
        for forced, after in zip(sets, revised, strict=True)
    ]
    for name in ("mended", "miscorrected", "harmed", "gain", "evaluations_per_token"):
        assert getattr(row, name).mean == pytest.approx(sum(getattr(outcome, name) for outcome in single) / 2)
    areas = [measure_detection(detector(forced.tokens), forced.wrong).area for forced in sets]
    assert row.area.mean == pytest.approx(sum(areas) / 2)
    judged = [generative_perplexity(Judge(), forced.tokens, start=START).nats for forced in sets]
    assert row.before.mean == pytest.approx(sum(judged) / 2)
    assert row.better.mean == pytest.approx(row.before.mean - row.after.mean) and row.better.mean > 0.1
    assert row.before.mean > row.truth.mean
    assert {line.count("|") for line in tabulate_forced_errors([row, row]).splitlines()} == {14}


def test_a_step_is_wrong_if_one_of_its_tokens_is():
    forced, (steps, _) = sets_of()[0], pairs()["regret"]
    score, wrong = select_units(steps(forced.tokens), forced.wrong, steps.unit)
    found = []
    for tokens, bad in zip(forced.tokens.tolist(), forced.wrong.tolist(), strict=True):
        begin = 0
        for place, token in enumerate(tokens):
            if token == 1:
                found.append(any(bad[begin : place + 1]))
                begin = place + 1
    assert wrong.tolist() == found and len(score) == len(found)


@pytest.mark.parametrize("name", ["backtracking", "regret"])
def test_a_decoder_goes_back_to_the_first_suspected_unit_and_no_further(name):
    detector, reviser = pairs()[name]
    z = sets_of()[0].tokens
    revised = reviser(z, generator=torch.Generator().manual_seed(0)).tokens
    suspected = detector(z) > reviser.threshold
    for before, after, marks in zip(z, revised, suspected, strict=True):
        if not marks.any():
            assert torch.equal(before, after)
            continue
        left = reviser.decoder.reach(before[: int(marks.nonzero()[0]) + 1].tolist())
        assert torch.equal(before[:left], after[:left])
    assert (z != revised).any()
    rows = (torch.arange(z.shape[1]) >= 9).expand(z.shape)
    protected = reviser(z, rows=rows, generator=torch.Generator().manual_seed(0)).tokens
    assert torch.equal(protected[:, :9], z[:, :9]) and (protected != z).any()
    assert not reviser(z, rows=torch.zeros_like(rows)).evaluations


@pytest.mark.parametrize("name", ["diffusion", "proofreading", "backtracking", "regret"])
def test_a_sequence_is_revised_alone_as_in_a_batch(name):
    _, reviser = pairs()[name]
    z = sets_of()[0].tokens[:6]
    seeded = lambda: [torch.Generator().manual_seed(seed) for seed in range(6)]  # noqa: E731
    before, together = z.clone(), reviser(z, generator=seeded())
    assert torch.equal(z, before)
    alone = [reviser(z[row : row + 1], generator=[random]) for row, random in enumerate(seeded())]
    assert torch.equal(together.tokens, torch.cat([found.tokens for found in alone]))
    assert together.evaluations == sum(found.evaluations for found in alone)
    changes = list_revisions(z, [together.tokens], reviser.kind)
    assert len(changes) == int((z != together.tokens).sum()) and changes[0].kind == reviser.kind


def test_answers_are_checked_and_given_again():
    detector, reviser = chat_pair()
    forced = answer_sets()[0]
    assert torch.equal(detector(forced.tokens)[:, 0] == 1, forced.wrong[:, 0])
    revised = reviser(forced.tokens)
    moved = torch.where(forced.wrong, (forced.tokens + 1) % 3, forced.tokens)
    assert torch.equal(revised.tokens, moved)
    assert torch.equal(chat_pair(rounds=2)[1](forced.tokens).tokens, forced.truth)
    rows = torch.arange(len(QUESTIONS))[:, None] < 5
    assert torch.equal(reviser(forced.tokens, rows=rows).tokens, torch.where(rows, moved, forced.tokens))
    for thing in (detector, reviser):
        with pytest.raises(ValueError, match="one token for each of 18 questions; got"):
            thing(forced.tokens[:3])


def test_the_share_is_replaced_by_other_tokens_with_equal_probability():
    x = torch.full((100, 100), 2)
    before = x.clone()
    forced = force_errors(x, torch.tensor([0, 2, 5, 7]), 0.3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, before) and torch.equal(forced.tokens != x, forced.wrong)
    assert forced.wrong.double().mean().item() == pytest.approx(0.3, abs=0.02)
    counts = torch.bincount(forced.tokens[forced.wrong], minlength=8)
    assert counts[2] == 0 and (counts[[0, 5, 7]] / counts.sum() - 1 / 3).abs().max() < 0.04


class Wrong(nl.Detector):
    """Returns what it is made with."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, z):
        return self.scores


class Answers(nl.Reviser):
    """Returns what it is made with."""

    def __init__(self, found):
        self.found = found

    def revise(self, z, *, rows=None, generator=None):
        return self.found


def test_what_does_not_fit_is_refused(unchecked):
    sets = sets_of()
    (detector, reviser), shape = pairs()["proofreading"], (16, 16)
    with pytest.raises(ValueError, match="two sets"):
        measure_forced_errors("m", sets[:1], detector, reviser)
    with pytest.raises(
        ValueError, match=r"detector must be a Detector, a class with a method score\(z\); got a function"
    ):
        measure_forced_errors("m", sets, lambda z: z.double(), reviser)
    with pytest.raises(ValueError, match="got the class Wrong"):
        measure_forced_errors("m", sets, Wrong, reviser)
    with pytest.raises(
        ValueError, match=r"reviser must be a Reviser, a class with a method revise\(z\); got a SelfCorrection"
    ):
        measure_forced_errors("m", sets, detector, pairs()["diffusion"][1].corrector)
    for scores, why in (
        (torch.zeros(16), r"scores of shape \[16, 16\]; got torch.float32 \[16\]"),
        (torch.zeros(shape, dtype=torch.long), "floating-point scores .* got torch.int64"),
        ([0.0], "got list"),
        (torch.full(shape, torch.nan), r"without NaN \(-inf for what is never suspected\); got 256 NaN"),
    ):
        with pytest.raises(ValueError, match=why):
            measure_forced_errors("m", sets, Wrong(scores), reviser)
    for found, why in (
        (sets[0].tokens, r"must return Revised\(tokens, evaluations\); got a Tensor"),
        (Revised(sets[0].tokens[:, 1:], 0), r"must keep the shape \[16, 16\]; got \[16, 15\]"),
    ):
        with pytest.raises(ValueError, match=why):
            measure_forced_errors("m", sets, detector, Answers(found))
    rows = torch.zeros(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match="tokens in rows only; got"):
        Answers(Revised(sets[1].tokens, 0))(sets[0].tokens, rows=rows)
    with pytest.raises(ValueError, match="rows must be Bool"):
        reviser(sets[0].tokens, rows=rows[:3])
    nothing = ForcedErrors(sets[0].truth, sets[0].truth, rows)
    with pytest.raises(ValueError, match="wrong units and right ones"):
        measure_forced_errors("m", [nothing, nothing], detector, reviser)
    with pytest.raises(ValueError, match="rows to plot"):
        plot_forced_errors([])
    with pytest.raises(ValueError, match="not be NaN"):
        BacktrackingReviser(pairs()["regret"][1].decoder, detector, threshold=float("nan"))
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share"):
            force_errors(torch.zeros(1, 4, dtype=torch.long), torch.arange(3), share)
    with pytest.raises(ValueError, match="in the support"):
        force_errors(torch.full((1, 4), 9), torch.arange(3), 0.5)
    with pytest.raises(ValueError, match="support must have"):
        force_errors(torch.zeros(1, 4, dtype=torch.long), torch.arange(1), 0.5)
