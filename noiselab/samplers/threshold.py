"""Masks revealed by a rule: those of which the model is sure enough, in each step anew."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness, replace_tokens, uniforms
from ..denoisers import Denoiser
from ..numerics import LOGITS_AT_ONCE
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.three_way import join_times
from ..typing import Grid, PerRow, PerToken, RowLogits, RowTokens, Selection, Times, Tokens, Variants
from .acceptance import Acceptance, ConfidenceThreshold, LocalMaxima, Proposals
from .acceptance.base import Rule, check_accepted, describe_rule, require_rule
from .base import Advance, Sampler, Stage
from .confidence import refuse_noise_on_data
from .positions import choose_tokens, compute_entropy, gather_log_probs, normalize_all, normalize_logits, scatter_rows
from .reading import read_rows
from .shapes import Moved, finish, tops_of
from .tables import known_weights
from .walk_state import Kept, current_state, with_state


class ThresholdSampler(Sampler):
    r"""Reveals the masks that a rule accepts: for example all of which the model is sure enough (parallel decoding).

    In each step a token is proposed for every mask, and the rule `accept` says which of them are revealed. The speed is
    determined by the model and not by the schedule: use one step for each token, `steps=length`, or `steps=block_size` inside a
    `BlockSampler`. Once nothing is masked, the network is no longer evaluated. In the last step, to the lower end of the
    domain, all remaining masks are revealed regardless of the rule. A network with time input receives the time of the grid.

    | `accept` | reveals | published as |
    |---|---|---|
    | `ConfidenceThreshold` | all above a confidence | Fast-dLLM, dllm, dInfer, SDAR (dynamic) |
    | `EntropyThreshold` | all below an entropy | d3LLM |
    | `EntropyBound` | while the sum of entropies is within a bound | EB-Sampler, SGLang |
    | `Factor` | while the confidence is high enough for the rank | Fast-dLLM, dInfer |
    | `LocalMaxima` | the best of each run of masks | dInfer (hierarchy) |
    | `StableConfidence` | what is confident and did not change | KLASS |
    | `Quota` | a number of tokens in each step | LLaDA, SDAR (static, sequential) |

    Engines take the most probable token (`draw=False`); then the result is a function of the network, not a sample. With
    `draw=True` tokens are drawn from the prediction. Tokens revealed in the same step are drawn independently, which causes an
    error that more steps do not remove. With the exact denoiser there is none if the rule accepts one uncertain token in each
    step without regard to what was drawn (`Acceptance.exact`, for example `ConfidenceThreshold(1)`) and there is a step for
    each token; see `ConfidenceSampler`. A rule by the confidence of the *drawn* token is biased to likely tokens even then.

    **Arguments:**

    - `process`: a process with absorbing noise, without noise on data tokens (such as `nl.masked`).
    - `denoiser`: as for every sampler; it is evaluated only at masks.
    - `accept`: an `Acceptance`, or a function of `Proposals` that returns the accepted positions, Bool [batch, length];
      `None` is `ConfidenceThreshold(0.9)`.
    - `draw`: whether tokens are drawn; otherwise each is the most probable one.

    **Raises:** `ValueError` for noise on data tokens, or a rule that is none; when sampling, for a rule that does not return a
    mask.

    **Source:** Wu et al. (2025), "Fast-dLLM", arXiv 2505.22618; the other rules name theirs.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    counting = nl.denoisers.CallCounter(oracle)
    sampler = nl.samplers.ThresholdSampler(process, counting, nl.samplers.ConfidenceThreshold(0.9), draw=True)
    x = sampler.sample((1, 16), steps=16, generator=torch.Generator().manual_seed(0))
    assert (x < 2).all() and counting.calls < 16
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    keeps_clean = True
    variants: ClassVar[Variants] = {
        "confidence above 0.9": {"accept": ConfidenceThreshold(0.9), "draw": True},
        "local maxima": {"accept": LocalMaxima(0.6, 0.9), "draw": True},
    }
    known_as = "the decoders of Fast-dLLM, dInfer, d3LLM, SDAR, KLASS, SGLang"
    law = "none with `draw=True` and a rule that accepts one token at a time without regard to it"
    evaluated = "at the masks of a block, until none is left"

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, accept: Rule | None = None, *, draw: bool = False):
        super().__init__(process, denoiser)
        with_thresholds = "CommittingSampler" if self.process.off_support() is None else "JointThresholdSampler"
        refuse_noise_on_data(self.process, type(self).__name__, f"{with_thresholds}, ")
        accept = ConfidenceThreshold() if accept is None else accept
        accept = require_rule(accept)
        self.accept, self.draw = accept, draw
        # A comparison with the step before selects the predictions that were kept.
        self.has_static = "change" not in self._uses()
        self.converges = bool(draw and isinstance(accept, Acceptance) and accept.exact)

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Reveal the masks that are accepted; the network is not evaluated if there are none."""
        u = uniforms(*z.shape, generator=generator, device=z.device) if self.draw else None
        if self.is_static(z):
            return self._static_step(z, t, s, u)
        t, s = as_token_times(t, z), as_token_times(s, z)
        moving = (s < t).expand(z.shape)
        noise = ~self.process.is_clean(z, t)
        rows, state = moving & noise, current_state()
        kept = state.read(self, moving)
        if not rows.any():
            state.write(self, kept)
            return z
        uses = self._uses()
        live = rows.any(-1, keepdim=True)
        # Predictions that a later block is compared with are needed before its tokens move.
        seen = noise & live if "change" in uses else rows
        logits = self.denoiser(z, t, seen)
        token, measured = self._measured(logits, seen, u, uses, kept)
        found = Proposals(rows, replace_tokens(z, seen, token), kept.steps, kept.tensors, measured)
        if "change" in uses:
            kept = _with_predictions(kept, logits, seen, live)
        state.write(self, kept)
        due = (s <= self.process.domain[0]).expand(z.shape)
        return torch.where(rows & (due | self._accepted(found)), found.token, z)

    def _static_step(self, z: Tensor, t: Tensor, s: Tensor, u: Tensor | None) -> Tensor:
        moving = (as_token_times(s, z) < as_token_times(t, z)).expand(z.shape)
        state = current_state()
        kept = state.read(self, moving)
        moved = self.move(z, t, s, u, known_weights(self.process, t, s), kept.steps, kept.tensors)
        state.write(self, kept)
        return finish(moved, t, self.denoiser)

    def move(
        self,
        z: Tokens,
        t: Times,
        s: Times,
        u: PerToken | None,
        weights: Float[Tensor, "batch times parts"] | None,
        steps: Int[Tensor, " batch"],
        kept: dict[str, Tensor],
    ) -> Moved:
        """One step with static shapes.

        **Arguments:**

        - `u`: a uniform number per position, if tokens are drawn.
        - `weights`: those of the process at s and t, if they are known.
        - `steps`, `kept`: as in `Proposals`.
        """
        both, n = join_times(s, t, z)
        _, noise = self.process.signal_and_noise(both, weights)
        later = both[:, :n]
        rows = (later < both[:, n:]) & (noise.between(n, 2 * n).at(z) > 0)
        log_probs, top = normalize_all(self.denoiser.everywhere(z, t).flatten(0, 1))
        token, values = self._values(log_probs, None if u is None else u.flatten(), self._uses())
        token = token.view(z.shape).to(z.dtype)
        measured = {name: value.view(z.shape).masked_fill(~rows, 0) for name, value in values.items()}
        accepted = self._accepted(Proposals(rows, torch.where(rows, token, z), steps, kept, measured))
        shown = rows & (accepted | (later <= self.process.domain[0]))
        return torch.where(shown, token, z), tops_of(top.view(z.shape), rows)

    def _uses(self) -> tuple[str, ...]:
        return self.accept.uses if isinstance(self.accept, Acceptance) else Acceptance.uses

    def _values(
        self, log_probs: RowLogits, u: Tensor | None, uses: tuple[str, ...]
    ) -> tuple[RowTokens, dict[str, Tensor]]:
        """The proposed token of each row, and the numbers that need this prediction only."""
        token = log_probs.argmax(-1)
        largest = gather_log_probs(log_probs, token)
        values = {"log_largest": largest, "log_confidence": largest}
        if u is not None:
            token = choose_tokens(log_probs, u, True)
            values["log_confidence"] = gather_log_probs(log_probs, token)
        if "entropy" in uses:
            values["entropy"] = compute_entropy(log_probs)
        return token, values

    def _measured(
        self, logits: RowLogits, seen: Selection, u: Tensor | None, uses: tuple[str, ...], kept: Kept
    ) -> tuple[RowTokens, dict[str, Tensor]]:
        """The proposed token of each row, and what the rule decides by, position by position."""
        token, values = read_rows(logits, self.denoiser.check, None if u is None else u[seen], uses)
        if "change" in uses:
            values["change"] = _change(logits, _before(seen, kept), kept.logits, self.process)
        return token, {name: scatter_rows(value, seen) for name, value in values.items()}

    def _accepted(self, found: Proposals) -> Selection:
        """The positions that the rule accepts, checked."""
        return check_accepted(self.accept, found)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step, with what the rule keeps between them."""
        yield from super().path(z, times, generator=generator, advance=with_state(advance or self.stages))

    def check_block(self, size: int) -> int:
        """Refuses also blocks with fewer tokens than the rule accepts in a step."""
        size = super().check_block(size)
        least = max(self.accept.minimum) if isinstance(self.accept, Acceptance) else 0
        if least > size:
            raise ValueError(f"at most {size} tokens, the size of a block, may be accepted at least; got {least}")
        return size

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return describe_rule(self.accept) + ", draw=True" * self.draw


