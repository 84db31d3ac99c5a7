"""Tokenizers: byte-level BPE trained on a corpus, single characters, or a pretrained one with missing special tokens
added.
"""

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..typing import TokenSet
from .corpus import fingerprint
from .texts import _short, each_text

if TYPE_CHECKING:
    import transformers

MASK, PAD, END = "[MASK]", "[PAD]", "<|endoftext|>"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 4096, *, min_frequency: int = 2
) -> "transformers.PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer; decoding restores every text exactly.

    **Arguments:**

    - `texts`: the texts to train on; use the training split only.
    - `vocab_size`: the total number of tokens, at least 259: 256 bytes and the three special tokens `<|endoftext|>`,
      `[PAD]`, `[MASK]` (ids 0, 1, 2). 259 means plain bytes. A small corpus may yield fewer tokens.
    - `min_frequency`: the minimum number of occurrences of a pair that is merged.

    **Returns:** a tokenizer with end-of-text, padding and mask tokens; store it with `save_pretrained(folder)`.

    **Raises:** `ValueError` if the vocabulary is too small or there is no text.

    **Example:**

    ```python
    from noiselab.data import train_tokenizer

    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=300)
    assert tokenizer.decode(tokenizer("the cat")["input_ids"]) == "the cat"
    ```
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [END, PAD, MASK]
    if vocab_size < 256 + len(special):
        raise ValueError(f"vocab_size must be at least {256 + len(special)} (256 bytes, 3 special); got {vocab_size}")
    texts = each_text(texts)
    empty = True

    def counted() -> Iterator[str]:
        nonlocal empty
        for text in texts:
            empty = empty and not text
            yield text

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(counted(), trainer)
    if empty:
        raise ValueError("texts must contain at least one non-empty text; got none")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
    )


def character_tokenizer(texts: Iterable[str]) -> "transformers.PreTrainedTokenizerFast":
    """Build a tokenizer with one token for each character that occurs, as is usual for text8 or tiny Shakespeare.

    **Arguments:**

    - `texts`: all texts that will be encoded, including held-out ones; characters that do not occur in them have no
      token and are dropped when a text is encoded.

    **Returns:** a tokenizer with end-of-text, padding and mask tokens (ids 0, 1, 2), then the characters in sorted
    order.

    **Raises:** `ValueError` if there is no text.

    **Example:**

    ```python
    from noiselab.data import character_tokenizer

    tokenizer = character_tokenizer(["to be, or not to be"])
    assert tokenizer.decode(tokenizer("not to be")["input_ids"]) == "not to be"
    ```
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = each_text(texts)
    found: set[str] = set()
    for text in texts:
        found |= set(text)
    if not found:
        raise ValueError("texts must contain at least one non-empty text; got none")
    tokens = [END, PAD, MASK, *sorted(found)]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=END))
    # A character without a token would become `unk_token`, which the model cannot do without; so none reaches the model.
    known = "".join(f"\\x{{{ord(character):x}}}" for character in sorted(found))
    backend.normalizer = normalizers.Replace(Regex(f"[^{known}]"), "")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name: str | Path, revision: str = "main") -> "transformers.PreTrainedTokenizerBase":
    """Load a tokenizer by name or from a folder, and add mask, padding and end-of-text tokens if they are missing.

    Added tokens enlarge the vocabulary: size models and processes by `vocabulary_size(tokenizer)`, not by
    `tokenizer.vocab_size`, which does not count them. If the tokenizer has a separator but no end-of-text token, the
    separator is used as end of text.

    **Arguments:**

    - `name`: a folder, or a name on the Hugging Face Hub; code that comes with a tokenizer is never executed.
    - `revision`: branch, tag or commit on the Hub; unused for a folder.

    **Returns:** a tokenizer with `mask_token_id`, `pad_token_id` and `eos_token_id`.

    **Raises:** `ValueError` if there is no tokenizer, if it cannot be read, or if it needs code of its folder.
    """
    from ..networks.model_folders import open_tokenizer

    tokenizer = open_tokenizer(name, revision)
    missing: dict[str, Any] = {}
    if tokenizer.mask_token_id is None:
        missing["mask_token"] = MASK
    if tokenizer.pad_token_id is None:
        missing["pad_token"] = PAD
    if tokenizer.eos_token_id is None:
        missing["eos_token"] = tokenizer.sep_token or END
    if missing:
        tokenizer.add_special_tokens(missing)
    return tokenizer


def complete(tokenizer: "transformers.PreTrainedTokenizerBase") -> "transformers.PreTrainedTokenizerBase":
    """A copy of a tokenizer whose missing end-of-text and padding tokens are others that it has; its vocabulary is the same.

    The separator is the end of text, and the end of text is the padding, which is known by its position. Without either, it
    has none.
    """
    copied = copy.deepcopy(tokenizer)
    if copied.eos_token_id is None and copied.sep_token_id is not None:
        copied.eos_token = copied.sep_token
    if copied.pad_token_id is None and copied.eos_token_id is not None:
        copied.pad_token = copied.eos_token
    return copied


def vocabulary_size(tokenizer: "transformers.PreTrainedTokenizerBase") -> int:
    """Return the vocabulary size that a process and a model need: one more than the largest token id.

    Unlike `tokenizer.vocab_size`, it counts added tokens; unlike `len(tokenizer)`, it counts gaps in the numbering.
    """
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def start_token(tokenizer: "transformers.PreTrainedTokenizerBase") -> int:
    """The id of the token with which texts begin: the start token, or else the class token.

    **Raises:** `ValueError` if the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.cls_token_id):
        if token is not None:
            return int(token)
    raise ValueError("the tokenizer must have a start token (bos_token) or a class token (cls_token); got neither")


