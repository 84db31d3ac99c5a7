"""Which positions of a sequence come first: scores of positions, their order, and tokens drawn for them."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..categorical import choose
from ..process import InterpolatingProcess
from ..typing import PerRow, PerToken, RowLogits, RowTokens, Selection, Tokens

OrderScore: TypeAlias = str | Callable[[Tensor, Tensor], Tensor]
"""The score for revealing a position: a name, or a function of log-probabilities [n, state] and drawn tokens [n]."""

BLIND = ("margin", "entropy", "random")  # scores that do not depend on the drawn token
SCORES = ("confidence", *BLIND)


def count_noise(process: InterpolatingProcess, s: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """The mask of tokens without noise at s, and the number of the other `moving` tokens that are noise then."""
    share = process.noise(s).total().masked_fill(s <= process.domain[0], 0)
    return (share == 0).expand(moving.shape), round_share(share, moving)


def round_share(share: Tensor, moving: Tensor) -> Tensor:
    """The number of `moving` tokens that are noise, from their probabilities of noise."""
    # Halves are rounded up, regardless of rounding errors in the sum.
    return ((share * moving).sum(-1) + (0.5 + 1e-9)).long()


def normalize_logits(logits: RowLogits, process: InterpolatingProcess) -> RowLogits:
    """Log-probabilities of data tokens.

    What is nearly certain keeps its digits, which a softmax rounds to certain: sharp predictions would tie, and be revealed
    from left to right.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    off = process.off_support()
    # A copy, modified in place, because each operation is a pass over [rows, state].
    law = logits.clone() if off is None else logits.index_fill(-1, off, -torch.inf)
    top, index = law.max(-1, keepdim=True)
    others = law.sub_(top).scatter_(-1, index, -torch.inf).exp().sum(-1, keepdim=True)
    law.scatter_(-1, index, 0).sub_(others.log1p())
    return law


def normalize_all(logits: RowLogits) -> tuple[RowLogits, PerRow]:
    """Log-probabilities and the largest logit of each row, as `normalize_logits` of logits that are -inf off the support;
    with fewer operations and more memory.
    """
    top, index = logits.max(-1, keepdim=True)
    law = logits - top
    others = law.scatter(-1, index, -torch.inf).exp().sum(-1, keepdim=True)
    return law - others.log1p(), top[:, 0]


def gather_log_probs(log_probs: RowLogits, z: RowTokens) -> PerRow:
    """The log-probability of the token z in each row, float64."""
    return log_probs.gather(-1, z[:, None])[:, 0].double()


def choose_tokens(log_probs: RowLogits, u: PerRow, draw: bool) -> RowTokens:
    """Choose a token of each row: drawn, or the most probable one."""
    return choose(log_probs.exp(), u) if draw else log_probs.argmax(-1)


def scatter_rows(values: PerRow, rows: Selection) -> PerToken:
    """Scatter the values of rows to their positions, with 0 elsewhere."""
    return torch.zeros(rows.shape, dtype=torch.float64, device=rows.device).masked_scatter(rows, values.double())


def rank_positions(score: PerToken, rows: Selection) -> Tokens:
    """Positions from the best score to the worst; those outside `rows` are last, and NaN is worst."""
    return _order_of(score, ~rows)


def _order_of(score: Tensor, outside: Tensor) -> Tensor:
    low = torch.finfo(score.dtype).min
    score = score.nan_to_num(low, neginf=low)
    return score.masked_fill(outside, -torch.inf).argsort(dim=-1, descending=True, stable=True)


def select_best(score: PerToken, rows: Selection, count: Int[Tensor, " batch"]) -> Selection:
    """The `count` best of `rows` in each sequence; ties are broken from left to right."""
    return rows & (rank_positions(score, rows).argsort(-1) < count[:, None])


def select_within(score: PerToken, entropy: PerToken, rows: Selection, bound: float) -> Selection:
    r"""The longest beginning U of the order by score, but at least one, for which
    $\sum_{l \in U} H_l - \max_{l \in U} H_l \le \text{bound}$.

    **Arguments:**

    - `score`: the best first; ties are broken from left to right.
    - `entropy`: H, in nats.
    - `rows`: the positions that may be chosen.
    - `bound`: in nats.
    """
    outside = ~rows
    order = _order_of(score, outside)
    entropies = entropy.masked_fill(outside, torch.inf).gather(-1, order)
    # Of the first 0, and NaN outside of `rows`, which come last: within no bound.
    cost = entropies.cumsum(-1) - entropies.cummax(-1).values
    return order.argsort(-1) < (cost <= bound).sum(-1, keepdim=True)


def select_certain(entropy: PerToken, bound: float) -> Selection:
    """As `select_within` in the order of the entropies, of all positions, with fewer operations.

    **Arguments:**

    - `entropy`: in nats, 0 at positions that come first and cost nothing.
    - `bound`: in nats.
    """
    values, order = entropy.sort(dim=-1, stable=True)
    # Of rising entropies the last is the largest, so that the cost rises, too.
    within = values.cumsum(-1) - values <= bound
    return within.scatter(-1, order, within)


def compute_entropy(log_probs: RowLogits) -> PerRow:
    """The entropy of each row in nats, float64."""
    return -sum_of_logs(log_probs, log_probs.exp())


def sum_of_logs(log_probs: RowLogits, probs: RowLogits) -> PerRow:
    r"""$\sum_v p_v \log p_v$ of each row in nats, float64: the negative entropy."""
    return (probs * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1, dtype=torch.float64)


def score_positions(score: OrderScore, log_probs: Tensor, drawn: Tensor) -> PerRow:
    """The score of each row, of the dtype of the log-probabilities or float64."""
    if callable(score):
        value = score(log_probs, drawn)
        if not isinstance(value, Tensor) or value.shape != drawn.shape:
            came = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"score must return one number for each position, {list(drawn.shape)}; got {came}")
        return value.double()
    if score == "confidence":
        return log_probs.gather(-1, drawn[:, None])[:, 0]
    if score == "entropy":
        return sum_of_logs(log_probs, log_probs.exp())
    first, second = log_probs.topk(2, -1).values.double().unbind(-1)
    return first + torch.log1p(-(second - first).exp())


def draw_gumbel(u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Gumbel noise from uniform numbers in [0, 1), float64."""
    return -(-u.clamp(min=2**-54).log()).log()
