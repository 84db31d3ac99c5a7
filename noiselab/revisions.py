"""The interfaces of self-correction: detectors of errors, revisers of texts, records of changes, and counts of their effect.

- `Detector`: a sequence -> a score for each of its units, higher where an error is more likely, such as
  `DenoiserDetector` and `StepDetector`.
- `Reviser`: finished sequences -> finished sequences, such as `CorrectorReviser` and `CheckReviser`.
- `Revision`: one change: where, when, old, new, kind (`list_revisions`).
- `Outcome`: how many tokens the changes corrected and how many they damaged (`count_outcome`).

A `Corrector` differs from a `Reviser`: it acts at one time of a sampler's walk (`step(z, t, rows)`), on tokens that may
still be noise.
"""

import abc
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch

from .categorical import Randomness
from .typing import PerSequence, PerToken, Selection, Tokens

Unit: TypeAlias = Literal["token", "step", "answer"]
"""The unit that gets one score: a token, a step (for example a sentence), or a whole answer."""


class Detector(abc.ABC):
    r"""Scores each unit of a sequence (token, step or answer): the higher the score, the more likely the unit is wrong.

    Scores of different detectors have different scales; only their order can be compared. The score of a unit is stored
    at the token that ends it,

    $$s_{bi} \in [-\infty, \infty], \qquad s_{bi} = -\infty \text{ where no unit ends, or the unit is never suspected.}$$

    A subclass writes `score` and sets `unit`. Calling the detector validates what `score` returns.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Repetition(nl.Detector):
        def score(self, z):
            same = z[:, 1:] == z[:, :-1]
            return torch.nn.functional.pad(same.double(), (1, 0), value=-torch.inf)  # the first token is never suspected

    assert Repetition()(torch.tensor([[3, 3, 4]])).tolist() == [[-torch.inf, 1, 0]]
    ```
    """

    unit: Unit = "token"
    """The unit that gets one score."""

    @abc.abstractmethod
    def score(self, z: Tokens) -> PerToken:
        """The scores, on the device of `z`.

        **Arguments:**

        - `z`: sequences of one length; they are not edited.
        """

    def score_last(self, z: Tokens) -> PerSequence:
        """The score of the unit that ends with the last token of each sequence; overridden only for speed.

        **Raises:** as for a call.
        """
        return self(z)[:, -1]

    def __call__(self, z: Tokens) -> PerToken:
        """The scores, validated.

        **Raises:** `ValueError` for scores of another shape than `z`, scores that are not of a floating-point type, or
        NaN.
        """
        return check_scores(self.score(z), tuple(z.shape), self)


def check_scores(scores: Any, shape: tuple[int, ...], detector: Detector) -> torch.Tensor:
    """The scores, if they are valid.

    **Raises:** `ValueError` for another shape, values that are not of a floating-point type, or NaN.
    """
    name = type(detector).__name__
    if not isinstance(scores, torch.Tensor) or not scores.is_floating_point() or tuple(scores.shape) != shape:
        came = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ValueError(f"{name} must return floating-point scores of shape {list(shape)}; got {came}")
    if bad := int(scores.isnan().sum()):
        raise ValueError(f"{name} must return scores without NaN (-inf for what is never suspected); got {bad} NaN")
    return scores


def require_detector(detector: Any, *units: Unit) -> Detector:
    """The detector, if it is one.

    **Arguments:**

    - `units`: the units that fit; all by default.

    **Raises:** `ValueError` for anything but a `Detector`, or a unit that does not fit.
    """
    if not isinstance(detector, Detector):
        raise ValueError(f"detector must be a Detector, a class with a method score(z); got {_describe(detector)}")
    allowed = units or get_args(Unit)
    if detector.unit not in allowed:
        raise ValueError(
            f"the unit of the detector must be {' or '.join(map(repr, allowed))}; {type(detector).__name__} has "
            f"{detector.unit!r}"
        )
    return detector


