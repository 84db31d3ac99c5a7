"""Models that solve problems, for `learn_from_mistakes.py` and `regret.py`: their settings, and how each is trained."""

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
from noiselab.training.options import Optimization, Run, arguments_of, autocast_of

from .solving import check_solutions, infill_solutions
from .streams import ProblemBlocks, ProblemStream

P_UNIFORM = 0.2


@dataclass(frozen=True)
class Arm:
    """What an arm is trained on."""

    rate: float = 0.0
    """of mistakes, before each step"""
    kind: MistakeKind = "retry"
    """which parameters mistakes are for"""
    scored: bool = True
    """whether mistakes are learned too, or only to delete them"""
    self_contain: bool = False
    """of "weak": whether the right parameter is among the mistakes, as in the released code"""
    tokens: float = 1.0
    """tokens, as a multiple of those of the other arms"""
    begin: Literal["new", "error-free"] = "new"
    """weights at random, or those of the arm without mistakes"""
    rank: int = 0
    """of a low-rank update of queries and values, twice that for embeddings; 0 trains all weights"""


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
    """A small Llama that solves problems, several times. `steps` are those of the arm without mistakes."""

    optimization: Optimization
    run: Run
    level: Literal["logic", "nano", "micro", "med", "hard"] = "logic"
    """of the problems"""
    layout: Literal["pq", "qp"] = "pq"
    """the question behind the problem, or before"""
    new_templates: bool = False
    """train on some templates of solutions and test on others, as published; small levels have too few of them"""
    length: int = 256
    """tokens of a row, at most"""
    layers: int = 8
    """transformer blocks"""
    width: int = 96
    """of the residual stream"""
    heads: int = 4
    """attention heads"""
    score_questions: bool = False
    """learn the words of questions too, as published"""
    only: tuple[str, ...] = tuple(ARMS)
    """arms to train"""
    seeds: tuple[int, ...] = (1,)
    """of weights, problems and mistakes: one run of each arm for each"""
    parallel: int = 1
    """networks that are trained and measured at once, each in a process of its own, which writes OUTPUT/seed_*/*.log"""
    gidd: bool = True
    """train GIDD+ on the same problems too, with a block of fixed length for the solution"""
    block: int = 64
    """tokens of that block"""
    gidd_length: int = 160
    """tokens of question and block"""
    gidd_steps: int | None = None
    """optimizer steps of GIDD+; those of the others if not given"""
    problems: int = 1000
    """in each column of the table"""
    most: int = 8
    """operations of small problems of training: the smaller of two numbers up to this one, each as likely, as published"""
    parameters: int | None = 11
    """of the small problems of further columns"""
    ops: tuple[int, ...] = (8, 9, 10, 11)
    """operations of the problems of further columns; the first is of problems like those of training"""


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
        "minutes for each arm on one CPU core: problems without values",
        ProblemModels(CPU, Run(Path("runs/mistakes_demo"), log_every=100, evaluate_every=0, save_every=1_000)),
    ),
    "medium": (
        "6 minutes for each arm on a GPU, 16 of them at once: 8 layers of width 128, three seeds",
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
    """A random problem of any level; like those of training where `ops` is `None`."""
    what: Any = {"level": options.level, "layout": options.layout}
    what["split"] = split if options.new_templates else None
    if options.level in ("med", "hard"):
        return draw_problem(generator, ops=ops, **what)
    if ops is not None:
        return draw_small(generator, ops=ops, parameters=options.parameters, **what)
    # Were the longest solutions frequent, a model would learn that they end there.
    ops = min(generator.randint(1, options.most), generator.randint(1, options.most))
    return draw_small(generator, ops=ops, **what)


def draw_columns(options: ProblemModels) -> dict[str, list[Problem]]:
    """The problems of each column of the table."""
    cells: dict[str, list[Problem]] = {}
    for ops in (None, *options.ops):
        generator = random.Random(f"cells {ops}")
        name = "as in training" if ops is None else f"{ops} operations"
        cells[name] = [draw_at_level(options, ops, "test", generator) for _ in range(options.problems)]
    return cells


def load_or_train_arm(name: str, seed: int, options: ProblemModels, words: Words) -> Any:
    """The network of an arm: that of an earlier run, or trained now."""
    arm = ARMS[name]
    folder = options.run.output / f"seed_{seed}" / folder_name(name)

    def stream(arm: Arm) -> ProblemStream:
        mistakes = partial(build_mistakes, words, arm) if arm.rate else None
        return ProblemStream(
            partial(draw_at_level, options, None, "train"),
            words,
            options.length,
            batch=options.optimization.micro_batch,
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
            arguments_of(optimization, replace(options.run, output=folder)),
            train_dataset=rows,
            loss=causal_loss,
            count=predicted_tokens,
            autocast=autocast_of(optimization),
            ema=optimization.ema,
            optimizer="adamw" if arm.rank else optimization.optimizer,
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
    """The name of an arm as that of a folder."""
    return name.replace(",", "").replace(" ", "_")


def load_or_train_gidd(seed: int, options: ProblemModels, words: Words) -> DiT:
    """GIDD+ on blocks: that of an earlier run, or trained now."""
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
        open_gates(network)
        return Trainer(
            network,
            arguments_of(optimization, replace(options.run, output=folder)),
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
            autocast=autocast_of(o),
            ema=o.ema,
            optimizer=o.optimizer,
            settings=select_settings(options, None),
        )

    return load_or_train(
        folder, build, averaged=o.ema is not None, resume=options.run.resume, cpu=options.run.cpu, kind=DiT
    )


def build_noise(words: Words) -> nl.InterpolatingProcess:
    """Hybrid noise; the mask is the token behind the words."""
    return nl.gidd(vocab_size=words.size + 1, mask_id=words.size, p_uniform=P_UNIFORM)


def solve_with_gidd(
    network: DiT, problems: Sequence[Problem], corrected: bool, options: ProblemModels, words: Words
) -> list[Verdict]:
    """What the checkers say of blocks that GIDD+ has filled; of problems that do not fit that they are wrong."""
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
    """What a resumed run of an arm, or of GIDD+, must share; not which others there are, nor what is measured in the end."""
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
