"""Low-rank adapters of denoisers (LoRA, by peft): written beside the identity of their base, and read with checks."""

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..files import write_text
from .model_folders import ADAPTER, finite, read_json
from .wrapped import import_peft

WEIGHTS = "adapter_model.safetensors"
ROWS = "trainable_token_indices"
"""The setting of peft by which adapters have rows of the embeddings."""
ROW = ".token_adapter.trainable_tokens_delta"  # the end of the name of such a row
CHUNK = 1 << 16  # entries of a weight that are converted at once, so that no second copy of it is made
# The settings of an adapter that are read from a folder. Others would load modules or other files, or are not needed here.
READ = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern"),
    *("fan_in_fan_out", "bias", "use_rslora", "use_dora", "task_type"),
)
IGNORED = (
    *("peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"),
    *("init_lora_weights", "megatron_core", "runtime_config", "qalora_group_size"),
)


def add_adapter(network: PreTrainedModel, config: Any) -> Any:
    """Add low-rank updates to the layers of a network, in place; only they are trainable afterwards.

    **Arguments:**

    - `network`: a model of transformers.
    - `config`: a `peft.LoraConfig`, or the rank, for updates of all linear layers but the output.

    **Raises:** `ValueError` for a rank below 1, or if peft cannot adapt the network; `ImportError` without peft.
    """
    peft = import_peft()
    if isinstance(config, int):
        if config < 1:
            raise ValueError(f"the rank of low-rank updates must be at least 1; got {config}")
        config = peft.LoraConfig(r=config, lora_alpha=2 * config, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses deprecated functions of transformers
        try:
            return peft.get_peft_model(network, config)
        except (ValueError, TypeError) as error:
            raise ValueError(f"peft must be able to adapt the network; {type(network).__name__}: {error}") from error


def merged_network(network: Any) -> Any:
    """A copy of a network with its low-rank updates merged into the weights."""
    return copy.deepcopy(network).merge_and_unload()


def weights_hash(network: nn.Module) -> str:
    """A hash of the weights by name, the same for weights that were stored in bfloat16 and loaded in float32."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(network.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        for part in weight.detach().reshape(-1).split(CHUNK):
            plain: Any = part.cpu().float().contiguous().view(torch.uint8).numpy()
            digest.update(plain)
    return digest.hexdigest()


def base_of(network: PreTrainedModel) -> dict[str, Any]:
    """What identifies the base of adapters, for noiselab.json: its name, its dtype and a hash of its weights."""
    name = str(getattr(network.config, "_name_or_path", "") or "")
    return {"base": name, "dtype": str(network.dtype).removeprefix("torch."), "weights": weights_hash(network)}


def with_token(network: PreTrainedModel, token: int, known: int, *, shared: bool = True) -> None:
    """Give a network a row of the embedding for a new token, the mean of those of the other tokens; in place.

    Rows that are there, in vocabularies that are rounded up, are used; otherwise the embedding is enlarged. Embeddings that
    input and output share are shared afterwards, too; otherwise the output has the mean of its own rows.

    **Arguments:**

    - `network`: the model.
    - `token`: the id of the new token; `known`: the number of tokens before it.
    - `shared`: whether another model may share the weights, which are then replaced where they change.
    """
    table: Any = network.get_input_embeddings()
    rows: int = table.num_embeddings
    if token >= rows:
        shared = False  # the weights are new
        with torch.random.fork_rng(devices=[]):  # transformers draws new rows, which are replaced below
            network.resize_token_embeddings(token + 1, mean_resizing=False)
    table = network.get_input_embeddings()
    output: Any = network.get_output_embeddings()
    tied = output is not None and output.weight is table.weight
    _set_mean(table, "weight", token, min(known, rows), shared)
    if tied:
        output.weight = table.weight
    elif output is not None and len(output.weight) > token:
        _set_mean(output, "weight", token, min(known, rows), shared)
    if output is not None and getattr(output, "bias", None) is not None and len(output.bias) > token:
        _set_mean(output, "bias", token, min(known, rows), shared)


def _set_mean(module: Any, name: str, row: int, known: int, shared: bool) -> None:
    old = getattr(module, name)
    new = old.detach().clone() if shared else old.detach()
    total = torch.zeros_like(new[0], dtype=torch.float64)
    for part in new[:known].split(max(1, CHUNK // new[0].numel())):
        total += part.sum(0, dtype=torch.float64)
    new[row] = (total / known).to(new.dtype)
    if shared:
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))


def write_adapter(network: Any, folder: Path, token: int | None = None) -> None:
    """Write the adapters of a network as peft does: adapter_config.json and adapter_model.safetensors.

    The embedding of a token that the base lacks is among them, as peft's trainable tokens: transformers and peft put it into a
    base that has a row for the token, and refuse one that has none.

    **Arguments:**

    - `network`: the `peft.PeftModel`; `folder`: the folder.
    - `token`: the id of a token that `with_token` has given the network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    rows = {} if token is None else {name: weight[token : token + 1] for name, weight in _tables(network)}
    if rows:
        weights = load_file(folder / WEIGHTS)
        weights |= {f"base_model.model.{name}{ROW}": row.detach().cpu().clone() for name, row in rows.items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        settings = {**read_json(folder / ADAPTER), ROWS: {name: [token] for name in rows}}
        write_text(folder / ADAPTER, json.dumps(settings, indent=2) + "\n")


def _tables(network: Any) -> Iterator[tuple[str, Tensor]]:
    """The names and weights of the input embeddings of a network with adapters, and of the output if it has its own."""
    plain, seen = network.get_base_model(), set[int]()
    for table in (plain.get_input_embeddings(), plain.get_output_embeddings()):
        if table is None or hasattr(table, "base_layer") or id(table.weight) in seen:
            continue  # a table with updates of its own cannot have trainable tokens
        seen.add(id(table.weight))
        yield next(name for name, part in plain.named_modules() if part is table), table.weight


def check_base(network: PreTrainedModel, wanted: Mapping[str, Any], folder: Path) -> None:
    """Check that a network is the base of the adapters of a folder.

    **Raises:** `ValueError` if its weights are others.
    """
    if weights_hash(network) != wanted.get("weights"):
        raise ValueError(
            f"adapters must be loaded with the weights on which they were trained; those of {str(folder)!r} were trained on "
            f"{wanted.get('base') or 'a model without a name'!r}, whose weights differ from the ones of this base"
        )


def load_adapter(network: PreTrainedModel, folder: Path, token: int | None = None) -> Any:
    """Put the adapters of a folder into a network, in place, and check that they match.

    Only known settings are read, and only tensors.

    **Arguments:**

    - `network`: the base, a model of transformers.
    - `folder`: a folder with adapter_config.json and adapter_model.safetensors.
    - `token`: the id of a token that `with_token` has given the network; its embedding is replaced by that of the folder.

    **Returns:** the `peft.PeftModel`.

    **Raises:** `ValueError` if settings or weights are missing, unknown, or do not match the network.
    """
    peft = import_peft()
    settings = read_json(folder / ADAPTER)
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"adapters must be of peft's type LORA; {str(folder)!r} has {settings.get('peft_type')!r}")
    plain = peft.LoraConfig().to_dict()
    strange = [
        name
        for name, value in settings.items()
        if name not in (*READ, *IGNORED, *([] if token is None else [ROWS]))
        and value != plain.get(name)
        and value not in (None, False, {}, [])
    ]
    if strange:
        raise ValueError(f"the settings of adapters must be those of plain LoRA; {str(folder)!r} sets {strange}")
    try:
        config = peft.LoraConfig(**{name: settings[name] for name in READ if name in settings})
        weights = load_file(folder / WEIGHTS)
        with torch.random.fork_rng(devices=[]):  # the drawn weights are replaced
            adapted = add_adapter(network, config)
    except (OSError, SafetensorError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(f"adapters must be those that peft writes; {str(folder)!r}: {error}") from error
    own = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    rows = (
        {}
        if token is None or not settings.get(ROWS)
        else {f"base_model.model.{name}{ROW}": table[token : token + 1] for name, table in _tables(adapted)}
    )
    _check_match({**own, **rows}, weights, folder)
    with torch.no_grad():
        for name, row in rows.items():
            row.copy_(weights.pop(name))
    peft.set_peft_model_state_dict(adapted, weights)
    for parameter in adapted.parameters():
        parameter.requires_grad_(False)
    return adapted.eval()


def _check_match(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], folder: Path) -> None:
    problems = [f"{name} is missing" for name in sorted(own.keys() - weights.keys())]
    problems += [f"{name} is unexpected" for name in sorted(weights.keys() - own.keys())]
    problems += [
        f"{name} must have shape {list(own[name].shape)}; it has {list(found.shape)}"
        for name, found in weights.items()
        if name in own and own[name].shape != found.shape
    ]
    problems += [f"{name} is not finite" for name, found in weights.items() if not finite(found)]
    if problems:
        raise ValueError(f"the adapters of {str(folder)!r} must match the base: {'; '.join(problems)}")
