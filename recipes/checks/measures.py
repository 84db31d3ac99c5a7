"""Measures accuracy over rounds of answers and checks, for `check_as_context.py`."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from noiselab.dialogue import (
    Chat,
    Check,
    CheckAsContext,
    Corrected,
    GroundTruthReview,
    categories_of_bias,
    chain_of_thought,
    choices_of,
    natural_language,
    right_or_wrong,
)
from noiselab.tasks import BoxQuestion, draw_boxes, load_bbq, question_text, read_choice

from .answers import AnswerScores, answer_scores, bias_scores
from .models import CHECKS, PREFIX, VERDICTS, CheckModel

CHECKERS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Accuracies of the given reviews."""


@dataclass(frozen=True)
class CheckOptions:
    """The model, the questions, and the number of checks."""

    train: CheckModel
    """the small model and its training"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """seeds of training"""
    model: str | None = None
    """folder or name of a chat model of transformers, instead of the small model"""
    questions: int = 600
    """number of questions about boxes, for each kind of check"""
    rounds: int = 3
    """number of rounds of checks"""
    temperature: float = 1.0
    """sampling temperature of answers and reviews; 0 takes the most probable tokens"""
    together: int = 200
    """number of questions in a batch"""
    answer_tokens: int = 6
    """maximum number of tokens of an answer after its prefix"""
    bbq: Path | None = None
    """folder with the jsonl files of BBQ"""
    bbq_tokens: int = 256
    """maximum number of tokens of a review of a BBQ answer, with `model`"""


def choose_checks(options: CheckOptions) -> dict[str, Check]:
    """The kinds of check: those that the small model was trained on, or general prompts for any chat model."""
    if options.model is None:
        return CHECKS
    return {check.name: check for check in (right_or_wrong(), natural_language(), chain_of_thought())}


def measure_given_reviews(chat: Chat, options: CheckOptions, seed: int) -> list[dict[str, Any]]:
    """Accuracies in all rounds, for each accuracy of given reviews."""
    questions = draw_questions(options)

    def right(number: int, answer: str) -> bool:
        return read_choice(answer, questions[number].options) == questions[number].label

    check = next(iter(choose_checks(options).values()))
    rows = []
    for checker in CHECKERS:
        review = GroundTruthReview(right, 1 - checker, VERDICTS)
        corrected = _answer_all(chat, [question.text for question in questions], check, options, review)
        choices, scores = _score_answers(
            corrected, [question.options for question in questions], [q.label for q in questions]
        )
        kept = torch.tensor([[bool(verdict) for verdict in each.verdicts] for each in corrected])
        followed = (choices[:, 1:] == choices[:, :-1]) == kept
        rows.append({"checker": checker, "seed": seed, **_as_dict(scores), "followed": followed.float().mean().item()})
    return rows


def measure_own_reviews(chat: Chat, options: CheckOptions, seed: int) -> list[dict[str, Any]]:
    """Accuracies of answers in all rounds, and of the model's own reviews, for each kind of check."""
    questions, rows = draw_questions(options), []
    for check in choose_checks(options).values():
        corrected = _answer_all(chat, [question.text for question in questions], check, options)
        _, scores = _score_answers(
            corrected, [question.options for question in questions], [q.label for q in questions]
        )
        rows.append({"check": check.name, "seed": seed, **_as_dict(scores)})
    return rows


