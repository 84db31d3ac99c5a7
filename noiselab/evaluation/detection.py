"""How well a detector's scores separate wrong units from right ones, and the threshold for a share of false alarms."""

from typing import NamedTuple, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from ..numerics import require_number
from ..revisions import Unit
from ..typing import Elementwise, PerToken, Selection


class Detection(NamedTuple):
    """How well wrong units are separated from right ones.

    **Arguments:**

    - `area`: the area under the ROC curve, which is the probability that a wrong unit has a higher score than a right one;
      ties count half.
    - `recall`: the share of wrong units with a score above the threshold of 5 % false alarms.
    """

    area: float
    recall: float


def measure_detection(score: Elementwise, wrong: Bool[Tensor, "*batch"]) -> Detection:
    """Detection by a score that is high for what seems wrong.

    **Arguments:**

    - `score`: of each unit, without NaN.
    - `wrong`: which units are wrong.

    **Raises:** `ValueError` for NaN, or unless there are both wrong and right units.

    **Example:**

    ```python
    import torch
    from noiselab.evaluation import measure_detection

    found = measure_detection(torch.tensor([0.1, 0.9, 0.2, 0.3]), torch.tensor([False, True, False, False]))
    assert found.area == 1.0 and found.recall == 1.0
    ```
    """
    _check(score, wrong)
    bad, good = score[wrong].flatten().double().cpu(), score[~wrong].flatten().double().cpu().sort().values
    if not len(bad) or not len(good):
        raise ValueError(f"there must be wrong units and right ones; got {len(bad)} and {len(good)}")
    below, not_above = torch.searchsorted(good, bad), torch.searchsorted(good, bad, right=True)
    area = (below + not_above).double().mean().item() / (2 * len(good))
    return Detection(area, (bad > threshold_at(score, wrong)).double().mean().item())


def threshold_at(score: Elementwise, wrong: Bool[Tensor, "*batch"], false_alarms: float | int = 0.05) -> float:
    """The threshold above which a score has a given share of right units, at most.

    Choose it on other texts than those that are evaluated: on the same ones the share would hold by construction.

    **Arguments:**

    - `score`: high for what seems wrong, as of a `Detector`.
    - `wrong`: which units are wrong; they are ignored.
    - `false_alarms`: the share, in [0, 1).

    **Returns:** the smallest score of a right unit that will do. Of ties, all stay below.

    **Raises:** `ValueError` for NaN, a share out of range, or if no unit is right.

    **Example:**

    ```python
    import torch
    from noiselab.evaluation import threshold_at

    score = torch.arange(100.0)
    threshold = threshold_at(score, score > 95, false_alarms=0.25)
    assert (score[:96] > threshold).double().mean() == 0.25
    ```
    """
    _check(score, wrong)
    require_number("false_alarms", false_alarms, 0, 1, below=True)
    good = score[~wrong].flatten().double().cpu().sort().values
    if not len(good):
        raise ValueError(f"some unit must be right; got {wrong.numel()} wrong ones")
    return good[len(good) - 1 - int(false_alarms * len(good) + 1e-9)].item()


def select_units(score: PerToken, wrong: Selection, unit: Unit) -> tuple[Tensor, Tensor]:
    """The scores of the units of some sequences, and which of them are wrong.

    A unit is wrong if one of its tokens is. Tokens are units, suspected or not. A step or an answer ends where its score is,
    and begins after the one before; what comes after the last one belongs to none.

    **Arguments:**

    - `score`: as a `Detector` returns them, -inf where no unit ends.
    - `wrong`: which tokens are wrong.
    - `unit`: that of the detector.

    **Raises:** `ValueError` for scores that are NaN, or of another shape than `wrong`.

    **Returns:** score and wrong of each unit, [units].

    **Example:**

    ```python
    import torch
    from noiselab.evaluation import select_units

    score = torch.tensor([[-torch.inf, 0.2, -torch.inf, 0.7, -torch.inf]])
    wrong = torch.tensor([[False, False, True, False, True]])
    assert select_units(score, wrong, "step")[1].tolist() == [False, True]
    ```
    """
    _check(score, wrong)
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be one of {get_args(Unit)}; got {unit!r}")
    if unit == "token":
        return score.flatten(), wrong.flatten()
    ends = score > -torch.inf
    found = []
    for last, bad in zip(ends, wrong.long().cumsum(-1), strict=True):
        counts = bad[last]
        found.append(counts.diff(prepend=counts.new_zeros(1)) > 0)
    return score[ends], torch.cat(found)


def _check(score: Tensor, wrong: Tensor) -> None:
    if score.shape != wrong.shape or wrong.dtype != torch.bool:
        raise ValueError(
            f"wrong must be Bool of the shape of the scores, {list(score.shape)}; got {wrong.dtype} {list(wrong.shape)}"
        )
    if bad := int(score.isnan().sum()):
        raise ValueError(f"scores must not be NaN; got {bad} NaN of {score.numel()}")
