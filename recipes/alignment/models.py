"""Transformers that read questions, answers and rewards and predict the best answer, for `in_context_alignment.py`."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from alignment import RankedAnswers, cosine, plackett_luce


@dataclass(frozen=True)
class Shape:
    """The architecture of a transformer."""

    layers: int = 6
    """number of transformer blocks"""
    heads: int = 3
    """number of attention heads; the width does not depend on it"""
    width: int = 96
    """width of the hidden states"""
    attention: Literal["softmax", "linear"] = "softmax"
    """linear: scores are not exponentiated; they are divided by the number of visible entries"""
    feed_forward: bool = True
    """whether blocks have a feed-forward layer, four times as wide"""


def list_arms(shape: Shape) -> dict[str, Shape]:
    """The shape and its variants, each of which differs in one property; all are causal."""
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
    """Causal attention and an optional feed-forward layer."""

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
        """Add the output of attention, then that of the feed-forward layer."""
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
    """Reads x, y, r, x, y, r, ... and predicts an answer at each x from all entries before it."""

    def __init__(self, dim: int, answers: int, shape: Shape) -> None:
        super().__init__()
        self.read_in, self.read_out = nn.Linear(dim, shape.width), nn.Linear(shape.width, dim)
        self.places = nn.Parameter(torch.randn(3 * answers, shape.width))
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.layers)), nn.LayerNorm(shape.width))
        # At initialization the sum over all blocks is as large as the output of one block.
        for block in self.blocks[:-1]:
            nn.init.normal_(block.out.weight, std=0.02 / (2 * shape.layers) ** 0.5)

    def forward(self, x: Tensor, y: Tensor, rewards: Tensor) -> Tensor:
        """The predictions at each x; the first one is made before any answer is read."""
        told = torch.zeros_like(y)
        told[..., 0] = rewards
        entries = torch.stack([x[:, None].expand_as(y), y, told], 2).flatten(1, 2)
        hidden = self.read_in(entries) + self.places[: entries.shape[1]]
        return self.read_out(self.blocks(hidden)[:, ::3])


def ranking_loss(said: Tensor, y: Tensor, rewards: Tensor) -> Tensor:
    """The mean over n >= 2 of the ranking loss of the prediction after n answers."""
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
    """Train a network on new questions at each step; linear warmup for 5 % of the steps, then cosine decay."""
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
