"""Loading published masked language models with checks: models of transformers, LLaDA and Dream."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from .masked_lm import CAUSAL, MASKED, MaskedLanguageModel
from .model_folders import load_weights_of, model_folder, read_config

# Heads for other tasks in the same file, which the masked language model does not use.
OTHER_HEADS = ("pooler.", "seq_relationship.")

# Rules from LLaDA's weight names to Llama's, one for each weight; the gate of the feed-forward layer is `ff_proj`.
_BLOCK = r"transformer\.blocks\.(\d+)\."
LLADA_NAMES: dict[str, str] = {
    r"transformer\.wte": "embed_tokens",
    r"transformer\.ln_f": "norm",
    r"model\.transformer\.ff_out": "lm_head",
    _BLOCK + "attn_norm": r"layers.\1.input_layernorm",
    _BLOCK + "q_proj": r"layers.\1.self_attn.q_proj",
    _BLOCK + "k_proj": r"layers.\1.self_attn.k_proj",
    _BLOCK + "v_proj": r"layers.\1.self_attn.v_proj",
    _BLOCK + "attn_out": r"layers.\1.self_attn.o_proj",
    _BLOCK + "ff_norm": r"layers.\1.post_attention_layernorm",
    _BLOCK + "ff_proj": r"layers.\1.mlp.gate_proj",
    _BLOCK + "up_proj": r"layers.\1.mlp.up_proj",
    _BLOCK + "ff_out": r"layers.\1.mlp.down_proj",
}

# The settings under which a LLaDA is equivalent to a Llama; other values select variants that are not supported.
LLADA_IS_LLAMA: dict[str, Any] = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "scale_logits": False,
}
LLADA_SIZES = (
    *("d_model", "n_heads", "n_layers", "vocab_size", "embedding_size", "weight_tying"),
    *("max_sequence_length", "rope_theta", "rms_norm_eps"),
)


def load_masked_lm(
    name: str | Path, dtype: torch.dtype | None = None, revision: str = "main", **options: Any
) -> MaskedLanguageModel:
    """Load a published masked language model as a denoiser, and check that it is intact and matches its config.

    No pickle is loaded and no remote code is run. LLaDA and Dream, which are published with their own code, are loaded
    into the Llama and Qwen2 classes of transformers. These are equivalent up to rounding: LLaDA rotates queries and
    keys in float32 even with bfloat16 weights, Llama does not. Any other file must be of a masked or causal model that
    transformers supports, as given by `architectures` in its config.

    The names of LLaDA's and Dream's weights and settings are taken from their public code (modeling_llada.py,
    modeling_dream.py). They are tested on small random models with these names, not on the published weights.

    **Arguments:**

    - `name`: a folder with config.json and safetensors weights, or a name on the Hugging Face Hub.
    - `dtype`: the dtype of the weights; by default that of the checkpoint.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.
    - `options`: options of `MaskedLanguageModel`, which override those known for the model (`shifted` for Dream).

    **Returns:** the denoiser, with its model in evaluation mode. If the config defines a mask token, its id is
    `denoiser.model.config.mask_token_id`.

    **Raises:** `ValueError` if the config or the weights are missing or cannot be read, if transformers does not
    support the model, if a LLaDA is not equivalent to a Llama, or if a weight is missing, unexpected, of another shape
    or not finite.

    **Source:** Nie et al. (2025), arXiv 2502.09992 (LLaDA); Ye et al. (2025), arXiv 2508.15487 (Dream).
    """
    known: dict[str, Any] = {}
    more: dict[str, Any] = {}
    try:
        folder = model_folder(name, revision)
        settings = read_config(folder)
        kind = settings.get("model_type")
        loader: Any
        if kind == "Dream":
            loader, known = Qwen2ForCausalLM, {"shifted": True}
            more["config"] = Qwen2Config(**_own(settings))
        elif kind == "llada":
            loader, more = LlamaForCausalLM, {"config": _llama(settings), "key_mapping": LLADA_NAMES}
        else:
            loader = _loader(settings)
        model = load_weights_of(loader, folder, dtype, other_heads=OTHER_HEADS, **more)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(
            "a masked language model must have a config.json that transformers or this function knows, and intact "
            f"safetensors weights; {str(name)!r}: {error}"
        ) from error
    # Otherwise `save_pretrained` would write LLaDA's names beside the config of a Llama.
    vars(model).pop("_weight_conversions", None)
    return MaskedLanguageModel(model, **(known | options))


def _own(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without references to remote code."""
    code = ("model_type", "architectures", "auto_map", "transformers_version")
    return {key: value for key, value in settings.items() if key not in code}


def _llama(settings: dict[str, Any]) -> LlamaConfig:
    """The config of the Llama that is equivalent to this LLaDA."""
    wrong = [f"{key} must be given" for key in LLADA_SIZES if key not in settings]
    wrong += [
        f"{key} must be {wanted!r}; it is {settings.get(key)!r}"
        for key, wanted in LLADA_IS_LLAMA.items()
        if settings.get(key) != wanted
    ]
    if wrong:
        raise ValueError(f"a LLaDA must be equivalent to a Llama to be loaded: {'; '.join(wrong)}")
    heads = settings["n_heads"]
    single = settings.get("multi_query_attention")
    sizes: dict[str, Any] = dict(
        vocab_size=settings["embedding_size"] or settings["vocab_size"],
        hidden_size=settings["d_model"],
        intermediate_size=settings.get("mlp_hidden_size") or settings.get("mlp_ratio", 4) * settings["d_model"],
        num_hidden_layers=settings["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=settings.get("n_kv_heads") or (1 if single else heads),
        max_position_embeddings=settings["max_sequence_length"],
        rms_norm_eps=settings["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": float(settings["rope_theta"])},
        tie_word_embeddings=settings["weight_tying"],
        bos_token_id=None,
        eos_token_id=settings.get("eos_token_id"),
        mask_token_id=settings.get("mask_token_id"),
    )
    return LlamaConfig(**sizes)


def _loader(settings: dict[str, Any]) -> Any:
    """The Auto class for the architecture; that of masked models if both are possible."""
    kind, named = settings.get("model_type"), set(settings.get("architectures") or ())
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not named & CAUSAL:
        return AutoModelForMaskedLM
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not named & MASKED:
        return AutoModelForCausalLM
    raise ValueError(
        "model_type must be 'Dream', 'llada' or that of a masked or causal model of transformers; "
        f"got {kind!r} with architectures {sorted(named)}"
    )
