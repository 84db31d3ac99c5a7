"""The samplers of the library as a catalogue: name -> factory(process, denoiser)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..categorical import Randomness
from ..correctors import Corrector, GibbsCorrector, PredictorCorrector, SelfCorrection
from ..denoisers import Denoiser
from ..process import NoiseProcess
from ..samplers import (
    AncestralSampler,
    DraftSampler,
    EarlyStopping,
    EntropyBoundedSampler,
    JointThresholdSampler,
    Sampler,
    Stage,
    ThresholdSampler,
    WrappedSampler,
)
from ..samplers.base import Advance
from ..samplers.grids import even_grid, power_grid
from ..typing import Grid, Times, Tokens
from .registry import factories_of, find_correctors, find_samplers, takes, variants_of
from .runner import Factory

ENOUGH = 512  # steps for samplers that end by themselves; more than the tokens of any known world
UNTIL_DONE = (DraftSampler, EntropyBoundedSampler, JointThresholdSampler, ThresholdSampler)  # end by themselves
PATIENCE = 4  # steps without a change after which a sequence stops


class OnGrid(WrappedSampler):
    """A sampler whose steps are placed by a rule.

    **Arguments:**

    - `inner`: the sampler.
    - `rule`: a function from a process and a number of steps to decreasing times, such as `nl.samplers.power_grid`.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab.bench.catalogue import OnGrid
    from noiselab.bench.world import World

    world = World.sharp()
    process = world.processes()["gidd"]
    sampler = OnGrid(nl.AncestralSampler(process, world.oracle(process)), nl.samplers.power_grid)
    assert sampler.grid(2).tolist() == [1, 0.25, 0]
    ```
    """

    def __init__(self, inner: Sampler, rule: Callable[[NoiseProcess, int], Tensor]):
        super().__init__(inner)
        self.rule = rule

    def grid(self, steps: int | None = None, times: Grid | None = None) -> Grid:
        """The times of the rule for this number of steps, or the given times."""
        if steps is None or times is not None:
            return super().grid(steps, times)
        return super().grid(times=self.rule(self.process, steps))

    def extra_repr(self) -> str:
        """The rule."""
        return getattr(self.rule, "__name__", repr(self.rule))


class ThenCorrect(WrappedSampler):
    """A sampler followed by the same number of corrector steps.

    A corrector with a `walk` uses it and may stop earlier; others step at the final time of the sampler. The jump to
    clean tokens, if there is one, comes before.

    **Arguments:**

    - `inner`: the sampler.
    - `corrector`: the corrector.
    """

    def __init__(self, inner: Sampler, corrector: Corrector):
        super().__init__(inner)
        self.corrector, self.converges = corrector, inner.converges and corrector.converges

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The steps of the sampler, then those of the corrector."""
        for stages in super().path(z, times, generator=generator, advance=advance):
            z = stages[-1].z
            yield stages
        end, steps = times[-1].expand(len(z)), len(times) - 1
        z = self.inner.clean(z, end, generator=generator)
        for state in self._corrected(z, end, steps, generator):
            yield [Stage(self.corrector.kind, end, state)]

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """The tokens unchanged: they were cleaned before the correction."""
        return z

    def _corrected(self, z: Tensor, end: Tensor, steps: int, generator: Randomness) -> Iterator[Tensor]:
        if isinstance(self.corrector, SelfCorrection):
            yield from self.corrector.walk(z, steps=steps, generator=generator)
            return
        for _ in range(steps):
            with torch.no_grad():
                z = self.corrector.step(z, end, generator=generator)
            yield z

    def extra_repr(self) -> str:
        """The corrector."""
        return f"{self.corrector}"


def catalogue(process: NoiseProcess, *, slow: bool = False) -> dict[str, Factory]:
    """The library's samplers and correctors that accept this process, with moderate settings (`variants`).

    **Arguments:**

    - `slow`: whether to include samplers that need at least a hundred evaluations for any budget: `GillespieSampler`
      for noise on data tokens.

    **Returns:** a new dictionary, name -> factory(process, denoiser), which you may modify.

    **Example:**

    ```python
    from noiselab.bench.runner import bench
    from noiselab.bench.catalogue import catalogue
    from noiselab.bench.world import World

    world = World.sharp(length=8)
    process = world.processes()["masked"]
    some = {name: catalogue(process)[name] for name in ("ancestral", "first hitting")}
    rows = bench(some, world, process, evaluations=(4, 8), sequences=100)
    assert {row.method for row in rows} == set(some)
    ```
    """
    found: dict[str, Factory] = {}
    for sampler in find_samplers().values():
        found |= {name: make for name, make in factories_of(sampler).items() if takes(make, process)}
    if "first hitting" in found or not slow:  # same distribution at lower cost for absorbing noise
        found.pop("Gillespie", None)
    for name in [n for kind in UNTIL_DONE for n in variants_of(kind) if n in found]:
        found[name] = _with_steps_enough(found[name])
    for corrector in find_correctors().values():
        found |= {name: _corrected(make) for name, make in factories_of(corrector).items() if takes(make, process)}
    return found | {
        "ancestral, squared times": lambda p, d: OnGrid(AncestralSampler(p, d), power_grid),
        "stopping early": lambda p, d: EarlyStopping(AncestralSampler(p, d), patience=PATIENCE),
        "Gibbs at the end": lambda p, d: ThenCorrect(AncestralSampler(p, d), GibbsCorrector(p, d)),
    }


def _with_steps_enough(make: Factory) -> Factory:
    """Give the sampler enough steps to end by itself."""
    return lambda p, d: OnGrid(make(p, d), lambda p, steps: even_grid(p, ENOUGH))


def _corrected(make: Callable[[NoiseProcess, Denoiser], Corrector]) -> Factory:
    """Ancestral steps with a corrector between them, or after them if it has its own walk."""

    def sampler(process: NoiseProcess, denoiser: Denoiser) -> Sampler:
        plain, corrector = AncestralSampler(process, denoiser), make(process, denoiser)
        after = isinstance(corrector, SelfCorrection)
        return ThenCorrect(plain, corrector) if after else PredictorCorrector(plain, corrector)

    return sampler
