"""An infinite stream of packed blocks, for corpora that are too large to pack in advance."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .blocks import as_row
from .corpus import Corpus, Part, as_corpus, fingerprint
from .packing import MODES, PUBLISHED_MODES, check_packing, draw_place, mode_key, pack_texts, packer_for
from .reading import Position, Reading, reader_count
from .tokenizers import Encoder, tokenizer_key

if TYPE_CHECKING:
    import transformers


class TokenStream(IterableDataset[dict[str, Tensor]]):
    """An infinite iterable data set that packs blocks while reading, shuffling the corpus anew in each pass.

    Items are those of `TokenBlocks`. The texts are dealt to a fixed number R of readers, each of which packs its own, and
    block b is the next one of reader b mod R. A process and loader worker reads only the readers that are dealt to it, so
    that no text is read or encoded twice in a pass, and the blocks and their order do not depend on how many there are.
    Reader j belongs to rank j mod W and there to loader worker floor(j / W) mod n; W n must divide R.

    A reader whose texts are short begins the next pass before one whose texts are long; `readers=1` keeps passes apart.

    `read` gives the blocks of one reader with the state after each, from which it continues without reading or encoding
    what came before, except for the document and the few texts in which it stopped.

    **Arguments:**

    - `corpus`: any corpus, or a list of texts.
    - `tokenizer`, `length`, `mode`, `separate`, `learn_padding`: as in `pack`.
    - `seed`: the seed for the order of the texts, and for the places of crops, which are drawn anew in each pass.
    - `buffer`: the number of texts held in memory to be shuffled with each other, over all readers (fewer, if they have more
      than 8 million characters together). With R or less, the parts of the corpus are shuffled, but not the texts within a
      part.
    - `readers`: the number of readers R. By default 64, halved until each has a text and a part of the corpus that can be
      read apart (`Corpus.parts`): a corpus of your own without `parts` has one reader. With more readers than parts, every
      reader reads all texts and encodes only its own.
    - `rank`, `world_size`: the index of this process and the number of processes; default: taken from
      `torch.distributed` when reading begins, or a single process. Pass 0 and 1 if the training loop itself distributes
      the batches of one stream, as accelerate does with a prepared loader.

    **Raises:** `ValueError` as `pack` does; while reading, if the corpus contains no text, or processes times loader workers
    do not divide the number of readers.

    **Example:**

    ```python
    import itertools
    from noiselab.data import TextCorpus, TokenStream, train_tokenizer

    corpus = TextCorpus(["to be, or not to be", "that is the question"])
    stream = TokenStream(corpus, train_tokenizer(corpus, vocab_size=259), length=16, seed=1)
    for block in itertools.islice(stream, 3):
        assert block["input_ids"].shape == (16,)

    rows = stream.read(reader=1)  # the second reader
    first, state = next(rows)
    resumed, _ = next(stream.read(1, state))
    assert resumed["input_ids"].equal(next(rows)[0]["input_ids"])
    ```
    """

    def __init__(
        self,
        corpus: Corpus | Iterable[str],
        tokenizer: "transformers.PreTrainedTokenizerBase",
        length: int,
        *,
        mode: str = "concatenate",
        separate: bool = False,
        learn_padding: bool = False,
        seed: int = 0,
        buffer: int = 2048,
        readers: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        modes = (*MODES, *PUBLISHED_MODES)
        check_packing(tokenizer, length, mode, modes, separate=separate, learn_padding=learn_padding)
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank and world_size must be given together; got {rank} and {world_size}")
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size - 1]; got rank {rank} of {world_size}")
        if readers is not None and readers < 1:
            raise ValueError(f"readers must be at least 1; got {readers}")
        self.corpus, self.tokenizer, self.length, self.mode = as_corpus(corpus), tokenizer, length, mode
        self.separate_at = int(tokenizer.eos_token_id) if separate else None
        self.learn_padding = learn_padding
        self.seed, self.buffer, self.rank, self.world_size = seed, buffer, rank, world_size
        self.epoch = 0
        self._asked = readers

    @functools.cached_property
    def _parts(self) -> Sequence[Part]:
        return self.corpus.parts()

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer)  # one for all readers, because it holds a copy of the tokenizer

    @functools.cached_property
    def readers(self) -> int:
        """The number of readers R. It depends on the corpus, never on processes or workers."""
        readers = reader_count(self.corpus, self._parts)  # also finds that there is no text
        return readers if self._asked is None else self._asked

    @property
    def key(self) -> str:
        """A string that changes whenever the blocks do: with the texts, the tokenizer or a setting."""
        settings = [
            self.length,
            self.mode,
            self.seed,
            self.buffer,
            self.epoch,
            self.readers,
            len(self._parts),
            self.separate_at,
        ]
        more = [*(["padding"] if self.learn_padding else []), *mode_key(self.tokenizer, self.mode, self.seed)]
        return fingerprint([self.corpus.key, tokenizer_key(self.tokenizer), *map(str, settings), *more])

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at this pass over the corpus instead of pass 0."""
        self.epoch = epoch

    def read(
        self, reader: int, state: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Yield the blocks of one reader, each with the state after it; endless.

        **Arguments:**

        - `reader`: the number of the reader, in [0, readers).
        - `state`: one that was yielded with a block of this reader, to continue after that block; it consists of JSON types.
          Default: the first block of the pass that `set_epoch` has set.

        **Raises:** `ValueError` if there is no such reader, or the state does not fit the data.
        """
        if not 0 <= reader < self.readers:
            raise ValueError(f"reader must lie in [0, {self.readers - 1}]; got {reader}")
        window = max(1, self.buffer // self.readers)
        reading = Reading(self._parts, reader, self.readers, self.seed, window, self.epoch)
        return self._rows(reading, *_restored(state, reading))

    def _rows(self, reading: Reading, start: Position, used: int) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        # Few characters at a time, because each reader encodes that much before its first block.
        batch = max(2**12, 2**15 // self.readers)
        packer = packer_for(self.tokenizer, self.length, self.mode)

        def draw(before: Position, count: int) -> int:
            return draw_place(self.seed, (reading.reader, *before), count)

        texts = reading.texts(start)
        for row, position, token in pack_texts(texts, self._encoder, packer, used=used, batch=batch, draw=draw):
            yield self._block(row), {**position._asdict(), "token": token}

    def _block(self, row: Any) -> dict[str, Tensor]:
        block = torch.full((self.length,), int(self.tokenizer.pad_token_id), dtype=torch.int64)
        block[: len(row)] = torch.from_numpy(row)
        real = self.length if self.learn_padding else len(row)
        return as_row(block, torch.arange(self.length) < real, self.separate_at)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        index, count = self._place()
        if self.readers % count:
            raise ValueError(
                f"processes times loader workers must divide the number of readers, {self.readers}; got {count} (pass "
                "readers=, a multiple of it, on which the order of the blocks depends)"
            )
        own = [self.read(reader) for reader in range(index, self.readers, count)]
        while True:
            for rows in own:
                yield next(rows)[0]

    def _place(self) -> tuple[int, int]:
        """The index of the first reader of this process and loader worker, and the number of all processes and workers."""
        rank, world_size = self.rank, self.world_size
        if rank is None or world_size is None:
            parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if parallel else 0
            world_size = torch.distributed.get_world_size() if parallel else 1
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        return rank + world_size * number, world_size * workers

    def __repr__(self) -> str:
        padding = ", learn_padding=True" if self.learn_padding else ""
        return f"TokenStream(corpus={self.corpus.name!r}, length={self.length}, mode={self.mode!r}{padding}, seed={self.seed})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_parts", "_encoder")}  # made again


def _restored(state: Mapping[str, Any] | None, reading: Reading) -> tuple[Position, int]:
    """The position of a state, and the number of tokens of its text that are in earlier blocks."""
    if state is None:
        return reading.start(), 0
    names = (*Position._fields, "token")
    if not isinstance(state, Mapping) or set(state) != set(names):
        raise ValueError(f"the state of a reader must have {', '.join(names)}; got {state!r}")
    position = Position(*(state[name] for name in Position._fields))
    if not reading.shared and (position.part - reading.start().part) % reading.readers:
        raise ValueError(
            f"a state must be one of the same reader; got part {position.part} for reader {reading.reader} of "
            f"{reading.readers}"
        )
    return position, int(state["token"])
