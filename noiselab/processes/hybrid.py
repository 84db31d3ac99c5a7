"""GIDD's hybrid noise of masks and other tokens."""

from collections.abc import Callable

import torch

from ..mixing import Absorbing, Mixing, Uniform
from ..numerics import require_number
from ..process import Interpolation
from ..schedules import Schedule, t
from .families import family


@family
def gidd(*, vocab_size: int, mask_id: int, p_uniform: float | int, gamma: float | int = 1.0) -> Interpolation:
    r"""Hybrid noise of masking and uniform tokens.

    $$w_0 = 1 - t, \quad w_{mask} = t, \quad w_{uniform} = B\,(t(1-t))^{\gamma/2}, \quad B = 2^\gamma \frac{p_u}{1 - p_u}$$

    The fraction of uniform tokens has its maximum `p_uniform` at t = 1/2.

    **Arguments:**

    - `vocab_size`: number of tokens, the mask included.
    - `mask_id`: the mask token, which data do not contain.
    - `p_uniform`: the fraction of uniform tokens at t = 1/2, in [0, 1); 0 gives absorbing noise.
    - `gamma`: in (0, 2]; above 2 the uniform noise would have to decrease faster than is possible for a Markov process.

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
    mask = Absorbing(mask_id, vocab_size)
    return hybrid(mask, lambda: Uniform(torch.arange(vocab_size) != mask_id), p_uniform, gamma, "p_uniform")


def hybrid(
    mask: Absorbing, words: Callable[[], Mixing], share: float | int, gamma: float | int, name: str
) -> Interpolation:
    """GIDD's weights on a mask and on any noise `words()` with fraction `share` at t = 1/2; `name` is used in messages."""
    share = require_number(name, share, 0, 1, below=True)
    gamma = require_number("gamma", gamma, 0, 2, above=True)
    if share == 0:
        return Interpolation(1 - t, {mask: t})
    scale = 2**gamma * share / (1 - share)
    noise: dict[Mixing, Schedule] = {mask: t, words(): scale * (t * (1 - t)) ** (gamma / 2)}
    return Interpolation(1 - t, noise)


@family
def gidd_v1_0(*, vocab_size: int, mask_id: int, p_uniform: float | int, gamma: float | int = 1.0) -> Interpolation:
    r"""Hybrid noise as in release v1.0.0 of GIDD, with which the published checkpoints were trained.

    $$w_0 = (1-t)^\gamma - c_t, \quad w_{mask} = t^\gamma, \quad w_{uniform} = (V - 1)\, c_t, \quad
    c_t = B\,(t(1-t))^{\gamma/2}, \quad \frac1B = 1 + \frac{1 - p_u}{p_u} \frac{V}{2}$$

    It differs from the paper's process (`gidd`) by terms of order 1/V. Its signal is 0 slightly before t = 1, at
    $t = 1/(1 + B^{2/\gamma})$, where its domain ends.

    **Arguments:**

    - `vocab_size`: V, the number of tokens, the mask included.
    - `mask_id`: the mask token, which data do not contain.
    - `p_uniform`: in (0, 1).
    - `gamma`: positive.

    **Raises:** `ValueError` for arguments outside these ranges.

    **Source:** github.com/dvruette/gidd, release v1.0.0.

    **Example:**

    ```python
    import noiselab as nl

    process = nl.processes.gidd_v1_0(vocab_size=5, mask_id=4, p_uniform=0.2)
    assert 0.98 < process.domain[1] < 1
    ```
    """
    p_uniform = require_number("p_uniform", p_uniform, 0, 1, above=True, below=True)
    gamma = require_number("gamma", gamma, 0, above=True)
    mask, words = Absorbing(mask_id, vocab_size), torch.arange(vocab_size) != mask_id
    scale = 1 / (1 + (1 - p_uniform) / p_uniform * vocab_size / 2)
    c = scale * (t * (1 - t)) ** (gamma / 2)
    # Slightly earlier, so that rounding does not make the signal negative.
    end = (1 - 1e-9) / (1 + scale ** (2 / gamma))
    noises = {mask: t**gamma, Uniform(words): (vocab_size - 1) * c}
    return Interpolation((1 - t) ** gamma - c, noises, domain=(0.0, end))
