"""The diffusion transformers of MDLM, UDLM and Duo (`model_type: mdlm`, `udlm`, `DUO`), from the parts of `DiT`."""

from pathlib import Path
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ...denoisers.projection import LinearProjection, linear_projection
from ...typing import Elementwise, PerSequence, PerToken, Tokens
from ..dit import ROTARY_BASE, Block, DiTConfig, Embedding, Output, TimeEmbedding, rotary_angles
from ..model_folders import load_weights_of
from .base import PublishedNetwork, published_format
from .configs import own_fields

EPS = 1e-3
"""The signal that is left at t = 1: alpha = 1 - (1 - EPS) t."""
COUNTS = ("vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads")


# See DiTConfig.
@no_type_check
class MDLMConfig(PretrainedConfig):
    """The configuration of an `MDLM`; field names are those of the published config.json files."""

    model_type = "mdlm"

    vocab_size: int = 50258
    model_length: int = 1024
    hidden_dim: int = 768
    cond_dim: int = 128
    n_blocks: int = 12
    n_heads: int = 12
    dropout: float = 0.1
    time_conditioning: bool = False

    def parts(self) -> DiTConfig:
        """The configuration of the parts, whose sizes it checks."""
        return DiTConfig(
            vocab_size=self.vocab_size,
            max_seq_len=self.model_length,
            hidden_size=self.hidden_dim,
            timestep_cond_dim=self.cond_dim,
            num_hidden_layers=self.n_blocks,
            num_attention_heads=self.n_heads,
            attention_dropout=self.dropout,
        )


@no_type_check
class UDLMConfig(MDLMConfig):
    """The configuration of a `UDLM`: with `cfg`, it has `cfg_num_classes` classes, and one row more for "no class"."""

    model_type = "udlm"

    time_conditioning: bool = True
    cfg: bool = False
    cfg_num_classes: int = -1


@no_type_check
class DUOConfig(MDLMConfig):
    """The configuration of a `DUO`, which always uses the time."""

    model_type = "DUO"

    time_conditioning: bool = True


