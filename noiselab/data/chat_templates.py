"""Chat templates: conversations as text, and which parts of the text are answers."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .messages import Message
from .records import Place, read_text

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% else %}{{ '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""For tokenizers without a template: each role on a line of its own, and the end-of-text token after each answer."""
Piece = tuple[str, bool]
"""A part of a text, and whether it is learned."""


def with_chat_template(tokenizer: Any, template: str | Path | None = None) -> Any:
    r"""Return a tokenizer that has a chat template, which `save_pretrained` writes with it.

    Templates are Jinja programs, which transformers runs in a sandbox.

    **Arguments:**

    - `tokenizer`: a tokenizer of transformers. It is not modified.
    - `template`: the template, or the `Path` of a file with it. By default the tokenizer's own; if it has none,
      `PLAIN_TEMPLATE`, which a warning says.

    **Raises:** `ValueError` if the file cannot be read, or the tokenizer has no end-of-text token.

    **Example:**

    ```python
    from noiselab.data import character_tokenizer
    from noiselab.data.chat_templates import PLAIN_TEMPLATE, with_chat_template

    tokenizer = with_chat_template(character_tokenizer(["User:\nAssistant:\n2+2?4"]), PLAIN_TEMPLATE)
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "User:\n2+2?\n\nAssistant:\n4<|endoftext|>"
    ```
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "a tokenizer must have an end-of-text token, by which a model learns where answers end; got none "
            "(noiselab.data.load_tokenizer adds one)"
        )
    if template is None:
        if getattr(tokenizer, "chat_template", None):
            return tokenizer
        warnings.warn(
            "the tokenizer has no chat template; conversations are written as 'User:', a line end and the message, then "
            "'Assistant:', a line end, the answer and the end-of-text token (noiselab.data.chat_templates.PLAIN_TEMPLATE)",
            UserWarning,
            stacklevel=2,
        )
        template = PLAIN_TEMPLATE
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = read_text(template) if isinstance(template, Path) else template
    return tokenizer


def split_answers(tokenizer: Any, messages: Sequence[Message], place: Place = "the conversation") -> list[Piece]:
    r"""Write a conversation with the chat template of a tokenizer, and split it into prompts and answers.

    An answer begins where the template's generation prompt ends, and includes the special token that the template writes
    after it, such as `<|im_end|>`. If there is none, the last answer is followed by the end-of-text token. What comes after the
    last answer is dropped.

    **Arguments:**

    - `tokenizer`: a tokenizer with a chat template.
    - `messages`: the conversation, with at least one message of the assistant.
    - `place`: its name, for messages of errors.

    **Returns:** the parts of the text in order, each with whether it is an answer.

    **Raises:** `ValueError` if the template cannot write the conversation, does not write an answer, or a message contains a
    special token of the tokenizer.

    **Example:**

    ```python
    from noiselab.data import character_tokenizer
    from noiselab.data.chat_templates import PLAIN_TEMPLATE, split_answers, with_chat_template

    tokenizer = with_chat_template(character_tokenizer(["User:\nAssistant:\n2+2?4"]), PLAIN_TEMPLATE)
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    assert split_answers(tokenizer, messages) == [("User:\n2+2?\n\nAssistant:\n", False), ("4<|endoftext|>", True)]
    ```
    """
    special = special_tokens(tokenizer)
    if found := find_special(tokenizer, messages):
        raise ValueError(
            f"messages must not contain special tokens of the tokenizer; message {found[0]} of {place} has {found[1]!r} (in "
            "ResponseRows, special='drop' leaves such conversations out, and special='text' takes it as plain characters)"
        )
    text = _render(tokenizer, messages, place)
    pieces: list[Piece] = []
    done = 0
    for start, stop, last in _answers(tokenizer, messages, text, place):
        after = text[stop:]
        end = next((token for token in special if after.lstrip().startswith(token)), None)
        answer = text[start:stop]
        if end is not None:
            answer += after[: len(after) - len(after.lstrip())] + end
        elif last:
            answer += after.rstrip() + tokenizer.eos_token
        pieces += [(text[done:start], False), (answer, True)]
        done = start + len(answer)
    return [piece for piece in pieces if piece[0]]


def special_tokens(tokenizer: Any) -> list[str]:
    """The special tokens of a tokenizer as they are written, the longest first."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    return sorted(found, key=lambda token: (-len(token), token))


def find_special(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, str] | None:
    """The number of the first message that contains a special token as it is written, and the token; `None` if none does."""
    special = special_tokens(tokenizer)
    found = (
        (number, token) for number, message in enumerate(messages) for token in special if token in message["content"]
    )
    return next(found, None)


def hide_special(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
    """Messages with a sign in place of each special token that they contain, so that a template can write them.

    **Returns:** the messages, and the special token of each sign.
    """
    contents = "".join(message["content"] for message in messages)
    signs = (sign for code in range(0xF0000, 0xFFFFE) if (sign := chr(code)) not in contents)  # of private use
    found: dict[str, str] = {}
    hidden = [dict(message) for message in messages]
    for token in special_tokens(tokenizer):  # the longest first, which may contain another
        if any(token in message["content"] for message in hidden):
            sign = next(signs)
            found[sign] = token
            for message in hidden:
                message["content"] = message["content"].replace(token, sign)
    return hidden, found


def _answers(tokenizer: Any, messages: Sequence[Message], text: str, place: Place) -> Iterator[tuple[int, int, bool]]:
    """Where each answer begins and ends in the text, and whether it is the last message of the assistant."""
    numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    done = 0
    for number in numbers:
        # Templates strip and rewrite contents, so the answer is what changes when it is replaced by a sign of its own.
        sign = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
        other = list(messages)
        other[number] = {"role": "assistant", "content": sign}
        changed = _render(tokenizer, other, place)
        if sign not in changed:
            raise ValueError(f"the chat template must write every answer; it leaves out message {number} of {place}")
        start = _common(text, changed)
        stop = len(text) - _common(text[start:][::-1], changed[start:][::-1])
        # A model that generates is given the generation prompt only, and writes all that follows.
        opened = _render(tokenizer, messages[:number], place, add_generation_prompt=True) if number else ""
        if done <= len(opened) <= start and text.startswith(opened):
            start = len(opened)
        yield start, stop, number == numbers[-1]
        done = stop


def _common(one: str, other: str) -> int:
    """The length of the common beginning of two texts."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _render(tokenizer: Any, messages: Sequence[Message], place: Place, **settings: Any) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, **settings)
    except (TemplateError, TypeError, ValueError) as error:
        raise ValueError(f"the chat template must be able to write each conversation; {place}: {error}") from error
