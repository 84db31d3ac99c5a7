"""Applying correctors between the steps of a sampler."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..categorical import Randomness, select_generators
from ..denoisers import selected_sequences
from ..numerics import require_count
from ..process import as_token_times
from ..samplers.base import Sampler, Stage, WrappedSampler
from ..typing import Selection, Times, Tokens
from .base import Corrector


class PredictorCorrector(WrappedSampler):
    """Applies steps of a corrector after each step of a sampler, at the time that was reached.

    A corrector resamples tokens that were drawn independently of each other in a sampler step. Only tokens whose time
    changed in the step are corrected, so that prompts and finished blocks do not change. Nest it to apply several
    correctors.

    **Arguments:**

    - `predictor`: any sampler.
    - `corrector`: the corrector applied after each step.
    - `when`: the open interval of times (low, high) in which tokens are corrected, by default excluding clean tokens;
      or an elementwise function from times to Bool.
    - `repeats`: the number of corrector steps after each step of the sampler.

    `converges` is True if both converge.

    **Raises:** `ValueError` for invalid arguments.

    **Source:** Song et al. (2021), arXiv 2011.13456, for predictors and correctors; Campbell et al. (2022), arXiv
    2205.14987, for discrete data.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.1)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    gibbs = nl.GibbsCorrector(process, oracle)
    sampler = nl.PredictorCorrector(nl.AncestralSampler(process, oracle), gibbs, when=(0, 0.5), repeats=4)
    kinds = [stage.kind for stages in sampler.run((2, 8), steps=4) for stage in stages]
    assert kinds.count("denoise") == 4 and kinds.count("gibbs") == 4  # after the step to t = 0.25 only
    ```
    """

    def __init__(
        self,
        predictor: Sampler,
        corrector: Corrector,
        when: tuple[float | int, float | int] | Callable[[Tensor], Tensor] = (0, 1),
        repeats: int = 1,
    ):
        super().__init__(predictor)
        if not isinstance(corrector, Corrector):
            raise ValueError(f"a corrector must be a noiselab.Corrector; got {type(corrector).__name__}")
        if not callable(when) and not (len(when) == 2 and when[0] < when[1]):
            raise ValueError(f"when must be two increasing times, or a function of times; got {when}")
        self.corrector, self.when, self.repeats = corrector, when, require_count("repeats", repeats)
        self.converges = predictor.converges and corrector.converges

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """The stages of the predictor, then one for each step of the corrector."""
        done = self.inner.stages(z, t, s, generator=generator)
        rows = self._rows(z, t, s)
        # Sequences without such tokens are skipped and draw no random numbers.
        index = rows.any(-1).nonzero()[:, 0]
        if not len(index):
            return done
        z, time = done[-1].z, s[index]
        # `None` lets correctors skip the selection of tokens.
        some = None if rows.all() else rows[index]
        generator = select_generators(generator, index)
        denoiser = getattr(self.corrector, "denoiser", self.denoiser)
        for _ in range(self.repeats):
            with selected_sequences(denoiser, index):
                z = z.index_copy(0, index, self.corrector.step(z[index], time, rows=some, generator=generator))
            done.append(Stage(self.corrector.kind, s, z))
        return done

    def _parts(self) -> tuple[str, ...]:
        return ("inner", "corrector")

    def _rows(self, z: Tensor, t: Tensor, s: Tensor) -> Selection:
        """The mask of tokens whose time changed, where `when` allows correction."""
        t, s = as_token_times(t, z), as_token_times(s, z)
        allowed = self.when(s) if callable(self.when) else (self.when[0] < s) & (s < self.when[1])
        if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
            raise ValueError(f"when must be elementwise from times to Bool; got {allowed!r}")
        return ((s < t) & allowed).expand(z.shape)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        when = self.when if callable(self.when) else f"({self.when[0]:g}, {self.when[1]:g})"
        return f"{self.corrector}, when={when}, repeats={self.repeats}"
