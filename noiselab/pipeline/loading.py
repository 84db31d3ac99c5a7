"""Loading models with checks: GIDD's network, masked language models and autoregressive models."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..data import load_tokenizer, vocabulary_size
from ..data.tokenizers import MASK, complete
from ..denoisers import Denoiser
from ..networks.adapters import check_base, load_adapter, with_token
from ..networks.denoiser_files import MODEL_TYPE, load_denoiser
from ..networks.huggingface import load_dit
from ..networks.masked_lm import CAUSAL, MaskedLanguageModel
from ..networks.masked_lm_files import load_masked_lm
from ..networks.model_folders import load_weights_of, model_folder, open_tokenizer, read_config
from ..networks.published import PublishedNetwork, is_published, load_network
from .original import is_original, load_original

if TYPE_CHECKING:
    from .settings import ModelSettings

Kind = Literal["dit", "masked", "own", "published", "canvas", "autoregressive"]
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    revision: str = "main",
    noised: bool = False,
    network: Mapping[str, Any] | None = None,
) -> tuple[Kind, PreTrainedModel | Denoiser | PublishedNetwork]:
    """Load a model from a folder or the Hub, and return its kind with it. No pickle is loaded and no remote code is run.

    **Arguments:**

    - `name`: a folder, or a name on the Hugging Face Hub.
    - `dtype`: the dtype of the weights; by default that of the checkpoint.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.
    - `noised`: whether a model of transformers was trained with a noise process, and is loaded as a denoiser even if its
      architecture is causal.
    - `network`: options of `MaskedLanguageModel` for a denoiser, or the name and arguments of a denoiser of one's own.

    **Raises:** `ValueError` if there is no model or it cannot be loaded.
    """
    folder = open_folder(name, revision)
    if is_original(folder):
        return load_original(folder, dtype)
    config = read_config(folder)
    kind, named = config.get("model_type"), set(config.get("architectures") or ())
    if kind == MODEL_TYPE:
        return "own", load_denoiser(folder, network, dtype)
    if network is not None and "kind" in network:
        raise ValueError(
            f"noiselab.json names the denoiser {network['kind']!r}, but config.json a model of type {kind!r}; "
            f"{str(folder)!r} must hold one of them"
        )
    if is_published(config):
        published = load_network(folder, dtype)
        return "canvas" if "prefix" in published.knows else "published", published
    if kind == "dit":
        return "dit", load_dit(folder, dtype)
    if named & CAUSAL and not noised and kind not in ("Dream", "llada"):
        return "autoregressive", _causal(folder, dtype)
    return "masked", load_masked_lm(folder, dtype, **(network or {}))


def load_adapted(
    folder: Path, base: str | Path, settings: "ModelSettings", *, dtype: torch.dtype | None = None
) -> tuple[Kind, Any]:
    """Load a base and put the adapters of a folder into it; returns the kind of the model with it.

    **Arguments:**

    - `folder`: a folder of adapters, from `open_folder`.
    - `base`: the folder or the name of the base.
    - `settings`: the settings of the adapters.
    - `dtype`: the dtype of the base; by default that of training.

    **Raises:** `ValueError` if the base is none of transformers' or another one, or if the adapters do not match it.
    """
    about = settings.adapter or {}
    if dtype is None:
        found = getattr(torch, str(about.get("dtype")), None)
        dtype = found if isinstance(found, torch.dtype) else None
    network = dict(settings.network or {})
    kind, model = load_model(base, dtype=dtype, noised=settings.noise is not None, network=network)
    if kind == "canvas":
        raise ValueError(
            f"adapters must be those of a model of transformers; base {str(base)!r} is a block-diffusion model"
        )
    inner: Any = model.model if isinstance(model, MaskedLanguageModel) else model
    check_base(inner, about, folder)
    token, known, rows = about.get("token"), about.get("known"), inner.get_input_embeddings().num_embeddings
    if token is not None:
        if not (isinstance(token, int) and isinstance(known, int) and 0 < known <= token <= rows):
            raise ValueError(
                f"a token of adapters must be one of {rows + 1}, after those known; got {token!r}, {known!r}"
            )
        with_token(inner, token, known, shared=False)
    adapted = load_adapter(inner, folder, token)
    if not isinstance(model, MaskedLanguageModel):
        return kind, adapted
    options: dict[str, Any] = dict(model.settings)
    made = MaskedLanguageModel(adapted, **options)
    made.adapter = dict(about)
    return kind, made.eval()


def open_folder(name: str | Path, revision: str = "main", *, adapter: bool = False) -> Path:
    """The folder of a model, or of adapters, downloaded at this revision if it is a name on the Hub, and checked.

    **Raises:** `ValueError` if there is none, or it must not be opened.
    """
    check_folder(name, adapter=adapter)
    try:
        folder = model_folder(name, revision, adapter=adapter)
        if not adapter and not is_original(folder):
            read_config(folder)
    except ValueError as error:
        raise ValueError(
            f"a model must be a folder or a name on the Hugging Face hub, with a config.json; {str(name)!r}: {error}"
        ) from error
    return folder


def check_folder(name: str | Path, *, adapter: bool = False) -> None:
    """Raise `ValueError` if `name` is a path without a model folder, or a folder with pickled weights only."""
    path = Path(name)
    looks_like_a_path = isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1
    if not path.exists() and looks_like_a_path:
        raise ValueError(
            f"a model must be a folder or a name on the Hugging Face hub; there is no folder {str(name)!r}"
        )
    if path.is_file():
        raise ValueError(f"a model must be a folder with config.json and weights; {str(name)!r} is a file")
    if path.is_dir() and not adapter and not is_original(path) and not list(path.glob("*.safetensors")):
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

    Mask, padding and end-of-text tokens that it lacks are added if the model has room for them. Otherwise it keeps its
    tokens; padding, which is known by its position, is then the end of text.

    **Raises:** `ValueError` if it is missing or has ids that the model lacks.
    """
    try:
        tokenizer = load_tokenizer(name)
        if vocabulary_size(tokenizer) > states:
            tokenizer = complete(open_tokenizer(name))
    except ValueError as error:
        raise ValueError(f"a model must come with a tokenizer; {str(name)!r}: {error}") from error
    size = vocabulary_size(tokenizer)
    if size > states:
        raise ValueError(
            f"the tokenizer must not have more tokens than the model; {str(name)!r} has {size}, its model {states}"
        )
    if tokenizer.mask_token_id is None and size < states:
        tokenizer.add_special_tokens({"mask_token": MASK})
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):  # transformers makes one without any file
        raise ValueError(
            f"a model must come with a tokenizer that has tokens of texts; that of {str(name)!r} has special tokens only"
        )
    return tokenizer


def _causal(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """Load an autoregressive model of transformers."""
    try:
        return load_weights_of(AutoModelForCausalLM, folder, dtype)
    except ValueError as error:
        raise ValueError(
            f"an autoregressive model must have a config.json that transformers knows, and intact safetensors weights; "
            f"{str(folder)!r}: {error}"
        ) from error
