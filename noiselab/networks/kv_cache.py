"""The base class of caches: evaluating a network at active rows only, and storing keys and values."""

import abc
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..denoisers.base import Denoiser, ProjectedDenoiser, describe
from ..parametrization import Prediction
from ..process import as_token_times
from ..typing import Selection, Times, Tokens
from .kept_keys import Keyed, check_keyed, network_of, states_at
from .windows import Text, Window


class Known(NamedTuple):
    """A cached evaluation.

    **Arguments:**

    - `network`: the key of the network.
    - `marks`: what the keys and values depend on, each [batch, places]: tokens, times, the mask of real tokens, positions and
      blocks. A token of -1 is not known.
    - `layers`: the keys and values of each layer, [batch, heads, places, width].
    - `reused`: the number of places of each sequence that the last call did not evaluate.
    - `hidden`: the last hidden states, where logits are shifted.
    """

    network: tuple
    marks: list[Tensor]
    layers: list[tuple[Tensor, Tensor]]
    reused: Tensor
    hidden: Tensor | None = None


class Evaluation(ProjectedDenoiser):
    """Base class of caches: a network evaluated at active rows only, with a count of evaluated tokens."""

    exact = True
    takes_mask = keeps_keys = True
    attention_mask: Tensor | None

    def __init__(self, model: Keyed, predicts: Prediction | None, attention_mask: Tensor | None):
        super().__init__()
        check_keyed(model)
        if predicts is None:
            predicts = model.predicts if isinstance(model, Denoiser) else "leave_one_out"
        self.model: Any = model
        self.predicts, self.evaluated = predicts, 0
        self.register_buffer("attention_mask", attention_mask, persistent=False)
        self._known: Known | None = None

    @abc.abstractmethod
    def states(self, z: Tensor, t: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of positions that include the active ones, and `asked` at these."""

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits of hidden states."""
        return self.model.project(hidden)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The logits; evaluates only the positions required by `rows` that are not cached."""
        asked = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        if not asked.any():
            one = z.new_zeros(1, 1)
            nothing = self.project(states_at(self.model, one, one.double(), None, one)[0, :0])
            return nothing if rows is not None else nothing.view(*z.shape, nothing.shape[-1])
        hidden, asked = self.states(z, as_token_times(t, z).expand(z.shape), asked)
        logits = self.project(hidden[asked])
        return logits.view(*z.shape, -1) if rows is None else logits

    def reset(self) -> None:
        """Clear the cache and reset `evaluated` to 0.

        Needed only if weights were changed without autograd's knowledge (through `.data`) during a walk.
        """
        self._known, self.evaluated = None, 0

    def _run(self, z: Tensor, *options: Any) -> Tensor:
        self.evaluated += z.numel()
        return states_at(self.model, z, *options)

    def _real(self, z: Tensor) -> Tensor | None:
        """The mask of real tokens, [batch, length]; masks of longer sequences are truncated like the tokens."""
        length, masks = z.shape[1], self.attended.all_masks(self.attention_mask)
        for mask in masks:
            if mask.shape[1] < length or len(mask) not in (1, len(z)):
                raise ValueError(f"attention_mask must fit tokens of shape {[len(z), length]}; got {list(mask.shape)}")
        if not masks:
            return None
        return torch.stack([mask[:, :length].bool().expand(len(z), -1) for mask in masks]).all(0)

    def _keeps(self) -> bool:
        """Whether to cache: not while gradients are recorded, nor with dropout, which makes evaluations differ."""
        return not torch.is_grad_enabled() and not _drops(network_of(self.model))

    def _network(self) -> tuple:
        """A key that changes with the network's weights or precision, or with the adapters of peft that are in use."""
        tensors = list(self.model.parameters())
        device = tensors[0].device.type
        auto = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        versions = (0 if tensor.is_inference() else tensor._version for tensor in tensors)
        return (
            auto,
            _adapters(self.model),
            *((t.data_ptr(), t.dtype, version) for t, version in zip(tensors, versions, strict=True)),
        )

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return ""

    def __repr__(self) -> str:
        return describe(self, self.model, self.extra_repr())


def stored(
    network: tuple,
    known: Known | None,
    text: Text,
    at: Window,
    start: Tensor,
    new: list[tuple[Tensor, Tensor]],
    hidden: Tensor | None,
    batch: int,
) -> Known:
    """A cache with the keys and values of all blocks before the last active one, which changes with the next step.

    **Arguments:**

    - `network`: the key of the network.
    - `known`: the cache so far, of which places before `start` are valid.
    - `text`, `at`, `start`: what was evaluated, and from where.
    - `new`, `hidden`: its keys and values in each layer, and its hidden states if they are kept.
    - `batch`: the number of sequences of the batch.
    """
    last = text.last
    reused = start.new_zeros(batch) if known is None else known.reused.clone()
    reused[text.these] = start
    if known is not None and not (start < last).any():
        return known._replace(reused=reused)
    size = int(last.max())
    if known is not None and text.rows is not None:
        size = max(size, known.marks[0].shape[1])
    rows = torch.arange(batch, device=start.device) if text.rows is None else text.rows
    here = (at.inside & (at.places < last[:, None])).expand(len(rows), -1)
    row, column = here.nonzero(as_tuple=True)
    to, place = rows[row], at.places.expand(len(rows), -1)[row, column]

    def grown(old: Tensor | None, part: Tensor, axis: int = 1) -> Tensor:
        """What was known, with the new part at its places; `axis` is that of places."""
        shape = [batch, *part.shape[1:]]
        shape[axis] = size
        made = part.new_zeros(shape)
        if old is not None:
            most = min(size, old.shape[axis])
            made.narrow(axis, 0, most).copy_(old.narrow(axis, 0, most))
        if axis == 1:
            made[to, place] = part[row, column]
        else:
            made[to, :, place] = part[row, :, column]
        return made

    layers = []
    for i, (key, value) in enumerate(new):
        keys, values = (None, None) if known is None else known.layers[i]
        layers.append((grown(keys, key, 2), grown(values, value, 2)))
    marks = [grown(None if known is None else known.marks[i], at.at(one)) for i, one in enumerate(text.marks())]
    # Later places of these sequences were known after other tokens.
    unknown = torch.ones_like(marks[0], dtype=torch.bool) if known is None else marks[0] < 0
    unknown[text.these] = torch.arange(size, device=start.device) >= last[:, None]
    marks[0] = torch.where(unknown, -1, marks[0])
    return Known(network, marks, layers, reused, None if hidden is None else grown(known and known.hidden, hidden))


def _adapters(model: nn.Module) -> tuple:
    """The state of adapters that is no weight; peft also merges them into weights without autograd's knowledge."""
    layers: list[Any] = [part for part in model.modules() if hasattr(type(part), "merged_adapters")]
    names = ("disable_adapters", "active_adapters", "merged_adapters", "scaling")
    return tuple(str([getattr(layer, name, None) for name in names]) for layer in layers)


def _drops(network: nn.Module) -> bool:
    """Whether a network is in training mode and drops anything."""
    if any(part.training and part.p > 0 for part in network.modules() if isinstance(part, nn.Dropout)):
        return True
    config: Any = getattr(network, "config", None)
    rates = (value for name, value in vars(config).items() if "drop" in name)
    return network.training and any(isinstance(rate, float | int) and rate > 0 for rate in rates)
