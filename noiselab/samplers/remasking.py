r"""ReMDM for any noise: steps that also add noise and keep the correct marginals.

For any clean x, a mixture of the reverse transition and of new noise also has the marginal $q_s(\cdot \mid x)$:

$$\kappa\, q(z_s \mid z_t, x) + (1 - \kappa)\, q_s(z_s \mid x)$$

With a prediction for x this is a three-way choice with masses that are linear in x_hat_z (`three_way.py`).
"""

from typing import ClassVar, Literal, get_args

import torch

from ..categorical import Randomness, uniforms
from ..denoisers import Denoiser
from ..numerics import UNIFORMS_PER_MOVE, require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.three_way import Move
from ..typing import PerToken, Times, Tokens, TokenTimes, Variants
from .base import Sampler

Remasking = Literal["cap", "rescale", "confidence"]


class RemaskingSampler(Sampler):
    r"""ReMDM for any noise: with some probability a token becomes noise again and is then predicted again.

    Each token takes its reverse transition with probability $\kappa$; otherwise it is drawn from $q_s(\cdot \mid x)$,
    with x from its posterior. For absorbing noise this is the published family with the remasking probability
    $\sigma = (1 - \kappa)(1 - \alpha_s)$, of at most $\sigma_{max} = \min(1, (1 - \alpha_s) / \alpha_t)$:

    | `schedule` | $\sigma$ |
    | --- | --- |
    | "cap" | $\min(\eta, \sigma_{max})$ |
    | "rescale" | $\eta\, \sigma_{max}$ |
    | "confidence" | $\eta\, \sigma_{max}$ times softmax$(-p)$ over the sequence's visible tokens, where p is x_hat of the current token |

    For noise on data tokens, $\kappa$ is limited to 0, at which all tokens are resampled, and "confidence" weighs all
    tokens. Tokens resampled in the same step do not condition on each other, however short the step. With the exact
    denoiser an error therefore remains that grows with `amount`; the distribution of N steps converges to that of the
    data only if `amount` decreases as 1/N.

    **Arguments:**

    - `process`: a process with state-independent corruption.
    - `denoiser`: a denoiser of any prediction type.
    - `schedule`: see the table.
    - `amount`: $\eta$ in [0, 1]; 0 is the ancestral sampler.
    - `between`: times (low, high): tokens are remasked only in steps that start in this range ("switch").

    **Raises:** `ValueError` for invalid settings, or state-dependent corruption.

    **Source:** Wang et al. (2025), ReMDM, arXiv 2503.00307, sections 3 and 4; for other noise Deschenaux et al. (2026),
    arXiv 2602.21185. The published "confidence" is that of the step in which a token was drawn; here it is that of the
    current prediction. The loop is `RemaskingCorrector`.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    x = nl.samplers.RemaskingSampler(process, oracle, "cap", amount=0.05).sample((4, 8), steps=64)
    assert (x < 2).all()
    ```
    """  # noqa: E501

    process: InterpolatingProcess
    takes = InterpolatingProcess
    variants: ClassVar[Variants] = {"remasking": {"schedule": "cap", "amount": 0.05}}
    known_as = "ReMDM"
    law = "a bias that grows with `amount`"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        schedule: Remasking = "cap",
        *,
        amount: float | int = 0.02,
        between: tuple[float | int, float | int] = (0, 1),
    ):
        super().__init__(process, denoiser)
        if schedule not in get_args(Remasking):
            raise ValueError(f"schedule must be one of {get_args(Remasking)}; got {schedule!r}")
        if len(between) != 2 or not between[0] <= between[1]:
            raise ValueError(f"between must be (low, high); got {between}")
        self.schedule, self.amount, self.between = schedule, require_number("amount", amount, 0, 1), between
        self.converges = amount == 0

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """One step; for "confidence" the network is evaluated at all tokens that are not noise, otherwise only where
        tokens may move.
        """
        process = self.process
        u = uniforms(*z.shape, UNIFORMS_PER_MOVE, generator=generator, device=z.device)
        s, t = as_token_times(s, z), as_token_times(t, z)
        kappa = self.keeping(z, s, t)
        plan = remasking_move(process, z, s, t, kappa).plan(process, z, u)
        return plan.apply(self.denoiser, z, t)

    def keeping(self, z: Tokens, s: TokenTimes, t: TokenTimes) -> PerToken:
        r"""The weight $\kappa$ of the reverse transition for each token, at token times."""
        process = self.process
        a_t = process.alpha(t).double()
        noisy = process.noise(s).total()
        largest = torch.where(a_t > 0, noisy / torch.where(a_t > 0, a_t, 1), 1).clamp(max=1)
        sigma = largest.clamp(max=self.amount) if self.schedule == "cap" else self.amount * largest
        sigma = sigma.expand(z.shape)
        if self.schedule == "confidence":
            sigma = sigma * self.doubt(z, s, t)
        low, high = self.between
        active = (t >= low) & (t <= high) & (s < t)
        kappa = torch.where(active & (noisy > 0), 1 - sigma / torch.where(noisy > 0, noisy, 1), 1)
        return torch.maximum(kappa, self.least(z, s, t))

    def least(self, z: Tokens, s: TokenTimes, t: TokenTimes) -> PerToken:
        r"""The smallest $\kappa$ that gives a distribution: below 0 if the noise can only be the current token, or
        there is none.
        """
        process = self.process
        keep, fresh = process.factored_transition(z, s, t)
        noise = process.noise(t)
        b, total = noise.at(z).expand(z.shape), noise.total()
        alone = (b >= total * (1 - 1e-12)) & ~process.data_tokens(z.device)[z]
        seen = b == 0
        # kappa (keep + fresh) / q_t(z | x) + 1 - kappa >= 0 at the token that is there.
        ratio = torch.where(seen, keep / process.alpha(t), (keep + fresh) / torch.where(seen, 1, b))
        return torch.where(alone | seen, -1 / (ratio - 1).clamp(min=1e-12), 0)

    def doubt(self, z: Tokens, s: TokenTimes, t: TokenTimes) -> PerToken:
        """Softmax of minus x_hat at the visible tokens of each sequence, 0 at tokens that are noise or do not move."""
        rows = self.process.data_tokens(z.device)[z] & (s < t)
        if not rows.any():
            return torch.zeros(z.shape, dtype=torch.float64, device=z.device)
        logits = self.process.on_support(self.denoiser(z, t, rows).double())
        believed = logits.softmax(-1).gather(-1, z[rows][:, None])[:, 0]
        score = torch.full(z.shape, -torch.inf, dtype=torch.float64, device=z.device).masked_scatter(rows, -believed)
        return score.softmax(-1).nan_to_num(0)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.schedule}, amount={self.amount:g}"


