"""A denoiser that also says of each visible token how probably it is right: a quality head on its hidden states."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..numerics import require_count
from ..typing import PerToken, Times, Tokens
from .base import Denoiser, ProjectedDenoiser, WrappedDenoiser, describe
from .projection import LinearProjection, splits_projection


class QualityHead(nn.Linear):
    """A linear map from hidden states to one logit for each token; zero at first, so that every token is right or wrong alike.

    **Arguments:**

    - `width`: that of the hidden states.
    """

    def __init__(self, width: int):
        super().__init__(width, 1)

    def reset_parameters(self) -> None:
        """Set weight and bias to 0."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Float[Tensor, "batch length width"]) -> PerToken:
        """The logit of each token, at least float32."""
        logits: Tensor = super().forward(hidden.to(self.weight.dtype))[..., 0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class QualityDenoiser(ProjectedDenoiser):
    r"""A denoiser with a quality head: the probability that each visible token is right, in the pass that denoises.

    $$\sigma(w \cdot h_i + b) \approx p(x_i = z_i \mid z_{-i}),$$

    with $h$ the last hidden states. `noiselab.training.QualityLoss` trains it; `noiselab.correctors.QualityDetector` uses it. A
    network that was trained on masks alone says nothing about visible tokens otherwise, but by a pass for each of them
    (`DenoiserDetector(hide=...)`). As a denoiser it is the inner one.

    **Arguments:**

    - `inner`: a denoiser with hidden states, such as `TransformersDenoiser` of a `DiT`, or a `MaskedLanguageModel`.
    - `width`: that of its hidden states; found by a call with one token by default.

    **Raises:** `ValueError` if the denoiser has no hidden states of its own.

    **Source:** Kim et al. (2025), arXiv 2510.01384 (PRISM).

    **Example:**

    ```python
    import torch
    from noiselab.denoisers import QualityDenoiser
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.networks.huggingface import TransformersDenoiser

    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    denoiser = QualityDenoiser(TransformersDenoiser(model))
    quality = denoiser.quality(torch.tensor([[1, 2, 8, 3]]), torch.tensor([0.2]))
    assert quality.sigmoid().tolist() == [[0.5, 0.5, 0.5, 0.5]]  # nothing is learned yet
    ```
    """

    def __init__(self, inner: Denoiser, width: int | None = None):
        super().__init__()
        if not isinstance(inner, ProjectedDenoiser):
            raise ValueError(
                "QualityDenoiser needs a denoiser with hidden states, such as TransformersDenoiser or MaskedLanguageModel; "
                f"got {type(inner).__name__}" + " (pass its `inner`)" * isinstance(inner, WrappedDenoiser)
            )
        # Without `takes_mask` of its own: `attending_to` then reaches the inner denoiser.
        self.inner, self.predicts = inner, inner.predicts
        self.attention_block, self.attention_given = inner.attention_block, inner.attention_given
        self.head = QualityHead(_width(inner) if width is None else require_count("width", width))
        for tensor in inner.parameters():
            self.head.to(tensor.device)
            break

    def quality(self, z: Tokens, t: Times) -> PerToken:
        """The logit of the probability that each token is right; it has no meaning at masks."""
        return self.head(self.hidden(z, t))

    def hidden(self, z: Tokens, t: Times) -> Float[Tensor, "batch length width"]:
        """The hidden states of the inner denoiser."""
        inner: Any = self.inner
        return inner.hidden(z, t)

    def project(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows state"]:
        """Logits of hidden states."""
        inner: Any = self.inner
        return inner.project(hidden)

    def linear_projection(self, hidden: Float[Tensor, "*rows width"]) -> LinearProjection | None:
        """That of the inner denoiser."""
        inner: Any = self.inner
        return inner.linear_projection(hidden) if splits_projection(inner) else None

    def __repr__(self) -> str:
        return describe(self, self.inner)


@torch.no_grad()
def _width(inner: Any) -> int:
    """The width of the hidden states, from a call with one token."""
    place = next((tensor.device for tensor in inner.parameters()), torch.device("cpu"))
    z = torch.zeros(1, 1, dtype=torch.long, device=place)
    training = [part for part in inner.modules() if part.training]
    inner.eval()
    try:
        found: int = inner.hidden(z, torch.zeros(1, dtype=torch.float64, device=place)).shape[-1]
    finally:
        for part in training:
            part.training = True
    return found
