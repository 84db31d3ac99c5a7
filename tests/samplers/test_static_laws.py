"""The laws of steps with static shapes, compiled: by enumeration, from predictions that are exact."""

import math

import pytest
import torch
from by_hand import World, fit_of_step

import noiselab as nl

S = nl.samplers
T, S_TIME = 0.7, 0.4


class Looked(nl.Denoiser):
    """The exact predictions of a world at one time, looked up, as a graph can do."""

    def __init__(self, world, t, posterior=False):
        super().__init__()
        self.predicts = "posterior" if posterior else "leave_one_out"
        find = world.posterior if posterior else world.leave_one_out
        table = torch.stack([find(z, t) for z in world.noisy]).nan_to_num(1 / world.states)
        self.register_buffer("table", table.log())
        self.register_buffer("places", world.states ** torch.arange(world.length - 1, -1, -1))

    def forward(self, z, t):
        return self.table[(z * self.places).sum(-1)]


def compiled_step(sampler, backend):
    return sampler.compiled(backend=backend).step


@pytest.fixture
def traceable(unchecked, monkeypatch):
    """Without the checks of types that tests put around dataclasses too."""
    kind = S.Proposals
    monkeypatch.setattr(kind, "__init__", getattr(kind.__init__, "__wrapped__", kind.__init__))


# The generated code is compiled in many seconds.
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)]


def law_of(world, sampler, kernel, backend, n=None):
    """The fit of a compiled step to a kernel."""
    step = compiled_step(sampler, backend)

    def advance(z, generator):
        t, s = (torch.full((len(z),), time, dtype=torch.float64) for time in (T, S_TIME))
        with torch.no_grad():
            return step(z, t, s, generator=generator)

    return fit_of_step(world, advance, kernel, T, n)


def entropy(law):
    return -sum(p * math.log(p) for p in law.tolist() if p > 0)


def onehot(token, states):
    return torch.eye(states, dtype=torch.float64)[token]


NOISE = {  # what replaces tokens at time s, by hand
    "uniform": lambda s: [1 / 3, 1 / 3, 1 / 3],
    "masked": lambda s: [0, 0, 1],
    "gidd": lambda s: [(c := 0.5 * math.sqrt(s * (1 - s))) / 2 / (c + s), c / 2 / (c + s), s / (c + s)],
}


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["masked", "gidd", "uniform"])
def test_ancestral(name, backend):
    world = World(name, 2)
    sampler = nl.AncestralSampler(world.process(), Looked(world, T))
    assert law_of(world, sampler, world.ancestral(T, S_TIME), backend) > 1e-3


def of_masks(world, choose):
    """The kernel of a step that draws the chosen masks from their predictions; `choose(laws)`, of the masks by position."""

    def step(z):
        if world.marginal(T)[world.noisy.index(z)] == 0:
            return None
        laws = world.leave_one_out(z, T)
        shown = choose({i: laws[i] for i in range(world.length) if z[i] == 2})
        return [laws[i] if i in shown else onehot(z[i], 3) for i in range(world.length)]

    return world.kernel(step)


def best_by(score, count):
    return lambda laws: sorted(laws, key=lambda i: (score(laws[i]), i))[:count]


def margin(law):
    first, second = law.sort(descending=True).values[:2].tolist()
    return second - first


def within(bound):
    def choose(laws):
        found, total = [], 0.0
        for i in sorted(laws, key=lambda i: (entropy(laws[i]), i)):
            if total > bound + 1e-12:
                break
            found.append(i)
            total += entropy(laws[i])
        return found

    return choose


def above(threshold):
    def choose(laws):
        sure = {i: law.max().item() for i, law in laws.items()}
        return [i for i in sure if sure[i] >= threshold or i == min(sure, key=lambda i: (-sure[i], i))]

    return choose


def remaining(world, choose_count):
    """The rule of a schedule: of N tokens round(N s) stay masked at s, for the linear schedule of masks."""

    def choose(laws):
        left = math.floor(world.length * S_TIME + 0.5)
        return choose_count(max(len(laws) - left, 0))(laws)

    return choose


MASKED = {
    "by margin": (
        lambda p, n: S.ConfidenceSampler(p, n, score="margin"),
        lambda w: remaining(w, lambda count: best_by(margin, count)),
    ),
    "by entropy": (
        lambda p, n: S.ConfidenceSampler(p, n, score="entropy"),
        lambda w: remaining(w, lambda count: best_by(entropy, count)),
    ),
    "bounded": (lambda p, n: S.EntropyBoundedSampler(p, n, bound=0.5), lambda w: within(0.5)),
    "threshold": (
        lambda p, n: S.ThresholdSampler(p, n, S.ConfidenceThreshold(0.8), draw=True),
        lambda w: above(0.8),
    ),
}


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MASKED)
def test_samplers_that_plan(name, backend):
    """Scores are of predictions and not of draws, so that tokens are independent."""
    world = World("masked", 3)
    make, rule = MASKED[name]
    kernel = of_masks(world, rule(world))
    assert law_of(world, make(world.process(), Looked(world, T)), kernel, backend) > 1e-3