class Frequencies(nn.Module):
    """The rotary frequencies that a file stores; angles are computed anew on every call."""

    inv_freq: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.register_buffer("inv_freq", torch.empty(width // 2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the stored frequencies."""
        self.inv_freq.copy_(rotary_angles(2, self.width, device=self.inv_freq.device)[1, : self.width // 2])


class Classes(nn.Module):
    """The vectors of classes; the last row is "no class"."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(count + 1, width)


class Backbone(nn.Module):
    """The parts of the network by their published names."""

    def __init__(self, config: MDLMConfig):
        super().__init__()
        parts = config.parts()
        self.vocab_embed = Embedding(config.vocab_size, config.hidden_dim)
        self.sigma_map = TimeEmbedding(config.cond_dim)
        self.rotary_emb = Frequencies(config.hidden_dim // config.n_heads)
        self.blocks = nn.ModuleList(Block(parts) for _ in range(config.n_blocks))
        self.output_layer = Output(parts)
        if getattr(config, "cfg", False):
            self.cond_map = Classes(config.cfg_num_classes, config.cond_dim)


class MDLM(PublishedNetwork, PreTrainedModel):
    """The network of MDLM: a `DiT` whose time input is set to zero unless `time_conditioning` is true.

    **Arguments:**

    - `config`: an `MDLMConfig`.

    **Source:** Sahoo et al. (2024), arXiv 2406.07524; github.com/kuleshov-group/mdlm.
    """

    config_class: Any = MDLMConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [r"rotary_emb\.inv_freq"]  # noqa: RUF012
    knows = frozenset(("timesteps",))
    omits_masks = True

    def __init__(self, config: MDLMConfig):
        super().__init__(config)
        self.backbone = Backbone(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        reset = getattr(module, "reset_parameters", None)  # see DiT
        if reset is not None:
            reset()

    def states(
        self,
        input_ids: Tokens,
        *,
        timesteps: PerSequence | PerToken | None = None,
        condition: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """The states after the last modulated norm."""
        shape = input_ids.shape
        if not self.config.time_conditioning:
            timesteps = torch.zeros(shape[:1], device=input_ids.device)
        if timesteps is None or timesteps.shape not in (shape, shape[:1]):
            found = None if timesteps is None else list(timesteps.shape)
            raise ValueError(f"timesteps must be sigma = -log(alpha), {list(shape[:1])} or {list(shape)}; got {found}")
        net = self.backbone
        x = net.vocab_embed(input_ids)
        vector = F.silu(net.sigma_map(timesteps if timesteps.dim() == 2 else timesteps[:, None]))
        if condition is not None:
            vector = vector + F.silu(net.cond_map.embedding_table(self._classes(condition)))[:, None]
        angles = rotary_angles(shape[1], net.rotary_emb.width, device=x.device)
        vector, cos, sin = vector.to(x.dtype), angles.cos(), angles.sin()
        for block in net.blocks:
            x = block(x, vector, cos, sin, None)
        return net.output_layer(x, vector)

    def _classes(self, condition: Tensor) -> Tensor:
        count = self.config.cfg_num_classes
        if condition.numel() and not (0 <= condition.min() and condition.max() <= count):
            raise ValueError(f"condition must lie in [0, {count}], {count} for no class; got {condition.tolist()}")
        return condition

    def project(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes state"]:
        """The logits of hidden states."""
        return self.backbone.output_layer.linear(hidden)

    def linear_projection(self, hidden: Float[Tensor, "*axes width"]) -> LinearProjection | None:
        """The product that `project` computes."""
        return linear_projection(self.backbone.output_layer.linear, hidden)

    def published_time(self, alpha: Elementwise) -> Elementwise | None:
        """Sigma = -log(alpha), at most that of the least signal in training; `None` without `time_conditioning`."""
        return -alpha.clamp(min=EPS).log() if self.config.time_conditioning else None

    def noise(self, mask_id: int | None = None) -> dict[str, Any]:
        """Masking with the last token of the vocabulary."""
        mask = self.config.vocab_size - 1
        return {"family": "masked", "vocab_size": mask + 1, "mask_id": mask, "signal": signal()}


class UDLM(MDLM):
    """The network of UDLM: it uses the time, and with `cfg` a class.

    **Arguments:**

    - `config`: a `UDLMConfig`.

    **Source:** Schiff et al. (2024), arXiv 2412.10193; github.com/kuleshov-group/discrete-diffusion-guidance.
    """

    config_class: Any = UDLMConfig
    omits_masks = False

    def __init__(self, config: MDLMConfig):  # a DUO has a configuration of its own
        super().__init__(config)
        if getattr(config, "cfg", False):
            self.knows = self.knows | {"condition"}  # type: ignore[misc]

    def noise(self, mask_id: int | None = None) -> dict[str, Any]:
        """Uniform noise over the whole vocabulary, special tokens included."""
        return {"family": "uniform", "vocab_size": self.config.vocab_size, "signal": signal()}


class DUO(UDLM):
    """The network of Duo.

    **Arguments:**

    - `config`: a `DUOConfig`.

    **Source:** Sahoo et al. (2025), arXiv 2506.10892; github.com/s-sahoo/duo.
    """

    config_class: Any = DUOConfig


def signal() -> dict[str, Any]:
    """The signal of all three formats."""
    return {"name": "log_linear", "eps": EPS}


@published_format("mdlm", "udlm", "duo")
def load_mdlm(folder: Path, settings: dict[str, Any], dtype: torch.dtype | None) -> PublishedNetwork:
    """Load a folder of MDLM, UDLM or Duo."""
    kind = settings["model_type"].lower()
    cfg = kind == "udlm" and settings.get("cfg", False)
    fields = own_fields(
        settings,
        counts=(*COUNTS, *(("cfg_num_classes",) if cfg else ())),
        required=() if kind == "duo" else ("time_conditioning",),
        optional=("dropout", *(("cfg",) if kind == "udlm" else ())),
        fixed={"causal": (False,), "causal_attention": (False,), "time_conditioning": (True,), "cfg": (None, False)},
        inert=("var_min", "cfg_num_classes"),
    )
    make: Any = {"mdlm": MDLM, "udlm": UDLM, "duo": DUO}[kind]
    network: Any = load_weights_of(make, folder, dtype, config=make.config_class(**fields))
    rotary = network.backbone.rotary_emb
    stored, wanted = rotary.inv_freq.float(), Frequencies(rotary.width).inv_freq
    if not torch.allclose(stored, wanted, rtol=0.01, atol=0):  # may have been stored in bfloat16
        raise ValueError(f"backbone.rotary_emb.inv_freq must be the frequencies of base {ROTARY_BASE:g}")
    return network
