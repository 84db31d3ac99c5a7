r"""The bound on held-out data, with every term that makes it one, and with its standard error.

$$-\log p(x) \;\le\;
\underbrace{\int_{t_{low}}^{t_{high}} \mathbb E_z\,[\text{nelbo}]\,dt}_{\text{diffusion}}
+ \underbrace{\mathbb E_{z \sim q_{t_{low}}}[-\log p(x \mid z)]}_{\text{reconstruction}}
+ \underbrace{KL(q_{t_{high}}(\cdot \mid x)\,\|\,\pi_{t_{high}})}_{\text{prior}}$$
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from ..denoisers.base import Denoiser
from ..denoisers.huggingface import TransformersDenoiser
from ..denoisers.transforms import as_leave_one_out
from ..elbo import nelbo, prior_kl, reconstruction
from ..objectives import stratified_times
from ..process import InterpolatingProcess


@dataclass(frozen=True)
class Bound:
    """An upper bound on the negative log-likelihood, in nats per real token unless the name says otherwise.

    **Arguments:**

    - `nelbo`: the whole bound, the sum of the three terms.
    - `error`: its standard error over sequences (`mean_and_error`).
    - `diffusion`, `reconstruction`, `prior`: the three terms.
    - `tokens`, `sequences`: how many real tokens, in how many sequences.
    - `low`, `high`: the time range of the diffusion term.
    - `nats`: the bound of each sequence as a whole, float64 [sequences], for paired comparisons.
    - `lengths`: the number of real tokens of each sequence, [sequences].
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

        - `count`: bytes of the text that these tokens encode.
        """
        if count < 1:
            raise ValueError(f"the number of bytes must be positive; got {count}")
        return self.nelbo * self.tokens / math.log(2) / count


def validation_bound(
    process: InterpolatingProcess,
    denoiser: Denoiser,
    data: Dataset[Mapping[str, Tensor]] | Int[Tensor, "sequence length"],
    *,
    low: float = 1e-4,
    high: float | int | None = None,
    repeats: int = 1,
    batch_size: int = 32,
    generator: Generator | None = None,
) -> Bound:
    r"""Estimate the negative ELBO of held-out data: mean over real tokens, end terms included.

    Every sequence gets `repeats` times, and all times together are one low-discrepancy set, dealt out at random. They
    are spread by $t = low + (high - low) \sin^2(\pi \tau / 2)$, with the Jacobian as a weight, because the integrand
    of hybrid noise is infinite like an inverse square root at both ends: under evenly spread times single draws there
    would carry the mean.

    **Arguments:**

    - `process`: the noise.
    - `denoiser`: a posterior is converted. A `TransformersDenoiser` is told where padding is, unless it has a mask.
    - `data`: tokens, all of them real; or a data set of dicts of `input_ids` and `attention_mask`, such as
      `noiselab.data.TokenBlocks`. Padding is neither noised nor scored.
    - `low`, `high`: the time range, by default from 1e-4 to the upper end of the process's domain. The bound holds for
      any; the nearer `low` is to 0, the tighter, for the reconstruction treats tokens as independent.
    - `repeats`: times for each sequence.
    - `batch_size`: sequences evaluated at once.
    - `generator`: all randomness; torch's global one by default.

    **Raises:** `ValueError` for an empty data set or time range.

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
    high = process.domain[1] if high is None else float(high)
    if not process.domain[0] <= low < high <= process.domain[1]:
        raise ValueError(f"times must rise within the domain {process.domain} of the process; got {low} to {high}")
    count = len(data)  # type: ignore[arg-type]
    if count < 1 or repeats < 1:
        raise ValueError(f"at least one sequence and one repeat are needed; got {count} and {repeats}")
    tau = stratified_times(count * repeats, generator=generator)
    tau = tau[torch.randperm(len(tau), generator=generator)].view(count, repeats)

    terms, lengths, first = [], [], 0
    with evaluating(denoiser):
        for x, real in batches(data, batch_size, device_of(denoiser, process)):
            told = as_leave_one_out(masked_to(denoiser, real), process)
            times = tau[first : first + len(x)].to(x.device)
            draws = [_terms(process, told, x, real, part, (low, high), generator) for part in times.unbind(-1)]
            terms.append(torch.stack(draws).mean(0).cpu())
            lengths.append(real.sum(-1).cpu())
            first += len(x)
    each, sizes = torch.cat(terms, -1), torch.cat(lengths)
    mean, error = mean_and_error(each.sum(0), sizes)
    tokens = int(sizes.sum())
    diffusion, rebuilt, prior = (each.sum(-1) / tokens).tolist()
    return Bound(mean, error, diffusion, rebuilt, prior, tokens, count, low, high, each.sum(0), sizes)


