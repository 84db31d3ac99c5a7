"""Networks that are evaluated at some tokens only, with the keys and values of the others: `DiT`, models of transformers."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from ..denoisers.modes import device_of, evaluating
from ..typing import MayAttend, PerToken, Positions, Tokens
from .attention_checks import close, random_copy
from .dit import DiT
from .huggingface import TransformersDenoiser
from .masked_lm import MaskedLanguageModel
from .opening import four_axes, placed_arguments
from .outputs import accepts
from .wrapped import innermost, plain_network

Keyed = DiT | TransformersDenoiser | MaskedLanguageModel
"""What a cache is around."""
KeysOfLayers = Sequence[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]
"""For each layer: (keys, values) of the evaluated tokens -> those of all tokens that are attended to."""
_CHECKED: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # networks, so that pipelines check each of them once
SIZE = 2  # the tokens of a block of the text with which a network is tried


class NoKeys(ValueError):
    """A network cannot be evaluated with the keys and values of earlier tokens."""


class Append:
    """Attends to cached keys and values first, and notes those of the evaluated tokens."""

    def __init__(self, past: tuple[Tensor, Tensor] | None = None):
        self.past = past
        self.new: tuple[Tensor, Tensor] | None = None

    def __call__(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the cached tokens and of the evaluated ones."""
        self.new = (key, value)
        if self.past is None:
            return self.new
        return torch.cat((self.past[0], key), 2), torch.cat((self.past[1], value), 2)


