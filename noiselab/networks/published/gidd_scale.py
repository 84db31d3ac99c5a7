"""GIDD at scale (`model_type: gidd`): gidd-mask-3b, gidd-unif-3b, gidd-unif-10b."""

from pathlib import Path
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from ...denoisers.projection import LinearProjection, linear_projection
from ...numerics import require_number
from ...typing import Tokens
from ..dit import rotary_angles, rotate
from ..model_folders import load_weights_of
from .base import AttentionMask, PublishedNetwork, published_format, required_mask, visible
from .configs import own_fields, rope_theta

COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "max_position_embeddings",
)
SETTINGS = (
    *("rms_norm_eps", "resid_scale", "weight_scaling", "attn_soft_cap"),
    *("use_qk_norm", "attention_bias", "mlp_bias", "tie_word_embeddings"),
)
NOISE = ("noise_type", "min_log_snr", "max_log_snr")
# How weights were initialised, which implementation of attention is used; `is_causal` is stored and never read.
WITHOUT_EFFECT = ("init_scale", "emb_init_scale", "head_init_scale", "attn_performer", "is_causal")


# See DiTConfig.
@no_type_check
class GiddConfig(PretrainedConfig):
    """The configuration of a `GiddForDiffusionLM`; field names are those of the published config.json files."""

    model_type = "gidd"

    vocab_size: int = 131072
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    resid_scale: float = 4.0
    weight_scaling: float | str = 1.0
    head_scaling: float | str = 1.0
    attn_soft_cap: float = 30.0
    use_qk_norm: bool = True
    attention_bias: bool = True
    mlp_bias: bool = True
    tie_word_embeddings: bool = False
    noise_type: float = 0.0
    min_log_snr: float = -9.0
    max_log_snr: float = 9.0


class ScaledLinear(nn.Linear):
    """A linear layer with a scale on the product, y = s x W^T + b: a number, or 1/sqrt of the fan "fan_in" or "fan_out"."""

    def __init__(self, inputs: int, outputs: int, scaling: float | str, bias: bool = False):
        super().__init__(inputs, outputs, bias=bias)
        fans = {"fan_in": inputs, "fan_out": outputs}
        if isinstance(scaling, str):
            if scaling not in fans:
                raise ValueError(f"a scaling must be a number, 'fan_in' or 'fan_out'; got {scaling!r}")
            self.scale = fans[scaling] ** -0.5
        else:
            self.scale = float(require_number("a scaling", scaling))

    def forward(self, input: Tensor) -> Tensor:
        """The scaled product and the bias."""
        product = self.scale * F.linear(input, self.weight)
        return product if self.bias is None else product + self.bias


