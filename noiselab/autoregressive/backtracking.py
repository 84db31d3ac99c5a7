"""Decoding with backtracking: token by token, with deletions; what all such decoders share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..categorical import Randomness, choose, uniforms
from ..revisions import Revision
from ..typing import TokenProbs
from .kv_cache import DecoderCache, KVCache, NoCache
from .likelihood import Semantics


@dataclass(frozen=True, eq=False)
class Generation:
    """Generated texts, with a record of how they were generated.

    **Arguments:**

    - `texts`: the final texts, with their prompts.
    - `streams`: everything that was written after each prompt, backspaces included. A deletion that the model did not write
      itself, such as those of `RetryUponRegret`, is recorded as the token `vocab_size`.
    - `revisions`: each deleted token with its replacement; `step` counts the entries of the
      stream.
    - `evaluations`: the number of entries that the network read for each text; the prompt counts as one.
    - `stopped`: whether each text was completed; false where the limit on entries was reached first.
    - `spent`: whether each text has used up its budget of deletions.
    """

    texts: list[Tensor]
    streams: list[Tensor]
    revisions: list[Revision]
    evaluations: list[int]
    stopped: list[bool]
    spent: list[bool]


@dataclass
class Row:
    """One text while it is written.

    **Arguments:**

    - `number`: its index in the batch.
    - `text`: the current text; `prompt`: the length of its prompt; `kept`: the number of protected leading tokens.
    - `logits`: after the first `kept` tokens and after each longer text up to this one; with the visible semantics, after the
      whole stream only.
    - `tabu`: the tokens that were deleted after the first `kept` tokens and after each longer text.
    - `stream`: everything written so far.
    - `replaced`: deleted tokens whose places are still empty, by place.
    - `again`: whether the last entry was a deletion.
    - `retrying`: whether a step was deleted and is not complete again.
    - `backspaces`, `evaluations`: their numbers so far.
    - `done`: whether nothing more is written; `stopped`: because the text came to its end.
    """

    number: int
    text: list[int]
    prompt: int
    kept: int
    logits: list[Tensor] = field(default_factory=list)
    tabu: list[set[int]] = field(default_factory=list)
    stream: list[int] = field(default_factory=list)
    replaced: dict[int, int] = field(default_factory=dict)
    again: bool = False
    retrying: bool = False
    backspaces: int = 0
    evaluations: int = 0
    done: bool = False
    stopped: bool = False


@dataclass
class _Task:
    """What all texts of a call share."""

    cache: DecoderCache
    generator: Randomness
    length: int
    end: int | None
    most: int
    revisions: list[Revision]


class BacktrackingDecoder(ABC):
    """Generates a batch of texts token by token, and can delete and rewrite parts of them while generating.

    A subclass defines in `reach` how much a deletion leaves, and in `check_prompt` which prompts it accepts. It also
    defines what triggers a deletion: the model itself, which writes the token `backspace` (`adjust_logits` edits its
    logits), or another object, in `regrets`. The first `kept` tokens are never deleted, and at most `budget` deletions
    are made.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `vocab_size`: the number of tokens that can be written; further logits are ignored.
    - `backspace`: the entry of a stream that records a deletion. If it is below `vocab_size`, the model can write it.
    - `start`: the token before each text.
    - `semantics`, `budget`, `tabu`, `temperature`, `edit`, `cache`: as for `BackspaceSampler`.

    **Raises:** `ValueError` for settings out of range, or `regrets` with the visible semantics: the model reads only what it
    wrote itself, and it did not write these deletions.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import BacktrackingDecoder

    class NoSeven(BacktrackingDecoder):  # starts over after a 7
        def reach(self, text):
            return 0

        def check_prompt(self, prompt):
            pass

        def regrets(self, row):
            return row.text[-1] == 7

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()
    decoder = NoSeven(network, vocab_size=10, backspace=10, start=0, semantics="erasing")
    generation = decoder.sample(2, length=5, most=1000, generator=torch.Generator().manual_seed(0))
    assert not any(7 in text for text in generation.texts)
    ```
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        vocab_size: int,
        backspace: int,
        start: int,
        semantics: Semantics = "visible",
        budget: int | None = None,
        tabu: bool = False,
        temperature: float | int = 1.0,
        edit: Callable[[TokenProbs], TokenProbs] | None = None,
        cache: bool = True,
    ) -> None:
        if semantics not in ("visible", "erasing"):
            raise ValueError(f"semantics must be 'visible' or 'erasing'; got {semantics!r}")
        if not temperature >= 0 or (budget is not None and budget < 0):
            raise ValueError(f"temperature and budget must not be negative; got {temperature} and {budget}")
        if semantics == "visible" and type(self).regrets is not BacktrackingDecoder.regrets:
            raise ValueError("a decoder with regrets needs the erasing semantics; got 'visible'")
        self.network, self.vocab_size, self.backspace, self.start = network, vocab_size, backspace, start
        self.semantics, self.budget, self.tabu, self.temperature = semantics, budget, tabu, float(temperature)
        self.edit, self.cache = edit, cache

    @abstractmethod
    def reach(self, text: list[int]) -> int:
        """The number of tokens that a deletion leaves of a text, which is not empty."""

    @abstractmethod
    def check_prompt(self, prompt: Int[Tensor, " _"]) -> None:
        """Check that a text can begin with this prompt.

        **Raises:** `ValueError` if not.
        """

    def adjust_logits(self, rows: list[Row], logits: Float[Tensor, "row state"]) -> Float[Tensor, "row state"]:
        """The logits of the next entries, from those of the network, which may be edited in place.

        Where nothing can be deleted, the backspace has probability 0 whatever its logit.
        """
        return logits

    def regrets(self, row: Row) -> bool:
        """Whether to delete the end of the text; called, but ignored, once the budget is used up."""
        return False

    def temperature_of(self, row: Row) -> float:
        """The temperature of the next decision."""
        return self.temperature

    def has_spent(self, row: Row) -> bool:
        """Whether the text has used up its budget of deletions."""
        return self.budget is not None and row.backspaces >= self.budget

    def sample(
        self,
        prompts: int | Sequence[Int[Tensor, " _"]],
        *,
        length: int,
        end: int | None = None,
        most: int | None = None,
        kept: int | Sequence[int] | None = None,
        generator: Randomness = None,
    ) -> Generation:
        """Generate texts.

        **Arguments:**

        - `prompts`: the number of texts, or the prompt of each; prompts may differ in length.
        - `length`: the largest number of tokens of a text, its prompt included.
        - `end`: a token that ends a text when it is written.
        - `most`: the largest number of entries of a stream, ten times `length` by default; a text that reaches it is
          returned as it is.
        - `kept`: the number of protected leading tokens of each prompt, one number for all or one for each; the whole prompt
          by default. The tokens after them are treated as if they had just been written.
        - `generator`: all randomness; with one for each text, a text gets the same tokens alone as in any batch.

        **Raises:** `ValueError` for prompts as long as `length`, or with the backspace; for `kept` below 0, or beyond the
        end of a prompt; for a network whose logits are NaN.
        """
        starts = [torch.empty(0, dtype=torch.long)] * prompts if isinstance(prompts, int) else list(prompts)
        if not starts or max(map(len, starts)) >= length:
            raise ValueError(f"there must be prompts, all shorter than {length} tokens; got {[len(p) for p in starts]}")
        for prompt in starts:
            self.check_prompt(prompt)
        rows = [
            Row(number, prompt.tolist(), len(prompt), some, tabu=[set() for _ in range(len(prompt) - some + 1)])
            for number, (prompt, some) in enumerate(zip(starts, _resolve_kept(starts, kept), strict=True))
        ]
        cache: DecoderCache = KVCache(self.network) if self.cache else NoCache(self.network)
        task = _Task(cache, generator, length, end, 10 * length if most is None else most, [])
        active, pending = rows, [[self.start, *row.text] for row in rows]
        while active:
            self._read_entries(cache, active, pending)
            entries = self._write_entries(task, active)
            left = [place for place, row in enumerate(active) if not row.done]
            if len(left) < len(active) and left:
                cache.keep_rows(left)
            active = [active[place] for place in left]
            pending = [[entry] for entry in (entries[place] for place in left) if entry is not None]
        return Generation(
            [torch.tensor(row.text, dtype=torch.long) for row in rows],
            [torch.tensor(row.stream, dtype=torch.long) for row in rows],
            task.revisions,
            [row.evaluations for row in rows],
            [row.stopped for row in rows],
            [self.has_spent(row) for row in rows],
        )

    def _read_entries(self, cache: DecoderCache, rows: list[Row], pending: list[list[int]]) -> None:
        """The network reads one entry of each row, or the prompts."""
        width, erasing = max(map(len, pending)), self.semantics == "erasing"
        tokens, positions, lengths, wanted = [], [], [], []
        for row, new in zip(rows, pending, strict=True):
            last, missing = len(row.text) if erasing else row.prompt + len(row.stream), width - len(new)
            tokens.append([0] * missing + new)
            positions.append([0] * missing + list(range(last - len(new) + 1, last + 1)))
            lengths.append(len(new))
            # If tokens of the prompt are deleted, the model continues from the shorter text.
            wanted.append(len(row.text) - row.kept + 1 - len(row.logits) if erasing else 1)
        device = next(iter(self.network.parameters()), torch.empty(0)).device
        read, places = torch.tensor([tokens, positions], device=device)
        real = torch.arange(width, 0, -1, device=device) <= torch.tensor(lengths, device=device)[:, None]
        logits = cache.read_last(read, places, real, max(wanted))
        columns = logits[..., : self.vocab_size].cpu().unbind(1)
        each = zip(*(column.unbind(0) for column in columns), strict=True)
        for row, found, count in zip(rows, each, wanted, strict=True):
            row.logits = [*row.logits, *found[-count:]] if erasing else [found[-1]]
            row.evaluations += 1

    def _write_entries(self, task: _Task, rows: list[Row]) -> list[int | None]:
        """Write until each text has an entry for the network to read, or is done."""
        entries: list[int | None] = [None] * len(rows)
        open_ = list(range(len(rows)))
        while open_:
            open_ = [place for place in open_ if self._may_continue(task, place, rows[place])]
            chosen = self._draw_entries([rows[place] for place in open_], task.generator)
            left = []
            for place, entry in zip(open_, chosen, strict=True):
                if not self._add_entry(task, place, rows[place], entry):
                    left.append(place)
                elif not rows[place].done:
                    entries[place] = entry
            open_ = left
        return entries

    def _may_continue(self, task: _Task, place: int, row: Row) -> bool:
        """Whether there is room in the stream; before the first entry, the end of the prompt can be deleted."""
        untouched = not row.stream and len(row.text) > row.kept and task.most > 0
        if untouched and self.regrets(row) and not self.has_spent(row):
            self._delete(task.cache, place, row)
        row.done = len(row.stream) >= task.most
        return not row.done

    def _add_entry(self, task: _Task, place: int, row: Row, entry: int) -> bool:
        """Add an entry; returns whether the network has to read next, or the text is done."""
        if entry == self.backspace:
            self._delete(task.cache, place, row)
            return self.semantics == "visible"
        if len(row.text) == task.length:
            row.done = row.stopped = True  # full, and nothing is deleted
            return True
        row.stream.append(entry)
        where, row.again = len(row.text), False
        if where in row.replaced:
            old = row.replaced.pop(where)
            task.revisions.append(Revision(row.number, where, len(row.stream), old, entry, "backspace"))
        row.text.append(entry)
        row.tabu.append(set())
        if self.regrets(row) and not self.has_spent(row):
            self._delete(task.cache, place, row, unread=1)
            return False
        row.done = row.stopped = entry == task.end
        return True

    def _draw_entries(self, rows: list[Row], generator: Randomness) -> list[int]:
        """The next entry of each text."""
        if not rows:
            return []
        # A copy, which may be edited.
        read = torch.stack([row.logits[-1] for row in rows]).to(torch.float64)
        if not (possible := read.amax(-1) > -torch.inf).all():
            where = rows[possible.tolist().index(False)]
            raise ValueError(
                f"the logits of the network must not be NaN or all -inf; got such after text {where.number}, {where.text}"
            )
        adjusted = self.adjust_logits(rows, read)
        logits = read if adjusted is read else adjusted.clone()
        barred = [place for place, row in enumerate(rows) if len(row.text) == row.kept or self.has_spent(row)]
        if barred and self.backspace < logits.shape[-1]:
            logits[barred, self.backspace] = -torch.inf
        for row, mine in zip(rows, logits.unbind(0), strict=True):
            if self.edit is not None and (edited := self.edit(mine)) is not mine:
                mine.copy_(edited)
            if self.tabu and row.tabu[-1]:
                without = mine.clone()
                without[list(row.tabu[-1])] = -torch.inf
                if without.max() > -torch.inf:
                    mine.copy_(without)
        temperatures = torch.tensor([self.temperature_of(row) for row in rows])
        drawn = temperatures > 0
        if not drawn.any():
            return logits.argmax(-1).tolist()
        if isinstance(generator, Sequence):
            generator = [generator[row.number] for row, some in zip(rows, drawn.tolist(), strict=True) if some]
        laws = (logits[drawn] / temperatures[drawn][:, None]).softmax(-1)
        chosen = choose(laws, uniforms(len(laws), generator=generator))
        return chosen.tolist() if drawn.all() else logits.argmax(-1).masked_scatter(drawn, chosen).tolist()

    def _delete(self, cache: DecoderCache, place: int, row: Row, unread: int = 0) -> None:
        """Delete the end of a text whose last `unread` tokens the network has not read yet."""
        row.stream.append(self.backspace)
        row.backspaces += 1
        row.again = row.retrying = True
        left = max(row.kept, self.reach(row.text))
        for where in range(left, len(row.text)):
            row.replaced.setdefault(where, row.text[where])
        taken = len(row.text) - left
        row.tabu = row.tabu[: len(row.tabu) - taken]
        row.tabu[-1].add(row.text[left])
        del row.text[left:]
        if self.semantics == "erasing":
            row.logits = row.logits[: len(row.logits) - (taken - unread)]
            cache.roll_back(place, taken - unread)


def _resolve_kept(prompts: Sequence[Tensor], kept: int | Sequence[int] | None) -> list[int]:
    """The number of protected leading tokens of each prompt."""
    lengths = [len(prompt) for prompt in prompts]
    if kept is None:
        return lengths
    each = [kept] * len(lengths) if isinstance(kept, int) else list(kept)
    if len(each) != len(lengths) or any(not 0 <= some <= length for some, length in zip(each, lengths, strict=True)):
        raise ValueError(f"kept must lie between 0 and the length of each prompt, {lengths}; got {kept}")
    return each