class _Handed(DynamicCache):
    """A cache of transformers that hands the keys and values of each layer to a function."""

    def __init__(self, memory: KeysOfLayers):
        super().__init__()
        self.memory = memory

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The keys and values that are attended to."""
        return self.memory[layer_idx](key_states, value_states)


def network_of(model: Keyed) -> Any:
    """The network inside a denoiser: a `DiT`, or the model of transformers, with adapters in its layers."""
    if isinstance(model, MaskedLanguageModel):
        return plain_network(model.model)
    return model.model if isinstance(model, TransformersDenoiser) else model


def count_layers(model: Keyed) -> int:
    """The number of layers with keys and values."""
    network = network_of(model)
    return len(network.blocks) if isinstance(network, DiT) else int(network.config.num_hidden_layers)


def states_at(
    model: Keyed,
    z: Tokens,
    t: PerToken,
    may_attend: MayAttend | None,
    positions: Positions,
    memory: KeysOfLayers | None = None,
) -> Float[Tensor, "batch length width"]:
    """The hidden states of some tokens, each at its own place even if logits are shifted.

    **Arguments:**

    - `model`: the network.
    - `z`, `t`, `positions`: the tokens that are evaluated, their times and positions.
    - `may_attend`: which of them (second axis) may attend to which keys (third axis); `None` for all.
    - `memory`: for each layer a function that returns the keys and values that are attended to; `None` for those of z.
    """
    network = network_of(model)
    if isinstance(network, DiT):
        return network.hidden(z, t.float(), may_attend=may_attend, positions=positions, memory=memory)
    assert isinstance(model, MaskedLanguageModel)
    if may_attend is None:
        # Without a mask a causal model would make one of its own. One row of keys serves all queries.
        may_attend = torch.ones(1, 1, 1, dtype=torch.bool, device=z.device)
    options = {"attention_mask": four_axes(network, may_attend), **placed_arguments(network, z, positions)}
    if memory is not None:
        options |= {"past_key_values": _Handed(memory), "use_cache": True}
    return model.states(z, **options)


def check_keyed(model: object) -> None:
    """Check that a network can be evaluated with the keys and values of earlier blocks, by what moves its logits.

    **Raises:** `NoKeys` if it is no `DiT` and no model of transformers that takes past_key_values, if a token depends on one of
    a later block, or if the logits after cached keys and values are others than those of a whole pass.
    """
    if isinstance(model, DiT):
        return
    if isinstance(model, TransformersDenoiser) and isinstance(model.model, DiT) and model.splits:
        require_no_mask(model)
        return
    if not isinstance(model, MaskedLanguageModel):
        inner = f" of {type(innermost(model.model)).__name__}" if isinstance(model, TransformersDenoiser) else ""
        raise NoKeys(
            "model must be a noiselab.networks.dit.DiT, or a denoiser of one or of a model of transformers "
            f"(MaskedLanguageModel); got {type(model).__name__}{inner}"
        )
    require_no_mask(model)
    network = network_of(model)
    name = type(innermost(network)).__name__
    call = network.base_model if model.head else network
    if innermost(network) is not network:
        raise NoKeys(f"keys and values are kept of a network without wrappers of torch; got {type(network).__name__}")
    if network in _CHECKED:
        return
    if not accepts(call.forward, "past_key_values"):
        raise NoKeys(f"the network must take past_key_values; {name} does not")
    model.require_attention()
    try:
        with torch.no_grad(), evaluating(model):
            tried, effect, leak, same = model, *_tried(model)
            if not effect:  # zero layers hide what is attended to
                tried = random_copy(model, 0)
                effect, leak, same = _tried(tried)
    except Exception as error:  # a network that cannot take keys fails in any way
        raise NoKeys(
            f"the network must take keys and values of earlier tokens (past_key_values); {name} fails with "
            f"{type(error).__name__}: {error}"
        ) from error
    if leak:
        raise NoKeys(f"the network must be causal in blocks; in {name} a token depends on one of a later block")
    if not same:
        raise NoKeys(
            f"the network must attend to the keys and values that it is given (past_key_values); in {name} the logits of a "
            "block after those of its past are not the logits of a whole pass"
        )
    _CHECKED.add(network)


def require_no_mask(model: TransformersDenoiser | MaskedLanguageModel) -> None:
    """Raise `ValueError` if a denoiser has an attention mask of its own, which is for whole sequences."""
    if model.attention_mask is not None:
        raise ValueError("the attention_mask must be given to the cache or by attending_to; got one of the denoiser")


def _tried(model: MaskedLanguageModel) -> tuple[bool, bool, bool]:
    """Whether the second of two blocks depends on the first, the first on the second, and both are the same with a cache."""
    device = device_of(model)
    z, t = torch.tensor([[0, 1, 1, 0]], device=device), torch.full((1, 2 * SIZE), 0.5, device=device)
    place, count = torch.arange(2 * SIZE, device=device)[None], count_layers(model)
    block = place // SIZE
    pairs = block[:, None] <= block[:, :, None]

    def logits(z: Tensor) -> Tensor:
        return _finite(model.project(states_at(model, z, t, pairs, place)))

    def after(z: Tensor) -> Tensor:
        """The states of both blocks, the second with the keys and values of the first."""
        memory = [Append() for _ in range(count)]
        first = states_at(model, z[:, :SIZE], t[:, :SIZE], None, place[:, :SIZE], memory)
        memory = [Append(layer.new) for layer in memory]
        return torch.cat((first, states_at(model, z[:, SIZE:], t[:, SIZE:], None, place[:, SIZE:], memory)), 1)

    whole, other = logits(z), torch.tensor([[1, 0, 1, 0]], device=device)
    effect = not close(logits(other)[:, SIZE:], whole[:, SIZE:], 1e-6)
    leak = not close(logits(torch.tensor([[0, 1, 0, 1]], device=device))[:, :SIZE], whole[:, :SIZE])
    found = after(z)
    # In low precision `close` allows so much that the first block might be left out; any change shows that it is not.
    read = not torch.equal(after(other)[:, SIZE:], found[:, SIZE:])
    return effect, leak, read and close(_finite(model.project(found)), whole)


def _finite(logits: Tensor) -> Tensor:
    return torch.where(logits.isfinite(), logits, 0)
