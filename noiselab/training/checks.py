"""Checks before training: data, network and process must be compatible."""

import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..data import TokenStream
from ..denoisers import Denoiser, takes_mask
from ..networks.masked_lm import is_causal
from ..networks.outputs import accepts, logits_of
from ..networks.wrapped import bare, innermost, plain_name
from ..numerics import require_count, require_number
from ..process import NoiseProcess
from .batches import Collate
from .feeding import Share
from .layout import Layout, blocks_of
from .options import Optimization, Run
from .scoring import call_denoiser, call_network

logger = logging.getLogger(__name__)

SHARDING = ("cpu", "cuda", "xpu")
"""Devices whose processes `join_processes` connects."""


class NonFiniteLoss(FloatingPointError, ValueError):
    """A loss or a weight is not finite; the message gives the step and the last good checkpoint."""


def check_model(model: nn.Module) -> None:
    """Check that the model is the network itself, without wrappers of torch.

    **Raises:** `ValueError`.
    """
    if bare(model) is not model or any(plain_name(name) != name for name, _ in model.named_parameters()):
        raise ValueError(
            f"model must be the network itself, whose weights are stored by name; got a {type(model).__name__} with names "
            "that only a wrapper of torch has (compile with Optimization(compile=True); the trainer distributes "
            "by itself)"
        )


def check_optimization(optimization: Optimization, run: Run, layout: Layout) -> Share:
    """Check the numbers of a run, and divide its batch over the processes.

    **Raises:** `ValueError` for a number out of range, or a batch that cannot be divided.
    """
    o = optimization
    for name, value, least in (
        ("steps", o.steps, 1),
        ("batch", o.batch, 1),
        ("warmup", o.warmup, 0),
        ("seed", o.seed, 0),
        ("log_every", run.log_every, 1),
        ("evaluate_every", run.evaluate_every, 0),
        ("save_every", run.save_every, 0),
        ("workers", run.workers, 0),
    ):
        require_count(name, value, least)
    require_count("keep", run.keep, 2)  # or a run whose only checkpoint is damaged starts again
    for name in ("learning_rate", "weight_decay", "epsilon", "clip"):
        require_number(name, getattr(o, name), 0, infinite=name == "clip")
    for beta in o.betas:
        require_number("betas", beta, 0, 1, below=True)
    require_number("final_learning_rate", o.final_learning_rate, 0, 1)
    for name in ("width_ratio", "depth_ratio"):
        require_number(name, getattr(o, name), 0, above=True)
    require_number("other_rate", o.other_rate, 0)
    if o.optimizer == "muon" and (o.width_ratio, o.depth_ratio, o.other_rate) != (1, 1, 1):
        raise ValueError(
            "the optimizer must be adamw or laprop for width_ratio, depth_ratio and other_rate, which the steps of muon do not "
            f"need; got muon with {o.width_ratio:g}, {o.depth_ratio:g} and {o.other_rate:g}"
        )
    if o.batch % layout.world:
        raise ValueError(f"batch must be a multiple of the number of processes; got {o.batch} and {layout.world}")
    each = o.batch // layout.world
    micro = each if o.micro_batch is None else min(require_count("micro_batch", o.micro_batch), each)
    if each % micro:
        raise ValueError(
            f"batch must be a multiple of micro_batch times the number of processes; got {o.batch}, {micro} and "
            f"{layout.world}"
        )
    return Share(o.batch, micro, layout.rank, layout.world)


def check_data(dataset: Any, collate: Collate, share: Share, workers: int) -> None:
    """Check that the data fit the model and that a resumed run can continue exactly.

    **Raises:** `ValueError`.
    """
    if not isinstance(dataset, IterableDataset):
        return check_rows(dataset, "train_dataset", collate)
    if not isinstance(dataset, TokenStream) and not getattr(dataset, "endless", False):
        raise ValueError(
            "a training stream must never end (reshuffle within it) and say so with an attribute endless = True, or a "
            f"run that resumes in a later pass sees the wrong data; got {type(dataset).__name__}"
        )
    readers = getattr(dataset, "readers", None)
    if isinstance(readers, int) and readers % (share.world * max(1, workers)):
        raise ValueError(
            f"processes times loader workers must divide the number of readers of a stream, {readers}; got {share.world} "
            f"and {workers} (choose others, or give the stream readers=, on which its order depends)"
        )


