"""Bad input to the core is a ValueError that says what must hold and what came."""

import pytest
import torch
from worlds import DATA, INITIAL, TRANSITION, V

import noiselab as nl

t = nl.t


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nl.Interpolation(1 - t, {nl.Uniform(3): t - 0.5}), r"non-negative and finite; got -0.5 from t - 0.5"),
        (lambda: nl.Interpolation(1 - t, {nl.Uniform(3): 0 * t}), r"must not all vanish; they do at t = 1"),
        (lambda: nl.Interpolation(t, {nl.Uniform(3): 1 - t}), r"alpha must be 1 at t = 0"),
        (lambda: nl.Interpolation(1 - t, {nl.Uniform(3): t, nl.Uniform(4): t}), r"same vocab_size; got sizes \[3, 4\]"),
        (lambda: nl.Interpolation(1 - t, {}), "at least one mixing"),
        (
            lambda: nl.Interpolation(1 - t, {nl.Uniform(3): t}, support=torch.ones(4) > 0),
            r"support must be Bool of shape \[3\]",
        ),
        (lambda: nl.Interpolation(1 - t, {nl.Uniform(3): t}, domain=(0.5, 0.2)), "domain must be two times"),
        (lambda: nl.Absorbing(5, 5), r"must lie in \[0, 5\); got 5"),
        (lambda: nl.Uniform(DATA & ~DATA), "at least one token"),
        (lambda: nl.Unigram(torch.tensor([0.5, 0.6])), "sum 1; got sum 1.1"),
        (lambda: nl.Unigram(torch.tensor([1.5, -0.5])), "smallest entry -0.5"),
        (lambda: nl.gidd(vocab_size=V, mask_id=4, p_uniform=1.0), r"p_uniform must lie in \[0, 1\)"),
        (lambda: nl.gidd(vocab_size=V, mask_id=4, p_uniform=0.1, gamma=3), r"gamma must lie in \(0, 2\]"),
        (lambda: nl.schedules.Constant(float("nan")), "must be finite; got nan"),
        (lambda: nl.MarkovOracle(INITIAL, TRANSITION * 0.9, nl.uniform(vocab_size=V)), "each row of transition"),
        (lambda: nl.MarkovOracle(INITIAL, TRANSITION, nl.uniform(vocab_size=3)), "must not have more states"),
        (lambda: nl.objectives.Clipped(0), "max_weight must be positive"),
    ],
)
def test_constructors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nl.Uniform([1, 2]), r"number or Bool of shape \[state\]; got \[1, 2\]; see Uniform.without"),
        (lambda: nl.Uniform(-3), "at least one token; got none"),
        (lambda: nl.Unigram([0.5, 0.5]), r"row must be a tensor of shape \[state\]; got a list"),
        (lambda: nl.Unigram(torch.full((2, 2), 0.25)), r"row must be a tensor of shape \[state\]; got shape \[2, 2\]"),
        (lambda: nl.processes.d3pm(nl.Uniform(3), [0.5, 1.0]), r"betas must be a tensor of shape \[T\]; got a list"),
        (
            lambda: nl.processes.d3pm(nl.Uniform(3), torch.ones(2, 2)),
            r"betas must be a tensor of shape \[T\]; got shape \[2, 2\]",
        ),
        (lambda: nl.Interpolation(1 - t, [nl.Uniform(3)]), "noises must be a mapping from mixings .*; got a list"),
        (lambda: nl.Interpolation(1 - t, {"mask": t}), "noises must have mixings as keys, .*; got 'mask'"),
        (lambda: nl.Blend([nl.Uniform(3)]), "parts must be a mapping from mixings .*; got a list"),
        (lambda: nl.Blend({"mask": t}), "parts must have mixings as keys, .*; got 'mask'"),
    ],
)
def test_arguments_of_another_kind(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


class Bad(nl.InterpolatingProcess):
    def __init__(self, alpha, mixing):
        super().__init__()
        self._alpha, self._mix = alpha, mixing

    def alpha(self, t):
        return self._alpha(t)

    def mixing(self, t):
        return self._mix(t)


def even(t):
    return torch.full((*t.shape, 3), 1 / 3, dtype=t.dtype)


@pytest.mark.parametrize(
    ("alpha", "mixing", "message"),
    [
        (lambda t: 1 - t, lambda t: 0.9 * even(t), r"sum to 1; got sum 0.9 .* at t = "),
        (lambda t: 1 - t, lambda t: torch.tensor([1.5, -0.5, 0.0]), "smallest entry -0.5"),
        (lambda t: 1 - t, lambda t: even(t)[..., 0], "mixing must have shape"),
        (lambda t: 1 - t / 2, even, "alpha must fall to 0 at t = 1, where only noise is left; got 0.5"),
        (lambda t: 1.5 - t, even, r"alpha must lie in \[0, 1\]; got 1.5 at t = 0"),
        (
            lambda t: 1 - t + 0.3 * torch.sin(3 * torch.pi * t) ** 2 * t,
            even,
            "alpha must not rise with t; it does at t = ",
        ),
        (lambda t: 1 - t, lambda t: torch.stack([1 - 0.9 * t, 0.9 * t, 0 * t], -1), None),
        (
            lambda t: 1 - t,
            lambda t: torch.stack([torch.cos(9 * t) ** 2, torch.sin(9 * t) ** 2, 0 * t], -1),
            r"not a Markov process; got -.* into token [01] at t = ",
        ),
    ],
)
def test_a_users_process_is_checked_by_the_sampler(alpha, mixing, message):
    process = Bad(alpha, mixing)
    denoiser = nl.MarkovOracle(torch.ones(1), torch.ones(1, 1), process)
    if message is None:
        nl.AncestralSampler(process, denoiser)
        return
    with pytest.raises(ValueError, match=message):
        nl.AncestralSampler(process, denoiser)


def test_walks_and_bounds():
    process = nl.masked(vocab_size=V, mask_id=4)
    sampler = nl.AncestralSampler(process, nl.MarkovOracle(INITIAL, TRANSITION, process))
    z = process.prior(1, 3)
    for times, message in (
        ([1.0, 0.5, 0.5], "times must fall"),
        ([0.0, 1.0], "times must fall"),
        ([1.5, 0.0], r"must lie in \[0.0, 1.0\]; got 1.5 to 0.0"),
        ([1.0, -0.1], "must lie in"),
        ([1.0], "times must fall"),
        ([1.0, float("nan")], "times must fall"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.walk(z, torch.tensor(times))
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 5\); got 7 to 7"):
        sampler.walk(torch.full((1, 3), 7), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="exactly one of steps and times"):
        sampler.sample((1, 3))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        sampler.sample((1, 3), steps=0)
    x, time = torch.zeros(1, 3, dtype=torch.long), torch.tensor([0.5])
    for width in (4, 6):
        with pytest.raises(ValueError, match=f"width of the process, 5; got {width}"):
            nl.nelbo(process, torch.zeros(1, 3, width), x, x, time)
    with pytest.raises(ValueError, match=r"t must have shape \[1\] or \[1, 3\]; got \[2\]"):
        nl.nelbo(process, torch.zeros(1, 3, 5), x, x, torch.tensor([0.5, 0.5]))
    for name, value in {"temperature": 0.0, "time": 1.5, "tokens_per_step": 0, "patience": -1}.items():
        with pytest.raises(ValueError, match=f"{name} must .*; got {value}"):
            nl.SelfCorrection(sampler.denoiser, **{name: value})
    for wrap in (lambda d: nl.Temperature(d, 0), lambda d: nl.TopP(d, 0), lambda d: nl.denoisers.MinP(d, 1.1)):
        with pytest.raises(ValueError, match="got"):
            wrap(sampler.denoiser)
