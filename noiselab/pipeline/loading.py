"""Loading models with checks: GIDD's network, masked language models and autoregressive models."""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..data import load_tokenizer, token_support, vocabulary_size
from ..networks.huggingface import load_dit
from ..networks.masked_lm import CAUSAL, MaskedLanguageModel
from ..networks.masked_lm_files import load_masked_lm
from .original import is_original, load_original

Kind = Literal["dit", "masked", "autoregressive"]
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def load_model(
    name: str | Path, *, dtype: torch.dtype | None = None, revision: str = "main"
) -> tuple[Kind, PreTrainedModel | MaskedLanguageModel]:
    """Load a model from a folder or the Hub, and return its kind with it.

    **Raises:** `ValueError` if there is no model or it cannot be loaded.
    """
    check_folder(name)
    if is_original(name):
        return load_original(Path(name), dtype)
    config = _config(name, revision)
    kind, named = config.get("model_type"), set(config.get("architectures") or ())
    if kind == "dit":
        return "dit", load_dit(name, dtype, revision)
    if named & CAUSAL and kind not in ("Dream", "llada"):
        return "autoregressive", _causal(name, dtype, revision)
    return "masked", load_masked_lm(name, dtype, revision)


def check_folder(name: str | Path) -> None:
    """Raise `ValueError` if `name` is a path without a model folder, or a folder with pickled weights only."""
    path = Path(name)
    looks_like_a_path = isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1
    if not path.exists() and looks_like_a_path:
        raise ValueError(
            f"a model must be a folder or a name on the Hugging Face hub; there is no folder {str(name)!r}"
        )
    if path.is_file():
        raise ValueError(f"a model must be a folder with config.json and weights; {str(name)!r} is a file")
    if path.is_dir() and not is_original(path) and not list(path.glob("*.safetensors")):
        pickled = sorted(found.name for pattern in PICKLES for found in path.glob(pattern))
        if pickled:
            raise ValueError(
                f"weights must be safetensors, because pickled files can run code; {str(name)!r} has {pickled[0]}. To convert "
                f"one that you trust: from safetensors.torch import save_file; save_file(torch.load('{pickled[0]}', "
                "weights_only=True), 'model.safetensors', metadata={'format': 'pt'})"
            )
        if not (path / "config.json").is_file():
            raise ValueError(
                f"a model's folder must contain config.json and model.safetensors; {str(name)!r} has neither"
            )


def check_tokenizer(name: str | Path, states: int) -> Any:
    """Load the tokenizer of a model with `states` logits.

    **Raises:** `ValueError` if it is missing or has ids that the model lacks.
    """
    try:
        tokenizer = load_tokenizer(name)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"a model must come with a tokenizer; {str(name)!r}: {error}") from error
    size = vocabulary_size(tokenizer)
    if size > states:
        special = {tokenizer.mask_token: tokenizer.mask_token_id, tokenizer.pad_token: tokenizer.pad_token_id}
        added = [token for token, found in special.items() if found >= states]
        hint = f" (its {' and '.join(added)} were added, because it has none)" if added else ""
        raise ValueError(
            f"the tokenizer must not have more tokens than the model; {str(name)!r} has {size}, its model {states}{hint}"
        )
    if not token_support(tokenizer).any():
        raise ValueError(f"the tokenizer must have tokens that occur in texts; {str(name)!r} has none")
    return tokenizer


def _config(name: str | Path, revision: str) -> dict[str, Any]:
    try:
        return PreTrainedConfig.get_config_dict(str(name), revision=revision)[0]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"a model must be a folder or a name on the Hugging Face hub, with a config.json; {str(name)!r}: {error}"
        ) from error


def _causal(name: str | Path, dtype: torch.dtype | None, revision: str) -> PreTrainedModel:
    """Load an autoregressive model of transformers."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"an autoregressive model must have a config.json that transformers knows, and intact safetensors weights; "
            f"{str(name)!r}: {error}"
        ) from error
    model, info = loaded
    problems = [f"{key} is missing" for key in sorted(info["missing_keys"])]
    problems += [f"{key} is unexpected" for key in sorted(info["unexpected_keys"])]
    problems += [
        f"{key} must have shape {list(wanted)}; it has {list(found)}"
        for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    if problems:
        raise ValueError(f"the weights of {str(name)!r} must match config.json: {'; '.join(problems)}")
    return model.eval()
