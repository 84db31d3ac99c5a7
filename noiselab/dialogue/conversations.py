"""Conversations that grow, and are read by the network as they grow."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..autoregressive.kv_cache import DecoderCache, KVCache, NoCache
from ..categorical import Randomness, choose, uniforms
from .chat import OPENING, Chat, Message


class Conversations:
    r"""Some conversations with one chat model, side by side; each is read on from where it was left.

    Of the tokens of a conversation those are read that lie behind the longest beginning which the network has in its memory;
    what it wrote itself is there already, and the marks that the template sets behind it are new. Where the template or the
    tokenizer makes other tokens of what was said before, the memory is dropped from the first difference on, and the rest
    read anew: with a cache and without, the network has read the same when it writes.

    **Arguments:**

    - `chat`: the model.
    - `count`: how many conversations, at least 1.
    - `cache`: whether keys and values of what was read are kept. Without, every token is preceded by reading all anew. A
      network whose attention has a window reads one conversation after the other, since in its cache no row can wait.
    - `limit`: tokens of a conversation at most; what the network has positions for by default.

    **Raises:** `ValueError` if there are none.

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
    talks.say(0, "user", "hello")
    (text,) = talks.write(start="hell", tokens=3)
    assert text.startswith("hell") and talks.messages[0][-1] == {"role": "assistant", "content": text}
    ```
    """

    def __init__(self, chat: Chat, count: int, *, cache: bool = True, limit: int | None = None) -> None:
        if count < 1:
            raise ValueError(f"there must be at least one conversation; got {count}")
        self.chat, self.limit = chat, chat.limit if limit is None else limit
        # A window counts the columns of a cache, those in which a row waited too.
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

    def say(self, number: int, role: str, content: str) -> None:
        """Add a message, which the network reads before it writes again.

        **Arguments:**

        - `number`: which conversation.
        - `role`: who says it, for example "user", or "assistant" for words put into the network's mouth.
        - `content`: what is said.
        """
        self.messages[number].append({"role": role, "content": content})

    def write(
        self, *, tokens: int, start: str = OPENING, temperature: float | int = 0.0, generator: Randomness = None
    ) -> list[str]:
        """The next assistant message of each conversation, which is added to it.

        Who has come to an end waits for the others, and nothing is read for it.

        **Arguments:**

        - `tokens`: written at most, behind `start`; at least 1. The token that ends a message counts, but is not part of it.
        - `start`: what each message begins with.
        - `temperature`: 0 takes the likeliest token.
        - `generator`: all randomness; one for each conversation gives it the same tokens alone as beside any others.

        **Returns:** the messages.

        **Raises:** `ValueError` for settings out of range; for a conversation that is or may become longer than `limit`;
        for a network whose logits are NaN.
        """
        if tokens < 1 or not temperature >= 0:
            raise ValueError(f"tokens must be positive, temperature not negative; got {tokens} and {temperature}")
        prompts = [self.chat.tokens(said, start=start) for said in self.messages]
        for number, prompt in enumerate(prompts):
            if self.limit is not None and len(prompt) + tokens > self.limit:
                came = f"conversation {number} has {len(prompt)}, and {tokens} may come"
                raise ValueError(f"a conversation can have {self.limit} tokens; {came}")
            if not prompt:
                raise ValueError(f"the template must make a text of every conversation; got none of {number}")
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
            self.say(number, "assistant", text)
        return texts

    def _new_memory(self) -> DecoderCache:
        return KVCache(self.chat.network) if self._cache else NoCache(self.chat.network)

    def _unread(self, number: int, tokens: list[int]) -> list[int]:
        """What is not in memory yet; what stands there and does not belong to it is forgotten."""
        held, same = self._held[number], 0
        # The last token is read in any case: what comes behind it is asked.
        for old, new in zip(held, tokens[:-1], strict=False):
            if old != new:
                break
            same += 1
        if same < len(held):
            group = next(index for index, rows in enumerate(self._groups) if number in rows)
            if self._windowed:  # of which the beginning is gone
                self._memories[group], same = self._new_memory(), 0
            else:
                self._memories[group].forget(self._groups[group].index(number), len(held) - same)
            self._held[number] = held[:same]
        return tokens[same:]

    def _read(self, pending: list[list[int]]) -> list[Tensor | None]:
        """The network reads what is new of some conversations; what it says behind the last token of each."""
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
        """The next token of each conversation that is not done."""
        # Networks often have rows for more tokens than there are.
        known: Float[Tensor, "row state"] = torch.stack([mine for mine in logits if mine is not None]).double()
        known = known[:, : len(self.chat.tokenizer)]
        if not (possible := known.amax(-1) > -torch.inf).all():
            where = active[possible.tolist().index(False)]
            raise ValueError(f"the network gave no number among the logits behind conversation {where}")
        if temperature == 0:
            return known.argmax(-1).tolist()
        if isinstance(generator, Sequence):
            if len(generator) != len(self.messages):
                raise ValueError(f"one generator for each of {len(self.messages)} is needed; got {len(generator)}")
            generator = [generator[number] for number in active]
        return choose((known / temperature).softmax(-1), uniforms(len(active), generator=generator)).tolist()