@torch.no_grad()
def _terms(
    process: InterpolatingProcess,
    denoiser: Denoiser,
    x: Tensor,
    real: Tensor,
    tau: Tensor,
    ends: tuple[float, float],
    generator: Generator | None,
) -> Tensor:
    """One draw of the three terms, summed over the real tokens of each sequence: [3, batch], float64."""
    low, high = ends
    span = high - low
    # At high itself the rate may be infinite; the change of time gives that point no weight.
    t = (low + span * torch.sin(math.pi * tau / 2) ** 2).clamp(max=high - 1e-12 * span, min=low + 1e-12 * span)
    jacobian = span * math.pi / 2 * torch.sin(math.pi * tau)
    start, end = torch.full_like(t, low), torch.full_like(t, high)
    # Padding may hold a token that the process never makes: it is scored as one that it does make, and dropped.
    clean = torch.where(real, x, process.data_tokens(x.device).to(torch.uint8).argmax())

    def noisy(time: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.where(real, process.corrupt(clean, time, generator=generator), clean)
        return z, denoiser(torch.where(real, z, x), time)

    z, logits = noisy(t)
    diffusion = nelbo(process, logits, clean, z, t).double() * jacobian[:, None]
    if low > 0:
        z, logits = noisy(start)
        rebuilt = reconstruction(process, logits, clean, z, start).double()
    else:
        rebuilt = torch.zeros_like(diffusion)
    ending = prior_kl(process, clean, end).double()
    return torch.stack([torch.where(real, term, 0).sum(-1) for term in (diffusion, rebuilt, ending)])


def mean_and_error(nats: Float[Tensor, " sequence"], lengths: Int[Tensor, " sequence"]) -> tuple[float, float]:
    """Mean per token, and its standard error over sequences taken as independent (that of a ratio of two sums).

    Times that are spread evenly over the sequences make the mean more exact than this says, never less. Sequences cut
    from one document are alike, and for new documents the error is larger.

    **Arguments:**

    - `nats`: of each sequence as a whole; `lengths`: the number of its tokens.

    **Returns:** the mean and its error; the error of a single sequence is not a number.
    """
    nats, lengths = nats.double(), lengths.double()
    count, tokens = len(nats), lengths.sum()
    mean = nats.sum() / tokens
    if count < 2:
        return mean.item(), math.nan
    spread = (nats - mean * lengths).square().sum() * count / (count - 1)
    return mean.item(), (spread.sqrt() / tokens).item()


def batches(
    data: Dataset[Mapping[str, Tensor]] | Int[Tensor, "sequence length"],
    size: int,
    device: torch.device | str,
) -> Iterator[tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]]:
    """Tokens and where they are real, batch by batch, in order, the last one as short as it is."""
    if isinstance(data, Tensor):
        for x in data.split(size):
            x = x.long().to(device)
            yield x, torch.ones_like(x, dtype=torch.bool)
        return
    for item in DataLoader(data, batch_size=size, collate_fn=_collate):
        x = item["input_ids"].long().to(device)
        mask = item.get("attention_mask")
        yield x, torch.ones_like(x, dtype=torch.bool) if mask is None else mask.bool().to(device)


def _collate(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}


def masked_to(denoiser: Denoiser, real: Bool[Tensor, "batch length"]) -> Denoiser:
    """The denoiser with the attention mask of a batch, where there is padding and it can take one."""
    if not isinstance(denoiser, TransformersDenoiser) or denoiser.attention_mask is not None or bool(real.all()):
        return denoiser
    return TransformersDenoiser(denoiser.model, denoiser.predicts, real)


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode within the block, the previous mode after it."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def device_of(*modules: torch.nn.Module) -> torch.device:
    """Where the modules live, read off the first tensor they have."""
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")
