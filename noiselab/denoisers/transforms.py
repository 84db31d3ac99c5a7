"""Transforms of the prediction: temperature, truncation, support. Each wraps a denoiser.

All act on x_hat; the effect of truncating the reverse transition would depend on the number of steps. Truncation always
keeps the most probable token, so that every row has mass.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ..numerics import TEMPERATURES, mask_off_support, require_count, require_number, require_token_set
from ..typing import PerRow, RowLogits, RowTokens, TokenSet
from .base import Denoiser, Transform
from .conversions import LeaveOneOut, Posterior, Score, as_leave_one_out

__all__ = [
    "LeaveOneOut",
    "MinP",
    "Posterior",
    "Score",
    "Support",
    "Suppress",
    "Temperature",
    "TopK",
    "TopP",
    "as_leave_one_out",
]


class Temperature(Transform):
    """Logits divided by a temperature.

    **Arguments:**

    - `temperature`: in [1e-20, 1e20]; values below 1 sharpen the prediction.

    **Raises:** `ValueError` for a temperature out of range.
    """

    def __init__(self, inner: Denoiser, temperature: float | int):
        super().__init__(inner)
        self.temperature = require_number("temperature", temperature, *TEMPERATURES)

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """Logits / temperature; at least float32, because low temperatures overflow half precision."""
        return logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.temperature:g}"


class TopK(Transform):
    """Keeps the k most probable tokens, and all tokens with the probability of the k-th.

    **Arguments:**

    - `k`: at least 1; values of at least the vocabulary size have no effect.

    **Raises:** `ValueError` if k is less than 1.

    **Source:** Fan et al. (2018), arXiv 1805.04833.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=4, mask_id=3)
    law = torch.tensor([0.5, 0.25, 0.25])
    oracle = nl.MarkovOracle(law, torch.eye(3), process)
    x_hat = nl.denoisers.TopK(oracle, 2)(torch.tensor([[3]]), torch.ones(1)).softmax(-1)
    assert torch.allclose(x_hat[0, 0, :3], law.double())  # equal tokens stay together
    ```
    """

    def __init__(self, inner: Denoiser, k: int):
        super().__init__(inner)
        self.k = require_count("k", k)

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """Less probable tokens than the k-th get no mass."""
        if self.k >= logits.shape[-1]:
            return logits
        last = logits.topk(self.k, -1).values[:, -1:]
        return logits.masked_fill(logits < last, -torch.inf)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.k}"


class TopP(Transform):
    """Keeps the smallest set of most probable tokens whose mass reaches p, including the token that crosses p.

    **Arguments:**

    - `p`: in (0, 1].

    **Source:** Holtzman et al. (2020), arXiv 1904.09751.
    """

    def __init__(self, inner: Denoiser, p: float | int):
        super().__init__(inner)
        self.p = require_number("p", p, 0, 1, above=True)

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """Tokens after the crossing one get no mass."""
        if self.p == 1:
            return logits
        # Sorted before the softmax, which may round the two most probable tokens to the same value.
        logits_down, index = logits.to(torch.promote_types(logits.dtype, torch.float32)).sort(-1, descending=True)
        value = logits_down.softmax(-1)
        # Float32 probabilities do not add up to 1 exactly.
        drop = value.cumsum(-1, dtype=torch.float64) - value >= self.p * value.sum(
            -1, keepdim=True, dtype=torch.float64
        )
        return logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.p:g}"


class MinP(Transform):
    """Keeps tokens that are at least p times as probable as the most probable one.

    **Arguments:**

    - `p`: in [0, 1].

    **Source:** Nguyen et al. (2024), arXiv 2407.01082.
    """

    def __init__(self, inner: Denoiser, p: float | int):
        super().__init__(inner)
        self.p = require_number("p", p, 0, 1)
        self.log_p = torch.tensor(self.p, dtype=torch.float64).log().item()

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """The others get no mass."""
        # In half precision the threshold itself would be rounded.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.masked_fill(wide < wide.amax(-1, keepdim=True) + self.log_p, -torch.inf)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.p:g}"


class Support(Transform):
    """Restricts predictions to some tokens.

    **Arguments:**

    - `support`: the tokens that keep their mass, Bool [state]; at least one.
    """

    support: Tensor

    def __init__(self, inner: Denoiser, support: TokenSet):
        super().__init__(inner)
        if not require_token_set("support", support).any():
            raise ValueError("support must contain at least one token; got none")
        self.register_buffer("support", support)

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """The others get no mass."""
        return mask_off_support(logits, self.support)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{int(self.support.sum())} of {len(self.support)} tokens"


class Suppress(Transform):
    """Excludes some tokens from predictions, as the complement of `Support`.

    Samplers exclude the mask themselves. At least one token of the data must remain.

    **Arguments:**

    - `tokens`: the ids of the tokens that get no mass.

    **Raises:** `ValueError` for a token that is negative or not a whole number; on the first call, for one outside the
    vocabulary, or if none remains.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=4, mask_id=3)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.3, 0.2]), torch.eye(3), process)
    x_hat = nl.denoisers.Suppress(oracle, [1])(torch.tensor([[3]]), torch.ones(1)).softmax(-1)
    assert torch.allclose(x_hat[0, 0, :3], torch.tensor([5 / 7, 0, 2 / 7]).double())
    ```
    """

    tokens: Tensor

    def __init__(self, inner: Denoiser, tokens: Sequence[int] | Int[Tensor, " tokens"]):
        super().__init__(inner)
        ids = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        if not isinstance(ids, Sequence):
            raise ValueError(f"tokens must be a sequence of ids; got {tokens!r}")
        every = sorted({require_count("each of tokens", token, 0) for token in ids})
        # Stored, because reading the tensor would synchronize with a GPU.
        self.count, self.largest = len(every), max(every, default=-1)
        self.register_buffer("tokens", torch.tensor(every, dtype=torch.long))

    def edit(self, logits: RowLogits, z: RowTokens, t: PerRow) -> RowLogits:
        """These get no mass."""
        states = logits.shape[-1]
        if self.largest >= states or self.count == states:
            raise ValueError(
                f"tokens must lie in [0, {states}) and leave one of them; got {self.count}, the largest {self.largest}"
            )
        return logits.index_fill(-1, self.tokens.to(logits.device), -torch.inf)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.count} token{'s' * (self.count != 1)}"
