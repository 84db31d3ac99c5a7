"""The scaling study of discrete diffusion: hybrid noise in the log-SNR, CompleteP, no annealing, prompts, times per token.

    python recipes/scaling.py demo                              # two CPU cores, a few minutes
    python recipes/scaling.py demo --shift 1000 --output runs/u # uniform noise; -1000 is masking
    python recipes/scaling.py demo --layers 8 --width 256       # the same settings for any size
    torchrun --nproc-per-node 8 recipes/scaling.py 25m --corpus "nemotron-cc/**/*.jsonl.zst"
    python recipes/scaling.py 3b --help                         # all fields

Settings are those of a network of width 1 with one block; `CompleteP` carries them to every size. Run the command again to
resume from the newest intact checkpoint. The finished model is in OUTPUT/final, in the published format (model_type gidd).
A smoke test: python recipes/scaling.py demo --steps 4 --warmup 1 --output runs/smoke

Source: von Ruette et al. (2025), "Scaling Behavior of Discrete Diffusion Language Models", arXiv 2512.10858;
github.com/dvruette/gidd-easydel (commit 6525e88).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Generator, Tensor

from common import DEMO_TEXT, Prepared, Training, prepare, train_diffusion
from noiselab.denoisers.attended import real_pairs
from noiselab.networks.published import GiddConfig, GiddForDiffusionLM, PublishedDenoiser
from noiselab.processes import process_from
from noiselab.times import token_times
from noiselab.training import CompleteP, PromptedTimes, Trainer
from noiselab.training.clocks import MARGIN
from noiselab.training.optimizers import hidden_matrices
from noiselab.training.options import Data, Optimization, Run, command_line, run_recipe

EMBEDDING_DEVIATION = 0.02
RESIDUAL = 4.0
OUTPUT = 512.0


@dataclass(frozen=True)
class Scaling(Training):
    """Hybrid noise in the log-SNR, with a network and an optimizer whose settings do not depend on its size."""

    shift: float = 0.0
    """b: the log-SNR at which masks replace random tokens, negated; published: -1000 (masks), -2, 0, 2, 1000 (uniform)"""
    log_snr: float = 9.0
    """the log-SNR lies in [-log_snr, log_snr]"""
    independent: float = 0.5
    """fraction of sequences with a time for each token; 0.2 in the released code, which sets it by another option"""
    prompts: float = 0.2
    """fraction of sequences that begin with a clean prompt"""
    max_weight: float = 1e3
    """largest weight of a token"""
    deviation: float = 0.4
    """standard deviation of the matrices of the blocks at the start, for width 1"""
    time_margin: float = MARGIN
    """evaluation times lie in [margin, 1 - margin]"""


PUBLISHED = Optimization(
    steps=100_000,
    batch=256,
    micro_batch=8,
    learning_rate=0.3,
    warmup=2_000,
    schedule="constant",
    betas=(0.9, 0.99),
    epsilon=1e-8,
    weight_decay=0.0,
    optimizer="laprop",
    other_rate=0.02,
    clip=float("inf"),
    precision="bfloat16",
)
NEMOTRON = Data(
    corpus="nemotron-cc/**/*.jsonl.zst",
    tokenizer="dvruette/nemotron-cc-bpe",
    length=2048,
    validation=0.001,
    stream=True,
)
SIZES = {
    "25m": (8, 512, 8),
    "49m": (10, 640, 10),
    "85m": (12, 768, 12),
    "202m": (16, 1024, 16),
    "567m": (20, 1536, 24),
    "3b": (19, 3072, 24),
    "10b": (34, 4608, 36),
}
"""Layers, width and heads; the two largest are gidd-unif-3b and gidd-unif-10b (gidd-mask-3b has 18 layers)."""


def published(name: str) -> tuple[str, Scaling]:
    """The help and the settings of a published size."""
    layers, width, heads = SIZES[name]
    run = Run(Path(f"runs/scaling_{name}"), save_every=1_000, evaluate_every=5_000)
    help = f"arXiv 2512.10858, differences in docs/reference/published.md: {layers} layers of width {width}"
    noise = {"shift": 1000.0} if name in ("3b", "10b") else {}
    return help, Scaling(PUBLISHED, NEMOTRON, run, layers, width, heads, **noise)


PRESETS = {
    "demo": (
        "some minutes on two CPU cores; 1.8 MB of English text about Python. So few tokens teach little more than which are "
        "frequent (evaluation loss 5.27; frequencies alone give 5.30 nats); pass more --steps",
        Scaling(
            replace(PUBLISHED, steps=1_500, batch=16, micro_batch=16, warmup=100, precision="float32"),
            DEMO_TEXT,
            Run(Path("runs/scaling_demo"), log_every=50, evaluate_every=500, save_every=500),
            layers=4,
            width=128,
            heads=4,
        ),
    ),
    **{name: published(name) for name in SIZES},
}


@dataclass(frozen=True)
class SignalTimes:
    """Times at which the signal alpha is uniform, a share of the sequences with one for each token.

    **Arguments:**

    - `share`: the share of sequences with independent times.
    - `log_snr`: the log-SNR falls from `log_snr` at t = 0 to its negative at t = 1.
    """

    share: float
    log_snr: float

    def __call__(self, batch: int, length: int, *, generator: Generator) -> Tensor:
        """The times of all sequences of a step."""
        low, high = (
            torch.tensor([-self.log_snr, self.log_snr], dtype=torch.float64).mul(1 - 2 * MARGIN).sigmoid().tolist()
        )
        noise = token_times(batch, length, share=self.share, low=low, high=high, generator=generator)
        return ((self.log_snr + torch.logit(noise)) / (2 * self.log_snr)).clamp(MARGIN, 1 - MARGIN)


@dataclass(frozen=True)
class WeightPerLogSNR:
    r"""The weight $w_\lambda$ of the bound per unit of the log-SNR, clipped: a mean over any $\lambda$ is not a bound.

    **Arguments:**

    - `log_snr`: as for `SignalTimes`.
    - `max_weight`: the largest weight.
    """

    log_snr: float
    max_weight: float

    def __call__(self, process: Any, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The weight of each token."""
        return (process.elbo_weight(x, z, t) / (2 * self.log_snr)).clamp(max=self.max_weight)


