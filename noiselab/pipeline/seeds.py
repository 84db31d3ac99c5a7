"""Random numbers of texts: one generator for all, or one for each from seeds."""

from collections.abc import Sequence

import torch

from ..categorical import Randomness
from ..data.reading import derive_seed
from ..distributed import Processes
from ..numerics import require_count

LARGEST_SEED = 2**64 - 1


def text_generators(seed: int, count: int) -> list[torch.Generator]:
    """One generator for each text, derived from the seed and the index of the text: it does not depend on the batch.

    **Arguments:**

    - `seed`: any integer.
    - `count`: the number of texts.
    """
    return [torch.Generator().manual_seed(derive_seed(seed, index)) for index in range(count)]


def text_randomness(
    generator: Randomness,
    seed: int | None,
    seeds: Sequence[int] | None,
    count: int,
    processes: Processes | None = None,
) -> Randomness:
    """The source of randomness of `count` texts, of which at most one way is given.

    **Arguments:**

    - `generator`: one generator, or one for each text.
    - `seed`: an integer; text i has a generator derived from (seed, i).
    - `seeds`: one integer for each text.
    - `processes`: those that divide the texts among them, which needs one generator for each text.

    **Raises:** `ValueError` if more than one is given, the number of generators or seeds is not `count`, a seed is not an
    integer in range, or processes would share one generator.
    """
    given = [name for name, value in (("generator", generator), ("seed", seed), ("seeds", seeds)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"at most one of generator, seed and seeds must be given; got {' and '.join(given)}")
    if seed is not None:
        return text_generators(require_count("seed", seed, 0, LARGEST_SEED), count)
    if seeds is not None:
        if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence):
            raise ValueError(f"seeds must be a list of one integer for each text; got {seeds!r}")
        if len(seeds) != count:
            raise ValueError(f"seeds must be one integer for each of {count} texts; got {len(seeds)}")
        each = [require_count(f"seeds[{index}]", one, 0, LARGEST_SEED) for index, one in enumerate(seeds)]
        return [torch.Generator().manual_seed(one) for one in each]
    if isinstance(generator, Sequence) and len(generator) != count:
        raise ValueError(f"one generator for each of {count} texts is needed; got {len(generator)}")
    if processes is not None and not isinstance(generator, Sequence):
        raise ValueError(
            "several processes need seed, seeds or a generator for each text, or the texts would depend on their number; got "
            + ("none" if generator is None else "one generator")
        )
    return generator
