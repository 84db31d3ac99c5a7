"""Edits by threshold in benchmarks/correction_table.py: the decoder of LLaDA2.1 on a finished text, without masks."""

import torch

import noiselab as nl
from noiselab.categorical import Randomness
from noiselab.denoisers import CallCounter
from noiselab.revisions import Revised, Reviser
from noiselab.samplers import JointThresholdSampler
from noiselab.typing import Selection, Tokens


class EditReviser(Reviser):
    r"""Replaces tokens by others of a probability above `edit`, all at once, again and again until a step changes nothing.

    **Arguments:**

    - `process`, `denoiser`: as for `JointThresholdSampler`; the prediction is used as it is.
    - `edit`: the threshold.
    - `time`: of the first step; the steps go evenly down to the lower end.
    - `steps`: the largest number of them.
    """

    kind = "edit"

    def __init__(
        self, process: nl.NoiseProcess, denoiser: nl.Denoiser, edit: float, *, time: float = 0.01, steps: int = 16
    ) -> None:
        self.counter, self.time, self.steps = CallCounter(denoiser), time, steps
        self.sampler = JointThresholdSampler(process, self.counter, edit=edit)

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The edited sequences; nothing is drawn."""
        if rows is not None:
            raise ValueError("EditReviser edits whole sequences; got rows")
        times = torch.linspace(self.time, self.sampler.process.domain[0], self.steps + 1, dtype=torch.float64)
        self.counter.reset()
        for state in self.sampler.walk(z, times):
            z = state
        return Revised(z, self.counter.active)  # sequences that have stopped have no row to be read
