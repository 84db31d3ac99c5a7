"""Training a probe: its loss, its data, its file."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ..autoregressive import Probe
from ..files import new_file
from ..tasks.igsm import Problem, Words, can_next_examples
from ..typing import Scalar
from .checks import fingerprint
from .losses import Batch, normalize_loss
from .noise import Place, derive_seed
from .problems import TRIES, batch_by_length, padded


def labelled(batch: Batch) -> Bool[Tensor, " ..."]:
    """What `probe_loss` scores, for the `count` of `Trainer`: every label."""
    return torch.ones_like(batch["label"], dtype=torch.bool)


def probe_loss(
    model: nn.Module, batch: Batch, *, place: Place, tokens: Tensor | None = None, autocast: torch.dtype | None = None
) -> Scalar:
    r"""The loss of a probe: $-\log p(\text{label})$, mean over labels.

    **Arguments:**

    - `model`: a `Probe`.
    - `batch`: `input_ids`; `label`, 1 for yes; of the shape of the labels `places`, the last real token of each row by
      default; `attention_mask`, with padding behind the rows.
    - `place`: nothing here is random.
    - `tokens`: labels in the optimizer step, which `labelled` counts.
    - `autocast`: as for `noised_loss`.

    **Returns:** a scalar in nats per label.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import Probe
    from noiselab.training import Place, probe_loss, small_llama

    probe = Probe(small_llama(10, layers=1, width=16, heads=2, length=8, start=0))
    batch = {"input_ids": torch.randint(10, (4, 8)), "label": torch.tensor([0, 1, 1, 0])}
    probe_loss(probe, batch, place=Place(step=0)).backward()
    ```
    """
    ids, label, mask = batch["input_ids"].long(), batch["label"], batch.get("attention_mask")
    if mask is not None:
        width = max(1, int(mask.sum(-1).max()))
        ids, mask = ids[:, :width], mask[:, :width].long()
    with torch.autocast(ids.device.type, dtype=autocast, enabled=autocast is not None):
        logits = model(input_ids=ids, attention_mask=mask, places=batch.get("places")).float()
    losses = F.binary_cross_entropy_with_logits(logits, label.float(), reduction="none")
    return normalize_loss(losses, labelled(batch), place, tokens)


class CanNextStream(IterableDataset):
    """Rows to train a probe on without end: a solution up to some step, "D A as", and whether A can be found next.

    **Arguments:**

    - `draw`: a random problem, of a generator of Python's.
    - `words`: the tokens of its level.
    - `length`: of a row, with padding behind; longer ones are drawn anew.
    - `batch`: rows of a batch. Those of one batch are of much the same length, and batches are in random order.
    - `each`: rows of a problem.
    - `balanced`: as for `can_next_examples`.
    - `seed`: of all randomness.

    **Raises:** `ValueError` if a number is not positive; while drawing, if nearly no row fits the length.

    **Example:**

    ```python
    from functools import partial
    from noiselab.tasks.igsm import Words, draw_small
    from noiselab.training import CanNextStream

    words = Words("nano")
    rows = CanNextStream(partial(draw_small, level="nano", split="train"), words, 200, batch=4)
    row = next(iter(rows))
    print(" ".join(words.decode(row["input_ids"][row["attention_mask"].bool()])), int(row["label"]))
    ```
    """

    endless = True

    def __init__(
        self,
        draw: Callable[[random.Random], Problem],
        words: Words,
        length: int,
        *,
        batch: int,
        each: int = 4,
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        if min(length, batch, each) < 1:
            raise ValueError(f"length, batch and each must be positive; got {length}, {batch} and {each}")
        self.draw, self.words, self.length, self.batch = draw, words, length, batch
        self.each, self.balanced, self.seed = each, balanced, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Rows without end: `input_ids`, `attention_mask` and `label`."""
        generator = random.Random(derive_seed("probe", self.seed))
        for tokens, label in batch_by_length(
            self._rows(generator), self.batch, generator, length=lambda row: len(row[0])
        ):
            yield {
                "input_ids": padded(tokens, self.length, self.words.padding),
                "attention_mask": padded(torch.ones_like(tokens), self.length),
                "label": label.long(),
            }

    def _rows(self, generator: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
        misses = 0
        while misses < TRIES:
            found = can_next_examples(self.draw(generator), self.words, generator, self.each, balanced=self.balanced)
            for tokens, label in zip(found.rows, found.labels, strict=True):
                misses = 0 if len(tokens) <= self.length else misses + 1
                if not misses:
                    yield tokens, label
        raise ValueError(f"rows must fit the length, {self.length}; got none that does in {TRIES} draws")


def save_probe(probe: Probe, file: str | Path) -> None:
    """Write what of a probe is trained, with its ranks and a hash of the frozen rest; the whole file or none.

    **Arguments:**

    - `probe`: the probe.
    - `file`: of safetensors; replaced if it exists.
    """
    trained = {name: p.detach().contiguous() for name, p in probe.named_parameters() if p.requires_grad}
    settings = {"embedding_rank": probe.embedding_rank, "attention_rank": probe.attention_rank}
    metadata = {"format": "pt", "probe": json.dumps({**settings, "frozen": _frozen(probe)})}
    with new_file(Path(file)) as temporary:
        save_file(trained, temporary, metadata=metadata)


def load_probe(network: nn.Module, file: str | Path) -> Probe:
    """A probe of a network from the file that `save_probe` wrote.

    **Arguments:**

    - `network`: the frozen one, as for `Probe`.
    - `file`: the file.

    **Raises:** `ValueError` if the file is none of a probe, or of that of another network; `ImportError` as `Probe`.
    """
    try:
        with safe_open(file, framework="pt") as content:
            settings: dict[str, Any] = json.loads((content.metadata() or {})["probe"])
            saved = {name: content.get_tensor(name) for name in content.keys()}
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{file} must hold a probe; {error!r}") from error
    probe = Probe(network, settings["embedding_rank"], settings["attention_rank"])
    if (frozen := _frozen(probe)) != settings["frozen"]:
        raise ValueError(f"{file} must hold a probe of this network, {frozen}; got one of {settings['frozen']}")
    with torch.no_grad():
        for name, p in probe.named_parameters():
            if p.requires_grad:
                p.copy_(saved[name])
    return probe


def _frozen(probe: Probe) -> str:
    return fingerprint({name: p for name, p in probe.named_parameters() if not p.requires_grad})
