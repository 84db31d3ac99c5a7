"""Training of a quality head: tokens of the model's own are revealed, and the head learns which of them are right."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..categorical import Randomness, choose, uniforms
from ..denoisers.quality import QualityDenoiser
from ..elbo.tokens import check_shapes
from ..numerics import require_count, require_number
from ..process import InterpolatingProcess
from ..typing import Logits, PerToken, Selection, Tokens
from .masked_texts import Calling, Filling, MaskedTextLoss, MaskedTexts, bound_of

Choice = Literal["random", "confident"]


def quality_loss(quality: PerToken, x: Tokens, z: Tokens, revealed: Selection) -> PerToken:
    r"""The binary cross-entropy of each revealed token, in nats: whether the token that the model wrote is right.

    $$\ell_i = -\log \sigma(\pm q_i), \quad + \text{ if } z_i = x_i, \; - \text{ if not; 0 at tokens that are not revealed.}$$

    Let one mask of $z_t$ be revealed, by any token that depends on $z_t$ alone. Then the label is right with probability
    $p(x_i = z_i \mid z_t)$, and $z_t$ is the revealed text with this position masked: the minimiser of the mean loss is

    $$\sigma(q_i) = p(x_i = z_i \mid z_{-i}, \text{ position } i \text{ masked}) .$$

    If several are revealed at once, others of them may be wrong as well, and the minimiser is a mean of such probabilities
    over what else may have been masked.

    **Arguments:**

    - `quality`: the logit of each token.
    - `x`: clean tokens.
    - `z`: the text that the quality was computed for, with tokens revealed.
    - `revealed`: which tokens.

    **Returns:** nats, at least float32.

    **Source:** Kim et al. (2025), arXiv 2510.01384 (PRISM), and its released code.

    **Example:**

    ```python
    import torch
    from noiselab.training import quality_loss

    x, z = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 2]])
    revealed = torch.tensor([[False, True, True]])
    assert torch.allclose(quality_loss(torch.zeros(1, 3), x, z, revealed).sum(), 2 * torch.tensor(2.0).log())
    ```
    """
    shapes = [tuple(each.shape) for each in (quality, x, z, revealed)]
    if len(set(shapes)) > 1 or quality.dim() != 2:
        raise ValueError(f"quality, x, z and revealed must have one shape, [batch, length]; got {shapes}")
    if revealed.dtype != torch.bool or not quality.is_floating_point():
        raise ValueError(f"revealed must be Bool and quality real; got {revealed.dtype} and {quality.dtype}")
    quality = quality.to(torch.promote_types(quality.dtype, torch.float32))
    losses = F.binary_cross_entropy_with_logits(quality, (z == x).to(quality.dtype), reduction="none")
    return torch.where(revealed, losses, 0)


@torch.no_grad()
def reveal(
    logits: Logits,
    z: Tokens,
    masked: Selection,
    count: int,
    *,
    choice: Choice = "random",
    filling: Filling = "drawn",
    generator: Randomness = None,
) -> tuple[Tokens, Selection]:
    """Replace some masks by tokens of the model's own.

    **Arguments:**

    - `logits`: of all tokens, -inf where a token cannot be drawn, such as the mask.
    - `z`: tokens; they are not edited.
    - `masked`: which of them are masks.
    - `count`: the number of masks of each sequence that are replaced, or all if there are fewer.
    - `choice`: which: "random", or the most "confident" ones, those with the most probable token.
    - `filling`: by which tokens: "drawn" from the prediction, or the "most likely".
    - `generator`: draws two numbers for each token.

    **Returns:** the tokens, and which of them were replaced.

    **Raises:** `ValueError` for an unknown choice or filling, shapes that do not match, or a count below 1.

    **Example:**

    ```python
    import torch
    from noiselab.training import reveal

    z, masked = torch.tensor([[0, 2, 2]]), torch.tensor([[False, True, True]])
    logits = torch.tensor([0.0, 9.0, -torch.inf]).expand(1, 3, 3)
    shown, revealed = reveal(logits, z, masked, 2, filling="most likely")
    assert shown.tolist() == [[0, 1, 1]] and revealed.tolist() == [[False, True, True]]
    ```
    """
    check_shapes(logits, z, z)
    if choice not in ("random", "confident") or filling not in ("drawn", "most likely"):
        raise ValueError(
            f"choice must be 'random' or 'confident', and filling 'drawn' or 'most likely'; got {choice!r}, {filling!r}"
        )
    if masked.shape != z.shape or masked.dtype != torch.bool:
        raise ValueError(f"masked must be Bool of shape {list(z.shape)}; got {masked.dtype} {list(masked.shape)}")
    require_count("count", count)
    u = uniforms(*z.shape, 2, generator=generator, device=z.device)
    probs = logits.double().softmax(-1)
    key = u[..., 0] if choice == "random" else -probs.amax(-1)
    rank = key.masked_fill(~masked, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    revealed = masked & (rank < count)
    tokens = probs.argmax(-1) if filling == "most likely" else choose(probs, u[..., 1])
    return torch.where(revealed, tokens.to(z.dtype), z), revealed


@dataclass(frozen=True)
class QualityLoss(MaskedTextLoss):
    r"""The loss of a quality head, and with `bound` that of the denoiser too; a `Loss` for the `Trainer`.

    Each text is masked as for `noised_loss`; the denoiser fills in `revealed` of the masks, and the head learns in a second
    pass which of these tokens are right (`quality_loss`). No gradient reaches the denoiser through tokens that it filled in.

    The loss of a sequence is the mean over its revealed tokens, and of a step the mean over its sequences, each with the weight
    of its length: as for other losses, it does not depend on how a step is divided.

    **Arguments:**

    - `process`: noise of masks, on which the denoiser was trained.
    - `revealed`: the number of masks of each sequence that are filled in; with 1 the minimiser is exact (`quality_loss`).
    - `choice`, `filling`: as for `reveal`.
    - `bound`: the weight of the denoiser's own loss, the bound, so that it still learns its own task; 0 for none.
    - `weighted`: whether each term has the weight 1 / (1 - t) and is divided by the length in place of the number of revealed
      tokens, as in one published variant.
    - `copies`: the number of texts that are filled in for each noisy one.
    - `time_range`: as for `noised_loss`.

    **Raises:** `ValueError` for a setting out of range, noise without a mask; when called, for a network that is no
    `QualityDenoiser`.

    **Source:** Kim et al. (2025), arXiv 2510.01384 (PRISM). The released code takes the mask into the softmax of the denoiser's
    own loss, counts padding among the revealed tokens by which it divides, and divides by 512 tokens whatever the length (for
    LLaDA); here the mask has no probability, and numbers are those of tokens that are learned.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.denoisers import QualityDenoiser
    from noiselab.networks.dit import DiT, DiTConfig
    from noiselab.networks.huggingface import TransformersDenoiser
    from noiselab.training import Place, QualityLoss

    model = DiT(DiTConfig(vocab_size=9, max_seq_len=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    denoiser = QualityDenoiser(TransformersDenoiser(model))
    loss = QualityLoss(nl.masked(vocab_size=9, mask_id=8), bound=1.0)
    loss(denoiser, {"input_ids": torch.randint(8, (2, 4))}, place=Place(step=0)).backward()
    assert denoiser.head.bias.grad is not None
    ```
    """

    process: InterpolatingProcess
    revealed: int = 1
    choice: Choice = "random"
    filling: Filling = "drawn"
    bound: float | int = 0.0
    weighted: bool = False
    copies: int = 1
    time_range: tuple[float, float] = (1e-4, 1 - 1e-4)
    trains: ClassVar[Any] = QualityDenoiser

    def __post_init__(self) -> None:
        require_count("revealed", self.revealed)
        require_count("copies", self.copies)
        require_number("bound", self.bound, 0)
        super().__post_init__()

    def of_texts(self, denoiser: Any, drawn: MaskedTexts, call: Calling) -> PerToken:
        """The loss of each token: of the denoiser, if there is one, and of the head."""
        logits = call(denoiser, drawn.seen, gradient=self.bound > 0)
        total = drawn.t.new_zeros(drawn.x.shape, dtype=torch.float32)
        if self.bound:
            total = self.bound * bound_of(self.process, denoiser, logits, drawn)
        allowed = self.process.on_support(logits)
        for _ in range(self.copies):
            shown, revealed = reveal(
                allowed,
                drawn.seen,
                drawn.masked,
                self.revealed,
                choice=self.choice,
                filling=self.filling,
                generator=drawn.random,
            )
            quality = call(denoiser.quality, shown)
            total = total + self._of_tokens(quality, drawn, shown, revealed) / self.copies
        return total

    def _of_tokens(self, quality: Tensor, drawn: MaskedTexts, shown: Tensor, revealed: Tensor) -> Tensor:
        losses = quality_loss(quality, drawn.x, shown, revealed)
        if self.weighted:
            return losses / (1 - drawn.t)[:, None]
        counts = revealed.sum(-1, keepdim=True).clamp(min=1)
        return losses * (drawn.noised.sum(-1, keepdim=True) / counts)
