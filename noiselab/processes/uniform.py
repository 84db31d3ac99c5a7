"""Noise that is uniform over tokens."""

from ..mixing import Uniform
from ..process import Interpolation
from ..schedules import t


def uniform(*, vocab_size: int) -> Interpolation:
    r"""Uniform noise: $\alpha_t = 1 - t$, noise uniform over all tokens.

    **Source:** Austin et al. (2021), arXiv 2107.03006; Lou et al. (2024), arXiv 2310.16834; Schiff et al. (2024),
    arXiv 2412.10193.
    """
    return Interpolation(1 - t, {Uniform(vocab_size): t})
