"""The entry point of the command line: dispatch to commands and error reporting."""

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__

COMMANDS = {
    "train": "run a recipe: noiselab train recipes/gidd_plus.py demo",
    "tokenize": "encode a corpus into shards of token blocks on disk",
    "generate": "generate texts from noise or from prompts, as JSON Lines",
    "correct": "correct texts or generated samples with a diffusion model",
    "evaluate bound": "negative log-likelihood of text files (bound or exact)",
    "evaluate perplexity": "perplexity of samples under a causal model, with entropy and n-gram diversity",
    "evaluate correction": "effect of self-correction over temperatures and steps, as a table and a plot",
    "evaluate harness": "tasks of lm-evaluation-harness: accuracy and others with their standard errors",
    "compare": "paired difference of two models on the same texts, with its confidence interval",
    "inspect": "describe a model; plot its noise and one denoising trajectory",
}

ALONE = ("tokenize", "inspect", "evaluate harness")
"""Commands that run in one process."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with status 0, or 2 after an error that the user can fix, reported in one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        sys.exit(0 if given else 2)
    if given[0] == "--version":
        print(f"noiselab {__version__}")
        sys.exit(0)
    words = 2 if given[0] == "evaluate" else 1
    name = " ".join(given[:words])
    if name not in COMMANDS:
        if given[0] == "evaluate" and set(given[1:2]) & {"-h", "--help"}:
            print(overview())
            sys.exit(0)
        print(f"error: a command must be one of: {', '.join(COMMANDS)}; got {name!r}", file=sys.stderr)
        sys.exit(2)
    try:
        run(name, given[words:])
    except RuntimeError as error:
        from ..distributed import ProcessError

        if not isinstance(error, ProcessError):
            raise
        if _is_first() or "no answer" in str(error):  # the one that failed prints its error itself
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(1)  # torchrun ends all processes when the first ends, also one that is about to print
        sys.exit(2)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def run(name: str, arguments: Sequence[str]) -> Any:
    """Run a command with the arguments after its name, and return its result."""
    if name in ALONE and not _is_alone():
        raise ValueError(f"{name} runs in one process; start it without torchrun")
    module = importlib.import_module(f".{name.replace(' ', '_')}", __package__)
    if name == "train":
        return module.main(list(arguments))
    import tyro

    with contextlib.ExitStack() as quiet:
        if not _is_first():  # help and wrong options are printed once
            nowhere = quiet.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            quiet.enter_context(contextlib.redirect_stdout(nowhere))
            quiet.enter_context(contextlib.redirect_stderr(nowhere))
        options = tyro.cli(module.Options, args=list(arguments), prog=f"noiselab {name}")
    return module.main(options)


def _is_first() -> bool:
    """Whether this is the first or the only one of the processes that `torchrun` has started."""
    return _is_alone() or os.environ.get("RANK", "0") in ("", "0")


def _is_alone() -> bool:
    return os.environ.get("WORLD_SIZE", "1") in ("", "1")


def overview() -> str:
    """The list of commands, one per line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    head = "Noise processes and samplers for language models that correct themselves.\n\nusage: noiselab COMMAND ...\n"
    return "\n".join([head, *lines, "", "Run noiselab COMMAND --help for the options of a command."])
