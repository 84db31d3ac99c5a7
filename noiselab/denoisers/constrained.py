"""Constraints on whole sequences as a denoiser: exact marginals of independent tokens that an automaton accepts."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..constraints import TokenAutomaton
from ..constraints.automaton import as_start
from ..constraints.law import ConstrainedLaw, class_mass
from ..constraints.reasons import require_possible
from ..numerics import LOGITS_AT_ONCE, require_count, require_tensor
from ..parametrization import Prediction, to_posterior
from ..process import NoiseProcess, as_token_times
from ..typing import RowLogits, Selection, Times, Tokens, TokenTimes
from .base import Denoiser, WrappedDenoiser


class Constrained(WrappedDenoiser):
    r"""The prediction given that the clean sequence satisfies a constraint C: $\hat x_v\, a_i(v)$, normalised.

    A denoiser predicts each token by itself: its law of the sequence is $p(x \mid z) = \prod_i p_i(x_i)$, where
    $p_i(v) \propto \hat x_v\, q_t(z_i \mid v)$ is the posterior. Given the constraint, it is

    $$p(x \mid z, C) \propto C(x) \prod_i p_i(x_i), \qquad p(x_i = v \mid z, C) \propto p_i(v)\, a_i(v), \qquad
    a_i(v) = \sum_{x: x_i = v} C(x) \prod_{j \ne i} p_j(x_j)$$

    The factors $a_i$ come from forward-backward over the states of the automaton. They contain the noisy values of the other
    tokens, as posteriors, and not that of the token itself: so the same factor turns the posterior into the posterior
    given C, and the leave-one-out prediction into $p(x_i = v \mid z_{-i}, C)$. The prediction type is that of the inner
    denoiser.

    If the tokens of the data are independent, these are the exact predictions for data that satisfy C. Otherwise the other
    tokens enter by their marginals, and their dependence on each other is neglected, as it is by the denoiser itself.

    These are marginals: tokens that are drawn in one step independently of each other may violate the constraint together.
    Where one token is drawn at a time, as masks in `FirstHittingSampler`, each has a factor above 0, and every sample
    satisfies the constraint. `ConstrainedSampler` draws the tokens of a step together, with any noise and number of steps.
    Apply truncations (`TopP`, ...) around this wrapper: inside, they may exclude all accepted sequences.

    **Arguments:**

    - `inner`: the denoiser; it is evaluated at all noisy tokens.
    - `automaton`: the constraint, an automaton over the tokens of the process.
    - `process`: the noise process.
    - `start`: the number of leading tokens, such as a prompt, that the constraint does not apply to; one for all sequences,
      or for each.

    **Raises:** `ValueError` if the automaton has another vocabulary than the process, or the denoiser predicts scores. On a
    call, if no accepted sequence has the length of the tokens, or contains those that are certain, or if the
    predictions exclude all of them; the message says which.

    **Source:** forward-backward: Baum et al. (1970); as guidance, $a_i(v) \propto p(C \mid z_{-i}, x_i = v)$ is the classifier
    of Schiff et al. (2024), arXiv 2412.10193, in closed form.

    **Example:** two tokens that are equal, of which one is known to be 1.

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.9, 0.1]), torch.tensor([[0.9, 0.1], [0.9, 0.1]]), process)
    equal = nl.constraints.TokenAutomaton(torch.tensor([[1, 2, -1], [3, -1, -1], [-1, 3, -1], [-1, -1, -1]]), accepting=[3])
    x_hat = nl.denoisers.Constrained(oracle, equal, process)(torch.tensor([[2, 1]]), torch.tensor([0.5])).softmax(-1)
    assert torch.allclose(x_hat[0, 0, :2], torch.tensor([0.0, 1.0]).double())
    ```
    """

    accepts_scores = False

    def __init__(
        self,
        inner: Denoiser,
        automaton: TokenAutomaton,
        process: NoiseProcess,
        start: int | Int[Tensor, " batch"] = 0,
    ):
        super().__init__(inner)
        self.process, self.start = process, start
        self.automaton = require_automaton(automaton, process)
        if isinstance(start, Tensor):
            require_tensor("start", start, "batch", ids=True)
        else:
            require_count("start", start, 0)

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The inner denoiser's logits plus the logarithms of the factors; at least float32."""
        time = as_token_times(t, z).expand(z.shape)
        noisy = ~self.process.is_clean(z, time)
        wanted = torch.ones_like(noisy) if rows is None else rows
        asked = wanted | noisy
        logits = self.inner(z, t, asked)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ours = logits if torch.equal(noisy, asked) else logits[noisy[asked]]
        law = constrained_law(
            self.automaton, self.process, ours, z, time, noisy, as_start(self.start, z), predicts=self.inner.predicts
        )
        factors = law.log_factors()[wanted].to(logits)[:, self.automaton.classes]
        found = factors.add_(logits if torch.equal(wanted, asked) else logits[wanted[asked]])
        return found.view(*z.shape, -1) if rows is None else found

    def extra_repr(self) -> str:
        """The automaton, and where it starts."""
        start = self.start.tolist() if isinstance(self.start, Tensor) else self.start
        return f"{self.automaton}" + (f", start={start}" if start else "")


def constrained_law(
    automaton: TokenAutomaton,
    process: NoiseProcess,
    logits: RowLogits,
    z: Tokens,
    t: TokenTimes,
    noisy: Selection,
    start: Int[Tensor, " batch"],
    *,
    predicts: Prediction = "leave_one_out",
) -> ConstrainedLaw:
    """The law of the clean sequences given the noisy ones and the constraint.

    **Arguments:**

    - `logits`: the prediction at the noisy tokens.
    - `t`: the time of each token, [batch, length].
    - `noisy`: the mask of the tokens that are not certain; the others are their own clean tokens.
    - `start`: the number of leading tokens that the constraint does not apply to.

    **Raises:** `ValueError` if no accepted sequence is possible. This reads from an accelerator.
    """
    own = automaton.classes[z.long()]
    mass = torch.full((*z.shape, automaton.table.shape[1]), -torch.inf, dtype=torch.float64, device=z.device)
    mass.scatter_(-1, own[..., None], 0.0)
    rows = max(1, LOGITS_AT_ONCE // max(1, logits.shape[-1]))
    found = [
        class_mass(automaton, posterior_logits(process, some, tokens, times, predicts))
        for some, tokens, times in zip(logits.split(rows), z[noisy].split(rows), t[noisy].split(rows), strict=True)
    ]
    mass[noisy] = torch.cat(found) if found else mass[noisy]
    law = ConstrainedLaw(automaton, mass, start)
    require_possible(law, z, ~noisy)
    return law


def posterior_logits(
    process: NoiseProcess, logits: RowLogits, z: Tensor, t: Tensor, predicts: Prediction = "leave_one_out"
) -> RowLogits:
    """Posterior logits on the support of the process, float64."""
    return to_posterior(process, process.on_support(logits).double(), z, t, predicts=predicts, check=False)


def require_automaton(automaton: object, process: NoiseProcess) -> TokenAutomaton:
    """A copy of an automaton over the tokens of the process, on its device, or `ValueError`."""
    if not isinstance(automaton, TokenAutomaton):
        raise ValueError(
            f"the constraint must be a noiselab.constraints.TokenAutomaton (noiselab.data.regex_automaton makes one); got "
            f"{type(automaton).__name__}"
        )
    if automaton.vocab_size != process.vocab_size:
        raise ValueError(
            f"the constraint must have the tokens of the process, {process.vocab_size}; got one of {automaton.vocab_size}"
        )
    return copy.deepcopy(automaton).to(process.device)
