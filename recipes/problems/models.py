"""Models that solve problems, for `learn_from_mistakes.py` and `regret.py`: their settings and training."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

import noiselab as nl
from common import build_llama, load_or_train
from gidd_plus import open_gates
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.tasks.igsm import MistakeKind, Problem, ProblemMistakes, Split, Verdict, Words, draw_problem, draw_small
from noiselab.training import (
    Trainer,
    causal_loss,
    noised_tokens,
    predicted_tokens,
    with_lora,
)
from noiselab.training.options import Optimization, Run

from .solving import check_solutions, infill_solutions
from .streams import ProblemBlocks, ProblemStream

P_UNIFORM = 0.2


@dataclass(frozen=True)
class Arm:
    """The training data of an arm."""

    rate: float = 0.0
    """rate of mistakes before each step"""
    kind: MistakeKind = "retry"
    """which parameters mistakes define"""
    scored: bool = True
    """whether the tokens of mistakes are scored too, or only their deletion"""
    self_contain: bool = False
    """for "weak": whether the right parameter is among the mistakes, as in the released code"""
    tokens: float = 1.0
    """number of training tokens, as a multiple of that of the other arms"""
    begin: Literal["new", "error-free"] = "new"
    """initial weights: random, or those of the arm without mistakes"""
    rank: int = 0
    """rank of a low-rank update of queries and values, doubled for embeddings; 0 trains all weights"""


ARMS = {
    "error-free": Arm(),
    "retry 0.05": Arm(0.05),
    "retry 0.1": Arm(0.1),
    "retry 0.2": Arm(0.2),
    "retry 0.5": Arm(0.5),
    "retry 0.2 unscored": Arm(0.2, scored=False),
    "retry 0.5 unscored": Arm(0.5, scored=False),
    "weak 0.1": Arm(0.1, "weak"),
    "weak 0.2": Arm(0.2, "weak"),
    "weak 0.5": Arm(0.5, "weak"),
    "weak 0.2 unscored": Arm(0.2, "weak", scored=False),
    "weak 0.2 as released": Arm(0.2, "weak", self_contain=True),
    "miss 0.2": Arm(0.2, "miss"),
    "filler 0.5": Arm(0.5, "filler"),
    "filler 0.5 unscored": Arm(0.5, "filler", scored=False),
    "error-free, twice the tokens": Arm(tokens=2.0),
    "continued, error-free": Arm(begin="error-free"),
    "continued, retry 0.5 unscored": Arm(0.5, scored=False, begin="error-free"),
    "continued, retry 0.5": Arm(0.5, begin="error-free"),
    "LoRA 4, retry 0.5": Arm(0.5, begin="error-free", rank=4),
    "LoRA 32, retry 0.5": Arm(0.5, begin="error-free", rank=32),
    "LoRA 32, retry 0.5 unscored": Arm(0.5, scored=False, begin="error-free", rank=32),
}


@dataclass(frozen=True)
class ProblemModels:
    """Small Llamas that solve problems, one per arm. `steps` are those of the arm without mistakes."""

    optimization: Optimization
    run: Run
    level: Literal["logic", "nano", "micro", "med", "hard"] = "logic"
    """level of the problems"""
    layout: Literal["pq", "qp"] = "pq"
    """order of problem (p) and question (q)"""
    new_templates: bool = False
    """train and test on disjoint templates of solutions, as published; small levels have too few templates"""
    length: int = 256
    """maximum number of tokens of a row"""
    layers: int = 8
    """number of transformer blocks"""
    width: int = 96
    """width of the residual stream"""
    heads: int = 4
    """number of attention heads"""
    score_questions: bool = False
    """score the tokens of questions too, as published"""
    only: tuple[str, ...] = tuple(ARMS)
    """arms to train"""
    seeds: tuple[int, ...] = (1,)
    """seeds of weights, problems and mistakes; each arm is trained once per seed"""
    parallel: int = 1
    """number of networks trained and evaluated in parallel, each in a separate process that writes OUTPUT/seed_*/*.log"""
    gidd: bool = True
    """train GIDD+ on the same problems too, with a block of fixed length for the solution"""
    block: int = 64
    """number of tokens of that block"""
    gidd_length: int = 160
    """number of tokens of question and block"""
    gidd_steps: int | None = None
    """optimizer steps of GIDD+; the same as for the other arms by default"""
    problems: int = 1000
    """number of test problems in each column of the table"""
    most: int = 8
    """maximum number of operations in training on small levels: the smaller of two uniform draws up to it, as published"""
    parameters: int | None = 11
    """number of parameters of the small problems of further columns"""
    ops: tuple[int, ...] = (8, 9, 10, 11)
    """numbers of operations of further columns; the first column has problems like those of training"""


CPU = Optimization(
    steps=5_000,
    batch=32,
    micro_batch=32,
    learning_rate=5e-3,
    warmup=100,
    final_learning_rate=0.02,
    betas=(0.9, 0.98),
    weight_decay=0.05,
    optimizer="muon",
)
PRESETS = {
    "demo": (
        "minutes per arm on one CPU core; problems without values",
        ProblemModels(CPU, Run(Path("runs/mistakes_demo"), log_every=100, evaluate_every=0, save_every=1_000)),
    ),
    "medium": (
        "6 minutes per arm on a GPU, 16 arms in parallel; 8 layers of width 128, three seeds",
        ProblemModels(
            replace(CPU, steps=5_500, batch=64, micro_batch=64),
            Run(Path("runs/mistakes_medium"), log_every=100, evaluate_every=0, save_every=5_000, workers=1),
            width=128,
            seeds=(1, 2, 3),
        ),
    ),
    "published": (
        "12 layers of width 768 on full iGSM: days on many GPUs",
        ProblemModels(
            Optimization(
                steps=100_000,
                batch=512,
                micro_batch=32,
                learning_rate=2e-3,
                warmup=1_000,
                final_learning_rate=0.01,
                betas=(0.9, 0.98),
                weight_decay=0.05,
                precision="bfloat16",
            ),
            Run(Path("runs/mistakes_published"), log_every=100, evaluate_every=0, save_every=10_000),
            level="med",
            length=768,
            layers=12,
            width=768,
            heads=12,
            score_questions=True,
            block=400,
            gidd_length=1024,
            new_templates=True,
            problems=4096,
            ops=(15, 20, 21, 22, 23),
        ),
    ),
}


def draw_at_level(options: ProblemModels, ops: int | None, split: Split, generator: random.Random) -> Problem:
    """Draw a problem of the level of the options, from the training distribution if `ops` is `None`."""
    what: Any = {"level": options.level, "layout": options.layout}
    what["split"] = split if options.new_templates else None
    if options.level in ("med", "hard"):
        return draw_problem(generator, ops=ops, **what)
    if ops is not None:
        return draw_small(generator, ops=ops, parameters=options.parameters, **what)
    # If the longest solutions were frequent, a model would learn to end there.
    ops = min(generator.randint(1, options.most), generator.randint(1, options.most))
    return draw_small(generator, ops=ops, **what)


def draw_columns(options: ProblemModels) -> dict[str, list[Problem]]:
    """Draw the problems of each column of the table."""
    cells: dict[str, list[Problem]] = {}
    for ops in (None, *options.ops):
        generator = random.Random(f"cells {ops}")
        name = "as in training" if ops is None else f"{ops} operations"
        cells[name] = [draw_at_level(options, ops, "test", generator) for _ in range(options.problems)]
    return cells


def load_or_train_arm(name: str, seed: int, options: ProblemModels, words: Words) -> Any:
    """The network of an arm, of an earlier run or trained now."""
    arm = ARMS[name]
    folder = options.run.output / f"seed_{seed}" / folder_name(name)

    def stream(arm: Arm) -> ProblemStream:
        mistakes = partial(build_mistakes, words, arm) if arm.rate else None
        return ProblemStream(
            partial(draw_at_level, options, None, "train"),
            words,
            options.length,
            batch=options.optimization.micro_batch or options.optimization.batch,
            mistakes=mistakes,
            score_mistakes=arm.scored,
            score_questions=options.score_questions,
            seed=seed,
        )

    def build() -> Trainer:
        o = options.optimization
        rows = stream(arm)
        steps = round(arm.tokens * o.steps * stream(ARMS["error-free"]).mean_length() / rows.mean_length())
        print(f"\n{name}, seed {seed}: {steps} steps of {o.batch} problems", flush=True)
        optimization = replace(o, steps=steps, seed=seed)
        transformers.set_seed(seed)
        if arm.begin == "new":
            network = build_llama(
                words.size,
                layers=options.layers,
                width=options.width,
                heads=options.heads,
                length=4 * options.length,
                start=words.start,
                end=words.end,
                padding=words.padding,
            )
        else:
            network = load_or_train_arm("error-free", seed, options, words)
        return Trainer(
            with_lora(network, arm.rank) if arm.rank else network,
            replace(optimization, decay_all=False, optimizer="adamw" if arm.rank else optimization.optimizer),
            replace(options.run, output=folder),
            train_dataset=rows,
            loss=causal_loss,
            count=predicted_tokens,
            settings=select_settings(options, arm),
        )

    return load_or_train(
        folder,
        build,
        averaged=options.optimization.ema is not None,
        resume=options.run.resume,
        cpu=options.run.cpu,
        settings=select_settings(options, arm),
    )


def folder_name(name: str) -> str:
    """The folder name of an arm."""
    return name.replace(",", "").replace(" ", "_")


def load_or_train_gidd(seed: int, options: ProblemModels, words: Words) -> DiT:
    """GIDD+ on blocks, of an earlier run or trained now."""
    folder = options.run.output / f"seed_{seed}" / "gidd"
    o = options.optimization
    optimization = replace(o, steps=options.gidd_steps or o.steps, seed=seed)

    def build() -> Trainer:
        print(f"\nGIDD+, seed {seed}: {optimization.steps} steps of {o.batch} problems", flush=True)
        transformers.set_seed(seed)
        network = DiT(
            DiTConfig(
                vocab_size=words.size + 1,
                max_seq_len=options.gidd_length,
                hidden_size=options.width,
                timestep_cond_dim=options.width,
                num_hidden_layers=options.layers,
                num_attention_heads=options.heads,
                p_uniform=P_UNIFORM,
            )
        )
        network.apply(open_gates)
        return Trainer(
            network,
            replace(optimization, decay_all=False),
            replace(options.run, output=folder),
            train_dataset=ProblemBlocks(
                partial(draw_at_level, options, None, "train"),
                words,
                options.gidd_length,
                block=options.block,
                seed=seed,
            ),
            process=build_noise(words),
            objective=nl.objectives.Dynamic.gidd(vocab_size=words.size + 1, p_uniform=P_UNIFORM),
            count=noised_tokens,
            settings=select_settings(options, None),
        )

    return load_or_train(folder, build, averaged=o.ema is not None, resume=options.run.resume, cpu=options.run.cpu)


def build_noise(words: Words) -> nl.InterpolatingProcess:
    """Hybrid noise; the mask id is the number of words."""
    return nl.gidd(vocab_size=words.size + 1, mask_id=words.size, p_uniform=P_UNIFORM)


def solve_with_gidd(
    network: DiT, problems: Sequence[Problem], corrected: bool, options: ProblemModels, words: Words
) -> list[Verdict]:
    """Fill blocks with GIDD+ and check the solutions; problems that do not fit count as wrong."""
    process = build_noise(words).to(network.device)
    denoiser = TransformersDenoiser(network)
    sampler = nl.AncestralSampler(process, denoiser)
    correction = nl.SelfCorrection(denoiser, process=process) if corrected else None
    fit = [
        len(problem.answer) < options.block and len(problem.question) + 1 + options.block <= options.gidd_length
        for problem in problems
    ]
    verdicts = []
    fitting = [problem for problem, fits in zip(problems, fit, strict=True) if fits]
    for first in range(0, len(fitting), 250):
        part = fitting[first : first + 250]
        generator = torch.Generator().manual_seed(first)
        solutions = infill_solutions(
            sampler,
            part,
            words,
            length=options.gidd_length,
            block=options.block,
            steps=options.block,
            correction=correction,
            generator=generator,
        )
        verdicts += check_solutions(solutions, part, words)
    left = iter(verdicts)
    return [next(left) if fits else Verdict(False, kind="too long") for fits in fit]


def select_settings(options: ProblemModels, arm: Arm | None) -> dict[str, Any]:
    """The settings that must be the same when an arm, or GIDD+, is resumed; not the other arms or the evaluation."""
    names = "level layout new_templates length layers width heads score_questions most".split()
    names += [] if arm is not None else ["block", "gidd_length"]
    found = {name: getattr(options, name) for name in ("optimization", *names)}
    return {
        "options": {**found, "optimization": asdict(options.optimization)},
        "arm": None if arm is None else asdict(arm),
    }


def build_mistakes(words: Words, arm: Arm, problem: Problem) -> ProblemMistakes:
    """The edit process of a problem."""
    return ProblemMistakes(problem, words, arm.rate, kind=arm.kind, self_contain=arm.self_contain)
