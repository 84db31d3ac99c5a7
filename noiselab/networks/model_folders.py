"""The one place where folders of models are opened: no code of a folder runs, no pickle is read, and no file outside is
loaded, whatever the files of the folder name.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

INDEX = "model.safetensors.index.json"
# Small files of configurations and tokenizers; those that hold code or pickles are never downloaded.
SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.codes", "*.spm", "*.vocab")


ADAPTER = "adapter_config.json"


def model_folder(
    name: str | Path, revision: str = "main", *, weights: bool = True, adapter: bool | None = False
) -> Path:
    """The folder of a model, with the checks that make it safe to open; a name on the Hub is downloaded first.

    All files are those of one commit. Code and pickles are not downloaded.

    **Arguments:**

    - `name`: a folder, or a name on the Hugging Face Hub.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.
    - `weights`: whether weights are needed.
    - `adapter`: whether it must be a folder of adapters for another model, or must not; `None` if it may be.

    **Raises:** `ValueError` if there is no such folder or name, or if a file of the folder names code, a pickle, a file
    outside, or another model.
    """
    folder = Path(name)
    if not folder.is_dir():
        if isinstance(name, Path) or folder.exists():
            raise ValueError(f"a model must be a folder or a name on the Hugging Face Hub; {str(name)!r} is neither")
        try:
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=list(SMALL), ignore_patterns=["*/*"])
            )
            check_model_folder(folder, adapter)
            if weights:
                files = sorted(
                    {*weight_files(folder), "model.safetensors", *(["adapter_model.safetensors"] if adapter else [])}
                )
                snapshot_download(name, revision=folder.name, allow_patterns=files, ignore_patterns=["*/*"])
        except (OSError, ValueError) as error:
            raise ValueError(f"{name!r} at revision {revision!r} cannot be read from the Hub: {error}") from error
    check_model_folder(folder, adapter)
    return folder


def check_model_folder(folder: Path, adapter: bool | None = False) -> None:
    """Check everything in a folder that could make transformers load something else than its safetensors files.

    **Arguments:**

    - `folder`: the folder; `adapter`: whether it must hold adapters for another model, see `model_folder`.

    **Raises:** `ValueError` naming the file and what it names.
    """
    found = (folder / ADAPTER).exists()
    if found and adapter is False:
        name = named_base(folder)
        raise ValueError(
            f"a model folder must contain the whole model; {str(folder)!r} contains adapter_config.json, which names "
            f"another model{f', {name!r}' if name else ''}: pass that model, its folder or its name, as base= to "
            "Pipeline.from_pretrained, or merge the adapter first"
        )
    if adapter and not found:
        raise ValueError(f"base must be given for a folder of adapters only; {str(folder)!r} has no {ADAPTER}")
    weight_files(folder)
    config, words = (read_json(folder / name) for name in ("config.json", "tokenizer_config.json"))
    for key, value in settings_in(config):
        if key == "configuration_files" and value:
            raise ValueError(f"config.json must contain the settings itself; {str(folder)!r} names {value!r}")
        if key == "transformers_weights" and value is not None and not is_plain(value, (".safetensors", INDEX)):
            raise ValueError(f"weights must be safetensors files in {str(folder)!r}; config.json names {value!r}")
        if str(key).endswith("_implementation") and "/" in str(value):
            raise ValueError(
                f"code must not be named by a model's files; config.json of {str(folder)!r} names {value!r}"
            )
    for key, value in settings_in(words):
        plain = isinstance(value, list) and all(is_plain(one, (".json",)) for one in value)
        if key == "fast_tokenizer_files" and not plain:
            raise ValueError(f"a tokenizer must be in {str(folder)!r}; tokenizer_config.json names {value!r}")
    for content in (config, words):
        check_tokenizer_class(content.get("tokenizer_class"), folder)


def named_base(folder: Path) -> str:
    """The name of the model that the files of adapters name as their base; an empty one if they name none."""
    found = read_json(folder / ADAPTER).get("base_model_name_or_path")
    return found if isinstance(found, str) else ""


def check_tokenizer_class(name: Any, folder: Path) -> None:
    """Check that a class of transformers that a folder names is a tokenizer: other classes load other files.

    **Raises:** `ValueError` if it is another class.
    """
    if name is None:
        return
    plain = str(name).removesuffix("Fast")
    for variant in (plain, f"{plain}Fast"):
        found = getattr(transformers, variant, None)
        dummy = "dummy" in getattr(found, "__module__", "")  # in place of a tokenizer that needs another package
        if found is not None and not dummy and not _is_tokenizer(found):
            raise ValueError(f"tokenizer_class must be a tokenizer of transformers; {str(folder)!r} has {name!r}")


def _is_tokenizer(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)


def weight_files(folder: Path) -> set[str]:
    """The names of the files in the indices of sharded weights.

    **Raises:** `ValueError` if one is not a safetensors file in the folder.
    """
    found: set[str] = set()
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = read_json(index).get("weight_map")
        if not isinstance(names, Mapping):
            raise ValueError(f"{index.name} must have a weight_map; that of {str(folder)!r} has none")
        for name in names.values():
            if not is_plain(name, (".safetensors",)):
                raise ValueError(
                    f"weights must be safetensors files in the folder of the model; {index.name} of {str(folder)!r} "
                    f"names {name!r}"
                )
            found.add(name)
    return found


def is_plain(name: Any, endings: tuple[str, ...]) -> bool:
    """Whether a name is that of a file in the folder itself, with one of the endings."""
    return isinstance(name, str) and name.endswith(endings) and not any(sign in name for sign in ("/", "\\", ":", "\0"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is no file.

    **Raises:** `ValueError` if the file contains something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} must be JSON; {str(path)!r}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must be a JSON object; {str(path)!r} contains a {type(content).__name__}")
    return content


def settings_in(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every setting, at any depth."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield key, value
            yield from settings_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from settings_in(value)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    **Raises:** `ValueError` if it is missing or cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"a model must have a config.json; {str(folder)!r} has none")
    config = read_json(folder / "config.json")
    kind, named = config.get("model_type"), config.get("architectures")
    names = [
        *([] if kind is None else [kind]),
        *(named if isinstance(named, list) else [] if named is None else [named]),
    ]
    if not all(isinstance(name, str) for name in names) or isinstance(named, str):
        raise ValueError(
            f"model_type must be a name and architectures a list of names; config.json of {str(folder)!r} has {kind!r}, "
            f"{named!r}"
        )
    return config


def load_weights_of(
    kind: Any,
    folder: Path,
    dtype: torch.dtype | None = None,
    *,
    config: PreTrainedConfig | None = None,
    other_heads: tuple[str, ...] = (),
    **options: Any,
) -> PreTrainedModel:
    """Load a model from a folder that `model_folder` returned, and check that its weights match its config.

    **Arguments:**

    - `kind`: a model class of transformers, or an Auto class.
    - `folder`: the folder.
    - `dtype`: the dtype of the weights; by default that of the checkpoint.
    - `config`: replaces config.json.
    - `other_heads`: parts of names of weights that may be in the file without being used.
    - `options`: further options of `from_pretrained`.

    **Returns:** the model, in evaluation mode.

    **Raises:** `ValueError` if the weights are missing or cannot be read, or if a weight is missing, unexpected, of
    another shape or not finite.
    """
    more = options if config is None else {"config": config, **options}
    try:
        model, info = kind.from_pretrained(
            folder,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # all mismatches are reported below
            output_loading_info=True,
            **more,
        )
    except Exception as error:  # readers of damaged files raise errors of any class
        raise ValueError(f"{type(error).__name__}: {error}") from error
    problems = [f"{key} is missing" for key in sorted(info["missing_keys"])]
    problems += [
        f"{key} is unexpected"
        for key in sorted(info["unexpected_keys"])
        if not any(head in key for head in other_heads)
    ]
    problems += [
        f"{key} must have shape {list(wanted)}; it has {list(found)}"
        for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    problems += [f"{key} is not finite" for key, weight in model.state_dict().items() if not finite(weight)]
    if problems:
        raise ValueError(f"the weights of {str(folder)!r} must match config.json: {'; '.join(problems)}")
    return model.eval()


def finite(weight: Tensor) -> bool:
    """Whether all entries are finite; unlike `isfinite`, it makes no copy."""
    return weight.numel() == 0 or all(bool(end.isfinite()) for end in torch.aminmax(weight))


@contextlib.contextmanager
def _without_warning_of_types() -> Iterator[None]:
    """Silence one warning of transformers: to find a tokenizer it reads config.json without knowing our types of models."""

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("You are using a model of type")

    source = logging.getLogger("transformers.configuration_utils")
    source.addFilter(keep)
    try:
        yield
    finally:
        source.removeFilter(keep)


def open_tokenizer(name: str | Path, revision: str = "main") -> PreTrainedTokenizerBase:
    """Load a tokenizer as it is, without running code that comes with it.

    **Arguments:**

    - `name`: a folder, or a name on the Hugging Face Hub.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.

    **Raises:** `ValueError` if there is no tokenizer, if it cannot be read, or if it needs code of its folder.
    """
    folder = model_folder(name, revision, weights=False, adapter=None)
    try:
        with _without_warning_of_types():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        special = list(tokenizer.all_special_ids)
    except Exception as error:  # readers of damaged files raise errors of any class
        raise ValueError(f"a tokenizer must be one of transformers, and intact; {str(name)!r}: {error}") from error
    if not all(isinstance(one, int) for one in special):
        raise ValueError(
            f"the special tokens of a tokenizer must have an id each; those of {str(name)!r} have {special}"
        )
    return tokenizer
