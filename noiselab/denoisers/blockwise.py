"""Block-causal attention around a network, and all blocks of a text denoised in one pass, each given the clean past."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..numerics import require_count, require_number
from ..process import as_token_times
from ..typing import Times, Tokens
from .attended import real_pairs
from .attention import attending_to
from .base import Denoiser, ProjectedDenoiser, describe
from .projection import LinearProjection, splits_projection


class BlockDenoiser(ProjectedDenoiser):
    r"""A denoiser of blocks: a token attends to its own block and to earlier blocks.

    Called with noisy tokens z, it is what `noiselab.samplers.BlockSampler` needs, with any network that takes a mask of
    pairs. Later blocks have no effect on earlier ones.

    While the clean text x is known, in training and in bounds, the earlier blocks are those of x: the network reads $[z; x]$
    in one pass, in which

    - a noisy token attends to the noisy tokens of its own block and to clean tokens of earlier blocks,
    - a clean token attends to clean tokens of its own block and of earlier ones,
    - clean tokens have the positions of the noisy ones, and the time `low`.

    The logits of each block are then those of a pass of its own, with clean earlier blocks, but for rounding. So the mean of
    $\sum_i \text{nelbo}_i$ is the block bound for any times: one for each sequence, or one for each block
    (`noiselab.times.separate_block_times`),

    $$-\log p(x) \;\le\; \sum_b \text{bound}\big(x^b \mid x^{<b}\big) .$$

    The losses of `noiselab.training`, `continuous_bound`, `discrete_bound`, `importance_bound` and `validation_bound` give the
    denoiser x (`attending_to(denoiser, clean=x)`). `expected_bound` does not: there, pass times of a path of blocks.

    Where a prompt ends within a block, its tokens in that block have the time of the block, in training and in pipelines. Give
    `noiselab.Infilling` and `Prompted` around such a sampler `times="sequence"` for the same: with "token" they have the time
    `low` there, which the network has not learned.

    **Arguments:**

    - `inner`: a denoiser with separate hidden states and projection whose network takes a mask of pairs and positions, such as
      `TransformersDenoiser` of a `DiT`, or a `MaskedLanguageModel`.
    - `block_size`: the number of tokens in a block, counted from the first place of a row; the last may be shorter.
    - `low`: the time of clean tokens, the lower end of the process's domain.

    **Raises:** `ValueError` if the network does not honour masks and positions (`Denoiser.require_attention`), or a number is
    out of range; on a call, if the clean text has another shape than z.

    **Source:** Arriola et al. (2025), "Block Diffusion", arXiv 2503.09573, section 3.2 and appendix B.6, for masks.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.denoisers import BlockDenoiser
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.networks.huggingface import TransformersDenoiser

    model = DiT(DiTConfig(vocab_size=9, max_seq_len=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))
    process = nl.gidd(vocab_size=9, mask_id=8, p_uniform=0.1)
    denoiser = BlockDenoiser(TransformersDenoiser(model), block_size=4)
    x = torch.randint(8, (3, 16))
    bound = nl.continuous_bound(process, denoiser, x).total  # of four blocks, in one pass
    sampler = nl.samplers.BlockSampler(nl.AncestralSampler(process, denoiser), 4, context="past")
    assert (sampler.sample((2, 16), steps=8) < 8).all()
    ```
    """

    takes_mask = True

    def __init__(self, inner: Denoiser, block_size: int, *, low: float | int = 0.0):
        super().__init__()
        if not isinstance(inner, ProjectedDenoiser) or type(inner).forward is not ProjectedDenoiser.forward:
            raise ValueError(
                "BlockDenoiser needs a denoiser with separate hidden states and projection, such as TransformersDenoiser or "
                f"MaskedLanguageModel; got {type(inner).__name__} (put other wrappers around it)"
            )
        inner.require_attention()
        if getattr(inner, "attention_mask", None) is not None:
            raise ValueError(
                "the attention_mask of a denoiser in blocks must be given by attending_to; got one of its own"
            )
        self.inner, self.predicts = inner, inner.predicts
        self.block_size = self.attention_block = require_count("block_size", block_size)
        self.low = require_number("low", low, 0, 1)

    def require_attention(self) -> None:
        """Nothing to check: masks and positions are passed on to the inner denoiser, which honours them."""

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The last hidden states of z, in one pass with the clean text if it is known."""
        clean, size, length = self.attended.clean, self.block_size, z.shape[1]
        if clean is not None and clean.shape != z.shape:
            raise ValueError(
                f"the clean text must have the shape of the tokens, {list(z.shape)}; got {list(clean.shape)}"
            )
        own, positions, real = self.may_attend(z), self.positions(z), self.real_tokens(z)
        past = 0 if clean is None else (length - 1) // size * size  # the last block is the past of none
        place = _places(length, past, z.device)
        pairs = None if length <= size else attended_pairs(place // size, length, one_pass=clean is not None)[None]
        if own is not None:
            own = own[:, place][:, :, place]
            pairs = own if pairs is None else pairs & own
        if real is not None:
            everything = torch.ones(1, len(place), len(place), dtype=torch.bool, device=z.device)
            pairs = real_pairs(everything if pairs is None else pairs, real[:, place])
        if positions is None:
            # On the CPU, where networks can check their range without waiting for an accelerator.
            positions = place[None] if torch.compiler.is_compiling() else _places(length, past, None)[None]
        else:
            positions = positions[:, place]
        if past and clean is not None:
            t = as_token_times(t, z).expand(z.shape)
            t = torch.cat((t, t.new_full((1, 1), self.low).expand(len(z), past)), 1)
            z = torch.cat((z, clean[:, :past]), 1)
        inner: Any = self.inner
        with attending_to(inner, may_attend=pairs, positions=positions):
            return inner.hidden(z, t)[:, :length]

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits of hidden states."""
        inner: Any = self.inner
        return inner.project(hidden)

    def linear_projection(self, hidden: Float[Tensor, "*rows width"]) -> LinearProjection | None:
        """That of the inner denoiser."""
        inner: Any = self.inner
        return inner.linear_projection(hidden) if splits_projection(inner) else None

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"block_size={self.block_size}" + (f", low={self.low:g}" if self.low else "")

    def __repr__(self) -> str:
        return describe(self, self.inner, self.extra_repr())


def attended_pairs(block: Int[Tensor, " all"], noisy: int, *, one_pass: bool) -> Bool[Tensor, "all all"]:
    """Which tokens (first axis) may attend to which (second axis).

    **Arguments:**

    - `block`: the number of the block of each token.
    - `noisy`: the number of noisy tokens, which come first; clean ones follow.
    - `one_pass`: whether noisy tokens attend to the noisy tokens of their own block alone, and to clean ones of earlier
      blocks; otherwise to the noisy tokens of earlier blocks, too.
    """
    query, key = block[:, None], block[None, :]
    if not one_pass:
        return key <= query
    clean = torch.arange(len(block), device=block.device) >= noisy
    of_noisy = torch.where(clean[None, :], key < query, key == query)
    return torch.where(clean[:, None], clean[None, :] & (key <= query), of_noisy)


def _places(length: int, past: int, device: torch.device | None) -> Tensor:
    """The places of noisy tokens in the text, and those of the clean ones after them."""
    return torch.cat((torch.arange(length, device=device), torch.arange(past, device=device)))
