"""Approximate key/value caches, for attention to both sides: what is finished, or has not begun, is frozen."""

import abc

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..parametrization import Prediction
from ..process import as_token_times
from ..typing import PerToken, Selection, Times, Tokens
from .kept_keys import Append, Keyed, KeysOfLayers, count_layers
from .kv_cache import Evaluation, Known
from .masked_lm import MaskedLanguageModel


class _Replace:
    """Attends to cached keys and values, after replacing those of the evaluated tokens."""

    def __init__(self, frozen: tuple[Tensor, Tensor], positions: Tensor):
        self.frozen, self.positions = frozen, positions

    def __call__(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.frozen[0].index_copy(2, self.positions, key), self.frozen[1].index_copy(2, self.positions, value)


class _Frozen(Evaluation):
    """A cache in which tokens that cannot change keep keys and values of their first evaluation."""

    exact = False

    def __init__(
        self,
        model: Keyed,
        *,
        domain: tuple[float | int, float | int] = (0.0, 1.0),
        refresh: int | None = None,
        predicts: Prediction | None = None,
        attention_mask: Selection | Tokens | None = None,
    ):
        super().__init__(model, predicts, attention_mask)
        if isinstance(model, MaskedLanguageModel) and model.shifted:
            raise ValueError("an approximate cache needs logits that are not shifted; got a model with shifted=True")
        if not domain[0] < domain[1]:
            raise ValueError(f"domain must be two times low < high; got {domain}")
        if refresh is not None and refresh < 1:
            raise ValueError(f"refresh must be at least 1, or None; got {refresh}")
        self.domain, self.refresh, self._reused = domain, refresh, 0

    @abc.abstractmethod
    def moving(self, t: PerToken) -> Bool[Tensor, " length"]:
        """The positions evaluated at every call."""

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states of all tokens, without caching."""
        return self._all(z, as_token_times(t, z).expand(z.shape), [Append() for _ in range(count_layers(self.model))])

    def _all(self, z: Tensor, t: Tensor, memory: KeysOfLayers) -> Tensor:
        return self._run(z, t, self._pairs(z), torch.arange(z.shape[1])[None], memory)

    def _pairs(self, z: Tensor) -> Tensor | None:
        """All tokens attend to the real ones."""
        real = self._real(z)
        return None if real is None else real[:, None]

    def states(self, z: Tensor, t: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden states of moving tokens, or of all tokens if the cache is not valid."""
        if not self._keeps():
            return self.hidden(z, t), asked
        live, real = asked.any(1), self._real(z)
        moving, marks = self.moving(t[live]), [z, t, torch.ones_like(asked) if real is None else real]
        if self._holds(marks, live, moving) and bool(moving[asked.any(0)].all()):
            known, positions = self._known, moving.nonzero()[:, 0]
            assert known is not None
            layers = [_Replace(layer, positions) for layer in known.layers]
            marks = [known.marks[0], torch.where(moving, t, known.marks[1]), known.marks[2]]
            self._reused, self._known = self._reused + 1, known._replace(marks=marks)
            part = self._run(z[:, positions], t[:, positions], self._pairs(z), positions[None], layers)
            return part, asked[:, positions]
        fresh = [Append() for _ in range(count_layers(self.model))]
        hidden = self._all(z, t, fresh)
        # Values may be a view of a tensor that includes the queries, and would keep it alive.
        kept = [(layer.new[0], layer.new[1].contiguous()) for layer in fresh if layer.new is not None]
        self._known = Known(self._network(), [mark.clone() for mark in marks], kept, moving.new_zeros(len(z)))
        self._reused = 0
        return hidden, asked

    def _holds(self, marks: list[Tensor], live: Tensor, moving: Tensor) -> bool:
        """Whether the cache is valid: frozen tokens are unchanged, and no time of the others has increased."""
        known, (z, t, real) = self._known, marks
        if known is None or known.network != self._network():
            return False
        old, before, was_real = known.marks
        if old.shape != z.shape or old.device != z.device or not torch.equal(real, was_real):
            return False
        if self.refresh is not None and self._reused + 1 >= self.refresh:
            return False
        as_before = torch.where(moving, t <= before, (z == old) & (t == before))
        return bool(as_before[live].all())


class PrefixCache(_Frozen):
    """An approximate cache for attention to both sides: finished tokens keep keys and values while a block is denoised.

    In a bidirectional network every hidden state depends on every token. This cache freezes the leading tokens at the
    lower end of time at the first evaluation of a block, and evaluates all later tokens at each step. The first
    evaluation of a block is exact; later ones ignore the effect of the block's changes on the frozen tokens. The cache
    is designed for `BlockSampler`; it detects by itself when a block is finished and when a new walk begins.

    The attribute `evaluated` counts evaluated tokens.

    **Arguments:**

    - `model`: the network, as for `BlockCausal`, trained with attention to both sides, with logits that are not shifted.
    - `domain`: the lower and upper end of time of the process.
    - `refresh`: the maximum number of evaluations between full evaluations; 1 is exact. By default one per block.
    - `predicts`, `attention_mask`: as for `BlockCausal`.

    **Raises:** `ValueError` for an unsupported network or prediction type, or settings out of range.

    **Source:** Wu et al. (2025), Fast-dLLM, arXiv 2505.22618, section 3.2.
    """

    def moving(self, t: PerToken) -> Bool[Tensor, " length"]:
        """All positions from the first token, in any sequence, that is not at the lower end of time."""
        rest = (t <= self.domain[0]).all(0).long().cumprod(0) == 0
        # Before the first step of a block nothing is frozen, even after an earlier walk.
        return rest & (t[:, rest] < self.domain[1]).any()


class DualCache(_Frozen):
    """A `PrefixCache` that also freezes tokens of pure noise: each step evaluates only tokens strictly inside the
    domain of time.

    **Arguments:** as for `PrefixCache`.

    **Source:** Wu et al. (2025), Fast-dLLM, arXiv 2505.22618, section 3.2.
    """

    def moving(self, t: PerToken) -> Bool[Tensor, " length"]:
        """The positions whose time is strictly inside the domain in some sequence."""
        return ((t > self.domain[0]) & (t < self.domain[1])).any(0)
