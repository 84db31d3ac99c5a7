"""Walks from noise to data."""

import abc
import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.base import in_a_line
from ..parametrization import to_posterior
from ..process import NoiseProcess, lift


class Sampler(abc.ABC):
    """Draws sequences by steps from noise to data.

    A subclass writes `step`; `walk` yields every state, so that progress bars, traces and early stops are the caller's.

    **Arguments:**

    - `process`: the noise; checked once (`validate`).
    - `denoiser`: of any parametrisation; `self.denoiser` predicts leave-one-out.

    **Raises:** `ValueError` if the process is no Markov process, or the denoiser does not say what it predicts.
    """

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        process.validate(16)
        self.process = process
        self.denoiser = as_leave_one_out(denoiser, process)

    @abc.abstractmethod
    def step(
        self,
        z: Int[Tensor, "batch length"],
        t: Float[Tensor, "..."],
        s: Float[Tensor, "..."],
        *,
        generator: Randomness = None,
    ) -> Int[Tensor, "batch length"]:
        """Tokens at the earlier times s, given those at t.

        **Arguments:**

        - `z`: tokens at t.
        - `t`, `s`: [batch] or [batch, length], s < t; a token with s = t stays as it is.
        """

    def walk(
        self,
        z: Int[Tensor, "batch length"],
        times: Float[Tensor, " grid"],
        *,
        generator: Randomness = None,
    ) -> Iterator[Int[Tensor, "batch length"]]:
        """The states after each step, from `z` at the first of `times` to the last.

        **Arguments:**

        - `z`: tokens at `times[0]`.
        - `times`: falling, in the domain of the process ([0, 1]); N + 1 of them make N steps.

        **Raises:** `ValueError` for a grid that leaves the domain or does not fall, or tokens outside the vocabulary.
        """
        times = times.double()
        low, high = self.process.domain
        if times.dim() != 1 or len(times) < 2 or not (times[1:] < times[:-1]).all():
            raise ValueError(f"times must fall from noise to data; got {times.tolist()}")
        # A grid made in float32 may miss the ends by its rounding.
        if times[0] <= high + 1e-6 and times[-1] >= low - 1e-6:
            times = times.clamp(low, high)
        else:
            raise ValueError(f"times must lie in [{low}, {high}]; got {times[0].item()} to {times[-1].item()}")
        if z.numel() and (z.min() < 0 or z.max() >= self.process.vocab_size):
            raise ValueError(
                f"tokens must lie in [0, {self.process.vocab_size}); got {z.min().item()} to {z.max().item()}"
            )
        return self._states(z, times.to(z.device), generator)

    def _states(self, z: Tensor, times: Tensor, generator: Randomness) -> Iterator[Tensor]:
        for t, s in itertools.pairwise(times):
            # Entered anew at each step: between two states the caller's own mode holds.
            with torch.no_grad():
                z = self.step(z, t.expand(len(z)), s.expand(len(z)), generator=generator)
            yield z

    def sample(
        self,
        shape: Sequence[int],
        *,
        steps: int | None = None,
        times: Float[Tensor, " grid"] | None = None,
        clean: bool = True,
        generator: Randomness = None,
    ) -> Int[Tensor, "batch length"]:
        """Sequences from pure noise.

        Where noise is left at the last time (a grid that ends above 0, a process that does not begin quite clean), the
        tokens jump from there to clean ones (`clean`), which takes one more evaluation of the network.

        **Arguments:**

        - `shape`: (batch, length).
        - `steps`: number of transitions from the upper end of the domain (t = 1) to the lower (t = 0), evenly spaced; or
        - `times`: a grid of your own, from the upper end, where `prior` is drawn (`walk` starts anywhere). Where noise
          goes as the square root of t (`gidd`, gamma = 1) even steps are too coarse near 0, and
          `torch.linspace(1, 0, steps + 1) ** 2` is far closer to the data's law.
        - `clean`: whether to make that jump; without it, the noise stays.

        **Raises:** `ValueError` unless exactly one of `steps` and `times` is given, `steps` is positive and `times` start
        at the upper end of the domain.
        """
        if (steps is None) == (times is None):
            raise ValueError(f"exactly one of steps and times must be given; got steps={steps}, times={times}")
        if times is None:
            if steps is None or steps < 1:
                raise ValueError(f"steps must be at least 1; got {steps}")
            low, high = self.process.domain
            times = torch.linspace(high, low, steps + 1, dtype=torch.float64)
        if abs(float(times[0]) - self.process.domain[1]) > 1e-6:
            raise ValueError(
                f"times must start at {self.process.domain[1]}, where pure noise is drawn; got {float(times[0])} "
                "(`walk` starts from tokens of your own at any time)"
            )
        batch, length = shape
        z = self.process.prior(batch, length, generator=generator, device=self._device())
        for state in self.walk(z, times, generator=generator):
            z = state
        return self.clean(z, times[-1].expand(batch), generator=generator) if clean else z

    @torch.no_grad()
    def clean(
        self, z: Int[Tensor, "batch length"], t: Float[Tensor, "..."], *, generator: Randomness = None
    ) -> Int[Tensor, "batch length"]:
        r"""Clean tokens from noisy ones in one jump: each drawn by itself from $p(x \mid z) \propto \hat x_x\, q_t(z \mid x)$.

        What `reconstruction` is the cost of. Tokens that noise cannot have produced stay as they are; if there are no
        others, the network is not asked.

        **Arguments:**

        - `z`: tokens at t.
        """
        rows = ~self.process.reveals(z, t)
        if not rows.any():
            return z
        time = lift(t, z).expand(z.shape)
        logits = self.denoiser(z, time, rows)
        if self.process.support is not None:
            logits = logits.masked_fill(~self.process.support, -torch.inf)
        logits = to_posterior(self.process, logits, z[rows], time[rows], check=False)
        u = uniforms(*z.shape, generator=generator, device=z.device)
        return z.masked_scatter(rows, choose(logits.double().softmax(-1), u[rows]))

    def _device(self) -> torch.device:
        tensors = (*self.denoiser.parameters(), *self.denoiser.buffers(), *self.process.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.process}, {in_a_line(self.denoiser)})"
