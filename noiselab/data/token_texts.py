"""What each token of a tokenizer writes, in bytes, so that the text of a sequence is the bytes of its tokens joined."""

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from .tokenizers import token_support

if TYPE_CHECKING:
    import transformers

CHECKED = 1024  # tokens whose bytes are compared with what the tokenizer decodes


class TokenTexts(NamedTuple):
    """The bytes of each token.

    **Arguments:**

    - `pieces`: the bytes, by id; only tokens that write something. Special tokens write nothing.
    - `lead`: what the bytes of a text begin with, and its decoded text does not: a space, for tokenizers that put one before
      each word.
    """

    pieces: dict[int, bytes]
    lead: str = ""


def token_texts(tokenizer: "transformers.PreTrainedTokenizerBase") -> TokenTexts:
    """What each token writes, from the rules by which the tokenizer decodes.

    **Raises:** `ValueError` for a tokenizer whose text is not that of its tokens joined, such as one that removes spaces
    before punctuation.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = None if backend is None else json.loads(backend.to_str())["decoder"]
    if rules is None:
        raise ValueError(
            "the tokenizer must say how its tokens are joined (a decoder of the library tokenizers); "
            f"{type(tokenizer).__name__} does not"
        )
    steps = rules["decoders"] if rules["type"] == "Sequence" else [rules]
    support, end = token_support(tokenizer), tokenizer.eos_token_id
    words: dict[int, Any] = {i: word for word, i in tokenizer.get_vocab().items() if support[i] and i != end}
    lead = ""
    for step in steps:
        words, lead = _decoded(words, step, lead)
    pieces = {i: word.encode() if isinstance(word, str) else word for i, word in words.items()}
    found = TokenTexts({i: piece for i, piece in pieces.items() if piece}, lead)
    _check(tokenizer, found)
    return found


def _decoded(words: dict[int, Any], step: dict[str, Any], lead: str) -> tuple[dict[int, Any], str]:
    """The tokens after one step of a decoder."""
    kind = step["type"]
    if kind == "Fuse":
        return words, lead
    if kind == "ByteLevel":
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte = {character: number for number, character in bytes_to_unicode().items()}
        known = {i: all(character in byte for character in word) for i, word in words.items()}
        return {
            i: bytes(byte[character] for character in word) if known[i] else word for i, word in words.items()
        }, lead
    if kind == "ByteFallback":
        return {i: bytes([int(word[3:5], 16)]) if _is_byte(word) else word for i, word in words.items()}, lead
    if kind == "Replace" and "String" in step["pattern"]:
        old, new = step["pattern"]["String"], step["content"]
        return {i: word.replace(old, new) if isinstance(word, str) else word for i, word in words.items()}, lead
    if kind == "Metaspace":
        words = {i: word.replace(step["replacement"], " ") for i, word in words.items()}
        return words, lead if step.get("prepend_scheme", "always") == "never" else " "
    if kind == "Strip" and step["content"] == " " and step["start"] <= 1 and step["stop"] == 0:
        return words, " " if step["start"] else lead
    if kind == "WordPiece" and not step["cleanup"]:
        prefix = step["prefix"]
        return {
            i: word.removeprefix(prefix) if word.startswith(prefix) else f" {word}" for i, word in words.items()
        }, " "
    more = " with cleanup, which removes spaces before punctuation" if kind == "WordPiece" else ""
    raise ValueError(
        "the tokenizer must decode a text to its tokens joined (ByteLevel, ByteFallback, Metaspace, Fuse, WordPiece without "
        f"cleanup); got the step {kind}{more}: write a noiselab.constraints.TokenAutomaton over its tokens instead"
    )


def _is_byte(word: object) -> bool:
    if not isinstance(word, str) or len(word) != 6 or not (word.startswith("<0x") and word.endswith(">")):
        return False
    return all(digit in "0123456789abcdefABCDEF" for digit in word[3:5])


def _check(tokenizer: Any, texts: TokenTexts) -> None:
    """Raise `ValueError` if some tokens, after a first one, are not decoded to their bytes."""
    lead, pieces = texts.lead.encode(), texts.pieces
    first = next((i for i, piece in pieces.items() if piece.startswith(lead) and piece[len(lead) :].isalnum()), None)
    if first is None:
        return
    ids = sorted(pieces, key=lambda i: (len(pieces[i]), i))
    rest = ids[CHECKED // 2 :]
    some = ids[: CHECKED // 2] + rest[:: max(1, 2 * len(rest) // CHECKED)]
    rows = [[first, i] for i in some]
    for row, text in zip(rows, tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False), strict=True):
        joined = b"".join(pieces[i] for i in row)[len(lead) :]
        if joined.decode(errors="replace") != text:
            raise ValueError(
                f"the tokenizer must decode a text to its tokens joined; it decodes {tokenizer.convert_ids_to_tokens(row)} to "
                f"{text!r}, not {joined!r}"
            )
