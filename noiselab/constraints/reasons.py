"""Why a constraint cannot be met, in words."""

import torch
from torch import Tensor

from ..typing import Selection, Tokens
from .automaton import TokenAutomaton
from .law import ConstrainedLaw


def require_possible(law: ConstrainedLaw, z: Tokens, given: Selection) -> None:
    """Raise `ValueError` if no accepted sequence is possible in one of a batch.

    **Arguments:**

    - `law`: the law of the batch.
    - `z`: its tokens.
    - `given`: the mask of those that are certain.
    """
    bad = law.log_total.isneginf()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(_reason(law.automaton, z[row], given[row], int(law.start[row])))


def _reason(automaton: TokenAutomaton, z: Tensor, given: Tensor, start: int) -> str:
    length = len(z) - start
    if not automaton.fits(length):
        least = automaton.shortest
        known = f"the shortest has {least}" if length < least else "others have other numbers of tokens"
        more = f" after the first {start}" if start else ""
        return f"the constraint must accept a sequence of {length} tokens{more}; it accepts none: {known}"
    for i in range(start, len(z)):
        fewer = given & (torch.arange(len(z), device=z.device) <= i)
        if not _possible(automaton, z, fewer, start):
            return f"given tokens must fit the constraint; token {int(z[i])} at position {i}, with those before it, does not"
    return (
        "the prediction must allow a sequence that the constraint accepts; it excludes all that contain the tokens already "
        "given (by top_k, top_p, min_p or a support, or because tokens of one step were drawn independently of each other)"
    )


def _possible(automaton: TokenAutomaton, z: Tensor, given: Tensor, start: int) -> bool:
    """Whether some accepted sequence has the given tokens."""
    classes = automaton.table.shape[1]
    log_mass = torch.zeros(1, len(z), classes, dtype=torch.float64, device=z.device)
    certain = torch.full_like(log_mass, -torch.inf).scatter(-1, automaton.classes[z.long()][None, :, None], 0.0)
    law = ConstrainedLaw(
        automaton, torch.where(given[None, :, None], certain, log_mass), torch.tensor([start], device=z.device)
    )
    return not bool(law.log_total.isneginf())
