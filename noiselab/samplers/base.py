"""The interface of samplers, which generate sequences in steps from noise to data."""

import abc
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, rest_generators, uniforms
from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.base import describe
from ..denoisers.checked import LogitChecks, checked, walking
from ..denoisers.self_conditioning import Predictions, carrying, self_conditioned
from ..numerics import no_attribute, require_count, require_tokens
from ..parametrization import to_posterior
from ..process import NoiseProcess, as_token_times
from ..process.validation import require_kind
from ..typing import Grid, Selection, Times, Tokens, Variants
from .shapes import TwoForms, resting
from .tables import TimeTable, on_grid


class Stage(NamedTuple):
    """The tokens after one part of a step.

    **Arguments:**

    - `kind`: the kind of change, for example "denoise" or "gibbs".
    - `time`: the time of the tokens, [batch] or [batch, length].
    - `z`: the tokens.
    - `best`, `entropy`: the most probable token at each position, and the mean entropy of the predictions of each sequence
      in nats, from samplers that stop by them; otherwise `None`.
    - `left`: the number of masks of each sequence that are still to be revealed, from samplers that stop by it.
    """

    kind: str
    time: Tensor
    z: Tensor
    best: Tensor | None = None
    entropy: Tensor | None = None
    left: Tensor | None = None


TAKE_ANY_PROCESS = ("AncestralSampler", "BlockSampler", "Infilling")  # for a message

Advance: TypeAlias = Callable[..., list[Stage]]
"""A function that makes one step, with the signature of `Sampler.stages`."""


