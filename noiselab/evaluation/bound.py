r"""The full bound on held-out data, including end terms, with its standard error.

$$-\log p(x) \;\le\;
\underbrace{\int_{t_{low}}^{t_{high}} \mathbb E_z\,[\text{nelbo}]\,dt}_{\text{diffusion}}
+ \underbrace{\mathbb E_{z \sim q_{t_{low}}}[-\log p(x \mid z)]}_{\text{reconstruction}}
+ \underbrace{KL(q_{t_{high}}(\cdot \mid x)\,\|\,\bar q_{t_{high}})}_{\text{prior}}$$
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..categorical import split_generator
from ..data.rows import document_attention, noised_tokens, real_tokens, stack_rows
from ..denoisers import Denoiser, attending_to
from ..denoisers.modes import device_of, evaluating
from ..distributed import Processes, is_sharded, require_processes
from ..likelihood import continuous_bound, discrete_bound
from ..likelihood.bounds import BoundTerms
from ..likelihood.nodes import process_quadrature
from ..likelihood.ranges import falling, time_range
from ..numerics import require_count
from ..process import NoiseProcess
from ..times import sine_clock, stratified_times
from ..typing import Grid, PerSequence, Selection, Tokens


@dataclass(frozen=True)
class Bound:
    """An upper bound on the negative log-likelihood, in nats per scored token unless stated otherwise.

    **Arguments:**

    - `nelbo`: the whole bound, the sum of the three terms.
    - `error`: its standard error over sequences (`mean_and_error`).
    - `diffusion`, `reconstruction`, `prior`: the three terms.
    - `tokens`, `sequences`: the number of scored tokens and of sequences.
    - `low`, `high`: the time range of the diffusion term.
    - `nats`: the bound of each sequence as a whole, float64 [sequences], for paired comparisons.
    - `lengths`: the number of scored tokens of each sequence, [sequences].
    """

    nelbo: float
    error: float
    diffusion: float
    reconstruction: float
    prior: float
    tokens: int
    sequences: int
    low: float
    high: float
    nats: Tensor = field(repr=False, compare=False)
    lengths: Tensor = field(repr=False, compare=False)

    @property
    def perplexity(self) -> float:
        """The exponential of the bound per token."""
        return math.exp(self.nelbo)

    def bits_per_byte(self, count: int) -> float:
        """The bound in bits per byte of text.

        **Arguments:**

        - `count`: the number of bytes of the text that these tokens encode.
        """
        if count < 1:
            raise ValueError(f"the number of bytes must be positive; got {count}")
        return self.nelbo * self.tokens / math.log(2) / count


def validation_bound(
    process: NoiseProcess,
    denoiser: Denoiser,
    data: Dataset[Mapping[str, Tensor]] | Int[Tensor, "sequence length"],
    *,
    low: float | int | None = None,
    high: float | int | None = None,
    nodes: int | None = None,
    steps: int | Grid | None = None,
    repeats: int = 1,
    batch_size: int = 32,
    generator: Generator | None = None,
    processes: Processes | None = None,
) -> Bound:
    r"""Estimate the negative ELBO of held-out data: the mean over scored tokens, including end terms.

    Every sequence is evaluated at `repeats` times. All times together form one low-discrepancy set, assigned at random.
    They are transformed by $t = low + (high - low) \sin^2(\pi \tau / 2)$, with the Jacobian as a weight, because the
    integrand of hybrid noise diverges like an inverse square root at both ends: with uniform times, single draws there
    would dominate the mean.

    With `nodes`, all sequences use the same fixed times, so that the comparison of two models has no variance from the
    choice of times. With `steps`, the result is the bound in discrete time of a sampler with these steps.

    Each sequence has noise of its own, so that the batch size does not change the result by more than rounding.

    **Arguments:**

    - `process`: the noise process.
    - `denoiser`: the denoiser; posterior predictions are converted. Its network, if it takes an attention mask, attends to
      real tokens only (`noiselab.denoisers.attending_to`).
    - `data`: tokens, all of them real; or a data set of dicts with `input_ids` and optionally `attention_mask` and `labels`
      or `scored`, such as `noiselab.data.TokenBlocks` and `ResponseRows`. Padding is neither noised nor scored. Neither are
      tokens with the label -100, such as a prompt: the bound is that of the other tokens given these. Tokens of rows with
      `documents` attend to their own document alone. Conversations of `ResponseRows` are scored once, with one end each.
    - `low`, `high`: the time range, by default from 1e-4 (or the lower end of the process's domain, if that is higher)
      to the upper end of the domain. The bound holds for any `low` and is tighter closer to 0, because the
      reconstruction term treats tokens as independent (with `low` = 0 it is evaluated at 1e-12, the smallest time with
      defined rates). With `steps`, by default the whole domain.
    - `nodes`: the number of fixed quadrature times for every sequence, if the process has a quadrature
      (`noiselab.process_quadrature`, which describes how many suffice). z is still sampled.
    - `steps`: the number of uniform steps, or a decreasing grid of times, as for a sampler; each sequence is evaluated
      on one step, chosen like the times.
    - `repeats`: the number of times, or steps, for each sequence; with `nodes`, of samples of z at each node.
    - `batch_size`: the number of sequences evaluated at once.
    - `generator`: the source of randomness; by default torch's global generator.
    - `processes`: those that divide the batches among them, from `noiselab.distributed.join_processes`; by default this one
      does all. The result is the same. Weights may be sharded (`fully_shard`).

    **Raises:** `ValueError` if the data set or the time range is empty, no token is scored, both `nodes` and `steps` are
    given, or the processes are given different data or seeds; `ProcessError` if another process fails.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.evaluation import validation_bound

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    generator = torch.Generator().manual_seed(0)
    bound = validation_bound(process, oracle, oracle.sample(500, 8, generator=generator), generator=generator)
    assert abs(bound.nelbo - oracle.entropy(8) / 8) < 4 * bound.error
    ```
    """
    if nodes is not None and steps is not None:
        raise ValueError(f"nodes and steps must not both be given; got {nodes} and {steps}")
    grid = None if steps is None else _grid(process, steps, low, high)
    low, high = time_range(process, low, high) if grid is None else (grid[-1].item(), grid[0].item())
    data = data.one_end() if hasattr(data, "one_end") else data
    count = len(data)  # type: ignore[arg-type]
    if count < 1:
        raise ValueError(f"there must be at least one sequence; got {count}")
    require_count("repeats", repeats)
    require_count("batch_size", batch_size)
    fixed = None if nodes is None else process_quadrature(process, nodes, low=low, high=high)
    tau = stratified_times(count * repeats, generator=generator)
    tau = tau[torch.randperm(len(tau), generator=generator)].view(count, repeats)
    randoms, device = split_generator(generator, count), device_of(denoiser, process)
    estimate = _Estimate(process, denoiser, grid, fixed, low, high)

    def work(numbers: Sequence[int]) -> Iterator[list[Tensor]]:
        for number, (x, real, scored, documents) in zip(
            numbers, batches(data, batch_size, device, numbers), strict=True
        ):
            some = slice(number * batch_size, number * batch_size + len(x))
            # Attention is faster without a mask.
            with attending_to(denoiser, None if bool(real.all()) else real, **document_attention(documents)):
                parts = tau[some].to(x.device).unbind(-1)
                draws = [torch.stack(estimate.draw(x, scored, part, randoms[some])) for part in parts]
            yield [torch.stack(draws).mean(0).cpu(), scored.sum(-1).cpu()]

    own, about = require_processes(processes), ["bound", tau, *randoms, low, high, nodes, grid, batch_size]
    with evaluating(denoiser), torch.no_grad():
        found = own.collect(work, -(-count // batch_size), about=about, same_calls=is_sharded(denoiser))
    each, sizes = torch.cat([terms for terms, _ in found], -1), torch.cat([lengths for _, lengths in found])
    tokens = int(sizes.sum())
    if not tokens:
        raise ValueError("data must hold at least one scored token; got none")
    mean, error = mean_and_error(each.sum(0), sizes)
    diffusion, rebuilt, prior = (each.sum(-1) / tokens).tolist()
    return Bound(mean, error, diffusion, rebuilt, prior, tokens, count, low, high, each.sum(0), sizes)


class _Estimate(NamedTuple):
    """The bound of some sequences at given times."""

    process: NoiseProcess
    denoiser: Denoiser
    grid: Grid | None
    nodes: tuple[Tensor, Tensor] | None
    low: float
    high: float

    def draw(self, x: Tokens, scored: Selection, tau: PerSequence, generator: list[Generator]) -> BoundTerms:
        """The terms of one draw, with numbers in [0, 1) that select the times or the steps."""
        process, denoiser, low, high = self.process, self.denoiser, self.low, self.high
        if self.grid is not None:
            return discrete_bound(process, denoiser, x, self.grid, pick=tau, real=scored, generator=generator)
        times = sine_clock(tau, low=low, high=high) if self.nodes is None else None
        return continuous_bound(
            process, denoiser, x, times=times, nodes=self.nodes, low=low, high=high, real=scored, generator=generator
        )


def _grid(process: NoiseProcess, steps: int | Grid, low: float | int | None, high: float | int | None) -> Grid:
    """The times of the steps, checked."""
    if isinstance(steps, Tensor):
        if low is not None or high is not None:
            raise ValueError(f"low and high must be None with a grid, which has its own ends; got {low} and {high}")
        return falling(process, steps)
    steps = require_count("steps", steps)
    start, stop = time_range(process, process.domain[0] if low is None else low, high)
    return torch.linspace(stop, start, steps + 1, dtype=torch.float64)


def mean_and_error(nats: Float[Tensor, " sequence"], lengths: Int[Tensor, " sequence"]) -> tuple[float, float]:
    """Mean per token, and its standard error over sequences taken as independent (that of a ratio of two sums).

    Times that are spread evenly over the sequences make the mean more exact than this says, never less. Sequences cut
    from one document are group_equal, and for new documents the error is larger.

    **Arguments:**

    - `nats`: of each sequence as a whole; `lengths`: the number of its tokens.

    **Returns:** the mean and its error; the error is NaN for a single sequence, and infinite for an infinite mean.
    """
    nats, lengths = nats.double(), lengths.double()
    count, tokens = len(nats), lengths.sum()
    mean = nats.sum() / tokens
    if mean == math.inf:
        return math.inf, math.inf
    if count < 2:
        return mean.item(), math.nan
    spread = (nats - mean * lengths).square().sum() * count / (count - 1)
    return mean.item(), (spread.sqrt() / tokens).item()


def batches(
    data: Dataset[Mapping[str, Tensor]] | Int[Tensor, "sequence length"],
    size: int,
    device: torch.device | str,
    numbers: Sequence[int],
) -> Iterator[tuple[Tokens, Selection, Selection, Tokens | None]]:
    """Yield tokens, the mask of real ones, that of scored ones and their documents, of the batches with these numbers; the last
    may be smaller.
    """
    if isinstance(data, Tensor):
        for number in numbers:
            x = data[number * size : (number + 1) * size].long().to(device)
            every = torch.ones_like(x, dtype=torch.bool)
            yield x, every, every, None
        return
    rows: Any = list(data) if isinstance(data, IterableDataset) else data
    places = [list(range(number * size, min((number + 1) * size, len(rows)))) for number in numbers]
    for item in DataLoader(rows, batch_sampler=places, collate_fn=stack_rows):
        documents = item["documents"].to(device) if "documents" in item else None
        real, scored = real_tokens(item).to(device), noised_tokens(item).to(device)
        yield item["input_ids"].long().to(device), real, scored, documents
