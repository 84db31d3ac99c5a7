"""Bound, generation and judgement, by any number of processes; run as a script, each process writes what it has."""

import json
import sys
from pathlib import Path

import torch
from small import pipeline
from tiny_models import make
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from noiselab.distributed import join_processes
from noiselab.evaluation import generative_perplexity, validation_bound

QUIET = {"show_progress": False}


def model(family="gidd"):
    return pipeline(family, dtype=torch.float32)


def data(pipe, count=13):
    return torch.randint(3, pipe.tokenizer.vocab_size, (count, 12), generator=torch.Generator().manual_seed(0))


def bound(pipe, processes, **how):
    random = torch.Generator().manual_seed(5)
    options = {"batch_size": 4, "generator": random, "processes": processes, **how}
    return validation_bound(pipe.process, pipe.denoiser, data(pipe), **options)


def judgement(judge, processes):
    x = torch.randint(24, (13, 9), generator=torch.Generator().manual_seed(0))
    real = torch.arange(9) < torch.arange(13)[:, None] % 7 + 2
    return generative_perplexity(judge, x, attention_mask=real, batch_size=3, processes=processes)


def judge():
    return make("LlamaForCausalLM", dtype=torch.float32)


def results(processes=None):
    """What one process has, or each of several."""
    pipe = model()
    options = {"batch_size": 2, "seed": 3, **QUIET, "processes": processes}
    texts = pipe.generate(7, 4, **options)
    found = bound(pipe, processes)
    scores = judgement(judge(), processes)
    return {
        "bound": [found.nats.tolist(), found.nelbo, found.error, found.diffusion, found.reconstruction, found.prior],
        "texts": [list(text.tokens) for text in texts],
        "corrected": [list(text.tokens) for text in pipe.self_correction(texts, 4, 0.8, **options)],
        "judgement": [scores.total.tolist(), scores.nats, scores.error, scores.entropy, *scores.distinct],
    }


def shard(module):
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for part in module.modules():
        if isinstance(part, torch.nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def error_of(work):
    try:
        work()
    except ValueError as error:
        return str(error)
    return None


def of_sharded_weights(processes):
    """The same with sharded weights; of masks, whose bound calls the network only where some token is noisy."""
    found = {}
    for family in ("gidd", "masked"):
        pipe = model(family)
        shard(pipe.model)
        for how in ({}, {"low": 0.05}, {"nodes": 2}):
            found[f"{family} {how}"] = bound(pipe, processes, **how).nats.tolist()
        found[f"{family} alone"] = bound(pipe, None).nats.tolist()
        whole = sum(type(p.data).__name__ != "DTensor" for p in pipe.model.parameters())
        found[f"{family} whole weights"] = whole
        texts = pipe.generate(3, 4, batch_size=2, seed=3, **QUIET)
        found[f"{family} texts"] = [list(text.tokens) for text in texts]
    found["refused"] = error_of(lambda: pipe.generate(3, 4, seed=3, **QUIET, processes=processes))
    found["judgement"] = judgement(shard(judge()), processes).total.tolist()
    return found


def main(folder: Path) -> None:
    processes = join_processes("cpu", minutes=3)
    with processes.together():
        found = results(processes)
        found["sharded"] = of_sharded_weights(processes)
        (folder / f"{processes.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
