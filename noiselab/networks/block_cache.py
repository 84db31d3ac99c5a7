"""Keys and values that are kept between the evaluations of a `DiT`: exactly, by block-causal attention, or approximately.

A cache is asked like any denoiser. It compares the tokens and times it is given with those of its last evaluation, and
reuses only what still holds, so that no sampler has to tell it anything.
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

    What later blocks hold makes no difference, so that they are not evaluated. Give times per token, as `BlockSampler`
    does: finished blocks are at the lower end of time. The attribute `evaluated` counts the tokens of all evaluations.

    **Arguments:**

    - `model`: the network; trained with this attention, or its answers mean little.
    - `block_size`: tokens in a block; blocks are counted from position 0.
    - `predicts`: what the logits mean; see `Denoiser`.
    - `attention_mask`: Bool or Int [batch or 1, length], 1 for real tokens; all by default.

    **Raises:** `ValueError` for another network, block size or prediction.

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
        self.block_size = block_size

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states of all tokens; nothing is kept."""
        t, mask = as_token_times(t, z).expand(z.shape), self._mask(z, z.shape[1])
        return self._run(z, t, attention_mask=mask, block_size=self.block_size)

    def states(self, z: Tensor, t: Tensor, asked: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
        """Those of all tokens up to the end of the last block that is asked about."""
        end = min((columns[-1] // self.block_size + 1) * self.block_size, z.shape[1])
        return self.hidden(z[:, :end], t[:, :end]), asked[:, :end]

    def extra_repr(self) -> str:
        """What it is set to."""
        return f"block_size={self.block_size}"


class CachedBlockCausal(BlockCausal):
    """`BlockCausal` with keys and values of earlier blocks kept: the same logits, but for the order of float sums.

    A block is evaluated again from the first token on whose value or time is not what it was, in any sequence of the batch,
    and where its own rows are asked for. So any sampler may use it, in any order; `BlockSampler` gains: each step costs one
    block, and the step that enters a block two. Nothing is kept where gradients are recorded, and a batch of another size
    begins anew, so that samplers which ask about parts of a batch save little.

    **Arguments:** as for `BlockCausal`.

    **Source:** Arriola et al. (2025), arXiv 2503.09573, section 3.2.
    """

    def states(self, z: Tensor, t: Tensor, asked: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
        """Those of the tokens from the first block that is asked about or not known, to the last that is asked about."""
        if not self._keeps():
            return super().states(z, t, asked, columns)
        size, known, network = self.block_size, self._known, self._network()
        end = min((columns[-1] // size + 1) * size, z.shape[1])
        z, t, start, valid = z[:, :end], t[:, :end], 0, 0
        if known is not None and known.network == network and len(known.z) == len(z) and known.z.device == z.device:
            both = min(end, known.z.shape[1])
            same = ((known.z[:, :both] == z[:, :both]) & (known.t[:, :both] == t[:, :both])).all(0)
            valid = int(same.long().cumprod(0).sum()) // size * size
            # A walk that went back to an earlier block has begun anew, perhaps with weights changed behind our back.
            start = min(valid, columns[0] // size * size) if valid >= known.valid else 0
        if known is None or start == 0:
            layers = [Append() for _ in self.model.blocks]
        else:
            layers = [Append((key[:, :, :start], value[:, :, :start])) for key, value in known.layers]
        hidden = self._run(
            z[:, start:],
            t[:, start:],
            attention_mask=self._mask(z, end),
            # Of a single block all tokens see all keys: without a mask attention is faster.
            block_size=size if end - start > size else None,
            positions=torch.arange(start, end, device=z.device),
            memory=layers,
        )
        kept = [layer.kept for layer in layers if layer.kept is not None]
        self._known = Known(network, z.clone(), t.clone(), kept, valid)
        return hidden, asked[:, start:end]


class _Replace:
    """Attends to kept keys and values, in which those of the tokens at hand are replaced by theirs."""

    def __init__(self, frozen: tuple[Tensor, Tensor], positions: Tensor):
        self.frozen, self.positions = frozen, positions

    def __call__(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.frozen[0].index_copy(2, self.positions, key), self.frozen[1].index_copy(2, self.positions, value)


class _Frozen(Evaluation):
    """Keys and values of tokens that do not move are those of the first evaluation with these tokens and times."""

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
        """The positions that are evaluated each time."""

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states of all tokens; nothing is kept."""
        return self._run(z, as_token_times(t, z).expand(z.shape), attention_mask=self._mask(z, z.shape[1]))

    def states(self, z: Tensor, t: Tensor, asked: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
        """Those of the moving tokens, or of all if what is kept does not hold."""
        if not self._keeps():
            return self.hidden(z, t), asked
        network, live = self._network(), asked.any(1)
        moving = self.moving(t[live])
        if self._holds(z, t, network, live, moving) and bool(moving[columns].all()):
            known, positions = self._known, moving.nonzero()[:, 0]
            assert known is not None
            layers = [_Replace(layer, positions) for layer in known.layers]
            self._reused, self._known = self._reused + 1, known._replace(t=torch.where(moving, t, known.t))
            mask = self._mask(z, z.shape[1])
            part = self._run(z[:, positions], t[:, positions], attention_mask=mask, positions=positions, memory=layers)
            return part, asked[:, positions]
        fresh = [Append() for _ in self.model.blocks]
        hidden = self._run(z, t, attention_mask=self._mask(z, z.shape[1]), memory=fresh)
        kept = [layer.kept for layer in fresh if layer.kept is not None]
        self._known, self._reused = Known(network, z.clone(), t.clone(), kept), 0
        return hidden, asked

    def _holds(self, z: Tensor, t: Tensor, network: tuple, live: Tensor, moving: Tensor) -> bool:
        """Whether tokens that do not move are as they were, and the others have not gone back to an earlier time."""
        known = self._known
        if known is None or known.network != network or known.z.shape != z.shape or known.z.device != z.device:
            return False
        if self.refresh is not None and self._reused + 1 >= self.refresh:
            return False
        as_before = torch.where(moving, t <= known.t, (z == known.z) & (t == known.t))
        return bool(as_before[live].all())


class PrefixCache(_Frozen):
    """Any `DiT`, with keys and values of finished tokens kept while a block is denoised: an approximation.

    In a bidirectional network every state depends on every token. Here those of the tokens at the lower end of time, from
    the first on, are frozen at the first evaluation of a block, and all that follow are evaluated at each step. That
    evaluation is exact; later ones differ by what the frozen tokens would have made of the block's changes. Made for
    `BlockSampler`. It is seen by itself when a block is done, and when a walk begins anew.

    The attribute `evaluated` counts the tokens of all evaluations.

    **Arguments:**

    - `model`: the network.
    - `domain`: the lower and upper end of time of the process.
    - `refresh`: all tokens are evaluated at least every so many evaluations; 1 is exact. By default once for each block.
    - `predicts`, `attention_mask`: as for `BlockCausal`.

    **Raises:** `ValueError` for another network or prediction, or settings out of range.

    **Source:** Wu et al. (2025), Fast-dLLM, arXiv 2505.22618, section 3.2.
    """

    def moving(self, t: PerToken) -> Bool[Tensor, " length"]:
        """All from the first token of any sequence that is not at the lower end of time."""
        rest = (t <= self.domain[0]).all(0).long().cumprod(0) == 0
        # Before the first step of a block nothing is frozen, whatever an earlier walk left.
        return rest & (t[:, rest] < self.domain[1]).any()


class DualCache(_Frozen):
    """`PrefixCache` that freezes pure noise as well: only tokens within the ends of time are evaluated at each step.

    **Arguments:** as for `PrefixCache`.

    **Source:** Wu et al. (2025), Fast-dLLM, arXiv 2505.22618, section 3.2.
    """

    def moving(self, t: PerToken) -> Bool[Tensor, " length"]:
        """Those at a time within the ends in some sequence."""
        return ((t > self.domain[0]) & (t < self.domain[1])).any(0)
