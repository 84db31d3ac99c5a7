"""Coarse-to-fine noise: tokens are replaced by coarser ones before they are masked."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness, uniforms
from ..numerics import require_tensor, require_token
from ..process import TokenDependentProcess, as_token_times
from ..schedules import ScheduleLike, as_schedule, t
from ..typing import Elementwise, Probs, Times, Tokens


class Coarse(TokenDependentProcess):
    r"""Tokens are first replaced by the token of their class, then by masks.

    $$q_t(\cdot \mid x) = u_t \big[ f_t\, e_x + (1 - f_t)\, e_{parent(x)} \big] + (1 - u_t)\, e_{mask}$$

    In the reverse process, a model first predicts a class and then a token of it. Both steps are commuting semigroups,
    hence $f_{t \mid s} = f_t / f_s$, likewise for u, and the process is Markov for any decreasing f and u.

    **Arguments:**

    - `parent`: the coarse token of each token; coarse tokens and the mask are their own parents. Data consist of the
      others.
    - `mask_id`: the mask token.
    - `fine`: the fraction $f_t$ of tokens that are not coarse yet, decreasing from 1; by default $(1 - t)^2$.
    - `unmasked`: the fraction $u_t$ of tokens that are not masks, decreasing from 1 to 0; by default 1 - t.

    **Raises:** `ValueError` if a parent has another parent, the mask has one, no token is left for the data, or the
    fractions do not decrease from 1.

    **Source:** follows Austin et al. (2021), arXiv 2107.03006, appendix A.2, which encodes structure in transition
    matrices; the continuous-time form is derived on the theory page.

    **Example:**

    ```python
    import torch
    from noiselab.processes import Coarse

    # Tokens 0 and 1 belong to class 4, 2 and 3 to class 5; 6 is the mask.
    process = Coarse(torch.tensor([4, 4, 5, 5, 4, 5, 6]), mask_id=6)
    assert process.support.tolist() == [True] * 4 + [False] * 3
    ```
    """

    parent: Tensor

    def __init__(
        self,
        parent: Int[Tensor, " state"],
        *,
        mask_id: int,
        fine: ScheduleLike = (1 - t) ** 2,
        unmasked: ScheduleLike = 1 - t,
    ):
        states = len(require_tensor("parent", parent, "state", ids=True))
        mask_id = require_token("mask_id", mask_id, states)
        tokens = torch.arange(states, device=parent.device)
        if parent.min() < 0 or parent.max() >= states:
            raise ValueError(f"parents must lie in [0, {states}); got {parent.tolist()}")
        if (parent[parent] != parent).any():
            wrong = int((parent[parent] != parent).nonzero()[0])
            raise ValueError(
                f"the parent of a token must be its own parent; {int(parent[wrong])}, that of {wrong}, is not"
            )
        if parent[mask_id] != mask_id or (parent == mask_id).sum() > 1:
            raise ValueError(f"the mask must be its own parent and no other's; got {parent.tolist()}")
        data = parent != tokens
        if not data.any():
            raise ValueError("at least one token must have a parent other than itself; got none")
        super().__init__(data)
        self.vocab_size, self.mask_id = states, mask_id
        self.register_buffer("parent", parent.clone())
        self.fine, self.unmasked = as_schedule(fine), as_schedule(unmasked)
        self.validate()

    def shares(self, t: Elementwise) -> Float[Tensor, "*batch two"]:
        """The fractions of tokens that are not coarse yet, and that are not masks."""
        return torch.stack([self.fine(t), self.unmasked(t)], -1).double()

    def alpha(self, t: Elementwise) -> Elementwise:
        """The probability that a token is neither coarse nor masked."""
        return self.shares(t).prod(-1)

    def mixing(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        """Row x: its coarse token or the mask."""
        fine, unmasked = self.shares(t)[..., None, None].unbind(-3)
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=t.device)
        noise = unmasked * (1 - fine) * eye[self.parent] + (1 - unmasked) * eye[self.mask_id]
        return noise / noise.sum(-1, keepdim=True)

    # A row has at most three entries: the token, its parent and the mask.

    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        """The distribution of the noisy token: x, its coarse token, the mask."""
        x = self.as_law(x)
        x = x.double()
        fine, unmasked = self.shares(as_token_times(t, x[..., 0]))[..., None].unbind(-2)
        parents = torch.zeros_like(x).index_add(-1, self.parent, x)
        mask = torch.arange(self.vocab_size, device=x.device) == self.mask_id
        return unmasked * (fine * x + (1 - fine) * parents) + (1 - unmasked) * mask * x.sum(-1, keepdim=True)

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        """The probability of the noisy token for each clean token."""
        return self._column(z, self.shares(as_token_times(t, z)))

    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Two uniform numbers per token: whether it is coarse, and whether it is masked."""
        u = uniforms(*x.shape, 2, generator=generator, device=x.device)
        fine, unmasked = (u < self.shares(self.token_times(t, x))).unbind(-1)
        return torch.where(unmasked, torch.where(fine, x, self.parent[x]), self.mask_id)

    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        """The forward transition into z, from each token."""
        before, after = map(self.shares, self.step_times(s, t, z))
        return self._column(z, after / before)

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""$-f_t'/f_t$ from a token to its coarse one, $-u_t'/u_t$ from any token to the mask."""
        t = as_token_times(t, z)
        shares, slopes, *_ = torch.func.jvp(self.shares, (t,), (torch.ones_like(t),))
        to_parent, to_mask = (-slopes / shares)[..., None].unbind(-2)
        rate = to_parent * (self.parent == z[..., None]) + to_mask * (z == self.mask_id)[..., None]
        return rate.scatter(-1, z[..., None], 0)

    def _column(self, z: Tensor, shares: Tensor) -> Tensor:
        fine, unmasked = shares[..., None].unbind(-2)
        tokens = torch.arange(self.vocab_size, device=z.device)
        same, up, gone = tokens == z[..., None], self.parent == z[..., None], (z == self.mask_id)[..., None]
        return unmasked * (fine * same + (1 - fine) * up) + (1 - unmasked) * gone

    def __repr__(self) -> str:
        data = int(self.data_tokens().sum())
        classes = self.vocab_size - data - 1
        return (
            f"Coarse({self.vocab_size} tokens, {data} in {classes} classes, fine {self.fine}, unmasked {self.unmasked})"
        )
