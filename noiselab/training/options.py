"""The settings of a run as dataclasses, read from presets, YAML files and the command line.

A recipe declares one dataclass, composed of the groups below and its own fields, and names some instances as presets.
`command_line` parses `recipe.py PRESET [--config file.yaml] [--any-field value ...]`; later values override earlier
ones.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import torch
import tyro
import yaml

from ..distributed import ProcessError, ending_together
from ..files import write_text
from .callbacks import Callback
from .flags import REGISTRY

if TYPE_CHECKING:
    from .trainer import Trainer

Options = TypeVar("Options")


@dataclass(frozen=True)
class Optimization:
    """How the weights are trained."""

    steps: int
    """optimizer steps"""
    batch: int
    """sequences per optimizer step, over all processes"""
    micro_batch: int | None = None
    """maximum sequences per process and forward pass, by default all; gradients are accumulated until `batch` is reached"""
    learning_rate: float = 5e-4
    """peak learning rate"""
    warmup: int = 0
    """steps of linear warm-up"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """learning rate schedule after the warm-up"""
    final_learning_rate: float = 0.1
    """final learning rate of the cosine schedule, as a fraction of the peak"""
    betas: tuple[float, float] = (0.9, 0.99)
    """of AdamW or LaProp"""
    epsilon: float = 1e-9
    """of AdamW or LaProp"""
    weight_decay: float = 0.02
    """weight decay, of all weights or, without `decay_all`, of matrices only"""
    optimizer: Literal["adamw", "muon", "laprop"] = "adamw"
    """muon uses orthogonalized steps for the matrices of the blocks; small networks train faster with it. laprop is Adam that
    averages gradients after dividing them by their size
    """
    width_ratio: float = 1.0
    """width of the network over that of the one whose settings these are (CompleteP)"""
    depth_ratio: float = 1.0
    """number of blocks of the network over that of the one whose settings these are (CompleteP)"""
    other_rate: float = 1.0
    """learning rate of all weights but the matrices of the blocks, as a fraction of the learning rate"""
    decay_all: bool = True
    """apply weight decay to biases and norms too"""
    clip: float = 1.0
    """maximum norm of the gradient (clipping)"""
    ema: float | None = None
    """decay of the exponential moving average of the weights"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """dtype of the network's arithmetic; weights and losses are always float32"""
    compile: bool = False
    """compile the blocks of the network"""
    checkpointing: bool = False
    """recompute activations in the backward pass: less memory for about a third more time"""
    seed: int = 1
    """random seed of the initial weights, the data order and the noise"""


@dataclass(frozen=True)
class Data:
    """The training data."""

    corpus: str = "library:prose"
    """library:prose, library:sources (Python's standard library), hub:NAME, shards:FOLDER (tokens that noiselab tokenize has
    written), or a file, folder or glob pattern; corpora of fewer than 20 documents, such as one long file, are cut into pieces
    so that some can be held out
    """
    field: str = "text"
    """name of the field with the text, for documents with fields"""
    tokenizer: str = "train"
    """train, or the name or folder of a pretrained tokenizer; with shards, train means theirs, and another is refused"""
    vocab_size: int = 1024
    """vocabulary size of a trained tokenizer"""
    length: int = 512
    """tokens per sequence"""
    validation: float = 0.05
    """fraction of the texts that is held out; shards have been divided when they were written"""
    held_out: str = ""
    """file, folder or glob pattern of held-out texts (with shards also shards:FOLDER), or last:N for the last N texts of the
    corpus, instead of a fraction of it
    """
    packing: Literal["concatenate", "document", "wrap", "crop"] = "concatenate"
    """concatenate joins all texts; document has one text to a sequence, cut or padded; wrap joins them between a start and an
    end token (MDLM); crop takes one part of each text, at a random place (GIDD)
    """
    separate_documents: bool = False
    """tokens attend to their own text only, in which positions begin at 0, where a sequence holds several"""
    learn_padding: bool = False
    """padding is seen, noised and learned like any token (GIDD)"""
    validation_sequences: int = 512
    """maximum number of held-out sequences"""
    stream: bool = False
    """read the corpus while training instead of packing it first, for corpora that do not fit into memory; shards are read row
    by row in any case
    """
    readers: int = 0
    """number of readers of a stream, a multiple of the loader workers; 0: 64, or fewer for a corpus with fewer parts"""
    cache: Path | None = None
    """folder for packed data"""


