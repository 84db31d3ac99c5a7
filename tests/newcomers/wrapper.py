"""A wrapper around a denoiser that predicts the posterior: it keeps saying so, and samples through it are right."""

import torch

import noiselab as nl


class BothWays(nl.WrappedDenoiser):
    """The mean of the predictions for a text and for the text read backwards."""

    accepts_scores = False

    def forward(self, z, t):
        there = self.inner(z, t).log_softmax(-1)
        back = self.inner(z.flip(1), t.flip(1) if t.dim() == 2 else t).log_softmax(-1).flip(1)
        return torch.logaddexp(there, back) - torch.tensor(2.0).log()


process = nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.3)
initial = torch.full((3,), 1 / 3)
transition = torch.tensor(
    [[0.8, 0.15, 0.05], [0.15, 0.7, 0.15], [0.05, 0.15, 0.8]]
)  # symmetric: the same read backwards
oracle = nl.MarkovOracle(initial, transition, process)
wrapped = BothWays(nl.denoisers.Posterior(oracle, process))
assert wrapped.predicts == "posterior"

# The prediction is p(x_i | z), summed over all clean sequences.
x = nl.likelihood.every_sequence(3, 3)
p = (initial[:, None, None] * transition[:, :, None] * transition[None]).flatten().double()
z, t = torch.tensor([[0, 3, 2]]), torch.tensor([0.4])
likelihood = process.marginal(x, t.expand(len(x))).gather(-1, z.expand(len(x), 3)[..., None])[..., 0].prod(-1)
joint = p * likelihood / (p * likelihood).sum()
posterior = torch.stack([joint @ torch.nn.functional.one_hot(x[:, i], 4).double() for i in range(3)])
torch.testing.assert_close(wrapped(z, t)[0].softmax(-1), posterior, rtol=1e-5, atol=1e-6)

# Samples follow the exact law of these steps, and many steps reach the data.
grid = torch.linspace(1, 0, 5) ** 2
law = nl.likelihood.model_law(process, oracle, 3, grid).view(4, 4, 4)[:3, :3, :3].flatten()
torch.testing.assert_close(nl.likelihood.model_law(process, wrapped, 3, grid).view(4, 4, 4)[:3, :3, :3].flatten(), law)


def chi_square(denoiser, count=20_000):
    """Of samples of three tokens: 26 degrees of freedom."""
    x = nl.AncestralSampler(process, denoiser).sample(
        (count, 3), times=grid, generator=torch.Generator().manual_seed(0)
    )
    found = torch.bincount(9 * x[:, 0] + 3 * x[:, 1] + x[:, 2], minlength=27)
    return ((found - count * law) ** 2 / (count * law)).sum().item()


class Mistaken(BothWays):
    """The same posterior, declared as leave-one-out."""

    def __init__(self, inner):
        super().__init__(inner)
        self.predicts = "leave_one_out"


right, wrong = chi_square(wrapped), chi_square(Mistaken(wrapped.inner))
print(f"chi-square {right:.0f}; if the wrapper said leave-one-out {wrong:.0f}")
assert right < 26 + 5 * 52**0.5 < wrong

fine = torch.linspace(1, 0, 65) ** 2
law = nl.likelihood.model_law(process, wrapped, 3, fine).view(4, 4, 4)[:3, :3, :3].flatten()
assert (law - p).abs().sum() / 2 < 0.01
