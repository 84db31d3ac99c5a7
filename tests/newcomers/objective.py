"""A weighting of one's own: its value by hand arithmetic, and a few training steps that find the data's frequencies."""

import torch

import noiselab as nl


def fading(process, x, z, t):
    """The weight of the bound times the signal that is left: noisy times count less."""
    return process.elbo_weight(x, z, t) * process.alpha(nl.process.as_token_times(t, x))


process = nl.masked(vocab_size=4, mask_id=3)
objective_loss = nl.objectives.objective_loss

# One time for each token gives the same as one time for the sequence.
x, z, t = torch.tensor([[0, 1]]), torch.tensor([[3, 1]]), torch.tensor([0.25])
assert torch.equal(fading(process, x, z, t), fading(process, x, z, t[:, None].expand(1, 2)))

# By hand: (1 - t) / t times the cross-entropy at masks, and nothing elsewhere; at t = 1/4 that is 3 log 3.
loss = objective_loss(process, torch.zeros(1, 2, 4), x, z, t, fading)
torch.testing.assert_close(loss, torch.tensor([[3.0, 0.0]]) * torch.tensor(3.0).log(), check_dtype=False)


class Frequencies(nl.Denoiser):
    """The same prediction everywhere: for independent tokens no network does better."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(4))

    def forward(self, z, t):
        return self.logits.expand(*z.shape, 4)


law = torch.tensor([0.6, 0.3, 0.1])
random = torch.Generator().manual_seed(0)
network = Frequencies()
optimizer = torch.optim.Adam(network.parameters(), 0.05)
for step in range(150):
    for group in optimizer.param_groups:
        group["lr"] = 0.05 * (1 - step / 150)
    x = torch.multinomial(law, 512 * 8, replacement=True, generator=random).view(512, 8)
    t = nl.stratified_times(len(x), low=0.05, generator=random)
    z = process.corrupt(x, t, generator=random)
    loss = objective_loss(process, network(z, t), x, z, t, fading).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

found = network.logits[:3].softmax(-1).detach()
print("learned", found.tolist(), "data", law.tolist())
assert (found - law).abs().max() < 0.02