class Revised(NamedTuple):
    """Sequences after a revision.

    **Arguments:**

    - `tokens`: the sequences, of the same shape as before.
    - `evaluations`: network evaluations, summed over sequences. One evaluation is one entry read by an autoregressive
      model (with a cache), or one whole sequence read by a diffusion model, which costs more.
    """

    tokens: Tokens
    evaluations: int


class Reviser(abc.ABC):
    """Corrects finished sequences: returns sequences of the same shape, without knowing which tokens are wrong.

    A subclass writes `revise`. Calling the reviser validates what `revise` returns.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.revisions import Revised

    class ReplaceSeven(nl.Reviser):
        def revise(self, z, *, rows=None, generator=None):
            return Revised(torch.where(z == 7, 0, z), evaluations=0)

    assert ReplaceSeven()(torch.tensor([[7, 1]])).tokens.tolist() == [[0, 1]]
    ```
    """

    kind = "revise"
    """The `Revision.kind` of its changes."""

    @abc.abstractmethod
    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences after the revision.

        **Arguments:**

        - `z`: finished sequences; they are not edited.
        - `rows`: the tokens that may change; all by default.
        - `generator`: all randomness; one, or one for each sequence.
        """

    def __call__(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The sequences after the revision, validated; arguments as for `revise`.

        **Raises:** `ValueError` for `rows` of another shape than `z`, or a revision that changes the shape, or tokens
        outside `rows`.
        """
        if rows is not None and (rows.dtype != torch.bool or rows.shape != z.shape):
            raise ValueError(f"rows must be Bool of shape {list(z.shape)}; got {rows.dtype} {list(rows.shape)}")
        found, name = self.revise(z, rows=rows, generator=generator), type(self).__name__
        if not isinstance(found, Revised):
            raise ValueError(f"{name} must return Revised(tokens, evaluations); got {_describe(found)}")
        if found.tokens.shape != z.shape:
            raise ValueError(f"{name} must keep the shape {list(z.shape)}; got {list(found.tokens.shape)}")
        if rows is not None and (changed := int((~rows & (found.tokens != z)).sum())):
            raise ValueError(f"{name} must change tokens in rows only; got {changed} changes outside")
        return found


def require_reviser(reviser: Any) -> Reviser:
    """The reviser, if it is one.

    **Raises:** `ValueError` for anything but a `Reviser`.
    """
    if not isinstance(reviser, Reviser):
        raise ValueError(f"reviser must be a Reviser, a class with a method revise(z); got {_describe(reviser)}")
    return reviser


def require_free_end(rows: Selection | None, z: Tokens, given: int) -> Selection:
    """The tokens that may change, if all after the first `given` ones are among them.

    **Raises:** `ValueError` otherwise.
    """
    if rows is None:
        return torch.ones_like(z, dtype=torch.bool)
    if not rows[:, given:].all():
        raise ValueError(
            f"rows must hold all tokens after the first {given}; got {int((~rows[:, given:]).sum())} left out"
        )
    return rows


def _describe(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"


class Revision(NamedTuple):
    """One token replaced by another.

    **Arguments:**

    - `sequence`, `position`: where.
    - `step`: when, counted from 1.
    - `old`, `new`: the tokens.
    - `kind`: what changed it, for example "denoise" or "self-correct".
    """

    sequence: int
    position: int
    step: int
    old: int
    new: int
    kind: str


def list_revisions(start: Tokens, states: Iterable[Tokens], kind: str) -> list[Revision]:
    """List every change along a sequence of states.

    **Arguments:**

    - `start`: the tokens before the first step.
    - `states`: the tokens after each step, such as those that a `walk` yields; `[revised.tokens]` for a `Reviser`.
    - `kind`: the label of these changes.

    **Raises:** `ValueError` for states of another shape.
    """
    found: list[Revision] = []
    for step, z in enumerate(states, 1):
        if z.shape != start.shape or z.dim() != 2:
            raise ValueError(
                f"states must be tokens [batch, length] of the shape of the start, {list(start.shape)}; got {list(z.shape)}"
            )
        where = z != start
        rows = zip(where.nonzero().tolist(), start[where].tolist(), z[where].tolist(), strict=True)
        found += [Revision(sequence, position, step, old, new, kind) for (sequence, position), old, new in rows]
        start = z
    return found


class Outcome(NamedTuple):
    r"""Counts of tokens that changes corrected or damaged, where the right tokens are known.

    **Arguments:**

    - `wrong_to_right`, `right_to_wrong`, `wrong_to_wrong`: tokens that changed.
    - `wrong_before`, `right_before`: tokens before the changes.
    - `evaluations`: network evaluations, as in `Revised`; 0 where they were not counted.
    """

    wrong_to_right: int
    right_to_wrong: int
    wrong_to_wrong: int
    wrong_before: int
    right_before: int
    evaluations: int = 0

    @property
    def net_gain(self) -> int:
        """Tokens corrected minus tokens damaged."""
        return self.wrong_to_right - self.right_to_wrong

    @property
    def mended(self) -> float:
        """The share of wrong tokens that became right; NaN if none was wrong."""
        return _divide(self.wrong_to_right, self.wrong_before)

    @property
    def miscorrected(self) -> float:
        """The share of wrong tokens that were replaced by other wrong ones; NaN if none was wrong."""
        return _divide(self.wrong_to_wrong, self.wrong_before)

    @property
    def harmed(self) -> float:
        """The share of right tokens that became wrong; NaN if none was right."""
        return _divide(self.right_to_wrong, self.right_before)

    @property
    def gain(self) -> float:
        """The net gain over the number of wrong tokens: 1 if all are right afterwards, below 0 if more are wrong."""
        return _divide(self.net_gain, self.wrong_before)

    @property
    def evaluations_per_token(self) -> float:
        """Network evaluations over the number of tokens; NaN if there are none."""
        return _divide(self.evaluations, self.wrong_before + self.right_before)


def _divide(count: int, total: int) -> float:
    return count / total if total else math.nan


def count_outcome(before: Tokens, after: Tokens, truth: Tokens, *, evaluations: int = 0) -> Outcome:
    r"""Compare tokens before and after with the right ones; meaningful only where these are determined by the others.

    Where several tokens fit, a correction may choose another one than `truth` has, and counts as damage.

    With $z$ the tokens before, $y$ those after, $x$ the right ones, and $W$ the positions where $z$ is wrong,

    $$\text{mended} = \frac{|\{i \in W : y_i = x_i\}|}{|W|}, \qquad
    \text{gain} = \frac{|\{i \in W : y_i = x_i\}| - |\{i \notin W : y_i \ne x_i\}|}{|W|} .$$

    **Arguments:**

    - `before`, `after`, `truth`: tokens of one shape.
    - `evaluations`: the network evaluations of the changes, as in `Revised`.

    **Raises:** `ValueError` for tokens of different shapes.

    **Example:**

    ```python
    import torch
    from noiselab.revisions import count_outcome

    truth, tokens = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[1, 9, 9, 4, 5, 6]])
    found = count_outcome(tokens, torch.tensor([[1, 2, 8, 4, 5, 7]]), truth)
    assert (found.mended, found.miscorrected, found.harmed, found.gain) == (0.5, 0.5, 0.25, 0.0)
    ```
    """
    if not before.shape == after.shape == truth.shape:
        raise ValueError(
            "before, after and truth must have one shape; got "
            f"{list(before.shape)}, {list(after.shape)} and {list(truth.shape)}"
        )
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or evaluations < 0:
        raise ValueError(f"evaluations must be a whole number, at least 0; got {evaluations!r}")
    wrong, still = before != truth, after != truth
    return Outcome(
        wrong_to_right=int((wrong & ~still).sum()),
        right_to_wrong=int((~wrong & still).sum()),
        wrong_to_wrong=int((wrong & still & (before != after)).sum()),
        wrong_before=int(wrong.sum()),
        right_before=int((~wrong).sum()),
        evaluations=evaluations,
    )
