"""Hybrid noise of masks and uniform tokens, parametrised by the log signal-to-noise ratio."""

import math
from collections.abc import Sequence

import torch

from ..mixing import Absorbing, Uniform
from ..numerics import require_number
from ..process import Interpolation
from ..schedules import from_log_snr, sigmoid, t
from .families import family


@family
def log_snr_hybrid(
    *,
    vocab_size: int,
    mask_id: int,
    scale: float | int = 1.0,
    shift: float | int = 0.0,
    log_snr: Sequence[float | int] = (-9.0, 9.0),
) -> Interpolation:
    r"""Hybrid noise of masking and uniform tokens, parametrised by the log signal-to-noise ratio $\lambda$.

    $$q_\lambda = \sigma(\lambda)\, x + \sigma(-\lambda)\, \pi_\lambda, \qquad
    \pi_\lambda = \sigma(a\lambda + b)\, u + \sigma(-a\lambda - b)\, m, \qquad
    \lambda_t = \lambda_{max} - (\lambda_{max} - \lambda_{min})\, t$$

    With a > 0 tokens are first replaced by others and later masked. As $\lambda$ decreases, each noise must grow
    relative to the signal: this is a Markov process if and only if
    $|a|\, \sigma(-\mathrm{sgn}(a)(a \lambda_{min} + b)) \le 1$, hence for every $|a| \le 1$. A little noise or signal
    remains at the ends: the bound needs `reconstruction` at t = 0 and `prior_kl` at t = 1.

    **Arguments:**

    - `vocab_size`: number of tokens, the mask included.
    - `mask_id`: the mask token, which data do not contain.
    - `scale`: a, the slope of the transition from uniform noise to masks.
    - `shift`: b, the position of the transition; 1000 and -1000 give purely uniform and purely absorbing noise, as
      released.
    - `log_snr`: $\lambda_{min}$ and $\lambda_{max}$, in nats; at least 7 away from 0, so that t = 0 is clean and t = 1 noise.

    **Raises:** `ValueError` if the range or scale does not define a process.

    **Source:** von Ruette et al. (2025), "Scaling Behavior of Discrete Diffusion Language Models", arXiv 2512.10858;
    github.com/dvruette/gidd-easydel. The condition on the scale is derived on the page of this family.

    **Example:**

    ```python
    import noiselab as nl

    process = nl.processes.log_snr_hybrid(vocab_size=5, mask_id=4, shift=2)
    assert repr(process.signal) == "sigmoid(9 - 18 * t)"
    ```
    """
    if not isinstance(log_snr, Sequence) or len(log_snr) != 2:
        raise ValueError(f"log_snr must be two numbers; got {log_snr}")
    low, high = (require_number("log_snr", end) for end in log_snr)
    scale, shift = require_number("scale", scale), require_number("shift", shift)
    if not low < 0 < high:
        raise ValueError(f"log_snr must be a negative and a positive number, in this order; got {log_snr}")
    sign = math.copysign(1, scale)
    steepest = abs(scale) * torch.sigmoid(torch.tensor(-sign * (scale * low + shift), dtype=torch.float64)).item()
    if not steepest <= 1:
        shrinking = "uniform noise" if scale > 0 else "masking"
        raise ValueError(
            f"scale must leave a Markov process, |scale| sigmoid(-sign(scale) (scale log_snr_min + shift)) <= 1, or "
            f"{shrinking} would have to shrink faster than tokens are corrupted; got {steepest:.6g} for scale "
            f"{scale:g}, shift {shift:g}"
        )
    snr = high - (high - low) * t
    inner = snr if scale == 1 else scale * snr
    alpha, share = from_log_snr(snr), sigmoid(inner + shift if shift else inner)
    mask, words = Absorbing(mask_id, vocab_size), Uniform(torch.arange(vocab_size) != mask_id)
    return Interpolation(alpha, {mask: (1 - alpha) * (1 - share), words: (1 - alpha) * share})
