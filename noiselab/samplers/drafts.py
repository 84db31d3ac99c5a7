"""Decoding with drafts: the network fills in all masks, corrects its own text, and reveals from what it then predicts."""

import copy
from typing import ClassVar

import torch
from torch import Tensor

from ..categorical import Randomness, replace_tokens
from ..denoisers import Denoiser
from ..denoisers.base import require_denoiser
from ..denoisers.checked import checked
from ..numerics import require_count
from ..process import NoiseProcess, as_token_times
from ..typing import Selection, Times, Tokens, Variants
from .acceptance import Acceptance, ConfidenceThreshold, Proposals
from .acceptance.base import Rule, require_rule
from .draft_passes import correct_draft, most_likely
from .threshold import ThresholdSampler
from .walk_state import Kept, current_state, fit


class DraftSampler(ThresholdSampler):
    r"""Reveals masks by a rule, and every few steps lets the network correct a draft of the whole text before.

    A draft $y$ is the sequence with *all* masks replaced by their most probable tokens. Each pass replaces every
    token of the draft by the most probable one, $y_i \leftarrow \arg\max_v \hat x_i(v \mid y)$, until nothing
    changes, `passes` times at most: in the current block and in those before it, at tokens that are not known. Then
    visible tokens there take those of the draft, and masks of the block are revealed by the rule from the predictions
    of the last pass, which has read a full text.

    Blocks are part of the sampler, because it also corrects those before the current one. They are counted from the
    first token that is not known, a block is finished before the next begins, and the network reads the whole
    sequence. Use one step for each token, `steps=length`: once nothing is masked, the network is no longer evaluated.
    Inside a `BlockSampler` finished blocks are not corrected.

    The network should be trained to correct such drafts (ProSeCo); one that was trained on masks alone has learned
    nothing about visible tokens.

    It takes the most probable tokens and draws none (`converges` is False).

    **Arguments:**

    - `process`: a process with absorbing noise, without noise on data tokens (such as `nl.masked`).
    - `denoiser`: a denoiser of tokens; used as it is, without conversion.
    - `accept`: the rule, as for `ThresholdSampler`; it must not compare with the step before (`StableConfidence`).
    - `every`: a draft is corrected in each `every`-th step of a block.
    - `passes`: the number of passes at most.
    - `block_size`: the number of tokens in a block; by default the whole sequence.

    **Raises:** `ValueError` for settings out of range, noise on data tokens, another rule, or a denoiser that
    predicts scores.

    **Source:** Schiff et al. (2026), "ProSeCo", arXiv 2602.11590; its decoder for LLaDA (kuleshov-group/proseco,
    `llada/generate.py`), there `max_corrector_steps`. The published code takes token ids within 1e-5 of each other,
    relative, for equal when it asks whether anything changed: neighbouring ids above 100,000. Here they differ.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    rule = nl.samplers.ConfidenceThreshold(0.8)
    sampler = nl.samplers.DraftSampler(process, oracle, rule, every=2, passes=2, block_size=4)
    x = nl.samplers.Prompted(sampler, torch.tensor([[1, 0]])).sample((1, 10), steps=10)
    assert x.tolist() == [[1] + [0] * 9]
    ```
    """

    keeps_clean = False
    variants: ClassVar[Variants] = {"drafts": {"accept": ConfidenceThreshold(0.9), "every": 2}}
    known_as = "the decoder of ProSeCo"
    law = "one sequence for each prompt"
    evaluated = "at masks; in passes at all tokens up to the end of the block"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        accept: Rule | None = None,
        *,
        every: int = 1,
        passes: int = 1,
        block_size: int | None = None,
    ):
        super().__init__(process, denoiser, accept)
        self.has_static = False  # drafts are corrected where there are any
        require_rule(self.accept, changes=False)
        self.network = checked(require_denoiser(denoiser, type(self).__name__, scores=False), process)
        self.every, self.passes = require_count("every", every), require_count("passes", passes)
        self.block_size = block_size if block_size is None else self.check_block(block_size)
        self._known: Selection | None = None

    def knowing(self, known: Selection) -> "DraftSampler":
        """This sampler, which keeps known tokens as they are in drafts, and counts blocks from the first other one."""
        made = copy.copy(self)
        made._known = known
        return made

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Correct a draft if it is time, and reveal what is accepted; the network is not evaluated if nothing is masked."""
        t, s = as_token_times(t, z).expand(z.shape), as_token_times(s, z).expand(z.shape)
        moving, noise = self._free(z, s < t), ~self.process.data_tokens(z.device)[z]
        reached, block = self._blocks(moving, moving & noise)
        due = s <= self.process.domain[0]
        state, rows = current_state(), (block | due & moving) & noise  # the last step leaves no mask in any block
        kept = state.read(self, block)
        state.write(self, kept)
        if not rows.any():
            return z
        drafting = ((kept.steps + 1) % self.every == 0) & rows.any(-1)
        seen = rows | (noise & drafting[:, None])
        logits = self.network(z, t, seen)
        if drafting.any():
            logits, z, seen = self._corrected(z, t, seen, reached & drafting[:, None], logits)
        token, accepted = self._proposed(logits, seen, rows, kept)
        return torch.where(rows & (due | accepted), token, z)

    def _free(self, z: Tensor, moving: Tensor) -> Tensor:
        """The tokens that move and are not known; an `Infilling` with one time for each sequence moves known ones, too."""
        return moving if self._known is None else moving & ~fit(self._known.to(z.device), z.shape[1])

    def _blocks(self, moving: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens up to the end of the first block of each sequence with a mask, and those of this block."""
        position = torch.arange(moving.shape[1], device=moving.device)
        first = (moving.long().cumsum(-1) == 0).sum(-1, keepdim=True)
        size = self.block_size or max(moving.shape[1], 1)
        block = torch.div(position - first, size, rounding_mode="floor")
        current = torch.where(masks, block, moving.shape[1]).amin(-1, keepdim=True) if masks.numel() else first
        return moving & (block <= current), moving & (block == current)

    def _corrected(
        self, z: Tensor, t: Tensor, seen: Tensor, reached: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of the last pass in place of those of masks, the corrected tokens, and where the logits are.

        **Arguments:**

        - `seen`, `logits`: the masks whose predictions are known.
        - `reached`: the tokens to be corrected, of sequences with a draft.
        """
        noise = ~self.process.data_tokens(z.device)[z]
        drafted = noise & reached.any(-1, keepdim=True)
        y = torch.where(drafted, replace_tokens(z, seen, most_likely(self.process, logits)), z)
        y, found = correct_draft(self.process, self.network, y, t, reached, self.passes)
        last = logits.new_zeros(*z.shape, logits.shape[-1])
        last[seen] = logits
        if found is not None:
            last[reached] = found.to(last)
        seen = seen | reached
        return last[seen], torch.where(reached & ~noise, y, z), seen

    def _proposed(self, logits: Tensor, seen: Tensor, rows: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        """The proposed token of each position, and which are accepted."""
        uses = self.accept.uses if isinstance(self.accept, Acceptance) else Acceptance.uses
        token, measured = self._measured(logits[rows[seen]], rows, None, uses, kept)
        proposed = replace_tokens(torch.zeros_like(rows, dtype=torch.long), rows, token)
        return proposed, self._accepted(Proposals(rows, proposed, kept.steps, kept.tensors, measured))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{super().extra_repr()}, every={self.every}, passes={self.passes}, block_size={self.block_size}"
