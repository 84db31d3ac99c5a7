"""References for all blocks in one pass: a pass for each block, an exact network, and gradients of the logits of each block."""

import torch

import noiselab as nl
from noiselab.denoisers import attending_to
from noiselab.denoisers.attended import Attended
from noiselab.process import as_token_times

INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRANSITION = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class SeparatePasses(nl.Denoiser):
    """The same by a pass for each block: the clean blocks before it, then the noisy one, and nothing else."""

    def __init__(self, inner, block_size, clean, real=None):
        super().__init__()
        self.inner, self.size, self.clean, self.predicts = inner, block_size, clean, inner.predicts
        self.real = torch.ones_like(clean, dtype=torch.bool) if real is None else real

    def forward(self, z, t):
        t, found = as_token_times(t, z).expand(z.shape), []
        self.inner.attended = Attended()  # not the masks of the whole batch
        for start in range(0, z.shape[1], self.size):
            end = min(start + self.size, z.shape[1])
            tokens = torch.cat((self.clean[:, :start], z[:, start:end]), 1)
            time = torch.cat((torch.zeros_like(t[:, :start]), t[:, start:end]), 1)
            place = torch.arange(end)
            pairs = torch.tensor([[k // self.size <= q // self.size for k in range(end)] for q in range(end)])
            real = self.real[:, :end]
            pairs = (pairs & real[:, None]) | torch.eye(end, dtype=torch.bool)
            with attending_to(self.inner, may_attend=pairs, positions=place[None]):
                found.append(self.inner(tokens, time)[:, start:])
        return torch.cat(found, 1)


class ExactNetwork(nl.denoisers.ProjectedDenoiser):
    """A network that does what it should with any mask and positions: the exact leave-one-out law of each token in a Markov
    chain, given the tokens that it attends to.
    """

    def __init__(self, process, length):
        super().__init__()
        self.process, self.length = process, length
        self.texts = nl.likelihood.every_sequence(3, length)
        oracle = nl.MarkovOracle(INITIAL, TRANSITION, nl.masked(vocab_size=4, mask_id=3))
        self.logs = oracle.log_prob(self.texts).double()

    def require_attention(self):
        pass

    def hidden(self, z, t):
        n, pairs, positions = z.shape[1], self.may_attend(z), self.positions(z)
        positions = torch.arange(n)[None] if positions is None else positions
        pairs = torch.ones(1, n, n, dtype=torch.bool) if pairs is None else pairs
        pairs = (pairs & ~torch.eye(n, dtype=torch.bool)).expand(len(z), n, n)
        likelihood = self.process.likelihood(z, as_token_times(t, z).expand(z.shape)).double().log()
        there = self.texts[:, positions[0]]  # the token at the position of each place, in each text
        known = torch.stack([likelihood[:, j][:, there[:, j]] for j in range(n)], 1)  # [batch, key, text]
        known = torch.where(pairs[..., None], known[:, None], 0.0).sum(2)  # [batch, query, text]
        found = z.new_full((*z.shape, self.process.vocab_size), -torch.inf, dtype=torch.float64)
        for token in range(3):
            is_token = (there.T == token)[None]
            found[..., token] = torch.where(is_token, known + self.logs, -torch.inf).logsumexp(-1)
        return found

    def project(self, hidden):
        return hidden


def influences(denoiser, embedding, z, t, clean):
    """The norm of the gradient of each token's logits with respect to each embedding that the network reads, [token, place]."""
    leaves = []
    hook = embedding.register_forward_hook(
        lambda _module, _inputs, out: leaves.append(out.detach().requires_grad_()) or leaves[-1]
    )
    try:
        with attending_to(denoiser, clean=clean):
            logits = denoiser(z, t)
    finally:
        hook.remove()
    weights = torch.randn(logits.shape[-1], generator=generator()).to(logits)
    rows = [torch.autograd.grad(one, leaves[0], retain_graph=True)[0].norm(dim=-1)[0] for one in (logits @ weights)[0]]
    return torch.stack(rows)
