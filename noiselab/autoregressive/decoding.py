"""Writing with backspaces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from ..categorical import Randomness, choose, uniforms
from ..samplers.revisions import Revision
from .edits import EditProcess
from .likelihood import Semantics
from .memory import KeysAndValues, Memory, Rereading


@dataclass(frozen=True, eq=False)
class Written:
    """What was written, and how.

    **Arguments:**

    - `texts`: what stands at the end, the prompt among it.
    - `streams`: all that was written behind each prompt, backspaces too.
    - `revisions`: each token that was taken back, with the one that was then written in its place; step counts the entries
      of the stream.
    - `evaluations`: how many entries the network read for each text, those of the prompt counted as one.
    - `stopped`: whether each text came to its end; false where the limit on entries was met before.
    - `spent`: whether each text has used up its budget of backspaces.
    """

    texts: list[Tensor]
    streams: list[Tensor]
    revisions: list[Revision]
    evaluations: list[int]
    stopped: list[bool]
    spent: list[bool]


@dataclass
class _Row:
    """One text while it is written."""

    number: int
    text: list[int]
    first: int  # the length of the prompt: nothing of it is taken back
    logits: list[Tensor] = field(default_factory=list)  # of the text after the prompt, and of each longer one
    tabu: list[set[int]] = field(default_factory=lambda: [set()])
    stream: list[int] = field(default_factory=list)
    replaced: dict[int, int] = field(default_factory=dict)
    again: bool = False
    retrying: bool = False  # what was erased has not been written again to the end of its step
    backspaces: int = 0
    evaluations: int = 0
    done: bool = False
    stopped: bool = False


class BackspaceSampler:
    r"""Writes token by token with a model that can take back what it wrote.

    In a text of its full length, the model is asked once more: the text is done when the answer is no backspace. With
    `bias` $\lambda$ the logit of the backspace is $\lambda$ higher; $-\infty$ is the plain model.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `edits`: says what the backspace is and how far it reaches.
    - `start`: the token before each text.
    - `semantics`: "visible": mistakes and backspaces stay before the eyes of the model; "erasing": the model sees the
      text that is left, and keys and values of the rest are dropped.
    - `deep`: whether a backspace may follow a backspace. Without, each token is looked at once, and the law of the texts is
      known (`erasing_log_probability`).
    - `bias`: of the backspace; not plus infinity.
    - `budget`: backspaces of a text at most; then it is written without. None by default, for no limit.
    - `tabu`: whether a token that was taken back is not proposed again behind the same text. A greedy model that erases
      would otherwise propose it forever.
    - `temperature`: of all decisions; 0 takes the likeliest.
    - `edit`: what else is done to logits, the backspace among them; for example a truncation.
    - `cache`: whether keys and values are kept.

    **Raises:** `ValueError` for settings out of range.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import BackspaceSampler, RandomTokenBackspace, UniformTokens

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes)).eval()
    edits = RandomTokenBackspace(vocab_size=11, backspace=10, rate=0.1, wrong=UniformTokens(10))
    sampler = BackspaceSampler(network, edits, start=0, semantics="erasing", deep=False)
    written = sampler.sample(2, length=8, generator=torch.Generator().manual_seed(0))
    for text, stream in zip(written.texts, written.streams):
        assert torch.equal(edits.clean(stream), text) and len(text) == 8
    ```

    **Source:** erasing with dropped keys and values: Cundy and Ermon (2023), arXiv 2306.05426.
    """

    def __init__(
        self,
        network: nn.Module,
        edits: EditProcess,
        *,
        start: int,
        semantics: Semantics = "visible",
        deep: bool = True,
        bias: float | int = 0.0,
        budget: int | None = None,
        tabu: bool = False,
        temperature: float | int = 1.0,
        edit: Callable[[Float[Tensor, " state"]], Float[Tensor, " state"]] | None = None,
        cache: bool = True,
    ) -> None:
        if semantics not in ("visible", "erasing"):
            raise ValueError(f"semantics must be 'visible' or 'erasing'; got {semantics!r}")
        if not temperature >= 0 or not bias < float("inf") or (budget is not None and budget < 0):
            raise ValueError(
                "temperature and budget must not be negative, bias be a number or minus infinity; "
                f"got {temperature}, {budget}, {bias}"
            )
        self.network, self.edits, self.start, self.semantics, self.deep = network, edits, start, semantics, deep
        self.bias, self.budget, self.tabu, self.temperature = float(bias), budget, tabu, float(temperature)
        self.edit, self.cache = edit, cache

    def sample(
        self,
        prompts: int | Sequence[Int[Tensor, " _"]],
        *,
        length: int,
        end: int | None = None,
        most: int | None = None,
        generator: Randomness = None,
    ) -> Written:
        """Write texts.

        **Arguments:**

        - `prompts`: how many texts, or what each begins with; prompts may differ in length.
        - `length`: tokens of a text, its prompt among them, at most.
        - `end`: a token that ends a text when it is written.
        - `most`: entries of a stream at most, ten times `length` by default; a text that is not done then stands as it is.
        - `generator`: all randomness; one for each text gives it the same tokens alone as in any batch.

        **Raises:** `ValueError` for prompts as long as `length`, or with the backspace.
        """
        starts = [torch.empty(0, dtype=torch.long)] * prompts if isinstance(prompts, int) else list(prompts)
        if not starts or max(map(len, starts)) >= length:
            raise ValueError(f"there must be prompts, all shorter than {length} tokens; got {[len(p) for p in starts]}")
        for prompt in starts:
            self.edits.check(prompt)
        self.length, self.end, self.most = length, end, 10 * length if most is None else most
        device = next(iter(self.network.parameters()), torch.empty(0)).device
        rows = [_Row(number, prompt.tolist(), len(prompt)) for number, prompt in enumerate(starts)]
        revisions: list[Revision] = []
        memory: Memory = KeysAndValues(self.network) if self.cache else Rereading(self.network)
        active = rows
        pending = [[self.start, *row.text] for row in rows]
        while active:
            self._read(memory, active, pending, device)
            pending = []
            for place, row in enumerate(active):
                entry = self._write(memory, place, row, generator, revisions)
                pending.append([] if entry is None else [entry])
            left = [place for place, row in enumerate(active) if not row.done]
            if len(left) < len(active) and left:
                memory.keep(left)
            active, pending = [active[place] for place in left], [pending[place] for place in left]
        return Written(
            [torch.tensor(row.text, dtype=torch.long) for row in rows],
            [torch.tensor(row.stream, dtype=torch.long) for row in rows],
            revisions,
            [row.evaluations for row in rows],
            [row.stopped for row in rows],
            [self.budget is not None and row.backspaces >= self.budget for row in rows],
        )

    def _read(self, memory: Memory, rows: list[_Row], pending: list[list[int]], device: torch.device) -> None:
        """The network reads one entry of each row, or the prompts."""
        width = max(map(len, pending))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        positions, real = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
        for place, (row, new) in enumerate(zip(rows, pending, strict=True)):
            tokens[place, width - len(new) :] = torch.tensor(new)
            real[place, width - len(new) :] = True
            last = len(row.text) if self.semantics == "erasing" else row.first + len(row.stream)
            positions[place, width - len(new) :] = torch.arange(last - len(new) + 1, last + 1)
        logits = memory.read(tokens.to(device), positions.to(device), real.to(device)).double().cpu()
        for row, found in zip(rows, logits[:, : self.edits.vocab_size], strict=True):
            row.logits = [*row.logits, found] if self.semantics == "erasing" else [found]
            row.evaluations += 1

    def _write(
        self, memory: Memory, place: int, row: _Row, generator: Randomness, revisions: list[Revision]
    ) -> int | None:
        """Write until the network has something to read, or the text is done."""
        backspace = self.edits.backspace
        while True:
            if len(row.stream) >= self.most:
                row.done = True
                return None
            entry = self._decide(row, generator)
            if entry == backspace:
                row.stream.append(entry)
                self._take_back(memory, place, row)
                if self.semantics == "visible":
                    return entry
                continue
            if len(row.text) == self.length:
                row.done = row.stopped = True  # full, and it may stand
                return None
            row.stream.append(entry)
            where, row.again = len(row.text), False
            if where in row.replaced:
                old = row.replaced.pop(where)
                revisions.append(Revision(row.number, where, len(row.stream), old, entry, "backspace"))
            row.text.append(entry)
            row.tabu.append(set())
            if self._regrets(row):
                row.stream.append(backspace)
                self._take_back(memory, place, row, unread=1)
                continue
            row.done = row.stopped = entry == self.end
            return None if row.done else entry

    def _regrets(self, row: _Row) -> bool:
        """Whether someone else takes back what the model has just written."""
        return False

    def _decide(self, row: _Row, generator: Randomness) -> int:
        logits, backspace = row.logits[-1].clone(), self.edits.backspace
        logits[backspace] += self.bias
        spent = self.budget is not None and row.backspaces >= self.budget
        if len(row.text) == row.first or spent or (row.again and not self.deep):
            logits[backspace] = -torch.inf
        if self.edit is not None:
            logits = self.edit(logits)
        if self.tabu and row.tabu[-1]:
            without = logits.clone()
            without[list(row.tabu[-1])] = -torch.inf
            logits = without if without.max() > -torch.inf else logits
        temperature = self._temperature(row)
        if temperature == 0:
            return int(logits.argmax())
        mine: Generator | None = generator[row.number] if isinstance(generator, Sequence) else generator
        law = (logits / temperature).softmax(-1)
        return int(choose(law, uniforms(1, generator=mine)[0]))

    def _temperature(self, row: _Row) -> float:
        """Of the next decision."""
        return self.temperature

    def _take_back(self, memory: Memory, place: int, row: _Row, unread: int = 0) -> None:
        """Shorten a text whose last `unread` tokens the network has not read yet."""
        row.backspaces += 1
        row.again = row.retrying = True
        left = max(row.first, self.edits.reach(row.text))
        for where in range(left, len(row.text)):
            row.replaced.setdefault(where, row.text[where])
        taken = len(row.text) - left
        row.tabu = row.tabu[: len(row.tabu) - taken]
        row.tabu[-1].add(row.text[left])
        del row.text[left:]
        if self.semantics == "erasing":
            row.logits = row.logits[: len(row.logits) - (taken - unread)]
            memory.forget(place, taken - unread)
