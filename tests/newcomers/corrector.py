"""A corrector of one's own: it leaves the law of noisy sequences unchanged, and improves samples between steps."""

import torch

import noiselab as nl
from noiselab.process import as_token_times


class Metropolis(nl.Corrector):
    """Proposes a uniformly random token at one place of each sequence, and accepts it by Metropolis' rule."""

    converges = True
    kind = "metropolis"

    def step(self, z, t, *, rows=None, generator=None):
        rows = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        u = nl.categorical.uniforms(len(z), z.shape[1] + 2, generator=generator, device=z.device)
        place, proposal, accept = u[:, : z.shape[1]].masked_fill(~rows, -1), u[:, -2], u[:, -1]
        chosen = rows & (torch.arange(z.shape[1], device=z.device) == place.argmax(-1, keepdim=True))
        some = chosen.any(-1)  # sequences with a token that may change
        x_hat = self.denoiser(z, t, chosen).softmax(-1)
        time = as_token_times(t, z).expand(z.shape)[chosen][:, None]
        law = self.process.marginal(x_hat[:, None], time)[:, 0]  # of a noisy token, given the others
        old, new = z[chosen], (proposal[some] * self.process.vocab_size).long()
        ratio = law.gather(-1, new[:, None]) / law.gather(-1, old[:, None])
        return z.masked_scatter(chosen, torch.where(accept[some] < ratio[:, 0], new, old))


process = nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2)
initial = torch.tensor([0.5, 0.3, 0.2])
transition = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
oracle = nl.MarkovOracle(initial, transition, process)
corrector = Metropolis(process, oracle)

# The law of noisy sequences at t = 0.4, summed over the 27 clean ones.
count, time, random = 40_000, torch.tensor([0.4]), torch.Generator().manual_seed(0)
x = nl.likelihood.every_sequence(3, 3)
p = (initial[:, None, None] * transition[:, :, None] * transition[None]).flatten().double()
q = process.marginal(x, time.expand(len(x)))
law = torch.einsum("n,na,nb,nc->abc", p, q[:, 0], q[:, 1], q[:, 2]).flatten()

z = process.corrupt(oracle.sample(count, 3, generator=random), time.expand(count), generator=random)
start = z
for _ in range(6):
    z = corrector.step(z, time.expand(count), generator=random)
found = torch.bincount((z * torch.tensor([16, 4, 1])).sum(-1), minlength=64)
statistic = ((found - count * law) ** 2 / (count * law)).sum().item()
print(
    f"{(z != start).any(-1).double().mean():.0%} of the sequences changed; chi-square {statistic:.0f}, 63 degrees of freedom"
)
assert (z != start).any(-1).double().mean() > 0.5 and statistic < 63 + 5 * 126**0.5

# Tokens outside `rows` stay.
rows = torch.tensor([False, True, False]).expand(count, 3)
moved = corrector.step(z, time.expand(count), rows=rows, generator=random) != z
assert moved.any() and not moved[~rows].any()


def divergence(sampler):
    """KL(data || samples), from the shares of the 27 sequences in many samples."""
    x = sampler.sample((count, 3), steps=4, generator=torch.Generator().manual_seed(1))
    share = torch.bincount(9 * x[:, 0] + 3 * x[:, 1] + x[:, 2], minlength=27) / count
    return (p * (p / share).log()).sum().item()


# At t = 0 too, where each step that leaves the law of the data unchanged can only bring samples closer to it.
plain = nl.AncestralSampler(process, oracle)
before, after = divergence(plain), divergence(nl.PredictorCorrector(plain, corrector, when=lambda t: t < 1, repeats=8))
print(f"KL(data || samples) of 4 steps: {before:.4f}, with the corrector {after:.4f}")
assert after < before / 2
