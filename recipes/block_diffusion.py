"""Block diffusion and diffusion forcing: models that sample block by block, or at any times of single tokens.

    python recipes/block_diffusion.py demo                     # blocks of 16 tokens, hybrid noise; two CPU cores, some minutes
    python recipes/block_diffusion.py demo --p-uniform 0 --block-size 8   # masking, shorter blocks
    python recipes/block_diffusion.py forcing                  # half of the sequences have a time for each token
    python recipes/block_diffusion.py forcing --token-times 1.0
    python recipes/block_diffusion.py demo --help              # all fields

A block is learned given the clean blocks before it, all blocks of a text in one pass. At the end the bound on held-out text is
printed. Run the command again to resume from the newest intact checkpoint. The finished model is in OUTPUT/final.
A smoke test: python recipes/block_diffusion.py demo --steps 4 --warmup 1 --output runs/smoke

Sources: Arriola et al. (2025), "Block Diffusion", arXiv 2503.09573; Chen et al. (2024), "Diffusion Forcing", arXiv 2407.01392.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common import DEMO, DEMO_HELP, DEMO_NETWORK, DEMO_TEXT, Prepared, build_dit, prepare, train_diffusion
from gidd_plus import GiddPlus, check_weights, choose_objective, describe_noise, open_gates
from noiselab.denoisers import BlockDenoiser, Denoiser
from noiselab.evaluation import Bound, validation_bound
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.training import TimesPerToken, Trainer
from noiselab.training.options import Run, command_line, run_recipe


@dataclass(frozen=True)
class BlockDiffusion(GiddPlus):
    """Block diffusion, or diffusion forcing, with the noise and the loss weights of GIDD+."""

    block_size: int = 16
    """tokens in a block; 0 for one block, the whole text"""
    token_times: float = 0.0
    """share of the sequences with a time for each token, in [0, 1]; only with --block-size 0"""
    repeats: int = 4
    """times at which each held-out sequence is evaluated at the end"""


BLOCKS = BlockDiffusion(
    replace(DEMO, steps=1_800),
    DEMO_TEXT,
    Run(Path("runs/block_diffusion_demo"), log_every=50, evaluate_every=300, save_every=300),
    **DEMO_NETWORK,
    open_gates=True,
)
PRESETS = {
    "demo": (f"block diffusion, {DEMO_HELP}", BLOCKS),
    "forcing": (
        f"diffusion forcing, {DEMO_HELP}",
        replace(
            BLOCKS,
            block_size=0,
            token_times=0.5,
            run=replace(BLOCKS.run, output=Path("runs/diffusion_forcing_demo")),
        ),
    ),
}


def times_or_blocks(options: BlockDiffusion) -> dict[str, Any]:
    """The arguments of the trainer for blocks, or for times of single tokens.

    **Raises:** `ValueError` if both are given.
    """
    if options.block_size and options.token_times:
        raise ValueError(
            "token_times must be 0 in blocks, of which each has one time (pass --block-size 0 for diffusion forcing); got "
            f"{options.token_times} with blocks of {options.block_size}"
        )
    if options.block_size:
        return {"blocks": options.block_size}
    margin = options.time_margin
    return {"times": TimesPerToken(options.token_times, low=margin, high=1 - margin)} if options.token_times else {}


def held_out(trainer: Trainer, options: BlockDiffusion, data: Prepared) -> Bound:
    """The bound on the held-out text: of all blocks given those before them, or of whole texts at one time each."""
    denoiser: Denoiser = TransformersDenoiser(trainer.network)
    process: Any = trainer.loss.keywords["process"]  # type: ignore[attr-defined]
    if options.block_size:
        denoiser = BlockDenoiser(denoiser, options.block_size, low=process.domain[0])
    random = torch.Generator().manual_seed(options.optimization.seed)
    settings: dict[str, Any] = {"repeats": options.repeats, "generator": random}
    if trainer.average is None:
        return validation_bound(process, denoiser, data.validation, **settings)
    with trainer.average.applied():
        return validation_bound(process, denoiser, data.validation, **settings)


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train, write the finished model, and print its bound on held-out text."""
    options = command_line(PRESETS, arguments)
    check_weights(options)
    more, data = times_or_blocks(options), prepare(options)
    model = build_dit(options, data.vocab_size, p_uniform=options.p_uniform)
    objective, noise = choose_objective(options, data.vocab_size), describe_noise(options, data)
    gates = open_gates if options.open_gates else None
    trainer = train_diffusion(options, data, noise, objective=objective, model=model, weights=gates, **more)
    if data.layout.world == 1:
        found = held_out(trainer, options, data)
        data.report(f"bound on held-out text: {found.nelbo:.4f} ± {found.error:.4f} nats per token")
    return trainer


if __name__ == "__main__":
    run_recipe(main)
