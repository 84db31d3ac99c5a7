"""How often each token occurs in training data, for noise with the frequencies of a corpus."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..mixing import Unigram
from ..typing import TokenProbs, TokenSet
from .blocks import TokenBlocks
from .rows import noised_tokens

SAMPLE_BLOCKS = 10_000
"""The number of blocks of a stream that are counted."""


def token_frequencies(
    data: Any, vocab_size: int, *, smoothing: float | int = 0.0, support: TokenSet | None = None
) -> TokenProbs:
    r"""The frequency of each token among the learned tokens of training data, $f_v = n_v / \sum_w n_w$.

    **Arguments:**

    - `data`: `TokenBlocks` or `ResponseRows`, all of whose tokens are counted except padding, prompts and repeated ends; or a
      `TokenStream`, of which the first 10,000 blocks are.
    - `vocab_size`: the size of the vocabulary.
    - `smoothing`, `support`: as for `Unigram.from_counts`. Without smoothing, tokens that do not occur, such as the mask, have
      frequency 0.

    **Returns:** a distribution in float64.

    **Raises:** `ValueError` as `Unigram.from_tokens`.

    **Example:**

    ```python
    import noiselab as nl
    from noiselab.data import TextCorpus, pack, token_frequencies, train_tokenizer, vocabulary_size

    corpus = TextCorpus(["to be, or not to be", "that is the question"])
    tokenizer = train_tokenizer(corpus, vocab_size=270)
    frequencies = token_frequencies(pack(corpus, tokenizer, length=8), vocabulary_size(tokenizer))
    process = nl.processes.mask_and_unigram(frequencies, mask_id=tokenizer.mask_token_id, p_unigram=0.2)
    ```
    """
    return Unigram.from_tokens(_learned_tokens(data), vocab_size, smoothing=smoothing, support=support).row


def _learned_tokens(data: Any) -> Iterator[Tensor]:
    """The tokens of training data without padding and prompts, many at once if they are in memory."""
    if isinstance(data, TokenBlocks):
        for tokens, real in zip(data.tokens.split(SAMPLE_BLOCKS), data.real.split(SAMPLE_BLOCKS), strict=True):
            yield tokens[torch.arange(data.length) < real[:, None]].long()
    else:
        data = data.one_end() if hasattr(data, "one_end") else data
        finite = hasattr(data, "__len__")
        for row in (data[index] for index in range(len(data))) if finite else itertools.islice(data, SAMPLE_BLOCKS):
            batch = {name: torch.as_tensor(column)[None] for name, column in row.items()}
            yield batch["input_ids"][noised_tokens(batch)]