def _before(seen: Selection, kept: Kept) -> Tensor:
    """For each row, where its last prediction is among those that were kept; -1 if there is none."""
    rows = torch.zeros_like(seen) if kept.rows is None else kept.rows
    place = rows.flatten().long().cumsum(0) - 1
    return torch.where(rows.flatten(), place, -1)[seen.flatten()]


def _change(logits: RowLogits, before: Tensor, old: Tensor | None, process: InterpolatingProcess) -> PerRow:
    """The divergence of predictions from those before, in chunks that fit into the cache; infinite where there are none."""
    change = torch.full(before.shape, torch.inf, dtype=torch.float64, device=before.device)
    known = before >= 0
    if old is None or not known.any():
        return change
    found, size = [], max(1, LOGITS_AT_ONCE // logits.shape[-1])
    for here, there in zip(*(place.split(size) for place in (known.nonzero()[:, 0], before[known])), strict=True):
        now = normalize_logits(logits[here], process)
        terms = now.exp() * (now - normalize_logits(old[there], process))
        found.append(terms.nan_to_num(0, posinf=torch.inf, neginf=-torch.inf).sum(-1, dtype=torch.float64))
    return change.masked_scatter(known, torch.cat(found))


def _with_predictions(kept: Kept, logits: RowLogits, seen: Selection, live: Tensor) -> Kept:
    """The predictions of this step for the next one; sequences that were not evaluated keep their last ones."""
    if kept.rows is None or kept.logits is None or not (old := kept.rows & ~live).any():
        return kept._replace(rows=seen, logits=logits)
    both = seen | old
    joined = logits.new_empty(int(both.sum()), logits.shape[-1])
    joined[seen[both]] = logits
    joined[old[both]] = kept.logits[old[kept.rows]].to(joined)
    return kept._replace(rows=both, logits=joined)
