"""A chat model: a causal network, its tokenizer, and the template that turns a conversation into text."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..data.messages import Message
from ..networks.lengths import context_length

OPENING = ""  # an empty prefix of the assistant message


class Chat:
    r"""A causal network, its tokenizer and its chat template.

    The tokens of a conversation are always those of the whole text rendered by the template, including begin-of-text
    and turn markers; the tokenizer adds nothing. `Conversations` compares them token by token with the cached ones, so
    that templates that drop or rewrite earlier messages are handled correctly.

    **Arguments:**

    - `network`: a causal transformers model, in evaluation mode; without a cache, any model that is called with
      `input_ids`.
    - `tokenizer`: a transformers tokenizer.
    - `template`: a Jinja chat template; by default that of the tokenizer.
    - `end`: one or more tokens that end an assistant message. By default the tokenizer's end-of-text token, and the
      special tokens that the template writes after an assistant message or that the network's generation settings
      define.

    **Raises:** `ValueError` if neither the tokenizer nor `template` provides a chat template.

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
            raise ValueError("a chat template must be given by the tokenizer or as template; got neither")
        self.network, self.tokenizer, self.template = network, tokenizer, template
        self.limit = context_length(network)
        ends = self._ends() if end is None else [end] if isinstance(end, int) else end
        self.ends: frozenset[int] = frozenset(ends)

    def text(self, messages: Sequence[Message], *, start: str | None = OPENING) -> str:
        """Render a conversation with the template.

        **Arguments:**

        - `messages`: the conversation so far.
        - `start`: the prefix of the next assistant message, possibly empty; `None` if no assistant message follows.
        """
        asked: list[Message] = [dict(message) for message in messages]
        settings: dict[str, Any] = {"add_generation_prompt": start == OPENING}
        if start:
            # Some templates write text between the turn marker and the message that their generation prompt omits.
            asked.append({"role": "assistant", "content": start})
            settings = {"continue_final_message": True}
        return self.tokenizer.apply_chat_template(asked, tokenize=False, chat_template=self.template, **settings)

    def encode(self, text: str) -> list[int]:
        """Encode a text without adding special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokens(self, messages: Sequence[Message], *, start: str | None = OPENING) -> list[int]:
        """Render and encode a conversation.

        **Arguments:**

        - `messages`, `start`: as for `text`.
        """
        return self.encode(self.text(messages, start=start))

    def content(self, messages: Sequence[Message], prompt: list[int], written: list[int], *, start: str) -> str:
        """Return the content of a generated assistant message, without white space that the template adds itself.

        **Arguments:**

        - `messages`: the conversation before it.
        - `prompt`: the tokens of the prompt, including those of `start`; `written`: the generated tokens.
        - `start`: the prescribed prefix of the message.

        **Returns:** `start` followed by the generated text, with such white space at the ends that the template renders
        the generated text; stripped if there is no such white space.

        **Raises:** `ValueError` if the tokenizer decodes the prompt differently when tokens follow it.
        """
        # Many tokenizers drop a leading space of the first decoded token.
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
        """The tokens that end an assistant message: end of text, and those that the template writes after it."""
        settings = getattr(getattr(self.network, "generation_config", None), "eos_token_id", None)
        said = "something"
        spoken = [("user", "x"), ("assistant", said), ("user", "x")]
        text = self.text([{"role": role, "content": content} for role, content in spoken], start=None)
        behind = self.encode(text.rpartition(said)[2].lstrip())[:1]
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()}
        # Small networks often inherit generation settings whose end token is not a special token in their vocabulary.
        found = special.intersection([*behind, *(settings if isinstance(settings, list) else [settings])])
        end = self.tokenizer.eos_token_id
        return found if end is None else {*found, end}
