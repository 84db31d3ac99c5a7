"""Masking with a separate, possibly learned rate for each class of tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..categorical import Randomness, uniforms
from ..numerics import require_tensor, require_token
from ..process import TokenDependentProcess, as_token_times
from ..typing import Elementwise, ElementwiseProbs, PerToken, Probs, Times, Tokens


class TokenRates(TokenDependentProcess):
    r"""Masking whose signal depends on the token: $\alpha_t(x) = 1 - t^{w_x}$.

    Tokens with large $w$ are masked later, so that they are generated first in the reverse process. An unmasked token
    carries no information about others, but a mask does: tokens that are masked early are more likely at that position.

    $$\text{bound} = \sum_y \frac{-\alpha_t'(y)}{1 - \alpha_t(y)}
    \big( \mu_y - 1[y = x] - 1[y = x] \log \mu_y \big) \text{ at a mask, with } \mu = p(x \mid z)$$

    **Arguments:**

    - `powers`: the exponents $w$, positive, one for each class of tokens.
    - `mask_id`: the mask token, which data do not contain.
    - `classes`: the class of each token; by default every token is its own class.
    - `learned`: whether the exponents are parameters; train them with `learned_nelbo`.

    **Raises:** `ValueError` if exponents are not positive, or classes are out of range.

    **Source:** Shi et al. (2024), "Simplified and Generalized Masked Diffusion for Discrete Data", arXiv 2406.04329,
    section 6 (GenMD4).

    **Example:**

    ```python
    import torch
    from noiselab.processes import TokenRates

    process = TokenRates(torch.tensor([1.0, 2.0, 4.0, 1.0]), mask_id=3)
    z = process.corrupt(torch.tensor([[0, 1, 2]]), torch.tensor([0.5]))
    ```
    """

    log_powers: Tensor
    classes: Tensor

    def __init__(
        self,
        powers: Float[Tensor, " classes"],
        *,
        mask_id: int,
        classes: Int[Tensor, " state"] | None = None,
        learned: bool = False,
    ):
        powers = require_tensor("powers", powers, "class")
        classes = torch.arange(len(powers), device=powers.device) if classes is None else classes
        classes = require_tensor("classes", classes, "state", ids=True)
        if not (powers > 0).all():
            raise ValueError(
                f"powers must be positive and finite; got {powers.min().item():g} to {powers.max().item():g}"
            )
        if classes.min() < 0 or classes.max() >= len(powers):
            raise ValueError(f"classes must lie in [0, {len(powers)}); got {classes.min()} to {classes.max()}")
        mask_id = require_token("mask_id", mask_id, len(classes))
        super().__init__(torch.arange(len(classes), device=classes.device) != mask_id)
        self.vocab_size, self.mask_id = len(classes), mask_id
        log_powers = powers.detach().double().log()
        if learned:
            self.log_powers = nn.Parameter(log_powers)
        else:
            self.register_buffer("log_powers", log_powers)
        self.register_buffer("classes", classes.clone())
        self.validate()

    def masked_share(self, t: Elementwise) -> ElementwiseProbs:
        r"""$1 - \alpha_t(v) = t^{w_v}$ for each token v."""
        return t[..., None] ** self.log_powers.exp()[self.classes]

    def alpha(self, t: Elementwise) -> ElementwiseProbs:
        """The signal of each token."""
        return 1 - self.masked_share(t)

    def mixing(self, t: Elementwise) -> Float[Tensor, "*batch state state"]:
        """Every row is the mask."""
        mask = torch.arange(self.vocab_size, device=t.device) == self.mask_id
        return mask.to(t).expand(*t.shape, self.vocab_size, -1)

    # The matrices have entries only on the diagonal and in the column of the mask.

    def marginal(self, x: Tokens | Probs, t: Times) -> Probs:
        """The distribution of the noisy token: x with its signal, or the mask."""
        x = self.as_law(x)
        share = self.masked_share(as_token_times(t, x[..., 0]))
        masked = (x.double() * share).sum(-1, keepdim=True)
        return x * (1 - share) + masked * (torch.arange(self.vocab_size, device=x.device) == self.mask_id)

    def likelihood(self, z: Tokens, t: Times) -> Probs:
        """The probability of the noisy token for each clean token."""
        return self._column(z, self.masked_share(as_token_times(t, z)))

    def probability(self, x: Tokens, z: Tokens, t: Times) -> PerToken:
        """The probability of z given x, without dense tensors for per-token times."""
        share = as_token_times(t, z).expand(z.shape) ** self.log_powers.exp()[self.classes[x]]
        return (1 - share) * (z == x) + share * (z == self.mask_id)

    def corrupt(self, x: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Mask a token if a uniform number is below its masking probability."""
        u = uniforms(*x.shape, generator=generator, device=x.device)
        share = self.token_times(t, x) ** self.log_powers.exp()[self.classes[x]]
        return torch.where(u < share, self.mask_id, x)

    def transition(self, z: Tokens, s: Times, t: Times) -> Probs:
        """The forward transition into z, from each token."""
        before, after = map(self.masked_share, self.step_times(s, t, z))
        return self._column(z, (after - before) / (1 - before))

    def rate(self, z: Tokens, t: Times) -> Probs:
        r"""$-\alpha_t'(y) / \alpha_t(y)$ from y into the mask, 0 into any other token."""
        t = as_token_times(t, z)
        share, slope, *_ = torch.func.jvp(self.masked_share, (t,), (torch.ones_like(t),))
        tokens = torch.arange(self.vocab_size, device=z.device)
        into_mask = (z == self.mask_id)[..., None] & (tokens != self.mask_id)
        return torch.where(into_mask, slope / (1 - share), 0)

    def _column(self, z: Tensor, share: Tensor) -> Tensor:
        """Keep a token with probability 1 - share, otherwise mask it; masks do not change."""
        tokens = torch.arange(self.vocab_size, device=z.device)
        masked = torch.where(tokens == self.mask_id, 1, share)
        kept = torch.where(tokens == z[..., None], 1 - share, 0)
        return torch.where((z == self.mask_id)[..., None], masked, kept)

    def __repr__(self) -> str:
        powers = self.log_powers.detach().exp()
        kind = "learned powers" if isinstance(self.log_powers, nn.Parameter) else "powers"
        return f"TokenRates({self.vocab_size} tokens, {kind} {powers.min().item():.3g} to {powers.max().item():.3g})"
