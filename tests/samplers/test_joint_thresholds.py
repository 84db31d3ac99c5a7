"""Filling and editing by two thresholds: the published runs token for token, the step by hand, and what is refused."""

import itertools
import re

import pytest
import torch
from by_hand import World
from exact_worlds import NOISES, generator, oracle_of, p_value
from published_decoders import RUNS, PublishedNetwork, canvases, settings, without_idle

import noiselab as nl
from noiselab.samplers import BlockSampler, JointThresholdSampler, Prompted, even_quotas

STATES = RUNS["vocab"].item()
MASK = STATES - 1
PROCESS = nl.gidd(vocab_size=STATES, mask_id=MASK, p_uniform=0.1)
MASKED = nl.masked(vocab_size=STATES, mask_id=MASK)


STEPS = 64


def sglang(c):
    return {"edit": c["edit_threshold"], "most_edits": c["max_post_edit_steps"]}


def dllm(c):
    return {"edit": c["editing_threshold"], "most_edits": c["max_post_steps"], "minimum": c["num_to_transfer"]}


def diffusers(c):
    edit = c.get("editing_threshold")
    return {"edit": edit, "minimum": even_quotas(c["block"], c["steps"]), "most_edits": c.get("max_post_steps", -1) + 1}


# Case -> its settings in ours, and the number of published forwards that change nothing and that ours does not make.
CASES = {
    "sglang.joint": (sglang, 0),
    "sglang.joint_eager": (sglang, 2),  # both blocks are ended by the counter
    "sglang.joint_penalty": (sglang, 0),
    "dllm.llada21": (dllm, 0),
    "dllm.llada21_two": (dllm, 0),
    "diffusers.refine": (diffusers, 4),  # a forward in each of four blocks that is full before the last step
    "diffusers.refine_edit": (diffusers, 0),
    "diffusers.refine_edit_short": (diffusers, 0),
}


def sampler_of(case, c, **changes):
    """The network and ours around it."""
    options = {"threshold": c["threshold"], **CASES[case][0](c), **changes}
    process = PROCESS if options["edit"] is not None else MASKED
    network = PublishedNetwork(RUNS, MASK)
    denoiser = network
    if c.get("penalty_lambda"):
        denoiser = nl.denoisers.NeighbourPenalty(network, c["penalty_lambda"], block_size=c["block"])
    sampler = JointThresholdSampler(process, denoiser, **options)
    return network, BlockSampler(Prompted(sampler, c["prompt"][None]), c["block"], context="past", given=0)


def run(case):
    """The canvases of ours at each forward, and the result; those of the published code."""
    c = settings(case)
    length, (network, blocks) = c["trace"].shape[1], sampler_of(case, c)
    x = blocks.sample((1, length), steps=STEPS)
    return [*canvases(network, length, MASK), x], c["trace"]


@pytest.mark.parametrize("case", CASES)
def test_published_runs(case):
    ours, trace = run(case)
    assert torch.equal(torch.stack(without_idle(torch.cat(ours))), torch.stack(without_idle(trace)))
    assert len(ours) == len(trace) - CASES[case][1]


CHANGES = [{"edit": None}, {"edit": 0.9}, {"threshold": 0.5}, {"minimum": 4}]


@pytest.mark.parametrize(
    ("case", "change"), [*(("dllm.llada21_two", c) for c in CHANGES), ("sglang.joint_eager", {"most_edits": 2})]
)
def test_published_runs_are_seen_to_differ(case, change):
    c = settings(case)
    _, blocks = sampler_of(case, c, **change)
    assert not torch.equal(blocks.sample((1, c["trace"].shape[1]), steps=STEPS)[0], c["trace"][-1])


