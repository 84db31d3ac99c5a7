"""The entry point of the command line: dispatch to commands and error reporting."""

import importlib
import sys
from collections.abc import Sequence
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
    "inspect": "describe a model; plot its noise and one denoising trajectory",
}


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
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def run(name: str, arguments: Sequence[str]) -> Any:
    """Run a command with the arguments after its name, and return its result."""
    module = importlib.import_module(f".{name.replace(' ', '_')}", __package__)
    if name == "train":
        return module.main(list(arguments))
    import tyro

    options = tyro.cli(module.Options, args=list(arguments), prog=f"noiselab {name}")
    return module.main(options)


def overview() -> str:
    """The list of commands, one per line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    head = "Noise processes and samplers for language models that correct themselves.\n\nusage: noiselab COMMAND ...\n"
    return "\n".join([head, *lines, "", "Run noiselab COMMAND --help for the options of a command."])
