"""An endless stream of packed blocks, for corpora that are too large to pack beforehand."""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .corpus import Corpus, check_part
from .packing import check_packing, pack_rows
from .tokenizers import Encoder

if TYPE_CHECKING:
    import transformers


class TokenStream(IterableDataset[dict[str, Tensor]]):
    """Blocks packed while reading, without end: pass after pass over the corpus, each in a new order.

    Items are those of `TokenBlocks`. The stream never ends because a training run that resumes has to find its place
    by counting blocks, which goes wrong silently at the border of a pass if a loader starts over there. It depends on
    nothing but the arguments, the epoch, and the numbers of processes and workers.

    Every process and every loader worker reads its own part of the texts; within a pass no text is read twice.

    **Arguments:**

    - `corpus`: any corpus; shards of a `HubCorpus` are shared out whole if there are enough.
    - `tokenizer`, `length`, `mode`: as in `pack`.
    - `seed`: decides the order of the texts.
    - `buffer`: how many texts are held in memory to be shuffled; 1 or less leaves the order of the corpus's parts.
    - `rank`, `world_size`: this process and how many there are; default: what `torch.distributed` says when reading
      begins, or one process. Where the training loop deals out the batches of one stream by itself, as accelerate does
      with a loader that it prepares, give 0 and 1.

    **Raises:** `ValueError` as `pack` does; while reading, if a part holds no text.

    **Example:**

    ```python
    import itertools
    from noiselab.data import TextCorpus, TokenStream, train_tokenizer

    corpus = TextCorpus(["to be, or not to be", "that is the question"])
    stream = TokenStream(corpus, train_tokenizer(corpus, vocab_size=259), length=16, seed=1)
    for block in itertools.islice(stream, 3):
        assert block["input_ids"].shape == (16,)
    ```
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        length: int,
        *,
        mode: str = "concatenate",
        seed: int = 0,
        buffer: int = 2048,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        check_packing(tokenizer, length, mode)
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank and world_size must be given together; got {rank} and {world_size}")
        if rank is not None and world_size is not None:
            check_part(rank, world_size)
        self.corpus, self.tokenizer, self.length, self.mode = corpus, tokenizer, length, mode
        self.seed, self.buffer, self.rank, self.world_size = seed, buffer, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration with this pass over the corpus instead of pass 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        index, count = self._place()
        places = torch.arange(self.length)
        documents = Encoder(self.tokenizer)(self._texts(index, count), batch=2**15)
        for row in pack_rows(documents, self.length, self.mode, int(self.tokenizer.eos_token_id)):
            block = torch.full((self.length,), int(self.tokenizer.pad_token_id), dtype=torch.int64)
            block[: len(row)] = torch.from_numpy(row)
            yield {"input_ids": block, "attention_mask": places < len(row)}

    def _place(self) -> tuple[int, int]:
        """Return the number of this reader, and how many readers there are over all processes."""
        rank, world_size = self.rank, self.world_size
        if rank is None or world_size is None:
            parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if parallel else 0
            world_size = torch.distributed.get_world_size() if parallel else 1
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        return rank * workers + number, world_size * workers

    def _texts(self, index: int, count: int) -> Iterator[str]:
        for number in itertools.count(self.epoch):
            # All readers must agree on the order in which texts are dealt out, but shuffle their own part differently.
            texts = self.corpus.part(index, count, order=key(self.seed, number))
            found = False
            for text in shuffled(texts, self.buffer, key(self.seed, number, index)):
                found = True
                yield text
            if not found:
                raise ValueError(
                    f"the corpus must hold a text for each of {count} readers (processes times loader workers); "
                    f"{self.corpus.name!r} holds none for reader {index}"
                )


def shuffled(texts: Iterable[str], buffer: int, seed: int) -> Iterator[str]:
    """Yield every text once, in an order that is random over about `buffer` neighbours."""
    generator = random.Random(seed)
    held: list[str] = []
    for text in texts:
        if len(held) < buffer:
            held.append(text)
        elif held:
            place = int(generator.random() * len(held))
            held[place], text = text, held[place]
            yield text
        else:
            yield text
    generator.shuffle(held)
    yield from held


def key(*numbers: int) -> int:
    """Return a seed that depends on all of the numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little")
