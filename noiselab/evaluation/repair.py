"""Texts with known wrong tokens, before and after a model that corrects has seen them."""

import copy
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from ..categorical import Randomness
from ..correctors import SelfCorrection
from ..denoisers import CallCounter, Denoiser
from ..typing import TokenSet
from .bound import device_of, evaluating
from .forced_errors import Damage


class Revised(NamedTuple):
    """Sequences after a revision.

    **Arguments:**

    - `tokens`: as many as before, in the same places.
    - `evaluations`: how often the network was asked about a sequence, over its tokens. To ask is to read one entry of a text
      for an autoregressive model, and to look at the whole sequence for a diffusion model, which costs more.
    """

    tokens: Int[Tensor, "sequence length"]
    evaluations: float


Reviser: TypeAlias = Callable[[Int[Tensor, "sequence length"]], Revised]
"""Corrects sequences, and is not told where they are wrong."""


class Repair(NamedTuple):
    """What a revision did to sequences of which each wrong token is known.

    **Arguments:**

    - `fixed`: the share of wrong tokens that are right afterwards.
    - `changed_wrongly`: the share of wrong tokens that were replaced by other wrong ones. The rest was left as it was.
    - `harmed`: the share of right tokens that are wrong afterwards.
    - `gain`: by how many there are fewer wrong tokens, over their number: 1 if all is right afterwards, below 0 if there are
      more than before.
    - `evaluations`: as in `Revised`.
    """

    fixed: float
    changed_wrongly: float
    harmed: float
    gain: float
    evaluations: float


def repair(damage: Damage, revised: Revised) -> Repair:
    r"""Compare a revision with the truth.

    With $W$ the places of the wrong tokens $z$, $x$ the truth and $y$ what the revision made of them,

    $$\text{fixed} = \frac{|\{i \in W : y_i = x_i\}|}{|W|}, \qquad
    \text{gain} = \frac{|\{i \in W : y_i = x_i\}| - |\{i \notin W : y_i \ne x_i\}|}{|W|} .$$

    **Arguments:**

    - `damage`: the sequences that were revised, and what is known of them.
    - `revised`: what became of them.

    **Raises:** `ValueError` for sequences of another shape, or unless there are both wrong and right tokens.

    **Example:**

    ```python
    import torch
    from noiselab.evaluation import Damage, Revised, repair

    truth, tokens = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[1, 9, 9, 4, 5, 6]])
    found = repair(Damage(tokens, truth, tokens != truth), Revised(torch.tensor([[1, 2, 8, 4, 5, 7]]), 1.0))
    assert (found.fixed, found.changed_wrongly, found.harmed, found.gain) == (0.5, 0.5, 0.25, 0.0)
    ```
    """
    tokens, truth, wrong = damage
    if revised.tokens.shape != tokens.shape or wrong.all() or not wrong.any():
        raise ValueError(
            "a revision must have the shape of what it revises, which has wrong tokens and right ones; got "
            f"{list(revised.tokens.shape)} for {list(tokens.shape)} with {int(wrong.sum())} wrong ones"
        )
    right, changed = revised.tokens == truth, revised.tokens != tokens
    fixed, worse = right & wrong, ~right & changed & wrong
    harmed, count = ~right & ~wrong, int(wrong.sum())
    return Repair(
        int(fixed.sum()) / count,
        int(worse.sum()) / count,
        int(harmed.sum()) / int((~wrong).sum()),
        (int(fixed.sum()) - int(harmed.sum())) / count,
        revised.evaluations,
    )


def by_self_correction(
    correction: SelfCorrection, *, steps: int = 128, batch_size: int = 32, generator: Randomness = None
) -> Reviser:
    """GIDD's self-correction, for diffusion models.

    **Arguments:**

    - `correction`: of a denoiser, with its settings. For a `DiffusionPipeline` named `pipe` it is
      `SelfCorrection(pipe.denoiser, process=pipe.process, support=pipe.support)`.
    - `steps`: at most so many, each of them one evaluation of a sequence that has not stopped.
    - `batch_size`: sequences at once.
    - `generator`: all randomness; one, or one for each sequence.

    **Raises:** `ValueError` unless `steps` and `batch_size` are positive.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.evaluation import by_self_correction, damage, repair

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    random = torch.Generator().manual_seed(0)
    damaged = damage(oracle.sample(8, 32, generator=random), torch.arange(2), 0.1, generator=random)
    reviser = by_self_correction(nl.SelfCorrection(oracle, process=process), generator=random)
    assert repair(damaged, reviser(damaged.tokens)).gain > 0.3
    ```
    """
    if min(steps, batch_size) < 1:
        raise ValueError(f"steps and batch_size must be positive; got {steps} and {batch_size}")

    def revise(z: Tensor) -> Revised:
        asked, counted = CallCounter(correction.denoiser), copy.copy(correction)
        counted.denoiser = asked
        parts = []
        with evaluating(correction.denoiser):
            for first in range(0, len(z), batch_size):
                some = slice(first, first + batch_size)
                random = generator if generator is None or isinstance(generator, torch.Generator) else generator[some]
                part = counted.correct(z[some].to(device_of(asked)), steps=steps, generator=random)
                parts.append(part.to(z.device))
        return Revised(torch.cat(parts), asked.sequences / z.numel())

    return revise


def by_guess(
    denoiser: Denoiser, *, threshold: float | int, time: float | int = 0.01, support: TokenSet | None = None
) -> Reviser:
    """Each token that seems too improbable to a denoiser gives way to the denoiser's best guess, all of them at once.

    What `by_surprise_proofreading` is for autoregressive models: detection by `by_denoiser`, at a share of false alarms
    that can be chosen with `threshold_at`. It asks once about a sequence.

    **Arguments:**

    - `denoiser`: asked for clean tokens.
    - `threshold`: nats of a token, above which it is replaced.
    - `time`: that the denoiser is told.
    - `support`: tokens that may be guessed, Bool [state]; all by default.
    """

    def revise(z: Tensor) -> Revised:
        seen = z.to(device_of(denoiser))
        t = torch.full((len(z),), time, dtype=torch.float64, device=seen.device)
        with torch.no_grad(), evaluating(denoiser):
            law = denoiser(seen, t).double().log_softmax(-1)
        surprise = -law.gather(-1, seen[..., None])[..., 0]
        if support is not None:
            law = law.masked_fill(~support.to(law.device), -torch.inf)
        return Revised(torch.where(surprise > threshold, law.argmax(-1), seen).to(z.device), 1 / z.shape[1])

    return revise