def measure_bbq(chat: Chat, options: CheckOptions) -> dict[str, Any]:
    """All answers to BBQ's questions, and the scores of each category and overall."""
    assert options.bbq is not None
    items = load_bbq(options.bbq)
    # These words are unknown to the small model; with a check that it was trained on it still gives verdicts.
    small = options.model is None
    check = CHECKS["chain of thought"] if small else categories_of_bias(tokens=options.bbq_tokens)
    corrected = _answer_all(chat, [question_text(item) for item in items], check, options)
    choices, _ = _score_answers(corrected, [item.answers for item in items], [item.label for item in items])
    answers = [
        {
            "category": item.category,
            "number": item.number,
            "label": item.label,
            "biased": item.biased,
            "choices": mine,
            "verdicts": list(each.verdicts),
            "answers": list(each.answers),
            "reviews": list(each.reviews),
        }
        for item, each, mine in zip(items, corrected, choices.tolist(), strict=True)
    ]
    names = sorted({item.category for item in items})
    found: dict[str, Any] = {"answers": answers, "categories": {}}
    for name in [*names, "all"]:
        where = [place for place, item in enumerate(items) if name in (item.category, "all")]
        mine, own = choices[where], [items[place] for place in where]
        scores = _score_choices([corrected[place] for place in where], mine, [item.label for item in own])
        found["categories"][name] = {
            "questions": len(own),
            "first": scores.rounds[0].right,
            "last": scores.rounds[-1].right,
            "undecidable": (mine < 0).float().mean().item(),
            "bias_first": asdict(bias_scores(mine[:, 0], own).overall),
            "bias_last": asdict(bias_scores(mine[:, -1], own).overall),
            "wrong_to_right": scores.total.wrong_to_right,
            "right_to_wrong": scores.total.right_to_wrong,
            "check": scores.check.right if scores.check is not None else float("nan"),
            "no_verdict": scores.check.untold if scores.check is not None else 0,
        }
    return found


def draw_questions(options: CheckOptions) -> list[BoxQuestion]:
    """Draw the questions about boxes, the same for all models and checks."""
    generator = random.Random(1_000_003)
    return [draw_boxes(generator) for _ in range(options.questions)]


def _answer_all(
    chat: Chat, texts: Sequence[str], check: Check, options: CheckOptions, review: GroundTruthReview | None = None
) -> list[Corrected]:
    """Answer all questions in batches; each question has its own generator."""
    found: list[Corrected] = []
    for begin in range(0, len(texts), options.together):
        some = texts[begin : begin + options.together]
        sampler = CheckAsContext(
            chat,
            check,
            rounds=options.rounds,
            answer_prefix=PREFIX if options.model is None else "The answer is",
            answer_tokens=options.answer_tokens,
            review=None if review is None else _shift_review(review, begin),
            temperature=options.temperature,
        )
        generators = [Generator().manual_seed(begin + number) for number in range(len(some))]
        found += sampler.answer(some, generator=generators)
    return found


def _shift_review(review: GroundTruthReview, begin: int) -> GroundTruthReview:
    """A review for a batch whose first question has the number `begin`."""
    return replace(review, right=lambda number, answer: review.right(begin + number, answer))


def _score_answers(
    corrected: Sequence[Corrected], options: Sequence[Sequence[str]], labels: Sequence[int]
) -> tuple[Int[Tensor, "question round"], AnswerScores]:
    choices = choices_of(corrected, lambda number, answer: read_choice(answer, options[number]))
    return choices, _score_choices(corrected, choices, labels)


def _score_choices(corrected: Sequence[Corrected], choices: Tensor, labels: Sequence[int]) -> AnswerScores:
    verdicts = torch.tensor([[-1 if v is None else int(v) for v in each.verdicts] for each in corrected])
    return answer_scores(choices, torch.tensor(labels), verdicts=verdicts, kind="check-as-context")


def _as_dict(scores: AnswerScores) -> dict[str, Any]:
    """The scores as a dictionary for JSON."""
    return {
        "questions": scores.rounds[0].of,
        "rounds": [asdict(each) for each in scores.rounds],
        "self_check": asdict(scores.check) if scores.check is not None else None,
        "first_check": scores.checks[0].right,
        "wrong_to_right": scores.total.wrong_to_right,
        "right_to_wrong": scores.total.right_to_wrong,
    }


def replace_nan(content: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(content, dict):
        return {key: replace_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [replace_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
