"""A compiled step gives the tokens of the step as it is."""

import pytest
import torch
from worlds import PROCESSES, V

import noiselab as nl
from noiselab.bench import registry

LENGTH = 6


class Network(nl.Denoiser):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.mix = torch.nn.Embedding(V, 16), torch.nn.Conv1d(16, 16, 3, padding=1)
            self.out = torch.nn.Linear(16, V)

    def forward(self, z, t, rows=None):
        hidden = self.embed(z) + torch.as_tensor(t, dtype=torch.float32).view(len(z), -1, 1)
        hidden = torch.relu(self.mix(hidden.mT).mT)
        return self.out(hidden if rows is None else hidden[rows])


def samplers():
    """One for each sampler of the library, and a stack; compiling takes seconds, so that most are run on request."""
    for name, kind in registry.find_samplers().items():
        # Event by event, the number of evaluations depends on what is drawn: nothing to compile.
        if kind not in (nl.samplers.GillespieSampler, nl.samplers.FirstHittingSampler):
            yield pytest.param(kind, marks=pytest.mark.long, id=name)

    def corrected(process, network):
        return nl.PredictorCorrector(
            nl.AncestralSampler(process, nl.TopP(nl.Temperature(network, 0.7), 0.9)),
            nl.SelfCorrection(network, support=process.support),
        )

    yield pytest.param(corrected, id="self-correction between truncated steps")


@pytest.mark.parametrize("make", list(samplers()))
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_a_compiled_step_is_the_step(make, unchecked):
    network = Network()
    process = next(p for p in (PROCESSES["gidd"](), PROCESSES["masked"]()) if registry.takes(make, p))
    t = torch.full((3,), 0.7, dtype=torch.float64)
    z = process.corrupt(torch.zeros(3, LENGTH, dtype=torch.long), t, generator=torch.Generator().manual_seed(0))
    sampler = make(process, network)
    torch.compiler.reset()
    step, moved = torch.compile(sampler.step, backend="aot_eager"), 0
    for seed in range(4):
        with torch.no_grad():
            want, got = (f(z, t, t - 0.2, generator=torch.Generator().manual_seed(seed)) for f in (sampler.step, step))
        assert torch.equal(want, got), sampler
        moved += int((want != z).sum())
    assert moved > 0


@pytest.mark.long
def test_one_of_generated_code_is_too(unchecked):
    """The same with the default compiler, for the ancestral step."""
    process = PROCESSES["gidd"]()
    t = torch.full((3,), 0.7, dtype=torch.float64)
    z = process.corrupt(torch.zeros(3, LENGTH, dtype=torch.long), t, generator=torch.Generator().manual_seed(0))
    sampler = nl.AncestralSampler(process, Network())
    torch.compiler.reset()
    step = torch.compile(sampler.step)
    for seed in range(3):
        with torch.no_grad():
            want, got = (f(z, t, t - 0.2, generator=torch.Generator().manual_seed(seed)) for f in (sampler.step, step))
        assert torch.equal(want, got)
