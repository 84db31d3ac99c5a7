"""Self-conditioning: the previous prediction of a network as its input, carried from step to step by the sampler."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..typing import Logits, RowLogits, Selection, Times, Tokens
from .base import Denoiser


class Previous(NamedTuple):
    """The previous prediction for some columns of a batch.

    **Arguments:**

    - `first`: the first of these columns.
    - `logits`: the prediction there; those of a sequence without one are 0.
    - `known`: the sequences that have one.
    """

    first: int
    logits: Float[Tensor, "batch width state"]
    known: Bool[Tensor, " batch"]

    def rows_of(self, rows: Selection) -> Bool[Tensor, "batch width"]:
        """The part of a mask of tokens that is in these columns."""
        return rows[:, self.first : self.first + self.logits.shape[1]]


class Predictions:
    """The predictions of one walk: those of the step before, which networks read, and those of the present step.

    A sampler makes one for each walk, so that two walks of one sampler do not mix, and the first step of each has no
    previous prediction. All calls within one step read the same: that of the step before.

    **Arguments:**

    - `batch`: the number of sequences.
    """

    def __init__(self, batch: int):
        self.batch = batch
        self._before: dict[tuple[Denoiser, int], Previous] = {}
        self._now: dict[tuple[Denoiser, int], Previous] = {}

    def read(self, denoiser: Denoiser, first: int, width: int) -> Previous | None:
        """The prediction of the step before for the columns from `first`; `None` if there is none."""
        found = self._before.get((denoiser, first))
        return found if found is not None and found.logits.shape[1] == width else None

    def write(self, denoiser: Denoiser, made: Previous) -> None:
        """Keep a prediction; sequences without one keep that of an earlier call of this step, or of the step before."""
        width = made.logits.shape[1]
        old = self._now.get((denoiser, made.first)) or self.read(denoiser, made.first, width)
        old = old if old is not None and old.logits.shape[1] == width else None
        if old is not None and not made.known.all():
            keep = ~made.known & old.known
            logits = torch.where(keep[:, None, None], old.logits.to(made.logits), made.logits)
            made = Previous(made.first, logits, made.known | keep)
        self._now[denoiser, made.first] = made

    def replace(self, denoiser: Denoiser, rows: Selection, logits: RowLogits) -> None:
        """Put other logits in place of those that the denoiser predicted in this step, at the selected tokens."""
        for key, made in list(self._now.items()):
            if key[0] is denoiser and (here := made.rows_of(rows)).any():
                if here.all() and here.sum() == rows.sum():
                    self._now[key] = made._replace(logits=logits.view_as(made.logits))  # without a copy
                    continue
                within = torch.zeros_like(rows)
                within[:, made.first : made.first + made.logits.shape[1]] = here
                changed = made.logits.clone()
                changed[here] = logits[within[rows]].to(changed)
                self._now[key] = made._replace(logits=changed)

    def turn(self) -> None:
        """The end of a step: what was predicted in it is now the step before."""
        self._before.update(self._now)
        self._now = {}


class SelfConditioned(Denoiser):
    """A denoiser whose network also takes its own previous prediction.

    A subclass calls `previous` before and `keep` after it evaluates its network. The predictions themselves are in the
    walk of a sampler (`Predictions`), not in the denoiser: within a step of a sampler the network is conditioned on the
    prediction of the step before, sequence by sequence. Outside of a walk, and in its first step, there is none. Wrappers
    around it need not know of it, and what they change (`Temperature`) is not fed back, unless the sampler feeds back what
    it draws from (`RenoisingSampler` does).

    **Source:** Chen et al. (2023), "Analog Bits", arXiv 2208.04202, for self-conditioning.

    **Example:** a network that averages its prediction with the previous one.

    ```python
    import torch
    import noiselab as nl

    class Averaging(nl.denoisers.SelfConditioned):
        def forward(self, z, t):
            logits = torch.nn.functional.one_hot(z, 3).double()
            before = self.previous(0, z)
            if before is not None:
                logits = torch.where(before.known[:, None, None], (logits + before.logits) / 2, logits)
            self.keep(0, logits)
            return logits

    process = nl.uniform(vocab_size=3)
    x = nl.AncestralSampler(process, Averaging()).sample((2, 4), steps=8)
    assert x.shape == (2, 4)
    ```
    """

    carried: Predictions | None = None
    _asked: Tensor | None = None

    def __call__(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """As for every denoiser; sequences without a selected row keep their previous prediction."""
        self._asked = rows.any(-1) if isinstance(rows, Tensor) and rows.dim() == 2 else None
        try:
            return super().__call__(z, t, rows)
        finally:
            self._asked = None

    def previous(self, first: int, z: Tensor) -> Previous | None:
        """The prediction of the step before for the tokens of a call; `None` outside of a walk and in its first step.

        **Arguments:**

        - `first`: the column of z in the whole sequence.
        - `z`: the tokens whose prediction is meant, [batch, width].

        **Raises:** `ValueError` if these are not the sequences of the walk, nor some of them (`selected_sequences`).
        """
        if self.carried is None:
            return None
        index = self._sequences(z, self.carried.batch)
        found = self.carried.read(self, first, z.shape[1])
        if found is None or index is None:
            return found
        return Previous(first, found.logits[index], found.known[index])

    def keep(self, first: int, logits: Logits) -> None:
        """Keep a prediction for the next step of the walk; nothing outside of one.

        **Arguments:**

        - `first`: as for `previous`.
        - `logits`: the prediction.
        """
        if self.carried is None:
            return
        batch, logits = self.carried.batch, logits.detach()
        index = self._sequences(logits, batch)
        # Whether a sequence is evaluated must not depend on the others of its batch.
        known = torch.ones(len(logits), dtype=torch.bool, device=logits.device) if self._asked is None else self._asked
        if index is not None:
            known = known.new_zeros(batch).index_copy(0, index, known)
            logits = logits.new_zeros(batch, *logits.shape[1:]).index_copy(0, index, logits)
        self.carried.write(self, Previous(first, logits, known))

    def _sequences(self, called: Tensor, batch: int) -> Tensor | None:
        """The sequences of the walk that a call is for; `None` for all, in order."""
        index = self.attended.sequences
        if index is None and len(called) == batch:
            return None
        if index is None or len(index) != len(called) or len(index.unique()) != len(index):
            raise ValueError(
                f"a self-conditioned network must be called with each sequence of the walk at most once; got {len(called)} "
                f"for {batch} sequences from a wrapper that does not name them (`noiselab.denoisers.selected_sequences`)"
            )
        return index


def self_conditioned(denoiser: nn.Module) -> list[SelfConditioned]:
    """The self-conditioned denoisers inside a denoiser, each once."""
    return [part for part in denoiser.modules() if isinstance(part, SelfConditioned)]


@contextmanager
def carrying(parts: Sequence[SelfConditioned], predictions: Predictions) -> Iterator[None]:
    """Context manager for one step of a walk: inside, self-conditioned denoisers read and write these predictions.

    **Arguments:**

    - `parts`: the denoisers, as `self_conditioned` finds them.
    - `predictions`: those of the walk.
    """
    before = [part.carried for part in parts]
    try:
        for part in parts:
            part.carried = predictions
        yield
    finally:
        for part, old in zip(parts, before, strict=True):
            part.carried = old
    predictions.turn()


def feed_back(parts: Sequence[SelfConditioned], rows: Selection, logits: RowLogits) -> None:
    """Feed logits back to self-conditioned denoisers in place of their own, within a step of a walk.

    **Arguments:**

    - `parts`: the denoisers, as `self_conditioned` finds them.
    - `rows`: the tokens that the logits are of.
    - `logits`: what the sampler draws from.
    """
    for part in parts:
        if part.carried is not None:
            part.carried.replace(part, rows, logits)
