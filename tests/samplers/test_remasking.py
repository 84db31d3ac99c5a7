"""ReMDM and DDIM for any noise."""

import pytest
import torch
from exact_worlds import NOISES, generator, oracle_of, p_value

import noiselab as nl
from noiselab.samplers.deterministic import DeterministicSampler
from noiselab.samplers.remasking import RemaskingSampler


def test_without_remasking_it_is_the_ancestral_sampler():
    for make in NOISES.values():
        process = make()
        o = oracle_of(process)
        a = nl.AncestralSampler(process, o).sample((200, 5), steps=6, generator=generator())
        b = RemaskingSampler(process, o, amount=0).sample((200, 5), steps=6, generator=generator())
        assert (a == b).double().mean() > 0.999 and RemaskingSampler(process, o, amount=0).converges


@pytest.mark.long_for("uniform")
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_ddim_tends_to_the_law_of_the_data(name):
    process = NOISES[name]()
    sampler = DeterministicSampler(process, oracle_of(process))
    grid = torch.linspace(1, 0, 193, dtype=torch.float64)
    assert p_value(sampler, times=grid) > 1e-3 and sampler.converges
    assert p_value(sampler, steps=6) < 1e-6


def test_ddim_draws_no_noise():
    """Under uniform noise with share 1 a step takes only tokens that the prediction allows; the ancestral step does not."""
    process = nl.uniform(vocab_size=4)

    class Never(nl.Denoiser):
        def forward(self, z, t, rows=None):
            logits = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]).expand(*z.shape, -1)
            return logits if rows is None else logits[rows]

    z, t, s = torch.zeros(4000, 3, dtype=torch.long), torch.full((4000,), 0.9), torch.full((4000,), 0.5)
    assert (DeterministicSampler(process, Never()).step(z, t, s, generator=generator()) < 2).all()
    assert (nl.AncestralSampler(process, Never()).step(z, t, s, generator=generator()) >= 2).any()


def test_confidence_remasks_where_the_model_doubts():
    process = nl.masked(vocab_size=4, mask_id=3)

    class Doubting(nl.Denoiser):
        def forward(self, z, t, rows=None):
            logits = torch.zeros(*z.shape, 4)
            logits[:, 0] = torch.tensor([-9.0, 5.0, 5.0, 0.0])
            return logits if rows is None else logits[rows]

    z, t, s = torch.zeros(20_000, 4, dtype=torch.long), torch.full((20_000,), 0.5), torch.full((20_000,), 0.49)
    after = RemaskingSampler(process, Doubting(), "confidence", amount=0.5).step(z, t, s, generator=generator())
    share = (after == 3).double().mean(0)
    p = torch.tensor([1 / (1 + 2 * torch.tensor(14.0).exp()), 1 / 3, 1 / 3, 1 / 3]).double()
    want = 0.5 * min(1, 0.49 / 0.5) * (-p).softmax(0)
    assert ((share - want).abs() < 5 * (want / 20_000).sqrt()).all() and share[0] > share[1]


@pytest.mark.parametrize("name", NOISES)
def test_batched_equals_one_by_one_and_equal_times_stay(name):
    process = NOISES[name]()
    o = oracle_of(process)
    samplers = [RemaskingSampler(process, o, schedule, amount=0.3) for schedule in ("cap", "rescale", "confidence")]
    samplers += [DeterministicSampler(process, o, share=0.8)] if name != "gidd" else []
    for sampler in samplers:
        together = sampler.sample((4, 5), steps=6, generator=[generator(seed) for seed in range(4)])
        alone = [sampler.sample((1, 5), steps=6, generator=[generator(seed)]) for seed in range(4)]
        assert torch.equal(together, torch.cat(alone)) and (together < 3).all()
        t = torch.full((200, 5), 0.7, dtype=torch.float64)
        z = process.corrupt(torch.zeros(200, 5, dtype=torch.long), t, generator=generator())
        s = t.clone()
        s[:, ::2] = 0
        after = sampler.step(z, t, s, generator=generator(1))
        assert torch.equal(after[:, 1::2], z[:, 1::2])


def test_what_does_not_fit_is_refused():
    process = NOISES["gidd"]()
    o = oracle_of(process)
    with pytest.raises(ValueError, match="needs a time-constant mixing"):
        DeterministicSampler(process, o)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\]; got 2"):
        DeterministicSampler(NOISES["uniform"](), oracle_of(NOISES["uniform"]()), share=2.0)
    with pytest.raises(ValueError, match=r"amount must lie in \[0, 1\]; got -0.1"):
        RemaskingSampler(process, o, amount=-0.1)
    with pytest.raises(ValueError, match="between must be"):
        RemaskingSampler(process, o, between=(0.6, 0.5))
