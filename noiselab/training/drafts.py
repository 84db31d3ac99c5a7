"""Training to correct drafts of the model's own: a second pass reads the text that the first has filled in."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..elbo.tokens import check_shapes
from ..numerics import require_number
from ..process import InterpolatingProcess
from ..typing import Logits, PerToken, Selection, Tokens
from .masked_texts import Calling, Filling, MaskedTextLoss, MaskedTexts, bound_of, mask_weight

Counted = Literal["all", "errors", "errors, as released"]


@torch.no_grad()
def fill_draft(
    logits: Logits, z: Tokens, rows: Selection, *, filling: Filling = "most likely", generator: Randomness = None
) -> Tokens:
    """Replace some tokens by those of the model's own: the text that the corrector reads.

    **Arguments:**

    - `logits`: of all tokens, -inf where a token cannot be drawn, such as the mask.
    - `z`: tokens; they are not edited.
    - `rows`: the tokens that are replaced: the masks, or all.
    - `filling`: by the "most likely" token, or one "drawn" from the prediction.
    - `generator`: draws one number for each token, if they are drawn.

    **Raises:** `ValueError` for an unknown filling, or shapes that do not match.

    **Example:**

    ```python
    import torch
    from noiselab.training import fill_draft

    z = torch.tensor([[0, 2]])
    assert fill_draft(torch.tensor([[[0.0, 0, 0], [0, 1, 0]]]), z, z == 2).tolist() == [[0, 1]]
    ```
    """
    check_shapes(logits, z, z)
    if filling not in ("drawn", "most likely"):
        raise ValueError(f"filling must be 'drawn' or 'most likely'; got {filling!r}")
    if rows.shape != z.shape or rows.dtype != torch.bool:
        raise ValueError(f"rows must be Bool of shape {list(z.shape)}; got {rows.dtype} {list(rows.shape)}")
    if filling == "most likely":
        tokens = logits.argmax(-1)
    else:
        u = uniforms(*z.shape, generator=generator, device=z.device)
        tokens = choose(logits.double().softmax(-1), u)
    return torch.where(rows, tokens.to(z.dtype), z)


def draft_loss(
    process: InterpolatingProcess, logits: Logits, x: Tokens, draft: Tokens, *, counted: Counted = "all"
) -> PerToken:
    r"""The cross-entropy of each token of the clean text, given the logits for a draft of it, in nats.

    $$\ell_i = -\log p_i(x_i \mid y), \qquad \text{the mask has no probability.}$$

    Its minimiser is the law of the clean text, given the draft $y$: wherever the draft is right or wrong, the tokens of the
    draft themselves are evidence.

    **Arguments:**

    - `process`: a process with a mask.
    - `logits`: for the draft.
    - `x`, `draft`: clean tokens, and those that the logits were computed for.
    - `counted`: "all" tokens, or the "errors" of the draft only. "errors, as released" puts the negative *probability* of a
      right token in the place of its loss, as the option in the published code does.

    **Returns:** nats, at least float32.

    **Raises:** `ValueError` for shapes that do not match, or another `counted`.

    **Source:** Schiff et al. (2026), arXiv 2602.11590 (ProSeCo), and its released code.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.training import draft_loss

    process = nl.masked(vocab_size=3, mask_id=2)
    x, draft = torch.tensor([[0, 1]]), torch.tensor([[0, 0]])
    loss = draft_loss(process, torch.zeros(1, 2, 3), x, draft, counted="errors")
    assert torch.allclose(loss, torch.tensor([[0, 0.6931]]), atol=1e-4)
    ```
    """
    check_shapes(logits, x, draft)
    if counted not in ("all", "errors", "errors, as released"):
        raise ValueError(f"counted must be 'all', 'errors' or 'errors, as released'; got {counted!r}")
    logits = process.on_support(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    log_p = logits.log_softmax(-1).gather(-1, x.long()[..., None])[..., 0]
    if counted == "all":
        return -log_p
    at_right = -log_p.exp() if counted == "errors, as released" else torch.zeros_like(log_p)
    return torch.where(draft == x, at_right, -log_p)


@dataclass(frozen=True)
class CorrectionLoss(MaskedTextLoss):
    r"""The bound, plus the loss of correcting the model's own draft; a `Loss` for the `Trainer`.

    $$\text{bound}(x, z_t) + \lambda\, w_t \sum_i -\log p_i(x_i \mid y), \qquad w_t = \frac{-\alpha_t'}{1 - \alpha_t}, $$

    where $y$ is the text with its masks filled in by the model, through which no gradient flows. One network, two passes: in
    the first it predicts, in the second it corrects the mistakes that it makes itself, which differ from random tokens.
    `noiselab.correctors.DraftCorrector` uses it within a sampler, and `SelfCorrection` on finished texts.

    **Arguments:**

    - `process`: noise of masks.
    - `weight`: $\lambda$, at least 0.
    - `flat`: whether $w_t = 1$ in the second term; otherwise drafts of nearly clean texts have large weights, as in the bound.
    - `filling`: how masks are filled in: by the "most likely" token, as published by default, or "drawn".
    - `whole`: whether the draft is the model's text everywhere, at visible tokens too. The published network copies those, so
      that there it is the same.
    - `counted`: as for `draft_loss`.
    - `time_range`: as for `noised_loss`.

    **Raises:** `ValueError` for a setting out of range or other noise; when called, for a network that is no `Denoiser`.

    **Source:** Schiff et al. (2026), arXiv 2602.11590 (ProSeCo), and its released code.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.networks.huggingface import TransformersDenoiser
    from noiselab.training import CorrectionLoss, Place

    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    loss = CorrectionLoss(nl.masked(vocab_size=9, mask_id=8), flat=True)
    loss(TransformersDenoiser(model), {"input_ids": torch.randint(8, (2, 4))}, place=Place(step=0)).backward()
    ```
    """

    process: InterpolatingProcess
    weight: float | int = 1.0
    flat: bool = False
    filling: Filling = "most likely"
    whole: bool = False
    counted: Counted = "all"
    time_range: tuple[float, float] = (1e-4, 1 - 1e-4)

    def __post_init__(self) -> None:
        require_number("weight", self.weight, 0)
        super().__post_init__()

    def of_texts(self, denoiser: Any, drawn: MaskedTexts, call: Calling) -> PerToken:
        """The loss of each token: of prediction and correction."""
        logits = call(denoiser, drawn.seen)
        allowed = self.process.on_support(logits.detach())
        rows = drawn.noised if self.whole else drawn.masked
        draft = fill_draft(allowed, drawn.seen, rows, filling=self.filling, generator=drawn.random)
        return self.of_tokens(denoiser, logits, call(denoiser, draft), drawn, draft)

    def of_tokens(
        self, denoiser: Any, logits: Tensor, corrected: Tensor, drawn: MaskedTexts, draft: Tensor
    ) -> PerToken:
        """The loss of each token from the logits of both passes: for the text, and for its draft."""
        own = draft_loss(self.process, corrected, drawn.x, draft, counted=self.counted)
        factor = 1 if self.flat else mask_weight(self.process, drawn.x, drawn.t)
        return bound_of(self.process, denoiser, logits, drawn) + self.weight * factor * own
