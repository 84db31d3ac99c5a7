"""The number of bytes of text per token, for comparing models with different tokenizers."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    import transformers


def token_bytes(tokenizer: "transformers.PreTrainedTokenizerBase") -> Int[Tensor, " state"]:
    """The number of bytes that each token of a byte-level tokenizer encodes; special tokens encode none.

    Unlike decoding, this is exact for tokens that are parts of a character.

    **Returns:** indexed by token id, up to the largest one.

    **Raises:** `ValueError` unless the tokenizer is byte-level, like GPT-2's and those of
    `noiselab.data.train_tokenizer`.

    **Example:**

    ```python
    from noiselab.data import train_tokenizer
    from noiselab.evaluation import token_bytes

    tokenizer = train_tokenizer(["ab"], vocab_size=259)
    assert token_bytes(tokenizer)[tokenizer("né")["input_ids"]].sum() == 3
    ```
    """
    vocabulary = tokenizer.get_vocab()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "decoder", None)).__name__ != "ByteLevel":
        raise ValueError(f"the tokenizer must be byte-level; got {type(tokenizer).__name__} with another decoder")
    special = set(tokenizer.all_special_ids)
    count = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.long)
    for token, index in vocabulary.items():
        count[index] = 0 if index in special else len(token)  # byte-level tokens have one character for each byte
    return count
