"""Two forms of one step: with selected rows, or with static shapes, as accelerators and compilers need it.

In the first form the network's output is projected only at the positions that need it: the least work, but shapes that
depend on the data, which the host must read in every step. In the second it is projected at all positions and tokens are
chosen by `torch.where`: nothing is read, and a step can be compiled as one graph.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.checked import Checked
from ..denoisers.credit import Credit
from ..typing import Selection, Times, Tokens

Shapes: TypeAlias = Literal["rows", "static"]
"""The form of a step: "rows" evaluates selected positions, "static" all of them."""
Moved: TypeAlias = tuple[Int[Tensor, "batch length"], Float[Tensor, "..."]]
"""Tokens after a step, and the largest logit of each row, for `LogitCheck.keep`."""


HAVE_STATIC = (
    "AncestralSampler, ConfidenceSampler, EntropyBoundedSampler, ThresholdSampler, JointThresholdSampler, "
    "PathPlanningSampler, RenoisingSampler or SelfCorrection"
)  # for a message


class _Rest(threading.local):
    """Whether no sequence of the walk in this thread moves any more."""

    over: bool = False


_REST = _Rest()


@contextmanager
def resting(over: bool) -> Iterator[None]:
    """Context manager for a step in which, if `over`, no sequence moves: it selects rows, of which there are none, and so
    evaluates no network.
    """
    before, _REST.over = _REST.over, _REST.over or over
    try:
        yield
    finally:
        _REST.over = before


class TwoForms:
    """What samplers and correctors share: the choice of the form of their steps."""

    has_static: bool = False
    """Whether there is a form with static shapes."""
    shapes: Shapes | None = None
    """The form of the steps; `None` for "rows" on the CPU and "static" on an accelerator, if there is such a form."""

    def with_shapes(self, shapes: Shapes | None) -> Any:
        """A copy with another form of steps, of the same law and, from the same random numbers, the same tokens.

        **Arguments:**

        - `shapes`: "rows": the network is evaluated at selected positions; shapes depend on the data, and the host reads
          them in each step. "static": it is evaluated at all positions, and nothing is read. `None`: by the device of the
          tokens.

        **Raises:** `ValueError` for another value, or if there is no form with static shapes, or with `Credit`.
        """
        if shapes is not None and shapes not in get_args(Shapes):
            raise ValueError(f"shapes must be 'rows', 'static' or None; got {shapes!r}")
        return self._changed(lambda part: part._set_shapes(shapes))

    def compiled(self, **options: Any) -> Any:
        """A copy whose steps have static shapes and are compiled as one graph each, the network included.

        Random numbers are drawn outside of the graph, and its logits are checked outside of it.

        **Arguments:**

        - `options`: for `torch.compile`, such as `backend` or `mode`.

        **Raises:** `ValueError` if there is no form with static shapes.
        """

        def compile_step(part: TwoForms) -> None:
            part._set_shapes("static")
            part.move = torch.compile(part.move, fullgraph=True, **options)  # type: ignore[method-assign]

        return self._changed(compile_step)

    def move(self, *args: Any) -> Moved:
        """One step with static shapes, from random numbers that are drawn: what `compiled` compiles."""
        raise NotImplementedError

    def is_static(self, z: Tokens) -> bool:
        """Whether a step from these tokens has static shapes: by default not with a cache, which needs selected positions."""
        if not self.has_static or self.shapes is not None or _REST.over:
            return self.has_static and self.shapes == "static" and not _REST.over
        return z.device.type != "cpu" and not any(_keeps_keys(part) or _credits(part) for part in self._networks())

    def _networks(self) -> tuple[Any, ...]:
        """The denoisers that a step evaluates."""
        return (getattr(self, "denoiser", None),)

    def _parts(self) -> tuple[str, ...]:
        """The attributes that hold what makes the steps; none if this object does."""
        return ()

    def _set_shapes(self, shapes: Shapes | None) -> None:
        if shapes == "static" and not self.has_static:
            raise ValueError(
                f"{type(self).__name__} has no step with static shapes; leave shapes at 'rows', or use {HAVE_STATIC}"
            )
        if shapes == "static" and any(map(_credits, self._networks())):
            raise ValueError(
                "shapes must be 'rows' with Credit, which counts predictions only at requested positions; got 'static'"
            )
        self.shapes = shapes

    def _changed(self, change: "Callable[[TwoForms], None]") -> Any:
        made = copy.copy(self)
        for name in self._parts():
            setattr(made, name, getattr(self, name)._changed(change))
        if not self._parts():
            change(made)
        return made


def _keeps_keys(part: Any) -> bool:
    """Whether a denoiser is a cache, or contains one."""
    if not isinstance(part, Denoiser):
        return False
    return part.keeps_keys or any(map(_keeps_keys, part.children()))


def _credits(part: Any) -> bool:
    """Whether a denoiser contains a `Credit`, whose sums depend on the positions that are evaluated."""
    if not isinstance(part, Denoiser):
        return False
    return isinstance(part, Credit) or any(map(_credits, part.children()))


def finish(moved: Moved, t: Times | None, denoiser: Checked) -> Tokens:
    """The tokens of a step with static shapes, after the check of its logits; inside of a graph they are not checked."""
    z, tops = moved
    if not torch.compiler.is_compiling():
        denoiser.check.keep(tops, t, denoiser.inner)
    return z


def tops_of(top: Float[Tensor, "batch length"], rows: Selection | None = None) -> Float[Tensor, "..."]:
    """The largest logit of each of the rows; 0 at positions that need none."""
    return top if rows is None else tops_outside(top, ~rows)


def tops_outside(top: Float[Tensor, "batch length"], idle: Bool[Tensor, "batch ..."]) -> Float[Tensor, "..."]:
    """As `tops_of`, by the positions that need none."""
    return top.masked_fill(idle, 0)
