r"""How likely a text is under a model that takes things back.

Two semantics, never mixed. **Visible**: the model reads all that was written, mistakes and backspaces too. **Erasing**: it
reads the text that is left, so that a stream is a walk through a tree of texts. A stream ends when the text has its last
token and the next entry is no backspace.
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
"""Whether mistakes stay before the eyes of the model, or are gone."""


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
    r"""Log p(z) in nats: that a model writes a stream, and then lets the text stand.

    Nothing can be taken back of an empty text: there the backspace has no probability.

    **Arguments:**

    - `network`: a causal model, called with `input_ids`, and for the erasing semantics with `attention_mask`, bool
      [1, 1, node, node], and `position_ids`; returns logits or something that has them, of at least the tokens of a stream.
    - `edits`: says what the backspace is and how far it reaches.
    - `z`: the stream.
    - `start`: the token before each text.
    - `semantics`: what the model reads.
    - `deep`: whether a backspace may follow a backspace. Otherwise the model is asked without it when something was just
      taken back, and single tokens stand once they have been looked at.
    - `ends`: whether the last token of the text ends it (an end-of-text token), so that nothing needs to follow.

    **Raises:** `ValueError` for a semantics there is not.
    """
    if semantics not in ("visible", "erasing"):
        raise ValueError(f"semantics must be 'visible' or 'erasing'; got {semantics!r}")
    tree = edits.tree(z)
    logits = _rows(network, z, tree, start, semantics)[..., : edits.vocab_size].double()
    rows = logits[tree.nodes] if semantics == "erasing" else logits[:-1]
    banned = tree.nodes == 0  # nothing to take back
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
    r"""An upper bound on -log p(x), from streams that come to x.

    $$-\log p(x) \le \mathbb E_{z_s \sim q(z \mid x)} \Big[ -\log \frac 1 S \sum_s \frac{p(z_s)}{q(z_s \mid x)} \Big]$$

    With one sample this is the edit ELBO; more make it tighter. A model trained without the loss of wrong tokens has a poor
    bound, since it gives them no probability: that is no fault of the bound.

    **Arguments:**

    - `network`, `edits`, `start`, `semantics`, `deep`, `ends`: as for `stream_log_probability`.
    - `texts`: token ids, without the start token.
    - `samples`: $S$, streams per text.
    - `generator`: of the streams.

    **Returns:** nats for each text, float64; a mean of them over texts is an unbiased estimate of the bound.

    **Raises:** `ValueError` for fewer than one sample.

    **Source:** Jensen's inequality; more samples: Burda et al. (2016), arXiv 1509.00519.
    """
    if samples < 1:
        raise ValueError(f"at least one sample is needed; got {samples}")
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
    r"""The law of the token that stays, where a token is proposed, looked at once, and kept or erased for another.

    $$\log P(v) = \log \pi(v) + \log (1 - b(v)) - \log \sum_w \pi(w) (1 - b(w))$$

    This is rejection sampling. A model trained on mistakes of rate p and law nu, with their loss, has
    $\pi = (1 - p) P + p \nu$ and $b = p \nu / \pi$, and keeps exactly P; trained without it, $\pi = P$, it keeps
    $P^2 / ((1 - p) P + p \nu)$ up to a factor: likelier texts, less varied ones.

    **Arguments:**

    - `log_proposal`: $\log \pi$, of tokens alone, backspace excluded; up to a constant.
    - `log_erased`: $\log b$ of each token, once it stands there.

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
    """Log p(x), exactly, of an erasing model that looks at each token once (`deep=False`).

    Every token that could stand in each place is looked at, `support` times the length of the text: for small
    vocabularies.

    **Arguments:**

    - `network`, `start`, `ends`: as for `stream_log_probability`.
    - `x`: the text.
    - `support`: texts are made of the tokens 0 to `support` - 1; the model may write no other but the backspace.
    - `backspace`: the token that takes back.
    - `chunk`: places at once.
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
            mask[length + 1 :, : length + 1] = below[leaves]  # a leaf sees the text before its place
            mask.diagonal().fill_(True)
            positions = torch.cat([torch.arange(length + 1, device=x.device), leaves + 1])
            output = network(input_ids=nodes[None], attention_mask=mask[None, None], position_ids=positions[None])
            logits = logits_of(output)[0].double()
            tokens = torch.cat([logits[:, :support], logits[:, backspace, None]], -1)
            erased = tokens[length + 1 :].log_softmax(-1)[:, -1].view(len(places), support)
            if ends:
                erased[:, x[-1]] = -torch.inf  # it ends the text, wherever it is written
            law = committed_law(tokens[places, :support], erased)
            found.append(law.gather(-1, x[places, None])[:, 0])
    return torch.cat(found).sum() if found else torch.zeros((), dtype=torch.float64)


def _rows(network: nn.Module, z: Tensor, tree: Tree, start: int, semantics: Semantics) -> Tensor:
    """Logits after each entry of the stream, the start first; or at each node of its tree."""
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
