"""A mixing of one's own in an `Interpolation`, beside masks: its laws, its draws and its bound."""

import torch

import noiselab as nl
from noiselab.testing import check_process

t = nl.t


class Ranked(nl.Mixing):
    """Token v has probability proportional to exp(-rate v): steep at first, even at the end; the last token is the mask."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size = vocab_size

    def extra_repr(self):
        return str(self.vocab_size)

    def probs(self, t):
        rank = torch.arange(self.vocab_size, dtype=t.dtype, device=t.device)
        logits = -(1 - t)[..., None] * rank
        return torch.softmax(logits.masked_fill(rank == self.vocab_size - 1, -torch.inf), -1)


words = torch.arange(4) < 3
process = nl.Interpolation(1 - t, {Ranked(4): t * (1 - t), nl.Absorbing(3, 4): t**2}, support=words)
assert repr(process) == "Interpolation(1 - t, {Ranked(4): t * (1 - t), Absorbing(3): t ** 2})"
check_process(process)

# At t = 1/2 a quarter of the tokens are masks, and a quarter follow 1 : e^-0.5 : e^-1.
parts = torch.tensor([0.0, -0.5, -1.0], dtype=torch.float64).exp()
law = torch.cat([parts / parts.sum() / 4, torch.tensor([0.25], dtype=torch.float64)])
law[1] += 0.5
x = torch.ones(40_000, 1, dtype=torch.long)
z = process.corrupt(x, torch.full((len(x),), 0.5), generator=torch.Generator().manual_seed(0))
share = torch.bincount(z.flatten(), minlength=4) / len(z)
print("shares", share.tolist(), "law", law.tolist())
assert ((share - law).abs() < 5 * (law * (1 - law) / len(z)).sqrt()).all()

initial = torch.tensor([0.5, 0.3, 0.2])
transition = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
oracle = nl.MarkovOracle(initial, transition, process)
x = nl.likelihood.every_sequence(3, 2)
p = (initial[:, None] * transition).flatten().double()
entropy = -(p * p.log()).sum()
bound = nl.likelihood.expected_bound(process, oracle, x, low=1e-5, high=1 - 1e-5).mean(p).total.item()
print(f"bound {bound:.6f}, entropy {entropy:.6f} nats")
assert -1e-6 <= bound - entropy < 1e-3