def check_rows(dataset: Any, name: str, collate: Collate) -> None:
    """Check that a data set has rows that can be read by their index, and that its first row is one of a batch.

    **Raises:** `ValueError`.
    """
    if isinstance(dataset, Mapping):
        raise ValueError(f"{name} must be one data set; got a dict of {sorted(map(str, dataset))}: pass one of them")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, DataLoader):
        raise ValueError(
            f"{name} must be a data set with a length and rows, such as noiselab.data.TokenBlocks or datasets.Dataset; got a "
            f"{type(dataset).__name__}"
        )
    if not len(dataset):
        raise ValueError(f"{name} must hold at least one row; got none")
    collate([dataset[0]])


def check_evaluation(dataset: Any, collate: Collate) -> None:
    """Check the first row of each evaluation data set, and that none is endless.

    **Raises:** `ValueError`.
    """
    for part in dataset.values() if isinstance(dataset, dict) else [dataset]:
        if isinstance(part, TokenStream) or getattr(part, "endless", False):
            raise ValueError(f"evaluation data must be finite; got the endless {type(part).__name__}")
        if part is not None and not isinstance(part, IterableDataset):
            check_rows(part, "eval_dataset", collate)


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's weights."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_causal(model: nn.Module, states: int | None) -> None:
    """Check that a model for a causal loss predicts each token from earlier ones only.

    **Raises:** `ValueError`.
    """
    if states is not None and states < 2:
        return
    device, training = device_of(model), model.training
    with torch.no_grad():
        model.eval()
        try:
            logits = logits_of(model(input_ids=torch.tensor([[0, 0], [0, 1]], device=device)))[:, 0]
        except TypeError as error:
            raise ValueError(f"a causal loss needs a model that is called with input_ids alone; {error}") from error
        finally:
            model.train(training)
    rounding = max(1e-4, 4 * torch.finfo(logits.dtype).eps) * logits.abs().max()
    if (logits[0] - logits[1]).abs().max() > rounding:
        raise ValueError(
            f"a causal loss needs a model whose tokens attend to earlier ones only; {type(innermost(model)).__name__} sees the "
            "token that it must predict (train it with a process)"
        )


def causal_check(model: nn.Module, batch: Any, *, states: int | None, place: Any, tokens: Any) -> Tensor:
    """`check_causal` in the form of a loss, for a model whose weights are whole during a call only."""
    check_causal(model, states)
    return torch.zeros(())


def check_noise(process: NoiseProcess, time_range: tuple[float, float], model: nn.Module) -> None:
    """Check that the process is Markov, the logits match the vocabulary, and rates are finite at all times used.

    **Raises:** `ValueError`.
    """
    low, high = time_range
    if not 0 < low < high < 1:
        raise ValueError(f"times must be within (0, 1), from low to high; got {time_range}")
    if any(p.requires_grad for p in process.parameters()):
        raise ValueError(
            "the process must not have learned parameters here, because only those of the model are trained"
        )
    process.validate()
    check_network(model)
    device, training = device_of(model), model.training
    z = process.prior(1, 2, generator=torch.Generator().manual_seed(0)).to(device)
    call = call_denoiser if isinstance(innermost(model), Denoiser) else call_network
    with torch.no_grad():
        model.eval()
        try:
            width = call(model, z, torch.full((1,), high, device=device), None).shape[-1]
        except IndexError:  # of an embedding
            width = 0
        except (RuntimeError, NotImplementedError):
            if device.type != "meta":  # without values not every network can be called; the loss checks it, too
                raise
            width = process.vocab_size
        finally:
            model.train(training)
    if width < process.vocab_size:
        raise ValueError(
            f"the network must embed each token of the process, and have a logit for each of {process.vocab_size}; got "
            f"{width or 'fewer'} (more, of a vocabulary that is rounded up, are not used)"
        )


