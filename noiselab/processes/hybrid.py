"""Masks and uniform tokens together: GIDD's hybrid noise."""

import torch

from ..mixing import Absorbing, Uniform
from ..process import Interpolation
from ..schedules import t


def gidd(*, vocab_size: int, mask_id: int, p_uniform: float | int, gamma: float | int = 1.0) -> Interpolation:
    r"""Hybrid noise of masking and uniform tokens.

    $$w_0 = 1 - t, \quad w_{mask} = t, \quad w_{uniform} = B\,(t(1-t))^{\gamma/2}, \quad B = 2^\gamma \frac{p_u}{1 - p_u}$$

    The share of uniform tokens peaks at t = 1/2, where it is `p_uniform`.

    **Arguments:**

    - `vocab_size`: number of tokens, the mask included.
    - `mask_id`: the mask token, which data do not contain.
    - `p_uniform`: in [0, 1); 0 is exactly masking.
    - `gamma`: in (0, 2]; beyond 2 the uniform noise would have to fall faster than a Markov process can.

    **Raises:** `ValueError` for arguments outside these ranges.

    **Source:** von Ruette et al. (2025), "Generalized Interpolating Discrete Diffusion", arXiv 2503.04482, section 3.

    **Example:**

    ```python
    import noiselab as nl

    assert repr(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)) == (
        "Interpolation(1 - t, {Absorbing(4): t, Uniform(4 of 5): 0.5 * (t * (1 - t)) ** 0.5})"
    )
    ```
    """
    if not 0 <= p_uniform < 1:
        raise ValueError(f"p_uniform must lie in [0, 1); got {p_uniform}")
    if not 0 < gamma <= 2:
        raise ValueError(f"gamma must lie in (0, 2]; got {gamma}")
    mask = Absorbing(mask_id, vocab_size)
    if p_uniform == 0:
        return Interpolation(1 - t, {mask: t})
    scale = 2**gamma * p_uniform / (1 - p_uniform)
    data = torch.arange(vocab_size) != mask_id
    return Interpolation(1 - t, {mask: t, Uniform(data): scale * (t * (1 - t)) ** (gamma / 2)})
