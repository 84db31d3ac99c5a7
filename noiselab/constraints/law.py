r"""The law of independent tokens given that an automaton accepts the sequence, by forward-backward over its states.

With $p(x) = \prod_i p_i(x_i)$ and the set C of accepted sequences, from the messages

    forward     f_0 = 1[start]       f_{i+1}(s') = sum_{s, v: s -v-> s'} f_i(s) p_i(v)
    backward    g_L = 1[accepting]   g_i(s)      = sum_v p_i(v) g_{i+1}(delta(s, v))

the factor of token v at position i is $a_i(v) = \sum_s f_i(s)\, g_{i+1}(\delta(s, v))$, and
$p(x_i = v \mid C) \propto p_i(v)\, a_i(v)$. The factor does not contain $p_i$ itself.

All messages are logarithms in float64: probabilities of whole sequences are below the range of floating-point numbers.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import choose
from ..numerics import LOGITS_AT_ONCE
from ..typing import PerSequence, RowLogits
from .automaton import TokenAutomaton


class ConstrainedLaw:
    r"""The law of independent tokens given that an automaton accepts the sequence: $p(x) \propto C(x) \prod_i p_i(x_i)$.

    One pass over the positions takes a sum over the transitions between states, which are counted once for all tokens of the
    same class.

    **Arguments:**

    - `automaton`: the automaton, on the device of the probabilities.
    - `log_mass`: the log-probability of each class of tokens at each position, float64 (`class_mass`).
    - `start`: the number of leading tokens of each sequence that the automaton does not read.

    **Source:** Baum et al. (1970) for the recursions; drawing backwards through stored messages, Carter and Kohn (1994).

    **Example:** two fair bits of which one at least is 1.

    ```python
    import torch
    from noiselab.constraints import TokenAutomaton
    from noiselab.constraints.law import ConstrainedLaw, class_mass

    some = TokenAutomaton(torch.tensor([[0, 1], [1, 1]]), accepting=[1])
    fair = torch.full((2, 2), 0.5).double().log()
    law = ConstrainedLaw(some, class_mass(some, fair)[None], torch.zeros(1, dtype=torch.long))
    assert torch.allclose(law.log_total.exp(), torch.tensor([0.75]).double())
    share = (fair + law.log_factors()[0][:, some.classes]).softmax(-1)
    assert torch.allclose(share[0], torch.tensor([1 / 3, 2 / 3]).double())
    ```
    """

    def __init__(
        self, automaton: TokenAutomaton, log_mass: Float[Tensor, "batch length classes"], start: Int[Tensor, " batch"]
    ):
        self.automaton, self.log_mass, self.start = automaton, log_mass, start
        label, member = automaton.members.unbind(1)
        self._label_mass = log_sum_of(log_mass, member, label, automaton.labels)
        last = torch.where(automaton.accepting, 0.0, -torch.inf).to(log_mass)
        behind = [last.expand(len(log_mass), -1)]
        for i in reversed(range(log_mass.shape[1])):
            source, after, label = automaton.pairs.unbind(1)
            sums = log_sum_at(behind[-1][:, after] + self._label_mass[:, i, label], source, automaton.states)
            behind.append(torch.where((i < start)[:, None], behind[-1], sums))
        self.behind = behind[::-1]

    @property
    def log_total(self) -> PerSequence:
        """The log-probability that the sequence is accepted; -inf if it is impossible."""
        return self.behind[0][:, self.automaton.start]

    def log_factors(self) -> Float[Tensor, "batch length classes"]:
        """The factor of each class at each position, as logarithms with maximum 0; -inf where no accepted sequence has it."""
        automaton, found = self.automaton, []
        source, after, label = automaton.pairs.unbind(1)
        ahead = torch.full_like(self.behind[0], -torch.inf)
        ahead[:, automaton.start] = 0
        for i in range(self.log_mass.shape[1]):
            joined = log_sum_at(ahead[:, source] + self.behind[i + 1][:, after], label, automaton.labels)
            joined = joined - joined.amax(-1, keepdim=True).nan_to_num(neginf=0) if automaton.labels else joined
            found.append(joined)
            sums = log_sum_at(ahead[:, source] + self._label_mass[:, i, label], after, automaton.states)
            ahead = torch.where((i < self.start)[:, None], ahead, sums)
        labels, member = automaton.members.unbind(1)
        by_label = torch.stack(found, 1) if found else self._label_mass
        factors = log_sum_of(by_label, labels, member, self.log_mass.shape[-1])
        place = torch.arange(factors.shape[1], device=factors.device)
        return torch.where((place < self.start[:, None])[..., None], 0.0, factors)

    def draw_classes(self, u: Float[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """The class of each token of a sequence drawn from the law, from one uniform number each."""
        state = torch.full_like(self.start, self.automaton.start)
        drawn = []
        for i in range(self.log_mass.shape[1]):
            after = self.automaton.table[state]
            weight = torch.nn.functional.pad(self.behind[i + 1], (0, 1), value=-torch.inf).gather(-1, after)
            free = i < self.start
            weight = self.log_mass[:, i] + torch.where(free[:, None], 0.0, weight)
            chosen = choose((weight - weight.amax(-1, keepdim=True)).exp(), u[:, i])
            state = torch.where(free, state, after.gather(-1, chosen[:, None])[:, 0])
            drawn.append(chosen)
        return torch.stack(drawn, 1) if drawn else torch.zeros(u.shape, dtype=torch.long, device=u.device)


def class_mass(automaton: TokenAutomaton, logits: RowLogits) -> Float[Tensor, "rows classes"]:
    """The log-probability of each class of tokens, float64, from the logits of each row."""
    return log_sum_at(logits.double().log_softmax(-1), automaton.classes, automaton.table.shape[1])


def log_sum_at(values: Float[Tensor, "*batch n"], index: Int[Tensor, " n"], size: int) -> Float[Tensor, "*batch m"]:
    """The logarithms of sums of exponentials of the values with the same index; -inf where there is none.

    **Arguments:**

    - `values`: logarithms; -inf is valid.
    - `index`: the sum to which each value belongs, in [0, size).
    """
    flat = values.reshape(-1, values.shape[-1])
    rows = max(1, LOGITS_AT_ONCE // max(1, flat.shape[-1]))
    parts = [_sum_rows(part, index, size) for part in flat.split(rows)]
    return torch.cat(parts).view(*values.shape[:-1], size)


def _sum_rows(values: Tensor, index: Tensor, size: int) -> Tensor:
    most = values.new_full((len(values), size), -torch.inf)
    most = most.scatter_reduce(-1, index.expand(values.shape), values, "amax").nan_to_num(neginf=0.0)
    sums = torch.zeros_like(most).index_add(-1, index, (values - most[:, index]).exp())
    return sums.log() + most


def log_sum_of(
    values: Float[Tensor, "batch length n"], pick: Int[Tensor, " m"], index: Int[Tensor, " m"], size: int
) -> Float[Tensor, "batch length k"]:
    """`log_sum_at` of `values[..., pick]`, of which only a part is stored at a time."""
    flat = values.reshape(-1, values.shape[-1])
    rows = max(1, LOGITS_AT_ONCE // max(1, len(pick)))
    parts = [_sum_rows(part[:, pick], index, size) for part in flat.split(rows)]
    return torch.cat(parts).view(*values.shape[:-1], size)
