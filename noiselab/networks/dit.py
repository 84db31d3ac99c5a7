"""The diffusion transformer of the published GIDD, MDLM and SEDD models, loadable without remote code.

Importing this module requires transformers and registers the model with `AutoConfig` and `AutoModelForMaskedLM`.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias, no_type_check

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MaskedLMOutput

from ..denoisers.attended import check_pairs, real_pairs
from ..denoisers.projection import LinearProjection, linear_projection
from ..typing import MayAttend, PerSequence, PerToken, Positions, Selection, Tokens
from .dit_layers import (  # noqa: F401 - all are importable from here
    ROTARY_BASE,
    TIME_FREQUENCIES,
    Embedding,
    Linear32,
    Norm,
    Rotary,
    TimeEmbedding,
    ZeroLinear,
    rotary_angles,
    rotate,
)

DecoderCache: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The cache of one block: maps keys and values of the evaluated tokens, [batch, heads, length, width], with rotated
keys, to those of all tokens to attend to.
"""


# transformers makes this a dataclass whose __init__ also accepts keywords that are not fields. A run-time type checker
# knows only the fields and would reject these keywords; `check` validates the sizes instead.
@no_type_check
class DiTConfig(PretrainedConfig):
    """The configuration of a `DiT`; field names are those of the published config.json files.

    **Arguments:** (all by keyword)

    - `vocab_size`: the number of tokens, including the mask token.
    - `max_seq_len`: the longest sequence, in tokens.
    - `hidden_size`: the width; must be an even multiple of `num_attention_heads`.
    - `timestep_cond_dim`: the width of the time embedding.
    - `num_hidden_layers`, `num_attention_heads`: the number of blocks, and of heads in each.
    - `attention_dropout`: the dropout probability of the blocks' residual updates, in [0, 1).
    - `p_uniform`, `t_eps`: the fraction of uniform noise and the smallest time in training. Only stored here.

    **Raises:** `ValueError` if the sizes are incompatible.
    """

    model_type = "dit"

    vocab_size: int = 50258
    max_seq_len: int = 1024
    hidden_size: int = 768
    timestep_cond_dim: int = 128
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    attention_dropout: float = 0.0
    p_uniform: float = 0.0
    t_eps: float = 1e-4

    def __post_init__(self, **kwargs) -> None:
        # Published configs refer to remote code, which this module replaces; a saved copy must not refer to it.
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise `ValueError` unless a model of these sizes can be built (fields may be edited after construction)."""
        for name in ("vocab_size", "max_seq_len", "hidden_size", "timestep_cond_dim", "num_attention_heads"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive integer; got {value!r}")
        layers, dropout = self.num_hidden_layers, self.attention_dropout
        if type(layers) is not int or layers < 0:
            raise ValueError(f"num_hidden_layers must be a non-negative integer; got {layers!r}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                "hidden_size must be an even multiple of num_attention_heads, because rotary positions rotate channel pairs; "
                f"got hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}"
            )
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise ValueError(f"attention_dropout must be a number in [0, 1); got {dropout!r}")


class Block(GradientCheckpointingLayer):
    """Self-attention and a two-layer network, each normalised, shifted, scaled and gated by the condition."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.norm1 = Norm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = Norm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.adaLN_modulation = ZeroLinear(config.timestep_cond_dim, 6 * width)

    def attention(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, memory: DecoderCache | None = None
    ) -> Tensor:
        """Attention of all positions to all positions allowed by `mask`; `memory` may add cached positions and store
        new ones.
        """
        query, key, value = rearrange(self.attn_qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        cos, sin = cos.to(query.dtype), sin.to(query.dtype)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if memory is not None:
            key, value = memory(key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.attn_out(rearrange(mixed, "b h l d -> b l (h d)"))

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        memory: DecoderCache | None = None,
    ) -> Tensor:
        """The residual stream after the block; `condition` is [batch, 1 or length, width]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=-1)
        # The norm returns float32, and the layers expect the dtype of their weights (under autocast they convert the
        # input).
        h = (self.norm1(x) * (1 + scale1) + shift1).to(self.attn_qkv.weight.dtype)
        x = x + gate1 * F.dropout(self.attention(h, cos, sin, mask, memory), self.dropout, self.training)
        h = (self.norm2(x) * (1 + scale2) + shift2).to(self.attn_qkv.weight.dtype)
        return x + gate2 * F.dropout(self.mlp(h), self.dropout, self.training)


class Output(nn.Module):
    """The last modulated norm, and the projection onto the vocabulary."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.norm_final = Norm(config.hidden_size)
        self.linear = ZeroLinear(config.hidden_size, config.vocab_size)
        self.adaLN_modulation = ZeroLinear(config.timestep_cond_dim, 2 * config.hidden_size)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The modulated norm; `linear` is applied by `DiT.project`."""
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        return (self.norm_final(x) * (1 + scale) + shift).to(self.linear.weight.dtype)


class DiT(PreTrainedModel):
    """A bidirectional transformer over tokens, conditioned on time, with the weight names of the published checkpoints.

    The logits of a new model are exactly zero, and each of its blocks is the identity. Input and output embeddings are
    not tied. `from_pretrained` returns the model in evaluation mode; `load_dit` in `noiselab.networks.huggingface` also
    validates the loaded weights.

    **Arguments:**

    - `config`: a `DiTConfig`.

    **Raises:** `ValueError` for sizes that do not fit each other.

    **Source:** Peebles and Xie (2023) for the modulated blocks; Lou et al. (2024), Sahoo et al. (2024) and
    von Rütte et al. (2025) for this form of them and for checkpoints.

    **Example:**

    ```python
    import torch
    from noiselab.networks.dit import DiT, DiTConfig

    model = DiT(DiTConfig(vocab_size=100, max_seq_len=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))
    logits = model(torch.randint(100, (4, 16)), torch.rand(4)).logits
    assert logits.shape == (4, 16, 100)
    ```
    """

    config_class = DiTConfig
    base_model_prefix = "dit"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [r"rotary_emb\.(cos|sin)_cached"]  # noqa: RUF012

    def __init__(self, config: DiTConfig):
        config.check()
        super().__init__(config)
        self.vocab_embed = Embedding(config.vocab_size, config.hidden_size)
        self.sigma_map = TimeEmbedding(config.timestep_cond_dim)
        self.rotary_emb = Rotary(config.hidden_size // config.num_attention_heads, config.max_seq_len)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.output_layer = Output(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # When loading, transformers builds the model on the meta device and calls this for each module that is missing
        # in the checkpoint. The default would initialize the zero layers from a normal distribution.
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()

    def hidden(
        self,
        input_ids: Tokens,
        timesteps: PerSequence | PerToken,
        attention_mask: Bool[Tensor, "batch keys"] | Int[Tensor, "batch keys"] | None = None,
        *,
        may_attend: MayAttend | None = None,
        positions: Positions | None = None,
        memory: Sequence[DecoderCache] | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """The hidden states that `project` maps to logits.

        With `positions` and `memory`, only some tokens of the sequences are evaluated; they attend to the cached keys
        and values of the others.

        **Arguments:**

        - `input_ids`, `timesteps`, `attention_mask`, `may_attend`, `positions`: as for `forward`; with `memory` the keys of the
          masks are all tokens.
        - `memory`: the cache of each layer. With masks, it must return the keys in their order.
        """
        shape = input_ids.shape
        self._check_positions(positions, shape)
        if timesteps.shape not in (shape, shape[:1]):
            raise ValueError(f"timesteps must be [batch] or [batch, length] of {shape}; got {timesteps.shape}")
        if attention_mask is not None and memory is None and attention_mask.shape != shape:
            raise ValueError(f"attention_mask must have shape {shape}; got {attention_mask.shape}")
        mask = self._mask(None if attention_mask is None else attention_mask.bool(), may_attend, input_ids, memory)
        x = self.vocab_embed(input_ids)
        # [batch, 1 or length, width]: one condition for a sequence, or one for each token
        condition = F.silu(self.sigma_map(timesteps if timesteps.ndim == 2 else timesteps[:, None])).to(x.dtype)
        angles = self.rotary_emb(shape[1] if positions is None else positions[:, None])
        cos, sin = angles.cos(), angles.sin()
        kept: Sequence[DecoderCache | None] = [None] * len(self.blocks) if memory is None else memory
        for block, seen in zip(self.blocks, kept, strict=True):
            x = block(x, condition, cos, sin, mask, seen)
        return self.output_layer(x, condition)

    def _check_positions(self, positions: Tensor | None, shape: torch.Size) -> None:
        most = self.config.max_seq_len
        if positions is None:
            last = shape[1] - 1
        else:
            if positions.shape not in (shape, (1, shape[1])):
                raise ValueError(f"positions must be [batch or 1, length] of {shape}; got {positions.shape}")
            # Reading them from an accelerator would wait for it, and a compiler cannot.
            known = positions.device.type == "cpu" and not torch.compiler.is_compiling() and positions.numel()
            last = int(positions.max()) if known else 0
        if last >= most:
            raise ValueError(f"sequences must have at most max_seq_len={most} tokens; got {last + 1}")

    def _mask(
        self, real: Tensor | None, may_attend: Tensor | None, z: Tensor, memory: Sequence[DecoderCache] | None
    ) -> Tensor | None:
        """The mask of attention, [batch or 1, 1, length or 1, keys]."""
        if may_attend is None:
            return None if real is None else real[:, None, None, :]
        if memory is None:
            return real_pairs(check_pairs(may_attend, z), real)[:, None]
        return (may_attend if real is None else may_attend & real[:, None, :])[:, None]

    def project(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes vocabulary"]:
        """Logits of hidden states; the weight and bias are those of `output_layer.linear`."""
        return self.output_layer.linear(hidden)

    def linear_projection(self, hidden: Float[Tensor, "*axes width"]) -> LinearProjection | None:
        """The product that `project` computes, with which losses are fused."""
        return linear_projection(self.output_layer.linear, hidden)

    def forward(
        self,
        input_ids: Tokens,
        timesteps: PerSequence | PerToken,
        attention_mask: Selection | Tokens | None = None,
        rows: Selection | Int[Tensor, " rows"] | None = None,
        may_attend: MayAttend | None = None,
        positions: Positions | None = None,
    ) -> MaskedLMOutput:
        """Logits over the clean tokens.

        **Arguments:**

        - `input_ids`: noisy tokens.
        - `timesteps`: their times in [0, 1] (0 = clean), one for each sequence or one for each token.
        - `attention_mask`: 1 for real tokens; others are not attended to. By default all tokens are real.
        - `rows`: the mask of positions whose logits are returned, or their indices in row-major order. By default all.
        - `may_attend`: which tokens (second axis) may attend to which (third axis), where all may not attend to all. Together
          with `attention_mask`, tokens attend to real tokens only.
        - `positions`: the positions of the tokens in the text, which may repeat; by default 0, 1, 2, ... Their range is checked
          on the CPU.

        **Returns:** a `MaskedLMOutput` whose `logits` are [batch, length, vocab_size], or [n, vocab_size] of the n
        positions in `rows`, in row-major order.

        **Raises:** `ValueError` if sequences are longer than `config.max_seq_len` or shapes do not match.
        """
        hidden = self.hidden(input_ids, timesteps, attention_mask, may_attend=may_attend, positions=positions)
        if rows is not None:
            hidden = hidden[rows] if rows.dtype == torch.bool else hidden.flatten(0, 1)[rows]
        return MaskedLMOutput(logits=self.project(hidden))


def register() -> None:
    """Register `DiT` with transformers' Auto classes for the model type "dit", so that no remote code is needed."""
    AutoConfig.register(DiTConfig.model_type, DiTConfig, exist_ok=True)
    AutoModelForMaskedLM.register(DiTConfig, DiT, exist_ok=True)


register()
