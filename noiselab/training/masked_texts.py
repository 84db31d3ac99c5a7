"""Texts with masks, and the network called on them and on texts filled in: what the losses of trained correction share."""

import abc
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..data.rows import Batch, noised_tokens
from ..denoisers import Denoiser, attending_to
from ..networks.wrapped import innermost
from ..objectives import elbo, weighted_loss
from ..process import InterpolatingProcess, as_token_times
from ..typing import Logits, PerToken, Scalar, Selection, Tokens
from .noise import Place, row_generators, step_times
from .noised import filler

Filling = Literal["drawn", "most likely"]


def own_copy(process: Any) -> InterpolatingProcess:
    """A copy of a process of masks alone, which may move to another device.

    **Raises:** `ValueError` for other noise.
    """
    if not isinstance(process, InterpolatingProcess):
        raise ValueError(f"noise must be masks (`noiselab.masked`); got {process!r}")
    outside = process.off_support()
    middle = torch.tensor([sum(process.domain) / 2], dtype=torch.float64, device=process.device)
    mixing = process.mixing(middle).flatten()
    if outside is None or len(outside) != 1 or mixing[outside[0]] < 1 - 1e-9:
        raise ValueError(f"noise must be masks only (`noiselab.masked`); got {process}")
    return copy.deepcopy(process)


class MaskedTextLoss(abc.ABC):
    """A loss of texts with masks, in which a network is called on the texts and on those that it has filled in.

    A subclass is a dataclass with a `process` of masks and a `time_range`; it writes `of_texts`.
    """

    process: InterpolatingProcess
    time_range: tuple[float, float]
    trains: ClassVar[Any] = Denoiser
    """The kind of network."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "process", own_copy(self.process))

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        place: Place,
        tokens: Tensor | None = None,
        autocast: torch.dtype | None = None,
    ) -> Scalar:
        """The loss of a batch; arguments as for `noised_loss`."""
        denoiser = innermost(model)
        if not isinstance(denoiser, self.trains):
            kind = self.trains.__name__
            if self.trains is Denoiser:
                kind = "noiselab.Denoiser (TransformersDenoiser makes one of a network)"
            raise ValueError(f"{type(self).__name__} trains a {kind}; got {type(denoiser).__name__}")
        drawn = MaskedTexts.draw(self.process, batch, place, self.time_range)
        with Calling(drawn, denoiser, autocast) as call:
            losses = self.of_texts(denoiser, drawn, call)
        return drawn.normalised(losses, tokens)

    @abc.abstractmethod
    def of_texts(self, denoiser: Any, drawn: "MaskedTexts", call: "Calling") -> PerToken:
        """The loss of each token.

        **Arguments:**

        - `denoiser`: the network, of the kind `trains`.
        - `drawn`: the texts.
        - `call`: calls a function of the network on tokens.
        """


@dataclass(frozen=True)
class MaskedTexts:
    """A batch with masks.

    **Arguments:**

    - `x`: clean tokens, all in the support.
    - `seen`: what the network reads: prompts and padding as they are.
    - `t`: the times, one for each sequence.
    - `noised`, `masked`: the tokens that are learned, and the masks among them.
    - `real`: the mask of real tokens, if there is padding.
    - `random`: a generator for each sequence.
    - `place`: the position of the batch in the run.
    """

    x: Tokens
    seen: Tokens
    t: Tensor
    noised: Selection
    masked: Selection
    real: Selection | None
    random: list[torch.Generator]
    place: Place

    @classmethod
    @torch.no_grad()
    def draw(
        cls, process: InterpolatingProcess, batch: Batch, place: Place, time_range: tuple[float, float]
    ) -> "MaskedTexts":
        """Mask a batch, with the random numbers of its place.

        **Raises:** `ValueError` for rows with `documents`, which are not supported here.
        """
        if "documents" in batch:
            raise ValueError("this loss learns each row as one text; got a batch with documents in its rows")
        ids, noised = batch["input_ids"].long(), noised_tokens(batch)
        device = ids.device
        process.to(device)
        x = torch.where(noised, ids, filler(process, device))
        t = step_times(place, len(ids), *time_range, device)
        random = row_generators(place, len(ids), device)
        z = torch.where(noised, process.corrupt(x, t, generator=random), ids)
        masked = noised & ~process.data_tokens(device)[torch.where(noised, z, x)]
        mask = batch.get("attention_mask")
        return cls(x, z, t, noised, masked, None if mask is None else mask.bool(), random, place)

    def normalised(self, losses: Tensor, tokens: Tensor | None) -> Scalar:
        """The sum over learned tokens, over the number of those of the whole step."""
        if tokens is None:
            tokens = self.noised.sum() * (self.place.accumulation * self.place.world)
        return torch.where(self.noised, losses, 0).sum() * (self.place.world / tokens.clamp(min=1))


class Calling:
    """Calls the network on texts of one batch, with its padding and times."""

    def __init__(self, texts: MaskedTexts, denoiser: nn.Module, autocast: torch.dtype | None):
        self.texts, self.dtype = texts, autocast
        self.attended = attending_to(denoiser, texts.real)

    def __enter__(self) -> "Calling":
        self.attended.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.attended.__exit__(*error)

    def __call__(self, function: Callable[..., Tensor], z: Tokens, *, gradient: bool = True) -> Tensor:
        """The function of tokens and times."""
        enabled = torch.is_grad_enabled() and gradient
        with (
            torch.set_grad_enabled(enabled),
            torch.autocast(z.device.type, dtype=self.dtype, enabled=self.dtype is not None),
        ):
            return function(z, self.texts.t)


def bound_of(process: InterpolatingProcess, denoiser: Any, logits: Logits, drawn: MaskedTexts) -> PerToken:
    """The bound of each token, 0 at those that are not learned."""
    z = torch.where(drawn.noised, drawn.seen, drawn.x)
    weight = elbo(process, drawn.x, z, drawn.t)
    losses = weighted_loss(process, logits, drawn.x, z, drawn.t, weight, predicts=denoiser.predicts)
    return torch.where(drawn.noised, losses, 0)


def mask_weight(process: InterpolatingProcess, x: Tokens, t: Tensor) -> PerToken:
    r"""$-\alpha_t' / (1 - \alpha_t)$, the factor of the cross-entropy of a mask in the bound; $1/t$ for a linear signal."""
    mask = process.off_support()
    z = torch.full_like(x, 0 if mask is None else int(mask[0]))
    return process.elbo_weight(x, z, t) * process.alpha(as_token_times(t, x))
