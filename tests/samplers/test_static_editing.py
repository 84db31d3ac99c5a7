"""Samplers that write tokens more than once, with static shapes: the tokens of the steps that select rows."""

import pytest
import torch
from static_steps import Network, processes_of, same_tokens, seeded, steps_of
from worlds import PROCESSES, V

import noiselab as nl

S = nl.samplers


class Planner(Network):
    """Another network than the denoiser."""

    def __init__(self, states):
        super().__init__(states)
        self.out.weight.data = self.out.weight.data.flip(0)


class Posterior(Network):
    """A network that predicts posteriors."""

    predicts = "posterior"


EDITING = {
    "planning": S.PathPlanningSampler,
    "planning, sharp": lambda p, n: S.PathPlanningSampler(p, n, stochasticity=0.3),
    "planning, none": lambda p, n: S.PathPlanningSampler(p, n, stochasticity=0, draw=False),
    "planner": lambda p, n: S.PathPlanningSampler(p, n, Planner(p.vocab_size), stochasticity=2),
    "joint": lambda p, n: S.JointThresholdSampler(p, n, 0.4, 0.3),
    "joint, two": lambda p, n: S.JointThresholdSampler(p, n, 0.9, 0.5, minimum=[2, 1, 1], most_edits=1),
    "renoising": lambda p, n: S.RenoisingSampler(p, n, 1.0),
    "renoising, drawn": lambda p, n: S.RenoisingSampler(p, n, 0.5, temperature=0.4 + 0.4 * nl.t, draw=True),
    "renoising, quota": lambda p, n: S.RenoisingSampler(p, n, accept=S.Quota([1, 2, 3]), stability=1, confidence=0.5),
    "renoising, posterior": lambda p, n: S.RenoisingSampler(
        p, Posterior(p.vocab_size), 2.0, stability=0, confidence=0.7
    ),
}
NEED_MASKS = ("joint", "joint, two")
CASES = [
    (name, noise)
    for name in EDITING
    for noise in ("masked", "hybrid", "uniform")
    if name not in NEED_MASKS or noise == "hybrid"
]


@pytest.mark.long_for("*-1500-sequences")
@pytest.mark.parametrize("kind", ["sequences", "tokens"])
@pytest.mark.parametrize("states", [V, 1500])
@pytest.mark.parametrize(("name", "noise"), CASES)
def test_steps_give_the_same_tokens(name, noise, states, kind):
    process = processes_of(states)[noise]
    same_tokens(*steps_of(EDITING[name], process), process, kind, seeds=2)


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_walks_do_in_blocks_after_prompts_and_until_they_stop(name, noise):
    process = processes_of(V)[noise]
    known, tokens = (
        torch.arange(8) < torch.tensor([[2], [0], [5]]),
        torch.randint(0, V - 1, (3, 8), generator=seeded(3)),
    )
    for wrap in (
        lambda sampler: sampler,
        lambda sampler: nl.Infilling(sampler, tokens, known),
        lambda sampler: S.BlockSampler(sampler, 4),
        lambda sampler: S.EarlyStopping(sampler, 2),
    ):
        walks = [
            list(wrap(sampler).run((3, 8), steps=6, generator=seeded(2)))
            for sampler in steps_of(EDITING[name], process)
        ]
        assert len(walks[0]) == len(walks[1])
        for rows, static in zip(*walks, strict=True):
            assert torch.equal(rows[-1].z, static[-1].z) and torch.equal(rows[-1].time, static[-1].time)


@pytest.mark.parametrize("name", sorted({*PROCESSES} - {"masked", "hybrid", "uniform"}))
@pytest.mark.parametrize("make", [S.PathPlanningSampler, S.RenoisingSampler])
def test_steps_do_for_every_process(name, make):
    process = PROCESSES[name]()
    if isinstance(process, nl.InterpolatingProcess):
        same_tokens(*steps_of(make, process), process, "tokens", seeds=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda p, n: S.JointThresholdSampler(p, n, 0.4, 0.3, most_edits=2),
        lambda p, n: S.EarlyStopping(nl.AncestralSampler(p, n), 2),
        lambda p, n: S.EndToken(S.BlockSampler(nl.AncestralSampler(p, n), 2), [*range(V - 1)]),
    ],
)
def test_when_all_sequences_have_stopped_no_network_is_evaluated(make):
    process = processes_of(V)["hybrid"]
    counting = nl.denoisers.CallCounter(Network(V))
    states = list(make(process, counting).with_shapes("static").run((3, 8), steps=200, generator=seeded(0)))
    assert counting.calls == len(states) - 2 < 300  # without the noise at the start and the jump at the end
