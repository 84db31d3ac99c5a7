"""Generates solutions of problems and checks them step by step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from noiselab.correctors import SelfCorrection
from noiselab.denoisers.modes import evaluating
from noiselab.evaluation import wilson
from noiselab.samplers import Infilling, Sampler
from noiselab.tasks.igsm import Problem, Verdict, Words
from noiselab.typing import TokenSequence


def encode_prompt(problem: Problem, words: Words) -> TokenSequence:
    """The start token and the tokens of a question, as `ProblemStream` puts before a solution."""
    return torch.cat([torch.tensor([words.start]), words.encode(problem.question)])


def generate_solutions(
    network: Any,
    problems: Sequence[Problem],
    words: Words,
    *,
    beams: int = 1,
    sample: bool = False,
    most: int = 400,
    batch: int = 256,
) -> list[Int[Tensor, " _"]]:
    """Generate solutions with transformers' `generate`, up to the end token and without it.

    **Arguments:**

    - `network`: a causal model of transformers.
    - `problems`: problems, of any lengths.
    - `words`: the tokens of their level.
    - `beams`: number of beams; 1 disables beam search.
    - `sample`: whether to sample tokens, with torch's global generator, instead of taking the most probable ones.
    - `most`: maximum number of new tokens.
    - `batch`: number of problems in a batch.

    **Raises:** `ValueError` unless `beams`, `most` and `batch` are positive.
    """
    if min(beams, most, batch) < 1:
        raise ValueError(f"beams, most and batch must be positive; got {beams}, {most}, {batch}")
    found: list[Tensor] = []
    device = next(network.parameters()).device
    for first in range(0, len(problems), batch):
        prompts = [encode_prompt(problem, words) for problem in problems[first : first + batch]]
        width = max(map(len, prompts))
        ids, real = torch.full((len(prompts), width), words.padding), torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], real[row, width - len(prompt) :] = prompt, 1
        with torch.no_grad(), evaluating(network):
            output = network.generate(
                ids.to(device),
                attention_mask=real.to(device),
                max_new_tokens=most,
                num_beams=beams,
                do_sample=sample,
                use_cache=True,
                pad_token_id=words.padding,
                eos_token_id=words.end,
            )
        found += [_cut_at_end(row, words) for row in output[:, width:].cpu()]
    return found


def infill_solutions(
    sampler: Sampler,
    problems: Sequence[Problem],
    words: Words,
    *,
    length: int,
    block: int,
    steps: int = 64,
    correction: SelfCorrection | None = None,
    generator: Generator | None = None,
) -> list[Int[Tensor, " _"]]:
    """Fill the blocks after questions with a diffusion model; returns solutions up to the first end token and without it.

    **Arguments:**

    - `sampler`: a sampler with a denoiser that was trained on rows of `ProblemBlocks`.
    - `problems`: problems that fit into the rows.
    - `words`: the tokens of their level.
    - `length`, `block`: as for `ProblemBlocks`.
    - `steps`: number of sampler steps.
    - `correction`: self-correction of the finished block; none by default.
    - `generator`: source of all randomness.

    **Raises:** `ValueError` for a question that does not fit.
    """
    prompts = [encode_prompt(problem, words) for problem in problems]
    if prompts and max(map(len, prompts)) + block > length:
        raise ValueError(
            f"a question and a block of {block} must fit the length, {length}; got one of {max(map(len, prompts))} tokens"
        )
    tokens = torch.full((len(prompts), length), words.padding)
    known = torch.ones(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        known[row, len(prompt) : len(prompt) + block] = False
    device = sampler.device
    tokens, known = tokens.to(device), known.to(device)
    filled = Infilling(sampler, tokens, known, times="sequence").sample(
        (len(prompts), length), steps=steps, generator=generator
    )
    if correction is not None:
        filled = correction.correct(filled, rows=~known, generator=generator)
    return [_cut_at_end(row[~some].cpu(), words) for row, some in zip(filled, known, strict=True)]


def _cut_at_end(solution: Tensor, words: Words) -> Tensor:
    ends = (solution == words.end).nonzero()
    return solution[: int(ends[0])] if len(ends) else solution


def solve(network: Any, problems: Sequence[Problem], words: Words, **settings: Any) -> list[Verdict]:
    """Generate solutions and check them.

    **Arguments:** as for `generate_solutions`.
    """
    return check_solutions(generate_solutions(network, problems, words, **settings), problems, words)


def check_solutions(solutions: Sequence[Int[Tensor, " _"]], problems: Sequence[Problem], words: Words) -> list[Verdict]:
    """Check solutions with the checkers of their problems.

    **Raises:** `ValueError` unless there is one solution for each problem.
    """
    return [problem.check(words.decode(solution)) for solution, problem in zip(solutions, problems, strict=True)]


class Accuracy(NamedTuple):
    """Accuracy of solutions, and their numbers of retries and unnecessary steps.

    **Arguments:**

    - `right`: the share of solutions in which every step is right and the last one answers the question.
    - `low`, `high`: its 95 % interval, by Wilson's score.
    - `retries`: the mean number of deleted steps in right solutions; `retries_when_wrong`: in the others.
    - `unnecessary`: the mean number of steps in right solutions that the question does not need.
    - `first_errors`: number of solutions with each kind of first error.
    """

    right: float
    low: float
    high: float
    retries: float
    retries_when_wrong: float
    unnecessary: float
    first_errors: dict[str, int]


def summarize_verdicts(verdicts: Sequence[Verdict]) -> Accuracy:
    """A summary of verdicts.

    **Raises:** `ValueError` if there are none.

    **Example:**

    ```python
    from problems.solving import summarize_verdicts
    from noiselab.tasks.igsm import Verdict

    found = summarize_verdicts([Verdict(True, retries=1), Verdict(False, step=2, kind="skip"), Verdict(True), Verdict(True)])
    assert found.right == 0.75 and found.first_errors == {"skip": 1}
    ```
    """
    if not verdicts:
        raise ValueError("there must be verdicts; got none")
    right = [v for v in verdicts if v.right]
    wrong = [v for v in verdicts if not v.right]
    low, high = wilson(len(right), len(verdicts))
    kinds = [str(v.kind) for v in wrong]
    return Accuracy(
        len(right) / len(verdicts),
        low,
        high,
        _mean([v.retries for v in right]),
        _mean([v.retries for v in wrong]),
        _mean([v.unnecessary for v in right]),
        {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    )


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
