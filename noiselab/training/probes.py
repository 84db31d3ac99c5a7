"""Training probes: the loss, and saving and loading."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..autoregressive import Probe
from ..files import new_file
from ..typing import Scalar
from .identity import fingerprint
from .losses import Batch, normalize_loss
from .noise import Place


def labelled(batch: Batch) -> Bool[Tensor, " ..."]:
    """The mask of labels that `probe_loss` scores (all), for the `count` of `Trainer`."""
    return torch.ones_like(batch["label"], dtype=torch.bool)


def probe_loss(
    model: nn.Module, batch: Batch, *, place: Place, tokens: Tensor | None = None, autocast: torch.dtype | None = None
) -> Scalar:
    r"""The loss of a probe: the mean of $-\log p(\text{label})$ over labels.

    **Arguments:**

    - `model`: a `Probe`.
    - `batch`: `input_ids`; `label`, 1 for positive; optionally `places`, the positions of the labels, of the same shape
      (by default the last real token of each row), and `attention_mask`, with padding on the right.
    - `place`: not used; the loss is deterministic.
    - `tokens`: the number of labels in the optimizer step, counted by `labelled`.
    - `autocast`: as for `noised_loss`.

    **Returns:** a scalar in nats per label.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import Probe
    from noiselab.training import Place, probe_loss

    config = LlamaConfig(vocab_size=10, hidden_size=16, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2)
    probe = Probe(LlamaForCausalLM(config))
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


def save_probe(probe: Probe, file: str | Path) -> None:
    """Write the trained weights of a probe atomically, with its ranks and a hash of the frozen network.

    **Arguments:**

    - `probe`: the probe.
    - `file`: the safetensors file; replaced if it exists.
    """
    trained = {name: p.detach().contiguous() for name, p in probe.named_parameters() if p.requires_grad}
    settings = {"embedding_rank": probe.embedding_rank, "attention_rank": probe.attention_rank}
    metadata = {"format": "pt", "probe": json.dumps({**settings, "frozen": _frozen(probe)})}
    with new_file(Path(file)) as temporary:
        save_file(trained, temporary, metadata=metadata)


def load_probe(network: nn.Module, file: str | Path) -> Probe:
    """Load a probe of a network from a file written by `save_probe`.

    **Arguments:**

    - `network`: the frozen network, as for `Probe`.
    - `file`: the file.

    **Raises:** `ValueError` if the file does not contain a probe, or belongs to another network; `ImportError` as
    `Probe`.
    """
    try:
        with safe_open(file, framework="pt") as content:
            settings: dict[str, Any] = json.loads((content.metadata() or {})["probe"])
            saved = {name: content.get_tensor(name) for name in content.keys()}
        ranks, frozen = (settings["embedding_rank"], settings["attention_rank"]), settings["frozen"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} must contain a probe; {error!r}") from error
    try:
        probe = Probe(network, *ranks)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} must contain the ranks of a probe, {ranks}: {error}") from error
    if (own := _frozen(probe)) != frozen:
        raise ValueError(f"{file} must contain a probe of this network, {own}; got one of {frozen}")
    trained = {name: p for name, p in probe.named_parameters() if p.requires_grad}
    for name, p in trained.items():
        if name not in saved or saved[name].shape != p.shape:
            raise ValueError(f"{file} must contain {name} of shape {list(p.shape)}; it does not")
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(saved[name])
    return probe


def _frozen(probe: Probe) -> str:
    return fingerprint({name: p for name, p in probe.named_parameters() if not p.requires_grad})
