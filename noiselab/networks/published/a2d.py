"""A2D, "autoregressive to diffusion" (`model_type: a2d-qwen3`, `a2d-qwen2`, `a2d-llama`): transformers' own decoders with
attention to both sides.
"""

from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ...denoisers.projection import LinearProjection, linear_projection
from ...typing import Tokens
from ..model_folders import load_weights_of
from .base import AttentionMask, PublishedNetwork, published_format, visible
from .configs import own_fields

COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "max_position_embeddings",
)


class Opened(PublishedNetwork):
    """A decoder of transformers in which every token attends to all real tokens, on both sides.

    It takes no time. A mask [batch, keys] hides keys and does not shift positions. Logits are at the position of their
    token. The mask token is the tokenizer's.

    **Source:** github.com/ZHZisZZ/dllm.
    """

    model: Any
    lm_head: Any
    config_class: Any = PretrainedConfig
    knows = frozenset(("attention_mask",))
    predicts = "posterior"

    def states(
        self, input_ids: Tokens, *, attention_mask: AttentionMask | None = None
    ) -> Float[Tensor, "batch length width"]:
        """The states after the last norm."""
        mask = visible(attention_mask, input_ids)
        if mask is None:
            mask = torch.ones(1, 1, 1, input_ids.shape[1], dtype=torch.bool, device=input_ids.device)
        # A mask with four axes is used as it is: transformers adds no causal mask to it.
        kind = self.config._attn_implementation
        if kind not in ("sdpa", "eager"):
            raise ValueError(f"attn_implementation must be 'sdpa' or 'eager', which take any mask; got {kind!r}")
        if kind == "eager" and mask.dtype == torch.bool:
            dtype = self.lm_head.weight.dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        elif mask.is_floating_point():
            mask = mask.to(self.lm_head.weight.dtype)
        states: Tensor = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def project(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes state"]:
        """The logits of hidden states."""
        logits: Tensor = self.lm_head(hidden)
        return logits

    def linear_projection(self, hidden: Float[Tensor, "*axes width"]) -> LinearProjection | None:
        """The product that `project` computes."""
        return linear_projection(self.lm_head, hidden)


@no_type_check
class A2DQwen3Config(Qwen3Config):
    """Qwen3's configuration under the published name."""

    model_type = "a2d-qwen3"


class A2DQwen3LMHeadModel(Opened, Qwen3ForCausalLM):
    """Qwen3 with attention to both sides."""

    config_class = A2DQwen3Config


@no_type_check
class A2DQwen2Config(Qwen2Config):
    """Qwen2's configuration under the published name."""

    model_type = "a2d-qwen2"


class A2DQwen2LMHeadModel(Opened, Qwen2ForCausalLM):
    """Qwen2 with attention to both sides."""

    config_class = A2DQwen2Config


@no_type_check
class A2DLlamaConfig(LlamaConfig):
    """Llama's configuration under the published name."""

    model_type = "a2d-llama"


class A2DLlamaLMHeadModel(Opened, LlamaForCausalLM):
    """Llama with attention to both sides."""

    config_class = A2DLlamaConfig


NETWORKS: tuple[Any, ...] = (A2DQwen3LMHeadModel, A2DQwen2LMHeadModel, A2DLlamaLMHeadModel)


@published_format(*(network.config_class.model_type for network in NETWORKS))
def load_a2d(folder: Path, settings: dict[str, Any], dtype: torch.dtype | None) -> PublishedNetwork:
    """Load a folder of A2D."""
    kind = settings["model_type"].lower()
    make = next(network for network in NETWORKS if network.config_class.model_type == kind)
    windows = ("use_sliding_window", "sliding_window", "max_window_layers")
    known = {name for name in vars(make.config_class()) if not name.startswith("_")} - {*windows, "model_type"}
    fields = own_fields(
        settings,
        counts=COUNTS,
        optional={*known, "rope_theta", "rope_scaling"} - {*COUNTS},
        # Windows are not defined for attention to both sides.
        fixed={"right_shift_logits": (False,)},
        inert=() if settings.get("use_sliding_window") else ("sliding_window", "max_window_layers"),
    )
    windowed = sorted({*(settings.get("layer_types") or ())} - {"full_attention"})
    if windowed:
        raise ValueError(f"layer_types must be 'full_attention'; {windowed} is not implemented")
    code = ("architectures", "auto_map", "transformers_version")
    config = make.config_class(**{name: value for name, value in fields.items() if name not in code})
    network: Any = load_weights_of(make, folder, dtype, config=config, attn_implementation="sdpa")
    return network