class PromptedDenoiser(PublishedDenoiser):
    """A published network whose prompts do not attend to the noisy tokens that follow them."""

    def hidden(self, z: Tensor, t: Tensor) -> Tensor:
        """The hidden states; tokens of a prompt are known by their time."""
        if t.dim() == 1:
            return super().hidden(z, t)
        prompt = t < MARGIN
        network: Any = self.network
        pairs = ~prompt[:, :, None] | prompt[:, None, :]
        return network.hidden(z, attention_mask=real_pairs(pairs, self.real_tokens(z)))


def build_network(options: Scaling, vocab_size: int) -> GiddForDiffusionLM:
    """The published network with weights drawn as in the study, from the seed of the run."""
    transformers.set_seed(options.optimization.seed)
    scale = CompleteP(options.width, options.layers)
    network = GiddForDiffusionLM(
        GiddConfig(
            vocab_size=vocab_size,
            hidden_size=options.width,
            intermediate_size=4 * options.width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            max_position_embeddings=options.data.length,
            resid_scale=RESIDUAL,  # divided by the number of layers in the network
            head_scaling=OUTPUT * scale.output,
            noise_type=options.shift,
            min_log_snr=-options.log_snr,
            max_log_snr=options.log_snr,
        )
    )
    matrices = hidden_matrices(network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in matrices:
                weight.normal_(std=options.deviation * scale.deviation)
            elif "embed_tokens" in name:
                weight.normal_(std=EMBEDDING_DEVIATION)
            else:  # biases, the output, and norms, whose weight is what is added to 1
                weight.zero_()
    return network


def train(options: Scaling, data: Prepared) -> Trainer:
    """Train the network, with its optimizer scaled to its size."""
    o = replace(options.optimization, width_ratio=float(options.width), depth_ratio=float(options.layers))
    ends = [-options.log_snr, options.log_snr]
    noise = {
        "family": "log_snr_hybrid",
        "vocab_size": data.vocab_size,
        "mask_id": data.tokenizer.mask_token_id,
        "shift": options.shift,
        "log_snr": ends,
    }
    return train_diffusion(
        replace(options, optimization=o),  # type: ignore[arg-type]
        data,
        noise,
        objective=WeightPerLogSNR(options.log_snr, options.max_weight),
        model=PromptedDenoiser(build_network(options, data.vocab_size), process_from(noise)),
        times=PromptedTimes(SignalTimes(options.independent, options.log_snr), options.prompts),
    )


def main(arguments: Sequence[str] | None = None) -> Trainer:
    """Train, and write the finished model."""
    options = command_line(PRESETS, arguments)
    return train(options, prepare(options))


if __name__ == "__main__":
    run_recipe(main)
