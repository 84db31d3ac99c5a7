"""A network that guesses clean tokens, and denoisers that wrap denoisers."""

import abc
import inspect
from collections.abc import Iterator
from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor, nn

from ..parametrization import Prediction
from ..process import as_token_times
from ..typing import Logits, PerRow, RowLogits, RowTokens, Selection, Times, Tokens


class Denoiser(nn.Module, abc.ABC):
    """Guesses clean tokens from noisy ones.

    A subclass writes `forward(z, t)` and says what it predicts: `predicts = "leave_one_out"` (what the ELBO trains),
    `"posterior"` (what cross-entropy on noisy tokens trains) or `"score"` (log-scores, what score entropy trains).
    Samplers and evaluations convert. A network that says nothing is taken for one trained on the ELBO; a denoiser that
    holds another denoiser must say it, or derive from `WrappedDenoiser`. Calling a denoiser with `rows` gives the logits of
    selected tokens only; a `forward` that takes `rows` itself can save the work of the others.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Frequencies(nl.Denoiser):
        def __init__(self, probs):
            super().__init__()
            self.register_buffer("logits", probs.log())

        def forward(self, z, t):
            return self.logits.expand(*z.shape, -1)

    denoiser, z = Frequencies(torch.tensor([0.9, 0.1])), torch.zeros(2, 5, dtype=torch.long)
    assert denoiser(z, torch.ones(2)).shape == (2, 5, 2)
    assert denoiser(z, torch.ones(2), rows=torch.arange(10).view(2, 5) < 3).shape == (3, 2)
    ```
    """

    _takes_rows = False
    _predicts: Prediction | None = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls._takes_rows = "rows" in inspect.signature(cls.forward).parameters

    @property
    def predicts(self) -> Prediction:
        """What it predicts: "leave_one_out", "posterior" or "score".

        **Raises:** `ValueError` where it is set to anything else, or never set by a denoiser that holds another one.
        """
        if self._predicts is None and any(isinstance(part, Denoiser) for part in _held_by(self)):
            raise ValueError(
                f"a denoiser around a denoiser must say what it predicts; got {type(self).__name__}, which does not: set "
                "`predicts`, or derive it from noiselab.WrappedDenoiser"
            )
        return self._predicts or "leave_one_out"

    @predicts.setter
    def predicts(self, prediction: Prediction) -> None:
        self._predicts = require_prediction(prediction)

    def __call__(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of all tokens, or of the selected rows. Times may also come lifted, [batch, 1]."""
        if t.shape == (len(z), 1) and z.shape[1] > 1:
            t = t[:, 0]  # `forward` is promised one for each sequence or one for each token
        if rows is None:
            return super().__call__(z, t)
        return super().__call__(z, t, rows) if self._takes_rows else select(super().__call__(z, t), rows)

    @abc.abstractmethod
    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of the clean tokens.

        **Arguments:**

        - `z`: noisy tokens.
        - `t`: their time, [batch] or [batch, length].
        - `rows`: the tokens whose logits are wanted; all by default.

        **Returns:** [batch, length, state]; with `rows`, [n, state] for the selected tokens in row-major order.
        """


def select(logits: Logits, rows: Tensor | None) -> Float[Tensor, "... state"]:
    """The logits of the selected tokens, for denoisers that cannot save the work of the others."""
    return logits if rows is None else logits[rows]


class ProjectedDenoiser(Denoiser):
    """A denoiser whose hidden states and output projection can be had apart.

    A subclass writes `hidden` and `project`. Only the selected rows are projected, and a loss can be fused with the
    projection (`noiselab.nelbo_fused`).
    """

    @abc.abstractmethod
    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states, ready for the projection."""

    @abc.abstractmethod
    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits from hidden states, row by row."""

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of the selected rows, projecting no others."""
        return self.project(select(self.hidden(z, t), rows))


class WrappedDenoiser(Denoiser):
    """A denoiser around a denoiser: predicts what the inner one predicts, but for what a subclass replaces.

    A subclass writes `forward`, and `extra_repr` for its settings. One that predicts something else sets `predicts` after
    `super().__init__(inner)`; one that cannot work on log-scores sets `accepts_scores = False`.

    **Arguments:**

    - `inner`: the denoiser to wrap.

    **Raises:** `ValueError` if it is no `Denoiser`, or predicts scores, which are no logits of clean tokens, and the
    subclass does not accept them.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Clipped(nl.WrappedDenoiser):
        def forward(self, z, t, rows=None):
            return self.inner(z, t, rows).clamp(min=-10)

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    assert Clipped(nl.denoisers.Posterior(oracle, process)).predicts == "posterior"
    ```
    """

    accepts_scores = True

    def __init__(self, inner: Denoiser):
        super().__init__()
        require_denoiser(inner, type(self).__name__, scores=self.accepts_scores)
        self.inner, self.predicts = inner, inner.predicts

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's outputs."""
        return self.inner(z, t, rows)

    def __repr__(self) -> str:
        return describe(self, self.inner, self.extra_repr())


class Transform(WrappedDenoiser):
    """Changes the prediction x_hat of a denoiser, token by token, and never the reverse step.

    A subclass writes `edit`; selected rows and what is predicted carry over. One whose `edit` is made for log-scores too
    sets `accepts_scores = True`.

    **Arguments:** and **Raises:** as for `WrappedDenoiser`.
    """

    accepts_scores = False

    @abc.abstractmethod
    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """New logits for each token, from its logits, its noisy value and its time (float64)."""

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits, edited."""
        logits, times = self.inner(z, t, rows), as_token_times(t, z).expand(z.shape)
        if rows is not None:
            return self.edit(logits, z[rows], times[rows])
        return self.edit(logits.flatten(0, 1), z.flatten(), times.flatten()).view_as(logits)


def require_prediction(prediction: str) -> Prediction:
    """What a denoiser says that it predicts, or `ValueError`."""
    for known in get_args(Prediction):
        if prediction == known:
            return known
    raise ValueError(f"predicts must be 'leave_one_out', 'posterior' or 'score'; got {prediction!r}")


def require_denoiser(denoiser: object, name: str, *, scores: bool = True) -> Denoiser:
    """The denoiser that `name` is built around.

    **Raises:** `ValueError` if it is no `Denoiser`, or predicts scores and these are not accepted.
    """
    if not isinstance(denoiser, Denoiser):
        raise ValueError(f"{name} needs a noiselab.Denoiser; got {type(denoiser).__name__}")
    if denoiser.predicts == "score" and not scores:
        raise ValueError(
            f"{name} needs logits of clean tokens; got a denoiser that predicts scores: wrap it in "
            "noiselab.denoisers.LeaveOneOut first"
        )
    return denoiser


def _held_by(module: nn.Module) -> Iterator[object]:
    """What a module holds: its parts, and what is in lists and dictionaries that torch does not look into."""
    yield from (part for part in module.modules() if part is not module)
    for value in vars(module).values():
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def describe(thing: object, *parts: object) -> str:
    """What an object is made of, in one line: its class, its parts and its settings; empty ones are left out."""
    texts = [in_a_line(part) if isinstance(part, nn.Module) else str(part) for part in parts]
    return f"{type(thing).__name__}({', '.join(text for text in texts if text)})"


def in_a_line(denoiser: nn.Module) -> str:
    """A denoiser in one line, or its number of parameters where it would print as a tree."""
    text, count = repr(denoiser), sum(p.numel() for p in denoiser.parameters())
    return text if "\n" not in text else f"{type(denoiser).__name__}({count:,} parameters)"
