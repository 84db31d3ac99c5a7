"""The exact denoiser for data from a Markov chain, without a network or training."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..exact import Exact
from ..numerics import require_count, require_sequences, require_tensor
from ..process import NoiseProcess, as_token_times
from ..typing import PerSequence, Selection, Times, Tokens
from .base import Denoiser, select

IGNORED = 1e5  # nats that a token costs which is ignored: more than all probabilities of a sequence


class MarkovOracle(Exact, Denoiser):
    r"""The exact leave-one-out distribution $p(x_i \mid z_{-i})$ for data from a Markov chain, by the forward-backward
    algorithm.

    Noise is independent per token, so the noisy sequence is a hidden Markov model with emissions $q_t(z_i \mid x_i)$.
    The cost is O(length states^2). With it, every bound and every sampler can be tested exactly.

    Where the other tokens cannot occur together, which tokens drawn independently of each other may, this distribution does
    not exist. The prediction is then given the largest number of them that can, so that the fewest are ignored: the limit
    $\epsilon \to 0$ of the distribution for emissions $q_t(z_j \mid v) + \epsilon$. At t = 1, where all tokens are
    masks, tokens of data have therefore no effect: give known tokens the time 0, as `Infilling` does.

    **Arguments:**

    - `initial`: the distribution of the first token, [n].
    - `transition`: row v is the distribution of the token after v, [n, n].
    - `process`: any process, with one time per sequence or per token. The states are all its tokens if n is its
      vocabulary size, the tokens of its support if n is their number, otherwise its first n tokens.

    **Raises:** `ValueError` if the rows are not distributions or do not match the process.

    **Source:** Baum et al. (1970) for the recursion; the leave-one-out identity is on the theory page.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    x = oracle.sample(4, 6, generator=torch.Generator().manual_seed(0))
    assert (x < 2).all() and oracle.log_prob(x).shape == (4,)
    ```
    """

    initial: Tensor
    transition: Tensor
    tokens: Tensor

    def __init__(
        self, initial: Float[Tensor, " chain"], transition: Float[Tensor, "chain chain"], process: NoiseProcess
    ):
        super().__init__()
        require_tensor("initial", initial, "chain")
        if transition.shape != (len(initial), len(initial)):
            raise ValueError(f"transition must have shape {[len(initial)] * 2}; got {list(transition.shape)}")
        laws = torch.cat([initial[None], transition]).double()
        if not (laws >= 0).all() or (laws.sum(-1) - 1).abs().max() > 1e-6:
            worst = (laws.sum(-1) - 1).abs().argmax()
            raise ValueError(
                "initial and each row of transition must be a distribution: non-negative, with sum 1; got sum "
                f"{laws[worst].sum().item():.9g}, smallest entry {laws.min().item():.3g}"
            )
        laws = laws / laws.sum(-1, keepdim=True)
        self.process = process
        self.register_buffer("initial", laws[0])
        self.register_buffer("transition", laws[1:])
        self.register_buffer("tokens", _tokens(len(initial), process).to(laws.device))

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """Exact leave-one-out log-probabilities, float64; -inf for tokens that are not states of the chain."""
        t = as_token_times(t, z)
        like = self.process.likelihood(z, t)[..., self.tokens]  # q_t(z_i | v) for each state v
        length = z.shape[1]
        ahead = [self.initial.expand(len(z), -1)]  # p(x_i, z_{<i}), rescaled
        behind = [torch.ones_like(ahead[0])]  # p(z_{>i} | x_i), rescaled
        for i in range(length - 1):
            ahead.append(_rescale(ahead[-1] * like[:, i]) @ self.transition)
            behind.append(_rescale((behind[-1] * like[:, length - 1 - i]) @ self.transition.T))
        law = torch.stack(ahead, 1) * torch.stack(behind[::-1], 1)
        impossible = ~(law.sum(-1, keepdim=True) > 0)  # NaN after a beginning or before an end that is impossible
        some = impossible.any(1)[:, 0]
        if some.any():
            law = law.index_put((some,), torch.where(impossible[some], self._given_most(like[some]), law[some]))
        logits = law.new_full((*z.shape, self.process.vocab_size), -torch.inf)
        logits[..., self.tokens] = _rescale(law).log()
        return select(logits, rows)

    def _given_most(self, like: Tensor) -> Tensor:
        """The law of each token given the others, of which as few as possible are ignored; from the likelihoods of states."""
        seen, step = like.log().clamp(min=-IGNORED), self.transition.log()
        ahead, behind = [self.initial.log().expand(len(like), -1)], [torch.zeros_like(like[:, 0])]
        for i in range(like.shape[1] - 1):
            ahead.append(((ahead[-1] + seen[:, i])[..., None] + step).logsumexp(-2))
            behind.append(((behind[-1] + seen[:, -1 - i])[:, None] + step).logsumexp(-1))
        return (torch.stack(ahead, 1) + torch.stack(behind[::-1], 1)).softmax(-1)

    def sample(self, batch: int, length: int, *, generator: Randomness = None) -> Tokens:
        """Sample sequences of the chain."""
        require_count("batch", batch, 0), require_count("length", length)
        u = uniforms(batch, length, generator=generator, device=self.initial.device)
        state = choose(self.initial.expand(batch, -1), u[:, 0])
        states = [state]
        for i in range(1, length):
            state = choose(self.transition[state], u[:, i])
            states.append(state)
        return self.tokens[torch.stack(states, 1)]

    def log_prob(self, x: Tokens) -> PerSequence:
        """The exact log-probability of sequences, in nats; -inf if a token is not a state or a transition is
        impossible.
        """
        require_sequences("x", x)
        states = torch.zeros_like(x)
        known = torch.zeros_like(x, dtype=torch.bool)
        for state, token in enumerate(self.tokens.tolist()):
            states = torch.where(x == token, state, states)
            known |= x == token
        steps = self.transition[states[:, :-1], states[:, 1:]].log().sum(-1)
        return torch.where(known.all(-1), self.initial[states[:, 0]].log() + steps, -torch.inf)

    def entropy(self, length: int) -> float:
        """The entropy of sequences of this length, in nats."""
        require_count("length", length)
        law, total = self.initial, -torch.special.xlogy(self.initial, self.initial).sum()
        step = -torch.special.xlogy(self.transition, self.transition).sum(-1)
        for _ in range(length - 1):
            total, law = total + law @ step, law @ self.transition
        return total.item()

    def __repr__(self) -> str:
        return f"MarkovOracle({len(self.initial)} states, {self.process})"


def _rescale(law: Tensor) -> Tensor:
    return law / law.sum(-1, keepdim=True)


def _tokens(states: int, process: NoiseProcess) -> Tensor:
    vocab_size, data = process.vocab_size, process.data_tokens().nonzero()[:, 0]
    if states == vocab_size:
        return torch.arange(states)
    if states == len(data):
        return data
    if states > vocab_size:
        raise ValueError(f"the chain must not have more states than the process has tokens, {vocab_size}; got {states}")
    return torch.arange(states)