def check_network(model: nn.Module) -> None:
    """Check that a network can be trained with a process as it is: a denoiser, or one that is called like `DiT`.

    **Raises:** `ValueError`.
    """
    inner = innermost(model)
    name = type(inner).__name__
    if isinstance(inner, Denoiser):
        return
    parameters = inspect.signature(inner.forward).parameters
    if isinstance(inner, transformers.PreTrainedModel) and "timesteps" not in parameters:
        seen = "a token attends to earlier tokens only" if is_causal(inner) else "no time is passed to the network"
        raise ValueError(
            f"a model of transformers must be wrapped in noiselab.networks.masked_lm.MaskedLanguageModel to be trained with a "
            f"process; got {name}, in which {seen}"
        )
    if not (accepts(inner.forward, "input_ids") and accepts(inner.forward, "timesteps")):
        raise ValueError(
            "a network must be a noiselab.Denoiser, or be called with input_ids and timesteps as "
            f"noiselab.networks.dit.DiT is; {name}.forward takes {list(parameters)}"
        )


def takes_padding(model: nn.Module) -> bool:
    """Whether a network that is trained with a process accepts the attention mask of padded batches."""
    inner = innermost(model)
    return takes_mask(inner) if isinstance(inner, Denoiser) else accepts(inner.forward, "attention_mask")


def check_padding(model: nn.Module) -> None:
    """Called for the first padded batch of a network that accepts no attention mask: a denoiser is warned about.

    **Raises:** `ValueError` for a network.
    """
    name = type(innermost(model)).__name__
    if not isinstance(innermost(model), Denoiser):
        raise ValueError(
            f"padded data need a network that accepts attention_mask; {name} does not (cut texts into full blocks with "
            "noiselab.data.pack(..., keep_partial=False))"
        )
    warnings.warn(
        f"{name} takes no attention mask, so that it is trained with padding visible: use it with the same padding, or let it "
        "take masks (takes_mask of noiselab.Denoiser)",
        UserWarning,
        stacklevel=2,
    )


def enable_checkpointing(model: nn.Module) -> None:
    """Enable activation checkpointing: of the networks of transformers inside a model by their own means.

    **Raises:** `ValueError` if there is none, or one does not support it.
    """
    inside = next((m for m in innermost(model).modules() if isinstance(m, transformers.PreTrainedModel)), None)
    if inside is None or not inside.supports_gradient_checkpointing:
        name = type(innermost(model) if inside is None else inside).__name__
        raise ValueError(f"checkpointing needs a network of transformers that supports it, or a DiT; {name} does not")
    inside.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def check_sharding(layout: Layout, optimization: Optimization, model: nn.Module) -> None:
    """Raise `ValueError` for what sharded weights do not allow."""
    if layout.shards == 1:
        return
    if layout.device.type not in SHARDING:
        raise ValueError(
            f"sharded weights must be on one of {', '.join(SHARDING)}, whose processes torch can connect; got "
            f"{layout.device.type} with shards={layout.shards}"
        )
    if not blocks_of(model):
        raise ValueError(
            "a network must have repeated blocks in an nn.ModuleList to be sharded, because they are gathered one by one; "
            f"{type(innermost(model)).__name__} has none (shards=1 trains it with a copy in each process)"
        )
    owners: dict[int, set[int]] = {}  # of each weight: its block, or -1
    blocks = {module: number for number, block in enumerate(blocks_of(model)) for module in block.modules()}
    for name, module in model.named_modules():
        for own, weight in module.named_parameters(recurse=False):
            if len(owners.setdefault(id(weight), set()) | {blocks.get(module, -1)}) > 1:
                raise ValueError(
                    "weights of a block must not be shared with other parts when they are sharded, block by block; "
                    f"{name}.{own} is (shards=1 trains it with a copy in each process)"
                )
            owners[id(weight)].add(blocks.get(module, -1))
    if optimization.optimizer == "muon":
        raise ValueError(
            "optimizer must be 'adamw' or 'laprop' with sharded weights, because Muon needs whole matrices; got 'muon' with "
            f"shards={layout.shards}"
        )
