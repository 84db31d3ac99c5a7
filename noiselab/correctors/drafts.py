"""Correction of a whole draft: masks are filled in, and the network reads its own text and writes it again."""

from typing import ClassVar

import torch

from ..categorical import Randomness, replace_tokens
from ..denoisers import Denoiser
from ..denoisers.base import describe, require_denoiser
from ..denoisers.checked import checked
from ..numerics import require_count
from ..process import NoiseProcess
from ..samplers.draft_passes import correct_draft, most_likely
from ..typing import Selection, Times, Tokens, Variants
from .base import Corrector, as_selection
from .quality import mask_of


class DraftCorrector(Corrector):
    r"""Fills all masks with their most likely tokens, lets the network correct this draft, and masks the same places again.

    With $y$ the draft, each pass replaces every token of it by the most likely one,
    $y_i \leftarrow \arg\max_v \hat x_i(v \mid y)$. Then visible tokens take those of the draft, and masks stay masks, so that
    the tokens keep their time. A network trained on masks alone has learned nothing about visible tokens; one trained by
    `noiselab.training.CorrectionLoss` has learned to correct such drafts.

    **Arguments:**

    - `process`: a process with a mask.
    - `denoiser`: its prediction is used without conversion, as it was trained: the law of the clean text, given the draft.
    - `passes`: the number of times that the draft is corrected, at least 1; a sequence that no longer changes is final.

    **Raises:** `ValueError` if `passes` is less than 1, or the process has no mask.

    **Source:** Schiff et al. (2026), arXiv 2602.11590 (ProSeCo), the sampler with corrector steps.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.correctors import DraftCorrector

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    z = DraftCorrector(process, oracle).step(torch.tensor([[0, 0, 1, 0, 2]]), torch.tensor([0.1]))
    assert z.tolist() == [[0, 0, 0, 0, 2]]
    ```
    """

    kind = "draft"
    variants: ClassVar[Variants] = {"draft correction": {}}
    known_as = "ProSeCo's corrector"
    changes = "all visible tokens"
    law = "no: it searches for probable text"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, passes: int = 1):
        # Without `super().__init__`, because the prediction is not converted.
        self.passes, self.mask_id = require_count("passes", passes), mask_of(process)
        process.validate(16)
        self.process = process
        self.denoiser = checked(require_denoiser(denoiser, type(self).__name__, scores=False), process)

    @torch.no_grad()
    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """The corrected tokens; `generator` is not used."""
        rows, masked, draft = as_selection(rows, z), z == self.mask_id, z
        if masked.any():
            draft = replace_tokens(z, masked, most_likely(self.process, self.denoiser(z, t, masked)))
        draft, _ = correct_draft(self.process, self.denoiser, draft, t, rows | masked, self.passes)
        return torch.where(masked, z, draft)

    def __repr__(self) -> str:
        return describe(self, self.process, self.denoiser, self.extra_repr())

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"passes={self.passes}"
