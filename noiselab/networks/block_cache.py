"""Key/value caches for a `DiT`: exact with block-causal attention, or approximate with full attention.

A cache is called like any denoiser. It compares tokens and times with those of its last evaluation and reuses only what
is still valid, so that samplers need no knowledge of the cache.
"""

import abc

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..parametrization import Prediction
from ..process import as_token_times
from ..typing import PerToken, Selection, Times, Tokens
from .dit import DiT
from .kv_cache import Append, Evaluation, Known


class BlockCausal(Evaluation):
    """A `DiT` in which a token attends to its own block and to earlier blocks only.

    Later blocks do not affect earlier ones, so that only blocks up to the last active one are evaluated. Use per-token
    times as `BlockSampler` does, with finished blocks at the lower end of time. The attribute `evaluated` counts
    evaluated tokens.

    **Arguments:**

    - `model`: the network; it should be trained with block-causal attention.
    - `block_size`: the number of tokens in a block; blocks start at position 0. A `BlockSampler` counts its blocks from there
      too, also after a prompt.
    - `predicts`: the prediction type of the logits; see `Denoiser`.
    - `attention_mask`: Bool or Int [batch or 1, length], 1 for real tokens; by default all are real.

    **Raises:** `ValueError` for an unsupported network, block size or prediction type.

    **Source:** Arriola et al. (2025), arXiv 2503.09573.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.networks.block_cache import CachedBlockCausal
    from noiselab.networks.dit import DiT, DiTConfig

    model = DiT(DiTConfig(vocab_size=9, max_seq_len=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))
    process, denoiser = nl.masked(vocab_size=9, mask_id=8), CachedBlockCausal(model, block_size=4)
    sampler = nl.samplers.BlockSampler(nl.AncestralSampler(process, denoiser), 4, context="past")
    assert (sampler.sample((2, 16), steps=8) < 8).all()
    ```
    """

    def __init__(
        self,
        model: DiT,
        block_size: int,
        *,
        predicts: Prediction = "leave_one_out",
        attention_mask: Selection | Tokens | None = None,
    ):
        super().__init__(model, predicts, attention_mask)
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1; got {block_size}")
        self.block_size = self.attention_block = block_size

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states of all tokens, without caching."""
        t, mask = as_token_times(t, z).expand(z.shape), self._mask(z, z.shape[1])
        return self._run(z, t, attention_mask=mask, may_attend=self._earlier(0, z))

    def _earlier(self, start: int, z: Tensor) -> Tensor:
        """The mask of the own and earlier blocks of the tokens from `start`."""
        block = torch.arange(z.shape[1], device=z.device) // self.block_size
        return (block <= block[start:, None])[None]

    def states(self, z: Tensor, t: Tensor, asked: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
        """The hidden states of all tokens up to the end of the last block with active positions."""
        end = min((columns[-1] // self.block_size + 1) * self.block_size, z.shape[1])
        return self.hidden(z[:, :end], t[:, :end]), asked[:, :end]

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"block_size={self.block_size}"


class CachedBlockCausal(BlockCausal):
    """`BlockCausal` with cached keys and values of earlier blocks; the logits are equal up to floating-point summation
    order.

    Blocks are evaluated again from the first token whose value or time has changed in any sequence of the batch, and
    where they have active rows. The cache is therefore valid with any sampler. `BlockSampler` benefits most: each step
    evaluates one block, and the step that enters a new block two. Nothing is cached while gradients are recorded. A
    batch of another size starts a new cache, so that samplers that evaluate parts of a batch benefit little.

    **Arguments:** as for `BlockCausal`.

    **Source:** Arriola et al. (2025), arXiv 2503.09573, section 3.2.
    """

    def states(self, z: Tensor, t: Tensor, asked: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
        """The hidden states from the first block that is active or not cached to the last active block."""
        if not self._keeps():
            return super().states(z, t, asked, columns)
        size, known, network = self.block_size, self._known, self._network()
        end = min((columns[-1] // size + 1) * size, z.shape[1])
        z, t, start, valid = z[:, :end], t[:, :end], 0, 0
        if known is not None and known.network == network and len(known.z) == len(z) and known.z.device == z.device:
            both = min(end, known.z.shape[1])
            same = ((known.z[:, :both] == z[:, :both]) & (known.t[:, :both] == t[:, :both])).all(0)
            valid = int(same.long().cumprod(0).sum()) // size * size
            # A return to an earlier block means a new walk, perhaps with weights that were changed unnoticed.
            start = min(valid, columns[0] // size * size) if valid >= known.valid else 0
        if known is None or start == 0:
            layers = [Append() for _ in self.model.blocks]
        else:
            layers = [Append((key[:, :, :start], value[:, :, :start])) for key, value in known.layers]
        hidden = self._run(
            z[:, start:],
            t[:, start:],
            attention_mask=self._mask(z, end),
            # In a single block all tokens attend to all keys; attention is faster without a mask.
            may_attend=self._earlier(start, z) if end - start > size else None,
            positions=torch.arange(start, end)[None],
            memory=layers,
        )
        kept = [layer.kept for layer in layers if layer.kept is not None]
        self._known = Known(network, z.clone(), t.clone(), kept, valid)
        return hidden, asked[:, start:end]


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
        model: DiT,
        *,
        domain: tuple[float | int, float | int] = (0.0, 1.0),
        refresh: int | None = None,
        predicts: Prediction = "leave_one_out",
        attention_mask: Selection | Tokens | None = None,
    ):
        super().__init__(model, predicts, attention_mask)
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
        return self._run(z, as_token_times(t, z).expand(z.shape), attention_mask=self._mask(z, z.shape[1]))

    def states(self, z: Tensor, t: Tensor, asked: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
        """The hidden states of moving tokens, or of all tokens if the cache is not valid."""
        if not self._keeps():
            return self.hidden(z, t), asked
        network, live = self._network(), asked.any(1)
        moving = self.moving(t[live])
        if self._holds(z, t, network, live, moving) and bool(moving[columns].all()):
            known, positions = self._known, moving.nonzero()[:, 0]
            assert known is not None
            layers = [_Replace(layer, positions) for layer in known.layers]
            self._reused, self._known = self._reused + 1, known._replace(t=torch.where(moving, t, known.t))
            mask, places = self._mask(z, z.shape[1]), positions[None]
            part = self._run(z[:, positions], t[:, positions], attention_mask=mask, positions=places, memory=layers)
            return part, asked[:, positions]
        fresh = [Append() for _ in self.model.blocks]
        hidden = self._run(z, t, attention_mask=self._mask(z, z.shape[1]), memory=fresh)
        kept = [layer.kept for layer in fresh if layer.kept is not None]
        self._known, self._reused = Known(network, z.clone(), t.clone(), kept), 0
        return hidden, asked

    def _holds(self, z: Tensor, t: Tensor, network: tuple, live: Tensor, moving: Tensor) -> bool:
        """Whether the cache is valid: frozen tokens are unchanged, and no time of the others has increased."""
        known = self._known
        if known is None or known.network != network or known.z.shape != z.shape or known.z.device != z.device:
            return False
        if self.refresh is not None and self._reused + 1 >= self.refresh:
            return False
        as_before = torch.where(moving, t <= known.t, (z == known.z) & (t == known.t))
        return bool(as_before[live].all())


class PrefixCache(_Frozen):
    """An approximate cache for any `DiT`: keys and values of finished tokens are frozen while a block is denoised.

    In a bidirectional network every hidden state depends on every token. This cache freezes the leading tokens at the
    lower end of time at the first evaluation of a block, and evaluates all later tokens at each step. The first
    evaluation of a block is exact; later ones ignore the effect of the block's changes on the frozen tokens. The cache
    is designed for `BlockSampler`; it detects by itself when a block is finished and when a new walk begins.

    The attribute `evaluated` counts evaluated tokens.

    **Arguments:**

    - `model`: the network.
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
