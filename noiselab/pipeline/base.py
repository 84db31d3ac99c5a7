"""The base class of pipelines: loading, saving and sharing a model with its tokenizer and settings."""

import abc
import contextlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..data.texts import text_list
from ..data.tokenizers import Encoder
from ..denoisers import Denoiser
from ..distributed import Processes, is_sharded, require_processes
from ..files import as_path, new_folder, write_text
from ..networks.adapters import merged_network, write_adapter
from ..networks.lengths import check_fits, context_length
from ..networks.masked_lm import MaskedLanguageModel
from ..networks.wrapped import is_adapted, plain_network
from .arguments import arguments_of, token_rows
from .card import model_card
from .loading import check_tokenizer, load_adapted, load_model, open_folder
from .own import logits_count
from .settings import GenerationSettings, ModelSettings

Self = TypeVar("Self", bound="Pipeline")


class Text(str):
    """A generated text that keeps its token ids; a plain string for all other purposes.

    Encoding a generated text again often gives other tokens than those that were sampled.

    **Arguments:**

    - `tokens`: the token ids, including special tokens.
    - `tokenizer`: the tokenizer of these ids.
    """

    tokens: tuple[int, ...]
    tokenizer: Any

    @classmethod
    def of(cls, text: str, tokens: Sequence[int], tokenizer: Any) -> "Text":
        """The text with its tokens."""
        made = cls(text)
        made.tokens, made.tokenizer = tuple(tokens), tokenizer
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class Pipeline(nn.Module, abc.ABC):
    """A model, its tokenizer, and its settings, ready to generate.

    `Pipeline.from_pretrained` selects the class: `DiffusionPipeline` if noiselab.json describes a noise process, whatever the
    architecture, and for GIDD's network and masked language models; `CanvasPipeline` for block-diffusion models with an
    encoder; `AutoregressivePipeline` for other causal models. A pipeline is a module: `.to(device)` moves all of it.

    **Arguments:**

    - `model`: the network, in evaluation mode.
    - `tokenizer`: a tokenizer of the transformers library.
    - `settings`: the noise process, the model's prediction type, and defaults for sampling.
    """

    tag: ClassVar[str] = ""
    """How a model card names this family of models."""
    _by_kind: ClassVar[dict[str, type["Pipeline"]]] = {}

    def __init_subclass__(cls, loads: Sequence[str] = (), **unknown: Any):
        """`loads`: the kinds of checkpoint, as `load_model` names them, that `Pipeline.from_pretrained` gives this class."""
        super().__init_subclass__(**unknown)
        Pipeline._by_kind.update(dict.fromkeys(loads, cls))

    def __init__(self, model: nn.Module, tokenizer: Any, settings: ModelSettings):
        super().__init__()
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        if (length := settings.generation.length) is not None:
            check_fits(
                length, self.length, "length of the default settings for generation", "GenerationSettings.length"
            )

    @classmethod
    def from_pretrained(
        cls: type[Self],
        name: str | Path,
        *,
        settings: ModelSettings | None = None,
        base: str | Path | None = None,
        dtype: torch.dtype | None = None,
        revision: str = "main",
        trust_remote_code: bool | None = None,
        **unknown: Any,
    ) -> Self:
        """Load a model with its tokenizer and settings. No pickle is loaded and no remote code is run.

        **Arguments:**

        - `name`: a folder written by noiselab, transformers or GIDD's training code, or a name on the Hugging Face Hub,
          such as "dvruette/gidd-small-p_unif-0.1".
        - `settings`: replaces the settings in noiselab.json. Without either, a GIDD model has the noise described in
          its config.json, a masked language model has absorbing noise, and a model of `load_network` that of its format.
          A `UserWarning` states noise that is assumed without being named by the checkpoint.
        - `base`: for a folder of adapters, the model on which they were trained, a folder or a name on the Hub, since a folder
          does not open another one by itself. Its weights must be those of training.
        - `dtype`: the dtype of the weights; by default that of the checkpoint, for adapters that of training.
        - `revision`: branch, tag or commit on the Hub; unused for a folder.
        - `trust_remote_code`: ignored, because no remote code is needed.

        **Raises:** `ValueError` if the model, its tokenizer or its settings cannot be loaded, do not match each other,
        or belong to another class of pipeline.

        **Source:** the interface of dvruette/gidd's `GiddPipeline`, MIT licence.
        """
        if trust_remote_code:
            warnings.warn(
                "trust_remote_code is ignored: noiselab contains the network and runs no remote code", stacklevel=2
            )
        if unknown:
            raise ValueError(
                f"from_pretrained takes settings, base, dtype, revision and trust_remote_code; got {sorted(unknown)}"
            )
        folder = open_folder(name, revision, adapter=base is not None)  # all files below are of one revision
        settings, network = chosen_settings(settings, folder)
        kind: str
        if base is not None:
            settings = replace(settings or ModelSettings(), network=network, adapter=adapter_of(settings, folder))
            kind, model = load_adapted(folder, base, settings, dtype=dtype)
        else:
            noised = settings is not None and settings.noise is not None
            kind, model = load_model(folder, dtype=dtype, noised=noised, network=network)
        wanted = Pipeline._by_kind[kind]
        if not (issubclass(cls, wanted) or issubclass(wanted, cls)):
            raise ValueError(
                f"{cls.__name__} needs another kind of model; {str(name)!r} is one for {wanted.__name__} "
                "(Pipeline.from_pretrained selects the class)"
            )
        inner = plain_network(model.model if isinstance(model, MaskedLanguageModel) else model)
        tokenizer = check_tokenizer(folder, logits_count(inner))
        if settings is None:
            settings = wanted.default_settings(folder, model, tokenizer)
            if wanted.guesses_noise(folder, model):
                warn_of_guess(str(name), folder, settings)
        made = (cls if issubclass(cls, wanted) else wanted)(model, tokenizer, settings)
        return made.eval()  # type: ignore[return-value]

    @classmethod
    def default_settings(cls, name: str | Path, model: Any, tokenizer: Any) -> ModelSettings:
        """The settings of a checkpoint that has no noiselab.json."""
        return ModelSettings()

    @classmethod
    def guesses_noise(cls, name: str | Path, model: Any) -> bool:
        """Whether `default_settings` assumes a noise process that the checkpoint does not name."""
        return False

    @property
    def network(self) -> Any:
        """The underlying network: a transformers model, any module with a `config`, or a denoiser of one's own."""
        return plain_network(self.model.model if isinstance(self.model, MaskedLanguageModel) else self.model)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next((p.device for p in chain(self.network.parameters(), self.network.buffers())), torch.device("cpu"))

    @property
    def length(self) -> int | None:
        """The longest sequence, in tokens; `None` if there is no limit (`noiselab.networks.lengths`)."""
        own: int | None = getattr(self.network, "max_length", None) if isinstance(self.network, Denoiser) else None
        return context_length(self.network, self.tokenizer) if own is None else own

    @property
    def generation(self) -> GenerationSettings:
        """The default settings for generation."""
        return self.settings.generation

    def save_pretrained(self, folder: str | Path, *, merge: bool = False) -> None:
        """Write weights, config, tokenizer, settings and a model card atomically.

        Of a model with adapters whose base is known, from `noiselab.training.adapt` or loaded with `base`, only the adapters
        are written, unless they are merged.

        **Arguments:**

        - `folder`: the target. An earlier model in it is replaced; other files are kept, and so is a README.md that is
          not a model card of noiselab.
        - `merge`: whether adapters are merged into the weights, for a folder that needs no base.

        **Raises:** `ValueError` if `folder` is no path, or a file, or contains a config.json or settings.json of another
        program, or if `merge` is no Bool.
        """
        arguments_of({"merge": merge})
        with new_folder(as_path(folder)) as temporary:
            self._write(temporary, merge)

    def push_to_hub(self, name: str, *, private: bool | None = None, message: str = "noiselab model") -> str:
        """Upload the files of `save_pretrained` to the Hugging Face Hub and return the URL."""
        from huggingface_hub import HfApi

        api = HfApi()
        name = api.create_repo(name, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder))
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message))

    def _write(self, folder: Path, merge: bool = False) -> None:
        held: Any = self.model.model if isinstance(self.model, MaskedLanguageModel) else self.model
        adapter = is_adapted(held) and not merge and self.settings.adapter is not None
        if adapter:
            write_adapter(held, folder, (self.settings.adapter or {}).get("token"))
        elif is_adapted(held):
            merged_network(held).save_pretrained(folder)
        else:
            self._write_network(folder)
        self.tokenizer.save_pretrained(folder)
        (self.settings if adapter else replace(self.settings, adapter=None)).save_pretrained(folder)
        write_text(folder / "README.md", model_card(self))

    def _write_network(self, folder: Path) -> None:
        self.network.save_pretrained(folder)

    def encode(self, texts: Sequence[str], name: str = "text") -> list[list[int]]:
        """Encode texts into token ids without adding or interpreting special tokens.

        A `Text` generated by this pipeline is not encoded again: its original tokens are used, which may differ from
        the tokenizer's.

        **Arguments:**

        - `texts`: the texts.
        - `name`: what a text is called in errors, such as "prompt".

        **Raises:** `ValueError` if there are no texts, or a text is empty or longer than the context.
        """
        texts = text_list(texts, f"{name}s")
        kept = [self._tokens(text) for text in texts]
        plain = Encoder(self.tokenizer)(str(text) for text, own in zip(texts, kept, strict=True) if own is None)
        ids, limit = [next(plain) if own is None else own for own in kept], self.length
        for i, found in enumerate(ids):
            if not found:
                raise ValueError(f"{name}s must not be empty; {name} {i} is")
            check_fits(len(found), limit, f"{name} {i}")
        return ids

    def _tokens(self, text: str) -> list[int] | None:
        return list(text.tokens) if isinstance(text, Text) and text.tokenizer is self.tokenizer else None

    def decode(self, tokens: Tensor | list[list[int]]) -> list[str]:
        """Decode token ids into texts without special tokens; each is a `Text`.

        **Raises:** `ValueError` unless the ids are integers that are not negative, in a row for each text.
        """
        rows = token_rows(tokens)
        words = self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [Text.of(text, row, self.tokenizer) for text, row in zip(words, rows, strict=True)]

    def _whole(self, processes: Processes | None) -> Processes | None:
        """The processes, of which each calls its network on its own.

        **Raises:** `ValueError` if the weights are sharded.
        """
        require_processes(processes)
        if processes is not None and is_sharded(self):
            raise ValueError(
                "processes must be None with sharded weights, because texts take different numbers of network calls; without "
                "it, all processes together generate each text"
            )
        return processes

    @contextlib.contextmanager
    def _computing(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Context manager: no gradients, and autocast to `dtype` if given."""
        mixed = torch.autocast(self.device.type, dtype) if dtype is not None else contextlib.nullcontext()
        with torch.no_grad(), mixed:
            yield


def chosen_settings(given: ModelSettings | None, folder: Path) -> tuple[ModelSettings | None, Mapping[str, Any] | None]:
    """The settings of a model, those given or those stored, and how its network is called.

    **Raises:** `ValueError` if a network is stored as a denoiser without its noise.
    """
    if given is not None:
        network = given.network
        with contextlib.suppress(ValueError):  # the file is replaced, even if it is damaged
            stored = ModelSettings.from_pretrained(folder)
            network = stored.network if network is None and stored is not None else network
        return given, network
    settings = ModelSettings.from_pretrained(folder)
    if settings is not None and settings.network is not None and settings.noise is None:
        raise ValueError(
            f"noiselab.json must describe the noise of this model, which is a denoiser; that of {str(folder)!r} does not "
            "(pass settings=ModelSettings(...))"
        )
    return settings, None if settings is None else settings.network


def adapter_of(given: ModelSettings | None, folder: Path) -> Mapping[str, Any]:
    """What noiselab.json states about the base of adapters.

    **Raises:** `ValueError` if it states nothing.
    """
    found = None if given is None else given.adapter
    if found is None:
        stored = ModelSettings.from_pretrained(folder)
        found = None if stored is None else stored.adapter
    if found is None:
        raise ValueError(
            f"noiselab.json of adapters must identify their base; that of {str(folder)!r} does not (merge adapters of "
            "other programs with peft: merge_and_unload)"
        )
    return found


def warn_of_guess(name: str, folder: Path, settings: ModelSettings) -> None:
    """Warn that the noise of a model is assumed, unless the trainer's settings.json names the same."""
    assumed = repr(settings.process())
    try:
        numbers = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["numbers"]
        trained = str(numbers["process"])
    except (OSError, ValueError, KeyError, TypeError):
        trained = ""
    if trained == assumed:
        return
    warnings.warn(
        f"{name!r} has no noiselab.json, so that its noise is assumed to be {assumed}"
        + (f", although its settings.json says that it was trained with {trained}" if trained else "")
        + ": pass settings=ModelSettings(...) if that is wrong, and save them with the model (parts=[ModelSettings(...)] of "
        "Trainer.save_final, or pipe.save_pretrained)",
        UserWarning,
        stacklevel=3,
    )
