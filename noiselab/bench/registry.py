"""Which samplers and correctors the library has: found by walking its packages, so that a new one is a new file.

The bench, the common tests and the table of the guide take them from here. A class says what these need by `variants` and
`law`; which noise it takes is found by trying, for it refuses the others itself.
"""

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from .. import correctors, samplers
from ..correctors import Corrector
from ..denoisers import Denoiser
from ..denoisers.base import select
from ..process import NoiseProcess
from ..processes import TokenRates, gidd, uniform
from ..samplers import Sampler, WrappedSampler
from ..typing import Selection, Times, Tokens

Kind = TypeVar("Kind")


def find_classes(package: ModuleType, kind: type[Kind]) -> dict[str, type[Kind]]:
    """The public classes of a package that derive from `kind` and can be made, by name, in the order of its modules."""
    found: dict[str, type[Kind]] = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            defined_here = inspect.isclass(value) and value.__module__ == module.__name__
            if defined_here and issubclass(value, kind) and not inspect.isabstract(value) and not name.startswith("_"):
                found[name] = value
    return found


def find_samplers() -> dict[str, type[Sampler]]:
    """The samplers that take a process and a denoiser alone, by name; those around samplers are left out."""
    found = find_classes(samplers, Sampler)  # type: ignore[type-abstract]
    return {
        name: kind for name, kind in found.items() if not issubclass(kind, WrappedSampler) and not _needs_more(kind)
    }


def _needs_more(kind: type[Sampler]) -> bool:
    """Whether a sampler cannot be made without other arguments, such as a constraint."""
    given = inspect.signature(kind).parameters.values()
    return sum(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in given) > 2


def find_correctors() -> dict[str, type[Corrector]]:
    """The correctors, by name."""
    return find_classes(correctors, Corrector)  # type: ignore[type-abstract]


def variants_of(kind: type[Sampler] | type[Corrector]) -> Mapping[str, Mapping[str, Any]]:
    """Names for tables -> keyword arguments: what the class says in `variants`, or its defaults under its own name."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub("(Sampler|Corrector)$", "", kind.__name__))
    return vars(kind).get("variants") or {words.lower(): {}}


def factories_of(kind: type[Kind]) -> dict[str, Callable[[NoiseProcess, Denoiser], Kind]]:
    """Names for tables -> factory(process, denoiser), one for each variant of a sampler or a corrector."""
    make = kind.for_process if issubclass(kind, Corrector) else kind
    return {name: functools.partial(make, **settings) for name, settings in variants_of(kind).items()}  # type: ignore[misc, arg-type]


def takes(make: Callable[[NoiseProcess, Denoiser], Any], process: NoiseProcess) -> bool:
    """Whether a sampler or corrector takes this noise: it refuses others by a `ValueError` when it is made."""
    try:
        make(process, _Flat(process.vocab_size))
    except ValueError:
        return False
    return True


def sampler_table() -> str:
    """A Markdown row for each sampler: its names, what noise it takes, its error, where it evaluates the network."""
    head = [
        "Sampler (`nl.samplers`)",
        "In the literature",
        "Process",
        "Error with an exact denoiser",
        "Network evaluated",
    ]
    rows = []
    for name, kind in find_samplers().items():
        law = kind.law or ("falls with the number of steps" if kind.converges else "a bias that does not vanish")
        rows.append([f"`{name}`", in_literature(kind), noise_taken(kind), law, kind.evaluated])
    return _markdown_table(head, rows)


def corrector_table() -> str:
    """A Markdown row for each corrector: its names, what noise it takes, what it changes, what it leaves unchanged."""
    unchanged = "Leaves the distribution of noisy sequences unchanged"
    head = ["Corrector (`nl.correctors`)", "In the literature", "Process", "One call changes", unchanged]
    rows = []
    for name, kind in find_correctors().items():
        law = kind.law or ("exactly" if kind.converges else "no")
        rows.append([f"`{name}`", in_literature(kind), noise_taken(kind), kind.changes, law])
    return _markdown_table(head, rows)


def in_literature(kind: type[Sampler] | type[Corrector]) -> str:
    """What the method is called, and the first paper that the docstring names as its source, linked."""
    source = re.search(r"\*\*Source:\*\*(.*?)(\n\s*\n|$)", vars(kind).get("__doc__") or "", re.DOTALL)
    paper = re.match(
        r"([^;()]+ \(\d{4}\))(?:[^;]*?arXiv (\d{4}\.\d{5}))?", " ".join(source[1].split()) if source else ""
    )
    words = [kind.known_as] if kind.known_as else []
    if paper:
        words.append(f"[{paper[1]}](https://arxiv.org/abs/{paper[2]})" if paper[2] else paper[1])
    return ": ".join(words)


def _markdown_table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def noise_taken(kind: type[Sampler] | type[Corrector]) -> str:
    """The noise that a class takes, in words: found by trying a process of each kind."""
    make = next(iter(factories_of(kind).values()))
    process = {
        "state-dependent": TokenRates(torch.ones(3), mask_id=2),
        "moving": gidd(vocab_size=3, mask_id=2, p_uniform=0.2),
        "uniform": uniform(vocab_size=3),
    }
    taken = [name for name, one in process.items() if takes(make, one)]
    if taken == ["moving"]:
        return "masking with wrong tokens"
    if taken == ["state-dependent", "moving"]:
        return "any with a mask"
    words = {3: "any", 2: "state-independent", 1: "state-independent, constant mixing", 0: "masking"}
    return words[len(taken)]


class _Flat(Denoiser):
    """Uniform predictions, for samplers that are made to see whether they can be."""

    def __init__(self, states: int):
        super().__init__()
        self.states = states

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Equal logits."""
        return select(torch.zeros(*z.shape, self.states, device=z.device), rows)