class Sampler(TwoForms, abc.ABC):
    """Generates sequences in steps from noise (t = 1) to data (t = 0).

    A subclass implements `step`. `walk` yields every state, so that callers can implement progress bars, traces and
    early stopping. A sampler composed of others also implements `stages`, so that traces record which part made each
    change.

    **Arguments:**

    - `process`: the noise process; validated once (`validate`).
    - `denoiser`: a denoiser of any prediction type; `self.denoiser` predicts leave-one-out, and its logits are checked.

    **Raises:** `ValueError` if the process is not Markov, or the denoiser does not declare its prediction type; when
    sampling, if logits do not have the width of the process, or those of a token are NaN, inf, or all -inf. On an
    accelerator the latter is raised at the end of the walk.
    """

    kind = "denoise"
    """The kind of change in traces."""
    converges = False
    """Whether its distribution converges to that of the data as the number of steps grows, given the exact denoiser;
    the tests verify this claim.
    """
    keeps_clean = False
    """Whether a token that is certainly clean (`process.is_clean`) never changes in later steps, so that a sequence with such
    tokens up to its end needs no further evaluation (`EndToken`).
    """
    needs_whole = False
    """Whether it must get sequences whole, and not their beginnings alone (`BlockSampler` with `context="past"`)."""
    takes: ClassVar[type] = NoiseProcess
    """The kind of process that it supports; others raise an error."""
    variants: ClassVar[Variants] = {}
    """Names -> keyword arguments for the bench, tests and tables; by default one variant with default arguments."""
    law = ""
    """Its error with an exact denoiser in a few words, for tables; by default given by `converges`."""
    known_as = ""
    """The names of the method in the literature, for tables; its papers come from the docstring."""
    evaluated = "at positions that may change"
    """Where it evaluates the network in a few words, for tables."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for name in {"step", "stages"} & set(vars(cls)):
            setattr(cls, name, _entered(getattr(cls, name)))

    def __init__(self, process: NoiseProcess, denoiser: Denoiser):
        require_kind(process, self.takes, type(self).__name__, TAKE_ANY_PROCESS)
        process.validate(16)
        self.process = process
        self.denoiser = checked(as_leave_one_out(denoiser, process), process)

    # To be implemented.

    @abc.abstractmethod
    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Tokens at the earlier times s, given those at t.

        **Arguments:**

        - `z`: tokens at t.
        - `t`, `s`: [batch] or [batch, length], s < t; a token with s = t does not change.
        - `generator`: one for all, or one for each sequence; a sequence whose tokens all have s = t does not use its own.

        **Raises:** `ValueError` for times outside the domain or NaN, s > t, tokens outside the vocabulary, or shapes that do
        not match, for every sampler; values are checked on the CPU. A subclass need not check them.
        """

    # Overridden by wrappers.

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """The parts of one step, the last of which ends at s; arguments as for `step`."""
        return [Stage(self.kind, s, self.step(z, t, s, generator=generator))]

    def start(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """The initial tokens of `sample`: pure noise."""
        return self.process.prior(batch, length, generator=generator, device=device or self.device)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step along a validated grid.

        **Arguments:**

        - `z`, `times`, `generator`: as for `walk`.
        - `advance`: the function that makes the stages of one step; by default `self.stages`. A wrapper passes its own
          function, so that the inner sampler determines the times and the wrapper determines the steps.
        """
        advance, checks = advance or self.stages, LogitChecks()
        parts, predictions = self_conditioned(self.denoiser), Predictions(len(z))
        table = TimeTable(self.process if self.is_static(z) else None, times, len(z))
        for k in range(len(times) - 1):
            # Entered at each step, so that the caller's gradient mode applies between steps.
            with torch.no_grad(), checks, carrying(parts, predictions), table.step(k) as (t, s):
                done = advance(z, t, s, generator=generator)
            z = done[-1].z
            if k == len(times) - 2:
                checks.read()  # before the result is handed out
            yield done

    def known_tokens(self) -> Selection | None:
        """The mask of known tokens, or of the beginning of sequences; `None` if none are known."""
        return None

    def knowing(self, known: Selection) -> "Sampler":
        """This sampler with the information which tokens are known; a copy if that changes how it samples.

        `Infilling` calls it on the sampler that it wraps.

        **Arguments:**

        - `known`: the mask of known tokens, for each sequence or one row for all.
        """
        return self

    def check_block(self, size: int) -> int:
        """The size of the blocks of a `BlockSampler`, checked when that is made.

        **Raises:** `ValueError` if it is not positive, or the settings of the sampler need larger blocks.
        """
        return require_count("block_size", size)

    def count_steps(self, z: Tokens, times: Grid) -> int:
        """The largest number of steps that `path` makes, for progress: those of the grid.

        **Arguments:**

        - `z`, `times`: as for `walk`.
        """
        return len(times) - 1

    # Derived from them.

    def walk(self, z: Tokens, times: Grid, *, generator: Randomness = None) -> Iterator[Tokens]:
        """The states after each step, from `z` at the first of `times` to the last.

        **Arguments:**

        - `z`: tokens at `times[0]`.
        - `times`: decreasing times in the domain of the process ([0, 1]); N + 1 times define N steps.

        **Raises:** `ValueError` if the grid leaves the domain or does not decrease, or tokens are outside the
        vocabulary.
        """
        times = self.grid(times=times)
        require_tokens("tokens", z, self.process.vocab_size)
        if z.numel() and (z.min() < 0 or z.max() >= self.process.vocab_size):
            raise ValueError(
                f"tokens must lie in [0, {self.process.vocab_size}); got {z.min().item()} to {z.max().item()}"
            )
        return (stages[-1].z for stages in self.path(z, times.to(z.device), generator=generator))

    def grid(self, steps: int | None = None, times: Grid | None = None) -> Grid:
        """The times of `steps` uniform steps over the domain, or the given times, validated.

        **Raises:** `ValueError` unless exactly one is given, `steps` is positive, and `times` decrease within the
        domain.
        """
        low, high = self.process.domain
        if (steps is None) == (times is None):
            raise ValueError(f"exactly one of steps and times must be given; got steps={steps}, times={times}")
        if times is None:
            return torch.linspace(high, low, require_count("steps", steps) + 1, dtype=torch.float64)
        if not isinstance(times, Tensor):
            raise ValueError(f"times must be a grid, such as torch.linspace(1, 0, 17) for 16 steps; got {times!r}")
        times = times.double()
        if times.dim() != 1 or len(times) < 2 or not (times[1:] < times[:-1]).all():
            raise ValueError(f"times must fall from noise to data; got {times.tolist()}")
        # A float32 grid may miss the ends by rounding.
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
        """The stages of `sample`: the initial noise, each step, and the jump to clean tokens.

        **Arguments:** as for `sample`.
        """
        if not isinstance(shape, Sequence) or len(shape) != 2:
            raise ValueError(
                f"shape must be (batch, length), the number of sequences and of their tokens; got {shape!r}"
            )
        shape = tuple(require_count(name, size, 0) for name, size in zip(("batch", "length"), shape, strict=True))
        times = self.grid(steps, times)
        if abs(float(times[0]) - self.process.domain[1]) > 1e-6:
            raise ValueError(
                f"times must start at {self.process.domain[1]}, where pure noise is drawn; got {float(times[0])} "
                "(`walk` starts from given tokens at any time)"
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
        """Generate sequences from pure noise.

        If noise is left at the last time (because the grid ends above 0, or the process has noise at t = 0), the tokens
        jump to clean ones (`clean`), which takes one more network evaluation.

        **Arguments:**

        - `shape`: (batch, length).
        - `steps`: the number of uniform steps from the upper end of the domain (t = 1) to the lower (t = 0); or
        - `times`: a decreasing grid that starts at the upper end, where `prior` is drawn (`walk` can start at any
          time). If noise grows as the square root of t (`gidd`, gamma = 1), uniform steps are too coarse near 0, and
          `torch.linspace(1, 0, steps + 1) ** 2` is far closer to the data distribution.
        - `clean`: whether to make the final jump; otherwise the noise is kept.

        **Raises:** `ValueError` unless exactly one of `steps` and `times` is given, `steps` is positive and `times` start
        at the upper end of the domain.
        """
        z = torch.empty(0, dtype=torch.long)
        for stages in self.run(shape, steps=steps, times=times, clean=clean, generator=generator):
            z = stages[-1].z
        return z

    @torch.no_grad()
    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        r"""Jump from noisy to clean tokens, each drawn independently from
        $p(x \mid z) \propto \hat x_x\, q_t(z \mid x)$.

        `reconstruction` is the corresponding term of the bound. Tokens known to be clean do not change; if all are, the
        network is not evaluated.

        **Arguments:**

        - `z`: tokens at t.
        """
        self.process.token_times(t, z)
        rows = ~self.process.is_clean(z, t)
        if not rows.any():
            return z
        time = as_token_times(t, z).expand(z.shape)
        with LogitChecks() as checks:
            logits = self.process.on_support(self.denoiser(z, time, rows))
        checks.read()
        logits = to_posterior(self.process, logits, z[rows], time[rows], check=False)
        generator = rest_generators(generator, ~rows.any(-1))
        u = uniforms(*z.shape, generator=generator, device=z.device)
        return replace_tokens(z, rows, choose(logits.double().softmax(-1), u[rows]))

    def __getattr__(self, name: str) -> Any:
        raise no_attribute(self, name, ("process", "denoiser"))

    @property
    def device(self) -> torch.device:
        """The device of the denoiser and the process."""
        tensors = (*self.denoiser.parameters(), *self.denoiser.buffers(), *self.process.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def __repr__(self) -> str:
        return describe(self, self.process, self.denoiser, self.extra_repr())

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return ""


def _entered(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step of a sampler, or its stages, after a check of tokens and times.

    A sequence that does not move does not use its own generator: it may move in fewer steps than others of its batch, after
    which there are draws.
    """

    @functools.wraps(step)
    def checked_step(self: Sampler, z: Tokens, t: Times, s: Times, *, generator: Randomness = None, **more: Any) -> Any:
        if torch.compiler.is_compiling() or not walking():
            self.process.step_times(s, t, z)
        if isinstance(generator, Sequence) and not on_grid(t, s):
            resting = (as_token_times(t, z) == as_token_times(s, z)).all(-1)
            generator = rest_generators(generator, resting)
        return step(self, z, t, s, generator=generator, **more)

    return checked_step


class WrappedSampler(Sampler):
    """A sampler that wraps another one and behaves like it, except for methods overridden by a subclass.

    **Arguments:**

    - `inner`: the sampler to wrap.
    """

    def __init__(self, inner: Sampler):
        if not isinstance(inner, Sampler):
            raise ValueError(f"a sampler must be a noiselab.Sampler; got {type(inner).__name__}")
        self.inner, self.process, self.denoiser = inner, inner.process, inner.denoiser
        self.kind, self.converges, self.needs_whole = inner.kind, inner.converges, inner.needs_whole

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """The tokens after the last stage."""
        return self.stages(z, t, s, generator=generator)[-1].z

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """The stages of the inner sampler."""
        return self.inner.stages(z, t, s, generator=generator)

    def start(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """The initial tokens of the inner sampler."""
        return self.inner.start(batch, length, generator=generator, device=device)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The path of the inner sampler, with the stages of this one."""
        return self.inner.path(z, times, generator=generator, advance=advance or self.stages)

    def check_block(self, size: int) -> int:
        """As the inner sampler."""
        return self.inner.check_block(size)

    def count_steps(self, z: Tokens, times: Grid) -> int:
        """That of the inner sampler."""
        return self.inner.count_steps(z, times)

    def _parts(self) -> tuple[str, ...]:
        return ("inner",)

    def known_tokens(self) -> Selection | None:
        """Those of the inner sampler."""
        return self.inner.known_tokens()

    def knowing(self, known: Selection) -> Sampler:
        """This sampler around an inner one that knows them."""
        inner = self.inner.knowing(known)
        if inner is self.inner:
            return self
        told = copy.copy(self)
        told.inner = inner
        return told

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """As for the inner sampler."""
        return self.inner.clean(z, t, generator=generator)

    def __repr__(self) -> str:
        return describe(self, self.inner, self.extra_repr())


def hold_still(
    advance: Advance,
    still: Tensor,
    low: float,
    z: Tensor,
    t: Tensor,
    s: Tensor,
    generator: Randomness,
    *,
    over: bool = False,
) -> list[Stage]:
    """The stages of one step in which some sequences stay unchanged at the lower end of time.

    **Arguments:**

    - `advance`: the function that makes the stages.
    - `still`: these sequences, Bool [batch].
    - `low`: the lower end of time.
    - `z`, `t`, `s`, `generator`: as for `Sampler.step`.
    - `over`: whether all sequences are known to stay unchanged, so that no network is evaluated.
    """
    t, s = (torch.where(still if time.dim() == 1 else still[:, None], low, time) for time in (t, s))
    with resting(over):
        done = advance(z, t, s, generator=generator)
    return [stage._replace(z=torch.where(still[:, None], z, stage.z)) for stage in done]
