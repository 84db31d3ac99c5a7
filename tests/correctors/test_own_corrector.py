"""A corrector of one's own: `step`, and the rest is there."""

import pytest
import torch
from worlds import INITIAL, TRANSITION, Stranger, V

import noiselab as nl
from noiselab.processes import TokenRates


class Masking(nl.Corrector):
    """Gibbs at one position, in a few lines."""

    kind = "mine"

    def step(self, z, t, *, rows=None, generator=None):
        u = nl.categorical.uniforms(*z.shape, generator=generator, device=z.device)
        chosen = torch.zeros_like(z, dtype=torch.bool).scatter(1, u.argmax(1, keepdim=True), True)
        chosen = chosen if rows is None else chosen & rows
        x_hat = self.denoiser(z, t, chosen).softmax(-1)
        law = self.process.marginal(x_hat[:, None], t.new_full((len(x_hat),), float(t[0])))[:, 0]
        return z.masked_scatter(chosen, nl.categorical.choose(law, u[chosen]))


class Factored(Masking):
    takes = nl.InterpolatingProcess


def oracle(process):
    return nl.MarkovOracle(INITIAL, TRANSITION, process)


def test_a_posterior_denoiser_is_converted():
    process = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
    z, t = process.prior(4, 6, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.5, dtype=torch.float64)
    denoisers = [oracle(process), nl.denoisers.Posterior(oracle(process), process)]
    made = [Masking(process, denoiser) for denoiser in denoisers]
    assert all(corrector.denoiser.predicts == "leave_one_out" for corrector in made)
    a, b = (corrector.step(z, t, generator=torch.Generator().manual_seed(1)) for corrector in made)
    assert torch.equal(a, b)


def test_the_process_is_validated():
    class Rising(Stranger):
        def alpha(self, t):
            return t

    with pytest.raises(ValueError, match="alpha"):
        Masking(Rising(), oracle(Stranger()))


def test_a_process_of_another_kind_is_refused_and_what_takes_it_is_named():
    process = TokenRates(torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0]), mask_id=V - 1)
    with pytest.raises(
        ValueError, match=r"Factored needs an InterpolatingProcess; got .*GibbsCorrector.* take any process"
    ):
        Factored(process, oracle(process))
    assert Masking(process, oracle(process)).process is process


def test_it_prints():
    class Named(Masking):
        def extra_repr(self):
            return "two positions"

    process = nl.masked(vocab_size=V, mask_id=V - 1)
    assert repr(Masking(process, oracle(process))) == f"Masking({process}, {oracle(process)})"
    assert repr(Named(process, oracle(process))) == f"Named({process}, {oracle(process)}, two positions)"


def test_it_runs_between_the_steps_of_a_sampler():
    process = nl.masked(vocab_size=V, mask_id=V - 1)
    sampler = nl.PredictorCorrector(nl.AncestralSampler(process, oracle(process)), Masking(process, oracle(process)))
    assert (sampler.sample((4, 6), steps=4, generator=torch.Generator().manual_seed(0)) < V - 1).all()