def token_support(tokenizer: "transformers.PreTrainedTokenizerBase") -> TokenSet:
    """Return the mask of tokens that occur in data: all tokens except special ones, plus the end-of-text token.

    Unused ids are excluded too. Pass the result as the `support` of a process over the tokenizer's ids.
    """
    support = torch.zeros(vocabulary_size(tokenizer), dtype=torch.bool)
    support[list(tokenizer.get_vocab().values())] = True
    support[list(tokenizer.all_special_ids)] = False
    if tokenizer.eos_token_id is not None:
        support[tokenizer.eos_token_id] = True
    return support


class Encoder:
    """Encodes texts into token ids, in batches, treating special tokens in the text as plain characters.

    If a text contains the name of a special token, such as `[MASK]`, its characters are encoded, because clean text
    must not contain the mask token. Nothing is truncated, padded or added, regardless of the tokenizer's settings, and
    the tokenizer itself is not modified.

    **Arguments:**

    - `tokenizer`: any tokenizer of the `transformers` library.

    **Raises:** `ValueError` while encoding, if a text is not valid Unicode, or has a character that the tokenizer can only
    encode as its end-of-text, padding or mask token.
    """

    def __init__(self, tokenizer: "transformers.PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = None
        self._unknown: int | None = tokenizer.unk_token_id
        if backend is not None:
            self._backend = type(backend).from_str(backend.to_str())  # a copy: its settings are changed below
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = True
            unknown = getattr(self._backend.model, "unk_token", None)
            self._unknown = self._unknown if unknown is None else self._backend.token_to_id(unknown)
        if self._unknown not in (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id):
            self._unknown = None  # it has a meaning of its own, so that it may occur in texts

    def __call__(self, texts: Iterable[str], batch: int = 2**18) -> Iterator[list[int]]:
        """Yield the ids of each text; `batch` is the number of characters encoded at a time."""
        return (ids.tolist() for ids in self.arrays(texts, batch))

    def arrays(self, texts: Iterable[str], batch: int = 2**18) -> Iterator[np.ndarray]:
        """The same as arrays in int32, a ninth of the memory of lists."""
        waiting: list[str] = []
        size = 0
        for text in each_text(texts):
            waiting.append(text)
            size += len(text)
            if size >= batch:
                yield from self._encode(waiting)
                waiting, size = [], 0
        yield from self._encode(waiting)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        for text in texts:
            if not text.isascii():
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as error:
                    raise ValueError(f"a text must be valid Unicode; got {error}") from error
        if self._backend is not None:
            rows = [found.ids for found in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        else:
            rows = self._tokenizer(
                texts, add_special_tokens=False, return_attention_mask=False, split_special_tokens=True, verbose=False
            )["input_ids"]
        for text, ids in zip(texts, rows, strict=True):
            if self._unknown is not None and self._unknown in ids:
                token = self._tokenizer.convert_ids_to_tokens(self._unknown)
                raise ValueError(
                    f"a text must have only characters that the tokenizer knows, since it encodes others as {token!r}; "
                    f"got {_short(text)}"
                )
        return [np.array(ids, dtype=np.int32) for ids in rows]


def tokenizer_key(tokenizer: "transformers.PreTrainedTokenizerBase") -> str:
    """Return a hash of everything that determines the ids: vocabulary, rules and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = [type(tokenizer).__name__, json.dumps(tokenizer.get_vocab(), sort_keys=True)]
    else:
        parts = json.loads(backend.to_str())
        # Both are set by earlier calls and are not used here.
        kept = {name: parts[name] for name in parts if name not in ("truncation", "padding")}
        rules = [json.dumps(kept, sort_keys=True)]
    special = [tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id]
    return fingerprint([*rules, json.dumps(special)])