def published_refinement(network, prompt, block, steps, threshold, edit, most, length):
    """diffusers' rule with masks, position by position; its results after each forward."""
    z, states = [*prompt.tolist()] + [MASK] * (length - len(prompt)), []
    for start in range(len(prompt) // block * block, length, block):
        k, after = 0, 0
        while True:
            law = network(torch.tensor([z[: start + block]]), torch.ones(1))[0].softmax(-1)
            sure, token = (part.tolist() for part in law.max(-1))
            here = range(start, start + block)
            masks = [i for i in here if z[i] == MASK]
            quota = block // steps + (k < block % steps)
            fill = [i for i in masks if sure[i] > threshold]
            if len(fill) < quota:
                fill = sorted(masks, key=lambda i: -sure[i])[:quota]
            edits = [i for i in here if i >= len(prompt) and z[i] not in (MASK, token[i]) and sure[i] > edit]
            for i in fill + edits:
                z[i] = token[i]
            states.append(z.copy())
            if masks:
                k += 1
                if k >= steps:
                    break
            else:
                after += 1
                if not edits or after > most:
                    break
    return states


def test_diffusers_gives_up_edits_after_its_last_step():
    """Where it fills the last mask in step number `steps`; ours goes on to edit the block."""
    c = settings("diffusers.refine_edit_short")
    length, rule = c["trace"].shape[1], (c["threshold"], c["editing_threshold"], c["max_post_steps"])
    by_hand = published_refinement(PublishedNetwork(RUNS, MASK), c["prompt"], c["block"], c["steps"], *rule, length)
    assert torch.equal(torch.tensor(by_hand), c["trace"][1:])
    network = PublishedNetwork(RUNS, MASK)
    published = published_refinement(network, c["prompt"], c["block"], 1, *rule, length)
    assert len(network.seen) == 2  # one forward for each block
    sampler, blocks = sampler_of("diffusers.refine_edit_short", c | {"steps": 1})
    x = blocks.sample((1, length), steps=STEPS)
    ours = [*canvases(sampler, length, MASK), x]
    assert ours[1][0].tolist() == published[0] and len(ours) == 1 + 2 * 4  # three steps of edits in each block
    assert x[0].tolist() != published[-1]


@pytest.mark.parametrize(("threshold", "edit", "least"), [(0.7, 0.6, 1), (0.99, 0.85, 2), (0.3, None, 1)])
def test_one_step_by_hand(threshold, edit, least):
    world, t, s = World("gidd", 3), 0.7, 0.4
    z = [state for state in world.noisy if world.marginal(t)[world.noisy.index(state)] > 0]
    want = []
    for state in z:
        law = world.leave_one_out(state, t)
        sure, token = (part.tolist() for part in law.max(-1))
        masks = [i for i in range(3) if state[i] == 2]
        filled = set([i for i in masks if sure[i] > threshold] + sorted(masks, key=lambda i: -sure[i])[:least])
        edited = {i for i in range(3) if edit is not None and state[i] != 2 and sure[i] > edit}
        want.append([token[i] if i in filled | edited else state[i] for i in range(3)])
    sampler = JointThresholdSampler(world.process(), world.oracle(), threshold, edit, minimum=least)
    time = torch.full((len(z),), t)
    assert sampler.step(torch.tensor(z), time, time - t + s).tolist() == want
    assert want != z
    end = sampler.step(torch.tensor(z), time, torch.zeros(len(z)))
    assert (end < 2).all()  # the last step fills all


def test_known_tokens_are_never_edited():
    """Every visible token of a wrong text is edited at once, but for those that are known."""
    process = NOISES["gidd"]()

    class Says(nl.Denoiser):
        def forward(self, z, t):
            return torch.tensor([0.0, 0.0, 9.0, 0.0]).expand(*z.shape, 4)

    sampler = JointThresholdSampler(process, Says(), 0.5, 0.5, most_edits=3)
    known = torch.tensor([[True, False, True, False]])
    z, grid = torch.tensor([[0, 1, 1, 3]]), torch.linspace(1, 0, 9)
    assert list(sampler.walk(z, grid))[-1].tolist() == [[2, 2, 2, 2]]
    assert list(nl.Infilling(sampler, z, known).walk(z, grid))[-1].tolist() == [[0, 2, 1, 2]]
    blocks = BlockSampler(nl.Infilling(sampler, z, known), 2, context="past", given=0)
    assert list(blocks.walk(z, grid))[-1].tolist() == [[0, 2, 1, 2]]


@pytest.mark.parametrize("name", ["gidd", "masked"])
def test_it_is_not_exact_and_says_so(name):
    process = NOISES[name]()
    edit = 0.9 if name == "gidd" else None
    sampler = JointThresholdSampler(process, oracle_of(process), 0.7, edit)
    assert not sampler.converges and p_value(sampler, steps=8) < 1e-10
    x = sampler.sample((50, 4), steps=8, generator=generator())
    assert (x == x[0]).all()  # one sequence


def test_in_a_batch_or_alone():
    """Sequences of unlike states stop each by itself."""
    process = NOISES["gidd"]()
    sampler = BlockSampler(JointThresholdSampler(process, oracle_of(process), 0.8, 0.6, most_edits=2), 3)
    z, grid = torch.tensor(list(itertools.product(range(4), repeat=6)))[::37], torch.linspace(1, 0, 9)
    together = list(sampler.walk(z, grid))[-1]
    assert torch.equal(together, torch.cat([list(sampler.walk(row[None], grid))[-1] for row in z]))
    assert (together < 3).all() and len(together.unique(dim=0)) > 1


def test_a_corrector_that_masks_tokens_again_keeps_it_going():
    process = NOISES["gidd"]()

    class Masks(nl.Corrector):
        def step(self, z, t, *, rows=None, generator=None):
            return torch.where(torch.arange(z.shape[1]) == 1, 3, z)

    oracle = oracle_of(process)
    sampler = JointThresholdSampler(process, oracle, 0.1, 0.99, most_edits=0)
    stages = nl.PredictorCorrector(sampler, Masks(process, oracle), when=(0.3, 1))
    x = stages.sample((2, 4), steps=8)
    assert (x < 3).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gidd", {"threshold": 1.5}, "threshold must"),
        ("gidd", {"edit": -0.1}, "edit must"),
        ("gidd", {"minimum": 0}, "minimum must"),
        ("gidd", {"minimum": [0]}, "minimum must"),
        ("gidd", {"most_edits": -1}, "most_edits must"),
        ("uniform", {}, "needs a process with a mask"),
        ("masked", {}, "edit must be None under noise that never makes a visible token wrong"),
        ("masked", {}, "got edit=0.5, the default, under"),
        ("masked", {}, "Give edit=None to fill masks alone"),
        ("masked", {"edit": 0.4}, "got edit=0.4 under"),
    ],
)
def test_what_is_refused(name, options, message):
    process = NOISES[name]()
    with pytest.raises(ValueError, match=re.escape(message)):
        JointThresholdSampler(process, oracle_of(process), **options)


def test_the_penalty_of_a_repeated_token():
    """By hand: at each position but the first of a block, less for the token before."""
    network = PublishedNetwork(RUNS, MASK)
    z, t, rows = torch.randint(0, MASK, (2, 10), generator=generator()), torch.ones(2), torch.rand(2, 10) > 0.5
    for size in (None, 4):
        penalised = nl.denoisers.NeighbourPenalty(network, 1.5, block_size=size)
        logits, want = penalised(z, t), network(z, t)
        for row, i in itertools.product(range(2), range(10)):
            if i % (size or 10):
                want[row, i, z[row, i - 1]] -= 1.5
        assert torch.allclose(logits, want, atol=1e-12) and torch.equal(penalised(z, t, rows), logits[rows])
    with pytest.raises(ValueError, match="penalty must"):
        nl.denoisers.NeighbourPenalty(network, float("inf"))
