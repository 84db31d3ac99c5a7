"""A sampler of one's own: one token moves at a time, so that its samples are exact for any number of steps."""

import torch

import noiselab as nl
from noiselab.process import as_token_times


class LeftToRight(nl.Sampler):
    """Moves the tokens from left to right: each sees what became of those before it."""

    converges = True

    def step(self, z, t, s, *, generator=None):
        t, s = (as_token_times(time, z).expand(z.shape) for time in (t, s))
        place = torch.arange(z.shape[1], device=z.device)
        u = nl.categorical.uniforms(*z.shape, generator=generator, device=z.device)
        for i in range(z.shape[1]):
            rows = (place == i).expand(z.shape)
            x_hat = self.denoiser(z, torch.where(place < i, s, t), rows).softmax(-1)
            law = self.process.posterior(z[:, i : i + 1], x_hat[:, None], s[:, i : i + 1], t[:, i : i + 1])[:, 0]
            z = z.masked_scatter(rows, nl.categorical.choose(law, u[:, i]))
        return z


process = nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2)
initial = torch.tensor([0.5, 0.3, 0.2])
transition = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
oracle = nl.MarkovOracle(initial, transition, process)
law = (initial[:, None, None] * transition[:, :, None] * transition[None]).flatten().double()


def chi_square(sampler, steps, count=20_000):
    """The chi-square statistic of samples of three tokens: 26 degrees of freedom."""
    x = sampler.sample((count, 3), steps=steps, generator=torch.Generator().manual_seed(0))
    assert (x < 3).all()
    found = torch.bincount(9 * x[:, 0] + 3 * x[:, 1] + x[:, 2], minlength=27)
    return ((found - count * law) ** 2 / (count * law)).sum().item()


for steps in (1, 4):
    mine, ancestral = (
        chi_square(LeftToRight(process, oracle), steps),
        chi_square(nl.AncestralSampler(process, oracle), steps),
    )
    print(f"{steps} steps: chi-square {mine:.0f}, of the ancestral sampler {ancestral:.0f}")
    assert mine < 26 + 5 * 52**0.5 < ancestral
