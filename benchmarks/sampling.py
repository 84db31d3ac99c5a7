"""What samplers cost besides the network, as ratios of one run: `make bench`.

Float32, 50,258 tokens, two threads, or on a GPU: `python benchmarks/sampling.py --device cuda`. Prints tables; a line that
misses its limit is marked, and the exit status says so.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable

import torch

import noiselab as nl
from core import report
from measure import time_in_turns
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.numerics import UNIFORMS_PER_MOVE
from noiselab.process.three_way import reverse_move
from operations import count_operations

V, LENGTH = 50_258, 512
MASK = V - 1
STEPS = 64
OPERATIONS = 60  # of a compiled step, besides the network
THRESHOLD = nl.samplers.ConfidenceThreshold(0.5)


def seed_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def build_network(layers: int, width: int, length: int, seed: int = 0) -> TransformersDenoiser:
    """A network with random weights, its zero layers too, so that its answers differ."""
    torch.manual_seed(seed)
    heads = max(width // 64, 1)
    model = DiT(
        DiTConfig(
            vocab_size=V,
            max_seq_len=length,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
        )
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if (weight == 0).all():
                weight.normal_(std=0.02)
    return TransformersDenoiser(model)


class Answers(nl.Denoiser):
    """Logits that are there already, also those of some rows once they were asked for: what is left is the sampler."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.register_buffer("logits", logits)
        self.rows: dict[bytes, torch.Tensor] = {}

    def forward(self, z, t, rows=None):
        if rows is None:
            return self.logits[None]
        # To copy them into fresh memory, as long as a step of some samplers, is the work of a network.
        key = rows.cpu().numpy().tobytes()
        if key not in self.rows:
            self.rows[key] = self.logits[rows[0]]
        return self.rows[key]


class Everywhere(nl.WrappedDenoiser):
    """Projects all rows, and gives the selected ones."""

    def forward(self, z, t):
        return self.inner(z, t)


class Always(nl.AncestralSampler):
    """As samplers are usually written: the network is evaluated at all tokens at every step."""

    def step(self, z, t, s, *, generator=None):
        u = nl.categorical.uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        plan = reverse_move(self.process, z, s, t).plan(self.process, z, u)
        logits = self.denoiser(z, t)
        return plan.resolve(logits[plan.rows]) if plan.rows.any() else plan.z


def build_processes() -> dict[str, nl.InterpolatingProcess]:
    return {
        "masked": nl.masked(vocab_size=V, mask_id=MASK),
        "hybrid": nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.1),
        "uniform": nl.uniform(vocab_size=V, special=[MASK]),
    }


def list_steps(process: nl.InterpolatingProcess, name: str, answers: nl.Denoiser) -> dict[str, Callable[[], object]]:
    """One step of each method in the middle of 64, on noisy tokens of that time."""
    t = torch.full((1,), 0.5, dtype=torch.float64)
    s = t - 1 / STEPS
    x = torch.randint(0, MASK, (1, LENGTH), generator=seed_generator())
    z = process.corrupt(x, t, generator=seed_generator(1))
    predictors: dict[str, nl.Sampler] = {
        "ancestral": nl.AncestralSampler(process, answers),
        "Euler": nl.samplers.EulerSampler(process, answers),
        "tau-leaping": nl.samplers.TauLeapingSampler(process, answers),
        "remasking, cap": nl.samplers.RemaskingSampler(process, answers, amount=0.02),
        "path planning": nl.samplers.PathPlanningSampler(process, answers),
    }
    if name != "hybrid":
        predictors["deterministic"] = nl.samplers.DeterministicSampler(process, answers)
    if name == "masked":
        predictors["confidence"] = nl.samplers.ConfidenceSampler(process, answers)
        predictors["entropy-bounded"] = nl.samplers.EntropyBoundedSampler(process, answers)
        predictors["threshold"] = nl.samplers.ThresholdSampler(process, answers, THRESHOLD)
    pieces: dict[str, Callable[[], object]] = {
        kind: lambda sampler=sampler: sampler.step(z, t, s, generator=seed_generator(2))
        for kind, sampler in predictors.items()
    }
    correctors: dict[str, nl.Corrector] = {
        "Gibbs": nl.GibbsCorrector(process, answers),
        "self-correction": nl.SelfCorrection(answers, support=process.support),
    }
    pieces |= {
        kind: lambda corrector=corrector: corrector.step(z, t, generator=seed_generator(2))
        for kind, corrector in correctors.items()
    }
    return pieces


