"""Networks inside the wrappers of compilation, data-parallel training and peft, and the names of their weights."""

import sys
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Modules that torch inserts into a network: by compilation, sharding and activation checkpointing."""


def bare(model: nn.Module) -> Any:
    """The network inside wrappers of torch: compilation and data-parallel training."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
            continue
        inner = next((model._modules[name] for name in INSERTED if model._modules.get(name) is not None), None)
        if inner is None:
            return model
        model = inner


def innermost(model: nn.Module) -> Any:
    """The network inside wrappers of torch and of peft."""
    return bare(plain_network(bare(model)))


def plain_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights by the names that they have in the network without wrappers of torch."""
    return {plain_name(name): weight for name, weight in bare(model).named_parameters()}


def plain_name(name: str) -> str:
    """The name of a weight without the modules that torch inserts."""
    return ".".join(part for part in name.split(".") if part not in INSERTED)


def import_peft() -> Any:
    """Import the optional package peft.

    **Raises:** `ImportError` if it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("low-rank updates require the package peft: pip install noiselab[finetune]") from error
    return peft


def is_adapted(network: nn.Module) -> bool:
    """Whether a network has adapters of peft; does not import peft, which is optional."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(network, peft.PeftModel)


def plain_network(network: nn.Module) -> Any:
    """The model of transformers inside a network with adapters, with the adapters in its layers; any other as it is."""
    inner: Any = network
    return inner.get_base_model() if is_adapted(network) else network
