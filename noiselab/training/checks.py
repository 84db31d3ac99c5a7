"""Checks before training: data, network and process must be compatible."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import IterableDataset, default_collate

from ..data import TokenStream
from ..denoisers.base import Denoiser
from ..process import NoiseProcess
from .losses import call_denoiser, call_network

logger = logging.getLogger(__name__)

LENGTH_FIELDS = ("max_seq_len", "max_position_embeddings")


class NonFiniteLoss(FloatingPointError, ValueError):
    """A loss or a weight is not finite; the message gives the step and the last good checkpoint."""


def collate(rows: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Stack rows into a batch; an all-true mask is omitted, because attention is faster without a mask."""
    batch = default_collate([dict(row) for row in rows])
    mask = batch.get("attention_mask")
    if mask is not None and bool(mask.all()):
        del batch["attention_mask"]
    return batch


def check_data(dataset: Any, model: nn.Module, args: transformers.TrainingArguments) -> None:
    """Check that the data fit the model and that a resumed run can continue exactly.

    **Raises:** `ValueError`.
    """
    if isinstance(dataset, IterableDataset):
        if not isinstance(dataset, TokenStream) and not getattr(dataset, "endless", False):
            raise ValueError(
                "a training stream must never end (reshuffle within it) and say so with an attribute endless = True, or a "
                f"run that resumes in a later pass sees the wrong data; got {type(dataset).__name__}"
            )
        if args.world_size > 1 and isinstance(dataset, TokenStream) and dataset.world_size != 1:
            raise ValueError(
                "all processes must read one common stream, whose batches the trainer distributes: TokenStream(..., rank=0, "
                f"world_size=1); got rank={dataset.rank}, world_size={dataset.world_size}"
            )
        return
    step = args.per_device_train_batch_size * args.world_size
    if len(dataset) < step:
        raise ValueError(
            f"the data must fill at least one batch of {step} sequences over all processes; got {len(dataset)}"
        )
    length, limit = len(dataset[0]["input_ids"]), longest(model)
    if limit is not None and length > limit:
        raise ValueError(f"sequences must have at most the model's {limit} tokens; the first one has {length}")


def check_evaluation(dataset: Any, args: transformers.TrainingArguments) -> None:
    """Check that each evaluation data set fills at least one batch.

    **Raises:** `ValueError`.
    """
    full = args.per_device_eval_batch_size * args.world_size
    for part in dataset.values() if isinstance(dataset, dict) else [dataset]:
        if part is not None and hasattr(part, "__len__") and len(part) < full:
            raise ValueError(
                f"the evaluation data must fill a batch of {full} sequences over all processes; got {len(part)}: hold out "
                "more, or take smaller batches"
            )


def longest(model: nn.Module) -> int | None:
    """The longest sequence that the model's configuration allows, or `None` if it does not specify one."""
    config = getattr(model, "config", None)
    return next((getattr(config, name) for name in LENGTH_FIELDS if hasattr(config, name)), None)


def check_noise(process: NoiseProcess, time_range: tuple[float, float], model: nn.Module, device: torch.device) -> None:
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
    training = model.training
    z = process.prior(1, 2, generator=torch.Generator().manual_seed(0)).to(device)
    call = call_denoiser if isinstance(model, Denoiser) else call_network
    with torch.no_grad():
        model.eval()
        width = call(model, z, torch.full((1,), high, device=device), None).shape[-1]
        model.train(training)
    if width != process.vocab_size:
        raise ValueError(
            f"the network's logits must have the process's vocabulary size, {process.vocab_size}; got {width}"
        )


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_settings(dataset: Any, args: transformers.TrainingArguments) -> dict[str, Any]:
    """Settings that identify the training data by their contents, wherever and whenever these were written."""
    if isinstance(dataset, IterableDataset):
        kind, workers = type(dataset).__name__, args.dataloader_num_workers
        return {"stream": kind, "workers": workers, "contents": stream_contents(dataset)}
    return {"rows": len(dataset), "contents": row_contents(dataset)}


def stream_contents(dataset: Any) -> str | None:
    """The `key` of a stream, or `None`, with a warning, if it has none."""
    key = getattr(dataset, "key", None)
    if not isinstance(key, str):
        logger.warning(
            "a resumed run cannot notice that the data of this %s have changed: give it an attribute key, a string that "
            "changes whenever its contents do",
            type(dataset).__name__,
        )
        return None
    return key


def row_contents(dataset: Any) -> str:
    """The `key` of a data set, or a hash of all its rows if it has none."""
    key = getattr(dataset, "key", None)
    if isinstance(key, str):
        return key
    digest = hashlib.sha256()
    with torch.random.fork_rng(
        devices=[]
    ):  # rows that draw random numbers are the same each time, and change no others
        torch.manual_seed(0)
        for index in range(len(dataset)):
            digest.update(f"row {index}".encode())
            _add(digest, dataset[index])
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a row or one of its values to a hash."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            digest.update(repr(name).encode())
            _add(digest, part)
    elif isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    else:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
