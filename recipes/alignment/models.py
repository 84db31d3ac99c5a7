"""Transformers that read questions, answers and rewards and say the best answer, for `in_context_alignment.py`."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from alignment import RankedAnswers, cosine, plackett_luce


@dataclass(frozen=True)
class Shape:
    """What a transformer is made of."""

    layers: int = 6
    """blocks"""
    heads: int = 3
    """of attention; the width is the same for any number"""
    width: int = 96
    """of the hidden states"""
    attention: Literal["softmax", "linear"] = "softmax"
    """linear: scores are not exponentials, and are divided by how many entries there are"""
    feed_forward: bool = True
    """whether blocks have a feed-forward layer, of four times the width"""


def list_arms(shape: Shape) -> dict[str, Shape]:
    """The shape, and what it is compared with: each differs in one thing, and all are causal."""
    return {
        "transformer": shape,
        "linear attention": replace(shape, attention="linear"),
        "no feed-forward": replace(shape, feed_forward=False),
        "1 head": replace(shape, heads=1),
        "6 heads": replace(shape, heads=6),
        "2 layers": replace(shape, layers=2),
        "4 layers": replace(shape, layers=4),
        "10 layers": replace(shape, layers=10),
        "20 layers": replace(shape, layers=20),
    }


class Block(nn.Module):
    """Causal attention, and a feed-forward layer if there is one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.attention = shape.heads, shape.attention
        self.before = nn.LayerNorm(shape.width)
        self.into, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)
        self.feed_forward = (
            nn.Sequential(
                nn.LayerNorm(shape.width),
                nn.Linear(shape.width, 4 * shape.width),
                nn.GELU(),
                nn.Linear(4 * shape.width, shape.width),
            )
            if shape.feed_forward
            else None
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Add what attention says, then what the feed-forward layer says."""
        batch, length, width = hidden.shape
        split = self.into(self.before(hidden)).view(batch, length, 3, self.heads, -1)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        if self.attention == "softmax":
            mixed = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        else:
            seen = torch.arange(1, length + 1, device=hidden.device)[:, None]
            scores = (queries @ keys.mT).tril() * queries.shape[-1] ** -0.5 / seen
            mixed = scores @ values
        hidden = hidden + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return hidden if self.feed_forward is None else hidden + self.feed_forward(hidden)


class InContextTransformer(nn.Module):
    """Reads x, y, r, x, y, r, ... and says an answer at each x, having seen all before it."""

    def __init__(self, dim: int, answers: int, shape: Shape) -> None:
        super().__init__()
        self.read_in, self.read_out = nn.Linear(dim, shape.width), nn.Linear(shape.width, dim)
        self.places = nn.Parameter(torch.randn(3 * answers, shape.width))
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.layers)), nn.LayerNorm(shape.width))
        # The sum over blocks begins as large as that of one.
        for block in self.blocks[:-1]:
            nn.init.normal_(block.out.weight, std=0.02 / (2 * shape.layers) ** 0.5)

    def forward(self, x: Tensor, y: Tensor, rewards: Tensor) -> Tensor:
        """What is said at each x; at the first, before any answer was seen."""
        told = torch.zeros_like(y)
        told[..., 0] = rewards
        entries = torch.stack([x[:, None].expand_as(y), y, told], 2).flatten(1, 2)
        hidden = self.read_in(entries) + self.places[: entries.shape[1]]
        return self.read_out(self.blocks(hidden)[:, ::3])


def ranking_loss(said: Tensor, y: Tensor, rewards: Tensor) -> Tensor:
    """The mean, over all n from 2 on, of the loss of what was said after n answers against their ranking."""
    count = y.shape[1]
    scores = cosine(said[:, 2:], y[:, None].expand(-1, count - 2, -1, -1))
    seen = torch.arange(count, device=y.device) < torch.arange(2, count, device=y.device)[:, None]
    of_each = plackett_luce(scores, rewards[:, None].expand_as(scores), real=seen.expand_as(scores))
    return of_each.mean()


def train_network(
    law: RankedAnswers,
    shape: Shape,
    *,
    answers: int,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> InContextTransformer:
    """A network trained on questions drawn anew for each step; the rate rises for a twentieth of the steps, then falls."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InContextTransformer(law.dim, answers, shape).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    generator = Generator().manual_seed(seed)
    for _ in range(steps):
        drawn = law.draw(batch, answers, generator=generator)
        x, y, rewards = drawn.x.to(device), drawn.y.to(device), drawn.rewards.float().to(device)
        loss = ranking_loss(network(x, y, rewards), y, drawn.rewards.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()