@torch.no_grad()
def measure_overhead(rounds: int, clock: Callable[[], float]) -> int:
    """Each method's step on ready logits, against a forward pass of the published small network."""
    small = build_network(12, 768, LENGTH)
    tokens, t = torch.randint(0, MASK, (1, LENGTH), generator=seed_generator()), torch.full((1,), 0.5)
    answers = Answers(torch.randn(LENGTH, V, generator=seed_generator()))
    pieces: dict = {("forward", ""): lambda: small(tokens, t)}
    for name, process in build_processes().items():
        pieces |= {(name, kind): piece for kind, piece in list_steps(process, name, answers).items()}
    found = time_in_turns(pieces, rounds, clock)
    forward = found["forward", ""]
    parameters = sum(p.numel() for p in small.parameters())
    print(f"  a forward pass of {parameters / 1e6:.0f}M parameters over {LENGTH} tokens: {1000 * forward:.0f} ms")
    lines = [
        (f"{kind}, {name}", seconds / forward, 0.08, False)
        for (name, kind), seconds in found.items()
        if name != "forward"
    ]
    return report("one step / a forward pass", lines)


def list_compiled() -> dict[tuple[str, str], Callable[[Callable], object]]:
    """For each method that has static shapes and each process that it takes, a walk of compiled steps."""
    known = Answers(torch.zeros(16, V))

    def walk(sampler: nl.Sampler) -> Callable[[Callable], object]:
        return lambda backend: sampler.compiled(backend=backend).sample((1, 16), steps=3, generator=seed_generator())

    runs: dict[tuple[str, str], Callable[[Callable], object]] = {}
    for name, process in build_processes().items():
        samplers: dict[str, nl.Sampler] = {
            "ancestral": nl.AncestralSampler(process, known),
            "path planning": nl.samplers.PathPlanningSampler(process, known),
            "renoising": nl.samplers.RenoisingSampler(process, known),
        }
        if name == "hybrid":
            samplers["joint thresholds"] = nl.samplers.JointThresholdSampler(process, known)
        if name == "masked":
            samplers["confidence"] = nl.samplers.ConfidenceSampler(process, known)
            samplers["entropy-bounded"] = nl.samplers.EntropyBoundedSampler(process, known)
            samplers["threshold"] = nl.samplers.ThresholdSampler(process, known, THRESHOLD)
        runs |= {(kind, name): walk(sampler) for kind, sampler in samplers.items()}
    correction = nl.SelfCorrection(known, support=build_processes()["hybrid"].support)
    z = torch.randint(0, MASK, (1, 16), generator=seed_generator())
    runs["self-correction", "any noise"] = lambda backend: correction.compiled(backend=backend).correct(
        z, steps=2, generator=seed_generator()
    )
    return runs


@torch.no_grad()
def measure_operations() -> int:
    """The operations of one compiled step on ready logits: those of its graph, and the one that draws random numbers."""
    device = torch.get_default_device()
    torch.set_default_device(None)  # under a default device, which is a mode, `unflatten` cannot be traced
    try:
        lines = [
            (f"{kind}, {name}", 1 + count_operations(run), OPERATIONS, False)
            for (kind, name), run in list_compiled().items()
        ]
    finally:
        torch.set_default_device(device)
    return report("operations of a compiled step", lines)


@torch.no_grad()
def measure_rows_only(steps: int) -> int:
    """Masked ancestral sampling end to end, with the output projection of the rows that need it, or of all.

    The limit is for at least two steps per token: with fewer, tokens move in most steps, and what they cost is set by the
    layers of the network and not by the projection.
    """
    process, small = nl.masked(vocab_size=V, mask_id=MASK), build_network(4, 256, 128)
    found = {}
    samplers = {
        "rows": nl.AncestralSampler(process, small),
        "all": nl.AncestralSampler(process, Everywhere(small)),
        "always": Always(process, Everywhere(small)),
    }

    def run(name: str) -> None:
        found[name] = samplers[name].sample((1, 128), steps=steps, generator=seed_generator())

    time = time_in_turns({name: functools.partial(run, name) for name in samplers}, 1)
    same = min((found["rows"] == found[name]).double().mean().item() for name in found)
    print(
        f"\n  {steps} steps, 128 tokens: {time['rows']:.1f} s; all rows where any moves {time['all']:.1f} s, at every "
        f"step {time['always']:.1f} s; {same:.1%} equal tokens"
    )
    counting = nl.denoisers.CallCounter(small)
    nl.samplers.FirstHittingSampler(process, counting).sample((1, 128), steps=1, generator=seed_generator())
    limit = 3 if steps >= 2 * 128 else None
    return report(
        "masked sampling",
        [
            (f"{steps} steps: all rows at every step / those that need it", time["always"] / time["rows"], limit, True),
            ("  (all rows of the steps in which any moves)", time["all"] / time["rows"], None, True),
            ("first hitting: calls of the network / tokens", counting.calls / 128, 1, False),
        ],
    )