def remasking_move(process: InterpolatingProcess, z: Tokens, s: Times, t: Times, kappa: PerToken) -> Move:
    r"""The masses of $\kappa\, q(z_s \mid z_t, \hat x) + (1 - \kappa)\, E\, q_s(z_s \mid x)$, x from the posterior.

    They sum to $q_t(z_t \mid \hat x)$ = b_t + a_t x_hat_z:

        x_hat    a_s (kappa fresh + (1 - kappa) b_t)
        noise    (1 - a_s) (kappa fresh + (1 - kappa) (b_t + a_t x_hat_z))
        stay     kappa keep b_s + (kappa keep a_s + (1 - kappa) a_s a_t) x_hat_z

    For kappa < 0 (absorbing noise on one token), the token drawn from noise and the one that stays are the same, and
    their masses are combined.
    """
    s, t = as_token_times(s, z), as_token_times(t, z)
    a_s, b_s = process.alpha(s).double(), process.noise(s)
    a_t, b_t = process.alpha(t).double(), process.noise(t).at(z)
    keep, fresh = process.factored_transition(z, s, t)
    noisy, rest = b_s.total(), 1 - kappa
    noise = noisy * (kappa * fresh + rest * b_t)
    stay = kappa * keep * b_s.at(z)
    together, seen = stay < 0, b_t == 0
    # x_hat_z is 1 for tokens known to be clean.
    return Move(
        data=a_s * (kappa * fresh + rest * b_t),
        noise=torch.where(seen, rest * noisy, torch.where(together, 0, noise)),
        stay=torch.where(seen, kappa + rest * a_s, torch.where(together, noise + stay, stay)).clamp(min=0),
        stay_slope=torch.where(seen, 0, kappa * keep * a_s + rest * a_s * a_t),
        draw=b_s.choose,
        noise_slope=torch.where(seen, 0, rest * noisy * a_t),
    )
