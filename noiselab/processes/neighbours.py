"""Neighbour noise: tokens move among their neighbours before they are masked."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..numerics import require_tensor, require_token
from ..process import TokenDependentProcess, as_token_times
from ..schedules import ScheduleLike, as_schedule, t
from ..typing import Elementwise, Probs, Times, Tokens

TAIL = 1e-14  # probability of more hops than the series includes


class Neighbours(TokenDependentProcess):
    r"""Tokens hop from neighbour to neighbour, $\sigma_t$ times on average, until they are masked.

    $$Q_t = u_t\, e^{-\sigma_t (I - K)} + (1 - u_t)\, 1 e_{mask}^\top, \qquad
    e^{-\sigma (I - K)} = \sum_n e^{-\sigma} \frac{\sigma^n}{n!} K^n$$

    K contains the probabilities of a hop. A single hop, $\alpha I + (1 - \alpha) K$, would not be a Markov process. The
    series is applied to vectors, hop by hop, so that no [state, state] matrix is computed; with 50,000 tokens a bound
    takes seconds for a few dozen positions.

    **Arguments:**

    - `index`: the neighbours of each token, [state, k]. Those of the mask are ignored, because it does not move.
    - `weight`: the probability of each neighbour, non-negative; rows are normalised.
    - `mask_id`: the mask token, which must not be a neighbour of any token.
    - `hops`: $\sigma_t$, increasing from 0; by default 2t.
    - `unmasked`: the fraction $u_t$ of tokens that are not masks, decreasing from 1 to 0; by default 1 - t.

    **Raises:** `ValueError` if neighbours or weights are invalid, or hops do not increase from 0.

    **Source:** Austin et al. (2021), arXiv 2107.03006, appendix A.2.4, for noise among nearest neighbours in embedding
    space; uniformisation is Jensen (1953).

    **Example:**

    ```python
    import torch
    from noiselab.processes import Neighbours

    circle = torch.tensor([[1, 3], [2, 0], [3, 1], [0, 2], [4, 4]])  # token 4 is the mask
    process = Neighbours(circle, torch.ones(5, 2), mask_id=4)
    z = process.corrupt(torch.tensor([[0, 1, 2, 3]]), torch.tensor([0.3]))
    ```
    """

    index: Tensor
    weight: Tensor

    def __init__(
        self,
        index: Int[Tensor, "state k"],
        weight: Float[Tensor, "state k"],
        *,
        mask_id: int,
        hops: ScheduleLike = 2 * t,
        unmasked: ScheduleLike = 1 - t,
    ):
        states = len(require_tensor("index", index, "state", "k", ids=True))
        weight = require_tensor("weight", weight, "state", "k")
        mask_id = require_token("mask_id", mask_id, states)
        if weight.shape != index.shape or index.min() < 0 or index.max() >= states:
            raise ValueError(
                f"index and weight must have one shape, and tokens lie in [0, {states}); got {list(index.shape)}, "
                f"{list(weight.shape)}, neighbours {index.min().item()} to {index.max().item()}"
            )
        data = torch.arange(states, device=index.device) != mask_id
        total = weight.double().sum(-1)
        if not (weight >= 0).all() or not (total[data] > 0).all():
            raise ValueError("weights must be non-negative, and some weight of every token positive; they are not")
        if ((index == mask_id) & (weight > 0))[data].any():
            token = int((((index == mask_id) & (weight > 0)).any(-1) & data).nonzero()[0])
            raise ValueError(f"the mask must be nobody's neighbour; it is one of token {token}'s")
        super().__init__(data)
        self.vocab_size, self.mask_id = states, mask_id
        share = (weight.double() / total[:, None]).nan_to_num()
        self.register_buffer("index", torch.where(data[:, None], index, mask_id))
        self.register_buffer("weight", torch.where(data[:, None], share, 1 / index.shape[1]))
        self.hops, self.unmasked = as_schedule(hops), as_schedule(unmasked)
        most = self.hops(torch.tensor([self.domain[1]], dtype=torch.float64, device=index.device)).item()
        if not 0 < most < 1000:
            raise ValueError(f"hops must rise from 0 to a finite number, below 1000; got {most:g} at t = 1")
        # Learned hops may grow during training.
        self.terms = None if any(True for _ in self.hops.parameters()) else _terms(most)
        self.validate()

    def alpha(self, t: Elementwise) -> Elementwise:
        """The probability of no hop and no mask."""
        return self.unmasked(t) * (-self.hops(t)).exp()

    def kernel(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        """The transition matrices, by applying the series to the identity."""
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=t.device).expand(*t.shape, -1, -1)
        return self._law(eye, self.hops(t)[..., None, None], self.unmasked(t)[..., None, None])

    def mixing(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        """The matrices conditioned on at least one hop or a mask."""
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=t.device).expand(*t.shape, -1, -1)
        unmasked = self.unmasked(t)[..., None, None]
        hopped = unmasked * self._series(eye, self.hops(t)[..., None, None], self._hop, first=1)
        noise = hopped + (1 - unmasked) * eye[..., self.mask_id, None, :]
        return noise / noise.sum(-1, keepdim=True)

    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        """The distribution of the noisy token: after any number of hops, or masked."""
        x = self.as_law(x)
        t = as_token_times(t, x[..., 0])
        return self._law(x.double(), self.hops(t)[..., None], self.unmasked(t)[..., None])

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        """The probability of the noisy token for each clean token."""
        t = as_token_times(t, z)
        return self._column(z, self.hops(t), self.unmasked(t))

    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        """The forward transition into z, from each token: the hops between the two times."""
        s, t = self.step_times(s, t, z)
        return self._column(z, self.hops(t) - self.hops(s), self.unmasked(t) / self.unmasked(s))

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""$\sigma_t' K(y, z)$ from each other token y, and $-u_t'/u_t$ into the mask."""
        t = as_token_times(t, z)
        at_z = nn.functional.one_hot(z.long(), self.vocab_size).double()
        hopping = self.hops.derivative(t)[..., None] * self._hop_back(at_z)
        masking = (-self.unmasked.derivative(t) / self.unmasked(t))[..., None] * (z == self.mask_id)[..., None]
        return (hopping + masking).scatter(-1, z[..., None], 0)

    def _column(self, z: Tensor, hops: Tensor, unmasked: Tensor) -> Tensor:
        at_z = nn.functional.one_hot(z.long(), self.vocab_size).double()
        hopped = self._series(at_z, hops[..., None], self._hop_back)
        return unmasked[..., None] * hopped + ((1 - unmasked) * (z == self.mask_id))[..., None]

    def _law(self, x: Tensor, hops: Tensor, unmasked: Tensor) -> Tensor:
        mask = torch.arange(self.vocab_size, device=x.device) == self.mask_id
        return unmasked * self._series(x, hops, self._hop) + (1 - unmasked) * mask * x.sum(-1, keepdim=True)

    def _series(self, v: Tensor, hops: Tensor, step: Callable[[Tensor], Tensor], first: int = 0) -> Tensor:
        """The mean of v after a Poisson number of hops, over numbers of at least `first`."""
        chance = (-hops).exp()
        total = chance * v if first == 0 else torch.zeros_like(chance * v)
        terms = _terms(hops.detach().max().item()) if self.terms is None else self.terms
        for n in range(1, terms + 1):
            v, chance = step(v), chance * hops / n
            total = total + chance * v
        return total

    def _hop(self, law: Tensor) -> Tensor:
        """The law after one more hop, law K."""
        out = torch.zeros_like(law)
        for index, weight in zip(self.index.unbind(-1), self.weight.unbind(-1), strict=True):
            out = out.index_add(-1, index, law * weight)
        return out

    def _hop_back(self, value: Tensor) -> Tensor:
        """The mean of a value after one hop, K value."""
        parts = zip(self.index.unbind(-1), self.weight.unbind(-1), strict=True)
        return torch.stack([weight * value[..., index] for index, weight in parts]).sum(0)

    def __repr__(self) -> str:
        tokens, k = self.index.shape
        return f"Neighbours({tokens} tokens, {k} neighbours, hops {self.hops}, unmasked {self.unmasked})"


def _terms(hops: float) -> int:
    """The number of terms after which the remaining probability is below `TAIL`."""
    n, chance, seen = 0, math.exp(-hops), math.exp(-hops)
    while 1 - seen > TAIL and n < 20 + 10 * hops:
        n += 1
        chance *= hops / n
        seen += chance
    return n + 4
