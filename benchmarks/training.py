"""What the trainer adds to a step, and how long a checkpoint interrupts it, as ratios of one run: `make bench`.

Between two steps of a real run two loops of a page each make a step, with networks, batches, clipping, optimizer and average
of the same kind: one with the trainer's loss, which shows what the engine costs, and one with `F.cross_entropy` on all tokens
in place of noise and bound, which shows what these cost. The three alternate, so that all see the same machine; the medians
of the ratios of each round are printed.
"""

import copy
import statistics
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

import noiselab as nl
from core import report
from noiselab.data import TokenBlocks
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.training import Callback, Optimization, Place, Run, Trainer, noised_loss

V, LENGTH, BATCH, STEPS = 1024, 128, 16, 24
PROCESS = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
OBJECTIVE = nl.objectives.Dynamic.gidd(vocab_size=V, p_uniform=0.2)
OPTIMIZATION = Optimization(STEPS, BATCH, ema=0.99)


class OwnLoop:
    """A training loop of a page; `bound` says whether it has the trainer's loss or the cross-entropy."""

    def __init__(self, network: torch.nn.Module, rows: torch.Tensor, bound: bool):
        o = OPTIMIZATION
        self.network, self.rows, self.bound, self.step = copy.deepcopy(network).train(), rows, bound, 0
        self.weights = list(self.network.parameters())
        options = {"lr": o.learning_rate, "betas": o.betas, "eps": o.epsilon, "weight_decay": o.weight_decay}
        self.optimizer = torch.optim.AdamW(self.weights, **options)
        self.average = [weight.detach().clone() for weight in self.weights]

    def __call__(self) -> float:
        """Make a step; the seconds that it takes."""
        start = time.perf_counter()
        x = self.rows[self.step * BATCH : (self.step + 1) * BATCH]
        if self.bound:
            options = {"process": PROCESS, "objective": OBJECTIVE, "place": Place(self.step)}
            loss = noised_loss(self.network, {"input_ids": x}, **options)
        else:
            logits = self.network(input_ids=x, timesteps=torch.full((BATCH,), 0.5)).logits
            loss = F.cross_entropy(logits.flatten(0, 1), x.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 0.01)
        loss.item()
        self.step += 1
        return time.perf_counter() - start


class Alternate(Callback):
    """Times the trainer's steps, and a step of each loop between them."""

    def __init__(self, *loops: OwnLoop):
        self.loops, self.rounds, self.since = loops, [], None

    def on_step(self, trainer):
        own = time.perf_counter() - self.since if self.since is not None else None
        times = [loop() for loop in self.loops]
        if own is not None:
            self.rounds.append([own, *times])
        self.since = time.perf_counter()


def time_steps() -> tuple[float, float, float]:
    """The trainer's step / that of a loop with the same loss, the latter / that of a loop with the cross-entropy, and both."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "timestep_cond_dim": 64}
    model = DiT(DiTConfig(vocab_size=V, max_seq_len=LENGTH, **sizes))
    rows = torch.randint(V - 1, (BATCH * (STEPS + 1), LENGTH), generator=torch.Generator().manual_seed(1))
    blocks = TokenBlocks(rows, torch.full((len(rows),), LENGTH), vocab_size=V)
    watch = Alternate(OwnLoop(model, rows, True), OwnLoop(model, rows, False))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, save_every=0, cpu=True, progress=False)
        Trainer(
            model, OPTIMIZATION, run, train_dataset=blocks, process=PROCESS, objective=OBJECTIVE, callbacks=[watch]
        ).train()
    rounds = watch.rounds[3:]
    for k, name in enumerate(("the trainer", "a loop with its loss", "a loop with cross-entropy")):
        middle = statistics.median(times[k] for times in rounds)
        print(f"  a step of {name:28} {1000 * middle:7.1f} ms, median of {len(rounds)}")
    return tuple(statistics.median(r[i] / r[j] for r in rounds) for i, j in ((0, 1), (1, 2), (0, 2)))


def time_checkpoint() -> float:
    """The pause of a checkpoint / writing and sealing it while training waits."""
    sizes = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "timestep_cond_dim": 64}
    model = DiT(DiTConfig(vocab_size=V, max_seq_len=LENGTH, **sizes))
    rows = torch.randint(V - 1, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    blocks = TokenBlocks(rows, torch.full((2,), LENGTH), vocab_size=V)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, save_every=0, cpu=True, progress=False)
        trainer = Trainer(model, Optimization(1, 2, ema=0.9), run, train_dataset=blocks, process=PROCESS)
        trainer.train()
        for _ in range(4):
            start = time.perf_counter()
            trainer.save()
            pause = time.perf_counter() - start
            trainer.finish_saving()
            ratios.append(pause / (time.perf_counter() - start))
            print(f"  a checkpoint pauses training for {1000 * pause:7.1f} ms, {100 * ratios[-1]:.0f} % of its time")
    return statistics.median(ratios[1:])  # the first one starts what writes


def main() -> int:
    torch.set_num_threads(1)  # two would wait for each other on a shared machine
    engine, loss, both = time_steps()
    pause = time_checkpoint()
    lines = [
        # 1.02 is wanted, and 1.019 was reached; the rest is what medians of 20 rounds vary by on a machine that is not quiet.
        ("trainer's step / a step of a loop of a page with the same loss", engine, 1.05, False),
        ("that loop with noise and bound / with F.cross_entropy on all tokens", loss, 1.1, False),
        ("trainer's step / a step of a loop with F.cross_entropy", both, 1.1, False),
        ("pause of a checkpoint / writing it while training waits", pause, 0.3, False),
    ]
    return min(report("ratio", lines), 1)


if __name__ == "__main__":
    sys.exit(main())
