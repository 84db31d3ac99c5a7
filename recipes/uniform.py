"""Uniform noise (UDLM): the plain ELBO with uniform replacement of tokens and without masks.

    python recipes/uniform.py demo                                   # two CPU cores, a few minutes
    python recipes/uniform.py demo --length 64 --output runs/short   # any field of any preset
    python recipes/uniform.py small --help                           # all fields

Run the command again to resume from the newest intact checkpoint. The finished model is in OUTPUT/final.
A smoke test: python recipes/uniform.py demo --steps 4 --warmup 1 --output runs/smoke

The presets are those of masked.py with another noise and a network that takes the time, so results are comparable. UDLM's own
runs are on other data.

Source: Schiff et al. (2024), "Simple Guidance Mechanisms for Discrete Diffusion Models", arXiv 2412.10193 (the bound); Austin
et al. (2021), arXiv 2107.03006 (the noise).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import masked
from common import prepare, train_diffusion
from noiselab.data import token_support
from noiselab.training import Trainer
from noiselab.training.options import command_line, run_recipe

PRESETS = {
    name: (
        text if name != "small" else f"with uniform noise and a network that takes the time: {text}",
        replace(preset, run=replace(preset.run, output=Path(f"runs/uniform_{name}")), network="dit"),
    )
    for name, (text, preset) in masked.PRESETS.items()
    if not name.startswith("gidd")
}


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train with uniform noise, and write the finished model."""
    options = command_line(PRESETS, arguments)
    data = prepare(options)
    # Noise is uniform over the tokens that occur in texts, without mask and padding.
    special = (~token_support(data.tokenizer)).nonzero()[:, 0].tolist()
    return train_diffusion(options, data, {"family": "uniform", "vocab_size": data.vocab_size, "special": special})


if __name__ == "__main__":
    run_recipe(main)
