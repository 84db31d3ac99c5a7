"""Wrong tokens that are known to be wrong: who finds them, and at what price in false alarms."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from ..categorical import uniforms
from ..denoisers import Denoiser
from ..networks.outputs import logits_of
from ..typing import Elementwise
from .bound import device_of, evaluating

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
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1); got {share}")
    u = uniforms(*x.shape, 2, generator=generator, device=x.device)
    wrong = u[..., 0] < share
    return Damage(torch.where(wrong, other_tokens(x, support, u[..., 1]), x), x, wrong)


def other_tokens(x: Int[Tensor, "*batch"], support: Int[Tensor, " token"], u: Elementwise) -> Int[Tensor, "*batch"]:
    """In the place of each token another one of the support, any of them alike.

    **Arguments:**

    - `x`, `support`: as for `damage`.
    - `u`: uniform numbers in [0, 1), one for each token.

    **Raises:** `ValueError` for tokens that are not in the support, or a support of less than two.
    """
    if len(support) < 2:
        raise ValueError(f"support must have two tokens or more; got {len(support)}")
    place = torch.searchsorted(support, x.contiguous()).clamp(max=len(support) - 1)
    if not torch.equal(support[place], x):
        raise ValueError("the tokens must all be in the support; got others")
    steps = 1 + (u * (len(support) - 1)).long().clamp(max=len(support) - 2)
    return support[(place + steps) % len(support)]


class Detection(NamedTuple):
    """How well wrong tokens are told from right ones.

    **Arguments:**

    - `area`: under the ROC curve: how often a wrong token seems more wrong than a right one. Ties count half.
    - `recall`: the share of wrong tokens that are found where 5 % of the right ones are suspected too.
    """

    area: float
    recall: float


def detection(score: Elementwise, wrong: Bool[Tensor, "*batch"]) -> Detection:
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
    return Detection(area, (bad > threshold_at(score, wrong)).double().mean().item())


def threshold_at(score: Elementwise, wrong: Bool[Tensor, "*batch"], false_alarms: float | int = 0.05) -> float:
    """The threshold above which a score has a given share of right tokens, at most.

    Choose it on other texts than those that are evaluated: on the same ones the share would hold by construction.

    **Arguments:**

    - `score`: high for tokens that seem wrong, as of `by_backspace` or `by_surprise`.
    - `wrong`: which tokens are wrong; they are not looked at.
    - `false_alarms`: the share, in [0, 1).

    **Returns:** the smallest score of a right token that will do. Of ties, all stay below.

    **Raises:** `ValueError` for a share out of range, or if no token is right.

    **Example:**

    ```python
    import torch
    from noiselab.evaluation import threshold_at

    score = torch.arange(100.0)
    threshold = threshold_at(score, score > 95, false_alarms=0.25)
    assert (score[:96] > threshold).double().mean() == 0.25
    ```
    """
    good = score[~wrong].flatten().double().cpu().sort().values
    if not 0 <= false_alarms < 1 or not len(good):
        raise ValueError(f"false_alarms must lie in [0, 1), tokens be right; got {false_alarms} and {len(good)}")
    return good[len(good) - 1 - int(false_alarms * len(good) + 1e-9)].item()


def by_backspace(network: nn.Module, backspace: int, *, start: int) -> Suspicion:
    """How probably a model that takes back does so just after each token; it has read what comes before.

    **Arguments:**

    - `network`: called with `input_ids`; returns logits or something that has them.
    - `backspace`, `start`: as for `BackspaceSampler`.
    """

    def suspicion(z: Tensor) -> Tensor:
        return _logits(network, z, start)[:, 1:].softmax(-1)[..., backspace].to(z.device)

    return suspicion


def by_surprise(network: nn.Module, *, start: int, backspace: int | None = None) -> Suspicion:
    """How improbable each token is to an autoregressive model: the baseline that needs no training on mistakes.

    **Arguments:**

    - `network`, `start`: as for `by_backspace`.
    - `backspace`: a token of the model that texts do not contain, if it has one. It has no probability then.
    """

    def suspicion(z: Tensor) -> Tensor:
        logits = _logits(network, z, start)[:, :-1]
        if backspace is not None:
            logits = logits.index_fill(-1, torch.tensor(backspace, device=logits.device), -torch.inf)
        law = logits.log_softmax(-1)
        return -law.gather(-1, z.to(law.device)[..., None])[..., 0].to(z.device)

    return suspicion


def by_denoiser(denoiser: Denoiser, time: float | int = 0.01) -> Suspicion:
    """How improbable each token is to a denoiser that sees all the others.

    **Arguments:**

    - `denoiser`: asked for clean tokens.
    - `time`: that it is told.
    """

    def suspicion(z: Tensor) -> Tensor:
        seen = z.to(device_of(denoiser))
        t = torch.full((len(z),), time, dtype=torch.float64, device=seen.device)
        with torch.no_grad(), evaluating(denoiser):
            law = denoiser(seen, t).double().log_softmax(-1)
        return -law.gather(-1, seen[..., None])[..., 0].to(z.device)

    return suspicion


def _logits(network: nn.Module, z: Tensor, start: int) -> Tensor:
    rows = torch.cat([torch.full_like(z[:, :1], start), z], 1).to(device_of(network))
    with torch.no_grad(), evaluating(network):
        return logits_of(network(input_ids=rows)).double()
