"""The tokens of the parts of a conversation, such that a prompt has the tokens that it has alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .chat_templates import Piece, special_tokens
from .tokenizers import Encoder


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
