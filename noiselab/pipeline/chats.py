"""Conversations as prompts: lists of messages, checked and rendered by the chat template of the tokenizer."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from ..dialogue import Chat
from ..networks.lengths import check_fits
from .base import Pipeline, Text

Conversation: TypeAlias = Sequence[Mapping[str, Any]]
"""Messages with "role" and "content"."""
Prompts: TypeAlias = Sequence[str] | Sequence[Conversation]
"""Texts, or conversations."""

KEYS = {"role", "content"}


class Passage(NamedTuple):
    """The tokens of a text that a call may change, with those around it: those of a conversation that ends with an answer.

    **Arguments:**

    - `own`: the tokens that may change.
    - `before`, `after`: those around them, which do not.
    - `kept`: the number of tokens of `after` that belong to the text that is returned.
    """

    own: list[int]
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    kept: int = 0

    @property
    def whole(self) -> list[int]:
        """All tokens."""
        return [*self.before, *self.own, *self.after]


def are_chats(prompts: object) -> TypeGuard[Sequence[Conversation]]:
    """Whether prompts are conversations, not texts; they are not checked."""
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence):
        return False
    return any(isinstance(prompt, Mapping) or _is_list(prompt) for prompt in prompts)


def chat_of(pipe: Pipeline) -> Chat:
    """The chat template of a pipeline.

    **Raises:** `ValueError` if the tokenizer has none.
    """
    if not getattr(pipe.tokenizer, "chat_template", None):
        raise ValueError(
            "conversations need a tokenizer with a chat template; this one has none: set pipe.tokenizer.chat_template to a "
            "Jinja template, which save_pretrained stores with the model, or pass texts"
        )
    try:
        return Chat(pipe.network, pipe.tokenizer)
    except Exception as error:  # raised by the template
        raise ValueError(
            f"the chat template must render a message of a user and one of an assistant: {error}"
        ) from error


def encode_chats(pipe: Pipeline, chat: Chat, chats: Sequence[Conversation], name: str = "prompts") -> list[list[int]]:
    """The tokens of conversations, ready for the next answer.

    **Raises:** `ValueError` naming the conversation and message that is none, or a conversation that has no message to
    answer, or is longer than the context.
    """
    found = []
    for index, messages in enumerate(_checked(chats, name)):
        if messages[-1]["role"] == "assistant":
            raise ValueError(
                f"{name} must end with a message to answer; conversation {index} ends with one of the assistant "
                "(self_correction and infill change answers)"
            )
        ids = chat.encode(_rendered(chat, messages, index, name, answer=False))
        check_fits(len(ids), pipe.length, f"conversation {index}", "conversations are not truncated")
        found.append(ids)
    return found


def encode_answered(pipe: Pipeline, chat: Chat, chats: Sequence[Conversation], *, gaps: bool = False) -> list[Passage]:
    """The tokens of conversations that end with an answer; an answer that a pipeline generated keeps its tokens.

    **Arguments:**

    - `gaps`: whether mask tokens in the answer, as the tokenizer writes them, are gaps; otherwise they are plain characters.

    **Raises:** `ValueError` naming the conversation and message that is none, or a conversation that does not end with an
    answer, or is longer than the context.
    """
    found, name = [], "texts"
    for index, messages in enumerate(_checked(chats, name)):
        last = messages[-1]
        if last["role"] != "assistant":
            raise ValueError(
                f"{name} must end with an answer; the last message of conversation {index} is by {last['role']!r}"
            )
        content = last["content"]
        before = chat.encode(_rendered(chat, messages[:-1], index, name, answer=False)) if messages[:-1] else []
        _, there, ending = _rendered(chat, messages, index, name, answer=True).rpartition(str(content).strip())
        if not there:
            raise ValueError(
                f"the chat template must write answers as they are; it changes that of conversation {index}"
            )
        drawn = isinstance(content, Text) and content.tokenizer is pipe.tokenizer
        answer = chat.encode(content) if gaps and not drawn else pipe.encode([content])[0]
        ended = drawn and answer[-1] in chat.ends
        # An answer that was drawn and did not end is one without an end.
        after = [answer[-1]] if ended else [] if drawn else chat.encode(ending)
        made = Passage(answer[:-1] if ended else answer, before, after, int(ended))
        if not made.own:
            raise ValueError(f"{name} must have answers with tokens; that of conversation {index} has none")
        check_fits(len(made.whole), pipe.length, f"conversation {index}", "conversations are not truncated")
        found.append(made)
    return found


def encode_answers(pipe: Pipeline, chats: Sequence[Conversation]) -> list[list[int]]:
    """The tokens of the last answers of conversations, as a correction returns them.

    **Raises:** `ValueError` as `encode_answered`.
    """
    return [[*one.own, *one.after[: one.kept]] for one in encode_answered(pipe, chat_of(pipe), chats)]


def warn_of_erased(pipe: Pipeline, texts: Prompts, corrected: Sequence[str]) -> None:
    """Warn if texts were corrected to nothing by a model that has a chat template, hence may know conversations alone."""
    if are_chats(texts) or not getattr(pipe.tokenizer, "chat_template", None):
        return
    erased = [i for i, (old, new) in enumerate(zip(texts, corrected, strict=False)) if old and not new]
    if erased:
        warnings.warn(
            f"self_correction left nothing of {len(erased)} of {len(corrected)} texts, such as text {erased[0]}: a model that "
            "was trained on conversations corrects answers at the end of conversations, [{'role': 'user', ...}, {'role': "
            "'assistant', ...}]",
            UserWarning,
            stacklevel=3,
        )


def warn_of_empty(pipe: Pipeline, prompts: Prompts | None, length: object, answers: Sequence[str]) -> None:
    """Warn if all answers in the whole context are empty, as of a model with more positions than any answer in its training."""
    if length in (None, "auto") and pipe.generation.length is None and are_chats(prompts) and not any(answers):
        warnings.warn(
            "all answers are empty: give length=, the number of tokens of the longest conversation in training (width of "
            "ResponseRows), or save it with the model as GenerationSettings(length=...)",
            UserWarning,
            stacklevel=3,
        )


def _rendered(chat: Chat, messages: Sequence[Mapping[str, Any]], index: int, name: str, *, answer: bool) -> str:
    try:
        return chat.text([dict(message) for message in messages], start=None if answer else "")
    except Exception as error:  # templates raise errors of their own, such as for roles that do not alternate
        raise ValueError(f"{name} must fit the chat template; conversation {index}: {error}") from error


def _checked(chats: Sequence[Conversation], name: str) -> list[list[Mapping[str, Any]]]:
    if chats and all(isinstance(one, Mapping) for one in chats):
        raise ValueError(f"{name} must be a list of conversations; got one conversation (put it into a list)")
    found = []
    for index, messages in enumerate(chats):
        where = f"conversation {index}"
        if not _is_list(messages):
            raise ValueError(
                f"{name} must all be conversations or all be texts; item {index} is a {type(messages).__name__}"
            )
        if not messages:
            raise ValueError(f"{name} must have at least one message each; {where} has none")
        for number, message in enumerate(messages):
            _check_message(message, f"message {number} of {where}")
        found.append(list(messages))
    return found


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, Mapping):
        raise ValueError(f"a message must have a role and content; {where} is a {type(message).__name__}")
    if set(message) != KEYS:
        missing, unknown = sorted(KEYS - set(message)), sorted(map(str, set(message) - KEYS))
        came = " and ".join([f"lacks {missing}"] * bool(missing) + [f"has {unknown}"] * bool(unknown))
        raise ValueError(f"a message must have the keys role and content, and no others; {where} {came}")
    for key in ("role", "content"):
        if not isinstance(message[key], str) or not message[key].strip():
            raise ValueError(
                f"the {key} of a message must be a text that is not empty; that of {where} is {message[key]!r}"
            )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
