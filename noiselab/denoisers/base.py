"""The interface of denoisers, which predict clean tokens, and base classes for wrappers."""

import abc
import functools
import inspect
from collections.abc import Iterator
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..numerics import require_made
from ..parametrization import Prediction
from ..process import as_token_times
from ..processes.registry import REGISTRABLE
from ..typing import Logits, MayAttend, PerRow, Positions, RowLogits, RowTokens, Selection, Times, Tokens
from .attended import Attended, check_pairs, check_positions
from .projection import LinearProjection


class Denoiser(nn.Module, abc.ABC):
    """Predicts clean tokens from noisy ones.

    A subclass implements `forward(z, t)` and declares its prediction type: `predicts = "leave_one_out"` (trained by the
    ELBO), `"posterior"` (trained by cross-entropy on noisy tokens) or `"score"` (log-scores, trained by score entropy).
    Samplers and evaluations convert between them. The default is "leave_one_out"; a denoiser that contains another
    denoiser must declare its type, or derive from `WrappedDenoiser`. Calling a denoiser with `rows` returns the logits
    of the selected tokens only; a `forward` with the argument `rows` can avoid computing the others.

    A denoiser whose network takes an attention mask sets `takes_mask = True` and passes it `self.real_tokens(z)`. In
    padded batches the network then attends only to real tokens (`noiselab.denoisers.attending_to`). One whose network also
    takes a mask of pairs of tokens and positions passes it `self.may_attend(z)` and `self.positions(z)`, and overrides
    `require_attention`.

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

    takes_mask = False
    """Whether `forward` uses the attention mask `self.real_tokens(z)`."""
    attention_block: int | None = None
    """The number of tokens in a block of block-causal attention, counted from position 0; `None` for other attention."""
    attention_given: Tensor | None = None
    """The number of leading tokens, [batch or 1, 1], that are one block, from whose end others are counted; `None` for 0."""
    keeps_keys = False
    """Whether it caches keys and values, so that only the positions that are needed should be evaluated."""
    attended = Attended()
    _takes_rows = False
    _predicts: Prediction | None = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls._takes_rows = "rows" in inspect.signature(cls.forward).parameters

    @property
    def predicts(self) -> Prediction:
        """The prediction type: "leave_one_out", "posterior" or "score".

        **Raises:** `ValueError` if it is set to another value, or not set by a denoiser that contains another one.
        """
        require_made(self)
        if self._predicts is None and any(isinstance(part, Denoiser) for part in _held_by(self)):
            raise ValueError(
                f"a denoiser around a denoiser must declare what it predicts; got {type(self).__name__}, which does not: set "
                "`predicts`, or derive it from noiselab.WrappedDenoiser"
            )
        return self._predicts or "leave_one_out"

    @predicts.setter
    def predicts(self, prediction: Prediction) -> None:
        self._predicts = require_prediction(prediction)

    def real_tokens(self, z: Tokens) -> Selection | None:
        """The mask of real tokens that the network must attend to, or `None` if all tokens are real.

        It combines the mask of `noiselab.denoisers.attending_to` and, if there is one, `self.attention_mask`.

        **Raises:** `ValueError` if a mask does not match the shape of the tokens.
        """
        masks = self.attended.all_masks(getattr(self, "attention_mask", None))
        for mask in masks:
            if mask.shape not in (z.shape, (1, z.shape[1])):
                raise ValueError(
                    f"attention_mask must have the shape of the tokens {list(z.shape)} or [1, {z.shape[1]}]; "
                    f"got {list(mask.shape)}"
                )
        return torch.stack([mask.bool().expand(z.shape) for mask in masks]).all(0) if masks else None

    def may_attend(self, z: Tokens) -> MayAttend | None:
        """Which tokens may attend to which, or `None` if all may attend to all; set by `noiselab.denoisers.attending_to`.

        **Raises:** `ValueError` if a mask does not match the shape of the tokens.
        """
        pairs = [check_pairs(pair, z) for pair in self.attended.pairs]
        return functools.reduce(torch.logical_and, pairs) if pairs else None

    def positions(self, z: Tokens) -> Positions | None:
        """The positions of the tokens, or `None` for 0, 1, 2, ...; set by `noiselab.denoisers.attending_to`.

        **Raises:** `ValueError` if they do not match the shape of the tokens.
        """
        found = self.attended.positions
        return None if found is None else check_positions(found, z)

    def require_attention(self) -> None:
        """Check that the network attends as `self.may_attend` and `self.positions` say.

        **Raises:** `ValueError` unless a subclass overrides it: a mask that is not passed on would be wrong in silence.
        """
        raise ValueError(
            f"may_attend and positions need a network that takes both; {type(self).__name__} does not (a denoiser of your own "
            "passes on self.may_attend(z) and self.positions(z), and overrides require_attention)"
        )

    def __call__(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of all tokens, or of the selected rows. Times may also have shape [batch, 1].

        **Raises:** `ValueError` if z and t are not tensors, for rows of another shape, or if `forward` takes `rows` and
        returns the logits of all tokens.
        """
        require_made(self)
        if not isinstance(z, Tensor) or not isinstance(t, Tensor):
            raise ValueError(
                f"z must be tokens and t a tensor of their times, [batch] or [batch, length]; got t = {t!r}"
            )
        if t.shape == (len(z), 1) and z.shape[1] > 1:
            t = t[:, 0]  # `forward` receives [batch] or [batch, length]
        if rows is None:
            return super().__call__(z, t)
        if rows.dtype != torch.bool or rows.shape != z.shape:
            raise ValueError(
                f"rows must be Bool of the shape of the tokens, {list(z.shape)}; got {rows.dtype} {list(rows.shape)}"
            )
        if not self._takes_rows:
            return select(super().__call__(z, t), rows)
        logits = super().__call__(z, t, rows)
        if logits.dim() != 2:
            raise ValueError(
                f"`forward` must return one row of logits for each token in `rows`, [rows, state]; {type(self).__name__} "
                f"returned {list(logits.shape)} (leave the argument out of `forward` to have the rows selected from all logits)"
            )
        return logits

    @abc.abstractmethod
    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of the clean tokens.

        **Arguments:**

        - `z`: noisy tokens.
        - `t`: their time, [batch] or [batch, length].
        - `rows`: the mask of tokens whose logits are returned; by default all.

        **Returns:** [batch, length, state]; with `rows`, [n, state] for the selected tokens in row-major order.
        """


REGISTRABLE.append(Denoiser)


def select(logits: Logits, rows: Tensor | None) -> Float[Tensor, "... state"]:
    """Select the logits of `rows`, for denoisers that compute all of them."""
    return logits if rows is None else logits[rows]


class ProjectedDenoiser(Denoiser):
    """A denoiser with separate hidden states and output projection.

    A subclass implements `hidden` and `project`. Only the selected rows are projected. If `project` is a linear map,
    `linear_projection` lets losses be fused with it (`noiselab.training.noised_loss`), so that no logits are stored.
    """

    @abc.abstractmethod
    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states, ready for the projection."""

    @abc.abstractmethod
    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits from hidden states, row by row."""

    def linear_projection(self, hidden: Float[Tensor, "*rows width"]) -> LinearProjection | None:
        """The product that gives the first logits of `project`, for all tokens of the process.

        By default `None`: `project` is called. For `self.out = nn.Linear(...)` and `project` that calls it, return
        `noiselab.denoisers.linear_projection(self.out, hidden)`.
        """
        return None

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Logits of the selected rows; only these are projected."""
        return self.project(select(self.hidden(z, t), rows))


