"""Runs in each of two processes; the first writes what they saw as JSON."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from toy_training import Rows, Stream, V, digest, make

from noiselab.training import stopping
from noiselab.training.layout import full_tensor, start_processes


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
    zero = trainer.optimizer.zero_grad

    def zero_grad():
        if not first:
            first.extend(p.grad.flatten().tolist() for p in trainer.network.parameters() if p.grad is not None)
        zero()

    trainer.optimizer.zero_grad = zero_grad
    return times, first


def whole(tensors):
    """Tensors without shards, as lists of numbers."""
    return [full_tensor(tensor.detach()).flatten().tolist() for tensor in tensors]


def result(trainer):
    return {
        "weights": whole(trainer.network.parameters()),
        "average": whole(trainer.average.tensors().values()),
        "losses": [entry["loss"] for entry in trainer.history if "loss" in entry],
        "evaluated": [entry["eval_loss"] for entry in trainer.history if "eval_loss" in entry],
        "held": sum(full.numel() for full in map(local, trainer.network.parameters())),
    }


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def everyone(value):
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def bound(network):
    """The bound of held-out rows, by all processes."""
    import noiselab as nl
    from noiselab.distributed import join_processes
    from noiselab.evaluation import validation_bound
    from noiselab.networks.huggingface import TransformersDenoiser

    process, random = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2), torch.Generator().manual_seed(0)
    options = {"batch_size": 3, "generator": random, "processes": join_processes("cpu")}  # 13 rows are 5 batches
    return validation_bound(process, TransformersDenoiser(network), Rows(13, seed=5), **options)


def main(root):
    results = {}
    options = {"dropout": 0.0, "batch": 16, "micro_batch": 4, "steps": 6, "save_every": 2, "log_every": 1}

    def train(name, **more):
        trainer = make(root / name, **{**options, **more})
        trainer.train()
        return trainer

    extra = {"eval_dataset": Rows(13, seed=5)}  # 13 rows are 4 batches of 4, the last one short
    trainer = make(root / "joint", **options, evaluate_every=3, extra=extra)
    times, gradients = watch(trainer)
    trainer.train()
    results["joint"] = {"times": everyone(times), "gradients": gradients, **result(trainer)}
    sharded = train("sharded", shards=0, evaluate_every=3, extra=extra)
    results["sharded"] = {**result(sharded), "bound": sharded.measure(bound).nats.tolist()}
    sharded.save_final(root / "sharded" / "final")

    blocks = {"evaluate_every": 3, "extra": {**extra, "blocks": 4}}
    results["blocks"] = result(train("blocks", **blocks))
    results["blocks, sharded"] = result(train("blocks, sharded", shards=0, **blocks))

    started = digest(train("whole", dropout=0.1))
    if dist.get_rank() == 0:  # the same run again, then its last checkpoint is hurt in what the second process wrote
        import shutil

        shutil.copytree(root / "whole", root / "hurt")
        (root / "hurt" / "checkpoint-6" / "data-1.json").write_bytes(b"{")
        # A checkpoint of one process is resumed by two.
        shutil.copytree(root / "one" / "checkpoint-2", root / "from one" / "checkpoint-2")
        shutil.copytree(root / "one" / "checkpoint-2", root / "from one, sharded" / "checkpoint-2")
    dist.barrier()
    hurt = make(root / "hurt", **{**options, "dropout": 0.1})
    hurt.train()
    results["hurt"] = everyone([started, digest(hurt), hurt.resumed.name])
    results["from one"] = result(train("from one"))
    results["from one, sharded"] = result(train("from one, sharded", shards=0))

    def spoil(model, batch, *, place, tokens):
        loss = sum(p.sum() for p in model(batch["input_ids"], torch.ones(len(batch["input_ids"]))).logits[0])
        return loss.sum() * (float("nan") if (place.step, place.rank) == (3, 1) else 0)

    failing = make(root / "bad", process=None, **options, extra={"loss": spoil})
    results["not finite"] = everyone(error_of(failing.train))
    results["dropped"] = everyone([train("dropout", dropout=0.5, steps=1).step_loss.item()])

    results["muon"] = error_of(lambda: make(root / "muon", **options, shards=0, optimizer="muon"))
    results["mesh"] = error_of(lambda: make(root / "mesh", **options, shards=3))
    stopping.SEEN = 0.5
    apart = [make(root / "apart" / str(dist.get_rank()), **{**options, "save_every": every}) for every in (2, 0)]
    results["apart"] = everyone([error_of(one.train) for one in apart])
    results["batch"] = error_of(lambda: make(root / "batch", **{**options, "batch": 15}))
    results["stream"] = result(train("stream", data=Stream(Rows(24))))
    if dist.get_rank() == 0:
        (root / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    start_processes(cpu=True)
    main(Path(sys.argv[1]))
    dist.barrier()
    dist.destroy_process_group()
    # Everything is done and written. Taking the interpreter down as well has aborted in a thread of torch's own
    # ("terminate called without an active exception"); an error above still ends with its traceback.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
