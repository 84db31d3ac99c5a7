"""Noise from embeddings: replacement by similar tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..numerics import require_count, require_number, require_tensor
from ..typing import TokenProbs, TokenSet
from .fixed import check_support

SIMILARITIES_AT_ONCE = 1 << 24  # entries [rows, state] held: 64 MiB


def nearest_neighbours(
    embeddings: Float[Tensor, "state width"], k: int, support: TokenSet | None = None
) -> tuple[Int[Tensor, "state k"], Float[Tensor, "state k"]]:
    r"""The k tokens most similar to each token, by the cosine of their embeddings; never the token itself.

    $$\cos(x, z) = \frac{e_x \cdot e_z}{|e_x|\,|e_z|}$$

    Rows are computed in chunks, so the matrix [state, state] is never stored.

    **Arguments:**

    - `embeddings`: one vector for each token, for example the input embeddings of a trained model. The
      cosines of a zero vector are 0.
    - `k`: the number of neighbours, at least 1.
    - `support`: the tokens that may be neighbours, Bool of shape [state]; `None` for all of them. Tokens outside it
      also have neighbours, all inside it.

    **Returns:** the ids of the neighbours, the most similar first, and their cosines, at least float32.

    **Raises:** `ValueError` if there are fewer than k other tokens, or an embedding is not finite.

    **Example:**

    ```python
    import torch
    from noiselab.mixing import nearest_neighbours

    index, cosine = nearest_neighbours(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), k=1)
    assert index[:, 0].tolist() == [1, 0, 1]
    ```
    """
    states = len(require_tensor("embeddings", embeddings, "state", "width", finite=False))
    if support is None:
        support = torch.ones(states, dtype=torch.bool)
    check_support(support, states)
    candidates = support.to(embeddings.device).nonzero()[:, 0]
    # A token of the support cannot be its own neighbour, so it has one candidate fewer.
    if not 1 <= require_count("k", k) < len(candidates):
        raise ValueError(f"k must lie in [1, {len(candidates) - 1}], the other tokens of the support; got {k}")
    vectors = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
    if not vectors.isfinite().all():
        token = int((~vectors.isfinite()).any(-1).nonzero()[0])
        raise ValueError(f"embeddings must be finite; got {vectors[token].tolist()[:3]} ... for token {token}")
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    others = vectors if len(candidates) == states else vectors[candidates]
    index = torch.empty(states, k, dtype=torch.long, device=vectors.device)
    cosine = vectors.new_empty(states, k)
    rows = max(1, SIMILARITIES_AT_ONCE // len(candidates))
    place = torch.full((states,), -1, device=vectors.device).index_copy(
        0, candidates, torch.arange(len(candidates), device=vectors.device)
    )
    for i in range(0, states, rows):
        chunk = vectors[i : i + rows] @ others.T
        # A token must not be its own neighbour.
        own = (place[i : i + rows] >= 0).nonzero()[:, 0]
        chunk[own, place[i : i + rows][own]] = -torch.inf
        cosine[i : i + rows], nearest = chunk.topk(k, dim=-1)
        index[i : i + rows] = candidates[nearest]
    return index, cosine


def neighbour_row(
    embeddings: Float[Tensor, "state width"],
    *,
    neighbours: int,
    frequencies: TokenProbs | None = None,
    support: TokenSet | None = None,
    temperature: float | int = 0.1,
) -> TokenProbs:
    r"""The distribution of a random neighbour of a random token: a fixed row, for `Unigram`.

    $$\pi(z) = \sum_x f_x\, \frac{e^{\cos(x, z) / \tau}\, 1[z \in N_k(x)]}{\sum_{y \in N_k(x)} e^{\cos(x, y) / \tau}}$$

    Hubs, the tokens close to many others, get more mass than their frequency; a token that is nobody's neighbour gets
    none. The row does not depend on the token that is replaced, so the rates do not either, and the fast bound applies.

    **Arguments:**

    - `embeddings`: one vector for each token.
    - `neighbours`: k, the number of neighbours of each token.
    - `frequencies`: $f$, non-negative; normalised over the support. `None`: all tokens are equally frequent.
    - `support`: the tokens that data consist of, Bool of shape [state]; only they are replaced, and only by each other.
    - `temperature`: $\tau$ > 0, in units of the cosine; large ones make the neighbours of a token equally likely.

    **Returns:** a distribution in float64.

    **Raises:** `ValueError` for arguments outside these ranges, or as `nearest_neighbours`.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    embeddings = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    words = nl.mixing.support_without(6, 5)
    row = nl.mixing.neighbour_row(embeddings, neighbours=2, support=words)
    process = nl.Interpolation(1 - nl.t, {nl.Absorbing(5, 6): nl.t, nl.Unigram(row, support=words): 0.2 * nl.t})
    ```
    """
    temperature = require_number("temperature", temperature, 0, above=True)
    index, cosine = nearest_neighbours(embeddings, neighbours, support)
    weight = torch.ones(len(index), dtype=torch.float64, device=index.device)
    if frequencies is not None:
        if require_tensor("frequencies", frequencies, "state", finite=False).shape != weight.shape:
            raise ValueError(f"frequencies must have shape {list(weight.shape)}; got {list(frequencies.shape)}")
        weight = frequencies.detach().to(weight)
    if support is not None:
        weight = torch.where(support.to(weight.device), weight, 0)
    if not ((weight >= 0) & weight.isfinite()).all() or weight.sum() == 0:
        raise ValueError(
            f"frequencies must be non-negative, and not all zero on the support; got smallest {weight.min().item():.3g}, "
            f"sum {weight.sum().item():.6g}"
        )
    share = weight[:, None] / weight.sum() * (cosine.double() / temperature).softmax(-1)
    return torch.zeros_like(weight).scatter_add(0, index.flatten(), share.flatten())
