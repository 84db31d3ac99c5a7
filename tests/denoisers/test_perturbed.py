"""The error of a perturbed denoiser has the size that it says, and leaves the prediction leave-one-out."""

import pytest
import torch
from worlds import INITIAL, TRANSITION, V

import noiselab as nl
from noiselab.denoisers.perturbed import Perturbed

LENGTH = 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def world(scale=0.5, seed=0, width=1):
    process = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, process)
    wrong = Perturbed(oracle, scale, vocab_size=V, width=width, generator=generator(seed))
    t = torch.full((40,), 0.4, dtype=torch.float64)
    return process, oracle, wrong, process.corrupt(oracle.sample(40, LENGTH, generator=generator(1)), t), t


@pytest.mark.parametrize("width", [1, 2])
def test_the_error_has_mean_0_and_variance_1_over_its_draws(width):
    _, oracle, _, z, _ = world()
    draws = (Perturbed(oracle, 1, vocab_size=V, width=width, generator=generator(seed)) for seed in range(400))
    errors = torch.stack([wrong.error(z) for wrong in draws])
    assert abs(errors.mean().item()) < 0.03
    assert errors.var(0).mean().item() == pytest.approx(1, abs=0.05)
    # Also at the ends, where neighbours are missing.
    assert errors[:, :, [0, -1]].var(0).mean().item() == pytest.approx(1, abs=0.08)


def test_the_error_is_the_sum_over_the_neighbours_rows():
    _, _, wrong, z, _ = world(width=2)
    found = wrong.error(z)
    for b in range(3):
        for i in range(LENGTH):
            rows = [z[b, i + d] if 0 <= i + d < LENGTH else V for d in (-2, -1, 1, 2)]
            want = sum(wrong.tables[k, row] for k, row in enumerate(rows)) / 2
            assert torch.allclose(found[b, i], want)


def test_the_same_input_gets_the_same_error_whatever_is_beside_it():
    *_, wrong, z, t = world()
    whole = wrong(z, t)
    assert torch.equal(whole, wrong(z, t)) and torch.allclose(whole[7:8], wrong(z[7:8], t[7:8]))
    assert torch.equal(wrong.error(z)[7:8], wrong.error(z[7:8]))
    rows = torch.rand(z.shape, generator=generator()) < 0.3
    assert torch.equal(wrong(z, t, rows), whole[rows])
    again, other = world()[2], world(seed=1)[2]
    assert torch.equal(again(z, t), whole) and not torch.equal(other(z, t), whole)


def test_the_prediction_does_not_depend_on_the_tokens_own_value():
    """Else it would be no leave-one-out prediction, and a Gibbs move with it no Gibbs move."""
    *_, wrong, z, t = world(width=2)
    for i in range(LENGTH):
        changed = z.clone()
        changed[:, i] = (changed[:, i] + 1) % V
        assert torch.allclose(wrong(changed, t)[:, i], wrong(z, t)[:, i])
        assert not torch.allclose(wrong(changed, t)[:, (i + 1) % LENGTH], wrong(z, t)[:, (i + 1) % LENGTH])


def test_tokens_that_cannot_be_stay_so_and_no_error_is_none():
    _, oracle, wrong, z, t = world()
    assert (wrong(z, t)[..., V - 1] == -torch.inf).all()
    assert torch.equal(world(scale=0)[2](z, t), oracle(z, t))


def test_the_divergence_grows_as_the_square_of_the_scale():
    _, oracle, _, z, t = world()
    exact = oracle(z, t)[..., : V - 1]
    p = exact.softmax(-1)

    def divergence(scale):
        moved = world(scale)[2](z, t)[..., : V - 1].log_softmax(-1)
        return (p * (exact.log_softmax(-1) - moved)).sum(-1)

    g = world()[2].error(z)[..., : V - 1]
    variance = (p * g**2).sum(-1) - (p * g).sum(-1) ** 2
    assert torch.allclose(divergence(1e-3) / 1e-6, variance / 2, rtol=0.02, atol=1e-5)
    assert (divergence(0.1).mean() / divergence(0.05).mean()).item() == pytest.approx(4, rel=0.03)


def test_what_the_error_costs_in_likelihood_grows_as_the_square_too():
    """The bound of the exact denoiser is the entropy; what is above it is the price of the error."""
    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    chain = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), chain, process)
    x = nl.likelihood.every_sequence(2, 3)
    law = oracle.log_prob(x).exp()

    def price(scale):
        wrong = Perturbed(oracle, scale, vocab_size=3, generator=generator())
        return (nl.likelihood.expected_bound(process, wrong, x).mean(law).total - oracle.entropy(3)).item()

    assert price(0) == pytest.approx(0, abs=1e-4)
    assert price(0.4) / price(0.2) == pytest.approx(4, rel=0.1) and price(0.2) > 1e-3


def test_a_posterior_prediction_may_be_wrong_too_but_no_score():
    """The likelihood of the own token is a factor, so that the error is the same in both parametrisations."""
    process, oracle, wrong, z, t = world()
    as_posterior = Perturbed(nl.denoisers.Posterior(oracle, process), 0.5, vocab_size=V, generator=generator())
    back = nl.denoisers.LeaveOneOut(as_posterior, process)(z, t).log_softmax(-1)
    assert torch.allclose(back[..., : V - 1], wrong(z, t).log_softmax(-1)[..., : V - 1])
    with pytest.raises(ValueError, match="scores"):
        Perturbed(nl.denoisers.Score(oracle, process), 0.5, vocab_size=V)
    with pytest.raises(ValueError, match="scale must be non-negative and finite; got -1"):
        Perturbed(oracle, -1, vocab_size=V)
    with pytest.raises(ValueError, match="width must be at least 1"):
        Perturbed(oracle, 1, vocab_size=V, width=0)
    assert repr(wrong).startswith("Perturbed(MarkovOracle(4 states") and repr(wrong).endswith(", 0.5)")
