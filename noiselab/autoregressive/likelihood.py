r"""The likelihood of a text under a model that backtracks.

There are two semantics; a model is trained for one of them. **Visible**: the model reads the whole stream, including
mistakes and backspaces. **Erasing**: the model reads only the current text, so that a stream is a walk through a tree
of texts. A stream ends when the text has its last token and the next entry is not a backspace.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from ..networks.outputs import logits_of
from ..typing import ElementwiseProbs, Scalar, TokenSequence
from .edits import EditProcess
from .streams import Tree

Semantics: TypeAlias = Literal["visible", "erasing"]
"""Whether mistakes stay in the context of the model ("visible") or are removed ("erasing")."""


def stream_log_probability(
    network: nn.Module,
    edits: EditProcess,
    z: Int[Tensor, " stream"],
    *,
    start: int,
    semantics: Semantics = "visible",
    deep: bool = True,
    ends: bool = False,
) -> Scalar:
    r"""Log p(z) in nats: the probability that a model generates a stream and then keeps the text.

    An empty text has nothing to delete: the backspace then has probability 0.

    **Arguments:**

    - `network`: a causal model, called with `input_ids`, and for the erasing semantics with `attention_mask`, bool [1,
      1, node, node], and `position_ids`; returns logits or an object with `logits`, for at least the tokens of a
      stream.
    - `edits`: the edit process, which defines the backspace and how much it deletes.
    - `z`: the stream.
    - `start`: the token before each text.
    - `semantics`: the context of the model.
    - `deep`: whether a backspace may follow a backspace. Otherwise the backspace has probability 0 right after a
      deletion, so that each token can be deleted only once.
    - `ends`: whether the last token of the text ends it (an end-of-text token), so that nothing needs to follow.

    **Raises:** `ValueError` for unknown semantics.
    """
    if semantics not in ("visible", "erasing"):
        raise ValueError(f"semantics must be 'visible' or 'erasing'; got {semantics!r}")
    tree = edits.tree(z)
    logits = _rows(network, z, tree, start, semantics)[..., : edits.vocab_size].double()
    rows = logits[tree.nodes] if semantics == "erasing" else logits[:-1]
    banned = tree.nodes == 0  # nothing to delete
    if not deep:
        banned |= tree.again
    found = _without(rows, banned, edits.backspace).log_softmax(-1).gather(-1, z[:, None]).sum()
    if ends or not len(z):
        return found
    last = logits[tree.end if semantics == "erasing" else -1]
    return found + torch.log1p(-last.softmax(-1)[edits.backspace])


def edit_bound(
    network: nn.Module,
    edits: EditProcess,
    texts: Sequence[Int[Tensor, " _"]],
    *,
    start: int,
    semantics: Semantics = "visible",
    deep: bool = True,
    ends: bool = False,
    samples: int = 1,
    generator: Generator | None = None,
) -> Float[Tensor, " text"]:
    r"""Estimate an upper bound on -log p(x) from streams that collapse to x.

    $$-\log p(x) \le \mathbb E_{z_s \sim q(z \mid x)} \Big[ -\log \frac 1 S \sum_s \frac{p(z_s)}{q(z_s \mid x)} \Big]$$

    With one sample this is the negative edit ELBO; more samples make it tighter. A model trained without the loss on
    wrong tokens assigns them little probability, so that its bound is loose.

    **Arguments:**

    - `network`, `edits`, `start`, `semantics`, `deep`, `ends`: as for `stream_log_probability`.
    - `texts`: token ids, without the start token.
    - `samples`: the number $S$ of streams per text.
    - `generator`: the source of randomness for the streams.

    **Returns:** nats for each text, float64; their mean over texts is an unbiased estimate of the bound.

    **Raises:** `ValueError` if `samples` is less than 1.

    **Source:** Jensen's inequality; more samples: Burda et al. (2016), arXiv 1509.00519.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    found = []
    with torch.no_grad():
        for x in texts:
            ratios = []
            for _ in range(samples):
                z = edits.corrupt(x, generator=generator)
                log_p = stream_log_probability(
                    network, edits, z, start=start, semantics=semantics, deep=deep, ends=ends
                )
                ratios.append(log_p - edits.log_probability(z, x))
            found.append(torch.stack(ratios).logsumexp(0) - torch.tensor(samples, dtype=torch.float64).log())
    return -torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def committed_law(log_proposal: ElementwiseProbs, log_erased: ElementwiseProbs) -> ElementwiseProbs:
    r"""The distribution of the final token if each proposed token is examined once, and kept or deleted and proposed again.

    $$\log P(v) = \log \pi(v) + \log (1 - b(v)) - \log \sum_w \pi(w) (1 - b(w))$$

    This is rejection sampling. A model trained on mistakes with rate p and distribution nu, including their loss, has
    $\pi = (1 - p) P + p \nu$ and $b = p \nu / \pi$, and its final distribution is exactly P. Trained without this loss,
    $\pi = P$, and the final distribution is proportional to $P^2 / ((1 - p) P + p \nu)$: texts are more likely and less
    diverse. Wrong tokens differ from the right one, so $\nu(v) = \sum_x P(x)\, \nu(v \mid x)$ with $\nu(x \mid x) = 0$.

    **Arguments:**

    - `log_proposal`: $\log \pi$ of tokens without the backspace, up to a constant.
    - `log_erased`: $\log b$, the log-probability that each token is deleted once it is written.

    **Returns:** log P, float64.
    """
    kept = torch.log1p(-log_erased.double().exp())
    return (log_proposal.double() + kept).log_softmax(-1)


