r"""Published signal schedules $\alpha_t$, each an expression in `t`: the probability that a token is unchanged.

Papers write them as $\alpha$, as total noise $\sigma$ with $\alpha = e^{-\sigma}$, as masking rate $1 - \alpha$, or as
log signal-to-noise ratio $\lambda$ with $\alpha = \mathrm{sigmoid}(\lambda)$. Here all are given as $\alpha$; the noise
weight `1 - alpha` has full relative precision even if alpha is near 1.
"""

from ..numerics import require_number
from .base import Constant, Schedule, ScheduleLike, t
from .functions import cos, exp, pi, sigmoid, sin


def linear() -> Schedule:
    r"""The linear schedule $\alpha_t = 1 - t$: `log_linear` without remaining signal.

    **Source:** Austin et al. (2021), arXiv 2107.03006, for masks (there as $1/(T - t + 1)$); Sahoo et al. (2024),
    arXiv 2406.07524; Shi et al. (2024), arXiv 2406.04329.

    **Example:**

    ```python
    import noiselab as nl

    assert repr(nl.schedules.linear()) == "1 - t"
    ```
    """
    return 1 - t


def log_linear(eps: float | int = 1e-3) -> Schedule:
    r"""The linear schedule with remaining signal: $\alpha_t = 1 - (1 - \epsilon) t$, $\sigma_t = -\log \alpha_t$.

    **Arguments:**

    - `eps`: signal left at t = 1, in [0, 1); 1e-3 as released. Processes do not accept more than 1e-3.

    **Raises:** `ValueError` for `eps` outside its range.

    **Source:** Lou et al. (2024), arXiv 2310.16834; Sahoo et al. (2024), arXiv 2406.07524.

    **Example:**

    ```python
    import noiselab as nl

    assert repr(nl.schedules.log_linear()) == "1 - (1 - 0.001) * t"
    ```
    """
    return 1 - (1 - Constant(eps)) * t if _rest(eps) else linear()


def cosine(eps: float | int = 0.0) -> Schedule:
    r"""A quarter of a cosine, $\alpha_t = \epsilon + (1 - \epsilon) \cos(\pi t / 2)$: slow at first, noise grows as t squared.

    **Arguments:**

    - `eps`: signal left at t = 1, in [0, 1); MDLM's release has 1e-3.

    **Raises:** `ValueError` for `eps` outside its range.

    **Source:** Sahoo et al. (2024), "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524,
    and its release (`CosineNoise`).

    **Example:**

    ```python
    import noiselab as nl

    assert repr(nl.schedules.cosine()) == "cos(pi / 2 * t)"
    ```
    """
    return _with_rest(cos(pi / 2 * t), eps)


def cosine_squared(eps: float | int = 0.0) -> Schedule:
    r"""The squared cosine, $\alpha_t = \epsilon + (1 - \epsilon) \cos^2(\pi t / 2)$: flat at both ends.

    **Arguments:**

    - `eps`: signal left at t = 1, in [0, 1); MDLM's release has 1e-3.

    **Raises:** `ValueError` for `eps` outside its range.

    **Source:** Nichol and Dhariwal (2021), arXiv 2102.09672, for Gaussian noise; Sahoo et al. (2024), arXiv 2406.07524,
    and its release (`CosineSqrNoise`).
    """
    return _with_rest(cos(pi / 2 * t) ** 2, eps)


def cosine_md4() -> Schedule:
    r"""MD4's cosine, $\alpha_t = 1 - \cos(\frac{\pi}{2}(1 - t)) = 1 - \sin(\pi t / 2)$: fast at first, slow at the end.

    Written with the sine, because near t = 0 the cosine of almost pi / 2 loses precision.

    **Source:** Shi et al. (2024), "Simplified and Generalized Masked Diffusion for Discrete Data", arXiv 2406.04329;
    the masking rate is that of Chang et al. (2022), MaskGIT, arXiv 2202.04200.
    """
    return 1 - sin(pi / 2 * t)


def polynomial(power: float | int) -> Schedule:
    r"""The polynomial schedule: the noise weight is a power of time, $\alpha_t = 1 - t^p$.

    **Arguments:**

    - `power`: positive; 1 is `linear`.

    **Raises:** `ValueError` unless `power` is positive.

    **Source:** Shi et al. (2024), arXiv 2406.04329.
    """
    return 1 - t ** require_number("power", power, 0, above=True)


def geometric(sigma_min: float | int = 1e-4, sigma_max: float | int = 20.0) -> Schedule:
    r"""The geometric schedule of total noise: $\alpha_t = \exp(-\sigma_{min}^{1 - t}\, \sigma_{max}^t)$.

    It starts at $e^{-\sigma_{min}}$ and ends at $e^{-\sigma_{max}}$, not exactly at 1 and 0. Processes require ends
    within 1e-3 of 1 and 0, hence `sigma_min` of at most 1e-3 and `sigma_max` of at least 7.

    **Arguments:**

    - `sigma_min`, `sigma_max`: 0 < sigma_min < sigma_max; 1e-4 and 20 as in SEDD's settings.

    **Raises:** `ValueError` if they are not in this order.

    **Source:** Lou et al. (2024), "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
    arXiv 2310.16834, and its release.
    """
    require_number("sigma_min", sigma_min)
    require_number("sigma_max", sigma_max)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"0 < sigma_min < sigma_max must hold; got {sigma_min} and {sigma_max}")
    return exp(-(sigma_min ** (1 - t) * sigma_max**t))


def from_log_snr(log_snr: ScheduleLike) -> Schedule:
    r"""The signal of a log signal-to-noise ratio, $\alpha_t = \mathrm{sigmoid}(\lambda_t)$.

    `1 - alpha` is computed as $\mathrm{sigmoid}(-\lambda_t)$, so that neither weight loses precision at any ratio. In a
    mixture, use the weights `alpha` and `1 - alpha`.

    **Arguments:**

    - `log_snr`: $\lambda_t$, decreasing; for a process from at least 6.91 to at most -6.91, so that alpha is within
      1e-3 of 1 and 0. Von Ruette et al. (2025) use 9 to -9.

    **Source:** Kingma et al. (2021), "Variational Diffusion Models", arXiv 2107.00630; for tokens von Ruette et al.
    (2025), "Scaling Behavior of Discrete Diffusion Language Models", arXiv 2512.10858.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab import t

    alpha = nl.schedules.from_log_snr(9 - 18 * t)
    process = nl.Interpolation(alpha, {nl.Absorbing(4, 5): 1 - alpha})
    assert repr(process) == "Interpolation(sigmoid(9 - 18 * t), {Absorbing(4): 1 - sigmoid(9 - 18 * t)})"
    ```
    """
    return sigmoid(log_snr)


def _rest(eps: float | int) -> float | int:
    return require_number("eps, the signal left at t = 1,", eps, 0, 1, below=True)


def _with_rest(alpha: Schedule, eps: float | int) -> Schedule:
    # eps + (1 - eps) alpha, written so that the noise weight keeps its precision.
    return alpha if _rest(eps) == 0 else 1 - (1 - Constant(eps)) * (1 - alpha)
