"""Steps with static shapes: the tokens of the steps that select rows, nothing read by the host, one graph, few operations."""

import pytest
import torch
from static_steps import (
    LENGTH,
    READS,
    Eager,
    Graphs,
    Known,
    Network,
    processes_of,
    same_tokens,
    seeded,
    steps_of,
    times_of,
)
from worlds import PROCESSES, V

import noiselab as nl
from noiselab.categorical import padded_width, uniforms
from noiselab.denoisers.checked import LogitChecks
from noiselab.samplers.acceptance import Proposals

LIMIT = 60


@pytest.fixture
def traceable(unchecked, monkeypatch):
    """Without the checks of types that tests put around dataclasses too, which `unchecked` leaves."""
    monkeypatch.setattr(Proposals, "__init__", Proposals.__init__.__wrapped__)


@pytest.mark.parametrize("kind", ["sequences", "tokens"])
@pytest.mark.parametrize("name", PROCESSES)
def test_the_ancestral_step_gives_the_same_tokens_for_every_process(name, kind):
    process = PROCESSES[name]()
    same_tokens(*steps_of(nl.AncestralSampler, process), process, kind)


@pytest.mark.parametrize("name", ["masked", "hybrid", "uniform"])
@pytest.mark.parametrize("states", [1000, 1500])
def test_and_for_many_tokens(name, states):
    """1,000 tokens are drawn by one sum, 1,500 by blocks, the last of which is not full."""
    process = processes_of(states)[name]
    same_tokens(*steps_of(nl.AncestralSampler, process), process, "tokens", seeds=2)


