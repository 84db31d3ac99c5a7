"""The first weights of a network that was built without memory, on torch's device "meta": drawn, or read from files.

They are filled in part by part: each block of the network, then the rest. A process that shards every part as soon as it is
filled holds its shards and one whole part, never the whole network.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .noise import derive_seed

Weights: TypeAlias = str | Path | Callable[[nn.Module], None]
"""Where the first weights come from: a folder of safetensors, or what changes those that are drawn, module by module."""


def is_empty(network: nn.Module) -> bool:
    """Whether a network has no memory yet.

    **Raises:** `ValueError` if a part of it has.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    there = [name for name, tensor in tensors if not tensor.is_meta]
    if there and len(there) < len(tensors):
        raise ValueError(
            'a model must be built on the device "meta" as a whole, or not at all; it has memory for '
            f"{', '.join(there[:3])}, and none for {len(tensors) - len(there)} others"
        )
    return bool(tensors) and not there


class FirstWeights:
    r"""Fills the parts of a network on the device "meta" with their first weights, on the CPU.

    The weights of each module are drawn by its network's `_init_weights` (of a model of transformers) or its own
    `reset_parameters`, from a generator whose seed is a hash of the seed and the module's name. So they do not depend on the
    order of the parts, nor on how many processes share them.

    **Arguments:**

    - `network`: the network.
    - `seed`: the seed from which weights are drawn.
    - `weights`: a folder of safetensors with the weights under the names that they have in the network, or in the model of
      transformers inside it; by default all are drawn. Or a function that is called with each module, as by `apply`, when its
      weights and those inside it have been drawn, and may change them.

    **Raises:** `ValueError` if the files cannot be read, or do not have the weights of the network.
    """

    def __init__(self, network: nn.Module, seed: int, weights: Weights | None = None):
        self.seed, self.names = seed, {module: name for name, module in network.named_modules()}
        # The models of transformers that a module belongs to: the inner one draws its weights, the outer one has a file.
        self.owners: dict[nn.Module, Any] = {}
        self.saved: dict[nn.Module, str] = {}
        for name, module in network.named_modules():  # a model inside another comes after it
            if isinstance(module, transformers.PreTrainedModel):
                self.owners |= dict.fromkeys(module.modules(), module)
                self.saved = dict.fromkeys(module.modules(), f"{name}.") | self.saved
        self.filled: dict[int, Tensor] = {}  # tensors without memory that have been given some
        # Of the part that is being filled: its buffers with their numbers of changes, and the tensors that are in files.
        self.made: dict[int, tuple[Tensor, int]] = {}
        self.read: set[int] = set()
        self.change, self.folder = None, None
        if callable(weights):
            self.change = weights
        elif weights is not None:
            self.folder = Path(weights)
        self.files = {} if self.folder is None else _index(self.folder)
        if self.folder is not None:
            self._check_names(network)

    def fill(self, part: nn.Module, apart: Iterable[nn.Module] = ()) -> None:
        """Fill a part of the network; not the modules `apart` inside it.

        **Raises:** `ValueError` if a module does not say how its weights are drawn, or shares some with a part before.
        """
        others = {module for other in apart for module in other.modules()}
        modules = [module for module in part.modules() if module not in others]
        made: dict[int, Tensor] = {}
        self.made, self.read = {}, set()
        for module in modules:
            self._allocate(module, made)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for module in reversed(modules):  # parents may set what is in their children
                self._draw(module)
            for module in modules:
                self._read(module)
        for module in modules:
            self._check(module)

    def _check(self, module: nn.Module) -> None:
        """Check that a module has no tensor that nothing has set: uninitialized memory would be used as if it were one."""
        for name, tensor in module.named_parameters(recurse=False):
            if not bool(tensor.isfinite().all()):
                if id(tensor) in self.read:
                    raise ValueError(
                        f"{self.folder} must contain finite weights; {self._name(module, name)} has infinities or NaN"
                    )
                raise ValueError(
                    f'a model on the device "meta" must draw all of its weights in reset_parameters or _init_weights; '
                    f"{type(module).__name__} leaves {self._name(module, name)} as it is"
                )
        for name, buffer in module.named_buffers(recurse=False):
            # Each change in place counts; one through `.data`, which does not, is seen where the memory was NaN.
            given, changes = self.made.get(id(buffer), (None, 0))
            untouched = given is buffer and buffer.numel() and buffer._version == changes
            if untouched and (not buffer.is_floating_point() or bool(buffer.isnan().any())):
                raise ValueError(
                    f'a model on the device "meta" must set its buffers in reset_parameters or _init_weights, too; '
                    f"{type(module).__name__} leaves {self._name(module, name)} as it is (or build it with memory, or set the "
                    "buffer in a function given as weights=)"
                )

    def _allocate(self, module: nn.Module, made: dict[int, Tensor]) -> None:
        """Give the tensors of a module memory, tied ones once: NaN, so that weights which are not drawn are noticed."""
        places: Any = (module._parameters, module._buffers)
        for place in places:
            for name, tensor in place.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in made:
                    if id(tensor) in self.filled:
                        raise ValueError(
                            f"weights of a block must not be shared with other parts; {self._name(module, name)} is"
                        )
                    new = torch.empty_like(tensor, device="cpu")
                    if tensor.is_floating_point() or tensor.is_complex():
                        new.fill_(torch.nan)
                    if isinstance(tensor, nn.Parameter):
                        new = nn.Parameter(new, requires_grad=tensor.requires_grad)
                    else:
                        self.made[id(new)] = new, new._version
                    made[id(tensor)], self.filled[id(tensor)] = new, tensor
                place[name] = made[id(tensor)]

    def _draw(self, module: nn.Module) -> None:
        torch.manual_seed(derive_seed("weights", self.seed, self.names[module]))
        if module in self.owners:
            self.owners[module]._init_weights(module)
        else:
            reset: Any = getattr(module, "reset_parameters", lambda: None)
            reset()
        if self.change is not None:
            self.change(module)

    def _read(self, module: nn.Module) -> None:
        """Read what the files have of a module."""
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)] if self.files else []
        for name, tensor in own:
            found = next((key for key in self._keys(module, name) if key in self.files), None)
            if found is None:
                continue
            try:
                with safe_open(self.files[found], framework="pt") as content:
                    value = content.get_tensor(found)
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{self.files[found]} must be a file of safetensors; {error}") from error
            for what, theirs, ours, equal in (
                ("shape", list(value.shape), list(tensor.shape), value.shape == tensor.shape),
                ("dtype", value.dtype, tensor.dtype, _kind(value) == _kind(tensor)),
            ):
                if not equal:
                    raise ValueError(
                        f"{self.files[found]} must contain the weights of this model; {found} has {what} {theirs}, in the "
                        f"model {ours}"
                    )
            tensor.copy_(value)
            self.read.add(id(tensor))

    def _name(self, module: nn.Module, name: str) -> str:
        return ".".join(part for part in (self.names[module], name) if part)

    def _keys(self, module: nn.Module, name: str) -> Iterator[str]:
        """The names that a tensor may have in a file."""
        full = self._name(module, name)
        yield full
        yield full.removeprefix(self.saved.get(module, ""))

    def _check_names(self, network: nn.Module) -> None:
        known, missing = set[str](), list[str]()
        found: dict[int, bool] = {}
        for module in network.modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    keys = set(self._keys(module, name))
                    known |= keys
                    found[id(tensor)] = found.get(id(tensor), False) or bool(keys & self.files.keys())
        for name, tensor in network.named_parameters():  # tied weights are in a file once
            if not found[id(tensor)]:
                missing.append(name)
        wrong = [*missing, *sorted(self.files.keys() - known)]
        if wrong:
            raise ValueError(
                f"{self.folder} must contain the weights of this model by their names in it; it differs in "
                f"{', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}"
            )


