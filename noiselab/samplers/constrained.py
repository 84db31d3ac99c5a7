"""Sampling of sequences that satisfy a constraint, with the tokens of each step drawn together."""

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import Randomness, choose, replace_tokens, uniforms
from ..constraints import TokenAutomaton
from ..constraints.automaton import as_start
from ..denoisers import Denoiser
from ..denoisers.checked import LogitChecks
from ..denoisers.constrained import constrained_law, posterior_logits, require_automaton
from ..numerics import LOGITS_AT_ONCE, require_count, require_tensor
from ..process import NoiseProcess, as_token_times
from ..typing import Grid, Selection, Times, Tokens
from .base import Advance, Sampler, Stage


class ConstrainedSampler(Sampler):
    r"""Ancestral sampling in which the clean sequence of each step is drawn from the accepted ones, all tokens together.

    $$x \sim p(x \mid z_t, C) \propto C(x) \prod_i \hat x_i(x_i)\, q_t(z_i \mid x_i), \qquad z_s \sim q(z_s \mid z_t, x)$$

    At the last step $z_0 = x$, so that every sample satisfies the constraint, for any noise and number of steps. (Where noise
    is left at the end, `clean` makes this draw.) Before, noise never contradicts the constraint: x itself remains possible.
    Without a constraint this is the reverse transition of `AncestralSampler`.

    If the tokens of the data are independent, samples of any number of steps have the distribution of the data that
    satisfy C. Otherwise a step neglects the dependence of tokens on each other: more steps are closer to
    $p(x \mid C)$, without reaching it, since the prediction of what is still noise remains a product of marginals.

    **Arguments:**

    - `process`, `denoiser`: as for `Sampler`. Truncations of the denoiser may exclude all accepted sequences, which is an
      error; a temperature cannot.
    - `automaton`: the constraint, an automaton over the tokens of the process.
    - `start`: the number of leading tokens that the constraint does not apply to, for all sequences or for each; "prompt" for
      the known tokens at the beginning of an `Infilling` or `Prompted` around this sampler.

    **Raises:** `ValueError` if the automaton has another vocabulary than the process. When sampling, before the first
    step, if no accepted sequence has the length, or contains the known tokens; if the predictions exclude all of them; and if
    a wrapper around this sampler has changed finished sequences to ones that violate the constraint.

    **Source:** drawing through stored messages: Carter and Kohn (1994).

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    odd = nl.constraints.TokenAutomaton(torch.tensor([[0, 1, -1], [1, 0, -1]]), accepting=[1])
    x = nl.samplers.ConstrainedSampler(process, oracle, odd).sample((20, 6), steps=4)
    assert (x.sum(-1) % 2 == 1).all()
    ```
    """

    keeps_clean = True
    needs_whole = True
    evaluated = "at noisy positions"

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        automaton: TokenAutomaton,
        start: int | Int[Tensor, " batch"] | Literal["prompt"] = 0,
    ):
        super().__init__(process, denoiser)
        if isinstance(start, str) and start != "prompt":
            raise ValueError(f"start must be a count, one for each sequence, or 'prompt'; got {start!r}")
        if isinstance(start, Tensor):
            require_tensor("start", start, "batch", ids=True)
        elif start != "prompt":
            require_count("start", start, 0)
        self.automaton, self.starts = require_automaton(automaton, process), start
        self._known: Tensor | None = None

    def knowing(self, known: Selection) -> "ConstrainedSampler":
        """This sampler, in which known tokens are certain at any time."""
        made = copy.copy(self)
        made._known = known
        return made

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The path of any sampler; finished sequences are checked."""
        for k, stages in enumerate(super().path(z, times, generator=generator, advance=advance), 2):
            if k == len(times):
                self.require_accepted(stages[-1].z, stages[-1].time)
            yield stages

    def step(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> Tokens:
        """Clean sequences drawn from the accepted ones, and the tokens at s given these and those at t."""
        s, t = (as_token_times(time, z).expand(z.shape) for time in (s, t))
        x = self.draw(z, t, generator=generator)
        moves = s < t
        # The transition of a token with s = t = 1 is not defined, and is not used.
        earlier = torch.where(moves, s, self.process.domain[0])
        drawn = self.process.draw_posterior(x, z, earlier, t, generator=generator)
        return torch.where(moves, drawn, z)

    @torch.no_grad()
    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """Jump from noisy to clean tokens, all drawn together from the accepted sequences."""
        self.process.token_times(t, z)
        with LogitChecks() as checks:
            x = self.draw(z, as_token_times(t, z).expand(z.shape), generator=generator)
        checks.read()
        return x

    def draw(self, z: Tokens, t: Float[Tensor, "batch length"], *, generator: Randomness = None) -> Tokens:
        """Clean sequences drawn from the accepted ones given the noisy tokens, with two uniform numbers per token.

        **Arguments:**

        - `z`, `t`: noisy tokens, and the time of each.

        **Raises:** `ValueError` if no accepted sequence is possible.
        """
        u = uniforms(*z.shape, 2, generator=generator, device=z.device)
        noisy = ~self.process.is_clean(z, t)
        if self._known is not None:
            noisy = noisy & ~self._fitted(self._known, z)
        logits = self.denoiser(z, t, noisy) if noisy.any() else u.new_zeros(0, self.process.vocab_size)
        law = constrained_law(self.automaton, self.process, logits, z, t, noisy, self._start(z))
        classes, tokens, found = law.draw_classes(u[..., 0])[noisy], z[noisy], []
        rows = max(1, LOGITS_AT_ONCE // self.process.vocab_size)
        for part in torch.arange(len(tokens), device=z.device).split(rows):
            mass = posterior_logits(self.process, logits[part], tokens[part], t[noisy][part])
            mass = mass.masked_fill(self.automaton.classes != classes[part, None], -torch.inf)
            found.append(choose(mass.softmax(-1), u[..., 1][noisy][part]))
        return replace_tokens(z, noisy, torch.cat(found)) if found else z

    def require_accepted(self, z: Tokens, t: Times) -> None:
        """Raise `ValueError` if a sequence that is certainly clean violates the constraint."""
        clean = self.process.is_clean(z, t).all(-1)
        if self._known is not None:
            clean = (self.process.is_clean(z, t) | self._fitted(self._known, z)).all(-1)
        wrong = clean & ~self.automaton.accepts(z, self._start(z))
        if wrong.any():
            raise ValueError(
                f"finished sequences must satisfy the constraint; sequence {int(wrong.nonzero()[0])} does not: a wrapper "
                "around the sampler, such as a corrector, has changed it"
            )

    def _start(self, z: Tensor) -> Tensor:
        if not isinstance(self.starts, str):
            return as_start(self.starts, z)
        if self._known is None:
            return as_start(0, z)
        return self._fitted(self._known, z).long().cumprod(-1).sum(-1)

    def _fitted(self, known: Tensor, z: Tensor) -> Tensor:
        """The mask of known tokens for these sequences, of which it may be the beginning."""
        known = known[:, : z.shape[1]].to(z.device)
        return torch.nn.functional.pad(known, (0, z.shape[1] - known.shape[1])).expand(z.shape)

    def extra_repr(self) -> str:
        """The automaton, and where it starts."""
        start = self.starts.tolist() if isinstance(self.starts, Tensor) else self.starts
        return f"{self.automaton}" + (f", start={start!r}" if start else "")
