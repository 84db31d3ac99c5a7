"""An infinite stream of packed blocks, for corpora that are too large to pack in advance."""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .corpus import Corpus, as_corpus, check_part, fingerprint
from .packing import check_packing, pack_rows
from .tokenizers import Encoder, tokenizer_key

if TYPE_CHECKING:
    import transformers


class TokenStream(IterableDataset[dict[str, Tensor]]):
    """An infinite iterable data set that packs blocks while reading, shuffling the corpus anew in each pass.

    Items are those of `TokenBlocks`. The stream is infinite because a resumed training run finds its position by
    counting blocks, which would silently fail at the end of a pass if a loader restarted there. The blocks depend only
    on the arguments, the epoch, and the number of processes and workers.

    Each loader worker of each process reads a disjoint part of the texts; no text is read twice in one pass.

    **Arguments:**

    - `corpus`: any corpus, or a list of texts; a `HubCorpus` distributes whole shards if it has enough of them.
    - `tokenizer`, `length`, `mode`: as in `pack`.
    - `seed`: the seed for the order of the texts.
    - `buffer`: the size of the shuffle buffer in texts; with 1 or less, texts keep the order of the corpus's parts.
    - `rank`, `world_size`: the index of this process and the number of processes; default: taken from
      `torch.distributed` when reading begins, or a single process. Pass 0 and 1 if the training loop itself distributes
      the batches of one stream, as accelerate does with a prepared loader.

    **Raises:** `ValueError` as `pack` does; while reading, if a part contains no text.

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
        corpus: Corpus | Iterable[str],
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
        self.corpus, self.tokenizer, self.length, self.mode = as_corpus(corpus), tokenizer, length, mode
        self.seed, self.buffer, self.rank, self.world_size = seed, buffer, rank, world_size
        self.epoch = 0

    @property
    def key(self) -> str:
        """A string that changes whenever the blocks do: with the texts, the tokenizer or a setting."""
        settings = [self.length, self.mode, self.seed, self.buffer, self.epoch]
        return fingerprint([self.corpus.key, tokenizer_key(self.tokenizer), *map(str, settings)])

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at this pass over the corpus instead of pass 0."""
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
        """Return the index of this reader and the number of readers over all processes."""
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
            # All readers must agree on how texts are divided into parts; each shuffles its own part differently.
            texts = self.corpus.part(index, count, order=derive_seed(self.seed, number))
            found = False
            for text in shuffled(texts, self.buffer, derive_seed(self.seed, number, index)):
                found = True
                yield text
            if not found:
                raise ValueError(
                    f"the corpus must contain a text for each of {count} readers (processes times loader workers); "
                    f"{self.corpus.name!r} has none for reader {index}"
                )


def shuffled(texts: Iterable[str], buffer: int, seed: int) -> Iterator[str]:
    """Yield every text once, shuffled with a buffer of `buffer` texts."""
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


def derive_seed(*numbers: int) -> int:
    """Return a seed derived from all of the numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little")
