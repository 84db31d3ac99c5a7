"""Perplexity of samples under an autoregressive judge, with measures of their diversity.

A text that repeats a single word has low perplexity. Perplexity is therefore always reported with the entropy and the
distinct n-grams of the same samples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..data.texts import text_list
from ..denoisers.modes import device_of, evaluating
from ..distributed import Processes, is_sharded, require_processes
from ..networks.lengths import check_fits, context_length
from ..networks.outputs import logits_of
from ..numerics import require_count, require_tokens
from .bound import mean_and_error

if TYPE_CHECKING:
    import transformers


@dataclass(frozen=True)
class Judgement:
    """The scores of samples under a causal language model.

    **Arguments:**

    - `perplexity`: the exponential of `nats`.
    - `nats`: the mean -log p of a scored token; `error`: its standard error over samples.
    - `tokens`: the number of scored tokens, in `samples` samples.
    - `entropy`: the entropy of the token frequencies within a sample, in nats, averaged over samples.
    - `distinct`: for n = 1, 2, 3, ...: the fraction of distinct n-grams among all n-grams of all samples.
    - `total`: -log p of each sample, float64 [samples].
    - `lengths`: the number of scored tokens of each sample, [samples].
    """

    perplexity: float
    nats: float
    error: float
    tokens: int
    samples: int
    entropy: float
    distinct: tuple[float, ...]
    total: Tensor = field(repr=False, compare=False)
    lengths: Tensor = field(repr=False, compare=False)

    def bits_per_byte(self, count: int) -> float:
        """Bits per byte of the scored text.

        **Arguments:**

        - `count`: the number of bytes that the scored tokens encode.
        """
        if count < 1:
            raise ValueError(f"the number of bytes must be positive; got {count}")
        return self.nats * self.tokens / math.log(2) / count


def generative_perplexity(
    judge: nn.Module,
    samples: Int[Tensor, "sample length"],
    *,
    attention_mask: Bool[Tensor, "sample length"] | Int[Tensor, "sample length"] | None = None,
    start: int | None = None,
    batch_size: int = 16,
    ngrams: int = 3,
    processes: Processes | None = None,
) -> Judgement:
    """Compute the perplexity of token ids under a causal model with the same tokenizer, and their diversity.

    Ids are passed to the judge directly, without decoding to text. Only real tokens are scored: those after the first
    real one, or all of them if a `start` token is given.

    **Arguments:**

    - `judge`: a model that is called with `input_ids` and `attention_mask` and returns logits or an object with
      `logits`, such as a causal transformers model.
    - `samples`: token ids, all in the judge's vocabulary.
    - `attention_mask`: 1 for real tokens, with padding on either side; by default all are real.
    - `start`: a token to prepend to each sample (an end-of-text or begin-of-text token), so that the first token is
      scored too. Omit it for samples that begin in the middle of a text. The last token of a sample is only predicted,
      so the longest sample is as long as the judge's context, or one token longer without `start`.
    - `batch_size`: the number of samples scored at once.
    - `ngrams`: the length of the longest n-grams that are counted.
    - `processes`: those that divide the batches among them, from `noiselab.distributed.join_processes`; by default this one
      does all. The result is the same. Weights may be sharded (`fully_shard`).

    **Raises:** `ValueError` if no token can be scored, a sample is longer than the judge's context, or the mask has
    gaps.

    **Source:** entropy beside perplexity: Zheng et al. (2024), arXiv 2409.02908.
    """
    _check_samples(samples)
    real = torch.ones_like(samples, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if real.shape != samples.shape:
        raise ValueError(
            f"attention_mask must have the shape of samples, {list(samples.shape)}; got {list(real.shape)}"
        )
    if ((real[:, 1:] != real[:, :-1]).sum(-1) > 1).any():
        raise ValueError("real tokens must be contiguous, with padding on one side; got a mask with gaps")
    texts = [row[kept].tolist() for row, kept in zip(samples.cpu(), real.cpu(), strict=True)]
    return _judge(judge, texts, start, batch_size, ngrams, processes)


def text_perplexity(
    judge: nn.Module,
    tokenizer: "transformers.PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    start: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 16,
    ngrams: int = 3,
    processes: Processes | None = None,
) -> Judgement:
    """Compute the perplexity of texts under a causal model with its own tokenizer.

    Use it for samples of a model with another tokenizer: decode them without special tokens, then score the text. All
    results, including entropy and n-grams, are in tokens of the judge.

    **Arguments:**

    - `judge`: as for `generative_perplexity`.
    - `tokenizer`: the judge's tokenizer. It adds, truncates and pads nothing.
    - `texts`: the samples.
    - `start`: as for `generative_perplexity`.
    - `max_tokens`: the length to which longer texts are truncated, without `start`; by default nothing is truncated.
    - `batch_size`, `ngrams`, `processes`: as for `generative_perplexity`.

    **Raises:** `ValueError` if `texts` is not a list of texts, `max_tokens` is not positive, no token can be scored, or
    a text is longer than the judge's context.
    """
    if max_tokens is not None:
        require_count("max_tokens", max_tokens)
    encoded = [
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_tokens] for text in text_list(texts)
    ]
    return _judge(judge, encoded, start, batch_size, ngrams, processes)


def _judge(
    judge: nn.Module,
    texts: list[list[int]],
    start: int | None,
    batch_size: int,
    ngrams: int,
    processes: Processes | None,
) -> Judgement:
    require_count("batch_size", batch_size)
    require_count("ngrams", ngrams, 0)
    if start is not None:
        require_count("start", start, 0)
    before = [] if start is None else [start]
    rows, limit = [[*before, *text] for text in texts], context_length(judge)
    for i, row in enumerate(rows):
        check_fits(len(row) - 1, limit, f"sample {i} without its last token", "max_tokens truncates texts")
    scored = torch.tensor([max(len(row) - 1, 0) for row in rows])
    if not int(scored.sum()):
        raise ValueError(f"there must be at least one token that follows another; got {len(texts)} samples without")
    total = torch.zeros(len(rows), dtype=torch.float64)
    # Longest first, so that rows of a batch have similar lengths; results are returned in the original order.
    order = sorted((i for i in range(len(rows)) if len(rows[i]) > 1), key=lambda i: -len(rows[i]))
    groups = _groups(order, batch_size)
    for chosen, each in zip(groups, _surprises(judge, rows, groups, processes), strict=True):
        total[chosen] = each.sum(-1)
    nats, error = mean_and_error(total, scored)
    perplexity = math.exp(nats) if nats < 700 else math.inf
    return Judgement(
        perplexity,
        nats,
        error,
        int(scored.sum()),
        len(rows),
        token_entropy(texts),
        tuple(distinct(texts, n) for n in range(1, ngrams + 1)),
        total,
        scored,
    )


def token_nats(
    judge: nn.Module,
    samples: Int[Tensor, "sample length"],
    *,
    start: int,
    batch_size: int = 16,
    processes: Processes | None = None,
) -> Float[Tensor, "sample length"]:
    """Compute -log p of each token under a causal model, given the previous ones.

    **Arguments:**

    - `judge`, `samples`, `batch_size`, `processes`: as for `generative_perplexity`; all tokens are real.
    - `start`: the token before each sample.

    **Returns:** nats, float64, on the CPU.
    """
    _check_samples(samples)
    require_count("start", start, 0)
    require_count("batch_size", batch_size)
    rows = [[start, *row] for row in samples.tolist()]
    check_fits(samples.shape[1], context_length(judge), "samples")
    found = _surprises(judge, rows, _groups(range(len(rows)), batch_size), processes)
    return torch.cat([torch.empty(0, samples.shape[1], dtype=torch.float64), *found])


def _check_samples(samples: Tensor) -> None:
    if samples.dim() != 2:
        raise ValueError(f"samples must have shape [sample, length]; got {list(samples.shape)}")
    require_tokens("samples", samples)


def _groups(order: Sequence[int], size: int) -> list[list[int]]:
    return [list(order[first : first + size]) for first in range(0, len(order), size)]


def _surprises(
    judge: nn.Module, rows: list[list[int]], groups: list[list[int]], processes: Processes | None
) -> list[Tensor]:
    """-log p of the tokens of each group of rows, which are evaluated at once."""

    def work(numbers: Sequence[int]) -> Iterator[list[Tensor]]:
        for number in numbers:
            yield [_surprise(judge, [rows[i] for i in groups[number]], device_of(judge))]

    with torch.no_grad(), evaluating(judge):
        own = require_processes(processes)
        found = own.collect(work, len(groups), about=["judge", rows, groups], same_calls=is_sharded(judge))
    return [nats for (nats,) in found]


def _surprise(judge: nn.Module, rows: list[list[int]], device: torch.device) -> Float[Tensor, "batch tokens"]:
    """-log p of all tokens but the first of each row; 0 for padding, which is on the right and does not affect a causal
    model. The last token is predicted and not fed.
    """
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        real[place, : len(row)] = True
    ids, real = ids.to(device), real.to(device)
    largest = getattr(getattr(judge, "config", None), "vocab_size", None)
    if largest is not None and int(ids.max()) >= largest:
        raise ValueError(f"samples must lie in the judge's vocabulary of {largest} tokens; got {int(ids.max())}")
    if length == 1:
        return torch.zeros(len(rows), 0, dtype=torch.float64)
    logits = logits_of(judge(input_ids=ids[:, :-1], attention_mask=real[:, :-1].long()))
    losses = F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")
    # A token is scored if it is real; with padding on the right, the previous token is then real too.
    return torch.where(real[:, 1:], losses, 0).cpu().double()


def token_entropy(texts: Sequence[Sequence[int]]) -> float:
    """The entropy of the token frequencies within each text, in nats, averaged over non-empty texts.

    **Example:**

    ```python
    from noiselab.evaluation import token_entropy

    assert token_entropy([[7, 7, 7, 7]]) == 0.0
    ```
    """
    values = []
    for text in texts:
        if len(text):
            counts = torch.unique(torch.as_tensor(text), return_counts=True)[1].double()
            share = counts / counts.sum()
            values.append(-torch.special.xlogy(share, share).sum().item())
    return abs(sum(values) / len(values)) if values else math.nan


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """The fraction of distinct n-grams in all texts together; it decreases with the amount of text, so compare equal
    amounts; NaN without any.
    """
    n = require_count("n", n)
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan
