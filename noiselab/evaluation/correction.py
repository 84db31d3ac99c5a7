"""Self-correction before and after: what changed, and the effect on perplexity under a judge."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..categorical import Randomness
from ..correctors import SelfCorrection
from ..denoisers.modes import evaluating
from ..numerics import require_sequences
from ..revisions import Revision, list_revisions
from ..typing import TokenSet
from .judge import Judgement, generative_perplexity


@dataclass(frozen=True)
class Correction:
    """Samples before and after self-correction.

    **Arguments:**

    - `before`, `after`: the samples before and after.
    - `revisions`: all changes, in order.
    - `steps`: the number of network evaluations until the last sample stopped.
    - `changed`: the fraction of tokens that differ at the end.
    - `accuracy_before`, `accuracy_after`: self-accuracy, the fraction of tokens that are the arg-max of the model.
    - `judge_before`, `judge_after`: perplexity, entropy and n-grams, if a judge was given.
    """

    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)
    revisions: list[Revision] = field(repr=False)
    steps: int
    changed: float
    accuracy_before: float
    accuracy_after: float
    judge_before: Judgement | None = None
    judge_after: Judgement | None = None


def self_correction(
    correction: SelfCorrection,
    samples: Int[Tensor, "sample length"],
    *,
    steps: int = 128,
    judge: nn.Module | None = None,
    start: int | None = None,
    generator: Randomness = None,
) -> Correction:
    """Run self-correction on samples and compare them before and after.

    **Arguments:**

    - `correction`: the self-correction to run.
    - `samples`: complete samples, without padding; they are not modified.
    - `steps`: the maximum number of steps.
    - `judge`, `start`: as for `generative_perplexity`; without a judge, perplexity is not measured.
    - `generator`: the source of randomness.
    """
    with evaluating(correction.denoiser):
        walk = list(correction.walk(samples, steps=steps, generator=generator))
        before, after = samples, walk[-1] if walk else samples
        own_before, own_after = self_accuracy(correction, before), self_accuracy(correction, after)
    judge_before = judge_after = None
    if judge is not None:
        judge_before = generative_perplexity(judge, before, start=start)
        judge_after = generative_perplexity(judge, after, start=start)
    changed = (before != after).double().mean().item()
    return Correction(
        before,
        after,
        list_revisions(samples, walk, "self-correct"),
        len(walk),
        changed,
        own_before,
        own_after,
        judge_before,
        judge_after,
    )


def self_accuracy(correction: SelfCorrection, z: Int[Tensor, "sample length"]) -> float:
    """The fraction of tokens that are the arg-max of the denoiser's prediction at the correction's time.

    **Raises:** `ValueError` without a token.
    """
    require_sequences("z", z)
    if not z.numel():
        raise ValueError(f"there must be at least one token; got {list(z.shape)}")
    times = torch.full(z.shape[:1], correction.time, dtype=torch.float64, device=z.device)
    with torch.no_grad():
        logits = correction.denoiser(z, times)
    support: TokenSet | None = correction.support
    if support is not None:
        logits = logits.masked_fill(~support.to(z.device), -torch.inf)
    return (logits.argmax(-1) == z).double().mean().item()
