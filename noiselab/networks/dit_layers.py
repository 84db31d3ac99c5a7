"""The layers of the diffusion transformer that know nothing of its configuration: rotary positions, norm, embeddings."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..typing import Tokens

ROTARY_BASE = 10_000.0
TIME_FREQUENCIES = 256


def rotate(x: Float[Tensor, "*axes width"], cos: Tensor, sin: Tensor) -> Float[Tensor, "*axes width"]:
    """Rotate each channel pair (j, j + width/2) of `x` by the angle with the given cosine and sine."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotary_angles(
    positions: int | Int[Tensor, "*axes"], width: int, base: float = ROTARY_BASE, device: torch.device | None = None
) -> Float[Tensor, "*axes width"]:
    """The angles by which `rotate` turns these positions, or the first ones, in float32: n base^(-2j/width), twice."""
    exponent = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    n = (
        torch.arange(positions, device=device)
        if isinstance(positions, int)
        else positions.to(device, non_blocking=True)
    )
    angles = n.float()[..., None] * (1.0 / base**exponent)
    return torch.cat((angles, angles), dim=-1)


class Rotary(nn.Module):
    """Rotary positions (Su et al., 2021): position n rotates channel pair j of a head by n base^(-2j/width).

    The angles are computed on every call, in float32. The two buffers exist only for the file format, in the published
    shape [1, length, 3, 1, width] (3 for query, key and value; the value is not rotated). They are never read, so that
    neither casting the model to bfloat16 nor a checkpoint without them changes the positions.
    """

    cos_cached: Tensor
    sin_cached: Tensor

    def __init__(self, width: int, max_length: int):
        super().__init__()
        self.width = width
        self.max_length = max_length
        self.register_buffer("cos_cached", torch.empty(1, max_length, 3, 1, width))
        self.register_buffer("sin_cached", torch.empty(1, max_length, 3, 1, width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the stored tables."""
        cos, sin = self.tables()
        self.cos_cached.copy_(cos)
        self.sin_cached.copy_(sin)

    def tables(self) -> tuple[Float[Tensor, "1 length 3 1 width"], Float[Tensor, "1 length 3 1 width"]]:
        """The tables as published checkpoints store them."""
        turned = torch.tensor([1.0, 1.0, 0.0], device=self.cos_cached.device)[:, None, None]
        angles = self(self.max_length)[None, :, None, None] * turned
        return angles.cos(), angles.sin()

    def forward(self, positions: int | Int[Tensor, "*axes"]) -> Float[Tensor, "*axes width"]:
        """Angles of these positions, or of this number of first ones."""
        return rotary_angles(positions, self.width, device=self.cos_cached.device)


class Norm(nn.Module):
    """Layer normalisation in float32 with a weight and no bias. The result is float32 for any input dtype."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """Normalise over the last axis."""
        return F.layer_norm(x.float(), self.weight.shape) * self.weight


class ZeroLinear(nn.Linear):
    """A linear layer initialized to zero."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Linear32(nn.Linear):
    """A linear layer that computes in float32 for any dtype of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """The linear map of `input`."""
        return F.linear(input.float(), self.weight.float(), self.bias.float())


class Embedding(nn.Module):
    """Token embeddings, initialized uniformly in +-1/sqrt(width)."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the embeddings."""
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch length width"]:
        """Look up the embeddings of tokens."""
        return F.embedding(tokens, self.embedding)


class TimeEmbedding(nn.Module):
    """The time embedding: cosines and sines at geometric frequencies, followed by a small network; always in float32.

    In bfloat16, times that differ by less than about 1/256 would be indistinguishable.
    """

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear32(TIME_FREQUENCIES, width), nn.SiLU(), Linear32(width, width))

    def forward(self, t: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes width"]:
        """Embed each time."""
        half = TIME_FREQUENCIES // 2
        with torch.autocast(t.device.type, enabled=False):
            exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half
            angles = t.float()[..., None] * torch.exp(-math.log(10_000) * exponent)
            return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1))
