"""Self-correction with static shapes: sequences as with rows, few operations, no read before the walk may end."""

import pytest
import torch
from static_steps import READS, Eager, Graphs, Known, Network, processes_of, seeded

import noiselab as nl
from noiselab.correctors import self_correction
from noiselab.denoisers.checked import LogitChecks

V, LENGTH, BATCH = 6, 10, 12


def both(states=V, **settings):
    process = processes_of(states)["hybrid"]
    settings = {"patience": 2, "tokens_per_step": 2, "temperature": 1.0} | settings
    correction = nl.SelfCorrection(Network(states), support=process.support, **settings)
    return correction.with_shapes("rows"), correction.with_shapes("static")


def last_of(walk):
    return list(walk)[-1]


@pytest.mark.parametrize("states", [V, 1500])
@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("selected", [False, True])
def test_walks_give_the_same_sequences_and_stop_at_the_same_step(states, stop, selected):
    rows = torch.rand(BATCH, LENGTH, generator=seeded(0)) < 0.7 if selected else None
    if rows is not None:
        rows[0] = False  # nothing may change
    one, other = both(states)
    z, changed = torch.randint(0, states - 1, (BATCH, LENGTH), generator=seeded(1)), 0
    for seed in range(3):
        walks = [list(c.walk(z, steps=21, rows=rows, stop=stop, generator=seeded(seed))) for c in (one, other)]
        short, long = walks
        assert len(short) <= len(long) < len(short) + self_correction.READ_EVERY
        for a, b in zip(short, long, strict=False):
            assert torch.equal(a, b)
        assert all(torch.equal(long[len(short) - 1], more) for more in long[len(short) :])
        changed += int((short[-1] != z).sum())
    assert changed > 0


def test_sequences_stop_one_by_one_before_the_end():
    """Or the test above would see no stopped sequence beside one that goes on."""
    one, _ = both()
    z = torch.randint(0, V - 1, (BATCH, LENGTH), generator=seeded(1))
    states = [z, *one.walk(z, steps=21, generator=seeded(0))]
    lasts = [
        max(k for k in range(1, len(states)) if not torch.equal(states[k][i], states[k - 1][i])) for i in range(BATCH)
    ]
    assert len(set(lasts)) > 2 and len(states) - 1 < 21


@pytest.mark.parametrize("generator", [lambda: seeded(3), lambda: [seeded(i) for i in range(BATCH)]])
def test_a_step_between_those_of_a_sampler_is_the_same(generator):
    process = processes_of(V)["hybrid"]
    samplers = [
        nl.PredictorCorrector(nl.AncestralSampler(process, Network(V)), both()[0]).with_shapes(shapes)
        for shapes in ("rows", "static")
    ]
    assert samplers[1].corrector.shapes == samplers[1].inner.shapes == "static"
    x, y = (sampler.sample((BATCH, LENGTH), steps=6, generator=generator()) for sampler in samplers)
    assert torch.equal(x, y)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("states", [V, pytest.param(50_258, marks=pytest.mark.long)])
def test_a_compiled_revision_is_one_graph_of_few_operations(states):
    graphs = Graphs()
    _, static = both(states)
    z = torch.randint(0, states - 1, (3, LENGTH), generator=seeded(1))
    assert torch.equal(
        static.compiled(backend=graphs.backend()).correct(z, steps=5, generator=seeded(0)),
        static.correct(z, steps=5, generator=seeded(0)),
    )
    known = nl.SelfCorrection(Known(torch.zeros(1, LENGTH, states)), support=processes_of(states)["hybrid"].support)
    graphs = Graphs()
    known.compiled(backend=graphs.backend()).correct(z, steps=2, generator=seeded(0))
    assert len(graphs.graphs) == 1 and not READS & set(graphs.graphs[0])
    assert 20 < len(graphs.graphs[0]) + 1 <= 60


def test_the_host_reads_only_where_the_walk_may_end(monkeypatch):
    """On the device meta, where nothing can be read: the first read is the one of the eighth step."""
    support = processes_of(V)["hybrid"].support
    correction = nl.SelfCorrection(Known(torch.zeros(1, LENGTH, V)).to("meta"), support=support)
    live = torch.ones(2, dtype=torch.bool, device="meta")
    z = torch.zeros(2, LENGTH, dtype=torch.long, device="meta")
    monkeypatch.setattr(LogitChecks, "read", lambda self: None)
    walk = correction._static_walk(z, 16, None, live, True, None)
    counts = []
    for _ in range(self_correction.READ_EVERY - 1):
        with Eager() as eager:
            z = next(walk)
        counts.append(len(eager.names))
    assert counts[-1] <= 60
    with pytest.raises(RuntimeError, match="meta"):
        next(walk)


@pytest.mark.usefixtures("unchecked")
def test_logits_that_are_no_numbers_are_refused():
    network = Network(V)
    network.out.bias.data[0] = torch.nan
    correction = nl.SelfCorrection(network, support=processes_of(V)["hybrid"].support)
    z = torch.zeros(2, LENGTH, dtype=torch.long)
    for one in (correction.with_shapes("static"), correction.compiled(backend="eager")):
        with pytest.raises(ValueError, match="logits must be finite"):
            one.correct(z, steps=2)
        with pytest.raises(ValueError, match="logits must be finite"):
            one.step(z, torch.full((2,), 0.1, dtype=torch.float64))
