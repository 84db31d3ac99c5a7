"""Requests of lm-evaluation-harness in batches: the bounds, the most likely tokens and the texts of a diffusion pipeline.

The noise of a request depends on the seed and its own number of tokens alone, so that a batch changes nothing but rounding.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from ..categorical import TokenGenerators
from ..data.reading import derive_seed
from ..data.rows import group_equal
from ..denoisers import attending_to, takes_mask
from ..likelihood import continuous_bound, process_quadrature
from ..likelihood.ranges import time_range
from ..numerics import TIME_EPS
from .base import Text
from .calls import padding_of, times_of
from .diffusion import DiffusionPipeline
from .drawing import SampledBatch, Truncation, chosen_sampler


class Passage(NamedTuple):
    """The tokens of a request.

    **Arguments:**

    - `head`: those that are given; `tail`: those that are scored.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]


class Wanted(NamedTuple):
    """A requested text.

    **Arguments:**

    - `ids`: the tokens of its beginning.
    - `length`: its number of tokens with these.
    - `temperature`: of the prediction.
    - `number`: 0, 1, ... for samples of one request that is made several times.
    """

    ids: tuple[int, ...]
    length: int
    temperature: float
    number: int


class Batches:
    """Runs a pipeline on requests in batches of like lengths, padded if its network takes a mask, or else of equal ones.

    **Arguments:**

    - `pipe`: the model.
    - `size`: the number of requests in a batch.
    - `nodes`, `draws`, `steps`, `seed`: as for `HarnessModel`.
    """

    def __init__(self, pipe: DiffusionPipeline, size: int, nodes: int, draws: int, steps: int | None, seed: int):
        self.pipe, self.size, self.draws, self.steps, self.seed = pipe, size, draws, steps, seed
        low, high = time_range(pipe.process)
        self.low = max(low, pipe.process.domain[0] + TIME_EPS)
        self.nodes = process_quadrature(pipe.process, nodes, low=self.low, high=high)

    def nats(self, passages: Sequence[Passage]) -> Iterator[tuple[list[int], list[float]]]:
        """The bound on -log p of the tails given the heads, the mean over `draws` noise samples.

        All draws of a batch are in one call of the network at each time.

        **Returns:** batch by batch the indices of the passages, and their nats.
        """
        denoiser = self.pipe.denoiser
        for some in self.groups([len(one.head) + len(one.tail) for one in passages], takes_mask(denoiser)):
            x, scored, real = self.rows([passages[i] for i in some])
            x, scored, real = (part.repeat_interleave(self.draws, 0) for part in (x, scored, real))
            random = [self.random("draw", number) for _ in some for number in range(self.draws)]
            with torch.no_grad(), attending_to(denoiser, None if bool(real.all()) else real):
                terms = continuous_bound(
                    self.pipe.process, denoiser, x, nodes=self.nodes, low=self.low, real=scored, generator=random
                )
            yield some, terms.total.view(len(some), self.draws).mean(-1).tolist()

    def modes(self, passages: Sequence[Passage]) -> list[tuple[int, ...]]:
        """The most likely tokens in place of each tail, if it is replaced by one sample of pure noise.

        A model of blocks predicts each block given those before it, of the tail itself. Otherwise passages with equal heads and
        tails of equal length have equal predictions, and are predicted once.
        """
        process, denoiser = self.pipe.process, self.pipe.denoiser
        blocks = self.pipe.settings.block_size is not None
        keys = [(one.head, one.tail if blocks else len(one.tail)) for one in passages]
        first = {key: one for key, one in zip(reversed(keys), reversed(passages), strict=True)}
        each, found = list(first.values()), dict[object, tuple[int, ...]]()
        names = list(first)
        for some in self.groups([len(one.head) + len(one.tail) for one in each], takes_mask(denoiser)):
            x, scored, real = self.rows([each[i] for i in some])
            random = TokenGenerators([self.random("greedy") for _ in some], scored.cpu())
            noise = process.prior(*x.shape, generator=random, device=x.device)
            # As in the bound: at the upper end itself, the given tokens would be impossible for an exact denoiser.
            t = torch.full((len(x),), process.domain[1] - TIME_EPS, dtype=torch.float64, device=x.device)
            with torch.no_grad(), attending_to(denoiser, None if bool(real.all()) else real, clean=x):
                chosen = denoiser(torch.where(scored, noise, x), t, scored).argmax(-1).tolist()
            for i in some:
                size = len(each[i].tail)
                found[names[i]], chosen = tuple(chosen[:size]), chosen[size:]
        return [found[key] for key in keys]

    def texts(self, wanted: Sequence[Wanted]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """The tokens of texts behind their beginnings.

        **Returns:** batch by batch the indices of the texts, and the tokens of each.
        """
        pads = takes_mask(self.pipe.denoiser) and self.pipe.settings.block_size is None
        kinds = group_equal(
            [one.temperature if pads else (one.temperature, not one.ids) for one in wanted], len(wanted)
        )
        for kind in kinds:
            for part in self.groups([wanted[i].length for i in kind], pads):
                some = [kind[i] for i in part]
                yield some, self.drawn([wanted[i] for i in some])

    def drawn(self, wanted: Sequence[Wanted]) -> list[list[int]]:
        """The new tokens of one batch of texts; those of unlike lengths are padded, also if only some have a beginning."""
        random = [self.random("text", one.number) for one in wanted]
        if len({(one.length, not one.ids) for one in wanted}) > 1:
            rows = self.padded_texts(wanted, random)
        else:
            starts = [Text.of("", one.ids, self.pipe.tokenizer) for one in wanted]
            texts = self.pipe.generate(
                1 if wanted[0].ids else len(wanted),
                self.steps,
                prompts=starts if wanted[0].ids else None,
                length=wanted[0].length,
                temperature=wanted[0].temperature,
                batch_size=len(wanted),
                generator=random,
                show_progress=False,
            )
            rows = [list(text.tokens) for text in texts]  # type: ignore[attr-defined]
        return [row[len(one.ids) : one.length] for row, one in zip(rows, wanted, strict=True)]

    def padded_texts(self, wanted: Sequence[Wanted], random: Sequence[Generator]) -> list[list[int]]:
        """Texts of unlike lengths, with padding that is not attended to and draws no numbers."""
        pipe, width = self.pipe, max(one.length for one in wanted)
        place = torch.arange(width)
        real = place < torch.tensor([[one.length] for one in wanted])
        known = place < torch.tensor([[len(one.ids)] for one in wanted])
        tokens = torch.full((len(wanted), width), int(pipe.process.host_support().long().argmax()))
        for row, one in enumerate(wanted):
            tokens[row, : len(one.ids)] = torch.tensor(one.ids, dtype=torch.long)
        asked = Truncation(wanted[0].temperature)
        sampler = chosen_sampler(pipe.process, pipe.denoiser, None, asked, pipe.generation)
        times = sampler.grid(times=times_of(pipe, self.steps, False))
        batch = SampledBatch(
            slice(0, len(wanted)), tokens, known | ~real, sampler, times, generator=TokenGenerators(random, real)
        )
        with torch.no_grad(), attending_to(sampler.denoiser, real.to(pipe.device)):
            *_, (z, _) = batch.walk()
            found: list[list[int]] = batch.end(z).tolist()
        return found

    def rows(self, passages: Sequence[Passage]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, padded at the end, and the masks of those that are scored and of real ones, on the device of the model."""
        sizes = torch.tensor([[len(one.head), len(one.head) + len(one.tail)] for one in passages])
        tokens = torch.full((len(passages), int(sizes[:, 1].max())), padding_of(self.pipe))
        for row, one in enumerate(passages):
            tokens[row, : len(one.head) + len(one.tail)] = torch.tensor([*one.head, *one.tail])
        place = torch.arange(tokens.shape[1])
        real = place < sizes[:, 1:]
        device = self.pipe.device
        return tokens.to(device), (real & (place >= sizes[:, :1])).to(device), real.to(device)

    def groups(self, lengths: Sequence[int], padded: bool) -> list[list[int]]:
        """The indices of requests in batches, the longest first, so that too little memory is noticed at once."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        if padded:
            return [order[i : i + self.size] for i in range(0, len(order), self.size)]
        return [[order[i] for i in group] for group in group_equal([lengths[i] for i in order], self.size)]

    def random(self, *purpose: int | str) -> Generator:
        """A generator that depends on the seed and its purpose; on the CPU, so that noise is the same on every device."""
        return Generator().manual_seed(derive_seed("harness", self.seed, *purpose))


def ends_at(tokens: Sequence[int], ends: frozenset[int]) -> list[int]:
    """Tokens up to the first that ends a text."""
    return list(tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))])


@contextmanager
def request_bar(
    name: str, requests: Sequence[Sequence[Hashable]], quiet: bool
) -> Iterator[Callable[[Iterable[Hashable]], None]]:
    """A progress bar over requests, each of which is finished with the last of its parts.

    **Returns:** a function that takes parts that are done.
    """
    waiting = [set(parts) for parts in requests]
    owners: dict[Hashable, list[int]] = {}
    for number, parts in enumerate(waiting):
        for part in parts:
            owners.setdefault(part, []).append(number)
    with tqdm(total=len(requests), desc=name, disable=quiet) as bar:
        bar.update(sum(not parts for parts in waiting))

        def done(parts: Iterable[Hashable]) -> None:
            for part in parts:
                for number in owners[part]:
                    waiting[number].discard(part)
                    bar.update(not waiting[number])

        yield done
