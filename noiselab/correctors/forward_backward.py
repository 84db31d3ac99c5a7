"""The forward-backward corrector: add noise, then denoise to the original time."""

from typing import ClassVar

import torch

from ..categorical import Randomness
from ..denoisers import Denoiser
from ..denoisers.base import describe
from ..numerics import require_number
from ..process import NoiseProcess, as_token_times
from ..samplers.ancestral import AncestralSampler
from ..samplers.base import Sampler
from ..typing import Selection, Times, Tokens, Variants
from .base import Corrector, as_selection


class ForwardBackwardCorrector(Corrector):
    r"""Adds noise to tokens up to a later time, and takes one denoising step back.

    $$z_{t'} \sim q_{t'|t}(\cdot \mid z_t), \qquad t' = t + \text{span} \cdot (\text{end} - t)$$

    The forward transition is exact, so that the distribution at t is invariant up to the error of the denoising step:
    exactly for a single token, otherwise with a bias that decreases with the span. The bias does not vanish for a given
    span, so `converges` is False.

    **Arguments:**

    - `process`: the noise process. For state-dependent corruption the forward transition is dense, with state^2 numbers
      for each token.
    - `predictor`: the sampler for the denoising step, or a denoiser, for which an `AncestralSampler` is used.
    - `span`: the length of the forward transition as a fraction of the remaining time to the end of the process's
      domain (t = 1), in (0, 1].

    **Raises:** `ValueError` if the span is out of range, or the process or predictor is of the wrong type.

    **Source:** Campbell et al. (2022), arXiv 2205.14987, for forward-backward correctors; Wang et al. (2025), arXiv
    2503.00307, who use them as a baseline under this name.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    corrector = nl.correctors.ForwardBackwardCorrector(process, oracle, span=0.2)
    z = torch.tensor([[0, 2, 1, 1]])
    assert corrector.step(z, torch.tensor([0.3]), generator=torch.Generator().manual_seed(0)).shape == z.shape
    ```
    """

    kind = "forward-backward"
    variants: ClassVar[Variants] = {"forward-backward": {}}
    changes = "tokens that become noise and are denoised again"
    law = "up to the error of its step back, which falls with `span`"

    def __init__(self, process: NoiseProcess, predictor: Sampler | Denoiser, span: float | int = 0.1):
        require_number("span", span, 0, 1, above=True)
        if not isinstance(predictor, Sampler | Denoiser):
            raise ValueError(
                f"predictor must be a noiselab.Sampler or a noiselab.Denoiser; got {type(predictor).__name__}"
            )
        self.predictor = AncestralSampler(process, predictor) if isinstance(predictor, Denoiser) else predictor
        super().__init__(process, self.predictor.denoiser)
        self.span = span

    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """The tokens after one forward transition and denoising step; tokens outside `rows` keep their time."""
        low = as_token_times(t, z)
        high = low + self.span * (self.process.domain[1] - low).clamp(min=0)
        if rows is not None:
            low, high = low.expand(z.shape), torch.where(as_selection(rows, z), high, low)
        noisy = self.process.renoise(z, low, high, generator=generator)
        return self.predictor.step(noisy, high, low, generator=generator)

    def __repr__(self) -> str:
        return describe(self, self.predictor, f"span={self.span:g}")