@dataclass(frozen=True)
class Run:
    """Settings that may change when a run is resumed."""

    output: Path | str
    """folder of the run: checkpoints, tokenizer, options.yaml, and the finished model in `final`"""
    resume: str = "auto"
    """auto (from the newest intact checkpoint, if any), never, or a checkpoint folder"""
    log_every: int = 20
    """steps between logged losses"""
    evaluate_every: int = 1000
    """steps between evaluations; 0 for none"""
    save_every: int = 1000
    """steps between checkpoints; 0 for none"""
    keep: int = 3
    """number of checkpoints to keep, at least 2"""
    shards: int = 1
    """processes that share one copy of the weights: 1 for a copy in each, 0 for one copy in all"""
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    """experiment tracker for training curves"""
    workers: int = 0
    """number of data loader workers"""
    cpu: bool = False
    """do not use a GPU"""
    progress: bool = True
    """show a progress bar"""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.output)


def command_line(presets: Mapping[str, tuple[str, Options]], arguments: Sequence[str] | None = None) -> Options:
    """Parse the settings of a run from a command line.

    **Arguments:**

    - `presets`: name -> (description, settings).
    - `arguments`: the arguments after the program's name; by default those of this process. The first one names a
      preset; `--config file.yaml` or `--config=file.yaml` may follow anywhere. A YAML file contains fields by name, in
      groups or not; flags override it.

    **Returns:** the settings. Unknown flags and values of the wrong type exit the program with a message.

    **Raises:** `ValueError` if the YAML file is missing or contains no fields.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    while (place := next((i for i, word in enumerate(given) if _is_config(word)), None)) is not None:
        _, equals, file = given.pop(place).partition("=")
        if not equals:
            if place == len(given):
                raise ValueError("--config must be followed by a YAML file; got nothing")
            file = given.pop(place)
        given[1:1] = yaml_flags(Path(file))  # after the preset, before the flags
    described = {
        name: (f"{text}. Also takes --config FILE.yaml: settings by name, which flags override", settings)
        for name, (text, settings) in presets.items()
    }
    return tyro.extras.overridable_config_cli(
        described,
        args=given,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
        registry=REGISTRY,
    )


def _is_config(word: str) -> bool:
    return word == "--config" or word.startswith("--config=")


def run_recipe(main: Callable[[], Any]) -> NoReturn:
    """Run a program and exit; errors that the user can fix are reported in one line, without a traceback.

    The exit status is 0; 2 after a `ValueError` or an `OSError`; 130 after an interruption, 143 after SIGTERM.

    **Arguments:**

    - `main`: called without arguments.
    """
    try:
        with ending_together():
            main()
    except (ValueError, OSError, ProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command to continue from the newest checkpoint", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def yaml_flags(file: Path) -> list[str]:
    """Convert a YAML file of settings to flags, so that the command-line parser checks names and types."""
    if not file.is_file():
        raise ValueError(f"--config must name a YAML file; nothing found at {file}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} must be a YAML file in UTF-8; {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold settings by name; got {content!r}")
    return list(_flags(content))


def _flags(content: Mapping[str, Any]) -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flags(value)
        else:
            yield f"--{name}"
            yield from map(str, value if isinstance(value, list) else [value])


def as_yaml(options: Any) -> str:
    """Settings as the text of a YAML file for `--config`."""
    return yaml.safe_dump(_plain(dataclasses.asdict(options)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def numbers_of(options: Any) -> dict[str, Any]:
    """The settings of a recipe that a resumed run must not change.

    All except those in its `Run`, and except where its data are: the trainer compares the contents of these.
    """
    plain = _plain(dataclasses.asdict(options))
    plain = {name: plain[name] for name in plain if not isinstance(getattr(options, name), Run)}
    if "data" in plain:
        for place in ("cache", "corpus", "held_out", "data"):
            plain["data"].pop(place, None)
    return {"options": plain}


class KeepOptions(Callback):
    """Writes the settings to `options.yaml` when training begins, after they have been checked against the run.

    **Arguments:**

    - `options`: the settings.
    """

    def __init__(self, options: Any) -> None:
        self.options = options

    def on_begin(self, trainer: "Trainer") -> None:
        """Write the settings."""
        if trainer.layout.first:
            write_text(trainer.run.folder / "options.yaml", as_yaml(self.options))


def autocast_of(optimization: Optimization) -> torch.dtype | None:
    """The dtype of the network's arithmetic, or `None` for that of its weights."""
    return torch.bfloat16 if optimization.precision == "bfloat16" else None
