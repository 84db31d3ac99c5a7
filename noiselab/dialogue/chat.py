"""A chat model: a causal network, its tokenizer, and the template that turns a conversation into text."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn

Message: TypeAlias = dict[str, str]
"""What someone says: "role", for example "user" or "assistant", and "content"."""

OPENING = ""  # an assistant message that begins with nothing


class Chat:
    r"""A causal network and its tokenizer, which speak in conversations.

    The tokens of a conversation are always those of the whole text that the template makes of it, beginning of text and
    marks of turns included; nothing is added by the tokenizer. What was read before is compared with them token by token
    (`Conversations`), so that a template that drops or rewrites earlier messages has the last word.

    **Arguments:**

    - `network`: a causal model of transformers, in evaluation mode; without a cache any that is called with `input_ids`.
    - `tokenizer`: a tokenizer of transformers.
    - `template`: a chat template in Jinja; that of the tokenizer by default.
    - `end`: the tokens that end an assistant message when they are written, one or more. By default the end of text of the
      tokenizer, and such special tokens as the template writes behind an assistant message, or the generation settings of
      the network have for it.

    **Raises:** `ValueError` for a tokenizer without a chat template, when none is given.

    **Example:**

    ```python
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.data import character_tokenizer
    from noiselab.dialogue import Chat

    tokenizer = character_tokenizer(["user: assistant: hello\n"])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    chat = Chat(network, tokenizer, template=template)
    assert chat.text([{"role": "user", "content": "hello"}]) == "user: hello\nassistant: "
    assert tokenizer.eos_token_id in chat.ends
    ```
    """

    def __init__(
        self, network: nn.Module, tokenizer: Any, *, template: str | None = None, end: int | Sequence[int] | None = None
    ) -> None:
        if template is None and not getattr(tokenizer, "chat_template", None):
            raise ValueError("the tokenizer must have a chat template, or one be given as template; got neither")
        self.network, self.tokenizer, self.template = network, tokenizer, template
        config: Any = getattr(network, "config", None)
        inner = config.get_text_config() if hasattr(config, "get_text_config") else config
        limit = getattr(inner, "max_position_embeddings", None)
        self.limit: int | None = limit if isinstance(limit, int) else None
        ends = self._ends() if end is None else [end] if isinstance(end, int) else end
        self.ends: frozenset[int] = frozenset(ends)

    def text(self, messages: Sequence[Message], *, start: str | None = OPENING) -> str:
        """What the template makes of a conversation.

        **Arguments:**

        - `messages`: the conversation so far.
        - `start`: what the assistant message that comes next begins with, perhaps nothing; None if none comes.
        """
        asked: list[Message] = [dict(message) for message in messages]
        settings: dict[str, Any] = {"add_generation_prompt": start == OPENING}
        if start:
            # The template puts what it wants between its mark and the words, which its generation prompt alone may not.
            asked.append({"role": "assistant", "content": start})
            settings = {"continue_final_message": True}
        return self.tokenizer.apply_chat_template(asked, tokenize=False, chat_template=self.template, **settings)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, and no others."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokens(self, messages: Sequence[Message], *, start: str | None = OPENING) -> list[int]:
        """The tokens of a conversation.

        **Arguments:**

        - `messages`, `start`: as for `text`.
        """
        return self.encode(self.text(messages, start=start))

    def content(self, messages: Sequence[Message], prompt: list[int], written: list[int], *, start: str) -> str:
        """The assistant message that was written, without white space that the template writes itself.

        **Arguments:**

        - `messages`: the conversation before it.
        - `prompt`: the tokens behind which it was written, those of `start` among them; `written`: its own.
        - `start`: what it had to begin with.

        **Returns:** `start` and what was written, such that the template makes of it the text that the network wrote; where
        no white space at its ends leads to that, without any.

        **Raises:** `ValueError` if the tokenizer makes another text of the prompt when tokens follow it.
        """
        # Many a tokenizer drops the space before the first of the tokens that it decodes.
        before, whole = self._decode(prompt), self._decode([*prompt, *written])
        if not whole.startswith(before):
            came = f"{before[-40:]!r} became {whole[: len(before)][-40:]!r}"
            raise ValueError(f"the text of tokens must begin with that of the first of them; {came}")
        new = whole[len(before) :]
        said, opened = start + new, self.text(messages, start=start) + new
        for content in (said, said.lstrip(), said.strip()):
            if self.text([*messages, {"role": "assistant", "content": content}], start=None).startswith(opened):
                return content
        return said.strip()

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _ends(self) -> set[int]:
        """What ends an assistant message: end of text, and what the template writes between it and the next."""
        settings = getattr(getattr(self.network, "generation_config", None), "eos_token_id", None)
        said = "something"
        spoken = [("user", "x"), ("assistant", said), ("user", "x")]
        text = self.text([{"role": role, "content": content} for role, content in spoken], start=None)
        behind = self.encode(text.rpartition(said)[2].lstrip())[:1]
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        # A small network often has the settings of a large one, in whose vocabulary it ends nothing.
        found = special.intersection([*behind, *(settings if isinstance(settings, list) else [settings])])
        end = self.tokenizer.eos_token_id
        return found if end is None else {*found, end}
