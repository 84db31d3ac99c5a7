"""Hybrid noise of uniform tokens and masks, in which masks absorb."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, uniforms
from ..numerics import require_count, require_number, require_token
from ..process import TokenDependentProcess, as_token_times
from ..schedules import ScheduleLike, as_schedule, t
from ..typing import Elementwise, PerToken, Probs, Times, Tokens
from .families import family


class AbsorbingHybrid(TokenDependentProcess):
    r"""Tokens are replaced by uniform ones and masked, each with a clock of its own; a mask stays a mask.

    $$q_t(\cdot \mid x) = u_t \big[ k_t\, e_x + (1 - k_t)\, U \big] + (1 - u_t)\, e_{mask}, \qquad
    k_{t \mid s} = k_t / k_s, \quad u_{t \mid s} = u_t / u_s$$

    $U$ is uniform over all tokens but the mask. The law of a noisy text is that of hybrid noise (`gidd`) with the same shares;
    the paths differ. Hybrid noise may turn a mask into a token, which is impossible here. In reverse, a token therefore never
    becomes a mask again: a sampler fills masks, and corrects tokens by other tokens.

    **Arguments:**

    - `vocab_size`: the number of tokens, the mask included.
    - `mask_id`: the mask token, which data do not contain.
    - `kept`: the fraction $k_t$ of tokens that have never been replaced, among those that are not masks; decreasing from 1.
    - `unmasked`: the fraction $u_t$ of tokens that are not masks, decreasing from 1; by default 1 - t.

    **Raises:** `ValueError` if there is no token besides the mask, or if the fractions do not decrease from 1, or leave signal
    at the end.

    **Source:** SCDD, arXiv 2603.02230, for the process; `absorbing_hybrid` has its clocks.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.processes import AbsorbingHybrid

    process = AbsorbingHybrid(vocab_size=5, mask_id=4, kept=(1 - nl.t) ** 0.2)
    masks, s, t = torch.tensor([[4]]), torch.tensor([0.3]), torch.tensor([0.6])
    assert (process.renoise(masks, s, t) == 4).all()
    ```
    """

    def __init__(self, *, vocab_size: int, mask_id: int, kept: ScheduleLike, unmasked: ScheduleLike = 1 - t):
        vocab_size = require_count("vocab_size", vocab_size, 2)
        mask_id = require_token("mask_id", mask_id, vocab_size)
        super().__init__(torch.arange(vocab_size) != mask_id)
        self.vocab_size, self.mask_id = vocab_size, mask_id
        self.kept, self.unmasked = as_schedule(kept), as_schedule(unmasked)
        self.validate()

    def shares(self, t: Elementwise) -> Float[Tensor, "*batch two"]:
        """The fraction of tokens that were never replaced, among those that are no masks, and the fraction of these."""
        return torch.stack([self.kept(t), self.unmasked(t)], -1).double()

    def alpha(self, t: Elementwise) -> Elementwise:
        """The probability that a token is neither replaced nor masked."""
        return self.shares(t).prod(-1)

    def mixing(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        """Every row is a uniform token or the mask, but that of the mask, which stays."""
        kept, unmasked = self.shares(t)[..., None, None].unbind(-3)
        is_mask = torch.arange(self.vocab_size, device=t.device) == self.mask_id
        noise = unmasked * (1 - kept) / (self.vocab_size - 1) * ~is_mask + (1 - unmasked) * is_mask
        noise = noise / noise.sum(-1, keepdim=True)
        return torch.where(is_mask[:, None], is_mask.to(noise), noise)

    # A column has one value for the token itself, one for all other tokens, and one for the mask.

    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        """The distribution of the noisy token: x, any token, or the mask."""
        x = self.as_law(x).double()
        return self._law(x, self.shares(as_token_times(t, x[..., 0])))

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        """The probability of the noisy token for each clean token."""
        return self._column(z, self.shares(as_token_times(t, z)))

    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        """The probability of z given x, without dense tensors."""
        kept, unmasked = self.shares(self.token_times(t, x, z)).unbind(-1)
        of_token = unmasked * (kept * (z == x) + (1 - kept) / (self.vocab_size - 1))
        from_mask, into_mask = x == self.mask_id, z == self.mask_id
        of_token = torch.where(into_mask, 1 - unmasked, of_token)
        return torch.where(from_mask, into_mask.to(of_token), of_token)

    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Three uniform numbers per token: whether it is replaced, by which token, and whether it is masked."""
        u = uniforms(*x.shape, 3, generator=generator, device=x.device)
        kept, unmasked = (u[..., :2] < self.shares(self.token_times(t, x))).unbind(-1)
        others = self.vocab_size - 1
        drawn = (u[..., 2] * others).long().clamp(max=others - 1)
        drawn = drawn + (drawn >= self.mask_id)  # all tokens but the mask
        return torch.where(unmasked & (x != self.mask_id), torch.where(kept, x, drawn), self.mask_id)

    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        """The forward transition into z, from each token."""
        before, after = map(self.shares, self.step_times(s, t, z))
        return self._column(z, after / before)

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""$-k_t'/k_t / (V - 1)$ from any token into another, $-u_t'/u_t$ from any token into the mask."""
        t = as_token_times(t, z)
        shares, slopes, *_ = torch.func.jvp(self.shares, (t,), (torch.ones_like(t),))
        moving, masking = (-slopes / shares)[..., None].unbind(-2)
        into_mask = (z == self.mask_id)[..., None]
        is_mask = torch.arange(self.vocab_size, device=z.device) == self.mask_id
        rate = torch.where(into_mask, masking, moving / (self.vocab_size - 1)) * ~is_mask
        return rate.scatter(-1, z[..., None], 0)

    def _law(self, x: Tensor, shares: Tensor) -> Tensor:
        kept, unmasked = shares[..., None].unbind(-2)
        is_mask = torch.arange(self.vocab_size, device=x.device) == self.mask_id
        words = torch.where(is_mask, 0, x)
        total = words.sum(-1, keepdim=True)
        moved = unmasked * (kept * words + (1 - kept) * total / (self.vocab_size - 1) * ~is_mask)
        return moved + ((1 - unmasked) * total + x[..., self.mask_id, None]) * is_mask

    def _column(self, z: Tensor, shares: Tensor) -> Tensor:
        kept, unmasked = shares[..., None].unbind(-2)
        tokens = torch.arange(self.vocab_size, device=z.device)
        is_mask, into_mask = tokens == self.mask_id, (z == self.mask_id)[..., None]
        between = unmasked * (kept * (tokens == z[..., None]) + (1 - kept) / (self.vocab_size - 1)) * ~is_mask
        return torch.where(into_mask, torch.where(is_mask, 1, 1 - unmasked), between)

    def __repr__(self) -> str:
        return f"AbsorbingHybrid({self.vocab_size} tokens, mask {self.mask_id}, kept {self.kept}, unmasked {self.unmasked})"


@family
def absorbing_hybrid(
    *, vocab_size: int, mask_id: int, p_uniform: float | int, gamma: float | int = 1.0, peak: float | int = 0.5
) -> AbsorbingHybrid:
    r"""Hybrid noise whose masks absorb, with a share of uniform tokens that has its maximum at a time of choice.

    $$c_t = B\, t^{\gamma p} (1 - t)^{\gamma (1 - p)}, \qquad
    \alpha_t = \frac{1 - t}{1 + c_t}, \quad \text{uniform: } \frac{c_t}{1 + c_t}, \quad \text{mask: } \frac{t}{1 + c_t},$$

    with p = `peak` and $B$ such that the share of uniform tokens is `p_uniform` at its maximum, at t = p.

    **Arguments:**

    - `vocab_size`: number of tokens, the mask included.
    - `mask_id`: the mask token, which data do not contain.
    - `p_uniform`: the largest share of uniform tokens, in (0, 1); without them it is `masked`.
    - `gamma`: positive, and at most 1 / (1 - peak): otherwise uniform tokens would have to become right again.
    - `peak`: the time of the largest share, in (0, 1).

    **Raises:** `ValueError` for arguments outside these ranges, or if masks would have to become tokens again, which is
    possible for `gamma * peak` above 1.

    **Source:** SCDD, arXiv 2603.02230, and its code, commit ce2cfc8; with gamma = 1 and peak = 1/2 the law of a noisy token is
    that of `gidd`.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.processes.absorbing_hybrid(vocab_size=5, mask_id=4, p_uniform=0.2)
    hybrid = nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)
    x, t = torch.tensor([[0, 1]]), torch.tensor([0.3])
    assert torch.allclose(process.marginal(x, t), hybrid.marginal(x, t))
    ```
    """
    p_uniform = require_number("p_uniform", p_uniform, 0, 1, above=True, below=True)
    gamma = require_number("gamma", gamma, 0, above=True)
    peak = require_number("peak", peak, 0, 1, above=True, below=True)
    if gamma * (1 - peak) > 1:
        raise ValueError(f"gamma must be at most 1 / (1 - peak) = {1 / (1 - peak):g}; got {gamma:g}")
    rise, fall = gamma * peak, gamma * (1 - peak)
    scale = p_uniform / (1 - p_uniform) / (peak**rise * (1 - peak) ** fall)
    c = scale * t**rise * (1 - t) ** fall
    moved = scale * t**rise * (1 - t) ** (fall - 1)  # c / (1 - t), which has a limit at t = 1
    return AbsorbingHybrid(vocab_size=vocab_size, mask_id=mask_id, kept=1 / (1 + moved), unmasked=1 - t / (1 + c))
