"""Causal networks whose answers are known, and the chain that some of them know."""

import torch

import noiselab as nl

BACK, START = 4, 5
INITIAL = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
TRANSITION = torch.tensor(
    [[0.94, 0.02, 0.02, 0.02], [0.02, 0.02, 0.94, 0.02], [0.02, 0.94, 0.02, 0.02], [0.3, 0.3, 0.3, 0.1]],
    dtype=torch.float64,
)


def data(n=400, length=24):
    oracle = nl.MarkovOracle(INITIAL, TRANSITION, nl.masked(vocab_size=5, mask_id=4))
    return oracle.sample(n, length, generator=torch.Generator().manual_seed(0))


class Chain(torch.nn.Module):
    """A model of the chain that takes a token back as often as Bayes says it was uniform noise of rate p.

    Or, without backspaces, one that has four tokens and knows of the noise.
    """

    def __init__(self, rate, backspaces=True, initial=INITIAL, transition=TRANSITION):
        super().__init__()
        self.rate, self.backspaces, self.initial, self.transition = rate, backspaces, initial, transition

    def forward(self, input_ids):
        before = torch.where(input_ids == START, 0, input_ids)
        law = torch.where((input_ids == START)[..., None], self.initial, self.transition[before])  # of what comes next
        nu = (1 - law) / 3  # any other token, averaged over the right one: sum_x P(x) [v != x] / 3
        mixed = (1 - self.rate) * law + self.rate * nu
        if not self.backspaces:
            return mixed.log()
        # The row at a token says whether it is deleted, by the law of the row before.
        back = torch.zeros(input_ids.shape, dtype=torch.float64)
        at = mixed[:, :-1].gather(-1, before[:, 1:, None])[..., 0]
        back[:, 1:] = self.rate * nu[:, :-1].gather(-1, before[:, 1:, None])[..., 0] / at
        return torch.cat([mixed * (1 - back[..., None]), back[..., None]], -1).log()


class Reader(torch.nn.Module):
    """A model that reads a stream as what it comes to, and answers by a function of that.

    `answer` gets the current text, as a list, and returns the laws of what comes next: of four tokens, and the
    probability that the last one is deleted. A token that was written behind a backspace stays.
    """

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, input_ids):
        return torch.stack([self.row(row) for row in input_ids.tolist()]).log()

    def row(self, stream):
        text, found, again = [], [], False
        for entry in stream[1:]:
            found.append(self.after(text, again))
            again = entry == BACK
            if again:
                text.pop()
            else:
                text.append(entry)
        return torch.stack([*found, self.after(text, again)])

    def after(self, text, again):
        law, back = self.answer(text)
        back = 0.0 if again or not text else back
        return torch.cat([law * (1 - back), torch.tensor([back], dtype=torch.float64)])


class Judge(torch.nn.Module):
    """The chain, as a judge."""

    def forward(self, input_ids, attention_mask):
        return torch.where((input_ids == START)[..., None], INITIAL, TRANSITION[input_ids.clamp(max=3)]).log()
