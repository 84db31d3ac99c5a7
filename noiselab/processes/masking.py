"""Masking (absorbing noise): all noise is on one token that does not occur in data."""

from ..mixing import Absorbing
from ..process import Interpolation
from ..schedules import ScheduleLike
from .families import family
from .signals import LINEAR, complement_of


@family
def masked(*, vocab_size: int, mask_id: int, signal: ScheduleLike = LINEAR) -> Interpolation:
    r"""Masking: $q_t(z \mid x) = \alpha_t\, 1[z = x] + (1 - \alpha_t)\, 1[z = mask]$, with any signal.

    **Arguments:**

    - `vocab_size`: number of tokens, the mask included.
    - `mask_id`: the mask token, which data do not contain.
    - `signal`: $\alpha_t$, falling from 1 at t = 0 to 0 at t = 1.

    **Raises:** `ValueError` for a mask outside the vocabulary, or a signal that does not fall from 1 to 0.

    **Source:** Sahoo et al. (2024), "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524, equation
    10; Shi et al. (2024), "Simplified and Generalized Masked Diffusion for Discrete Data", arXiv 2406.04329, equation 5.
    For the score entropy of this noise, Lou et al. (2024), arXiv 2310.16834.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab import t

    process = nl.masked(vocab_size=5, mask_id=4, signal=1 - t**2)
    assert repr(process) == "Interpolation(1 - t ** 2, {Absorbing(4): 1 - (1 - t ** 2)})"
    ```
    """
    return Interpolation(signal, {Absorbing(mask_id, vocab_size): complement_of(signal)})
