"""Exact key/value caches, for block-causal attention.

A cache is called like any denoiser. It compares tokens and times with those of its last evaluation and reuses only what
is still valid, so that samplers need no knowledge of the cache.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..denoisers.attended import Attended
from ..denoisers.base import Denoiser
from ..denoisers.blockwise import BlockDenoiser
from ..denoisers.projection import LinearProjection, splits_projection
from ..numerics import require_count, require_number
from ..parametrization import Prediction
from ..process import as_token_times
from ..typing import Selection, Times, Tokens
from .dit import DiT
from .huggingface import TransformersDenoiser
from .kept_keys import Append, Keyed, NoKeys, count_layers
from .kv_cache import Evaluation, Known, stored
from .masked_lm import MaskedLanguageModel, place_before
from .windows import Text, Window, window


def in_blocks(inner: Denoiser, block_size: int, *, low: float | int = 0.0) -> Denoiser:
    """A denoiser in blocks, with cached keys and values if the network can be evaluated with them.

    **Arguments:** as for `noiselab.denoisers.BlockDenoiser`.

    **Returns:** a `CachedBlockCausal`, or a `BlockDenoiser` for some encoders, networks of one's own and compiled networks.
    """
    try:
        if isinstance(inner, TransformersDenoiser | MaskedLanguageModel):
            return CachedBlockCausal(inner, block_size, low=low)
    except NoKeys:
        pass
    return BlockDenoiser(inner, block_size, low=low)


class BlockCausal(Evaluation):
    """A network in which a token attends to its own block and to earlier blocks only.

    Later blocks do not affect earlier ones, so that only blocks up to the last active one are evaluated, and only of sequences
    with active rows. Use per-token times as `BlockSampler` does, with finished blocks at the lower end of time. The attribute
    `evaluated` counts evaluated tokens. Where the clean text is known, in training and in bounds, it is
    `noiselab.denoisers.BlockDenoiser`.

    **Arguments:**

    - `model`: a `DiT`, or a denoiser of one or of a model of transformers that takes `past_key_values` (`TransformersDenoiser`,
      `MaskedLanguageModel`), whose logits may be shifted. It should be trained with block-causal attention.
    - `block_size`: the number of tokens in a block; blocks start at position 0. A `BlockSampler` counts its blocks from there
      too, also after a prompt.
    - `predicts`: the prediction type of the logits, by default that of the denoiser, or "leave_one_out"; see `Denoiser`.
    - `attention_mask`: Bool or Int [batch or 1, length], 1 for real tokens; by default all are real. For prompts padded on the
      left, also give their positions by `noiselab.denoisers.attending_to`; padding of whole blocks, or with `given`.
    - `given`: the number of leading tokens, for all sequences or Int [batch], that are one block, such as a prompt of a network
      that was trained so; blocks are counted from their end. A `BlockSampler` does not sample them.
    - `low`: the time of clean tokens, the lower end of the process's domain; only where the clean text is known.

    **Raises:** `ValueError` for an unsupported network, one that does not honour masks and keys, a block size or
    prediction type.

    **Source:** Arriola et al. (2025), arXiv 2503.09573.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.networks.block_cache import CachedBlockCausal
    from noiselab.networks.masked_lm import MaskedLanguageModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = MaskedLanguageModel(LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)))
    process, denoiser = nl.masked(vocab_size=9, mask_id=8), CachedBlockCausal(model, block_size=4)
    sampler = nl.samplers.BlockSampler(nl.AncestralSampler(process, denoiser), 4)
    assert (sampler.sample((2, 16), steps=8) < 8).all()
    ```
    """

    def __init__(
        self,
        model: Keyed,
        block_size: int,
        *,
        predicts: Prediction | None = None,
        attention_mask: Selection | Tokens | None = None,
        given: int | Int[Tensor, " batch"] = 0,
        low: float | int = 0.0,
    ):
        super().__init__(model, predicts, attention_mask)
        self.block_size = self.attention_block = require_count("block_size", block_size)
        self.low = require_number("low", low, 0, 1)
        if isinstance(given, Tensor):
            if given.dim() != 1 or given.is_floating_point() or given.dtype == torch.bool or (given < 0).any():
                raise ValueError(f"given must be the number of leading tokens of each sequence, 0 or more; got {given}")
            self.attention_given = given[:, None]
        elif require_count("given", given, 0):
            self.attention_given = torch.tensor([[given]])
        self.shifted = isinstance(model, MaskedLanguageModel) and model.shifted
        inner = TransformersDenoiser(model, self.predicts) if isinstance(model, DiT) else model
        # In a list, because its weights are those of the network.
        self._one_pass = [BlockDenoiser(inner, block_size, low=self.low)]

    def require_attention(self) -> None:
        """Nothing to check: the network was checked when the cache was made."""

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states of all tokens, without caching; in one pass with the clean text if it is known."""
        now = self.attended
        if not self._whole():
            t = as_token_times(t, z).expand(z.shape)
            return self._without(self._text(z, t, torch.ones_like(z, dtype=torch.bool)))[0]
        if self.attention_given is not None:
            raise ValueError(
                "blocks that are counted from `given` tokens have no pass with a clean text or with may_attend, and no "
                "compiled steps"
            )
        blocks, pairs = self._one_pass[0], self.may_attend(z) if now.pairs else None
        blocks.attended = Attended().more(self._real(z), pairs, self._positions(z), now.clean)
        try:
            return blocks.hidden(z, t)
        finally:
            blocks.attended = Attended()

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The logits; evaluates only the positions required by `rows` that are not cached."""
        if not self._whole():
            return super().forward(z, t, rows)
        hidden = self.hidden(z, t)
        return self.project(hidden if rows is None else hidden[rows])

    def _whole(self) -> bool:
        """Whether texts are read whole, by `BlockDenoiser`: also in a compiled graph, whose shapes must not depend on data."""
        return self.attended.clean is not None or bool(self.attended.pairs) or torch.compiler.is_compiling()

    def linear_projection(self, hidden: Float[Tensor, "*rows width"]) -> LinearProjection | None:
        """That of the network."""
        return self.model.linear_projection(hidden) if splits_projection(self.model) else None

    def states(self, z: Tensor, t: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden states of all tokens up to the end of the last block with active positions."""
        return self._without(self._text(z, t, asked))

    def _without(self, text: Text) -> tuple[Tensor, Tensor]:
        """The hidden states up to the last active block, with nothing cached."""
        hidden, at, _ = self._evaluate(text, torch.zeros_like(text.begin), None)
        return self._shift(text, at, hidden, None), at.at(text.asked) & at.inside

    def _text(self, z: Tensor, t: Tensor, asked: Tensor) -> Text:
        """The sequences with active rows."""
        real, positions, block = self._real(z), self._positions(z), self._blocks(z)
        live = asked.any(1)
        if live.all():
            return Text(None, z, t, asked, real, positions, block)
        rows = live.nonzero()[:, 0]
        positions = positions if positions is None or len(positions) == 1 else positions[rows.to(positions.device)]
        block = block if len(block) == 1 else block[rows]
        return Text(rows, z[rows], t[rows], asked[rows], None if real is None else real[rows], positions, block)

    def _positions(self, z: Tensor) -> Tensor | None:
        """The positions of the tokens; those of longer sequences are truncated like the tokens."""
        found, (batch, length) = self.attended.positions, z.shape
        if found is None:
            return None
        if found.shape[1] < length or len(found) not in (1, batch):
            raise ValueError(f"positions must fit tokens of shape {[batch, length]}; got {list(found.shape)}")
        return found[:, :length]

    def _blocks(self, z: Tensor) -> Tensor:
        """The number of the block of each place, [batch or 1, length]."""
        place = torch.arange(z.shape[1], device=z.device)[None]
        if self.attention_given is None:
            return place // self.block_size
        given = self.attention_given.to(z.device)
        given = given if self.attended.sequences is None or len(given) == 1 else given[self.attended.sequences]
        if len(given) not in (1, len(z)):
            raise ValueError(f"given must be that of each of {len(z)} sequences; got {len(given)}")
        return torch.where(place < given, 0, (place - given) // self.block_size + 1)

    def _evaluate(
        self, text: Text, start: Tensor, known: Known | None
    ) -> tuple[Tensor, Window, list[tuple[Tensor, Tensor]]]:
        """The hidden states of the window from `start`, the window, and its keys and values."""
        at, layers = window(text, start), [Append() for _ in range(count_layers(self.model))]
        if known is not None and at.past:
            past = ((key[text.these, :, : at.past], value[text.these, :, : at.past]) for key, value in known.layers)
            layers = [Append(pair) for pair in past]
        hidden = self._run(at.at(text.z), at.at(text.t), at.pairs(text), at.positions(text), layers)
        return hidden, at, [layer.new for layer in layers if layer.new is not None]

    def _shift(self, text: Text, at: Window, hidden: Tensor, before: Tensor | None) -> Tensor:
        """The hidden states that give the logits of each place; `before` are those of the places before the window."""
        if not self.shifted:
            return hidden
        source = at.at(place_before(text.z, text.real, None, text.positions).expand(len(text.z), -1))
        kept = 0 if before is None else before.shape[1]
        index = torch.where(source < at.start[:, None], source, source - at.start[:, None] + kept)
        whole = hidden if before is None else torch.cat((before, hidden), 1)
        return whole.take_along_dim(index[..., None], 1)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"block_size={self.block_size}"


class CachedBlockCausal(BlockCausal):
    """`BlockCausal` with cached keys and values of earlier blocks; the logits are equal up to floating-point summation
    order.

    Blocks are evaluated again from the first token whose value or time has changed in the sequence, and where they have active
    rows. The cache is therefore valid with any sampler. `BlockSampler` benefits most: each step evaluates one block, and the
    step that enters a new block two. Sequences that are finished, or whose blocks are elsewhere, do not delay others. Nothing
    is cached while gradients are recorded. A batch of another size starts a new cache, so that samplers that evaluate parts of
    a batch benefit little.

    **Arguments:** as for `BlockCausal`.

    **Source:** Arriola et al. (2025), arXiv 2503.09573, section 3.2.
    """

    def states(self, z: Tensor, t: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden states from the first block that is active or not cached to the last active block."""
        if not self._keeps():
            return super().states(z, t, asked)
        text = self._text(z, t, asked)
        network, known = self._network(), self._known
        if known is not None and (
            known.network != network or len(known.reused) != len(z) or known.reused.device != z.device
        ):
            known = None
        start = torch.zeros_like(text.begin)
        if known is not None:
            valid = text.block_begin(self._unchanged(text, known))
            # A return to an earlier block means a new walk, perhaps with weights that were changed unnoticed.
            if (valid < known.reused[text.these]).any():
                known = None
            else:
                start = torch.minimum(valid, text.begin)
        hidden, at, new = self._evaluate(text, start, known)
        before = None if known is None or known.hidden is None else known.hidden[text.these, : at.past]
        found = self._shift(text, at, hidden, before)
        self._known = stored(network, known, text, at, start, new, hidden if self.shifted else None, len(z))
        return found, at.at(text.asked) & at.inside

    def _unchanged(self, text: Text, known: Known) -> Tensor:
        """The number of leading places of each sequence that are as they were."""
        both = min(text.z.shape[1], known.marks[0].shape[1])
        equal = (one[:, :both] == old[text.these, :both] for one, old in zip(text.marks(), known.marks, strict=True))
        return torch.stack(list(equal)).all(0).long().cumprod(1).sum(1)
