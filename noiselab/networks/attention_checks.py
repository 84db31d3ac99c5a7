"""The check that a network honours a mask of pairs of tokens and positions that repeat, by what moves its logits."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..denoisers.attended import Attended
from ..denoisers.attention import attending_to
from ..denoisers.base import Denoiser
from ..denoisers.modes import device_of, evaluating
from .lengths import context_length
from .wrapped import innermost

SIZE = 2  # the tokens of a block of the text with which a network is tried
# Two blocks that see themselves, the second also a clean copy of the first, which sees itself.
PAIRS = ((1, 0, 0), (0, 1, 1), (0, 0, 1))
PLACES = (0, 1, 2, 3, 0, 1)
TRIES = 6  # of random weights
WINDOWS = ("sliding_window", "local_attention", "window_size", "attention_window")
LONGEST = 1 << 14  # texts that are longer are not tried


@torch.compiler.assume_constant_result  # while a compiler traces a call, the check runs beside it
@torch.no_grad()
def check_attention(denoiser: Denoiser) -> None:
    """Check that a network attends as `attending_to` says, on a text of two noisy blocks and a clean copy of the first.

    The logits of a token must change with every other token that it may attend to and with no more, and those of the second
    block must be those of the text in its plain order, the clean first block before the second.

    **Arguments:**

    - `denoiser`: a denoiser that passes `self.may_attend(z)` and `self.positions(z)` to its network.

    **Raises:** `ValueError` naming what is not honoured, or if the network cannot be called in this way.
    """
    alone = _alone(denoiser)
    name = type(innermost(getattr(alone, "model", alone))).__name__
    try:
        with evaluating(alone):
            changes, rounding = _changes(alone)
            if not changes.any():  # as built: zero layers hide what is attended to
                alone = random_copy(alone, 0)
                changes, rounding = _changes(alone)
            seen, leaks = changes > 0, changes > rounding
            # Sharp attention gives some tokens a weight of nearly 0: with other weights not the same ones. In low precision
            # rounding says nothing of that.
            fine = torch.finfo(changes.dtype).bits >= 32
            for seed in range(1, TRIES):
                if _allowed(seen.device)[changes <= (rounding if fine else 0)].any():
                    changes, rounding = _changes(random_copy(alone, seed))
                    seen, leaks = seen | (changes > 0), leaks | (changes > rounding)
            difference = _difference(alone)
            window = _window(alone)
            near = not window or _reaches(alone, window + 1)
            same = _same_without(alone, window + 2)
    except Exception as error:  # a network that cannot take such a mask fails in any way
        raise ValueError(
            f"the network must take a mask of which tokens attend to which, and positions; {name} fails with "
            f"{type(error).__name__}: {error}"
        ) from error
    allowed = _allowed(seen.device)
    # Sums in another order, as in mixtures of experts, are no dependence; of what is attended to, any change is one.
    leaks, missing = leaks & ~allowed, allowed & ~seen & ~torch.eye(len(allowed), dtype=torch.bool, device=seen.device)
    for wrong, what, found in (
        (leaks, "must not attend to", "depends on it"),
        (missing, "must be able to attend to", "does not depend on it"),
    ):
        if wrong.any():
            to, source = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"the network must attend by the given mask; in {name} the token at place {to} {what} that at place {source}, "
                f"and {found} (causal, recurrent and windowed attention cannot be given a mask)"
            )
    if not same:
        raise ValueError(
            f"the network must attend to all tokens where no mask is given; in {name} a mask replaces attention of its own, "
            "such as a window"
        )
    if not near:
        raise ValueError(
            f"the network must attend by the given mask at any distance; in {name} a token does not attend to one {window + 1} "
            "places away, as with a sliding window"
        )
    if difference:
        raise ValueError(
            f"the network must use the given positions; in {name} the logits of a block after its past differ from those of "
            "the same block before a past with the same positions"
        )


def _alone(denoiser: Denoiser) -> Any:
    """The denoiser without the masks that it has in this moment."""
    alone: Any = copy.copy(denoiser)
    alone._buffers = dict(denoiser._buffers)
    if "attention_mask" in alone._buffers:
        alone._buffers["attention_mask"] = None
    alone.attended, alone.attends = Attended(), True
    if hasattr(alone, "shifted"):
        alone.shifted = False
    return alone


def random_copy(denoiser: Any, seed: int) -> Any:
    """A copy with random weights, with which wide networks do not attend to one token alone."""
    made = copy.deepcopy(denoiser)
    device = device_of(made)
    random = torch.Generator(device).manual_seed(seed)
    for weight in made.parameters():
        scale = min(0.3, weight.shape[-1] ** -0.5) if weight.dim() > 1 else 0.3
        weight.copy_(scale * torch.randn(weight.shape, generator=random, device=device))
    return made


def _allowed(device: torch.device) -> Tensor:
    """Which of the six tokens attend to which."""
    return torch.tensor(PAIRS, device=device).repeat_interleave(SIZE, 0).repeat_interleave(SIZE, 1).bool()


def _call(
    denoiser: nn.Module, tokens: Tensor, allowed: Tensor | None, places: Tensor | None = None
) -> Float[Tensor, "length state"]:
    t = torch.full((1,), 0.5, dtype=torch.float64, device=tokens.device)
    pairs, positions = (None if part is None else part[None] for part in (allowed, places))
    with attending_to(denoiser, may_attend=pairs, positions=positions):
        logits = denoiser(tokens[None], t)[0]
    return torch.where(logits.isfinite(), logits, 0)


def _tokens(device: torch.device) -> Tensor:
    return torch.tensor([0, 1, 1, 0, 0, 1], device=device)


def _changes(denoiser: nn.Module) -> tuple[Tensor, Tensor]:
    """How much the logits of each token (first axis) change with each token (second axis), and the size of rounding."""
    device = device_of(denoiser)
    tokens, allowed, places = _tokens(device), _allowed(device), torch.tensor(PLACES, device=device)
    before = _call(denoiser, tokens, allowed, places)
    found = []
    for source in range(len(tokens)):
        changed = tokens.clone()
        changed[source] = 1 - tokens[source]
        found.append((_call(denoiser, changed, allowed, places) - before).abs().amax(-1))
    return torch.stack(found, 1), 8 * torch.finfo(before.dtype).eps * before.abs().max()


def _difference(denoiser: nn.Module) -> bool:
    """Whether the logits of the second block differ from those of the text in its plain order."""
    device = device_of(denoiser)
    tokens, allowed = _tokens(device), _allowed(device)
    found = _call(denoiser, tokens, allowed, torch.tensor(PLACES, device=device))[SIZE : 2 * SIZE]
    block = torch.arange(2 * SIZE, device=device) // SIZE
    plain = torch.cat((tokens[2 * SIZE :], tokens[SIZE : 2 * SIZE]))
    wanted = _call(denoiser, plain, block <= block[:, None])[SIZE:]
    return not close(found, wanted)


def _same_without(denoiser: nn.Module, length: int) -> bool:
    """Whether the logits of a text where all tokens may attend to all are those without a mask."""
    tokens = torch.arange(length, device=device_of(denoiser)) % 2
    everything = torch.ones(length, length, dtype=torch.bool, device=tokens.device)
    return close(_call(denoiser, tokens, everything), _call(denoiser, tokens, None))


def close(found: Tensor, wanted: Tensor, bound: float = 1e-5) -> bool:
    """Whether two tensors are equal, relative to the largest number, but for rounding."""
    bound = max(bound, 32 * torch.finfo(found.dtype).eps)
    return bool((found - wanted).abs().max() <= bound * wanted.abs().max())


def _window(denoiser: Any) -> int:
    """The largest window of attention, within the context, that the configuration of a network names; or 0."""
    network: Any = innermost(getattr(denoiser, "model", denoiser))
    config: Any = getattr(network, "config", None)
    longest = min(context_length(network) or LONGEST, LONGEST) - 2
    sizes = [getattr(config, name, None) for name in WINDOWS]
    return max((size for size in sizes if isinstance(size, int) and 0 < size <= longest), default=0)


def _reaches(denoiser: nn.Module, distance: int) -> bool:
    """Whether the last token of a text attends to the first, where all others attend only to themselves."""
    device = device_of(denoiser)
    tokens = torch.zeros(distance + 1, dtype=torch.long, device=device)
    allowed = torch.eye(len(tokens), dtype=torch.bool, device=device)
    allowed[-1, 0] = True
    before = _call(denoiser, tokens, allowed)[-1]
    tokens[0] = 1
    return bool((_call(denoiser, tokens, allowed)[-1] != before).any())
