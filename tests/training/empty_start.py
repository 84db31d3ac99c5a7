"""Runs in each of two processes that share networks built without memory; the first writes what they saw as JSON."""

import ctypes
import json
import os
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from torch import nn
from toy_training import L, V, make
from two_processes import error_of, everyone, whole

from noiselab.networks.dit import DiT, DiTConfig
from noiselab.training.layout import start_processes
from noiselab.training.losses import causal_loss

SIZES = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def dit():
    return DiT(DiTConfig(max_seq_len=L, timestep_cond_dim=8, **SIZES))


def tied():
    """A causal model whose output layer is its embedding."""
    more = {"intermediate_size": 16, "max_position_embeddings": L, "tie_word_embeddings": True}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **more))


def empty(build):
    with torch.device("meta"):
        return build()


class Ahead(nn.Module):
    """Sees the token that it should predict."""

    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(V, V), nn.ModuleList([nn.Linear(V, V)])

    def forward(self, input_ids, attention_mask=None):
        return self.blocks[0](self.embed(input_ids.roll(-1, 1)))


def causal(folder, model, **more):
    return make(folder, model=model, process=None, extra={"loss": causal_loss, **more.pop("extra", {})}, **more)


def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_of(work):
    """Bytes that this process has at most beyond what it has now, while it works."""
    ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


class Watching(threading.Thread):
    """Notes the most memory that this process has of its own, without files that are mapped, while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before, self.most, self.over = status("RssAnon"), 0, threading.Event()

    def run(self):
        while not self.over.wait(0.002):
            self.most = max(self.most, status("RssAnon") - self.before)


def measured(root):
    """Peak memory of the start of a larger network, and of writing it, without its steps."""
    sizes = {"vocab_size": V, "max_seq_len": L, "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8}
    network = empty(lambda: DiT(DiTConfig(**sizes)))
    count = sum(weight.numel() for weight in network.parameters())
    block = sum(weight.numel() for weight in network.blocks[0].parameters())
    made = []
    peak = peak_of(lambda: made.append(make(root / "large", model=network, shards=0)))
    watch = Watching()
    watch.start()
    made[0].save_final(root / "large" / "final")
    watch.over.set()
    return {"bytes": 4 * count, "block": 4 * block, "start": everyone(peak), "end": everyone(watch.most)}


def main(root):
    options = {"dropout": 0.0, "batch": 8, "micro_batch": 4, "steps": 4, "save_every": 2, "log_every": 1, "shards": 0}
    results = {"measured": measured(root)}
    for name, build, start in (("dit", dit, make), ("tied", tied, causal)):
        drawn = start(root / name, model=empty(build), **options)
        results[name] = {"first": whole(drawn.network.parameters()), "settings": drawn.settings, "start": drawn.start}
        drawn.train()
        drawn.save_final(root / name / "final")
        read = start(root / f"{name} read", model=empty(build), extra={"weights": root / name / "final"}, **options)
        results[name] |= {"trained": whole(drawn.network.parameters()), "read": whole(read.network.parameters())}
        resumed = start(root / name, model=empty(build), **options)
        resumed.train(resume=root / name / "checkpoint-2")
        results[name]["resumed"] = whole(resumed.network.parameters())
    results["ahead"] = error_of(lambda: causal(root / "ahead", empty(Ahead), **options, ema=None))
    if dist.get_rank() == 0:
        (root / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    start_processes(cpu=True)
    make(Path(sys.argv[1]) / "unused", batch=2, micro_batch=1, shards=0)  # loads what all need, once
    main(Path(sys.argv[1]))
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
