"""Unigram noise (token frequencies of a corpus), alone or combined with masks."""

from ..mixing import Absorbing, Unigram
from ..numerics import require_tensor
from ..process import Interpolation
from ..schedules import ScheduleLike
from ..typing import TokenProbs, TokenSet
from .families import family
from .hybrid import hybrid
from .signals import LINEAR, complement_of


@family
def unigram(
    frequencies: TokenProbs, *, signal: ScheduleLike = LINEAR, support: TokenSet | None = None
) -> Interpolation:
    r"""Unigram noise: $q_t(z \mid x) = \alpha_t\, 1[z = x] + (1 - \alpha_t)\, f_z$.

    **Arguments:**

    - `frequencies`: f, a distribution over the tokens.
    - `signal`: $\alpha_t$, falling from 1 at t = 0 to 0 at t = 1.
    - `support`: the tokens that occur in data; `None` for all of them.

    **Raises:** `ValueError` if the frequencies are not a distribution, or the signal does not fall from 1 to 0.

    **Source:** Vignac et al. (2023), "DiGress", arXiv 2209.14734, section 4, where noise from the marginals of the data
    is in discrete time.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.unigram(torch.tensor([0.6, 0.3, 0.1]))
    assert repr(process) == "Interpolation(1 - t, {Unigram(3): t})"
    ```
    """
    return Interpolation(signal, {Unigram(frequencies): complement_of(signal)}, support=support)


@family
def mask_and_unigram(
    frequencies: TokenProbs, *, mask_id: int, p_unigram: float | int, gamma: float | int = 1.0
) -> Interpolation:
    r"""GIDD's hybrid noise (`gidd`) with token frequencies in place of the uniform distribution.

    $$w_0 = 1 - t, \quad w_{mask} = t, \quad w_f = B\,(t(1-t))^{\gamma/2}, \quad B = 2^\gamma \frac{p_f}{1 - p_f}$$

    **Arguments:**

    - `frequencies`: f, a distribution over the tokens, 0 at the mask.
    - `mask_id`: the mask token, which data do not contain.
    - `p_unigram`: the fraction of unigram tokens at t = 1/2, in [0, 1).
    - `gamma`: in (0, 2].

    **Raises:** `ValueError` for arguments outside these ranges.

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 3, for the weights and for any mixing distribution.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.processes.mask_and_unigram(torch.tensor([0.6, 0.4, 0.0]), mask_id=2, p_unigram=0.2)
    assert "Unigram(3): 0.5 * (t * (1 - t)) ** 0.5" in repr(process)
    ```
    """
    mask = Absorbing(mask_id, len(require_tensor("frequencies", frequencies, "state")))
    if frequencies[mask_id] != 0:
        raise ValueError(f"the mask must have frequency 0; got {frequencies[mask_id].item():g}")
    return hybrid(mask, lambda: Unigram(frequencies), p_unigram, gamma, "p_unigram")
