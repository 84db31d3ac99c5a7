"""Checkpoints written by GIDD's original training code: config.yaml, model.pt and tokenizer files."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ..data import load_tokenizer, vocabulary_size
from ..networks.dit import DiT, DiTConfig

CONFIG, WEIGHTS = "config.yaml", "model.pt"
ROUND = 128  # newer checkpoints round the vocabulary size up to a multiple of this


def is_original(name: str | Path) -> bool:
    """Whether a folder contains an original checkpoint."""
    return all((Path(name) / file).is_file() for file in (CONFIG, WEIGHTS))


def original_noise(folder: Path) -> dict[str, Any]:
    """The settings of the noise, except the sizes that depend on the tokenizer."""
    model = _model(folder)
    if model.get("diffusion_process") == "mdlm":
        return {"family": "masked", "signal": {"name": "log_linear", "eps": float(model.get("t_eps", 1e-4))}}
    return {"family": "gidd", "p_uniform": float(model.get("p_uniform", 0.0))}


def load_original(
    folder: Path, dtype: torch.dtype | None = None
) -> tuple[Literal["dit", "autoregressive"], PreTrainedModel]:
    """Load the network of an original checkpoint. Only tensors are read; files with other objects are rejected.

    **Raises:** `ValueError` if config.yaml or model.pt are not in the training code's format; names each weight that
    differs.

    **Source:** the format of dvruette/gidd, releases v1.0.0 and v1.1.0 (which rounds the vocabulary up).
    """
    config = _model(folder)
    try:
        weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"{WEIGHTS} must contain only tensors; {str(folder)!r}: {error}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{WEIGHTS} must contain tensors by name; {str(folder)!r} contains a {type(weights).__name__}")
    # Compiled networks are saved with this prefix.
    weights = {name.removeprefix("_orig_mod."): value for name, value in weights.items()}
    tokens = vocabulary_size(load_tokenizer(folder))
    try:
        if config.get("type", "diffusion") == "autoregressive":
            model: PreTrainedModel = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=tokens,
                    num_hidden_layers=config["n_blocks"],
                    hidden_size=config["hidden_size"],
                    intermediate_size=4 * config["hidden_size"],
                    num_attention_heads=config["n_heads"],
                    max_position_embeddings=config["max_seq_len"],
                )
            )
        else:
            rows = len(weights.get("vocab_embed.embedding", torch.empty(tokens)))
            rounded = tokens + (ROUND - tokens % ROUND) % ROUND
            if rows not in (tokens, rounded):
                raise ValueError(f"the weights must have {tokens} tokens, or {rounded} if rounded up; got {rows}")
            model = DiT(
                DiTConfig(
                    vocab_size=rows,
                    max_seq_len=config["max_seq_len"],
                    hidden_size=config["hidden_size"],
                    timestep_cond_dim=config["cond_dim"],
                    num_hidden_layers=config["n_blocks"],
                    num_attention_heads=config["n_heads"],
                    attention_dropout=config.get("dropout", 0.0),
                    p_uniform=config.get("p_uniform", 0.0),
                    t_eps=config.get("t_eps", 1e-4),
                )
            )
    except KeyError as error:
        raise ValueError(f"{CONFIG} must give model.{error.args[0]}; {str(folder)!r} does not") from error
    _put(model, weights, folder)
    kind: Literal["dit", "autoregressive"] = "dit" if isinstance(model, DiT) else "autoregressive"
    if dtype is not None:
        nn.Module.to(model, dtype)
    return kind, model.eval()


def _model(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{CONFIG} must be plain YAML; {str(folder)!r}: {error}") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{CONFIG} must have a section `model`; {str(folder)!r} has none")
    return model


def _put(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Load the weights; position tables may be absent or of another shape, because they are not used."""
    own = model.state_dict()
    weights = {name: value for name, value in weights.items() if not name.startswith("rotary_emb.")}
    problems = [f"{name} is missing" for name in own if name not in weights and not name.startswith("rotary_emb.")]
    problems += [f"{name} is unexpected" for name in weights if name not in own]
    problems += [
        f"{name} must have shape {list(own[name].shape)}; it has {list(value.shape)}"
        for name, value in weights.items()
        if name in own and own[name].shape != value.shape
    ]
    if problems:
        raise ValueError(f"{WEIGHTS} must match {CONFIG}; {str(folder)!r}: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)
