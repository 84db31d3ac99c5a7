r"""Entropy-bounded acceptance with renoising: what the model is sure of together is kept, all else becomes noise again."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..denoisers import Denoiser, as_posterior
from ..denoisers.checked import Checked, checked
from ..denoisers.self_conditioning import feed_back, self_conditioned
from ..numerics import TEMPERATURES, require_count, require_number
from ..process import InterpolatingProcess, NoiseProcess, as_token_times
from ..process.three_way import join_times, mass_at
from ..schedules import ScheduleLike, as_schedule
from ..typing import Grid, PerSequence, Times, Tokens, Variants
from .acceptance import Acceptance, EntropyBound, Proposals
from .acceptance.base import Rule, check_accepted, describe_rule, require_rule
from .base import Advance, Sampler, Stage, hold_still
from .confidence import noisy_data_tokens
from .positions import (
    choose_tokens,
    compute_entropy,
    gather_log_probs,
    normalize_logits,
    scatter_rows,
    select_certain,
)
from .shapes import finish, tops_outside
from .tables import known_weights
from .walk_state import current_state, with_state

UNIFORMS_PER_TOKEN = 3  # uniform numbers per position and step: the token, and two for a token of the noise


class RenoisingSampler(Sampler):
    r"""Accepts tokens up to a bound on the error of independent draws, and renoises all others; for any noise.

    In each step a token is drawn for every position from the posterior $p_i = p(x_i \mid z)$ at a temperature.
    Positions are sorted by the entropy $H_i$ of $p_i$, and the longest beginning U of this order is accepted for which

    $$\sum_{l \in U} H_l - \max_{l \in U} H_l \le \gamma$$

    but at least one position, as in `EntropyBoundedSampler`. All others are replaced by noise, *also those accepted in
    earlier steps*: a token stays only if the model predicts it again. The last step, to the lower end of the domain,
    replaces every token by the most probable one; drawn tokens only steer.

    `EntropyBoundedSampler` needs absorbing noise, where every token is known to be clean or noise. Here every
    position is predicted again in each step, so that this need not be known: it also works with uniform and hybrid
    noise. For absorbing noise visible tokens are certain (their entropy is 0), so that both are the same rule;
    `draw=True` makes the last steps equal too.

    Another rule than the bound says what is accepted with `accept`, such as `ConfidenceThreshold(0.9)`.

    A sequence stops when its most probable tokens have not changed for `stability` steps and the mean entropy is below
    `confidence`. It is then replaced by these tokens and not evaluated any more.

    If the network is self-conditioned (`noiselab.denoisers.SelfConditioned`), it is conditioned on the logits that
    tokens were drawn from in the step before, including the temperature.

    Its distribution is not that of the data. The number of noisy tokens follows the model's certainty and not the
    time, so that a network with time input receives a time at which other numbers are expected; most probable tokens
    are no draws; and with noise on data tokens, each step replaces all tokens outside of U. `converges` is True only
    for absorbing noise with `bound=0` (or a rule that is exact, `Acceptance.exact`), `draw=True`, no stopping and
    temperature 1, which is `EntropyBoundedSampler` with `bound=0`.

    **Arguments:**

    - `process`: an interpolating process.
    - `denoiser`: a denoiser of any prediction type.
    - `bound`: $\gamma$ in nats, non-negative; not used with `accept`.
    - `accept`: an `Acceptance` or a function of `Proposals`, as for `ThresholdSampler`, that says which of the drawn
      tokens are accepted; by default `EntropyBound(bound)`. It must not compare with the step before
      (`StableConfidence`).
    - `temperature`: divides the logits; a positive number, or a schedule of the time t at the beginning of the step.
    - `stability`: the number of steps for which the most probable tokens must stay the same, from 0; `None` to never
      stop.
    - `confidence`: the mean entropy in nats per token below which a sequence may stop.
    - `draw`: whether the last step draws tokens; otherwise it takes the most probable ones.

    **Raises:** `ValueError` for settings out of range, or a process that is not interpolating.

    **Source:** the sampler of DiffusionGemma (`transformers.models.diffusion_gemma`), there with uniform noise,
    `bound=0.1`, `temperature=0.4 + 0.4 * nl.t`, `stability=1`, `confidence=0.005` and 48 uniform steps; Ben-Hamu et
    al. (2025), arXiv 2505.24857, for the bound. In a batch of several sequences, the published code draws no more
    once all have stopped; here each step draws the same number of random numbers.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.uniform(vocab_size=3)
    chain = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 0.9]])
    oracle = nl.MarkovOracle(torch.full((3,), 1 / 3), chain, process)
    sampler = nl.samplers.RenoisingSampler(process, oracle, 1.0, temperature=0.4 + 0.4 * nl.t, stability=1, confidence=0.1)
    x = sampler.sample((4, 8), steps=48, generator=torch.Generator().manual_seed(0))
    assert x.shape == (4, 8) and oracle.log_prob(x).isfinite().all()
    ```
    """

    process: InterpolatingProcess
    takes = InterpolatingProcess
    variants: ClassVar[Variants] = {f"renoising, {bound:g}": {"bound": bound} for bound in (0.1, 1.0)}
    keeps_clean = True
    known_as = "the sampler of DiffusionGemma"
    evaluated = "at all positions that may be noise"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        bound: float | int = 0.1,
        *,
        accept: Rule | None = None,
        temperature: ScheduleLike = 1,
        stability: int | None = None,
        confidence: float | int = 0.005,
        draw: bool = False,
    ):
        super().__init__(process, denoiser)
        # A posterior is used as it is: converted and back, it would be rounded.
        self.direct = denoiser.predicts == "posterior"
        self.posterior = checked(denoiser, process) if self.direct else as_posterior(self.denoiser, process)
        # Predictions are carried from step to step with the rows that they are of.
        self.has_static = not self_conditioned(denoiser)
        self.bound = require_number("bound", bound, 0, infinite=True)
        self.accept = EntropyBound(bound) if accept is None else require_rule(accept, changes=False)
        self.temperature = as_schedule(temperature)
        values = self.temperature(torch.linspace(*process.domain, 9, dtype=torch.float64))
        if not ((values >= TEMPERATURES[0]) & (values <= TEMPERATURES[1])).all():
            raise ValueError(f"temperature must be positive at every time; got {values.min().item():g}")
        self.stability = stability if stability is None else require_count("stability", stability, 0)
        self.confidence, self.draw = require_number("confidence", confidence, 0), draw
        exact = isinstance(self.accept, Acceptance) and self.accept.exact
        plain = stability is None and exact and str(self.temperature) == "1"
        self.converges = plain and draw and not len(noisy_data_tokens(self.process))

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Accept some tokens and renoise the others; the network is not evaluated if all are known to be clean."""
        return self._stage(z, t, s, generator).z

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """The step, with what sequences stop by."""
        return [self._stage(z, t, s, generator)]

    def _stage(self, z: Tensor, t: Tensor, s: Tensor, generator: Randomness) -> Stage:
        u = uniforms(*z.shape, UNIFORMS_PER_TOKEN, generator=generator, device=z.device)
        if self.is_static(z):
            return self._static_stage(z, t, s, u)
        end, t, s = s, as_token_times(t, z), as_token_times(s, z)
        moving = (s < t).expand(z.shape)
        rows = moving & ~self.process.is_clean(z, t)
        if not rows.any():
            state = current_state()
            state.write(self, state.read(self, moving))  # a step of the block, for rules that count them
            return Stage(self.kind, end, z, z, torch.zeros(len(z), dtype=torch.float64, device=z.device))
        logits = self.posterior(z, t.expand(z.shape), rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits / self.temperature(t).expand(z.shape)[rows][:, None].to(logits.dtype)
        feed_back(self_conditioned(self.denoiser), rows, logits)
        log_probs = normalize_logits(logits, self.process)
        entropy = scatter_rows(compute_entropy(log_probs), rows)
        drawn = replace_tokens(z, rows, self.candidates(log_probs, u[..., 0], rows))
        best = replace_tokens(z, rows, log_probs.argmax(-1))
        noise = self.renoised(z, s, u[..., 1:])
        new = torch.where(self._accepted(log_probs, drawn, entropy, rows, moving), drawn, noise)
        last = (s <= self.process.domain[0]).expand(z.shape)
        new = torch.where(last, drawn if self.draw else best, new)
        doubt = entropy.sum(-1) / moving.sum(-1).clamp(min=1)
        return Stage(self.kind, end, torch.where(rows, new, z), best, doubt)

    def _accepted(self, log_probs: Tensor, drawn: Tensor, entropy: Tensor, rows: Tensor, moving: Tensor) -> Tensor:
        """The positions whose drawn token is accepted."""
        state = current_state()
        kept = state.read(self, moving)
        confidence = gather_log_probs(log_probs, drawn[rows])
        measured = {"entropy": entropy, "log_confidence": scatter_rows(confidence, rows)}
        if not isinstance(self.accept, Acceptance) or "log_largest" in self.accept.uses:
            measured["log_largest"] = scatter_rows(log_probs.amax(-1), rows)
        accepted = check_accepted(self.accept, Proposals(rows, drawn, kept.steps, kept.tensors, measured))
        state.write(self, kept)
        return accepted

    def _static_stage(self, z: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Stage:
        moving = (as_token_times(s, z) < as_token_times(t, z)).expand(z.shape)
        state = current_state()
        kept = state.read(self, moving)
        new, tops, *found = self.move(z, t, s, u, known_weights(self.process, t, s), kept.steps, kept.tensors)
        state.write(self, kept)
        return Stage(self.kind, s, finish((new, tops), t, self._source()), *found)

    def move(  # type: ignore[override]
        self,
        z: Tokens,
        t: Times,
        s: Times,
        u: Float[Tensor, "batch length draws"],
        weights: Float[Tensor, "batch times parts"] | None,
        steps: Int[Tensor, " batch"],
        kept: dict[str, Tensor],
    ) -> tuple[Tokens, Float[Tensor, "..."], Tokens, PerSequence | None]:
        """One step with static shapes: new tokens, the largest logits for the check, and what sequences stop by.

        **Arguments:**

        - `u`: three uniform numbers per position.
        - `weights`: those of the process at s and t, if they are known.
        - `steps`, `kept`: as in `Proposals`.
        """
        both, n = join_times(s, t, z)
        signal, noise = self.process.signal_and_noise(both, weights)
        mass, later = mass_at(noise.between(n, 2 * n), z), as_token_times(s, z)
        still = later >= as_token_times(t, z)
        idle = (mass <= 0) | still
        logits = self._source().everywhere(z, t)
        if not self.direct:
            odds = (signal[:, n:] / mass).log1p()
            logits = logits.scatter_add(-1, z.long()[..., None], odds[..., None].to(logits))
        if str(self.temperature) != "1":
            logits = logits / self.temperature(as_token_times(t, z))[..., None].to(logits.dtype)
        top, best = logits.max(-1, keepdim=True)
        mass = (logits - top).exp()
        drawn, (top, best) = choose(mass, u[..., 0]), (top[..., 0], best[..., 0])
        others = mass.scatter(-1, best[..., None], 0).sum(-1)
        # The entropy: log Z less the mean of the logarithms, which are those of `mass` less log Z.
        logs = torch.xlogy(mass, mass).sum(-1, dtype=torch.float64)
        entropy = (others.log1p() - logs / (1 + others)).masked_fill(idle, 0)
        drawn, best = (torch.where(idle, z, token.to(z.dtype)) for token in (drawn, best))
        taken = self._taken((mass, others), drawn, entropy, idle, steps, kept)
        fresh = noise.between(0, n).choose(u[..., 1], u[..., 2]).to(z.dtype)
        last = later <= self.process.domain[0]
        new = torch.where(last, drawn if self.draw else best, torch.where(taken, drawn, fresh))
        doubt = None
        if self.stability is not None:
            doubt = entropy.sum(-1) / (~still).expand(z.shape).sum(-1).clamp(min=1)
        return new, tops_outside(top, idle), best, doubt

    def _taken(
        self,
        law: tuple[Tensor, Tensor],
        drawn: Tensor,
        entropy: Tensor,
        idle: Tensor,
        steps: Tensor,
        kept: dict[str, Tensor],
    ) -> Tensor:
        """The positions whose drawn token is accepted, and those that stay; `law` is the mass of each token in units of
        the largest, and that of all others.
        """
        if type(self.accept) is EntropyBound:
            return select_certain(entropy, self.accept.bound)
        mass, largest = law[0], -law[1].double().log1p()
        confidence = mass.gather(-1, drawn.long()[..., None])[..., 0].double().log() + largest
        measured = {"log_largest": largest, "log_confidence": confidence, "entropy": entropy}
        measured = {name: value.masked_fill(idle, 0) for name, value in measured.items()}
        return idle | check_accepted(self.accept, Proposals(~idle, drawn, steps, kept, measured))

    def _source(self) -> Checked:
        """The denoiser whose logits are checked."""
        return self.posterior if isinstance(self.posterior, Checked) else self.denoiser

    def candidates(self, log_probs: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        """The tokens drawn for `rows`, with one uniform number for each position of the batch."""
        return choose_tokens(log_probs, u[rows], True)

    def renoised(self, z: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """Noise of the time s at every position."""
        return self.process.noise(s).choose(u[..., 0], u[..., 1])

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The stages of each step, until all sequences have stopped."""
        advance = with_state(advance or self.stages)
        if self.stability is None:
            yield from super().path(z, times, generator=generator, advance=advance)
            return
        low, enough, over = self.process.domain[0], self.stability, False
        stopped = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        same, before = torch.zeros_like(stopped, dtype=torch.long), torch.full_like(z, -1)

        def onward(z: Tensor, t: Tensor, s: Tensor, *, generator: Randomness = None) -> list[Stage]:
            nonlocal stopped, same, before
            done = hold_still(advance, stopped, low, z, t, s, generator, over=over)
            for stage in done:
                if stage.best is None or stage.entropy is None:
                    continue
                same = torch.where((stage.best == before).all(-1), same + 1, 0)
                new = (same >= enough) & (stage.entropy < self.confidence) & ~stopped
                stopped, before = stopped | new, stage.best
                done[-1] = done[-1]._replace(z=torch.where(new[:, None], stage.best, done[-1].z))
            return done

        for stages in super().path(z, times, generator=generator, advance=onward):
            if not over:
                yield stages
            # Remaining steps draw their random numbers without evaluating the network, so that generators do not depend
            # on the batch.
            over = bool(stopped.all())

    @torch.no_grad()
    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """The most probable clean tokens, or with `draw` drawn ones, from noisy tokens."""
        if self.draw:
            return super().clean(z, t, generator=generator)
        self.process.token_times(t, z)
        rows = ~self.process.is_clean(z, t)
        if not rows.any():
            return z
        log_probs = normalize_logits(self.posterior(z, as_token_times(t, z).expand(z.shape), rows), self.process)
        return replace_tokens(z, rows, log_probs.argmax(-1))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        heat = str(self.temperature)
        stop = "" if self.stability is None else f", stability={self.stability}, confidence={self.confidence:g}"
        rule = self.accept
        return (
            (f"bound={rule.bound:g}" if isinstance(rule, EntropyBound) else f"accept={describe_rule(rule)}")
            + (f", temperature={heat}" if heat != "1" else "")
            + stop
            + ", draw=True" * self.draw
        )
