"""Correction by a detector: the quality head as a detector, and the most suspect tokens masked and predicted again."""

from typing import ClassVar

import torch
from torch import nn

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..denoisers import Denoiser
from ..denoisers.base import in_a_line
from ..denoisers.modes import device_of, evaluating
from ..denoisers.quality import QualityDenoiser
from ..numerics import TEMPERATURES, require_count, require_number, require_token, require_tokens
from ..process import NoiseProcess, as_token_times
from ..process.validation import require_kind
from ..revisions import Detector, require_detector
from ..typing import PerToken, Selection, Times, Tokens, Variants
from .base import Corrector, as_selection
from .detection import DenoiserDetector


class QualityDetector(Detector):
    r"""Scores each token by its improbability under a trained quality head, in nats, in one pass for all tokens.

    $$s_i = -\log \sigma(\text{quality}_i) \approx -\log p(x_i = z_i \mid z_{-i})$$

    The counterpart of `DenoiserDetector(hide=...)`, which needs a pass for each token.

    **Arguments:**

    - `denoiser`: the denoiser with a trained head; used in evaluation mode.
    - `time`: the time that the network is given, in [0, 1].
    - `mask_id`: the mask token, which is never suspected; without it every token has a score.

    **Raises:** `ValueError` for another denoiser, a time or a token out of range; when called, for a quality that is not
    finite.

    **Source:** Kim et al. (2025), arXiv 2510.01384 (PRISM).

    **Example:**

    ```python
    import torch
    from noiselab.correctors import QualityDetector
    from noiselab.denoisers import QualityDenoiser
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.networks.huggingface import TransformersDenoiser

    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    score = QualityDetector(QualityDenoiser(TransformersDenoiser(model)), mask_id=8)(torch.tensor([[1, 8]]))
    assert torch.allclose(score, torch.tensor([[0.6931, -torch.inf]], dtype=torch.float64), atol=1e-4)  # log 2
    ```
    """

    def __init__(self, denoiser: QualityDenoiser, *, time: float | int = 0.01, mask_id: int | None = None) -> None:
        if not isinstance(denoiser, QualityDenoiser):
            raise ValueError(f"QualityDetector needs a QualityDenoiser; got {type(denoiser).__name__}")
        if mask_id is not None:
            require_count("mask_id", mask_id, 0)
        self.denoiser, self.time, self.mask_id = denoiser, require_number("time", time, 0, 1), mask_id

    @torch.no_grad()
    def score(self, z: Tokens) -> PerToken:
        """The scores, float64."""
        require_tokens("tokens", z)
        shown = z.to(device_of(self.denoiser))
        t = torch.full((len(shown),), self.time, dtype=torch.float64, device=shown.device)
        with evaluating(self.denoiser):
            quality = self.denoiser.quality(shown, t).double()
        if not quality.isfinite().all():
            raise ValueError(
                f"the quality of tokens must be finite; got {int((~quality.isfinite()).sum())} that are not"
            )
        scores = nn.functional.softplus(-quality).to(z.device)
        return scores if self.mask_id is None else torch.where(z == self.mask_id, -torch.inf, scores)

    def __repr__(self) -> str:
        return f"QualityDetector({in_a_line(self.denoiser)}, time={self.time:g})"


class SuspectCorrector(Corrector):
    r"""Masks the tokens that a detector suspects most, and predicts them again, given all others.

    The number of masks stays what it was, so that the tokens keep their time. The choice of tokens depends on the tokens: it
    is a search for likely text, and `converges` is False.

    **Arguments:**

    - `process`: a process with a mask.
    - `denoiser`: predicts the masked tokens; all that are masked in a step are drawn independently of each other.
    - `detector`: a score for each token, such as `QualityDetector`; -inf for tokens that are never suspected. By default the
      improbability of each token while it is masked, by a pass for each (`DenoiserDetector(hide=...)`).
    - `tokens_per_step`: the number of tokens of each sequence that are predicted again, at least 1.
    - `threshold`: tokens whose score is not above it are kept.
    - `temperature`: of the prediction, in [1e-20, 1e20]; 0 takes the most likely token.

    **Raises:** `ValueError` if a setting is out of range, or the process has no mask.

    **Source:** Kim et al. (2025), arXiv 2510.01384 (PRISM), for remasking by a quality head; the detector may be any.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.correctors import DenoiserDetector, SuspectCorrector

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    suspects = DenoiserDetector(oracle, hide=2)
    corrector = SuspectCorrector(process, oracle, suspects, temperature=0)
    z = corrector.step(torch.tensor([[0, 0, 1, 0, 0]]), torch.tensor([0.01]))
    assert z.tolist() == [[0, 0, 0, 0, 0]]
    ```
    """

    kind = "suspects"
    variants: ClassVar[Variants] = {"suspects": {}}
    changes = "`tokens_per_step` tokens that a detector suspects most"
    law = "no: it searches for probable text"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        detector: Detector | None = None,
        tokens_per_step: int = 1,
        *,
        threshold: float | int = -torch.inf,
        temperature: float | int = 1.0,
    ):
        self.mask_id = mask_of(process)
        super().__init__(process, denoiser)
        own = DenoiserDetector(self.denoiser, hide=self.mask_id) if detector is None else detector
        self.detector = require_detector(own, "token")
        self.tokens_per_step = require_count("tokens_per_step", tokens_per_step)
        self.threshold = require_number("threshold", threshold, infinite=True)
        self.temperature = require_number("temperature", temperature, *(TEMPERATURES if temperature else (0,)))

    @torch.no_grad()
    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """The most suspect tokens of each sequence, predicted again; masks are left to the sampler."""
        rows = as_selection(rows, z) & self.process.data_tokens(z.device)[z]
        u = uniforms(*z.shape, generator=generator, device=z.device)
        score = self.detector(z).masked_fill(~rows, -torch.inf)
        worst = score.topk(min(self.tokens_per_step, z.shape[1]), -1).indices
        chosen = torch.zeros_like(rows).scatter(-1, worst, True) & rows & (score > self.threshold)
        if not chosen.any():
            return z
        shown = torch.where(chosen, self.mask_id, z)
        logits = self.process.on_support(self.denoiser(shown, as_token_times(t, z).expand(z.shape), chosen)).double()
        if self.temperature == 0:
            return replace_tokens(z, chosen, logits.argmax(-1))
        return replace_tokens(z, chosen, choose((logits / self.temperature).softmax(-1), u[chosen]))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.detector}, tokens_per_step={self.tokens_per_step}, temperature={self.temperature:g}"


def mask_of(process: NoiseProcess) -> int:
    """The mask token of a process: the one token that is not in data.

    **Raises:** `ValueError` unless there is exactly one.
    """
    require_kind(process, NoiseProcess, "a corrector of masked tokens")
    outside = process.off_support()
    if outside is None or len(outside) != 1:
        raise ValueError(
            f"noise must have one mask, the only token that is not in data; got {process}, which has "
            f"{0 if outside is None else len(outside)}"
        )
    return require_token("mask_id", int(outside), process.vocab_size)
