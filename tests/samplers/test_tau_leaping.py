"""Steps along the rates of the reverse chain."""

import pytest
import torch
from exact_worlds import NOISES, generator, oracle_of, p_value
from worlds import PROCESSES, V

import noiselab as nl
from noiselab.processes.token_rates import TokenRates
from noiselab.samplers.tau_leaping import EulerSampler, TauLeapingSampler

GRID = torch.linspace(1, 0, 193, dtype=torch.float64)


@pytest.mark.long_for("*-uniform", "EulerSampler-gidd", "TauLeapingSampler-masked")
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_the_law_tends_to_that_of_the_data(kind, name):
    process = NOISES[name]()
    sampler = kind(process, oracle_of(process))
    assert p_value(sampler, times=GRID if name == "masked" else GRID**2) > 1e-3
    assert p_value(sampler, steps=8) < 1e-6


@pytest.mark.parametrize("name", ["masked", "gidd", "uniform", "mask and unigram", "stranger"])
@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_one_step_has_the_law_of_the_rates(kind, name):
    """Written out: h r(z) q(y | x_hat) / q(z | x_hat) to y, or one minus its exponential."""
    process, n, h = PROCESSES[name](), 40_000, 0.1
    x_hat = torch.tensor([0.1, 0.5, 0.2, 0.15, 0.05]).double() * process.data_tokens()
    x_hat = x_hat / x_hat.sum()

    class Fixed(nl.Denoiser):
        def forward(self, z, t, rows=None):
            logits = x_hat.log().expand(*z.shape, -1)
            return logits if rows is None else logits[rows]

    z = torch.tensor([[1, 2, V - 1 if name != "uniform" else 0]])
    t = torch.tensor([0.6], dtype=torch.float64)
    y = kind(process, Fixed()).step(z.expand(n, -1), t.expand(n), (t - h).expand(n), generator=generator())
    q = process.marginal(x_hat.expand(1, 3, -1), t)[0]
    at_z = q.gather(-1, z.T)
    total = h * process.rate_into(z, t)[0].expand(3)[:, None] / at_z
    moves = total.clamp(max=1) if kind is EulerSampler else 1 - torch.exp(-total)
    want = moves * q
    want = want.scatter_add(-1, z.T, 1 - moves)
    share = torch.stack([torch.bincount(column, minlength=V) / n for column in y.T])
    assert ((share - want).abs() <= 5 * (want * (1 - want) / n).sqrt() + 1e-9).all()


def test_the_analytic_step_of_sedd_is_the_ancestral_step():
    """Theorem 4.2 of Lou et al. (2024), written with the scores and the matrices of uniform noise."""
    process, x_hat = nl.uniform(vocab_size=4), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    s, t, z = torch.tensor([0.3]).double(), torch.tensor([0.7]).double(), torch.tensor([[2]])
    score = process.marginal(x_hat.view(1, 1, -1), t)[0, 0]
    score = score / score[2]
    keep = (1 - t) / (1 - s)
    forward = keep * torch.eye(4).double() + (1 - keep) / 4  # exp of the rates from s to t; its inverse undoes them
    want = (forward.inverse() @ score) * forward[:, 2]
    torch.testing.assert_close(process.posterior(z, x_hat.view(1, 1, -1), s, t)[0, 0], want / want.sum())


@pytest.mark.parametrize("kind", [EulerSampler, TauLeapingSampler])
def test_no_noise_is_left_and_tokens_with_equal_times_stay(kind):
    for make in NOISES.values():
        process = make()
        sampler = kind(process, oracle_of(process))
        assert (sampler.sample((300, 5), steps=3, generator=generator()) < 3).all()
        t = torch.full((300, 5), 0.7, dtype=torch.float64)
        z = process.corrupt(torch.zeros(300, 5, dtype=torch.long), t, generator=generator())
        s = t.clone()
        s[:, ::2] = 0
        after = sampler.step(z, t, s, generator=generator(1))
        assert torch.equal(after[:, 1::2], z[:, 1::2]) and (after[:, ::2] < 3).all()


def test_token_dependent_noise_is_refused():
    process = TokenRates(torch.tensor([1.0, 2.0, 0.5, 1.0]), mask_id=3)
    for kind in (EulerSampler, TauLeapingSampler):
        with pytest.raises(ValueError, match="needs an InterpolatingProcess; got"):
            kind(process, oracle_of(process))
