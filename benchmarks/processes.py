"""Bound and generation by two processes beside one, with one thread in each: the ratio of the times.

python benchmarks/processes.py
"""

import os
import subprocess
import sys
import time

import torch

import noiselab as nl
from noiselab.data import character_tokenizer, vocabulary_size
from noiselab.distributed import join_processes
from noiselab.evaluation import validation_bound
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.pipeline import DiffusionPipeline, ModelSettings

ROUNDS = 3


def main() -> None:
    """Measure with the processes that there are; started without `torchrun`, with one and with two."""
    if "WORLD_SIZE" not in os.environ:
        here = {**os.environ, "OMP_NUM_THREADS": "1"}
        for count in ("1", "2", "1", "2"):
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
            subprocess.run([*launch, __file__], env=here, check=True)
        return
    torch.set_num_threads(1)
    processes, words = join_processes("cpu"), character_tokenizer(["abcdefgh "])
    size = vocabulary_size(words)
    torch.manual_seed(0)
    sizes = {"max_seq_len": 128, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = DiT(DiTConfig(vocab_size=size, **sizes)).eval()
    process = nl.gidd(vocab_size=size, mask_id=words.mask_token_id, p_uniform=0.2)
    pipe = DiffusionPipeline(model, words, ModelSettings(process))
    x = torch.randint(3, 8, (128, 128), generator=torch.Generator().manual_seed(0))

    def bound() -> None:
        random = torch.Generator().manual_seed(0)
        validation_bound(process, pipe.denoiser, x, batch_size=16, generator=random, processes=processes)

    def generation() -> None:
        pipe.generate(32, 8, batch_size=8, seed=0, show_progress=False, processes=processes)

    for name, work in (("bound", bound), ("generation", generation)):
        work()
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
        if processes.first:
            print(f"{name}, {processes.world} processes: {min(times):.2f} s")


if __name__ == "__main__":
    main()
