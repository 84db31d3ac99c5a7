"""How often each token occurs in training data, for noise with the frequencies of a corpus."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..mixing import Unigram
from ..typing import TokenProbs, TokenSet
from .blocks import TokenBlocks

SAMPLE_BLOCKS = 10_000
"""The number of blocks of a stream that are counted."""


def token_frequencies(
    data: Any, vocab_size: int, *, smoothing: float | int = 0.0, support: TokenSet | None = None
) -> TokenProbs:
    r"""The frequency of each token among the real tokens of training data, $f_v = n_v / \sum_w n_w$.

    **Arguments:**

    - `data`: `TokenBlocks`, all of which are counted, or a `TokenStream`, of which the first 10,000 blocks are.
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
    return Unigram.from_tokens(_real_tokens(data), vocab_size, smoothing=smoothing, support=support).row


def _real_tokens(data: Any) -> Iterator[Tensor]:
    """The tokens of training data without padding, many at once if they are in memory."""
    if isinstance(data, TokenBlocks):
        for tokens, real in zip(data.tokens.split(SAMPLE_BLOCKS), data.real.split(SAMPLE_BLOCKS), strict=True):
            yield tokens[torch.arange(data.length) < real[:, None]].long()
    else:
        for block in itertools.islice(data, SAMPLE_BLOCKS):
            yield block["input_ids"][block["attention_mask"].bool()]