class Attention(nn.Module):
    """Attention with norms over all heads, a learned key and value for each head, and capped scores."""

    def __init__(self, config: GiddConfig):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.cap = config.attn_soft_cap
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            ScaledLinear(width, width, config.weight_scaling) for _ in range(4)
        )
        # Over the whole width, before the heads are separated.
        self.q_norm = GemmaRMSNorm(width, config.rms_norm_eps) if config.use_qk_norm else nn.Identity()
        self.k_norm = GemmaRMSNorm(width, config.rms_norm_eps) if config.use_qk_norm else nn.Identity()
        self.k_bias, self.v_bias = (
            nn.Parameter(torch.zeros(self.heads, width // self.heads)) if config.attention_bias else None
            for _ in range(2)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """The mixed values of the positions that `mask` allows."""
        query, key, value = (
            rearrange(part, "b l (h d) -> b h l d", h=self.heads)
            for part in (self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x))
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if self.k_bias is not None and self.v_bias is not None:
            # Before all tokens, without a position, visible to every query.
            key = torch.cat((self.k_bias[:, None].expand(len(x), -1, 1, -1), key), dim=2)
            value = torch.cat((self.v_bias[:, None].expand(len(x), -1, 1, -1), value), dim=2)
            if mask is not None:
                mask = F.pad(mask, (1, 0), value=0.0 if mask.is_floating_point() else True)
        scores = query @ key.mT / query.shape[-1] ** 0.5
        scores = self.cap * torch.tanh(scores / self.cap)
        if mask is not None:
            scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, -torch.inf)
        mixed = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
        return self.o_proj(rearrange(mixed, "b h l d -> b l (h d)"))


class MLP(nn.Module):
    """Two layers with a squared relu between them."""

    def __init__(self, config: GiddConfig):
        super().__init__()
        sizes = config.hidden_size, config.intermediate_size
        self.up_proj = ScaledLinear(*sizes, config.weight_scaling, bias=config.mlp_bias)
        self.down_proj = ScaledLinear(*sizes[::-1], config.weight_scaling, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the second layer."""
        return self.down_proj(F.relu(self.up_proj(x)).square())


class Layer(GradientCheckpointingLayer):
    """Attention and the MLP, each normalised before and added with the weight resid_scale / num_hidden_layers."""

    def __init__(self, config: GiddConfig):
        super().__init__()
        self.self_attn, self.mlp = Attention(config), MLP(config)
        self.attn_layernorm = GemmaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp_layernorm = GemmaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.residual = config.resid_scale / config.num_hidden_layers

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """The residual stream after the layer."""
        x = x + self.residual * self.self_attn(self.attn_layernorm(x), cos, sin, mask)
        return x + self.residual * self.mlp(self.mlp_layernorm(x))


class Backbone(nn.Module):
    """Embeddings, layers and the last norm, by their published names."""

    def __init__(self, config: GiddConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = GemmaRMSNorm(config.hidden_size, config.rms_norm_eps)


class GiddForDiffusionLM(PublishedNetwork, PreTrainedModel):
    """The transformer of GIDD's scaling study: bidirectional, without time, trained with masks, uniform noise or a mixture.

    It differs from a usual decoder: linear layers are scaled, residual updates weighted, scores capped, and each head
    has one key and value more.

    **Arguments:**

    - `config`: a `GiddConfig`.

    **Source:** von Rütte et al. (2025), "Scaling Behavior of Discrete Diffusion Language Models", arXiv 2512.10858;
    github.com/dvruette/gidd-easydel.
    """

    config_class = GiddConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer"]  # noqa: RUF012
    knows = frozenset(("attention_mask",))
    omits_masks = True

    def __init__(self, config: GiddConfig):
        super().__init__(config)
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = ScaledLinear(config.hidden_size, config.vocab_size, config.head_scaling)
        self.post_init()

    def states(
        self, input_ids: Tokens, *, attention_mask: AttentionMask | None = None
    ) -> Float[Tensor, "batch length width"]:
        """The states after the last norm."""
        x, mask = self.model.embed_tokens(input_ids), visible(attention_mask, input_ids)
        width = self.config.hidden_size // self.config.num_attention_heads
        angles = rotary_angles(input_ids.shape[1], width, self.config.rope_theta, x.device)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def project(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes state"]:
        """Logits of hidden states; tied embeddings are used without a scale."""
        if self.config.tie_word_embeddings:
            return F.linear(hidden, self.model.embed_tokens.weight)
        return self.lm_head(hidden)

    def linear_projection(self, hidden: Float[Tensor, "*axes width"]) -> LinearProjection | None:
        """The product that `project` computes."""
        if not self.config.tie_word_embeddings:
            return linear_projection(self.lm_head, hidden)
        weight = self.model.embed_tokens.weight
        return LinearProjection(hidden, weight, None) if type(weight) is nn.Parameter else None

    def noise(self, mask_id: int | None = None) -> dict[str, Any]:
        """The log-SNR hybrid whose shift and range are in config.json."""
        return {
            "family": "log_snr_hybrid",
            "vocab_size": self.config.vocab_size,
            "mask_id": required_mask(self, mask_id),
            "shift": self.config.noise_type,
            "log_snr": [self.config.min_log_snr, self.config.max_log_snr],
        }


@published_format("gidd")
def load_gidd(folder: Path, settings: dict[str, Any], dtype: torch.dtype | None) -> PublishedNetwork:
    """Load a folder of GIDD at scale."""
    head = () if settings.get("tie_word_embeddings") else ("head_scaling",)
    fields = own_fields(
        settings,
        counts=COUNTS,
        required=(*SETTINGS, *NOISE, *head),
        optional=("head_scaling", "head_dim", "num_key_value_heads", "rope_theta", "rope_parameters"),
        fixed={"hidden_act": (None, "relu2")},
        inert=WITHOUT_EFFECT,
    )
    heads = settings["num_attention_heads"]
    width = settings["hidden_size"] // heads
    for name, wanted in (("head_dim", width), ("num_key_value_heads", heads)):
        if fields.pop(name, None) not in (None, wanted):
            raise ValueError(f"{name} = {settings[name]!r} is not implemented (only {wanted})")
    if settings["hidden_size"] != heads * width or width % 2:
        raise ValueError(
            f"hidden_size must be an even multiple of num_attention_heads; got {settings['hidden_size']} and {heads}"
        )
    require_number("attn_soft_cap", settings["attn_soft_cap"], 0, above=True)
    fields.pop("rope_parameters", None)
    fields["rope_theta"] = rope_theta(settings)
    network: Any = load_weights_of(GiddForDiffusionLM, folder, dtype, config=GiddConfig(**fields))
    return network
