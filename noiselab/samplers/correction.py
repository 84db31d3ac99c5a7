"""GIDD's self-correction: replace the tokens that the model most confidently disagrees with, until it agrees."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser
from ..denoisers.base import in_a_line


class SelfCorrection:
    r"""A fixed-point search at a small time: all sequences at once, each stops by itself.

    At time t0: x_hat = softmax(logits / temperature); draw z' from x_hat at every position; the score of a position is
    x_hat(z') where z' differs from z; the best-scored positions take their z'. A sequence stops when nothing changes,
    or when its self-accuracy (the share of tokens equal to the arg-max) has not improved for more than `patience` steps.

    **Arguments:**

    - `denoiser`: its prediction is used as it is, without conversion, as published.
    - `time`: t0 in [0, 1].
    - `temperature`: positive; 0.1 to 0.5 published.
    - `tokens_per_step`: at most this many tokens of a sequence change in a step.
    - `patience`: steps without improvement.
    - `support`: tokens that may be drawn, Bool [state]; all by default. Pass `process.support`.

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 5.3 and algorithm 1; defaults as released.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        time: float | int = 0.01,
        temperature: float | int = 0.1,
        tokens_per_step: int = 1,
        patience: int = 32,
        support: Bool[Tensor, " state"] | None = None,
    ):
        if not (0 <= time <= 1 and temperature > 0 and tokens_per_step >= 1 and patience >= 0):
            raise ValueError(
                "time must lie in [0, 1], temperature be positive, tokens_per_step at least 1, patience not negative; "
                f"got {time}, {temperature}, {tokens_per_step}, {patience}"
            )
        if support is not None and not support.any():
            raise ValueError("support must hold at least one token; got none")
        self.denoiser, self.support = denoiser, support
        self.time, self.temperature, self.tokens_per_step, self.patience = time, temperature, tokens_per_step, patience

    def walk(
        self, z: Int[Tensor, "batch length"], *, steps: int = 128, generator: Randomness = None
    ) -> Iterator[Int[Tensor, "batch length"]]:
        """The states after each step, at most `steps` of them; ends early when all sequences have stopped.

        A stopped sequence is no longer evaluated, but still consumes its random numbers, so that its neighbours do not
        depend on when it stopped.
        """
        live = torch.ones(len(z), dtype=torch.bool, device=z.device)
        best = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        stale = torch.zeros(len(z), dtype=torch.long, device=z.device)
        for _ in range(steps):
            u = uniforms(*z.shape, generator=generator, device=z.device)
            with torch.no_grad():
                revised, accuracy = self.revise(z[live], u[live])
            stale[live] = torch.where(accuracy > best[live], 0, stale[live] + 1)
            best[live] = torch.maximum(best[live], accuracy)
            gave_up = stale[live] > self.patience
            settled = (revised == z[live]).all(-1)
            z = z.index_put((live,), torch.where(gave_up[:, None], z[live], revised))
            live = live.index_put((live,), ~gave_up & ~settled)
            yield z
            if not live.any():
                return

    def revise(self, z: Int[Tensor, "batch length"], u: Tensor) -> tuple[Int[Tensor, "batch length"], Tensor]:
        """One step for every sequence, with one uniform number `u` per position: new tokens, and self-accuracies."""
        z = z.long()
        times = torch.full(z.shape[:1], self.time, dtype=torch.float64, device=z.device)
        logits = self.denoiser(z, times)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.support is not None:
            logits = logits.masked_fill(~self.support.to(z.device), -torch.inf)
        probs = (logits / self.temperature).softmax(-1)
        drawn = choose(probs, u)
        score = torch.where(drawn != z, probs.gather(-1, drawn[..., None])[..., 0], 0)
        value, position = score.topk(min(self.tokens_per_step, z.shape[1]), -1)
        revised = torch.where(value > 0, drawn.gather(-1, position), z.gather(-1, position))
        z = z.scatter(-1, position, revised)
        return z, (z == logits.argmax(-1)).double().mean(-1)

    def correct(
        self, z: Int[Tensor, "batch length"], *, steps: int = 128, generator: Randomness = None
    ) -> Int[Tensor, "batch length"]:
        """The sequences after the whole walk."""
        for state in self.walk(z, steps=steps, generator=generator):
            z = state
        return z

    def __repr__(self) -> str:
        return (
            f"SelfCorrection({in_a_line(self.denoiser)}, time={self.time:g}, temperature={self.temperature:g}, "
            f"tokens_per_step={self.tokens_per_step}, patience={self.patience})"
        )
