"""LLaDA2.x (`model_type: llada2_moe`): a mixture of experts with bidirectional attention, from parts of GLM-4 MoE."""

from pathlib import Path
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeMLP, Glm4MoeRMSNorm, apply_rotary_pos_emb

from ...denoisers.projection import LinearProjection, linear_projection
from ...numerics import require_count
from ...typing import Tokens
from ..dit import rotary_angles
from ..model_folders import load_weights_of
from .base import AttentionMask, PublishedNetwork, published_format, visible
from .configs import own_fields, rope_theta

COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
    *("moe_intermediate_size", "num_experts", "num_experts_per_tok", "num_shared_experts", "n_group", "topk_group"),
)
# The values that are implemented; others select variants of the published code.
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "norm_head": (False,),
    "norm_softmax": (False,),
    "norm_topk_prob": (True,),
    "score_function": ("sigmoid",),
    "router_dtype": ("fp32", "float32"),
    "moe_router_enable_expert_bias": (True,),
    "use_rmsnorm": (True,),
    "using_split_qkv_in_self_attention": (False,),
    "tie_word_embeddings": (False,),
    "attention_dropout": (0,),
    "embedding_dropout": (0,),
    "output_dropout": (0,),
    "num_nextn_predict_layers": (None, 0),
}


# See DiTConfig.
@no_type_check
class LLaDA2MoeConfig(PretrainedConfig):
    """The configuration of a `LLaDA2MoeModelLM`; field names are those of the published config.json files."""

    model_type = "llada2_moe"

    vocab_size: int = 157184
    hidden_size: int = 2048
    intermediate_size: int = 5120
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    first_k_dense_replace: int = 1
    moe_intermediate_size: int = 512
    num_experts: int = 256
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    use_qk_norm: bool = True
    use_bias: bool = False
    use_qkv_bias: bool = False
    partial_rotary_factor: float = 0.5
    rope_theta: float = 600000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False


