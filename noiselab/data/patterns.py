"""Regular expressions and JSON schemas as automata over the tokens of a tokenizer (`pip install noiselab[constraints]`)."""

import importlib.util
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..constraints import TokenAutomaton
from ..numerics import require_count
from .pattern_starts import FIRST, begun
from .schemas import require_whole
from .token_texts import token_texts
from .tokenizers import vocabulary_size

if TYPE_CHECKING:
    import transformers

LAST = "\U0010ffff"
"""A code point that is no character, after which a text ends; a text that contains it matches nothing."""


def regex_automaton(
    pattern: str, tokenizer: "transformers.PreTrainedTokenizerBase", *, vocab_size: int | None = None
) -> TokenAutomaton:
    r"""The automaton of all token sequences whose whole text matches a regular expression.

    The library outlines-core makes it. A text is accepted in each way in which tokens can write it, also in ways in which the
    tokenizer would not. Special tokens and masks never match; `TokenAutomaton.ending` adds the end token.

    With tokenizers that put a space before each word (Metaspace, as in Llama 2; WordPiece), the tokens of a text begin with a
    space that decoding removes: the first token is the beginning of a word, and the pattern does not contain that space, also
    after a prompt.

    **Arguments:**

    - `pattern`: a regular expression of the Rust crate regex, without anchors and look-around; it must match the whole text.
    - `tokenizer`: a tokenizer of `transformers` whose text is that of its tokens joined: byte-level, byte-fallback, Metaspace,
      characters, or WordPiece without cleanup.
    - `vocab_size`: the number of tokens of the noise process, by default that of the tokenizer.

    **Raises:** `ValueError` for a pattern that is not one, or that the tokens cannot write, and for other tokenizers;
    `ImportError` without outlines-core.

    **Source:** Willard and Louf (2023), arXiv 2307.09702.

    **Example:**

    ```python
    import torch
    from noiselab.data import regex_automaton, train_tokenizer

    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280)
    date = regex_automaton("[0-9]{4}-[0-9]{2}", tokenizer)
    assert date.accepts(torch.tensor([tokenizer("2024-05")["input_ids"]])).all()
    ```
    """
    if importlib.util.find_spec("outlines_core") is None:
        raise ImportError("regular expressions need the package outlines-core: pip install noiselab[constraints]")
    if not isinstance(pattern, str):
        raise ValueError(f"pattern must be a regular expression, a string; got {pattern!r}")
    size = vocabulary_size(tokenizer) if vocab_size is None else require_count("vocab_size", vocab_size)
    texts = token_texts(tokenizer)
    ids: dict[bytes, list[int]] = {}
    for token, piece in texts.pieces.items():
        if token < size:
            ids.setdefault(piece, []).append(token)
    states, accepting, start, edges = _index(f"{texts.lead}(?:{pattern})" if texts.lead else pattern, ids, size)
    return TokenAutomaton.from_edges(edges, accepting, states=states, vocab_size=size, start=start)


def json_automaton(
    schema: Mapping[str, Any] | str,
    tokenizer: "transformers.PreTrainedTokenizerBase",
    *,
    vocab_size: int | None = None,
    whitespace: str | None = None,
) -> TokenAutomaton:
    """The automaton of all token sequences that write JSON of a schema, by the regular expression of outlines-core for it.

    Properties come in the order of the schema. Strings and arrays without a maximum length may be as long as the sequence;
    keywords that the library does not support, such as `minimum`, `uniqueItems` and `not`, are refused. `oneOf` means `anyOf`,
    and `pattern` is what is between the quotes, as it is written there.

    **Arguments:**

    - `schema`: a JSON schema, as a mapping or as text.
    - `tokenizer`, `vocab_size`: as for `regex_automaton`.
    - `whitespace`: a regular expression of what may be between the parts, by default one space or none.

    **Raises:** `ValueError` for a schema that is none or is not supported, and as `regex_automaton`; `ImportError` without
    outlines-core.

    **Example:**

    ```python
    import torch
    from noiselab.data import json_automaton, train_tokenizer

    tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280)
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    automaton = json_automaton(schema, tokenizer)
    assert automaton.accepts(torch.tensor([tokenizer('{"age": 12}')["input_ids"]])).all()
    ```
    """
    if importlib.util.find_spec("outlines_core") is None:
        raise ImportError("JSON schemas need the package outlines-core: pip install noiselab[constraints]")
    from outlines_core.json_schema import build_regex_from_schema

    if not isinstance(schema, Mapping | str):
        raise ValueError(f"schema must be a JSON schema, a mapping or its text; got {schema!r}")
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        require_whole(json.loads(text))
        pattern = build_regex_from_schema(text, whitespace)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"schema must be a JSON schema that outlines-core supports; got {schema!r}: {error}"
        ) from error
    return regex_automaton(pattern, tokenizer, vocab_size=vocab_size)


def _index(pattern: str, ids: dict[bytes, list[int]], size: int) -> tuple[int, list[int], int, Tensor]:
    """The number of states, the accepting ones, the first one, and the transitions, of a pattern."""
    from outlines_core import Index, Vocabulary

    # outlines-core 0.2.14 stops at the first match: it has no transition of `b` for `a(bc)?`, and of `a|abc` has `a` alone.
    # With a last character that texts do not contain, the first match is the whole text.
    stop, end = size, size + 1  # ids of no token; the second is one that the library wants
    begin = size + 2  # and one with which a pattern begins
    words = {**ids, LAST.encode(): [stop]}
    try:
        if whole := begun(pattern):
            index = Index(f"{whole}{LAST}", Vocabulary(end, {**words, FIRST.encode(): [begin]}))
        else:
            # By itself, so that no parenthesis of the pattern closes the group around it.
            Index(f"{pattern}|{LAST}", Vocabulary(end, {LAST.encode(): [stop]}))
            index = Index(f"(?:{pattern}){LAST}", Vocabulary(end, words))
    except ValueError as error:
        why = "they write no text that matches" if "incompatible with the regex" in str(error) else error
        raise ValueError(
            "pattern must be a regular expression without anchors and look-around that the tokens can write; got "
            f"{pattern!r}: {why}"
        ) from error
    found, final = index.get_transitions(), index.get_final_states()
    start = index.get_initial_state()
    start = found[start][begin] if whole else start
    number = {state: i for i, state in enumerate({*found, *final, start})}
    edges = [np.zeros((0, 3), dtype=np.int64)]
    for state, moves in found.items():
        tokens = np.fromiter(moves, np.int64, len(moves))
        after = np.fromiter((number[state] for state in moves.values()), np.int64, len(moves))
        edges.append(np.stack((np.full(len(moves), number[state]), tokens, after), 1)[tokens < size])
    accepting = [number[state] for state, moves in found.items() if moves.get(stop) in final]
    return len(number), accepting, number[start], torch.from_numpy(np.concatenate(edges))
