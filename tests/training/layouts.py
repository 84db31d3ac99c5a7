"""The same run with its processes laid out in several ways; prints what came out as JSON."""

import gc
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from forked import run
from toy_training import L, Rows, V, make
from transformers import LlamaConfig, LlamaForCausalLM
from two_processes import whole

from noiselab.training import causal_loss, with_lora

STEPS = 20
LAYOUTS = {
    "one": (1, {"micro_batch": 16}),
    "micro": (1, {"micro_batch": 4}),
    "ddp": (2, {}),
    "fsdp": (2, {"shards": 0}),
    "hsdp": (4, {"shards": 2}),
    "lora": (1, {"micro_batch": 16}),
    "lora, fsdp": (2, {"shards": 0}),
}
RESUMED = {"by one": (1, {}), "by four": (4, {"shards": 0}), "by hsdp": (4, {"shards": 2})}


def causal():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=V, max_position_embeddings=L, **sizes))
    return with_lora(model, rank=2)


def train(folder, end, **options):
    """One process of a run; the first writes losses, weights and average."""
    if folder.name.startswith("lora"):
        options |= {"model": causal(), "process": None, "extra": {"loss": causal_loss}}
    settings = {"dropout": 0.0, "batch": 16, "steps": STEPS, "save_every": 8, "log_every": 1, "learning_rate": 1e-3}
    trainer = make(folder, data=Rows(40), **{**settings, **options})
    trainer.train()
    found = {
        "losses": [entry["loss"] for entry in trainer.history if "loss" in entry],
        "weights": whole(trainer.network.parameters()),
        "average": whole(trainer.average.tensors().values()),
        "resumed": trainer.resumed and trainer.resumed.name,
    }
    if trainer.layout.first:
        end.write_text(json.dumps(found))


def main(root):
    results = {}
    for name, (world, options) in [*LAYOUTS.items(), *RESUMED.items()]:
        folder, end = root / name, root / f"{name}.json"
        if name in RESUMED:
            shutil.copytree(root / "fsdp" / "checkpoint-8", folder / "checkpoint-8")
        ended = run(lambda: train(folder, end, **options), root / "log", world)  # noqa: B023
        assert [process.status for process in ended] == [0] * world, (name, ended)
        results[name] = json.loads(end.read_text())
    print(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None
    make(Path(sys.argv[1]) / "unused")  # loads what all forks need, once
    causal()
    gc.freeze()  # or each fork looks through all of it
    main(Path(sys.argv[1]))
