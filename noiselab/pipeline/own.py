"""A user's own denoiser in a pipeline: what it must offer."""

from typing import Any

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..denoisers.base import WrappedDenoiser, in_a_line
from ..networks.canvas import CanvasNetwork
from ..numerics import require_count
from ..process import NoiseProcess
from ..typing import Selection, Times, Tokens


class FirstLogits(WrappedDenoiser):
    """A denoiser with more logits than the process has tokens, of which the first are used.

    **Arguments:**

    - `inner`: the denoiser.
    - `states`: the number of tokens of the process.
    """

    def __init__(self, inner: Denoiser, states: int):
        super().__init__(inner)
        self.states = states

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Tensor:
        """The first logits."""
        return self.inner(z, t, rows)[..., : self.states]


def logits_count(network: Any) -> int:
    """The number of logits of a network: that of its config, or of a denoiser or a network of canvases."""
    own = isinstance(network, Denoiser | CanvasNetwork)
    size: Any = network.vocab_size if own else network.config.vocab_size
    return int(size)


def check_denoiser(denoiser: Denoiser, process: NoiseProcess) -> None:
    """Check that a denoiser offers what a pipeline needs, by one call on two tokens.

    **Raises:** `ValueError` for a denoiser without `vocab_size`, or whose logits do not have that width.
    """
    name = type(denoiser).__name__
    size = getattr(denoiser, "vocab_size", None)
    if size is None:
        raise ValueError(
            f"a denoiser in a pipeline must have an attribute vocab_size, the number of its logits; {name} has none (pass the "
            "network itself if it is a DiT or a model of transformers)"
        )
    size = require_count(f"vocab_size of {name}", size)
    limit = getattr(denoiser, "max_length", None)
    if limit is not None:
        require_count(f"max_length of {name}, the longest sequence,", limit)
    data = process.data_tokens("cpu").nonzero()[:2, 0]
    if int(data.max()) >= size:
        raise ValueError(f"the model must cover all tokens; it has {size}, the noise {process.vocab_size}")
    place = next((own.device for own in [*denoiser.parameters(), *denoiser.buffers()]), torch.device("cpu"))
    time = torch.full((1,), sum(process.domain) / 2, dtype=torch.float64, device=place)
    training = denoiser.training
    try:
        with torch.no_grad():
            logits = denoiser.eval()(data[None].to(place), time)
    except Exception as error:
        raise ValueError(
            f"a denoiser must return logits of clean tokens from tokens [batch, length] and times [batch], float64; "
            f"{in_a_line(denoiser)} failed with: {error}"
        ) from error
    finally:
        denoiser.train(training)
    if not isinstance(logits, Tensor) or logits.shape != (1, len(data), size) or not logits.is_floating_point():
        came = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"a denoiser must return floating-point logits [batch, length, vocab_size]; {in_a_line(denoiser)} with "
            f"vocab_size {size} returned {came} for {len(data)} tokens"
        )
