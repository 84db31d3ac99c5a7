"""What networks in published formats have in common: one calling convention, and a registry of formats by model_type."""

import abc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...denoisers.projection import LinearProjection
from ...parametrization import Prediction
from ...typing import Elementwise, Logits, PerSequence, PerToken, Tokens
from ..lengths import context_length

AttentionMask: TypeAlias = Bool[Tensor, "..."] | Int[Tensor, "..."] | Float[Tensor, "..."]
"""Which keys may be attended to: [batch, keys], [batch, queries, keys], or four axes as transformers has them."""

OPTIONS = ("timesteps", "attention_mask", "condition", "prefix", "self_conditioning")
"""The inputs that a format may know besides the tokens."""


class PublishedNetwork(abc.ABC):
    """A network in a published format; all have one calling convention.

    The outputs are the raw logits of the published code, for the time input of the published code. Inputs that a
    format does not know are refused. A subclass is also an `nn.Module` with a `config`, implements `states` and
    `project`, and declares what it knows.
    """

    knows: ClassVar[frozenset[str]] = frozenset()
    """The inputs of `OPTIONS` that the format knows."""
    predicts: ClassVar[Prediction] = "leave_one_out"
    """What the logits predict: "leave_one_out" or "posterior"; at masked tokens both are the same."""
    omits_masks: ClassVar[bool] = False
    """Whether the published samplers and losses set the logit of the mask token to -inf."""
    config: Any

    @abc.abstractmethod
    def states(self, input_ids: Tokens, *args: Any, **options: Any) -> Float[Tensor, "batch length width"]:
        """The hidden states for inputs that have been checked; `options` are keywords, those that the format knows."""

    @abc.abstractmethod
    def project(self, hidden: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes state"]:
        """The raw logits of hidden states."""

    def linear_projection(self, hidden: Float[Tensor, "*axes width"]) -> LinearProjection | None:
        """The product that `project` computes, with which losses are fused; `None` if it is none."""
        return None

    def published_time(self, alpha: Elementwise) -> Elementwise | None:
        """The time input of the published code where the remaining signal is `alpha`; `None` if there is no such input."""
        return None

    def noise(self, mask_id: int | None = None) -> dict[str, Any]:
        """The settings (`noiselab.processes.process_from`) of the noise that models of this format were trained with.

        **Arguments:**

        - `mask_id`: the mask token, for formats that do not name it.

        **Raises:** `ValueError` if the mask token is needed and not given.
        """
        return {"family": "masked", "vocab_size": self.config.vocab_size, "mask_id": required_mask(self, mask_id)}

    def hidden(
        self,
        input_ids: Tokens,
        timesteps: PerSequence | PerToken | None = None,
        attention_mask: AttentionMask | None = None,
        condition: Int[Tensor, " batch"] | None = None,
        prefix: Any = None,
        self_conditioning: Logits | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """The hidden states that `project` maps to logits; arguments as for `forward`."""
        given = dict(zip(OPTIONS, (timesteps, attention_mask, condition, prefix, self_conditioning), strict=True))
        unknown = [name for name, value in given.items() if value is not None and name not in self.knows]
        if unknown:
            raise ValueError(f"{self.config.model_type!r} networks take no {' and no '.join(unknown)}; got one")
        count, limit = input_ids.shape[1], context_length(self)  # type: ignore[arg-type]
        if limit is not None and count > limit:
            raise ValueError(f"sequences must have at most {limit} tokens; got {count}")
        return self.states(input_ids, **{name: value for name, value in given.items() if name in self.knows})

    def forward(
        self,
        input_ids: Tokens,
        timesteps: PerSequence | PerToken | None = None,
        attention_mask: AttentionMask | None = None,
        condition: Int[Tensor, " batch"] | None = None,
        prefix: Any = None,
        self_conditioning: Logits | None = None,
    ) -> Logits:
        """The raw logits of the published code.

        **Arguments:**

        - `input_ids`: noisy tokens.
        - `timesteps`: the time input of the published code: sigma = -log(alpha) for UDLM and Duo, one for each sequence
          or for each token. MDLM sets it to zero. Others take none.
        - `attention_mask`: 1 for keys that may be attended to: [batch, keys], [batch, queries, keys], or four axes that
          broadcast to [batch, heads, queries, keys]. With four axes, floating-point numbers are added to the scores, as
          in transformers. By default all tokens attend to all tokens.
        - `condition`: the class of each sequence, for networks with a class condition.
        - `prefix`: the state of a prompt that was read before, for networks with an encoder.
        - `self_conditioning`: the logits of the previous step.

        **Returns:** logits at the position of each token.

        **Raises:** `ValueError` for an input that the format does not know, for shapes that do not match, or for sequences
        longer than the context.
        """
        return self.project(self.hidden(input_ids, timesteps, attention_mask, condition, prefix, self_conditioning))


Loader: TypeAlias = Callable[[Path, dict[str, Any], torch.dtype | None], PublishedNetwork]
"""Loads a network from a folder that was checked, with the content of its config.json, in a dtype."""

FORMATS: dict[str, Loader] = {}
"""model_type, in lower case -> the function that loads such a folder."""


def published_format(*model_types: str) -> Callable[[Loader], Loader]:
    """Decorator that registers the function that loads folders of these model_types (compared without case)."""

    def register(load: Loader) -> Loader:
        FORMATS.update({name.lower(): load for name in model_types})
        return load

    return register


def is_published(settings: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is of a registered format."""
    return str(settings.get("model_type")).lower() in FORMATS


def required_mask(network: PublishedNetwork, mask_id: int | None) -> int:
    """The mask token of a format that does not name it.

    **Raises:** `ValueError` unless it is a token of the network.
    """
    size = network.config.vocab_size
    if mask_id is None or not 0 <= mask_id < size:
        raise ValueError(
            f"mask_id must be a token of the network, in [0, {size}), because config.json of {network.config.model_type!r} "
            f"does not name it; got {mask_id}"
        )
    return mask_id


def visible(mask: AttentionMask | None, input_ids: Tokens) -> Tensor | None:
    """An attention mask with four axes: true where a query may attend to a key, or numbers to add to the scores.

    **Raises:** `ValueError` for another shape, or for numbers unless they have four axes and do not exceed 0 (a mask of
    zeros and ones must be Bool or Int).
    """
    if mask is None:
        return None
    batch, length = input_ids.shape
    shapes = {2: (batch, length), 3: (batch, length, length), 4: (batch, mask.shape[1:2].numel(), length, length)}
    wanted = shapes.get(mask.dim())
    free = mask.dim() == 4  # broadcasts
    if wanted is None or any(
        size not in (full, 1 if free else full) for size, full in zip(mask.shape, wanted, strict=True)
    ):
        raise ValueError(
            f"attention_mask must have shape [{batch}, {length}] or [{batch}, {length}, {length}], or four axes that "
            f"broadcast to [{batch}, heads, {length}, {length}]; got {list(mask.shape)}"
        )
    if mask.is_floating_point():
        if not free or (mask > 0).any():
            raise ValueError(
                "an attention_mask of floating-point numbers is added to the scores: it must have four axes and not "
                "exceed 0 (zeros and ones must be Bool or Int)"
            )
        return mask
    return mask.bool() if free else mask.bool()[:, None, None] if mask.dim() == 2 else mask.bool()[:, None]
