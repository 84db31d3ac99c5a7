"""DiffusionGemma: a causal encoder of what is written, and a bidirectional decoder of the block in progress (the canvas)."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DynamicCache

from ...typing import Logits, Tokens
from ..model_folders import load_weights_of, model_folder, read_config

KIND = "diffusion_gemma"


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


class DiffusionGemma(nn.Module):
    """A block-diffusion model of transformers as a network: the logits of a canvas given the tokens before it.

    The encoder reads the prefix causally, once (`encode`), and the decoder reads all of the canvas and the cached prefix.
    Logits are for the clean token at the same position and depend on the token there: the network predicts the posterior
    ("posterior" in `noiselab.Denoiser.predicts`). It takes no time.

    **Arguments:**

    - `model`: the model, with weights.

    **Source:** `transformers.models.diffusion_gemma`, whose class this runs.

    **Example:** see `noiselab.networks.canvas.CanvasDenoiser`, which makes it a denoiser.
    """

    def __init__(self, model: DiffusionGemmaForBlockDiffusion):
        super().__init__()
        self.model = model

    @property
    def config(self) -> DiffusionGemmaConfig:
        """The configuration of the model."""
        return self.model.config

    @property
    def vocab_size(self) -> int:
        """The number of tokens, and of logits at each position."""
        return self.config.text_config.vocab_size

    @property
    def canvas_length(self) -> int:
        """The number of tokens in a canvas that the model was trained for."""
        return self.config.canvas_length

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

    def forward(
        self,
        input_ids: Tokens,
        timesteps: Float[Tensor, "..."] | None = None,
        *,
        attention_mask: Bool[Tensor, "rows columns"] | Num[Tensor, "rows columns"] | None = None,
        condition: Int[Tensor, " batch"] | None = None,
        prefix: EncodedPrefix | Int[Tensor, "rows prefix"] | None = None,
        self_conditioning: Float[Tensor, "rows width states"] | None = None,
        conditioned: Bool[Tensor, " batch"] | None = None,
    ) -> Logits:
        r"""The published logits of a canvas, which are in (-cap, cap) for the cap of the configuration.

        **Arguments:**

        - `input_ids`: the canvas, [batch, length]; trained with `canvas_length` tokens.
        - `timesteps`: unused, since the network takes no time.
        - `attention_mask`: 1 for real tokens: those of the prefix, or those of the prefix and of the canvas after it; by
          default all are real, or those of the encoded prefix.
        - `condition`: must be `None`: the network has no classes.
        - `prefix`: the tokens before the canvas, or these encoded; by default none.
        - `self_conditioning`: the logits of the previous step for this canvas; `None` in the first step.
        - `conditioned`: the sequences whose previous logits are used; by default all. The others are in their first step.

        **Raises:** `ValueError` for a condition, or shapes that do not match.
        """
        if condition is not None:
            raise ValueError("condition must be None: a diffusion_gemma has no classes; got a tensor")
        if self_conditioning is not None and self_conditioning.shape != (*input_ids.shape, self.vocab_size):
            raise ValueError(
                f"self_conditioning must be logits of the canvas, {[*input_ids.shape, self.vocab_size]}; "
                f"got {list(self_conditioning.shape)}"
            )
        encoded, real = self._prefix(input_ids, attention_mask, prefix)
        if self_conditioning is not None:
            self_conditioning = self_conditioning.to(self.model.dtype)
        return self.model(
            decoder_input_ids=input_ids,
            past_key_values=encoded.cache,
            decoder_attention_mask=real,
            self_conditioning_logits=self_conditioning,
            self_conditioning_mask=None if self_conditioning is None else conditioned,
        ).logits

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
        for layer in cache.layers:
            layer.lazy_initialization(nothing, nothing)
        return cache


def copied(cache: DynamicCache) -> DynamicCache:
    """A cache that grows by itself; the tensors, which are replaced and not changed when it grows, are shared."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    return made


def load_diffusion_gemma(
    name: str | Path, dtype: torch.dtype | None = None, revision: str = "main"
) -> DiffusionGemma:
    """Load a DiffusionGemma checkpoint, and check that it is intact and matches its config.

    No pickle is loaded and no remote code is run; the class is that of transformers.

    **Arguments:**

    - `name`: a folder with config.json and safetensors weights, or a name on the Hugging Face Hub.
    - `dtype`: the dtype of the weights; by default that of the checkpoint.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.

    **Returns:** the network, in evaluation mode.

    **Raises:** `ValueError` if the config or the weights are missing or cannot be read, or if a weight is missing,
    unexpected, of another shape or not finite.
    """
    try:
        folder = model_folder(name, revision)
        kind = read_config(folder).get("model_type")
        if kind != KIND:
            raise ValueError(f"model_type in config.json must be {KIND!r}; got {kind!r}")
        model: Any = load_weights_of(DiffusionGemmaForBlockDiffusion, folder, dtype)
    except ValueError as error:
        raise ValueError(
            f"a DiffusionGemma checkpoint must have a config.json and intact safetensors weights; {str(name)!r}: {error}"
        ) from error
    if not fits_grouped_experts(model):
        model.set_experts_implementation("eager")
    return DiffusionGemma(model).eval()


def fits_grouped_experts(model: DiffusionGemmaForBlockDiffusion) -> bool:
    """Whether the grouped matrix products of torch can compute the experts: rows of 16 bytes, and no float64."""
    text, width = model.config.text_config, model.dtype.itemsize
    return model.dtype != torch.float64 and all(
        size * width % 16 == 0 for size in (text.hidden_size, text.moe_intermediate_size)
    )