@pytest.mark.usefixtures("traceable")
@pytest.mark.long_for("uniform-*")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["uniform", "gidd", "masked"])
def test_renoising(name, backend):
    world = World(name, 3)
    noise = torch.tensor(NOISE[name](S_TIME), dtype=torch.float64)

    def step(z):
        if world.marginal(T)[world.noisy.index(z)] == 0:
            return None
        laws = world.posterior(z, T)
        kept = within(0.6)(dict(enumerate(laws)))
        free = [i for i in range(3) if name == "masked" and z[i] != 2]
        return [onehot(z[i], 3) if i in free else laws[i] if i in kept else noise for i in range(3)]

    sampler = S.RenoisingSampler(world.process(), Looked(world, T), 0.6)
    assert law_of(world, sampler, world.kernel(step), backend) > 1e-3


@pytest.mark.usefixtures("traceable")
@pytest.mark.long_for("gidd-0.5-*", "uniform-*")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "stochasticity"), [("uniform", 1), ("gidd", 1), ("gidd", 0.5), ("masked", 2)])
def test_path_planning(name, stochasticity, backend):
    """By a sum over all candidates: the best are taken, in number as the schedule, and the others become noise."""
    world = World(name, 2)
    noise = torch.tensor(NOISE[name](S_TIME), dtype=torch.float64)
    # The share of noise at s, from the chance that a token is kept.
    share = {
        "uniform": S_TIME,
        "masked": S_TIME,
        "gidd": 1 - (1 - S_TIME) / (1 + 0.5 * math.sqrt(S_TIME * (1 - S_TIME))),
    }
    left = math.floor(2 * share[name] + 0.5)
    kernel = torch.zeros(len(world.noisy), len(world.noisy), dtype=torch.float64)
    for row, z in enumerate(world.noisy):
        if world.marginal(T)[row] == 0:
            continue
        x_hat, posterior = world.leave_one_out(z, T), world.posterior(z, T)
        for candidate in world.clean:
            chance = math.prod(posterior[i, v].item() for i, v in enumerate(candidate))
            if chance == 0:
                continue
            score = [
                (stochasticity if v == z[i] else 1) * math.log(max(x_hat[i, v].item(), 1e-300))
                for i, v in enumerate(candidate)
            ]
            order = sorted(range(2), key=lambda i: (-score[i], i))
            keep = order[: 2 - left]
            laws = [onehot(v, 3) if i in keep else noise for i, v in enumerate(candidate)]
            kernel[row] += chance * world.product(laws)
    sampler = S.PathPlanningSampler(world.process(), Looked(world, T), stochasticity=stochasticity)
    assert law_of(world, sampler, kernel, backend) > 1e-3


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("backend", BACKENDS)
def test_joint_thresholds(backend):
    """Without a draw: each sequence has one successor."""
    world, threshold, edit = World("gidd", 3), 0.7, 0.6
    z = [state for state in world.noisy if world.marginal(T)[world.noisy.index(state)] > 0]
    want = []
    for state in z:
        laws = world.posterior(state, T)
        sure = [law.max().item() for law in laws]
        masks = [i for i in range(3) if state[i] == 2]
        best = min(masks, key=lambda i: (-sure[i], i), default=None)
        new = list(state)
        for i in range(3):
            if sure[i] > (threshold if i in masks else edit) or i == best:
                new[i] = laws[i].argmax().item()
        want.append(new)
    step = compiled_step(
        S.JointThresholdSampler(world.process(), Looked(world, T, posterior=True), threshold, edit), backend
    )
    t, s = (torch.full((len(z),), time, dtype=torch.float64) for time in (T, S_TIME))
    with torch.no_grad():
        assert step(torch.tensor(z), t, s).tolist() == want
    assert want != [list(state) for state in z]


@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("backend", BACKENDS)
def test_self_correction(backend):
    """One token of the best score among those drawn is taken, by a sum over all draws."""
    world, heat = World("uniform", 2), 1.3
    kernel = torch.zeros(len(world.noisy), len(world.noisy), dtype=torch.float64)
    for row, z in enumerate(world.noisy):
        laws = [(law ** (1 / heat)) / (law ** (1 / heat)).sum() for law in world.leave_one_out(z, T)]
        for drawn in world.noisy:
            score = [laws[i][v].item() * (v != z[i]) for i, v in enumerate(drawn)]
            i, new = max(range(2), key=lambda i: (score[i], -i)), list(z)
            new[i] = drawn[i]
            kernel[row, world.noisy.index(tuple(new))] += math.prod(laws[i][v].item() for i, v in enumerate(drawn))
    correction = nl.SelfCorrection(Looked(world, T), temperature=heat, process=world.process())
    step = correction.compiled(backend=backend).step

    def advance(z, generator):
        with torch.no_grad():
            return step(z, torch.full((len(z),), T, dtype=torch.float64), generator=generator)

    assert fit_of_step(world, advance, kernel, T) > 1e-3