class Attention(nn.Module):
    """Grouped attention with one projection for queries, keys and values, and norms for each head before rotary."""

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        self.sizes = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
        width, d = config.hidden_size, config.head_dim
        self.query_key_value = nn.Linear(width, sum(self.sizes) * d, bias=config.use_qkv_bias)
        self.dense = nn.Linear(config.num_attention_heads * d, width, bias=config.use_bias)
        self.query_layernorm, self.key_layernorm = (
            Glm4MoeRMSNorm(d, config.rms_norm_eps) if config.use_qk_norm else nn.Identity() for _ in range(2)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """The mixed values of the positions that `mask` allows."""
        heads = rearrange(self.query_key_value(x), "b l (h d) -> b h l d", h=sum(self.sizes))
        query, key, value = heads.split(self.sizes, dim=1)
        query, key = apply_rotary_pos_emb(self.query_layernorm(query), self.key_layernorm(key), cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return self.dense(rearrange(mixed, "b h l d -> b l (h d)"))


class Router(nn.Module):
    """Chooses experts for each token: the best of the best groups, by score and bias; weights are the scores alone."""

    expert_bias: Tensor

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Float[Tensor, "tokens width"]) -> tuple[Tensor, Tensor]:
        """The chosen experts and their weights, [tokens, num_experts_per_tok] each."""
        config = self.config
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        choice = rearrange(scores + self.expert_bias, "n (g e) -> n g e", g=config.n_group)
        best = choice.topk(2, dim=-1).values.sum(-1).topk(config.topk_group, dim=-1).indices
        out = torch.ones_like(choice[..., 0], dtype=torch.bool).scatter(-1, best, False)
        chosen = choice.masked_fill(out[..., None], -torch.inf).flatten(1).topk(config.num_experts_per_tok).indices
        weights = scores.gather(-1, chosen)
        return chosen, config.routed_scaling_factor * weights / (weights.sum(-1, keepdim=True) + 1e-20)


class Experts(nn.Module):
    """The chosen experts of each token, and the shared ones."""

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        width = config.moe_intermediate_size
        self.gate = Router(config)
        self.experts = nn.ModuleList(Glm4MoeMLP(config, width) for _ in range(config.num_experts))
        self.shared_experts = Glm4MoeMLP(config, width * config.num_shared_experts)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """The weighted sum of the chosen experts, plus the shared ones."""
        tokens = x.flatten(0, 1)
        chosen, weights = self.gate(tokens)
        total = torch.zeros_like(tokens)
        for index in chosen.unique().tolist():
            token, place = (chosen == index).nonzero(as_tuple=True)
            weight = weights[token, place, None].to(x.dtype)
            total = total.index_add(0, token, weight * self.experts[index](tokens[token]))
        return total.view_as(x) + self.shared_experts(x)


class Layer(GradientCheckpointingLayer):
    """Attention, then one MLP in the first layers and experts in the others."""

    def __init__(self, config: LLaDA2MoeConfig, index: int):
        super().__init__()
        self.attention = Attention(config)
        self.mlp = Experts(config) if index >= config.first_k_dense_replace else Glm4MoeMLP(config)
        self.input_layernorm = Glm4MoeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Glm4MoeRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """The residual stream after the layer."""
        x = x + self.attention(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embeddings, layers and the last norm, by their published names."""

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = Glm4MoeRMSNorm(config.hidden_size, config.rms_norm_eps)


class LLaDA2MoeModelLM(PublishedNetwork, PreTrainedModel):
    """The network of LLaDA2.x: bidirectional, without time, trained on masks in blocks.

    Its models are sampled with block-causal attention: pass a mask [batch, queries, keys]. A mask [batch, keys] hides
    keys and leaves attention bidirectional; the published code becomes causal with it.

    **Arguments:**

    - `config`: a `LLaDA2MoeConfig`.

    **Source:** Bie et al. (2025), "LLaDA2.0", arXiv 2512.15745; LLaDA2.1, arXiv 2602.08676.
    """

    config_class = LLaDA2MoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["expert_bias"]  # noqa: RUF012 (rounded, it would choose other experts)
    knows = frozenset(("attention_mask",))
    predicts = "posterior"

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__(config)
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def states(
        self, input_ids: Tokens, *, attention_mask: AttentionMask | None = None
    ) -> Float[Tensor, "batch length width"]:
        """The states after the last norm."""
        x, mask, config = self.model.word_embeddings(input_ids), visible(attention_mask, input_ids), self.config
        turned = int(config.head_dim * config.partial_rotary_factor)
        angles = rotary_angles(input_ids.shape[1], turned, config.rope_theta, x.device)[None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def project(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes state"]:
        """The logits of hidden states."""
        return self.lm_head(hidden)

    def linear_projection(self, hidden: Float[Tensor, "*axes width"]) -> LinearProjection | None:
        """The product that `project` computes."""
        return linear_projection(self.lm_head, hidden)


@published_format("llada2_moe", "llada21_moe")
def load_llada2(folder: Path, settings: dict[str, Any], dtype: torch.dtype | None) -> PublishedNetwork:
    """Load a folder of LLaDA2.x."""
    nested = settings.get("rope_parameters") or {}
    fields = own_fields(
        settings,
        counts=COUNTS,
        required=("routed_scaling_factor", "rms_norm_eps", "first_k_dense_replace"),
        optional=(
            *("use_qk_norm", "use_bias", "use_qkv_bias", "partial_rotary_factor", "rotary_dim"),
            *("rope_theta", "rope_parameters"),
        ),
        fixed=FIXED,
    )
    factors = {part["partial_rotary_factor"] for part in (settings, nested) if "partial_rotary_factor" in part}
    if len(factors) != 1:
        raise ValueError(f"partial_rotary_factor must be given once; got {sorted(factors)}")
    fields["partial_rotary_factor"], fields["rope_theta"] = factors.pop(), rope_theta(settings)
    turned = int(fields["head_dim"] * fields["partial_rotary_factor"])
    if fields.pop("rotary_dim", turned) != turned:
        raise ValueError(
            f"rotary_dim must be head_dim * partial_rotary_factor = {turned}; got {settings['rotary_dim']}"
        )
    require_count("first_k_dense_replace", fields["first_k_dense_replace"], 0)
    if fields["num_experts"] % fields["n_group"] or fields["num_experts"] < 2 * fields["n_group"]:
        raise ValueError(
            f"num_experts must be n_group groups of at least two; got {fields['num_experts']} in {fields['n_group']}"
        )
    fields.pop("rope_parameters", None)
    network: Any = load_weights_of(LLaDA2MoeModelLM, folder, dtype, config=LLaDA2MoeConfig(**fields))
    return network
