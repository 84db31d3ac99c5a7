"""What the trainer adds to a step: `make bench`.

Between two steps of a real run the bare work is done on a copy of the network, with the same noise and batch shape: the
network's forward pass, the bound, the backward pass. The two alternate, so that both see the same machine; the ratio
of their medians is printed. A trainer's step also holds data loading, noise, clipping, optimizer and average.
"""

import copy
import statistics
import sys
import tempfile
import time

import torch

import noiselab as nl
from noiselab.data import TokenBlocks
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.training import Callback, Optimization, Run, Trainer

V, LENGTH, BATCH, STEPS, LIMIT = 1024, 128, 32, 40, 1.1
PROCESS = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)


class Alternate(Callback):
    """Times the trainer's steps, and the bare work between them."""

    def __init__(self, network: torch.nn.Module):
        self.network, self.trainer_steps, self.bare_steps, self.since = network, [], [], None
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randint(V - 1, (BATCH, LENGTH), generator=generator)
        self.t = nl.stratified_times(BATCH, low=1e-4, high=1 - 1e-4, generator=generator)
        self.z = PROCESS.corrupt(self.x, self.t, generator=generator)
        self.weight = nl.objectives.Dynamic.gidd(vocab_size=V, p_uniform=0.2)(PROCESS, self.x, self.z, self.t)

    def on_step(self, trainer):
        now = time.perf_counter()
        if self.since is not None:
            self.trainer_steps.append(now - self.since)
        logits = self.network(input_ids=self.z, timesteps=self.t.float()).logits
        nl.nelbo(PROCESS, logits, self.x, self.z, self.t, weight=self.weight).mean().backward()
        self.network.zero_grad()
        self.bare_steps.append(time.perf_counter() - now)
        self.since = time.perf_counter()


def main() -> int:
    torch.set_num_threads(2)
    config = DiTConfig(
        vocab_size=V,
        max_seq_len=LENGTH,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        timestep_cond_dim=64,
    )
    model = DiT(config)
    rows = torch.randint(V - 1, (BATCH * STEPS, LENGTH), generator=torch.Generator().manual_seed(1))
    blocks = TokenBlocks(rows, torch.full((len(rows),), LENGTH), vocab_size=V)
    watch = Alternate(copy.deepcopy(model).train())
    with tempfile.TemporaryDirectory() as folder:
        optimization = Optimization(STEPS, BATCH, ema=0.99)
        run = Run(folder, save_every=0, cpu=True, progress=False)
        objective = nl.objectives.Dynamic.gidd(vocab_size=V, p_uniform=0.2)
        trainer = Trainer(
            model, optimization, run, train_dataset=blocks, process=PROCESS, objective=objective, callbacks=[watch]
        )
        trainer.train()
    counted = watch.bare_steps[3:]
    trainer, bare = statistics.median(watch.trainer_steps[3:]), statistics.median(counted)
    ratio = trainer / bare
    print("\n| ratio | measured | limit | |\n| --- | ---: | ---: | --- |")
    verdict = "ok" if ratio <= LIMIT else "MISSED"
    print(f"| trainer's step / forward + bound + backward | {ratio:.3g} | <= {LIMIT} | {verdict} |")
    print(f"\n  trainer's step {1000 * trainer:.0f} ms, bare {1000 * bare:.0f} ms, medians of {len(counted)} steps")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
