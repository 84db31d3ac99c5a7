"""Wrong tokens that are known to be wrong: who finds them, and at what price in false alarms."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from ..categorical import uniforms
from ..denoisers import Denoiser
from .bound import evaluating

Suspicion: TypeAlias = Callable[[Int[Tensor, "sequence length"]], Float[Tensor, "sequence length"]]
"""How wrong each token of some sequences seems; only the order of the numbers matters."""


class Damage(NamedTuple):
    """Sequences in which some tokens were replaced.

    **Arguments:**

    - `tokens`: with the replacements; `truth`: without.
    - `wrong`: where they differ.
    """

    tokens: Int[Tensor, "sequence length"]
    truth: Int[Tensor, "sequence length"]
    wrong: Bool[Tensor, "sequence length"]


def damage(
    x: Int[Tensor, "sequence length"],
    support: Int[Tensor, " token"],
    share: float,
    *,
    generator: Generator | None = None,
) -> Damage:
    """Replace a share of the tokens by other ones, any other alike.

    **Arguments:**

    - `x`: the right tokens; all of them must be in `support`.
    - `support`: the tokens to replace with, in rising order.
    - `share`: of tokens that are replaced, in (0, 1).
    - `generator`: which, and by what.

    **Raises:** `ValueError` for a share out of range, or tokens that are not in the support.

    **Example:**

    ```python
    import torch
    from noiselab.evaluation import damage

    damaged = damage(torch.zeros(4, 100, dtype=torch.long), torch.arange(5), 0.1)
    assert torch.equal(damaged.tokens != 0, damaged.wrong) and 10 < damaged.wrong.sum() < 80
    ```
    """
    if not 0 < share < 1 or len(support) < 2:
        raise ValueError(f"share must lie in (0, 1), support have two tokens or more; got {share} and {len(support)}")
    place = torch.searchsorted(support, x).clamp(max=len(support) - 1)
    if not torch.equal(support[place], x):
        raise ValueError("the tokens must all be in the support; got others")
    u = uniforms(*x.shape, 2, generator=generator, device=x.device)
    steps = 1 + (u[..., 1] * (len(support) - 1)).long().clamp(max=len(support) - 2)
    wrong = u[..., 0] < share
    return Damage(torch.where(wrong, support[(place + steps) % len(support)], x), x, wrong)


class Detection(NamedTuple):
    """How well wrong tokens are told from right ones.

    **Arguments:**

    - `area`: under the ROC curve: how often a wrong token seems more wrong than a right one. Ties count half.
    - `recall`: the share of wrong tokens that are found where 5 % of the right ones are suspected too.
    """

    area: float
    recall: float


def detection(score: Float[Tensor, "*batch"], wrong: Bool[Tensor, "*batch"]) -> Detection:
    """Detection by a score that is high for tokens that seem wrong.

    **Raises:** `ValueError` unless there are both wrong and right tokens.

    **Example:**

    ```python
    import torch
    from noiselab.evaluation import detection

    found = detection(torch.tensor([0.1, 0.9, 0.2, 0.3]), torch.tensor([False, True, False, False]))
    assert found.area == 1.0 and found.recall == 1.0
    ```
    """
    bad, good = score[wrong].flatten().double().cpu(), score[~wrong].flatten().double().cpu().sort().values
    if not len(bad) or not len(good):
        raise ValueError(f"there must be wrong tokens and right ones; got {len(bad)} and {len(good)}")
    below, not_above = torch.searchsorted(good, bad), torch.searchsorted(good, bad, right=True)
    area = (below + not_above).double().mean().item() / (2 * len(good))
    threshold = good[min(len(good) - 1, math.ceil(0.95 * len(good)) - 1)]
    return Detection(area, (bad > threshold).double().mean().item())


def by_backspace(network: nn.Module, backspace: int, *, start: int) -> Suspicion:
    """How likely a model that takes back is to do so just after each token; it has read what comes before.

    **Arguments:**

    - `network`: called with `input_ids`; returns logits or something that has them.
    - `backspace`, `start`: as for `BackspaceSampler`.
    """

    def suspicion(z: Tensor) -> Tensor:
        return _logits(network, z, start)[:, 1:].log_softmax(-1)[..., backspace]

    return suspicion


def by_surprise(network: nn.Module, *, start: int) -> Suspicion:
    """How improbable each token is to an autoregressive model: the baseline that needs no training on mistakes.

    **Arguments:** as for `by_backspace`.
    """

    def suspicion(z: Tensor) -> Tensor:
        return -_logits(network, z, start)[:, :-1].log_softmax(-1).gather(-1, z[..., None])[..., 0]

    return suspicion


def by_denoiser(denoiser: Denoiser, time: float = 0.01) -> Suspicion:
    """How improbable each token is to a denoiser that sees all the others.

    **Arguments:**

    - `denoiser`: asked for clean tokens.
    - `time`: that it is told.
    """

    def suspicion(z: Tensor) -> Tensor:
        t = torch.full((len(z),), time, dtype=torch.float64, device=z.device)
        with torch.no_grad(), evaluating(denoiser):
            return -denoiser(z, t).double().log_softmax(-1).gather(-1, z[..., None])[..., 0]

    return suspicion


def _logits(network: nn.Module, z: Tensor, start: int) -> Tensor:
    with torch.no_grad(), evaluating(network):
        output: Any = network(input_ids=torch.cat([torch.full_like(z[:, :1], start), z], 1))
    return (output if isinstance(output, Tensor) else output.logits).double()
