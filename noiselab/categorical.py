"""The only place that draws tokens: inverse CDF in float64, one uniform number per draw.

One uniform per draw, and not one Gumbel variable per token, makes the randomness independent of how the work is done:
dense or factored, all rows or a few, batched or one by one, the same generator gives the same tokens.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from .typing import Elementwise, ElementwiseProbs, PerToken, RowTokens, Selection, Tokens

Randomness: TypeAlias = Generator | Sequence[Generator] | None
"""One generator for the whole batch, one for each sequence of the batch, or torch's global one."""

BLOCK = 256  # tokens in one block of the two-level sum in `choose`
BELOW_ONE = 1 - 2**-52  # a normal number times this is a smaller one


class TokenGenerators(list[Generator]):
    """One generator for each sequence of a padded batch, which draws numbers for the real tokens only.

    Wherever a generator for each sequence is taken, these give a sequence the numbers that it gets alone, however long the
    padding behind it.

    **Arguments:**

    - `generators`: one for each sequence, all on one device.
    - `rows`: the mask of the tokens that get numbers; others get 0.

    **Raises:** `ValueError` unless there is one generator for each sequence.

    **Example:**

    ```python
    import torch
    from noiselab.categorical import TokenGenerators, uniforms

    real = torch.tensor([[True, True, False, False]])
    padded = uniforms(1, 4, generator=TokenGenerators([torch.Generator().manual_seed(0)], real))
    assert torch.equal(padded[:, :2], uniforms(1, 2, generator=[torch.Generator().manual_seed(0)]))
    ```
    """

    def __init__(self, generators: Sequence[Generator], rows: Selection):
        super().__init__(generators)
        if rows.dim() != 2 or len(rows) != len(self):
            raise ValueError(f"one generator for each of {len(rows)} sequences is needed; got {len(self)}")
        self.rows = rows.to(self[0].device if self else rows.device)

    def draw(self, length: int, *rest: int, device: torch.device | str | None = None) -> Float[Tensor, "batch ..."]:
        """Uniform numbers of the shape [batch, length, rest], for whole sequences or their beginnings."""
        if length > self.rows.shape[1]:
            raise ValueError(f"there must be at most {self.rows.shape[1]} tokens, as in `rows`; got {length}")
        rows = self.rows[:, :length]
        drawn = [
            torch.rand((n, *rest), generator=g, dtype=torch.float64, device=g.device)
            for n, g in zip(rows.sum(-1).tolist(), self, strict=True)
        ]
        u = torch.zeros(*rows.shape, *rest, dtype=torch.float64, device=rows.device)
        u[rows] = torch.cat(drawn)
        return u.to(device or rows.device)

    def selected(self, index: Int[Tensor, " selected"]) -> "TokenGenerators":
        """Those of some sequences."""
        return TokenGenerators([self[i] for i in index.tolist()], self.rows[index.to(self.rows.device)])


def uniforms(
    batch: int, *rest: int, generator: Randomness = None, device: torch.device | str | None = None
) -> Float[Tensor, "batch ..."]:
    """Uniform float64 numbers in [0, 1), from which every draw in the library is made.

    **Arguments:**

    - `batch`, `rest`: the shape of the result.
    - `generator`: one generator, or a sequence of `batch` generators. With one for each sequence, a
      sequence gets the same numbers alone and in any batch.
    - `device`: the device of the result; the numbers are drawn on the device of the generator.

    **Raises:** `ValueError` if the number of generators is not `batch`, or `generator` is of another type.
    """
    if isinstance(generator, Sequence):
        if len(generator) != batch:
            raise ValueError(f"one generator for each of {batch} sequences is needed; got {len(generator)}")
        if not generator:
            return torch.empty(batch, *rest, dtype=torch.float64, device=device)
        if isinstance(generator, TokenGenerators):
            return generator.draw(*rest, device=device)
        return torch.cat([uniforms(1, *rest, generator=g, device=device) for g in generator])
    if generator is not None and not isinstance(generator, Generator):
        raise ValueError(f"generator must be a torch.Generator, or one for each sequence; got {generator!r}")
    home = device if generator is None else generator.device
    return torch.rand((batch, *rest), generator=generator, dtype=torch.float64, device=home).to(device or home)


def uniforms_at(rows: Selection, *, generator: Randomness = None, device: torch.device | str | None = None) -> PerToken:
    """Uniform numbers for the selected tokens, 0 at the others.

    With a generator for each sequence, a sequence draws one number for each of its selected tokens. It therefore gets the
    same numbers alone and in any batch, whatever padding it has there. With one generator for the batch, a number is drawn
    for every token, as by `uniforms`.

    **Arguments:**

    - `rows`: the selected tokens.
    - `generator`, `device`: as for `uniforms`.

    **Raises:** `ValueError` as `uniforms`.
    """
    if not isinstance(generator, Sequence) or len(generator) != len(rows):
        return torch.where(rows, uniforms(*rows.shape, generator=generator, device=device), 0)
    drawn = [uniforms(1, n, generator=g, device=device) for n, g in zip(rows.sum(-1).tolist(), generator, strict=True)]
    u = torch.zeros(rows.shape, dtype=torch.float64, device=device)
    return u.masked_scatter(rows, torch.cat(drawn, 1)) if drawn else u


def select_generators(generator: Randomness, index: Int[Tensor, " selected"]) -> Randomness:
    """The generators of some sequences of a batch; one for all stays that."""
    if isinstance(generator, TokenGenerators):
        return generator.selected(index)
    return [generator[i] for i in index.tolist()] if isinstance(generator, Sequence) else generator


