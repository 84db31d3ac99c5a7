"""The base class of caches: evaluating a `DiT` at active rows only, and storing keys and values."""

import abc
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..denoisers.base import ProjectedDenoiser, describe
from ..parametrization import Prediction
from ..process import as_token_times
from ..typing import Selection, Times, Tokens
from .dit import DiT


class Known(NamedTuple):
    """A cached evaluation: the network, tokens and times, and the keys and values of each layer."""

    network: tuple
    z: Tensor
    t: Tensor
    layers: list[tuple[Tensor, Tensor]]
    valid: int = 0  # positions that were reused without evaluation


class Append:
    """Attends to cached keys and values of earlier tokens too, and caches all of them."""

    def __init__(self, past: tuple[Tensor, Tensor] | None = None):
        self.kept = past

    def __call__(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens so far."""
        if self.kept is not None:
            key, value = torch.cat((self.kept[0], key), 2), torch.cat((self.kept[1], value), 2)
        # Values are a view of a tensor that includes the queries, and would keep it alive.
        self.kept = (key, value.contiguous())
        return self.kept


class Evaluation(ProjectedDenoiser):
    """Base class of caches: a `DiT` evaluated at active rows only, with a count of evaluated tokens."""

    exact = True
    takes_mask = True
    attention_mask: Tensor | None

    def __init__(self, model: DiT, predicts: Prediction, attention_mask: Tensor | None):
        super().__init__()
        if not isinstance(model, DiT):
            raise ValueError(f"model must be a noiselab.networks.dit.DiT; got {type(model).__name__}")
        self.model, self.predicts, self.evaluated = model, predicts, 0
        self.register_buffer("attention_mask", attention_mask, persistent=False)
        self._known: Known | None = None

    @abc.abstractmethod
    def states(self, z: Tensor, t: Tensor, asked: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
        """Hidden states of positions that include the active ones, and `asked` at these; `columns` are the active
        columns.
        """

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits of hidden states."""
        return self.model.project(hidden)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The logits; evaluates only the positions required by `rows` that are not cached."""
        asked = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        columns = asked.any(0).nonzero()[:, 0].tolist()
        if not columns:
            nothing = self.project(self.model.vocab_embed.embedding[:0])
            return nothing if rows is not None else nothing.view(*z.shape, nothing.shape[-1])
        hidden, asked = self.states(z, as_token_times(t, z).expand(z.shape), asked, columns)
        logits = self.project(hidden[asked])
        return logits.view(*z.shape, -1) if rows is None else logits

    def reset(self) -> None:
        """Clear the cache and reset `evaluated` to 0.

        Needed only if weights were changed without autograd's knowledge (through `.data`) during a walk.
        """
        self._known, self.evaluated = None, 0

    def _run(self, z: Tensor, t: Tensor, **options) -> Tensor:
        self.evaluated += z.numel()
        return self.model.hidden(z, t.float(), **options)

    def _mask(self, z: Tensor, length: int) -> Tensor | None:
        masks = self.attended.all_masks(self.attention_mask)
        for mask in masks:
            if mask.shape[1] < length or len(mask) not in (1, len(z)):
                raise ValueError(f"attention_mask must fit tokens of shape {[len(z), length]}; got {list(mask.shape)}")
        if not masks:
            return None
        return torch.stack([mask[:, :length].bool().expand(len(z), -1) for mask in masks]).all(0)

    def _keeps(self) -> bool:
        """Whether to cache: not while gradients are recorded, nor with dropout, which makes evaluations differ."""
        dropout = self.model.training and self.model.config.attention_dropout > 0
        return not torch.is_grad_enabled() and not dropout

    def _network(self) -> tuple:
        """A key that changes with the network's weights or precision."""
        tensors = [*self.model.parameters(), *self.attended.all_masks(self.attention_mask)]
        device = tensors[0].device.type
        auto = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        versions = (0 if tensor.is_inference() else tensor._version for tensor in tensors)
        return auto, *((t.data_ptr(), t.dtype, version) for t, version in zip(tensors, versions, strict=True))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return ""

    def __repr__(self) -> str:
        return describe(self, self.model, self.extra_repr())
