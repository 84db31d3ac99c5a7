"""Detection of wrong tokens by a diffusion model."""

import torch
from torch import Tensor, nn

from ..denoisers import Denoiser
from ..denoisers.base import in_a_line
from ..denoisers.checked import LogitCheck
from ..denoisers.modes import device_of, evaluating
from ..numerics import require_count, require_number, require_tokens
from ..revisions import Detector
from ..typing import PerToken, Tokens


class DenoiserDetector(Detector):
    r"""Scores each token by its improbability, in nats, under a denoiser that reads all tokens.

    $$s_i = -\log \hat x_i(z_i \mid z, t)$$

    A denoiser that was trained on masks alone learns nothing about visible tokens; with `hide` each token is replaced
    by a mask while it is scored.

    **Arguments:**

    - `denoiser`: used in evaluation mode.
    - `time`: the time that the denoiser is given, in [0, 1].
    - `length`: the length of the denoiser's rows; that of the sequences by default.
    - `filler`: the token that fills a row after its sequence; needed with `length`. The denoiser must have been trained on
      rows that end like this: padding, or masks.
    - `hide`: the token that replaces each token while it is scored, one evaluation per token; none by default.

    **Raises:** `ValueError` for a time out of range, or a length without a filler; when called, for sequences longer than
    `length`, or logits that are NaN, inf, or all -inf at a token.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    class Frequencies(nl.Denoiser):
        def forward(self, z, t):
            return torch.tensor([0.5, 0.25, 0.25]).log().expand(*z.shape, 3)

    score = nl.correctors.DenoiserDetector(Frequencies())(torch.tensor([[0, 1]]))
    assert torch.allclose(score.exp(), torch.tensor([[2.0, 4.0]], dtype=torch.float64))
    ```
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        time: float | int = 0.01,
        length: int | None = None,
        filler: int | None = None,
        hide: int | None = None,
    ) -> None:
        for name, value, least in (("length", length, 1), ("filler", filler, 0), ("hide", hide, 0)):
            if value is not None:
                require_count(name, value, least)
        if (length is None) != (filler is None):
            raise ValueError(f"length and filler must be given together; got {length} and {filler}")
        self.denoiser, self.time = denoiser, require_number("time", time, 0, 1)
        self.length, self.filler, self.hide = length, filler, hide

    def score(self, z: Tokens) -> PerToken:
        """The scores, float64."""
        count = z.shape[1]
        if self.length is not None and self.filler is not None:
            if count > self.length:
                raise ValueError(f"sequences must have at most {self.length} tokens; got {count}")
            z = nn.functional.pad(z, (0, self.length - count), value=self.filler)
        with evaluating(self.denoiser):
            if self.hide is None:
                return self._surprise(z, z)[:, :count]
            scores = [self._hidden(row, count, self.hide) for row in z]
            return torch.stack(scores) if scores else torch.zeros(z.shape, dtype=torch.float64, device=z.device)

    def _hidden(self, row: Tensor, count: int, hide: int) -> Tensor:
        """The scores of one sequence, each token hidden in turn."""
        places = torch.arange(count, device=row.device)
        shown = row.repeat(count, 1)
        shown[places, places] = hide
        return self._surprise(shown, row.expand(count, -1))[places, places]

    def _surprise(self, shown: Tensor, tokens: Tensor) -> Tensor:
        """The scores of tokens, when the denoiser reads others."""
        require_tokens("tokens", tokens)
        log_probs = log_predict(self.denoiser, shown, self.time)
        require_tokens("tokens", tokens, log_probs.shape[-1])
        return -log_probs.gather(-1, tokens.to(log_probs.device)[..., None])[..., 0].to(tokens.device)

    def __repr__(self) -> str:
        return f"DenoiserDetector({in_a_line(self.denoiser)}, time={self.time:g})"


@torch.no_grad()
def log_predict(denoiser: Denoiser, z: Tokens, time: float) -> Tensor:
    """Log-probabilities of clean tokens at one time, float64, on the denoiser's device."""
    z = z.to(device_of(denoiser))
    t = torch.full((len(z),), time, dtype=torch.float64, device=z.device)
    return LogitCheck()(denoiser(z, t), t, denoiser).double().log_softmax(-1)
