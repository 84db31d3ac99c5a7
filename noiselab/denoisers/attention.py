"""Attention masks, and how they reach the network inside wrapped denoisers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..typing import MayAttend, Positions, Selection, Tokens
from .attended import Attended
from .base import Denoiser
from .self_conditioning import SelfConditioned


@contextmanager
def attending_to(
    denoiser: nn.Module,
    real: Selection | None = None,
    *,
    may_attend: MayAttend | None = None,
    positions: Positions | None = None,
    clean: Tokens | None = None,
) -> Iterator[None]:
    """Context manager: inside, tokens attend only to the real tokens of a padded batch, and only to those that they may.

    Padding is known by its position, because the padding token often occurs in texts too: with GPT-2, LLaDA, Dream or Qwen
    it is the end-of-text token. The mask of real tokens reaches every denoiser inside `denoiser` that takes one
    (`takes_mask`); a denoiser that takes none is not affected. A mask of pairs, or positions, must reach all of them.

    **Arguments:**

    - `denoiser`: a denoiser, possibly wrapped, also for compilation or data-parallel training.
    - `real`: the mask of real tokens of the batch that is denoised inside; `None` if all are real.
    - `may_attend`: which tokens (second axis) may attend to which (third axis), for example those of the same document
      (`noiselab.data.rows.same_document`); `None` if all may attend to all.
    - `positions`: the positions of the tokens, which may repeat; `None` for 0, 1, 2, ...
    - `clean`: the clean text that is noised, where it is known, as in training and in bounds. Only
      `noiselab.denoisers.BlockDenoiser` reads it, as the past of each block.

    **Raises:** `ValueError` for `may_attend` or `positions` if a network inside does not honour them
    (`Denoiser.require_attention`); on a call, if shapes do not match the tokens.

    **Example:**

    ```python
    import torch
    from noiselab.denoisers import Temperature, attending_to
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.networks.huggingface import TransformersDenoiser

    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    denoiser = Temperature(TransformersDenoiser(model), 0.5)
    texts = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]])
    with attending_to(denoiser, torch.arange(4) < torch.tensor([[3], [1]])):
        logits = denoiser(texts, torch.rand(2))
    ```
    """
    if may_attend is not None or positions is not None:
        for part in _inner(denoiser):
            part.require_attention()
    with _changed(denoiser, lambda now: now.more(real, may_attend, positions, clean)):
        yield


@contextmanager
def selected_sequences(denoiser: nn.Module, index: Bool[Tensor, " batch"] | Int[Tensor, " selected"]) -> Iterator[None]:
    """Context manager: inside, the denoiser is called with some sequences of the batch only.

    Attention masks of single sequences are selected like the sequences.

    **Arguments:**

    - `denoiser`: a denoiser, possibly wrapped.
    - `index`: the sequences, as a mask or as indices.
    """
    with _changed(denoiser, lambda now: now.selected(index)):
        yield


def takes_mask(denoiser: nn.Module) -> bool:
    """Whether an attention mask given by `attending_to` reaches a network inside the denoiser."""
    return any(part.takes_mask for part in _reached(denoiser))


@contextmanager
def _changed(denoiser: nn.Module, change: Callable[[Attended], Attended]) -> Iterator[None]:
    # Each is changed once, even if it occurs twice, as in guidance by the same network.
    parts = [(part, part.attended) for part in dict.fromkeys(_reached(denoiser))]
    try:
        for part, now in parts:
            part.attended = change(now)
        yield
    finally:
        for part, now in parts:
            part.attended = now


def _reached(module: nn.Module) -> Iterator[Denoiser]:
    """The denoisers inside that take a mask of any kind or are self-conditioned; what these contain is not searched."""
    if isinstance(module, Denoiser) and (
        module.takes_mask
        or isinstance(module, SelfConditioned)
        or type(module).require_attention is not Denoiser.require_attention
    ):
        yield module
        return
    for part in module.children():
        yield from _reached(part)


def _inner(module: nn.Module) -> Iterator[Denoiser]:
    """The denoisers inside that contain no other denoiser, or take attention masks for those that they contain."""
    if not isinstance(module, Denoiser):
        for part in module.children():
            yield from _inner(part)
        return
    own = module.takes_mask or type(module).require_attention is not Denoiser.require_attention
    found = [] if own else [one for part in module.children() for one in _inner(part)]
    yield from found or [module]
