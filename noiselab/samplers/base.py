"""Walks from noise to data."""

import abc
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.base import describe
from ..parametrization import to_posterior
from ..process import NoiseProcess, as_token_times
from ..process.validation import require_kind
from ..typing import Grid, Times, Tokens, Variants


class Stage(NamedTuple):
    """The tokens after one part of a step, and who made them.

    **Arguments:**

    - `kind`: who, for example "denoise" or "gibbs".
    - `time`: where the tokens are now, [batch] or [batch, length].
    - `z`: the tokens.
    """

    kind: str
    time: Tensor
    z: Tensor


TAKE_ANY_PROCESS = ("AncestralSampler", "BlockSampler", "Infilling")  # for a message

Advance: TypeAlias = Callable[..., list[Stage]]
"""What makes one step: called as `Sampler.stages`."""


class Sampler(abc.ABC):
    """Draws sequences by steps from noise to data.

    A subclass writes `step`; `walk` yields every state, so that progress bars, traces and early stops are the caller's.
    One that is made of others writes `stages` too, so that a trace knows which of them changed what.

    **Arguments:**

    - `process`: the noise; checked once (`validate`).
    - `denoiser`: of any parametrisation; `self.denoiser` predicts leave-one-out.

    **Raises:** `ValueError` if the process is no Markov process, or the denoiser does not say what it predicts.
    """

    kind = "denoise"
    """What a trace calls the changes of this sampler."""
    converges = False
    """Whether it claims that its law tends to that of the data as steps grow, given the exact denoiser."""
    takes: ClassVar[type[NoiseProcess]] = NoiseProcess
    """The kind of process that it needs; others are refused, in words."""
    variants: ClassVar[Variants] = {}
    """Names -> keyword arguments, for the bench, the tests and the tables; by default one, with the defaults."""
    law = ""
    """Its error with an exact denoiser, in a few words, for the table; by default what `converges` says."""
    evaluated = "at positions that may change"
    """Where it evaluates the network, in a few words, for the table."""

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        require_kind(process, self.takes, type(self).__name__, TAKE_ANY_PROCESS)
        process.validate(16)
        self.process = process
        self.denoiser = as_leave_one_out(denoiser, process)

    # Write this one.

    @abc.abstractmethod
    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Tokens at the earlier times s, given those at t.

        **Arguments:**

        - `z`: tokens at t.
        - `t`, `s`: [batch] or [batch, length], s < t; a token with s = t stays as it is.
        """

    # What samplers around samplers replace.

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """The parts of one step, the last of which ends at s; arguments as for `step`."""
        return [Stage(self.kind, s, self.step(z, t, s, generator=generator))]

    def start(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """The tokens that `sample` begins with: pure noise."""
        return self.process.prior(batch, length, generator=generator, device=device or self.device)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step along a grid that has been checked.

        **Arguments:**

        - `z`, `times`, `generator`: as for `walk`.
        - `advance`: what makes the stages of one step; `self.stages` by default. A sampler around this one hands over its own,
          so that this one decides when, and the outer one how.
        """
        advance = advance or self.stages
        for t, s in itertools.pairwise(times):
            # Entered anew at each step: between two states the caller's own mode holds.
            with torch.no_grad():
                done = advance(z, t.expand(len(z)), s.expand(len(z)), generator=generator)
            z = done[-1].z
            yield done

    # Derived from them.

    def walk(self, z: Tokens, times: Grid, *, generator: Randomness = None) -> Iterator[Tokens]:
        """The states after each step, from `z` at the first of `times` to the last.

        **Arguments:**

        - `z`: tokens at `times[0]`.
        - `times`: falling, in the domain of the process ([0, 1]); N + 1 of them make N steps.

        **Raises:** `ValueError` for a grid that leaves the domain or does not fall, or tokens outside the vocabulary.
        """
        times = self.grid(times=times)
        if z.numel() and (z.min() < 0 or z.max() >= self.process.vocab_size):
            raise ValueError(
                f"tokens must lie in [0, {self.process.vocab_size}); got {z.min().item()} to {z.max().item()}"
            )
        return (stages[-1].z for stages in self.path(z, times.to(z.device), generator=generator))

    def grid(self, steps: int | None = None, times: Grid | None = None) -> Grid:
        """The times of `steps` even steps over the domain, or your own, checked.

        **Raises:** `ValueError` unless exactly one of them is given, `steps` is positive, and `times` fall within the domain.
        """
        low, high = self.process.domain
        if (steps is None) == (times is None):
            raise ValueError(f"exactly one of steps and times must be given; got steps={steps}, times={times}")
        if times is None:
            if steps is None or steps < 1:
                raise ValueError(f"steps must be at least 1; got {steps}")
            return torch.linspace(high, low, steps + 1, dtype=torch.float64)
        times = times.double()
        if times.dim() != 1 or len(times) < 2 or not (times[1:] < times[:-1]).all():
            raise ValueError(f"times must fall from noise to data; got {times.tolist()}")
        # A grid made in float32 may miss the ends by its rounding.
        if times[0] > high + 1e-6 or times[-1] < low - 1e-6:
            raise ValueError(f"times must lie in [{low}, {high}]; got {times[0].item()} to {times[-1].item()}")
        return times.clamp(low, high)

    def run(
        self,
        shape: Sequence[int],
        *,
        steps: int | None = None,
        times: Grid | None = None,
        clean: bool = True,
        generator: Randomness = None,
    ) -> Iterator[list[Stage]]:
        """All that `sample` does, stage by stage: the noise it starts from, each step, the jump to clean tokens.

        **Arguments:** as for `sample`.
        """
        times = self.grid(steps, times)
        if abs(float(times[0]) - self.process.domain[1]) > 1e-6:
            raise ValueError(
                f"times must start at {self.process.domain[1]}, where pure noise is drawn; got {float(times[0])} "
                "(`walk` starts from tokens of your own at any time)"
            )
        return self._run(shape, times, clean, generator)

    def _run(self, shape: Sequence[int], times: Tensor, clean: bool, generator: Randomness) -> Iterator[list[Stage]]:
        batch, length = shape
        z = self.start(batch, length, generator=generator)
        times = times.to(z.device)
        yield [Stage("noise", times[0].expand(batch), z)]
        for stages in self.path(z, times, generator=generator):
            z = stages[-1].z
            yield stages
        if clean:
            end = times[-1].expand(batch)
            yield [Stage("clean", end, self.clean(z, end, generator=generator))]

    def sample(
        self,
        shape: Sequence[int],
        *,
        steps: int | None = None,
        times: Grid | None = None,
        clean: bool = True,
        generator: Randomness = None,
    ) -> Tokens:
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
        z = torch.empty(0, dtype=torch.long)
        for stages in self.run(shape, steps=steps, times=times, clean=clean, generator=generator):
            z = stages[-1].z
        return z

    @torch.no_grad()
    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Clean tokens from noisy ones in one jump: each drawn by itself from $p(x \mid z) \propto \hat x_x\, q_t(z \mid x)$.

        What `reconstruction` is the cost of. Tokens that noise cannot have produced stay as they are; if there are no
        others, the network is not asked.

        **Arguments:**

        - `z`: tokens at t.
        """
        rows = ~self.process.is_clean(z, t)
        if not rows.any():
            return z
        time = as_token_times(t, z).expand(z.shape)
        logits = self.process.on_support(self.denoiser(z, time, rows))
        logits = to_posterior(self.process, logits, z[rows], time[rows], check=False)
        u = uniforms(*z.shape, generator=generator, device=z.device)
        return z.masked_scatter(rows, choose(logits.double().softmax(-1), u[rows]))

    @property
    def device(self) -> torch.device:
        """Where the denoiser and the process live."""
        tensors = (*self.denoiser.parameters(), *self.denoiser.buffers(), *self.process.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def __repr__(self) -> str:
        return describe(self, self.process, self.denoiser, self.extra_repr())

    def extra_repr(self) -> str:
        """What it is set to."""
        return ""


class WrappedSampler(Sampler):
    """A sampler around a sampler: does as the inner one does, but for what a subclass replaces.

    **Arguments:**

    - `inner`: the sampler to wrap.
    """

    def __init__(self, inner: Sampler):
        if not isinstance(inner, Sampler):
            raise ValueError(f"a sampler must be a noiselab.Sampler; got {type(inner).__name__}")
        self.inner, self.process, self.denoiser = inner, inner.process, inner.denoiser
        self.kind, self.converges = inner.kind, inner.converges

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """The last of the stages."""
        return self.stages(z, t, s, generator=generator)[-1].z

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """Those of the inner sampler."""
        return self.inner.stages(z, t, s, generator=generator)

    def start(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """That of the inner sampler."""
        return self.inner.start(batch, length, generator=generator, device=device)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """That of the inner sampler, with these stages."""
        return self.inner.path(z, times, generator=generator, advance=advance or self.stages)

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """As the inner sampler does it."""
        return self.inner.clean(z, t, generator=generator)

    def __repr__(self) -> str:
        return describe(self, self.inner, self.extra_repr())
