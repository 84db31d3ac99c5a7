"""Small causal networks whose every probability can be enumerated."""

import torch
from torch import nn


class Table(nn.Module):
    """A random function of the tokens that may be seen and their positions; called like a causal model of transformers.

    `shy` lowers the logit of the last token, the backspace, so that sums over streams converge.
    """

    def __init__(self, vocab_size, seed=0, shy=0.0, positions=64, width=16):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.embed = torch.randn(positions, vocab_size, width, generator=random, dtype=torch.float64)
        self.out = torch.randn(width, vocab_size, generator=random, dtype=torch.float64) * 0.4
        # It deletes some tokens far more often than others.
        self.dislike = torch.linspace(1, -3, vocab_size, dtype=torch.float64) - shy

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        batch, length = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(length).expand(batch, -1)
        if attention_mask is None:
            attention_mask = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, 1, -1, -1)
        hidden = attention_mask[:, 0].double() @ self.embed[position_ids, input_ids]
        logits = torch.tanh(hidden) @ self.out
        return torch.cat([logits[..., :-1], self.dislike[input_ids, None]], -1)
