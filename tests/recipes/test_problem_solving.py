"""Solutions of models that know the answers, and of some that do not."""

import random
from types import SimpleNamespace

import pytest
import torch

import noiselab as nl
from common import build_llama
from noiselab.denoisers import Denoiser
from noiselab.tasks.igsm import Verdict, Words, draw_small
from problems.solving import encode_prompt, generate_solutions, infill_solutions, solve, summarize_verdicts

WORDS = Words("logic")
GENERATOR = random.Random(1)
PROBLEMS = [draw_small(GENERATOR, level="logic", ops=ops) for ops in (2, 4, 6, 3)]
ANSWERS = [WORDS.encode(problem.answer) for problem in PROBLEMS]


class Knowing(torch.nn.Module):
    """In place of a model of transformers: `generate` appends the right answer, of the second problem a wrong one."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def generate(self, ids, *, attention_mask, max_new_tokens, **settings):
        rows = []
        for row, mask in zip(ids, attention_mask, strict=True):
            prompt = row[mask.bool()]
            (which,) = (i for i, p in enumerate(PROBLEMS) if torch.equal(encode_prompt(p, WORDS), prompt))
            answer = ANSWERS[which].flip(0) if which == 1 else ANSWERS[which]
            new = torch.full((max_new_tokens,), WORDS.padding)
            new[: len(answer) + 1] = torch.cat([answer, torch.tensor([WORDS.end])])
            rows.append(torch.cat([row, new]))
        self.seen.append((len(ids), settings))
        return torch.stack(rows)


def test_problems_of_any_lengths_get_their_own_answers():
    network = Knowing()
    verdicts = solve(network, PROBLEMS, WORDS, beams=3, most=60, batch=3)
    assert [verdict.right for verdict in verdicts] == [True, False, True, True]
    assert [count for count, _ in network.seen] == [3, 1]
    assert all(s["num_beams"] == 3 and not s["do_sample"] for _, s in network.seen)


def test_greedy_solutions_are_the_most_probable_words_one_after_another():
    torch.manual_seed(3)
    network = build_llama(
        WORDS.size, layers=1, width=16, heads=2, length=256, start=1, end=WORDS.end, padding=WORDS.padding
    ).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(30)
    for problem, solution in zip(PROBLEMS, generate_solutions(network, PROBLEMS, WORDS, most=12), strict=True):
        text = encode_prompt(problem, WORDS)
        for token in [*solution.tolist(), WORDS.end][:12]:
            best = int(network(input_ids=text[None]).logits[0, -1].argmax())
            assert best == token
            text = torch.cat([text, torch.tensor([token])])


class Answers(Denoiser):
    """Sure of the right tokens of each row, whatever it sees, but for one place of the first row in its noisiest half."""

    predicts = "leave_one_out"

    def __init__(self, x, doubt):
        super().__init__()
        self.x, self.doubt = x, doubt

    def forward(self, z, t):
        prompts = [encode_prompt(problem, WORDS) for problem in PROBLEMS]
        # Given tokens are never noised, so that each row tells which problem it is.
        which = [next(i for i, p in enumerate(prompts) if torch.equal(row[: len(p)], p)) for row in z]
        logits = torch.full((*z.shape, WORDS.size + 1), -20.0).scatter(-1, self.x[which][:, :, None], 20.0)
        if self.doubt and float(t.max()) > 0.02:
            for row, i in enumerate(which):
                if i == 0:
                    logits[row, len(prompts[0]) + 1] = -20.0
                    logits[row, len(prompts[0]) + 1, WORDS.end] = 20.0
        return logits


@pytest.mark.parametrize("doubt", [False, True])
def test_a_block_is_filled_and_corrected(doubt):
    length, block = 110, 45
    x = torch.full((len(PROBLEMS), length), WORDS.padding)
    for row, (problem, answer) in enumerate(zip(PROBLEMS, ANSWERS, strict=True)):
        text = torch.cat([encode_prompt(problem, WORDS), answer, torch.tensor([WORDS.end])])
        x[row, : len(text)] = text
    process = nl.gidd(vocab_size=WORDS.size + 1, mask_id=WORDS.size, p_uniform=0.2)
    denoiser = Answers(x, doubt)
    sampler = nl.AncestralSampler(process, denoiser)
    settings = {"length": length, "block": block, "steps": 8, "generator": torch.Generator().manual_seed(0)}
    plain = infill_solutions(sampler, PROBLEMS, WORDS, **settings)
    right = [torch.equal(a, b) for a, b in zip(plain, ANSWERS, strict=True)]
    assert right == [not doubt, True, True, True]
    # What the denoiser is sure of at a small time, self-correction finds.
    correction = nl.SelfCorrection(denoiser, process=process)
    corrected = infill_solutions(sampler, PROBLEMS, WORDS, correction=correction, **settings)
    assert all(torch.equal(a, b) for a, b in zip(corrected, ANSWERS, strict=True))


def test_a_summary_of_verdicts():
    verdicts = [Verdict(True, retries=3, unnecessary=1), Verdict(True), Verdict(False, step=1, kind="skip", retries=7)]
    found = summarize_verdicts(verdicts)
    assert found.right == pytest.approx(2 / 3) and found.low < 2 / 3 < found.high
    assert found.retries == 1.5 and found.retries_when_wrong == 7 and found.unnecessary == 0.5
    assert found.first_errors == {"skip": 1}


def test_errors():
    with pytest.raises(ValueError, match="must be positive"):
        generate_solutions(SimpleNamespace(), PROBLEMS, WORDS, beams=0)
    with pytest.raises(ValueError, match="there must be verdicts"):
        summarize_verdicts([])
    process = nl.masked(vocab_size=WORDS.size + 1, mask_id=WORDS.size)
    sampler = nl.AncestralSampler(process, Answers(torch.zeros(4, 50, dtype=torch.long), False))
    with pytest.raises(ValueError, match="must fit the length, 50"):
        infill_solutions(sampler, PROBLEMS, WORDS, length=50, block=45)