class WrappedDenoiser(Denoiser):
    """A denoiser that wraps another one; its prediction type is that of the inner denoiser.

    A subclass implements `forward`, and `extra_repr` for its settings. If its prediction type differs, set `predicts`
    after `super().__init__(inner)`; if it does not support log-scores, set `accepts_scores = False`.

    **Arguments:**

    - `inner`: the denoiser to wrap.

    **Raises:** `ValueError` if `inner` is not a `Denoiser`, or predicts scores, which are not logits of clean tokens,
    and the subclass does not accept them.

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
    """Transforms the prediction x_hat of a denoiser, token by token; it never acts on the reverse step.

    A subclass implements `edit`; the selection of rows and the prediction type are those of the inner denoiser. If
    `edit` also supports log-scores, set `accepts_scores = True`.

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
    """Return a valid prediction type, or raise `ValueError`."""
    for known in get_args(Prediction):
        if prediction == known:
            return known
    raise ValueError(f"predicts must be 'leave_one_out', 'posterior' or 'score'; got {prediction!r}")


def require_denoiser(denoiser: object, name: str, *, scores: bool = True) -> Denoiser:
    """Check the denoiser passed to `name`.

    **Raises:** `ValueError` if it is not a `Denoiser`, or predicts scores and these are not accepted.
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
    """The contents of a module: its submodules, and the items of lists and dictionaries, which torch does not register."""
    yield from (part for part in module.modules() if part is not module)
    for value in vars(module).values():
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def describe(thing: object, *parts: object) -> str:
    """Describe an object in one line: its class, parts and settings; empty ones are omitted."""
    texts = [in_a_line(part) if isinstance(part, nn.Module) else str(part) for part in parts]
    return f"{type(thing).__name__}({', '.join(text for text in texts if text)})"


def in_a_line(denoiser: nn.Module) -> str:
    """Describe a denoiser in one line, or by its number of parameters if it would print as a tree."""
    text, count = repr(denoiser), sum(p.numel() for p in denoiser.parameters())
    return text if "\n" not in text else f"{type(denoiser).__name__}({count:,} parameters)"
