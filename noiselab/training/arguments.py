"""transformers' training arguments with defaults that make training exactly resumable and failures visible."""

import os
from pathlib import Path
from typing import Any

import torch
import transformers

# A resumed run must have the same values of these arguments; all others (logging, saving, evaluation) may change.
NUMBERS = (
    "per_device_train_batch_size gradient_accumulation_steps max_steps num_train_epochs learning_rate lr_scheduler_type "
    "lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm "
    "bf16 fp16 tf32 torch_compile torch_compile_backend torch_compile_mode seed data_seed train_sampling_strategy "
    "dataloader_drop_last ignore_data_skip full_determinism activation_checkpointing neftune_noise_alpha "
    "use_liger_kernel label_smoothing_factor fsdp"
).split()


def training_arguments(output_dir: str | Path, **fields: Any) -> transformers.TrainingArguments:
    """`transformers.TrainingArguments` with the defaults that `Trainer` needs.

    - `logging_nan_inf_filter=False`: a NaN loss is logged as NaN, not as 0.
    - `data_seed`: defaults to `seed`, so that the data order is determined by a setting and not by the state of the
      process.
    - `dataloader_drop_last=True`: a short last batch would leave gaps among the times.
    - `remove_unused_columns=False`: the loss receives the batch unchanged.
    - `save_total_limit=3`: the number of checkpoints to keep, newest by step; at least 2, in case the newest is damaged.
    - `ddp_find_unused_parameters=False`: every parameter is used in every step.
    - `dispatch_batches=False`: each process reads its own part of a stream.
    - `use_cpu`: set if there is no accelerator; otherwise transformers trains each of several CPU processes separately.
    - `report_to="none"`, `num_train_epochs=1`.

    **Arguments:**

    - `output_dir`: the folder for checkpoints.
    - `fields`: any field of `transformers.TrainingArguments`.

    **Example:**

    ```python
    from noiselab.training import training_arguments

    arguments = training_arguments("runs/one", max_steps=1000, learning_rate=1e-3, seed=1)
    assert arguments.data_seed == 1
    ```
    """
    defaults: dict[str, Any] = {
        "logging_nan_inf_filter": False,
        "dataloader_drop_last": True,
        "remove_unused_columns": False,
        "save_total_limit": 3,
        "ddp_find_unused_parameters": False,
        "accelerator_config": {"dispatch_batches": False},
        "report_to": "none",
        "num_train_epochs": 1,
        "data_seed": fields.get("seed", 42),
        "use_cpu": not torch.accelerator.is_available(),
    }
    return transformers.TrainingArguments(str(output_dir), **{**defaults, **fields})


def check_arguments(args: transformers.TrainingArguments) -> None:
    """Check that a run with these arguments can be resumed exactly and does not hide failures.

    **Raises:** `ValueError` naming the argument.
    """
    required: dict[str, Any] = {
        "logging_nan_inf_filter": (False, "or a NaN loss is logged as 0"),
        "dataloader_drop_last": (True, "or a short last batch leaves gaps among the times"),
        "remove_unused_columns": (False, "because the loss needs all columns of the batch"),
        "ignore_data_skip": (False, "or a resumed run sees other data"),
        "save_only_model": (False, "or a run cannot be resumed"),
        "auto_find_batch_size": (False, "because the batch size determines the noise"),
        "load_best_model_at_end": (False, "because the weights and their average would come from different steps"),
        "label_smoothing_factor": (0, "because the loss is computed by this library"),
    }
    for name, (value, reason) in required.items():
        if getattr(args, name) != value:
            raise ValueError(f"{name} must be {value}, {reason}; got {getattr(args, name)!r}")
    if args.data_seed is None:
        raise ValueError(
            "data_seed must be given, or the order of the data depends on the state of the process; got None"
        )
    if args.save_total_limit is not None and args.save_total_limit < 2:
        raise ValueError(
            "save_total_limit must be at least 2, or a run whose only checkpoint is damaged starts again; got "
            f"{args.save_total_limit}"
        )
    if args.world_size != (started := int(os.environ.get("WORLD_SIZE", "1"))):
        raise ValueError(
            f"all {started} processes must train together, but transformers sees {args.world_size} (on CPUs, set use_cpu=True)"
        )
    if args.n_gpu > 1:
        raise ValueError(f"each process must use one device (start with torchrun); got a process with {args.n_gpu}")


def numbers(args: transformers.TrainingArguments) -> dict[str, Any]:
    """The arguments that determine the numerical results of a run, as JSON types."""
    values = args.to_dict()
    return {name: values[name] for name in NUMBERS if name in values}
