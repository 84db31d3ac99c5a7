"""The samplers of the library as a catalogue: name -> factory(process, denoiser)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..categorical import Randomness
from ..correctors import Corrector, SelfCorrection
from ..correctors.flow_matching import DFMCorrector
from ..correctors.forward_backward import ForwardBackwardCorrector
from ..correctors.gibbs import GibbsCorrector
from ..correctors.predictor_corrector import PredictorCorrector
from ..correctors.remasking import RemaskingCorrector
from ..process import InterpolatingProcess, NoiseProcess
from ..samplers import AncestralSampler, Sampler, Stage, WrappedSampler
from ..samplers.base import Advance
from ..samplers.confidence import ConfidenceSampler, EntropyBoundedSampler
from ..samplers.deterministic import DeterministicSampler
from ..samplers.gillespie import FirstHittingSampler, GillespieSampler
from ..samplers.grids import even_grid, power_grid
from ..samplers.path_planning import PathPlanningSampler
from ..samplers.remasking import RemaskingSampler
from ..samplers.tau_leaping import EulerSampler, TauLeapingSampler
from ..samplers.wrappers.stopping import EarlyStopping
from ..typing import Grid, Times, Tokens
from .runner import Factory

ENOUGH = 512  # steps for samplers that stop by themselves; more than the tokens of any known world
PATIENCE = 4  # steps without a change, after which a sequence is left alone


class OnGrid(WrappedSampler):
    """A sampler whose `steps` are spaced by a rule.

    **Arguments:**

    - `inner`: the sampler.
    - `rule`: from a process and a number of steps to falling times, such as `nl.samplers.power_grid`.

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
        """The times that the rule gives for so many steps, or your own."""
        if steps is None or times is not None:
            return super().grid(steps, times)
        return super().grid(times=self.rule(self.process, steps))

    def extra_repr(self) -> str:
        """The rule."""
        return getattr(self.rule, "__name__", repr(self.rule))


class ThenCorrect(WrappedSampler):
    """A sampler, and after its last step as many of a corrector as it took itself.

    A corrector that can `walk` does so, and may stop earlier; another one steps at the time where the sampler ends. The jump to
    clean tokens, if there is one, comes before.

    **Arguments:**

    - `inner`: the sampler.
    - `corrector`: what follows.
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
        """The tokens as they are: they were cleaned before they were corrected."""
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
        """What follows."""
        return f"{self.corrector}"


def catalogue(process: InterpolatingProcess, *, slow: bool = False) -> dict[str, Factory]:
    """The library's samplers that this noise allows, in settings of a middle strength.

    **Arguments:**

    - `slow`: also those that take a hundred evaluations and more, whatever the budget: `GillespieSampler` for noise that
      does not show.

    **Returns:** a dictionary of your own, name -> factory(process, denoiser): take out, and put yours in.

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
    found: dict[str, Factory] = {
        "ancestral": AncestralSampler,
        "ancestral, squared times": lambda p, d: OnGrid(AncestralSampler(p, d), power_grid),
        "tau-leaping": TauLeapingSampler,
        "Euler": EulerSampler,
        "remasking": lambda p, d: RemaskingSampler(p, d, "cap", amount=0.05),
        "remasking loop": lambda p, d: PredictorCorrector(
            AncestralSampler(p, d), RemaskingCorrector(p, d, amount=0.05)
        ),
        "stopping early": lambda p, d: EarlyStopping(AncestralSampler(p, d), patience=PATIENCE),
        "Gibbs": lambda p, d: PredictorCorrector(AncestralSampler(p, d), GibbsCorrector(p, d)),
        "Gibbs at the end": lambda p, d: ThenCorrect(AncestralSampler(p, d), GibbsCorrector(p, d)),
        "forward-backward": lambda p, d: PredictorCorrector(AncestralSampler(p, d), ForwardBackwardCorrector(p, d)),
        "DFM corrector": lambda p, d: PredictorCorrector(AncestralSampler(p, d), DFMCorrector(p, d)),
        "path planning": PathPlanningSampler,
        "self-correction": lambda p, d: ThenCorrect(AncestralSampler(p, d), SelfCorrection(d, support=p.support)),
    }
    if _mixing_stands(process):
        found["deterministic"] = DeterministicSampler
        found["deterministic, half"] = lambda p, d: DeterministicSampler(p, d, share=0.5)
    if _shows(process):
        found["first hitting"] = FirstHittingSampler
        found["most confident first"] = ConfidenceSampler
        found["least entropy first"] = lambda p, d: ConfidenceSampler(p, d, score="entropy")
        for bound in (0.1, 1.0):
            found[f"entropy-bounded, {bound:g}"] = _entropy_bounded(bound)
    elif slow:
        found["Gillespie"] = GillespieSampler
    return found


def _entropy_bounded(bound: float) -> Factory:
    """It takes as many evaluations as it needs, if only there are steps enough."""
    return lambda p, d: OnGrid(EntropyBoundedSampler(p, d, bound=bound), lambda p, steps: even_grid(p, ENOUGH))


def _shows(process: InterpolatingProcess) -> bool:
    """Whether no noise falls on tokens that data contain."""
    tokens = process.data_tokens().nonzero()[:, 0][None]
    return bool(process.is_clean(tokens, torch.full((1,), sum(process.domain) / 2)).all())


def _mixing_stands(process: InterpolatingProcess) -> bool:
    """Whether the noise is the same at all times."""
    low, high = process.domain
    noise = process.noise(low + (high - low) * torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64))
    row = noise.dense() / noise.total()[..., None]
    return bool((row - row[:1]).abs().max() < 1e-6)
