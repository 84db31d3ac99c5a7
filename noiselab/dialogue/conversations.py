"""Multi-turn conversations with a chat model, processed incrementally with a key/value cache."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..autoregressive.kv_cache import DecoderCache, KVCache, NoCache
from ..categorical import Randomness, choose, uniforms
from .chat import OPENING, Chat, Message


class Conversations:
    r"""Parallel conversations with one chat model; each is processed incrementally.

    The network processes only the tokens after the longest cached prefix of a conversation. Tokens that it generated
    are already cached; the template's markers after them are new. If the template or the tokenizer changes the tokens
    of earlier messages, the cache is truncated at the first difference and the rest is processed again. The network
    therefore has the same context with and without a cache.

    **Arguments:**

    - `chat`: the model.
    - `count`: the number of conversations, at least 1.
    - `cache`: whether to cache keys and values. Otherwise the whole conversation is processed again for every token. A
      network with sliding-window attention processes conversations one by one, because its cache does not support idle
      rows.
    - `limit`: the maximum number of tokens of a conversation; by default the number of the network's positions.

    **Raises:** `ValueError` if `count` is less than 1.

    **Example:**

    ```python
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.data import character_tokenizer
    from noiselab.dialogue import Chat, Conversations

    tokenizer = character_tokenizer(["user: assistant: hello\n"])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    talks = Conversations(Chat(network, tokenizer, template=template), 1)
    talks.add_message(0, "user", "hello")
    (text,) = talks.write(start="hell", tokens=3)
    assert text.startswith("hell") and talks.messages[0][-1] == {"role": "assistant", "content": text}
    ```
    """

    def __init__(self, chat: Chat, count: int, *, cache: bool = True, limit: int | None = None) -> None:
        if count < 1:
            raise ValueError(f"there must be at least one conversation; got {count}")
        self.chat, self.limit = chat, chat.limit if limit is None else limit
        # A window counts all columns of the cache, including those in which a row was idle.
        self._windowed = cache and any(
            getattr(layer, "is_sliding", False) for layer in KVCache(chat.network).cache.layers
        )
        alone = self._windowed or not cache
        self._cache = cache
        self._groups = [[row] for row in range(count)] if alone else [list(range(count))]
        self._memories = [self._new_memory() for _ in self._groups]
        self._held: list[list[int]] = [[] for _ in range(count)]
        self.messages: list[list[Message]] = [[] for _ in range(count)]
        self.entries_read, self.evaluations = [0] * count, [0] * count

    def add_message(self, number: int, role: str, content: str) -> None:
        """Add a message, which the network processes before it generates again.

        **Arguments:**

        - `number`: the index of the conversation.
        - `role`: the role, for example "user", or "assistant" for a prescribed message of the model.
        - `content`: the text of the message.
        """
        self.messages[number].append({"role": role, "content": content})

    def write(
        self, *, tokens: int, start: str = OPENING, temperature: float | int = 0.0, generator: Randomness = None
    ) -> list[str]:
        """Generate the next assistant message of each conversation and add it.

        Finished conversations wait for the others and are not evaluated.

        **Arguments:**

        - `tokens`: the maximum number of generated tokens, without `start`; at least 1. The token that ends a message
          is counted, but is not part of it.
        - `start`: the prefix of each message.
        - `temperature`: the sampling temperature; 0 selects the most likely token.
        - `generator`: the source of randomness; with one for each conversation, messages do not depend on the other
          conversations.

        **Returns:** the messages.

        **Raises:** `ValueError` if a setting is out of range, a conversation is or may become longer than `limit`, or
        logits are NaN.
        """
        if tokens < 1 or not temperature >= 0:
            raise ValueError(f"tokens must be positive and temperature non-negative; got {tokens} and {temperature}")
        prompts = [self.chat.tokens(said, start=start) for said in self.messages]
        for number, prompt in enumerate(prompts):
            if self.limit is not None and len(prompt) + tokens > self.limit:
                came = f"conversation {number} has {len(prompt)}, and {tokens} may follow"
                raise ValueError(f"a conversation must have at most {self.limit} tokens; {came}")
            if not prompt:
                raise ValueError(
                    f"the template must render every conversation to a non-empty text; got none for {number}"
                )
        pending = [self._unread(number, prompt) for number, prompt in enumerate(prompts)]
        written: list[list[int]] = [[] for _ in prompts]
        active = list(range(len(prompts)))
        while active:
            logits = self._read(pending)
            chosen = self._decide(active, logits, temperature, generator)
            pending, left = [[] for _ in prompts], []
            for number, token in zip(active, chosen, strict=True):
                if token in self.chat.ends:
                    continue
                written[number].append(token)
                if len(written[number]) < tokens:
                    pending[number] = [token]
                    left.append(number)
            active = left
        texts = [
            self.chat.content(said, prompt, new, start=start)
            for said, prompt, new in zip(self.messages, prompts, written, strict=True)
        ]
        for number, text in enumerate(texts):
            self.add_message(number, "assistant", text)
        return texts

    def _new_memory(self) -> DecoderCache:
        return KVCache(self.chat.network) if self._cache else NoCache(self.chat.network)

    def _unread(self, number: int, tokens: list[int]) -> list[int]:
        """Return the tokens that are not cached yet, after truncating the cache to the common prefix."""
        held, same = self._held[number], 0
        # The last token is always processed, because its logits are needed.
        for old, new in zip(held, tokens[:-1], strict=False):
            if old != new:
                break
            same += 1
        if same < len(held):
            group = next(index for index, rows in enumerate(self._groups) if number in rows)
            if self._windowed:  # whose cache has lost the beginning
                self._memories[group], same = self._new_memory(), 0
            else:
                self._memories[group].roll_back(self._groups[group].index(number), len(held) - same)
            self._held[number] = held[:same]
        return tokens[same:]

    def _read(self, pending: list[list[int]]) -> list[Tensor | None]:
        """Process the new tokens of some conversations and return the logits after the last token of each."""
        logits: list[Tensor | None] = [None] * len(pending)
        device = next(iter(self.chat.network.parameters()), torch.empty(0)).device
        for rows, memory in zip(self._groups, self._memories, strict=True):
            width = max(len(pending[row]) for row in rows)
            if not width:
                continue
            tokens, positions = [], []
            for row in rows:
                new, first = pending[row], len(self._held[row])
                tokens.append([0] * (width - len(new)) + new)
                positions.append([0] * (width - len(new)) + list(range(first, first + len(new))))
            lengths = torch.tensor([[len(pending[row])] for row in rows], device=device)
            read, places = torch.tensor([tokens, positions], device=device)
            found = memory.read(read, places, torch.arange(width, 0, -1, device=device) <= lengths)
            for row, mine in zip(rows, found.cpu(), strict=True):
                if pending[row]:
                    logits[row] = mine
                    self._held[row] = [*self._held[row], *pending[row]]
                    self.entries_read[row] += len(pending[row] if self._cache else self._held[row])
                    self.evaluations[row] += 1
        return logits

    def _decide(
        self, active: Sequence[int], logits: Sequence[Tensor | None], temperature: float | int, generator: Randomness
    ) -> list[int]:
        """Sample the next token of each unfinished conversation."""
        # Networks often have more logits than there are tokens.
        known: Float[Tensor, "row state"] = torch.stack([mine for mine in logits if mine is not None]).double()
        known = known[:, : len(self.chat.tokenizer)]
        if not (possible := known.amax(-1) > -torch.inf).all():
            where = active[possible.tolist().index(False)]
            raise ValueError(f"logits must not be NaN; got NaN after conversation {where}")
        if temperature == 0:
            return known.argmax(-1).tolist()
        if isinstance(generator, Sequence):
            if len(generator) != len(self.messages):
                raise ValueError(
                    f"there must be one generator for each of {len(self.messages)} conversations; got {len(generator)}"
                )
            generator = [generator[number] for number in active]
        return choose((known / temperature).softmax(-1), uniforms(len(active), generator=generator)).tolist()
