"""DiffusionGemma: a causal encoder of what is written, and a bidirectional decoder of the block in progress (the canvas)."""

import copy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache

from ...parametrization import Prediction
from ...typing import Tokens
from ..lengths import check_fits, context_length
from ..model_folders import load_weights_of
from .base import AttentionMask, PublishedNetwork, published_format


class EncodedPrefix(NamedTuple):
    """Tokens that a network has read, with the keys and values of its layers; `DiffusionGemma.encode` makes it.

    **Arguments:**

    - `tokens`: the tokens, which may be none.
    - `real`: the mask of real tokens; `None` if all are real.
    - `cache`: the keys and values. It is never changed: a longer prefix has a new one.
    """

    tokens: Int[Tensor, "batch prefix"]
    real: Bool[Tensor, "batch prefix"] | None
    cache: DynamicCache


class DiffusionGemma(PublishedNetwork, nn.Module):
    """A block-diffusion model of transformers as a network: the logits of a canvas given the tokens before it.

    The encoder reads the prefix causally, once (`encode`), and the decoder reads all of the canvas and the cached prefix.
    Logits are for the clean token at the same position and depend on the token there: the network predicts the posterior
    ("posterior" in `noiselab.Denoiser.predicts`). It takes no time. `noiselab.networks.canvas.CanvasDenoiser` makes it a
    denoiser.

    **Arguments:**

    - `model`: the model, with weights; `noiselab.networks.load_network` loads one.

    **Source:** `transformers.models.diffusion_gemma`, whose class this runs.
    """

    knows: ClassVar[frozenset[str]] = frozenset({"attention_mask", "prefix", "self_conditioning"})
    predicts: ClassVar[Prediction] = "posterior"

    def __init__(self, model: DiffusionGemmaForBlockDiffusion):
        super().__init__()
        self.model, self.config = model, model.config

    @property
    def vocab_size(self) -> int:
        """The number of tokens, and of logits at each position."""
        return self.config.text_config.vocab_size

    @property
    def canvas_length(self) -> int:
        """The number of tokens in a canvas that the model was trained for."""
        return self.config.canvas_length

    def noise(self, mask_id: int | None = None) -> dict[str, Any]:
        """Uniform noise over the whole vocabulary."""
        return {"family": "uniform", "vocab_size": self.vocab_size}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration as transformers does, for `load_network`."""
        self.model.save_pretrained(folder)

    def encode(
        self,
        tokens: Int[Tensor, "batch more"],
        real: Bool[Tensor, "batch columns"] | None = None,
        *,
        after: EncodedPrefix | None = None,
    ) -> EncodedPrefix:
        """Read tokens, and those of an encoded prefix before them without reading these again.

        **Arguments:**

        - `tokens`: the tokens, which may be none.
        - `real`: the mask of real tokens among them; by default all are real. Padding belongs on the left. It takes up
          positions, as in the published code.
        - `after`: the prefix that they follow; it is not changed.

        **Returns:** the prefix with these tokens at its end.

        **Raises:** `ValueError` for a mask of another shape, or a prefix of another number of sequences.
        """
        if real is not None and real.shape != tokens.shape:
            raise ValueError(f"real must have the shape of the tokens, {list(tokens.shape)}; got {list(real.shape)}")
        if after is None:
            after = EncodedPrefix(tokens[:, :0], None, self._empty_cache(tokens))
        if len(after.tokens) != len(tokens):
            raise ValueError(f"a prefix must have one row for each of {len(tokens)} sequences; got {len(after.tokens)}")
        masks = None
        if real is not None or after.real is not None:
            before = torch.ones_like(after.tokens, dtype=torch.bool) if after.real is None else after.real
            masks = torch.cat([before, torch.ones_like(tokens, dtype=torch.bool) if real is None else real.bool()], 1)
        cache = after.cache
        if tokens.shape[1]:
            cache = copied(cache)
            self.model.model.encoder(input_ids=tokens, attention_mask=masks, past_key_values=cache)
        return EncodedPrefix(torch.cat([after.tokens, tokens], 1), masks, cache)

    def states(
        self,
        input_ids: Tokens,
        attention_mask: AttentionMask | None = None,
        prefix: EncodedPrefix | Int[Tensor, "rows prefix"] | None = None,
        self_conditioning: Float[Tensor, "rows columns states"] | None = None,
        conditioned: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length width"]:
        r"""The hidden states of a canvas.

        **Arguments:**

        - `input_ids`: the canvas, [batch, length]; trained with `canvas_length` tokens.
        - `attention_mask`: 1 for real tokens: those of the prefix, or those of the prefix and of the canvas after it; by
          default all are real, or those of the encoded prefix.
        - `prefix`: the tokens before the canvas, or these encoded; by default none.
        - `self_conditioning`: the logits of the previous step for this canvas; `None` in the first step.
        - `conditioned`: the sequences whose previous logits are used; by default all. The others are in their first step.

        **Raises:** `ValueError` for shapes that do not match, or more tokens than the context.
        """
        if self_conditioning is not None and self_conditioning.shape != (*input_ids.shape, self.vocab_size):
            raise ValueError(
                f"self_conditioning must be logits of the canvas, {[*input_ids.shape, self.vocab_size]}; "
                f"got {list(self_conditioning.shape)}"
            )
        encoded, real = self._prefix(input_ids, attention_mask, prefix)
        check_fits(encoded.tokens.shape[1] + input_ids.shape[1], context_length(self), "a prefix and its canvas")
        if self_conditioning is not None:
            self_conditioning = self_conditioning.to(self.model.dtype)
        decoded = self.model.model(
            decoder_input_ids=input_ids,
            past_key_values=encoded.cache,
            decoder_attention_mask=real,
            self_conditioning_logits=self_conditioning,
            self_conditioning_mask=None if self_conditioning is None else conditioned,
        )
        return decoded.last_hidden_state

    def project(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes state"]:
        """The logits of hidden states, float32, in (-cap, cap) for the cap of the configuration."""
        cap = self.model.final_logit_softcapping
        return cap * torch.tanh(self.model.lm_head(hidden).float() / cap)

    def _prefix(
        self, canvas: Tensor, mask: Tensor | None, prefix: EncodedPrefix | Tensor | None
    ) -> tuple[EncodedPrefix, Tensor | None]:
        """The encoded prefix, and the mask of it and the canvas; `None` if all tokens are real."""
        given = canvas[:, :0] if prefix is None else prefix.tokens if isinstance(prefix, EncodedPrefix) else prefix
        size, length = given.shape[1], canvas.shape[1]
        if len(given) != len(canvas):
            raise ValueError(f"a prefix must have one row for each of {len(canvas)} canvases; got {len(given)}")
        if mask is not None and (len(mask) != len(canvas) or mask.shape[1] not in (size, size + length)):
            raise ValueError(
                f"attention_mask must be that of the prefix, {[len(canvas), size]}, or of prefix and canvas, "
                f"{[len(canvas), size + length]}; got {list(mask.shape)}"
            )
        real = None if mask is None else mask[:, :size].bool()
        if not isinstance(prefix, EncodedPrefix):
            prefix = self.encode(given, real)
        elif real is not None and not torch.equal(real, torch.ones_like(real) if prefix.real is None else prefix.real):
            raise ValueError("attention_mask must be the mask that the prefix was encoded with; got another one")
        if mask is None and prefix.real is None:
            return prefix, None
        real = torch.ones_like(given, dtype=torch.bool) if prefix.real is None else prefix.real
        own = torch.ones_like(canvas, dtype=torch.bool)
        if mask is not None and mask.shape[1] == size + length:
            own = mask[:, size:].bool()
        return prefix, torch.cat([real, own], 1)

    def _empty_cache(self, tokens: Tensor) -> DynamicCache:
        """A cache of no tokens, which the decoder can read too."""
        cache = DynamicCache(config=self.config.get_text_config(decoder=True))
        nothing = torch.empty(0, dtype=self.model.dtype, device=tokens.device)
        layers: list[Any] = cache.layers
        for layer in layers:
            layer.lazy_initialization(nothing, nothing)
        return cache


def copied(cache: DynamicCache) -> DynamicCache:
    """A cache that grows by itself; the tensors, which are replaced and not changed when it grows, are shared."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    return made


@published_format("diffusion_gemma")
def load_diffusion_gemma(folder: Path, settings: dict[str, Any], dtype: torch.dtype | None) -> PublishedNetwork:
    """Load a folder of DiffusionGemma into the class of transformers."""
    model: Any = load_weights_of(DiffusionGemmaForBlockDiffusion, folder, dtype)
    if not fits_grouped_experts(model):
        model.set_experts_implementation("eager")
    return DiffusionGemma(model).eval()


def fits_grouped_experts(model: DiffusionGemmaForBlockDiffusion) -> bool:
    """Whether the grouped matrix products of torch can compute the experts: rows of 16 bytes, and no float64."""
    text: Any = model.config.text_config
    width = model.dtype.itemsize
    return model.dtype != torch.float64 and all(
        size * width % 16 == 0 for size in (text.hidden_size, text.moe_intermediate_size)
    )
