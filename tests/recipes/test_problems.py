"""Rows of problems: what is in them, what is scored, and that a model's loss on them is that of its solutions."""

import itertools
from functools import partial

import pytest
import torch

import noiselab as nl
from common import build_llama
from noiselab.objectives import elbo
from noiselab.tasks.igsm import ProblemMistakes, Words, draw_small
from noiselab.training import Place, causal_loss, noised_loss
from problems import streams
from problems.streams import ProblemBlocks, ProblemStream

WORDS = Words("nano")
DRAW = partial(draw_small, level="nano", split="train")


def stream(rate=0.5, **settings):
    mistakes = (lambda problem: ProblemMistakes(problem, WORDS, rate)) if rate else None
    return ProblemStream(DRAW, WORDS, 256, batch=4, mistakes=mistakes, seed=1, **settings)


def rows_of(stream, count=64):
    for row in itertools.islice(stream, count):
        real = row["attention_mask"].bool()
        yield row["input_ids"][real], row["scored"][real].bool()
        assert (row["input_ids"][~real] == WORDS.padding).all() and not row["scored"][~real].any()


@pytest.mark.parametrize("score_mistakes", [True, False])
@pytest.mark.parametrize("score_questions", [True, False])
def test_what_is_scored(score_mistakes, score_questions):
    backs = 0
    for tokens, scored in rows_of(stream(score_mistakes=score_mistakes, score_questions=score_questions)):
        text = WORDS.decode(tokens)
        first = text.index(":") + 1  # behind the question
        assert scored[:first].all() if score_questions else not scored[:first].any()
        assert text[0] == "<start>" and text[-1] == "<end>" and scored[-1]
        steps = " ".join(text[first:-1]).replace("BACK", "BACK |").replace(".", ". |").split("|")[:-1]
        place = first
        for step in map(str.split, steps):
            wrong = step[-1] == "BACK"
            backs += wrong
            of_step = scored[place : place + len(step)]
            assert of_step[-1]  # the backspace is always learned
            assert of_step[:-1].all() if score_mistakes or not wrong else not of_step[:-1].any()
            place += len(step)
        assert place == len(tokens) - 1
    assert backs > 20


def test_problems_are_new_and_reproducible_and_of_one_length_in_a_batch():
    first, again = (list(rows_of(stream(), 128)) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert len({tuple(tokens.tolist()) for tokens, _ in first}) == 128
    lengths = torch.tensor([float(len(tokens)) for tokens, _ in first]).view(-1, 4)
    assert lengths.std(1).mean() < 0.15 * lengths.std()
    assert stream().mean_length(300) == pytest.approx(lengths.mean().item(), rel=0.1)


def test_the_loss_is_that_of_the_solution_alone():
    torch.manual_seed(0)
    network = build_llama(WORDS.size, layers=1, width=16, heads=2, length=256, start=WORDS.start).eval()
    rows = list(itertools.islice(stream(score_mistakes=False), 4))
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    losses, count = 0.0, 0
    for row in rows:
        real = row["attention_mask"].bool()
        ids, scored = row["input_ids"][real], row["scored"][real].bool()
        laws = network(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        picked = laws.gather(-1, ids[1:, None])[:, 0]
        losses, count = losses - picked[scored[1:]].sum(), count + int(scored[1:].sum())
    torch.testing.assert_close(causal_loss(network, batch, place=Place(0)), losses / count)


def test_a_block_holds_the_solution_its_end_and_padding():
    logic = Words("logic")
    draw = partial(draw_small, level="logic")
    for row in itertools.islice(ProblemBlocks(draw, logic, 128, block=40, seed=3), 50):
        text = logic.decode(row["input_ids"])
        first = text.index(":") + 1
        scored = row["scored"].bool()
        assert scored[first : first + 40].all() and scored.sum() == 40
        block = text[first : first + 40]
        end = block.index("<end>")
        assert block[end - 1] == "." and set(block[end + 1 :]) <= {"<padding>"}
        assert set(text[first + 40 :]) == {"<padding>"}


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, input_ids, timesteps):
        return self.function(input_ids)


def test_given_tokens_are_neither_noised_nor_scored():
    process = nl.gidd(vocab_size=9, mask_id=8, p_uniform=0.2)
    x = torch.randint(8, (3, 10), generator=torch.Generator().manual_seed(0))
    scored = torch.zeros(3, 10, dtype=torch.long)
    scored[:, 4:7] = 1
    seen = []

    def answer(z):
        seen.append(z)
        return torch.randn(3, 10, 9, generator=torch.Generator().manual_seed(int(z[:, 4:7].sum())))

    network = Function(answer)
    settings = {"process": process, "objective": elbo, "place": Place(step=4), "time_range": (0.5, 0.999)}
    loss = noised_loss(network, {"input_ids": x, "scored": scored}, **settings)
    (z,) = seen
    assert torch.equal(z[:, :4], x[:, :4]) and torch.equal(z[:, 7:], x[:, 7:]) and (z[:, 4:7] != x[:, 4:7]).any()
    # A given token has no loss, whatever the network says of it.
    spoiled = Function(lambda z: torch.where(scored[..., None].bool(), answer(z), torch.randn(3, 10, 9)))
    assert noised_loss(spoiled, {"input_ids": x, "scored": scored}, **settings) == loss
    all_of_it = noised_loss(network, {"input_ids": x, "scored": torch.ones_like(x)}, **settings)
    assert all_of_it == noised_loss(network, {"input_ids": x}, **settings) != loss


def test_errors(monkeypatch):
    monkeypatch.setattr(streams, "TRIES", 20)
    with pytest.raises(ValueError, match="block must lie between"):
        ProblemBlocks(DRAW, WORDS, 20, block=20)
    with pytest.raises(ValueError, match="problems must fit the length, 20"):
        next(iter(ProblemBlocks(DRAW, WORDS, 20, block=10)))
    with pytest.raises(ValueError, match="must be positive"):
        ProblemStream(DRAW, WORDS, 0, batch=4)
    with pytest.raises(ValueError, match="rows must fit the length, 10"):
        next(iter(ProblemStream(DRAW, WORDS, 10, batch=4)))
