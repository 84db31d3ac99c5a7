"""Filling masks and editing visible tokens in one step, each above a threshold of its own."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness, replace_tokens
from ..denoisers import Denoiser
from ..denoisers.base import require_denoiser
from ..denoisers.checked import checked
from ..numerics import require_count, require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..typing import Grid, Times, Tokens, Variants
from .acceptance.base import Counts, count_in_step, require_counts
from .base import Advance, Sampler, Stage, hold_still
from .confidence import noisy_data_tokens
from .positions import normalize_all, normalize_logits, scatter_rows, select_best
from .shapes import finish, tops_of
from .walk_state import current_state, with_state

EDIT = 0.5  # of LLaDA2.1's "quality mode"


class JointThresholdSampler(Sampler):
    r"""Fills masks above one threshold of confidence and edits visible tokens above another, in the same step.

    With $c_i = \max_v \hat x_v$ at position i and v its token, one step takes v

    - at masks with $c_i >$ `threshold`, and at the most confident ones up to the `minimum`;
    - at visible tokens other than v with $c_i >$ `edit`.

    The network is evaluated once for both, at all positions that may change. Known tokens (`Infilling`, `Prompted`)
    and finished blocks are never edited. The last step, to the lower end of the domain, fills every mask.

    A sequence, in a `BlockSampler` a block of it, stops when it has no mask and a step edits nothing, or after
    `most_edits` steps that began without a mask. It is not evaluated any more. Use enough steps for both, block_size
    + most_edits: edits may go back and forth.

    The published codes count differently. For the same tokens:

    | code | `minimum` | `most_edits` |
    | --- | --- | --- |
    | SGLang, `joint_threshold` | 1 | `max_post_edit_steps` |
    | dllm, `llada21` | `num_to_transfer` | `max_post_steps` |
    | diffusers, `BlockRefinementScheduler` | `even_quotas(block_length, steps)` | `max_post_steps + 1` |

    SGLang makes one more evaluation, which changes nothing, where a block ends after `max_post_edit_steps`; so does
    diffusers for a block that is full early, without edits. diffusers gives up the edits of a block whose last mask
    was filled in step number `steps`, and takes an `editing_threshold` of 0 for none; here 0 edits wherever the
    network disagrees.

    It takes the most probable tokens and draws none: its result is one sequence for each prompt (`converges` is False).

    **Arguments:**

    - `process`: a process with a mask, under which visible tokens may be wrong (such as `nl.gidd`): the noise that
      the network has learned to see through. LLaDA2.1 was trained with masks and wrong tokens.
    - `denoiser`: a denoiser of tokens, leave-one-out or posterior; used as it is, without conversion, as published.
    - `threshold`: the probability above which masks are filled, in [0, 1].
    - `edit`: the probability above which visible tokens are edited, in [0, 1]; `None` to edit none. Both defaults are
      those of LLaDA2.1's "quality mode", with 16 as `most_edits`.
    - `minimum`: the number of masks that a step fills at least, or one number for each step of a block (`even_quotas`).
    - `most_edits`: the number of steps without masks, from 0; by default not limited.

    **Raises:** `ValueError` for settings out of range, a process without a mask, an edit threshold under noise that
    never makes a visible token wrong (the network then never learned to edit), or a denoiser that predicts scores.

    **Source:** Bie et al. (2026), "LLaDA2.1", arXiv 2602.08676.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.JointThresholdSampler(process, oracle, threshold=0.7, edit=0.9, most_edits=2)
    prompted = nl.samplers.Prompted(nl.samplers.BlockSampler(sampler, 4, context="past", given=0), torch.tensor([[1]]))
    assert prompted.sample((1, 8), steps=6).tolist() == [[1] * 8]
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    has_static = True
    variants: ClassVar[Variants] = {"joint thresholds": {"most_edits": 16}}
    known_as = "the decoder of LLaDA2.1"
    law = "one sequence for each prompt"
    evaluated = "at all masks and tokens that may be edited"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        threshold: float | int = 0.7,
        edit: float | int | None = EDIT,
        *,
        minimum: Counts = 1,
        most_edits: int | None = None,
    ):
        super().__init__(process, denoiser)
        self.network = checked(require_denoiser(denoiser, type(self).__name__, scores=False), process)
        self.threshold = require_number("threshold", threshold, 0, 1)
        self.edit = edit if edit is None else require_number("edit", edit, 0, 1)
        self.minimum = require_counts("minimum", minimum)
        self.most_edits = most_edits if most_edits is None else require_count("most_edits", most_edits, 0)
        if self.process.off_support() is None:
            raise ValueError(
                f"JointThresholdSampler needs a process with a mask, a token outside of its `support`; got {process}. "
                "Use RenoisingSampler"
            )
        if edit is not None and not len(noisy_data_tokens(self.process)):
            raise ValueError(
                "edit must be None under noise that never makes a visible token wrong, because a network trained on "
                f"it has not learned to edit; got edit={edit:g}{', the default,' * (edit == EDIT)} under {process}. Give "
                "edit=None to fill masks alone; for a network that was trained on wrong tokens too, give that noise, such "
                "as noiselab.gidd"
            )
        self.keeps_clean = edit is None

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Fill and edit; the network is not evaluated where nothing may change. No random number is drawn."""
        return self._stage(z, t, s).z

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """The step, with the number of masks that are left."""
        return [self._stage(z, t, s)]

    def _stage(self, z: Tensor, t: Tensor, s: Tensor) -> Stage:
        given, end, t, s = t, s, as_token_times(t, z), as_token_times(s, z)
        moving, data = (s < t).expand(z.shape), self.process.data_tokens(z.device)
        state = current_state()
        kept = state.read(self, moving)
        state.write(self, kept)
        if self.is_static(z):
            z, tops, left = self.move(z, given, end, kept.steps)
            return Stage(self.kind, end, finish((z, tops), given, self.network), left=left)
        masks = moving & ~data[z]
        editable = moving & data[z] & (self.edit is not None)
        rows = masks | editable
        if rows.any():
            log_probs = normalize_logits(self.network(z, t.expand(z.shape), rows), self.process)
            value, token = log_probs.max(-1)
            confidence, best = scatter_rows(value.double().exp(), rows), replace_tokens(z, rows, token)
            least = count_in_step(self.minimum, kept.steps)
            sure = (confidence > self.threshold) | (s <= self.process.domain[0])
            changed = masks & (sure | select_best(scatter_rows(value, rows), masks, least))
            if self.edit is not None:
                changed = changed | (editable & (confidence > self.edit))
            z = torch.where(changed, best, z)
        return Stage(self.kind, end, z, left=(moving & ~data[z]).sum(-1))

    def move(  # type: ignore[override]
        self, z: Tokens, t: Times, s: Times, steps: Int[Tensor, " batch"]
    ) -> tuple[Tokens, Float[Tensor, "..."], Int[Tensor, " batch"]]:
        """One step with static shapes: new tokens, the largest logits for the check, and the masks that are left.

        **Arguments:**

        - `steps`: the number of the step in the current block of each sequence.
        """
        later = as_token_times(s, z)
        moving, visible = later < as_token_times(t, z), self.process.data_tokens(z.device)[z]
        masks = moving & ~visible
        log_probs, top = normalize_all(self.network.everywhere(z, t).flatten(0, 1))
        value, token = (part.view(z.shape) for part in log_probs.max(-1))
        value = value.double()
        confidence = value.exp()
        sure = (confidence > self.threshold) | (later <= self.process.domain[0])
        filled = masks & (sure | select_best(value, masks, count_in_step(self.minimum, steps)))
        if self.edit is None:
            changed, rows = filled, masks
        else:
            changed, rows = filled | ((moving ^ masks) & (confidence > self.edit)), moving.expand(z.shape)
        return torch.where(changed, token.to(z.dtype), z), tops_of(top.view(z.shape), rows), (masks ^ filled).sum(-1)

    def _networks(self) -> tuple[Denoiser, ...]:
        return (self.network,)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step, until all sequences have stopped."""
        advance, low, data = advance or self.stages, self.process.domain[0], self.process.data_tokens(z.device)
        stopped = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        edits, over = torch.zeros_like(stopped, dtype=torch.long), False

        def onward(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            nonlocal stopped, edits
            done = hold_still(advance, stopped, low, z, t, s, generator, over=over)
            for stage in done:
                if stage.left is None:
                    continue
                changed = stage.z != z
                # A corrector after it may have masked tokens again.
                full = (stage.left == 0) & (stage.z == done[-1].z).all(-1)
                edits = edits + (full & ~(changed & ~data[z]).any(-1))
                enough = full & (edits >= self.most_edits) if self.most_edits is not None else torch.zeros_like(full)
                stopped = stopped | enough | (full & ~changed.any(-1))
            return done

        for stages in super().path(z, times, generator=generator, advance=with_state(onward)):
            if not over:
                yield stages
            # Remaining steps draw no numbers and evaluate nothing; wrappers inside may draw.
            over = bool(stopped.all())

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        least = "" if self.minimum == (1,) else f", minimum={list(self.minimum)}"
        return f"threshold={self.threshold:g}, edit={self.edit}{least}, most_edits={self.most_edits}"
