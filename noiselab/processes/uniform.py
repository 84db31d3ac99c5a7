"""Uniform noise."""

from collections.abc import Collection

from ..mixing import Uniform, support_without
from ..process import Interpolation
from ..schedules import ScheduleLike
from .families import family
from .signals import LINEAR, complement_of


@family
def uniform(*, vocab_size: int, special: Collection[int] = (), signal: ScheduleLike = LINEAR) -> Interpolation:
    r"""Uniform noise: $q_t(z \mid x) = \alpha_t\, 1[z = x] + (1 - \alpha_t) / N$, on the N tokens that are not special.

    **Arguments:**

    - `vocab_size`: number of tokens.
    - `special`: tokens that occur neither in data nor in noise, such as padding or a mask.
    - `signal`: $\alpha_t$, falling from 1 at t = 0 to 0 at t = 1.

    **Raises:** `ValueError` if special tokens are outside the vocabulary or make up all of it, or the signal does not
    fall from 1 to 0.

    **Source:** Austin et al. (2021), arXiv 2107.03006; Lou et al. (2024), arXiv 2310.16834; Schiff et al. (2024), "Simple
    Guidance Mechanisms for Discrete Diffusion Models" (UDLM), arXiv 2412.10193, section 4; Sahoo et al. (2025), "The
    Diffusion Duality" (Duo), arXiv 2506.10892.

    **Example:**

    ```python
    import noiselab as nl

    process = nl.uniform(vocab_size=6, special=[0, 5])
    assert repr(process) == "Interpolation(1 - t, {Uniform(4 of 6): t})"
    assert process.support.tolist() == [False, True, True, True, True, False]
    ```
    """
    if not special:
        return Interpolation(signal, {Uniform(vocab_size): complement_of(signal)})
    words = support_without(vocab_size, special)
    return Interpolation(signal, {Uniform(words): complement_of(signal)}, support=words)
