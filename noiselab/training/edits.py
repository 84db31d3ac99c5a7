"""The loss of autoregressive models that backtrack."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from ..autoregressive import EditProcess, Semantics, Tree
from ..networks.outputs import logits_of
from ..typing import Scalar
from .losses import Batch, noised_tokens, real_tokens
from .noise import Place, row_generators

Mistakes = Literal["scored", "unscored", "unmarked"]
"""How wrong tokens are trained: generated and deleted ("scored"), only deleted ("unscored"), or neither ("unmarked")."""


@dataclass(frozen=True)
class EditLoss:
    r"""The loss -log p(z) per token of the text, on streams drawn anew at every step; a `Loss` for the `Trainer`.

    With "scored" mistakes, this loss minus the entropy of the streams is the negative edit ELBO, an upper
    bound on -log p(x).

    **Arguments:**

    - `edits`: the edit process, applied to the real tokens of each row.
    - `start`: the token that precedes each text.
    - `semantics`: "visible" (one causal pass over the stream) or "erasing" (one pass over its tree).
    - `deep`: for "erasing", whether a backspace may follow a backspace; must agree with `BackspaceSampler`.
    - `mistakes`: "scored"; "unscored", no loss on wrong tokens; or "unmarked", wrong tokens stay in the text without
      loss and without backspaces, a control with noise only.

    **Raises:** `ValueError` for "unmarked" mistakes with "erasing" semantics, since they are never deleted.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import RandomTokenBackspace, UniformTokens
    from noiselab.training import EditLoss, Place

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes))
    edits = RandomTokenBackspace(vocab_size=11, backspace=10, rate=0.1, wrong=UniformTokens(10))
    loss = EditLoss(edits, start=0, semantics="erasing", deep=False)
    loss(network, {"input_ids": torch.randint(10, (2, 6))}, place=Place(step=0)).backward()
    ```

    **Source:** the choice of loss on wrong tokens: Ye et al. (2024), arXiv 2408.16293, section 4.
    """

    edits: EditProcess
    start: int
    semantics: Semantics = "visible"
    deep: bool = True
    mistakes: Mistakes = "scored"

    def __post_init__(self) -> None:
        if self.mistakes == "unmarked" and self.semantics == "erasing":
            raise ValueError("unmarked mistakes stay in the text: they need the visible semantics; got 'erasing'")

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        place: Place,
        tokens: Tensor | None = None,
        autocast: torch.dtype | None = None,
    ) -> Scalar:
        """The loss of a batch; arguments as for `noised_loss`.

        **Raises:** `ValueError` if some real tokens are not `scored` or have the label -100: all of a text is learned; or if
        rows have `documents`.
        """
        ids, real = batch["input_ids"].long(), real_tokens(batch)
        if ("scored" in batch or "labels" in batch) and not torch.equal(real, noised_tokens(batch)):
            raise ValueError("EditLoss learns all real tokens of a text; got a batch with tokens that are not scored")
        if "documents" in batch:
            raise ValueError("EditLoss learns each row as one text; got a batch with documents in its rows")
        random = row_generators(place, len(ids), torch.device("cpu"))
        texts = [row[some].cpu() for row, some in zip(ids, real, strict=True)]
        streams = [self.edits.corrupt(x, generator=g) for x, g in zip(texts, random, strict=True)]
        count = real.sum() * (place.accumulation * place.world) if tokens is None else tokens
        found = self._visible(streams) if self.semantics == "visible" else self._erasing(streams)
        inputs, rows, labels, banned, weights = (part.to(ids.device) for part in found[:5])
        extra = {name: part.to(ids.device) for name, part in found[5].items()}
        with torch.autocast(ids.device.type, dtype=autocast, enabled=autocast is not None):
            logits = logits_of(model(input_ids=inputs, **extra))
        logits = logits.flatten(0, 1)[rows].float()
        if banned.any():
            forbidden = torch.zeros_like(logits, dtype=torch.bool)
            forbidden[:, self.edits.backspace] = banned
            logits = logits.masked_fill(forbidden, -torch.inf)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return torch.where(weights, losses, 0).sum() * (place.world / count)

    def _visible(self, streams: list[Tensor]) -> "_Parts":
        entries, weights, banned = [], [], []
        for z in streams:
            tree = self.edits.tree(z)
            kept = z != self.edits.backspace if self.mistakes == "unmarked" else torch.ones_like(z, dtype=torch.bool)
            entries.append(z[kept])
            weights.append(self._weights(tree)[kept])
            banned.append(self._banned(tree)[kept])
        width = max(map(len, entries))
        inputs, rows = torch.full((len(entries), width), self.start), []
        for row, z in enumerate(entries):
            inputs[row, 1 : len(z)] = z[:-1]
            rows.append(row * width + torch.arange(len(z)))
        return inputs, torch.cat(rows), torch.cat(entries), torch.cat(banned), torch.cat(weights), {}

    def _erasing(self, streams: list[Tensor]) -> "_Parts":
        trees = [self.edits.tree(z) for z in streams]
        width = max(len(tree.tokens) for tree in trees)
        inputs, rows, banned, weights = torch.full((len(trees), width), self.start), [], [], []
        mask = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1, 1)
        positions = torch.zeros(len(trees), width, dtype=torch.long)
        for row, tree in enumerate(trees):
            size = len(tree.tokens)
            inputs[row, 1:size] = tree.tokens[1:]
            mask[row, 0, :size, :size] = tree.ancestors
            positions[row, :size] = tree.depths
            rows.append(row * width + tree.nodes)
            banned.append(self._banned(tree))
            weights.append(self._weights(tree))
        seen = {"attention_mask": mask, "position_ids": positions}
        return inputs, torch.cat(rows), torch.cat(streams), torch.cat(banned), torch.cat(weights), seen

    def _weights(self, tree: Tree) -> Bool[Tensor, " stream"]:
        """The mask of entries that contribute to the loss."""
        return torch.ones_like(tree.wrong) if self.mistakes == "scored" else ~tree.wrong

    def _banned(self, tree: Tree) -> Bool[Tensor, " stream"]:
        """The mask of positions where a backspace is impossible."""
        nothing = tree.nodes == 0
        return nothing if self.deep else nothing | tree.again


_Parts: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]
"""The network's input tokens; for each scored entry its row, its label, whether a backspace is impossible, and whether
it counts; further inputs of the network.
"""
