"""ResponseRows: prompts and answers as training data, with a loss on the answers alone."""

import array
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .blocks import compact_dtype
from .chat_templates import find_special, hide_special, split_answers, with_chat_template
from .corpus import fingerprint, hash_share
from .encoding import Literally, encode_pieces
from .messages import Message, read_conversations
from .records import Place
from .tokenizers import Encoder, tokenizer_key, vocabulary_size

TOO_LONG = ("refuse", "drop", "truncate")
SPECIAL = ("refuse", "drop", "text")
IGNORED = -100  # the label of tokens that are not learned, as in transformers and torch


class ResponseRows(Dataset[dict[str, Tensor]]):
    r"""A map-style data set of conversations: prompts are conditioned on, answers and their ends are learned.

    An item is a dict of `input_ids` (Long, [length]), `attention_mask` (Bool, true for real tokens) and `labels` (the tokens
    of the answers, -100 elsewhere). A diffusion loss does not noise tokens with the label -100, and no loss scores them
    (`noiselab.training.noised_loss`, `causal_loss`). All rows are padded to the longest one; padding is known by its position,
    so that the padding token may be the end of text.

    By default a conversation is two rows. Row i has conversation i with one end, as texts have it that a model corrects or
    whose gaps it fills. Row i + n, for n conversations, is the same one followed by ends up to `width`: a model that generates
    has the same number of positions for each answer, and must fill those after a short one with ends. A model that is trained
    on one kind of row fails at the other task, unless all conversations have the same length.

    **Arguments:**

    - `conversations`: files or rows, see `noiselab.data.messages.read_conversations`. A row of `text` is learned as a whole,
      with its end of text.
    - `tokenizer`: with padding and end-of-text tokens (`load_tokenizer`). Its chat template writes the conversations.
    - `length`: the maximum number of tokens of a row, such as the context of the model.
    - `template`: another chat template, see `with_chat_template`.
    - `too_long`: what happens to longer rows: "refuse" raises an error, "drop" leaves them out, "truncate" cuts their ends
      off, and leaves out those that lose all of their answers.
    - `ends`: "both" for two rows for each conversation, as above; or for one row the number of its ends, at least 1: the
      token that ends it is repeated as far as `length` allows. Causal models, which generate no token after the end, need 1.
      Rows that are cut off do not end.
    - `special`: what happens to conversations in which a message contains a special token of the tokenizer as it is written,
      such as `<s>`: "refuse" raises an error, "drop" leaves them out, "text" encodes it as plain characters, as in rows
      of `text`.

    **Attributes:** `tokenizer` (with the template), `width` (the number of tokens of an item, for
    `GenerationSettings(length=...)`), `conversations` (their number), `dropped` and `truncated` (the numbers of those that were
    too long), `dropped_special` (that of those left out for a special token), `key` (a hash of all tokens).

    **Raises:** `ValueError` if the tokenizer lacks a token, a row is invalid (with its place, see `read_conversations`), a row
    is too long and `too_long` is "refuse", a message contains a special token and `special` is "refuse", or no row is left with
    a token to learn.

    **Example:**

    ```python
    from noiselab.data import ResponseRows, character_tokenizer
    from noiselab.data.chat_templates import PLAIN_TEMPLATE

    rows = [{"prompt": "2+2?", "response": "4"}, {"prompt": "10+10?", "response": "20"}]
    tokenizer = character_tokenizer(["User:\nAssistant:\n0123456789+?"])
    data = ResponseRows(rows, tokenizer, length=40, template=PLAIN_TEMPLATE)
    learned = [tokenizer.decode(row["labels"][row["labels"] != -100]) for row in data]
    assert learned[:2] == ["4<|endoftext|>", "20<|endoftext|>"]  # followed by padding
    assert learned[2:] == ["4" + 4 * "<|endoftext|>", "20<|endoftext|>"]  # the second question and answer are 3 tokens longer
    ```

    **Source:** ends in place of padding in the supervised fine-tuning of LLaDA: Nie et al. (2025), arXiv 2502.09992.
    """

    def __init__(
        self,
        conversations: str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]],
        tokenizer: Any,
        length: int,
        *,
        template: str | Path | None = None,
        too_long: str = "refuse",
        ends: int | Literal["both"] = "both",
        special: str = "refuse",
    ) -> None:
        if too_long not in TOO_LONG:
            raise ValueError(f"too_long must be 'refuse', 'drop' or 'truncate'; got {too_long!r}")
        if special not in SPECIAL:
            raise ValueError(f"special must be 'refuse', 'drop' or 'text'; got {special!r}")
        if length < 2:
            raise ValueError(f"length must be at least 2; got {length}")
        if ends != "both" and (type(ends) is not int or ends < 1):
            raise ValueError(f"ends must be 'both' or a whole number that is at least 1; got {ends!r}")
        if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
            raise ValueError(
                "a tokenizer must have padding and end-of-text tokens; got none (load_tokenizer adds them)"
            )
        self.length, self.too_long, self.vocab_size = length, too_long, vocabulary_size(tokenizer)
        self.special, self.dropped, self.truncated, self.dropped_special = special, 0, 0, 0
        self.ends: int | Literal["both"] = ends
        self.tokenizer, self._template, self._encoder = tokenizer, template, Encoder(tokenizer)
        tokens = array.array("H" if compact_dtype(self.vocab_size) == torch.uint16 else "I")
        learned, starts, shares = bytearray(), array.array("Q", [0]), array.array("d")
        count = 0
        for place, conversation in read_conversations(conversations):
            count += 1
            ids, marks = self._encode(conversation, place)
            if not ids:
                self.dropped_special += 1
                continue
            if not (size := self._fitting(len(ids), marks, place)):
                continue
            tokens.extend(ids[:size])
            learned.extend(marks[:size])
            starts.append(len(tokens))
            shares.append(hash_share(repr(conversation)))
        if not shares:
            raise ValueError(
                f"the data must have at least one row with a token to learn within {length} tokens; of {count} rows "
                f"{self.dropped} lose all of their answers, and {self.dropped_special} contain special tokens"
            )
        self._tokens = np.frombuffer(tokens, dtype=f"u{tokens.itemsize}")
        self._learned = np.frombuffer(learned, dtype=np.bool_)
        self._starts, self._shares = np.frombuffer(starts, dtype=np.int64), np.frombuffer(shares, dtype=np.float64)
        self._rows = np.arange(len(shares))
        sizes = np.diff(self._starts)
        more = 0 if ends == "both" else np.minimum(ends - 1, length - sizes)  # none for rows that were cut off
        self.width = int((sizes + more).max())

    def split(self, share: float | int = 0.05) -> tuple["ResponseRows", "ResponseRows"]:
        """Split into training and held-out rows by a hash of each conversation, so that equal ones are on the same side.

        Held-out rows have one end each (`one_end`), so that repeated ends, which are easily predicted, do not count in bounds.

        **Arguments:**

        - `share`: the expected share of held-out rows, in (0, 1). At least one conversation is held out.

        **Raises:** `ValueError` if `share` is outside (0, 1), or there is only one conversation.
        """
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1; got {share}")
        shares = self._shares[self._rows]
        found = np.unique(shares)
        if len(found) < 2:
            raise ValueError(f"there must be two different conversations or more to hold out one; got {len(found)}")
        limit = min(max(share, np.nextafter(found[0], 2)), found[-1])
        return self._part(self._rows[shares >= limit]), self._part(self._rows[shares < limit]).one_end()

    def first(self, count: int) -> "ResponseRows":
        """The rows of the first `count` conversations, or of all if there are fewer."""
        return self._part(self._rows[:count])

    def one_end(self) -> "ResponseRows":
        """The same conversations as one row each, with one end: for losses and bounds of answers, and for causal models."""
        return self._part(self._rows, ends=1)

    @property
    def conversations(self) -> int:
        """The number of conversations."""
        return len(self._rows)

    @property
    def learned_tokens(self) -> int:
        """The number of tokens that are learned, in all rows."""
        return sum(int(self._row(index)[1].sum()) for index in range(len(self)))

    @property
    def key(self) -> str:
        """A hash of all tokens, which of them are learned, and the tokenizer."""
        digest = hashlib.sha256(f"{self.width}".encode())
        for tokens, learned in map(self._row, range(len(self))):
            digest.update(tokens.tobytes() + learned.tobytes() + b"|")
        return fingerprint([digest.hexdigest(), tokenizer_key(self.tokenizer)])

    def __len__(self) -> int:
        return len(self._rows) * (2 if self.ends == "both" else 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens, learned = self._row(index)
        real = len(tokens)
        ids = torch.full((self.width,), self.tokenizer.pad_token_id)
        ids[:real] = torch.from_numpy(tokens.astype(np.int64))
        chosen = torch.zeros(self.width, dtype=torch.bool)
        chosen[:real] = torch.from_numpy(learned.copy())
        return {
            "input_ids": ids,
            "attention_mask": torch.arange(self.width) < real,
            "labels": torch.where(chosen, ids, IGNORED),
        }

    def __repr__(self) -> str:
        more = [
            f"{name}={value}" for name in ("dropped", "truncated", "dropped_special") if (value := getattr(self, name))
        ]
        if self.ends == "both":
            more.insert(0, f"conversations={self.conversations}")
        return (
            f"ResponseRows({', '.join([f'rows={len(self)}', f'width={self.width}', *more])}, "
            f"learned_tokens={self.learned_tokens}, vocab_size={self.vocab_size})"
        )

    def _part(self, rows: np.ndarray, **changed: Any) -> "ResponseRows":
        found = object.__new__(ResponseRows)
        vars(found).update(vars(self) | {"_rows": rows} | changed)
        return found

    def _row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of an item without padding, and which are learned."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must lie in [{-len(self)}, {len(self)}); got {index}")
        copy, place = divmod(index % len(self), len(self._rows))
        row = self._rows[place]
        part = slice(self._starts[row], self._starts[row + 1])
        tokens, learned = self._tokens[part], self._learned[part]
        if self.ends == "both":
            more = copy * (self.width - len(tokens))
        else:
            more = min(self.ends - 1, self.length - len(tokens))
        if not more:  # such as for a row that was cut off, which has no end
            return tokens, learned
        return np.append(tokens, tokens[-1:].repeat(more)), np.append(learned, np.ones(more, dtype=np.bool_))

    def _encode(self, conversation: str | list[Message], place: Place) -> tuple[list[int], list[bool]]:
        """The tokens of a conversation, and which are learned; none of one that is dropped for a special token."""
        if isinstance(conversation, str):
            (ids,) = self._encoder([conversation])
            return [*ids, self.tokenizer.eos_token_id], [True] * (len(ids) + 1)
        if self._template is not None or not getattr(self.tokenizer, "chat_template", None):
            self.tokenizer, self._template = with_chat_template(self.tokenizer, self._template), None
        if self.special == "refuse" or find_special(self.tokenizer, conversation) is None:
            return encode_pieces(self.tokenizer, split_answers(self.tokenizer, conversation, place))
        if self.special == "drop":
            return [], []
        hidden, signs = hide_special(self.tokenizer, conversation)
        encode = Literally(self.tokenizer, self._encoder, signs)
        return encode_pieces(self.tokenizer, split_answers(self.tokenizer, hidden, place), encode)

    def _fitting(self, size: int, marks: list[bool], place: Place) -> int:
        """The number of tokens of a row that are kept; counts those that are not."""
        if size <= self.length:
            return size
        if self.too_long == "refuse":
            raise ValueError(
                f"a row must have at most {self.length} tokens, or too_long must be 'drop' or 'truncate'; {place} has {size}"
            )
        kept = self.too_long == "truncate" and any(marks[: self.length])
        self.dropped, self.truncated = self.dropped + (not kept), self.truncated + kept
        return self.length if kept else 0