def test_the_draws_of_a_step_have_the_law_of_the_posterior():
    """Of a hybrid process, by a chi-square test against the dense posterior at each token."""
    process, count = PROCESSES["gidd"](), 40_000
    x_hat = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0]).double()
    z = torch.arange(V).expand(count // V, V)
    t, s = torch.full((len(z),), 0.8).double(), torch.full((len(z),), 0.5).double()
    logits = x_hat.log().expand(*z.shape, V) - x_hat.log().max()
    found = process.draw_reverse(logits, z, s, t, uniforms(*z.shape, 5, generator=seeded(1)))
    law = process.posterior(z[:1], x_hat.expand(1, V, V), s[:1], t[:1])[0]
    for token in range(V):
        counts, want = torch.bincount(found[:, token], minlength=V), len(z) * law[token]
        assert (counts[want == 0] == 0).all()
        some = want > 0
        chi = ((counts - want)[some] ** 2 / want[some]).sum()
        degrees = some.sum() - 1
        assert chi < degrees + 5 * (2 * degrees) ** 0.5 + 1


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_extreme_random_numbers_leave_no_mask_and_draw_no_impossible_token(u):
    for states in (V, 1500):
        for process in processes_of(states).values():
            for end in (0.0, 0.5):
                t, s = torch.tensor([1.0]).double(), torch.tensor([end]).double()
                z = torch.arange(states)[None]
                logits = torch.zeros(1, states, padded_width(states)).double()
                logits[..., : states // 2] = logits[..., states - 1 :] = -torch.inf
                some = torch.full((1, states, 5), u, dtype=torch.float64)
                new = process.draw_reverse(logits, z, s, t, some)
                moved = process.noise(t[:, None]).at(z) > 0
                if end == 0:
                    assert ((states // 2 <= new) & (new < states - 1))[moved.expand(z.shape)].all()
                assert (process.noise(s[:, None]).at(new) + (new >= states // 2) > 0)[moved.expand(z.shape)].all()


def confident(process, network):
    return nl.samplers.ConfidenceSampler(process, network)


def bounded(process, network):
    return nl.samplers.EntropyBoundedSampler(process, network, bound=1.0)


def threshold(process, network):
    return nl.samplers.ThresholdSampler(process, network, nl.samplers.ConfidenceThreshold(0.5))


def joint(process, network):
    return nl.samplers.JointThresholdSampler(process, network, 0.7, 0.5)


STOP = ("joint",)  # in a step that the walk reads
SAMPLERS = {
    "ancestral": (nl.AncestralSampler, ("masked", "hybrid", "uniform")),
    "confidence": (confident, ("masked",)),
    "bounded": (bounded, ("masked",)),
    "threshold": (threshold, ("masked",)),
    "planning": (nl.samplers.PathPlanningSampler, ("masked", "hybrid", "uniform")),
    "joint": (joint, ("hybrid",)),
    "renoising": (nl.samplers.RenoisingSampler, ("masked", "hybrid", "uniform")),
}
CASES = [(name, noise) for name, (_, noises) in SAMPLERS.items() for noise in noises]
# Compiling takes seconds: the largest of each sampler is always compiled, the others on request.
COMPILED = [
    pytest.param(name, noise, marks=[] if noise == noises[len(noises) // 2] else pytest.mark.long)
    for name, (_, noises) in SAMPLERS.items()
    for noise in noises
]
# Drawn by one sum; by blocks, the last of which is not full; and as in practice.
SIZES = [pytest.param(1000, marks=pytest.mark.long), 1500, pytest.param(50_258, marks=pytest.mark.long)]


PLANNED = {
    "confidence": confident,
    "margin": lambda p, n: nl.samplers.ConfidenceSampler(p, n, score="margin", choice_temperature=4.5 * nl.t),
    "random": lambda p, n: nl.samplers.ConfidenceSampler(p, n, score="random", draw=False),
    "own score": lambda p, n: nl.samplers.ConfidenceSampler(p, n, score=lambda law, drawn: -law.amax(-1)),
    "entropy": lambda p, n: nl.samplers.ConfidenceSampler(p, n, score="entropy"),
    "bounded": bounded,
    "bounded, confidence": lambda p, n: nl.samplers.EntropyBoundedSampler(p, n, bound=0.0, score="confidence"),
    "threshold": threshold,
    "drawn": lambda p, n: nl.samplers.ThresholdSampler(p, n, nl.samplers.EntropyThreshold(0.7), draw=True),
    "local maxima": lambda p, n: nl.samplers.ThresholdSampler(p, n, nl.samplers.LocalMaxima(0.3, 0.6)),
    "quota": lambda p, n: nl.samplers.ThresholdSampler(p, n, nl.samplers.Quota([2, 1, 1])),
}


@pytest.mark.parametrize("kind", ["sequences", "tokens"])
@pytest.mark.parametrize("states", [V, 1500])
@pytest.mark.parametrize("name", PLANNED)
def test_samplers_that_plan_give_the_same_tokens(name, states, kind):
    process = processes_of(states)["masked"]
    same_tokens(*steps_of(PLANNED[name], process), process, kind, seeds=2)


@pytest.mark.parametrize("name", PLANNED)
def test_and_the_same_walks_in_blocks_after_prompts(name):
    """Whose rules count the steps of each block."""
    process = processes_of(V)["masked"]
    known, tokens = (
        torch.arange(8) < torch.tensor([[2], [0], [5]]),
        torch.randint(0, V - 1, (3, 8), generator=seeded(3)),
    )
    for wrap in (
        lambda sampler: sampler,
        lambda sampler: nl.Infilling(sampler, tokens, known),
        lambda sampler: nl.samplers.BlockSampler(sampler, 4),
    ):
        rows, static = (
            wrap(sampler).sample((3, 8), steps=4, generator=seeded(2)) for sampler in steps_of(PLANNED[name], process)
        )
        assert torch.equal(rows, static) and (rows < V - 1).all()


def test_a_rule_that_compares_predictions_has_rows_only():
    rule = nl.samplers.StableConfidence(0.5, 0.1)
    sampler = nl.samplers.ThresholdSampler(processes_of(V)["masked"], Network(V), rule)
    assert not sampler.is_static(torch.zeros(1, 1, device="meta", dtype=torch.long))
    for one in (sampler, nl.samplers.DraftSampler(sampler.process, Network(V))):
        with pytest.raises(ValueError, match="no step with static shapes"):
            one.with_shapes("static")


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize(("name", "noise"), COMPILED)
def test_a_walk_of_compiled_steps_is_the_walk(name, noise):
    """Plain, and after prompts of different lengths, whose tokens have times of their own."""
    process = processes_of(V)[noise]
    rows, static = steps_of(SAMPLERS[name][0], process)
    compiled = static.compiled(backend="aot_eager")
    known = torch.arange(LENGTH) < torch.tensor([[2], [0], [5]])
    tokens = torch.randint(0, V - 1, (3, LENGTH), generator=seeded(3))
    for wrapped in (lambda sampler: sampler, lambda sampler: nl.Infilling(sampler, tokens, known)):
        x, y, w = (
            wrapped(sampler).sample((3, LENGTH), steps=5, generator=seeded(2)) for sampler in (rows, static, compiled)
        )
        assert torch.equal(x, y) and torch.equal(x, w)
    inside = nl.Infilling(rows, tokens, known).compiled(backend="aot_eager")
    assert torch.equal(inside.sample((3, LENGTH), steps=5, generator=seeded(2)), x)


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize(("name", "noise"), COMPILED)
def test_a_step_as_users_compile_it_is_one_graph(name, noise):
    process = processes_of(V)[noise]
    _, static = steps_of(SAMPLERS[name][0], process)
    step = torch.compile(static.step, fullgraph=True, backend="aot_eager")
    t, s = times_of("sequences", 3)
    z = process.corrupt(torch.zeros(3, LENGTH, dtype=torch.long), t, generator=seeded(0))
    with torch.no_grad():
        torch.manual_seed(0)
        want = static.step(z, t, s)
        torch.manual_seed(0)
        assert torch.equal(step(z, t, s), want)


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("states", SIZES)
@pytest.mark.parametrize(("name", "noise"), COMPILED)
def test_a_step_of_a_walk_takes_at_most_60_operations_and_no_read(name, noise, states):
    """Besides the network: those of the graph, and the one that draws the random numbers."""
    process, graphs = processes_of(states)[noise], Graphs()
    sampler = SAMPLERS[name][0](process, Known(torch.zeros(1, LENGTH, states)))
    sampler.compiled(backend=graphs.backend()).sample((2, LENGTH), steps=3, generator=seeded(0))
    assert len(graphs.graphs) == 1
    assert not READS & set(graphs.graphs[0])
    assert 20 < len(graphs.graphs[0]) + 1 <= LIMIT, graphs.graphs[0]


def on_meta(name, noise, states):
    sampler = SAMPLERS[name][0](processes_of(states)[noise], Known(torch.zeros(1, LENGTH, states)))
    sampler.process = processes_of(states)[noise].to("meta")
    for network in sampler._networks():
        network.to("meta")
    return sampler


@pytest.mark.parametrize("states", SIZES)
@pytest.mark.parametrize(("name", "noise"), CASES)
def test_without_a_compiler_the_host_reads_nothing_either(name, noise, states):
    """On the device meta, which has no values to read, as on an accelerator; the form is chosen by the device."""
    sampler = on_meta(name, noise, states)
    z = torch.zeros(2, LENGTH, dtype=torch.long, device="meta")
    times = torch.linspace(1, 0, 4, dtype=torch.float64, device="meta")
    seen = []
    checks = LogitChecks()
    checks.read = lambda: None
    with checks:
        walk = sampler.path(z, times)
        for k in range(2):
            with Eager() as eager:
                z = (sampler.stages(z, *times[[k, k + 1], None].expand(2, 2)) if name in STOP else next(walk))[-1].z
            seen.append(len(eager.names))
    assert z.shape == (2, LENGTH) and z.device.type == "meta"
    assert seen[1] <= LIMIT + 8, eager.names  # what the walk keeps, and what a graph leaves out as unused


def test_rows_need_reads_that_static_shapes_do_not():
    """What the test above looks for is there in the form with rows."""
    sampler = on_meta("ancestral", "hybrid", V).with_shapes("rows")
    z, t = torch.zeros(3, LENGTH, dtype=torch.long, device="meta"), torch.ones(3, device="meta").double()
    with pytest.raises(AssertionError, match="the host waits"), Eager():
        sampler.step(z, t, t / 2)


@pytest.mark.usefixtures("traceable")
def test_what_has_no_such_form_says_so_and_keeps_rows_on_every_device():
    process = processes_of(V)["hybrid"]
    sampler = nl.samplers.GillespieSampler(process, Network(V))
    with pytest.raises(ValueError, match="GillespieSampler has no step with static shapes"):
        sampler.with_shapes("static")
    with pytest.raises(ValueError, match="shapes must be 'rows', 'static' or None; got 'both'"):
        sampler.with_shapes("both")
    with pytest.raises(ValueError, match="GillespieSampler has no step"):
        nl.PredictorCorrector(sampler, nl.GibbsCorrector(process, Network(V))).compiled()
    there = torch.zeros(1, 1, device="meta", dtype=torch.long)
    assert not sampler.is_static(there) and nl.AncestralSampler(process, Network(V)).is_static(there)
    assert not nl.AncestralSampler(process, Network(V)).is_static(there.new_zeros(1, 1, device="cpu"))
    assert not nl.AncestralSampler(process, Network(V)).with_shapes("rows").is_static(there)


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("name", "noise"), CASES[:2])
def test_logits_that_are_no_numbers_are_refused_in_both_forms_and_compiled(name, noise, bad):
    network = Network(V)
    network.out.bias.data[: V if bad == -torch.inf else 1] = bad
    sampler = SAMPLERS[name][0](processes_of(V)[noise], network)
    for one in (sampler, sampler.with_shapes("static"), sampler.compiled(backend="eager")):
        with pytest.raises(ValueError, match="logits must be finite"):
            one.sample((2, LENGTH), steps=2, generator=seeded(0))


def test_the_weights_of_a_walk_are_those_of_its_times():
    """Two walks in turns, each with its own grid and process: the table of one is not that of the other."""
    walks = []
    for name, steps in (("hybrid", 3), ("masked", 5)):
        rows, static = steps_of(nl.AncestralSampler, processes_of(V)[name])
        z = rows.process.prior(4, LENGTH, generator=seeded(0))
        walks.append(
            [sampler.walk(z, torch.linspace(1, 0, steps + 1), generator=seeded(1)) for sampler in (rows, static)]
        )
    for _ in range(3):
        for rows, static in walks:
            assert torch.equal(next(rows), next(static))
