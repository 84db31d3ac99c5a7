"""Caches of the entries that a causal model has read, which can be rolled back row by row."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..networks.outputs import logits_of


@runtime_checkable
class DecoderCache(Protocol):
    """Feeds entries to a causal model, row by row, and returns its logits; read entries can be dropped again."""

    def read(
        self, tokens: Int[Tensor, "row new"], positions: Int[Tensor, "row new"], real: Bool[Tensor, "row new"]
    ) -> Float[Tensor, "row state"]:
        """The logits after the last new entry of each row. Entries where `real` is false are padding."""
        ...

    def read_last(
        self,
        tokens: Int[Tensor, "row new"],
        positions: Int[Tensor, "row new"],
        real: Bool[Tensor, "row new"],
        count: int,
    ) -> Float[Tensor, "row {count} state"]:
        """The logits after each of the last `count` columns; where `real` is false they are meaningless."""
        ...

    def roll_back(self, row: int, count: int) -> None:
        """Drop the last `count` real entries of a row."""
        ...

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        ...


class KVCache:
    """The KV cache of a causal model of transformers, which can be rolled back row by row.

    A dropped entry at the end of all rows is cut off. Any other dropped entry stays in the tensors and is masked, so that rows
    of different lengths need not move. Positions are given by the caller and do not count dropped entries.

    **Arguments:**

    - `network`: a causal model of transformers.
    """

    def __init__(self, network: Any) -> None:
        from transformers import DynamicCache

        self.network, self.cache = network, DynamicCache(config=network.config)
        self.seen: Tensor | None = None

    def read(
        self, tokens: Int[Tensor, "row new"], positions: Int[Tensor, "row new"], real: Bool[Tensor, "row new"]
    ) -> Float[Tensor, "row state"]:
        """The logits after the last new entry of each row."""
        return self.read_last(tokens, positions, real, 1)[:, -1]

    @torch.no_grad()
    def read_last(
        self,
        tokens: Int[Tensor, "row new"],
        positions: Int[Tensor, "row new"],
        real: Bool[Tensor, "row new"],
        count: int,
    ) -> Float[Tensor, "row {count} state"]:
        """The logits after each of the last `count` columns."""
        self.seen = real if self.seen is None else torch.cat([self.seen, real], -1)
        output: Any = self.network(
            input_ids=tokens,
            attention_mask=self._mask(tokens.shape[1]),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=count,
        )
        return logits_of(output)[:, -count:]

    def _mask(self, new: int) -> Tensor:
        """The attention mask; for one new entry it is given in full, which saves the network computing it."""
        assert self.seen is not None
        everywhere = not any(getattr(layer, "is_sliding", True) for layer in self.cache.layers)
        if new == 1 and everywhere and self.network.config._attn_implementation == "sdpa":
            return self.seen[:, None, None]
        return self.seen.long()

    def roll_back(self, row: int, count: int) -> None:
        """Drop the last `count` real entries of a row."""
        if self.seen is None or count < 1:
            return
        last = self.seen[row].nonzero()[-count:, 0]
        self.seen = self.seen.clone()
        self.seen[row, last] = False
        held = self.seen.any(0).nonzero()
        spare = self.seen.shape[1] - 1 - int(held[-1]) if len(held) else self.seen.shape[1]
        if spare:
            self.cache.crop(-spare)
            self.seen = self.seen[:, :-spare]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        if self.seen is not None:
            index = torch.tensor(list(rows), device=self.seen.device)
            self.cache.batch_select_indices(index)
            self.seen = self.seen[index]


class NoCache:
    """Caches nothing: the whole row is read again each time. Slow, works with any causal model; the reference for `KVCache`.

    **Arguments:**

    - `network`: called with `input_ids`, one row at a time; returns logits or something that has them.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.rows: list[Tensor] | None = None

    def read(
        self, tokens: Int[Tensor, "row new"], positions: Int[Tensor, "row new"], real: Bool[Tensor, "row new"]
    ) -> Float[Tensor, "row state"]:
        """The logits after the last new entry of each row."""
        return self.read_last(tokens, positions, real, 1)[:, -1]

    @torch.no_grad()
    def read_last(
        self,
        tokens: Int[Tensor, "row new"],
        positions: Int[Tensor, "row new"],
        real: Bool[Tensor, "row new"],
        count: int,
    ) -> Float[Tensor, "row {count} state"]:
        """The logits after each of the last `count` columns."""
        before = [tokens.new_empty(0)] * len(tokens) if self.rows is None else self.rows
        self.rows = [torch.cat([old, new[some]]) for old, new, some in zip(before, tokens, real, strict=True)]
        found = [logits_of(self.network(input_ids=row[None]))[0, -count:] for row in self.rows]
        # Rows are padded on the left.
        return torch.stack([nn.functional.pad(logits, (0, 0, count - len(logits), 0)) for logits in found])

    def roll_back(self, row: int, count: int) -> None:
        """Drop the last `count` entries of a row."""
        if self.rows is not None and count:
            self.rows[row] = self.rows[row][:-count]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        if self.rows is not None:
            self.rows = [self.rows[row] for row in rows]