def erasing_log_probability(
    network: nn.Module,
    x: TokenSequence,
    *,
    support: int,
    backspace: int,
    start: int,
    ends: bool = False,
    chunk: int = 64,
) -> Scalar:
    """The exact log p(x) of an erasing model that examines each token once (`deep=False`).

    Every possible token is evaluated at each position, `support` times the length of the text, so this is only for
    small vocabularies.

    **Arguments:**

    - `network`, `start`, `ends`: as for `stream_log_probability`.
    - `x`: the text.
    - `support`: texts consist of the tokens 0 to `support` - 1; the model generates only these and the backspace.
    - `backspace`: the id of the backspace.
    - `chunk`: the number of positions evaluated at once.
    """
    length, found = len(x), []
    trunk = torch.cat([x.new_tensor([start]), x])
    below = torch.ones(length + 1, length + 1, dtype=torch.bool, device=x.device).tril()
    with torch.no_grad():
        for first in range(0, length, chunk):
            places = torch.arange(first, min(first + chunk, length), device=x.device)
            leaves = places.repeat_interleave(support)
            nodes = torch.cat([trunk, torch.arange(support, device=x.device).repeat(len(places))])
            mask = torch.zeros(len(nodes), len(nodes), dtype=torch.bool, device=x.device)
            mask[: length + 1, : length + 1] = below
            mask[length + 1 :, : length + 1] = below[leaves]  # a leaf attends to the text before its position
            mask.diagonal().fill_(True)
            positions = torch.cat([torch.arange(length + 1, device=x.device), leaves + 1])
            output = network(input_ids=nodes[None], attention_mask=mask[None, None], position_ids=positions[None])
            logits = logits_of(output)[0].double()
            tokens = torch.cat([logits[:, :support], logits[:, backspace, None]], -1)
            erased = tokens[length + 1 :].log_softmax(-1)[:, -1].view(len(places), support)
            if ends:
                erased[:, x[-1]] = -torch.inf  # it ends the text at any position
            law = committed_law(tokens[places, :support], erased)
            found.append(law.gather(-1, x[places, None])[:, 0])
    return torch.cat(found).sum() if found else torch.zeros((), dtype=torch.float64)


def _rows(network: nn.Module, z: Tensor, tree: Tree, start: int, semantics: Semantics) -> Tensor:
    """Logits after the start token and each entry of the stream, or at each node of its tree."""
    if semantics == "visible":
        output = network(input_ids=torch.cat([z.new_tensor([start]), z])[None])
    else:
        tokens = torch.where(tree.tokens < 0, start, tree.tokens)
        output = network(
            input_ids=tokens[None], attention_mask=tree.ancestors[None, None], position_ids=tree.depths[None]
        )
    return logits_of(output)[0]


def _without(logits: Tensor, where: Tensor, token: int) -> Tensor:
    banned = torch.zeros_like(logits, dtype=torch.bool)
    banned[:, token] = where
    return logits.masked_fill(banned, -torch.inf)