def _kind(tensor: Tensor) -> str:
    """The kind of a tensor's numbers, within which a change of dtype only rounds."""
    return "floating" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def _index(folder: Path) -> dict[str, Path]:
    """The file of each tensor in a folder of safetensors."""
    found: dict[str, Path] = {}
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt") as content:
                names = list(content.keys())
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} must be a file of safetensors; {error}") from error
        twice = [name for name in names if name in found]
        if twice:
            raise ValueError(
                f"{folder} must contain each weight once; {twice[0]} is in {found[twice[0]].name} and in {file.name} "
                "(keep those of one model)"
            )
        found |= dict.fromkeys(names, file)
    return found


def _files(folder: Path) -> list[Path]:
    """The files of the weights in a folder: those that its index names, or all if it has none."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise ValueError(f"weights must be in a folder of safetensors; {folder} is {what}")
    there = sorted(folder.glob("*.safetensors"))
    for index in sorted(folder.glob("*.safetensors.index.json")):
        whole = folder / index.name.removesuffix(".index.json")
        if whole.exists():
            raise ValueError(
                f"{folder} must contain the weights of one model; it has both {whole.name} and {index.name}: move one of them"
            )
        try:
            listed = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{index} must be an index of safetensors; {error!r}") from error
        missing = sorted(listed - {file.name for file in there})
        if missing:
            raise ValueError(
                f"{folder} must contain the files that {index.name} names; {', '.join(missing)} is missing"
            )
        return [folder / name for name in sorted(listed)]
    if not there:
        raise ValueError(f"weights must be in a folder of safetensors; {folder} has none")
    return there