@torch.no_grad()
def measure_batching(rounds: int) -> int:
    """Self-correction of sixteen sequences together and alone; the network's answers are sharp, so that they converge."""
    small = build_network(2, 256, 64)
    process = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=0.1)
    counting = nl.denoisers.CallCounter(nl.Temperature(small, 0.05))
    correction = nl.SelfCorrection(counting, support=process.support, patience=4)
    z = torch.randint(0, MASK, (16, 64), generator=seed_generator())

    def together() -> None:
        correction.correct(z, steps=32, generator=[seed_generator(i) for i in range(16)])

    def alone() -> None:
        for i in range(16):
            correction.correct(z[i : i + 1], steps=32, generator=[seed_generator(i)])

    time = time_in_turns({"together": together, "alone": alone}, rounds)
    counting.reset()
    together()
    calls, asked = counting.calls, counting.sequences
    print(f"\n  16 sequences: {calls} calls about {asked} sequences (of {16 * calls}, had none left the batch)")
    limit = 1 if torch.get_default_device().type == "cpu" else 1 / 6
    return report(
        "self-correction", [("per sequence at batch 16 / alone", time["together"] / time["alone"], limit, False)]
    )


@torch.no_grad()
def measure_gillespie(rounds: int) -> int:
    """100 sequences of 12 tokens of a Markov chain, event by event, against 16 ancestral steps with the same denoiser."""
    states, batch, length = 9, 100, 12
    process = nl.gidd(vocab_size=states + 1, mask_id=states, p_uniform=0.2)
    followers = torch.rand(states, states, generator=seed_generator(), dtype=torch.float64) ** 3
    transition = followers / followers.sum(-1, keepdim=True)
    counting = nl.denoisers.CallCounter(nl.MarkovOracle(torch.full((states,), 1 / states), transition, process))
    samplers = {
        "ancestral": (nl.AncestralSampler(process, counting), 16),
        "Gillespie": (nl.samplers.GillespieSampler(process, counting), 1),
    }

    def run(name: str) -> None:
        sampler, steps = samplers[name]
        counting.reset()
        sampler.sample((batch, length), steps=steps, generator=seed_generator())

    time = time_in_turns({name: functools.partial(run, name) for name in samplers}, rounds)
    run("Gillespie")
    print(
        f"\n  {batch} sequences of {length} tokens, exact denoiser: 16 ancestral steps {1000 * time['ancestral']:.0f} ms; "
        f"Gillespie {1000 * time['Gillespie']:.0f} ms, {counting.calls} calls, {counting.sequences / batch:.0f} "
        "evaluations per sequence"
    )
    limit = 10 if torch.get_default_device().type == "cpu" else None
    return report("Gillespie", [("time / 16 ancestral steps", time["Gillespie"] / time["ancestral"], limit, False)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each piece; the best counts")
    parser.add_argument("--steps", type=int, default=1024, help="of masked sampling end to end")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--busy", action="store_true", help="only steps, by the processor time of one thread")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.busy else 2)
    torch.set_default_device(options.device)
    where = f"{torch.get_num_threads()} threads" if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}. Best of {options.rounds} rounds, in turns.\n")
    if options.busy:
        return min(measure_overhead(options.rounds, time.process_time), 1)
    missed = (
        measure_overhead(options.rounds, time.perf_counter)
        + measure_operations()
        + measure_rows_only(options.steps)
        + measure_batching(min(options.rounds, 3))
        + measure_gillespie(options.rounds)
    )
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
