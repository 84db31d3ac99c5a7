"""Guidance of the step: the published laws, its law by enumeration, and what it does to the speed of unmasking."""

import itertools

import pytest
import torch
from by_hand import World, fit_of_step
from exact_worlds import NOISES, generator, oracle_of, p_value
from published_decoders import LAWS

import noiselab as nl
from noiselab.samplers import GuidedStepSampler

STATES = LAWS["vocab"].item()
PROCESSES = {
    "guided_uniform": nl.uniform(vocab_size=STATES),
    "guided_mask": nl.masked(vocab_size=STATES, mask_id=STATES - 1),
}
GAMMAS = LAWS["guided_uniform.gammas"].tolist()


class Given(nl.Denoiser):
    """Predicts the given logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, z, t):
        return self.logits


def numbers(case):
    return {name.removeprefix(f"{case}."): value for name, value in LAWS.items() if name.startswith(f"{case}.")}


def setting(case):
    n = numbers(case)
    z, t, s = n["xt"].long(), 1 - n["alpha_t"], 1 - n["alpha_s"]
    return n, PROCESSES[case], Given(n["logits_cond"]), Given(n["logits_uncond"]), z, t, s


def stepwise(process, denoiser, z, t, s):
    """The law of the reverse step of a denoiser."""
    return process.posterior(z, process.on_support(denoiser(z, t)).softmax(-1), s, t)


@pytest.mark.parametrize("case", PROCESSES)
def test_classifier_free_guidance_as_published(case):
    """Uniform noise: of the step. Masks: of the prediction."""
    n, process, c, u, z, t, s = setting(case)
    for k, gamma in enumerate(GAMMAS):
        step = GuidedStepSampler(process, c, u, weight=gamma - 1).transition_law(z, t, s)
        prediction = stepwise(process, nl.ClassifierFreeGuidance(c, u, gamma - 1), z, t, s)
        ours, other = (step, prediction) if case == "guided_uniform" else (prediction, step)
        assert (ours - n[f"cfg{k}"]).abs().max() < 1e-12
        assert ((other - n[f"cfg{k}"]).abs().max() > 0.05) == (gamma not in (0, 1))


@pytest.mark.parametrize("case", PROCESSES)
def test_duo_and_a_classifier_as_published(case):
    n, process, c, u, z, t, s = setting(case)
    duo = GuidedStepSampler(process, c, u, weight=GAMMAS[0] - 1).transition_law(z, t, s)
    assert (duo - n["duo"]).abs().max() < 1e-12
    by_classifier = GuidedStepSampler(
        process, u, log_likelihoods=lambda z, t, rows: n["classifier_logp"][rows], weight=GAMMAS[0]
    ).transition_law(z, t, s)
    assert (by_classifier - n["cbg"]).abs().max() < 1e-12


def test_with_masks_the_speed_moves_with_the_weight():
    n, process, c, u, z, t, s = setting("guided_mask")
    masks = z == STATES - 1
    stays = ((1 - n["alpha_s"]) / (1 - n["alpha_t"]))[:, None].expand(z.shape)[masks]
    for sampler, moved in (
        (GuidedStepSampler(process, c, u, weight=GAMMAS[0] - 1), True),
        (GuidedStepSampler(process, nl.ClassifierFreeGuidance(c, u, GAMMAS[0] - 1)), False),
    ):
        ours = sampler.transition_law(z, t, s)[..., -1][masks]
        assert ((ours - stays).abs().max() > 0.3) == moved
    duo = n["duo"][..., -1]
    assert [round(duo[i][masks[i]].min().item(), 3) for i in range(2)] == [0.152, 0.025]  # from .786 and .444


def power(law, other, w):
    mixed = torch.where(law > 0, law ** (1 + w) * other**-w, 0)
    return mixed / mixed.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", ["uniform", "gidd", "masked", "token rates"])
def test_the_law_of_one_step_by_hand(name):
    """From every noisy sequence, with the oracle of another chain as the unconditional denoiser."""
    world, t, s, w = World(name, 2), 0.7, 0.4, 0.8
    other = World(name, 2)
    other.initial, other.transition = other.initial[::-1], [row[::-1] for row in other.transition][::-1]
    other.data = torch.tensor([other.chance(x) for x in other.clean], dtype=torch.float64)
    possible = world.marginal(t) > 0

    def step(z):
        if not possible[world.noisy.index(z)]:
            return None
        c, u = world.leave_one_out(z, t), other.leave_one_out(z, t)
        return [power(world.back(c[i], z[i], s, t), world.back(u[i], z[i], s, t), w) for i in range(2)]

    process = world.process()
    sampler = GuidedStepSampler(process, world.oracle(process), other.oracle(process), weight=w)

    def advance(z, generator):
        return sampler.step(z, torch.full((len(z),), t), torch.full((len(z),), s), generator=generator)

    kernel = world.kernel(step)
    assert fit_of_step(world, advance, kernel, t) > 1e-4
    sampler = GuidedStepSampler(process, world.oracle(process), other.oracle(process), weight=1.5 * w)
    assert fit_of_step(world, advance, kernel, t) < 1e-6


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_a_single_token_depends_on_the_number_of_steps_only_with_noise_on_data_and_guided_steps(name):
    """Its law after N steps, by products of the laws of steps."""
    process = NOISES[name]()
    data, states = torch.tensor([0.7, 0.2, 0.1]), process.vocab_size
    c, u = (nl.MarkovOracle(law, torch.eye(3), process) for law in (data, torch.full((3,), 1 / 3)))

    def after(sampler, steps):
        law = process.prior_law()
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        every = torch.arange(states)[:, None]
        for t, s in itertools.pairwise(grid):
            move = sampler.transition_law(every, t.expand(states), s.expand(states))[:, 0].nan_to_num()
            law = law @ move
        return law[:3] / law[:3].sum()

    tilted = data**2 / (data**2).sum()
    step = GuidedStepSampler(process, c, u, weight=1.0)
    prediction = GuidedStepSampler(process, nl.ClassifierFreeGuidance(c, u, 1.0))
    assert (after(step, 1) - tilted).abs().max() < 1e-6
    assert ((after(step, 16) - after(step, 2)).abs().max() > 0.005) == (name == "uniform")
    assert (after(prediction, 16) - tilted).abs().max() < 1e-6
    assert (after(prediction, 16) - after(prediction, 2)).abs().max() < 1e-6


@pytest.mark.parametrize("name", [*NOISES, *(pytest.param(f"{name}, more", marks=pytest.mark.long) for name in NOISES)])
def test_without_a_guide_it_is_the_ancestral_sampler(name):
    name, many = name.removesuffix(", more"), name.endswith("more")
    process, settings = NOISES[name](), {"times": torch.linspace(1, 0, 129 if many else 33) ** 2, "length": 3}
    settings["n"] = 10_000 if many else 2000
    sampler = GuidedStepSampler(process, oracle_of(process))
    assert sampler.converges and p_value(sampler, **settings) > 1e-3
    guided = GuidedStepSampler(process, oracle_of(process), nl.Temperature(oracle_of(process), 2.0), weight=1.0)
    assert not guided.converges and p_value(guided, **settings) < 1e-10


def test_a_classifier_of_noisy_tokens_with_masks():
    """By enumeration: the classifier is called for masks too; weight 0 does nothing."""
    process = NOISES["masked"]()
    oracle = oracle_of(process)

    def first_is_1(z, t):
        return torch.where(z[:, 0] == 3, 0.3, torch.where(z[:, 0] == 1, 0.9, 0.05)).double().log()

    likes = nl.denoisers.by_enumeration(first_is_1, process, clean=False, masks=True)
    z, t, s = torch.tensor([[3, 0]]), torch.tensor([0.8]), torch.tensor([0.4])
    plain = stepwise(process, oracle, z, t, s)
    want = plain[0, 0] * torch.tensor([0.05, 0.9, 0.05, 0.3])
    law = GuidedStepSampler(process, oracle, log_likelihoods=likes).transition_law(z, t, s)
    assert (law[0, 0] - want / want.sum()).abs().max() < 1e-12 and torch.equal(law[0, 1], plain[0, 1])
    none = GuidedStepSampler(process, oracle, log_likelihoods=likes, weight=0).transition_law(z, t, s)
    assert (none - plain).abs().max() < 1e-12
    with pytest.raises(ValueError, match="clean must be False with masks=True"):
        nl.denoisers.by_enumeration(first_is_1, process, masks=True)


def test_what_is_refused():
    process = NOISES["uniform"]()
    oracle = oracle_of(process)
    with pytest.raises(ValueError, match="not both; got both"):
        GuidedStepSampler(process, oracle, oracle, log_likelihoods=lambda z, t, rows: z)
    with pytest.raises(ValueError, match="the weight must be finite"):
        GuidedStepSampler(process, oracle, oracle, weight=1 / nl.t)
    flat = GuidedStepSampler(process, oracle, log_likelihoods=lambda z, t, rows: torch.zeros(1, 7))
    with pytest.raises(ValueError, match="log_likelihoods must have the shape"):
        flat.sample((2, 3), steps=2, generator=generator())
