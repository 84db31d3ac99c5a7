"""Runs in each of two processes; the first writes what they saw as JSON."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from toy_training import Rows, Stream, digest, make

from noiselab.training import checkpoints


def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def watch(trainer):
    """Keep the times of each micro-batch and the gradients of the first step."""
    import noiselab.training.noised as noised

    times, original = [], noised.step_times

    def record(place, *args):
        t = original(place, *args)
        if place.seed == 1:  # not those of evaluation
            times.append(t.tolist())
        return t

    noised.step_times = record
    first = []
    step = trainer.training_step

    def training_step(*args, **kwargs):
        loss = step(*args, **kwargs)
        if trainer.state.global_step == 0 and trainer.micro == trainer.accumulation:
            first.extend(p.grad.flatten().tolist() for p in trainer.model.parameters() if p.grad is not None)
        return loss

    trainer.training_step = training_step
    return times, first


def main(root):
    results = {}
    options = {"dropout": 0.0, "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2}

    def train(name, **more):
        trainer = make(root / name, **{**options, **more})
        trainer.train()
        return trainer

    trainer = make(
        root / "joint",
        eval_strategy="steps",
        eval_steps=3,
        per_device_eval_batch_size=3,  # 13 rows are 5 batches: 3 for one process, 2 for the other
        **options,
        extra={"eval_dataset": Rows(13, seed=5)},
    )
    times, gradients = watch(trainer)
    trainer.train()
    everyone = [None, None]
    dist.all_gather_object(everyone, times)
    results["joint"] = {
        "times": everyone,
        "gradients": gradients,
        "weights": [p.flatten().tolist() for p in trainer.model.parameters()],
        "average": [p.flatten().tolist() for p in trainer.average.ema.shadow_params],
        "losses": [e["loss"] for e in trainer.state.log_history if "loss" in e],
        "evaluated": [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e],
    }

    whole = digest(train("whole", dropout=0.1))
    if dist.get_rank() == 0:  # the same run again, then its last checkpoint is hurt in what the second process wrote
        import shutil

        shutil.copytree(root / "whole", root / "hurt")
        file = root / "hurt" / "checkpoint-6" / "rng_state_1.pth"
        file.write_bytes(file.read_bytes()[:100])
    dist.barrier()
    hurt = make(root / "hurt", **{**options, "dropout": 0.1})
    hurt.train()
    everyone = [None, None]
    dist.all_gather_object(everyone, [whole, digest(hurt), hurt.resumed.name, torch.rand(()).item()])
    results["hurt"] = everyone

    def spoil(model, batch, *, place, tokens):
        loss = sum(p.sum() for p in model(batch["input_ids"], torch.ones(len(batch["input_ids"]))).logits[0])
        return loss.sum() * (float("nan") if (place.step, place.rank) == (3, 1) else 0)

    failing = make(root / "bad", process=None, **options, extra={"loss": spoil})
    everyone = [None, None]
    dist.all_gather_object(everyone, error_of(failing.train))
    results["not finite"] = everyone

    results["fsdp"] = error_of(lambda: make(root / "fsdp", ema=None, **options, fsdp=True))
    stream = train("stream", data=Stream(Rows(24)))
    results["stream"] = [p.flatten().tolist() for p in stream.model.parameters()]
    results["kept"] = [f.name for f in checkpoints.checkpoints(root / "whole")]
    if dist.get_rank() == 0:
        (root / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    dist.barrier()
    dist.destroy_process_group()
    # Everything is done and written. Taking the interpreter down as well has aborted in a thread of torch's own
    # ("terminate called without an active exception"); an error above still ends with its traceback.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
