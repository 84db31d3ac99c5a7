"""Masking: all noise on one token that data do not contain."""

from ..mixing import Absorbing
from ..process import Interpolation
from ..schedules import t


def masked(*, vocab_size: int, mask_id: int) -> Interpolation:
    r"""Masking: $\alpha_t = 1 - t$, all noise on the mask token, which data do not contain.

    **Source:** Sahoo et al. (2024), "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524; Shi et al.
    (2024), "Simplified and Generalized Masked Diffusion for Discrete Data", arXiv 2406.04329.
    """
    return Interpolation(1 - t, {Absorbing(mask_id, vocab_size): t})
