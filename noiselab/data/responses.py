"""ResponseRows: prompts and answers as training data, with a loss on the answers alone."""

import array
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .blocks import compact_dtype
from .chat_templates import Piece, find_special, hide_special, special_tokens, split_answers, with_chat_template
from .corpus import fingerprint, hash_share
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

    **Arguments:**

    - `conversations`: files or rows, see `noiselab.data.messages.read_conversations`. A row of `text` is learned as a whole,
      with its end of text.
    - `tokenizer`: with padding and end-of-text tokens (`load_tokenizer`). Its chat template writes the conversations.
    - `length`: the maximum number of tokens of a row, such as the context of the model.
    - `template`: another chat template, see `with_chat_template`.
    - `too_long`: what happens to longer rows: "refuse" raises an error, "drop" leaves them out, "truncate" cuts their ends
      off, and leaves out those that lose all of their answers.
    - `ends`: how often the token that ends a row is repeated, as far as `length` allows, at least 1. With more than 1, a
      model can generate into more positions than its answer needs, and fills them with ends.
    - `special`: what happens to conversations in which a message contains a special token of the tokenizer as it is written,
      such as `<s>`: "refuse" raises an error, "drop" leaves them out, "text" encodes it as plain characters, as in rows
      of `text`.

    **Attributes:** `tokenizer` (with the template), `width` (the number of tokens of an item), `dropped` and `truncated` (the
    numbers of rows that were too long), `dropped_special` (that of conversations left out for a special token), `key` (a hash
    of all tokens).

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
    labels = data[1]["labels"]
    assert tokenizer.decode(labels[labels != -100]) == "20<|endoftext|>"
    ```
    """

    def __init__(
        self,
        conversations: str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]],
        tokenizer: Any,
        length: int,
        *,
        template: str | Path | None = None,
        too_long: str = "refuse",
        ends: int = 1,
        special: str = "refuse",
    ) -> None:
        if too_long not in TOO_LONG:
            raise ValueError(f"too_long must be 'refuse', 'drop' or 'truncate'; got {too_long!r}")
        if special not in SPECIAL:
            raise ValueError(f"special must be 'refuse', 'drop' or 'text'; got {special!r}")
        if length < 2 or ends < 1:
            raise ValueError(f"length must be at least 2 and ends at least 1; got {length} and {ends}")
        if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
            raise ValueError(
                "a tokenizer must have padding and end-of-text tokens; got none (load_tokenizer adds them)"
            )
        self.length, self.too_long, self.vocab_size = length, too_long, vocabulary_size(tokenizer)
        self.special, self.dropped, self.truncated, self.dropped_special = special, 0, 0, 0
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
            more = min(ends - 1, length - len(ids)) if size == len(ids) else 0  # the end of a truncated row is unknown
            tokens.extend([*ids[:size], *ids[-1:] * more])
            learned.extend([*marks[:size], *[True] * more])
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
        self.width = int(np.diff(self._starts).max())

    def split(self, share: float | int = 0.05) -> tuple["ResponseRows", "ResponseRows"]:
        """Split into training and held-out rows by a hash of each conversation, so that equal ones are on the same side.

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
        return self._part(self._rows[shares >= limit]), self._part(self._rows[shares < limit])

    def first(self, count: int) -> "ResponseRows":
        """The first `count` rows, or all if there are fewer."""
        return self._part(self._rows[:count])

    @property
    def learned_tokens(self) -> int:
        """The number of tokens that are learned, in all rows."""
        return sum(int(self._learned[self._starts[row] : self._starts[row + 1]].sum()) for row in self._rows)

    @property
    def key(self) -> str:
        """A hash of all tokens, which of them are learned, and the tokenizer."""
        digest = hashlib.sha256(f"{self.width}".encode())
        for row in self._rows:
            part = slice(self._starts[row], self._starts[row + 1])
            digest.update(self._tokens[part].tobytes() + self._learned[part].tobytes() + b"|")
        return fingerprint([digest.hexdigest(), tokenizer_key(self.tokenizer)])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self._rows[index]
        part = slice(self._starts[row], self._starts[row + 1])
        real = part.stop - part.start
        ids = torch.full((self.width,), self.tokenizer.pad_token_id)
        ids[:real] = torch.from_numpy(self._tokens[part].astype(np.int64))
        chosen = torch.zeros(self.width, dtype=torch.bool)
        chosen[:real] = torch.from_numpy(self._learned[part].copy())
        return {
            "input_ids": ids,
            "attention_mask": torch.arange(self.width) < real,
            "labels": torch.where(chosen, ids, IGNORED),
        }

    def __repr__(self) -> str:
        more = [
            f"{name}={value}" for name in ("dropped", "truncated", "dropped_special") if (value := getattr(self, name))
        ]
        return (
            f"ResponseRows({', '.join([f'rows={len(self)}', f'width={self.width}', *more])}, "
            f"learned_tokens={self.learned_tokens}, vocab_size={self.vocab_size})"
        )

    def _part(self, rows: np.ndarray) -> "ResponseRows":
        found = object.__new__(ResponseRows)
        vars(found).update(vars(self) | {"_rows": rows})
        return found

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


class Literally:
    """Encodes a text in which signs replace special tokens that are plain characters (`hide_special`).

    **Arguments:**

    - `tokenizer`: the tokenizer; `encoder`: its `Encoder`.
    - `signs`: the special token of each sign.
    """

    def __init__(self, tokenizer: Any, encoder: Encoder, signs: Mapping[str, str]) -> None:
        self.tokenizer, self.encoder, self.signs = tokenizer, encoder, signs
        self.special = re.compile(f"({'|'.join(map(re.escape, special_tokens(tokenizer)))})")

    def __call__(self, text: str) -> list[int]:
        """The token ids: the special tokens of the template, and between them the characters of the text."""
        found: list[int] = []
        for number, part in enumerate(self.special.split(text)):
            if number % 2:  # the matches are at the odd places
                found.append(self.tokenizer.convert_tokens_to_ids(part))
            elif part:
                for sign, token in self.signs.items():
                    part = part.replace(sign, token)
                found += next(self.encoder([part]))
        return found


def encode_pieces(
    tokenizer: Any, pieces: Sequence[Piece], encode: Callable[[str], list[int]] | None = None
) -> tuple[list[int], list[bool]]:
    """Encode the parts of a text so that each part before an answer has the tokens that it has alone.

    A model that generates is given the tokens of the prompt alone. Where the tokens of the whole text do not begin with them,
    because a token would cross the border, the part that follows is encoded alone.

    **Arguments:**

    - `tokenizer`: a tokenizer of transformers; names of special tokens in the text become these tokens.
    - `pieces`: see `split_answers`.
    - `encode`: another function from a text to its tokens.

    **Returns:** the token ids, and for each whether its part is learned.
    """
    encode = encode or (lambda text: _encoded(tokenizer, text))
    ids: list[int] = []
    marks: list[bool] = []
    text = ""
    for part, learned in pieces:
        text += part
        joint = encode(text)
        new = joint[len(ids) :] if joint[: len(ids)] == ids else encode(part)
        ids += new
        marks += [learned] * len(new)
    return ids, marks


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
