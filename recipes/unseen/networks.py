"""Small transformers, trained by the bound itself on texts of the world."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

import noiselab as nl
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.objectives import elbo
from noiselab.training import Place, noised_loss

from .world import LENGTH, every_text

RATE, TIMES = 3e-3, (1e-3, 1 - 1e-3)


def build_network(vocab_size: int, width: int, layers: int = 2) -> DiT:
    """A `DiT` of the demo's kind with heads of 12 channels."""
    return DiT(
        DiTConfig(
            vocab_size=vocab_size,
            max_seq_len=LENGTH,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 12,
            timestep_cond_dim=32,
        )
    )


def train_network(
    process: nl.InterpolatingProcess, law: Float[Tensor, " text"], width: int, *, steps: int, batch: int, seed: int
) -> TransformersDenoiser:
    """A network after so many steps of new texts; for one seed, all noises get the same texts.

    **Arguments:**

    - `seed`: of the weights, the texts and the noise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(process.vocab_size, width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (0.51 + 0.49 * math.cos(math.pi * step / steps))
    )
    random, texts = torch.Generator().manual_seed(seed), every_text()
    for step in range(steps):
        x = texts[torch.multinomial(law, batch, replacement=True, generator=random)]
        place = Place(step, seed=seed)
        loss = noised_loss(network, {"input_ids": x}, process=process, objective=elbo, place=place, time_range=TIMES)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return TransformersDenoiser(network.eval())
