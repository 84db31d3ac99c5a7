"""GIDD's self-correction: replace the tokens that the model most confidently disagrees with, until it agrees."""

import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms, uniforms_at
from ..denoisers import Denoiser, selected_sequences
from ..denoisers.base import describe, require_denoiser
from ..denoisers.checked import LogitCheck, LogitChecks
from ..numerics import (
    TEMPERATURES,
    require_count,
    require_number,
    require_token_set,
    require_tokens,
)
from ..process import NoiseProcess, as_token_times
from ..samplers.reading import chunks
from ..samplers.shapes import tops_of
from ..typing import PerSequence, PerToken, Selection, Times, Tokens, TokenSet, Variants
from .base import Corrector, as_selection

READ_EVERY = 8  # steps of a walk with static shapes after which the host reads whether all sequences have stopped


class SelfCorrection(Corrector):
    r"""A fixed-point search at a small time, for a batch of sequences that stop independently.

    At time t0: x_hat = softmax(logits / temperature); draw z' from x_hat at every position; the score of a position is
    x_hat(z') where z' differs from z; the best-scored positions take their z'. A sequence stops when nothing changes,
    or when its self-accuracy (the fraction of tokens equal to the arg-max) has not improved for more than `patience`
    steps.

    It searches for likely text at any temperature and does not sample: `converges` is False. `walk` and `correct` apply
    it after sampling, as published; between the steps of a sampler (`PredictorCorrector`), each `step` is one revision.

    **Arguments:**

    - `denoiser`: the denoiser; its prediction is used without conversion, as published.
    - `time`: the time t0, in [0, 1].
    - `temperature`: in [1e-20, 1e20]; 0.1 to 0.5 published.
    - `tokens_per_step`: the maximum number of tokens of a sequence that change in a step.
    - `patience`: the number of steps without improvement before a sequence stops.
    - `support`: the tokens that may be drawn, Bool [state]; by default all. Pass `process.support`, or
    - `process`: the process that the model was trained on. Its support is used, and a `UserWarning` is given if it
      never makes a visible token wrong (absorbing noise): the model was then not trained on wrong tokens.

    **Raises:** `ValueError` if a setting is out of range, or the support is empty; when it corrects, if logits do not have
    the width of the support, or those of a token are NaN, inf, or all -inf. On an accelerator the latter is raised at the end
    of the walk.

    **Source:** von Ruette et al. (2025), arXiv 2503.04482, section 5.3 and algorithm 1; defaults as released.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.99, 0.01], [0.01, 0.99]]), process)
    correction = nl.SelfCorrection(oracle, process=process)
    x = torch.tensor([[0, 0, 1, 0, 0]])
    x = correction.correct(x, generator=torch.Generator().manual_seed(0))
    assert x.tolist() == [[0, 0, 0, 0, 0]]
    ```
    """

    kind = "self-correct"
    variants: ClassVar[Variants] = {"self-correction": {}}
    known_as = "GIDD self-correction"
    changes = "up to `tokens_per_step` tokens with which the model disagrees most confidently"
    law = "no: it searches for probable text"
    has_static = True

    @classmethod
    def for_process(cls, process: NoiseProcess, denoiser: Denoiser, **settings: Any) -> "SelfCorrection":
        """The corrector of a denoiser, with the support of the process."""
        return cls(denoiser, support=process.support, **settings)

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        time: float | int = 0.01,
        temperature: float | int = 0.1,
        tokens_per_step: int = 1,
        patience: int = 32,
        support: TokenSet | None = None,
        process: NoiseProcess | None = None,
    ):
        self.time = require_number("time", time, 0, 1)
        self.temperature = require_number("temperature", temperature, *TEMPERATURES)
        self.tokens_per_step = require_count("tokens_per_step", tokens_per_step)
        self.patience = require_count("patience", patience, 0)
        if process is not None and process.data_tokens_are_certain(time):
            warnings.warn(
                f"under {process} no visible token is ever wrong at t = {time:g}, so that a model trained on it has never "
                "seen wrong tokens: self-correction runs, but its predictions for visible tokens were not trained",
                UserWarning,
                stacklevel=2,
            )
        support = process.support if support is None and process is not None else support
        if support is not None and not require_token_set("support", support).any():
            raise ValueError("support must contain at least one token; got none")
        # Without `super().__init__`, because the denoiser is not converted and no process is needed.
        self.denoiser, self.support = require_denoiser(denoiser, type(self).__name__), support
        states = len(support) if support is not None else None if process is None else process.vocab_size
        self.check = LogitCheck(states, support)

    def enter(self, z: Tokens, t: Times) -> None:
        """Check what a step is given; the process is not known, and the vocabulary only from the support."""
        require_tokens("tokens", z, self.check.states)
        as_token_times(t, z)

    def step(self, z: Tokens, t: Times, *, rows: Selection | None = None, generator: Randomness = None) -> Tokens:
        """One revision at the times t of tokens in the support; tokens outside it (masks) are left to the sampler."""
        rows = as_selection(rows, z)
        if self.support is not None:
            rows = rows & self.support.to(z.device)[z]
        u = uniforms(*z.shape, generator=generator, device=z.device)
        if self.is_static(z):
            return self._moved(z, u, t, rows)[0]
        return self.revise(z, u, t=t, rows=rows)[0] if rows.any() else z

    def walk(
        self,
        z: Tokens,
        *,
        steps: int = 128,
        rows: Selection | None = None,
        generator: Randomness = None,
        stop: bool = True,
    ) -> Iterator[Tokens]:
        """The states after each step, at most `steps` of them; ends early when all sequences have stopped.

        A stopped sequence is no longer evaluated, but still consumes its random numbers, so that the other sequences do
        not depend on when it stopped. With a generator for each sequence, these are one number a step for each token that
        may change: a sequence is corrected in the same way alone and in a padded batch (`attending_to`).

        **Arguments:**

        - `rows`: the mask of tokens that may change and that count for self-accuracy; by default all. Exclude prompts and
          padding.
        - `stop`: whether sequences stop; otherwise every sequence takes all steps.

        With static shapes (`with_shapes`), stopped sequences are still evaluated, and the host reads only at every eighth step
        whether all have stopped, so that up to seven more states may follow, which are equal.
        """
        require_count("steps", steps, 0)
        require_tokens("tokens", z, self.check.states)
        rows = None if rows is None else as_selection(rows, z)
        live = torch.ones(len(z), dtype=torch.bool, device=z.device) if rows is None else rows.any(-1)
        best = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        stale = torch.zeros(len(z), dtype=torch.long, device=z.device)
        if not live.any():
            return
        if self.is_static(z):
            yield from self._static_walk(z, steps, rows, live, stop, generator)
            return
        checks = LogitChecks()
        for step in range(1, steps + 1):
            u = _numbers(z, rows, generator)
            with torch.no_grad(), checks, selected_sequences(self.denoiser, live):
                revised, accuracy = self.revise(z[live], u[live], rows=None if rows is None else rows[live])
            stale[live] = torch.where(accuracy > best[live], 0, stale[live] + 1)
            best[live] = torch.maximum(best[live], accuracy)
            gave_up = stop & (stale[live] > self.patience)
            settled = stop & (revised == z[live]).all(-1)
            z = z.index_put((live,), torch.where(gave_up[:, None], z[live], revised).to(z.dtype))
            live = live.index_put((live,), ~gave_up & ~settled)
            over = not live.any()
            if over or step == steps:
                checks.read()  # before the result is handed out
            yield z
            if over:
                return

    def _static_walk(
        self, z: Tensor, steps: int, rows: Tensor | None, live: Tensor, stop: bool, generator: Randomness
    ) -> Iterator[Tensor]:
        """The walk with static shapes: what has stopped is known on the device."""
        best = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        stale = torch.zeros(len(z), dtype=torch.long, device=z.device)
        t = torch.full(z.shape[:1], self.time, dtype=torch.float64, device=z.device)
        checks, some = LogitChecks(), as_selection(rows, z)
        for step in range(1, steps + 1):
            with torch.no_grad(), checks:
                revised, accuracy = self._moved(z, _numbers(z, rows, generator), t, some)
            stale = torch.where(accuracy > best, 0, stale + 1)
            best = torch.maximum(best, accuracy)
            going = live & (stale <= self.patience) if stop else live
            live = going & (revised != z).any(-1) if stop else live
            z = torch.where(going[:, None], revised, z)
            over = (step == steps or step % READ_EVERY == 0) and not live.any()
            if over or step == steps:
                checks.read()
            yield z
            if over:
                return

    def _moved(self, z: Tensor, u: Tensor, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        revised, accuracy, tops = self.move(z, u, t, rows)
        if not torch.compiler.is_compiling():
            self.check.keep(tops, t, self.denoiser)
        return revised, accuracy

    def move(  # type: ignore[override]
        self, z: Tokens, u: PerToken, t: Times, rows: Selection
    ) -> tuple[Tokens, PerSequence, Float[Tensor, "..."]]:
        """One revision with static shapes: new tokens, self-accuracies, and the largest logits for the check.

        **Arguments:** as for `revise`.
        """
        logits = self.denoiser(z, t)
        self.check.require_form(logits, self.denoiser)
        logits = self.check.cover(logits)
        top, guess = logits.max(-1)
        mass = ((logits - top[..., None]) / self.temperature).exp()
        drawn = choose(mass, u).to(z.dtype)
        score = mass.gather(-1, drawn.long()[..., None])[..., 0] / mass.sum(-1)
        score = torch.where(rows & (drawn != z), score, score.new_zeros(()))
        value, position = score.topk(min(self.tokens_per_step, z.shape[1]), -1)
        z = z.scatter(-1, position, torch.where(value > 0, drawn.gather(-1, position), z.gather(-1, position)))
        accuracy = ((z == guess) & rows).sum(-1) / rows.sum(-1).clamp(min=1).double()
        return z, accuracy, tops_of(top, rows)

    def revise(
        self, z: Tokens, u: PerToken, *, t: Times | None = None, rows: Selection | None = None
    ) -> tuple[Tokens, PerSequence]:
        """One step for every sequence: new tokens, and self-accuracies.

        **Arguments:**

        - `u`: one uniform number per position.
        - `t`: the times; by default `time`.
        - `rows`: the mask of tokens that may change and that count for self-accuracy; by default all.
        """
        z = z.long()
        t = torch.full(z.shape[:1], self.time, dtype=torch.float64, device=z.device) if t is None else t
        logits = self.denoiser(z, t) if rows is None else self.denoiser(z, t, rows)
        self.check(logits, t, self.denoiser, rows)
        drawn, score, guess = self._guesses(logits, u if rows is None else u[rows])
        if rows is not None:
            # Outside `rows` the tokens themselves, which have no score.
            drawn, guess = replace_tokens(z, rows, drawn), replace_tokens(z, rows, guess)
            score = score.new_zeros(z.shape).masked_scatter(rows, score)
        score = torch.where(drawn != z, score, 0)
        value, position = score.topk(min(self.tokens_per_step, z.shape[1]), -1)
        revised = torch.where(value > 0, drawn.gather(-1, position), z.gather(-1, position))
        z = z.scatter(-1, position, revised)
        agreed = (z == guess).double()
        if rows is None:
            return z, agreed.mean(-1)
        return z, (agreed * rows).sum(-1) / rows.sum(-1).clamp(min=1)

    def _guesses(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A drawn token for each row, its probability, and the most likely token."""
        found, numbers = [], u.flatten()
        for chunk in chunks(logits.flatten(0, -2), self.check, temperature=self.temperature):
            drawn = choose(chunk.mass, numbers[chunk.some])[:, None]
            score = chunk.mass.gather(-1, drawn) / (1 + chunk.others)
            found.append((drawn[:, 0], score[:, 0], chunk.best[:, 0]))
        drawn, score, guess = (torch.cat(parts).view(u.shape) for parts in zip(*found, strict=True))
        return drawn, score, guess

    def correct(
        self, z: Tokens, *, steps: int = 128, rows: Selection | None = None, generator: Randomness = None
    ) -> Tokens:
        """The sequences after the complete walk; arguments as for `walk`."""
        for state in self.walk(z, steps=steps, rows=rows, generator=generator):
            z = state
        return z

    def __repr__(self) -> str:
        return describe(self, self.denoiser, self.extra_repr())

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return (
            f"time={self.time:g}, temperature={self.temperature:g}, tokens_per_step={self.tokens_per_step}, "
            f"patience={self.patience}"
        )


def _numbers(z: Tensor, rows: Tensor | None, generator: Randomness) -> Tensor:
    """A uniform number for each token that may change."""
    if rows is None:
        return uniforms(*z.shape, generator=generator, device=z.device)
    return uniforms_at(rows, generator=generator, device=z.device)