def rest_generators(generator: Randomness, resting: Bool[Tensor, " batch"]) -> Randomness:
    """The generators of a batch for draws of which resting sequences use none: they keep their generators as they are.

    A sequence then gets the same numbers whether it is alone or rests while others go on. One generator for all stays that.

    **Arguments:**

    - `resting`: the sequences whose numbers are not used; they get any.
    """
    if not isinstance(generator, Sequence) or len(generator) != len(resting):
        return generator
    still = resting.tolist()
    if not any(still):
        return generator
    if isinstance(generator, TokenGenerators):
        return TokenGenerators(generator, generator.rows & ~resting[:, None].to(generator.rows.device))
    spare = Generator(generator[0].device)
    return [spare if rests else own for rests, own in zip(still, generator, strict=True)]


def split_generator(generator: Generator | None, count: int) -> list[Generator]:
    """Independent generators, one for each of `count` sequences, seeded by one: draws from them do not depend on the batch.

    **Arguments:**

    - `generator`: the source of the seeds, on any device, on which the others are too; by default torch's global one.
    - `count`: the number of generators.

    **Example:**

    ```python
    import torch
    from noiselab.categorical import split_generator, uniforms

    each = split_generator(torch.Generator().manual_seed(0), 4)
    again = split_generator(torch.Generator().manual_seed(0), 4)
    assert torch.equal(uniforms(4, 2, generator=each), torch.cat([uniforms(1, 2, generator=[g]) for g in again]))
    ```
    """
    home = torch.device("cpu") if generator is None else generator.device
    seeds = torch.randint(2**62, (count,), generator=generator, device=home).tolist()
    return [Generator(home).manual_seed(seed) for seed in seeds]


def choose(mass: ElementwiseProbs, u: Elementwise) -> Int[Tensor, "*batch"]:
    r"""The token that a uniform number selects: the first whose cumulative mass exceeds $u \sum_v m_v$.

    **Arguments:**

    - `mass`: non-negative, any float dtype; rows need not sum to 1. Sums are taken in float64.
    - `u`: in [0, 1), float64: a coarser type cannot reach the rare tokens of a large vocabulary.

    **Returns:** a token of positive mass. A row without mass gives an arbitrary token in range.

    **Source:** inverse transform sampling. Zheng et al. (2024, arXiv 2409.02908) show how float32 Gumbel noise
    truncates the tail instead.

    **Example:**

    ```python
    import torch
    from noiselab.categorical import choose

    assert choose(torch.tensor([0.5, 0.0, 1.5]), torch.tensor(0.3, dtype=torch.float64)) == 2
    ```
    """
    states = mass.shape[-1]
    if states <= 4 * BLOCK:
        return _search(mass, u)[2][..., 0]
    # Block sums first, then one block: the same distribution as one long cumulative sum, in one pass over the row.
    sums = mass[..., : states // BLOCK * BLOCK].unflatten(-1, (-1, BLOCK)).sum(-1, dtype=torch.float64)
    if states % BLOCK:
        sums = torch.cat([sums, mass[..., sums.shape[-1] * BLOCK :].sum(-1, dtype=torch.float64, keepdim=True)], -1)
    cumulative, target, block = _search(sums, u)
    # What is left of the target in this block; rounding must not move it out.
    rest = (target - (cumulative - sums).gather(-1, block)).clamp(min=0)
    inside = _block(mass, block).cumsum(-1, dtype=torch.float64)
    index = torch.searchsorted(inside, torch.minimum(rest, inside[..., -1:] * BELOW_ONE), right=True)
    return torch.add(index, block, alpha=BLOCK)[..., 0].clamp(max=states - 1)


def padded_width(states: int) -> int:
    """The width to which `choose` takes rows of so many tokens with the fewest operations: padding has no mass."""
    return states if states <= 4 * BLOCK else -(-states // BLOCK) * BLOCK


def replace_tokens(z: Tokens, rows: Selection, drawn: RowTokens) -> Tokens:
    """The tokens z, those of `rows` replaced; of the integer type of z."""
    return z.masked_scatter(rows, drawn.to(z.dtype))


def _invert(mass: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The index where the cumulative mass passes u * total, and how far inside that entry it does, in [0, 1)."""
    cumulative, target, index = _search(mass, u)
    width = mass.gather(-1, index).double()
    inside = (target - cumulative.gather(-1, index) + width) / width
    return index[..., 0], inside[..., 0].nan_to_num().clamp(min=0)


def _block(mass: Tensor, block: Tensor) -> Tensor:
    """The entries of one block of each row, [..., BLOCK]."""
    states = mass.shape[-1]
    if states % BLOCK == 0:
        wide = block[..., None].expand(*block.shape, BLOCK)
        return mass.unflatten(-1, (-1, BLOCK)).gather(-2, wide)[..., 0, :]
    index = block * BLOCK + torch.arange(BLOCK, device=mass.device)
    return torch.where(index < states, mass.gather(-1, index.clamp(max=states - 1)), 0)


def _search(mass: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cumulative mass, u * total, and the index where the one passes the other."""
    cumulative = mass.cumsum(-1, dtype=torch.float64)
    # Rounding must not push the target up to the total: no token follows it.
    target = u[..., None].double() * (cumulative[..., -1:] * BELOW_ONE)
    return cumulative, target, torch.searchsorted(cumulative, target, right=True).clamp(max=mass.shape[-1] - 1)
