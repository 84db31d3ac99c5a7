"""The shapes that recur in signatures, by name.

Axes: batch (sequences), length (positions of a sequence), state (tokens of the vocabulary), rows (the selected positions
of a batch, in row-major order). An axis has one size within one call. An integer tensor holds tokens, a Bool tensor
selects. [Shapes](https://docs.kidger.site/jaxtyping/) are checked when the import hook of jaxtyping is on, as it is in
the tests.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens: TypeAlias = Int[Tensor, "batch length"]
"""Token ids, in [0, vocab_size)."""
TokenSequence: TypeAlias = Int[Tensor, " length"]
"""The token ids of one sequence."""
Selection: TypeAlias = Bool[Tensor, "batch length"]
"""Which positions are meant, such as the `rows` that a denoiser evaluates."""
MayAttend: TypeAlias = Bool[Tensor, "#batch query key"]
"""Which tokens (second axis) may attend to which (third axis); one for all sequences, or one for each."""
Positions: TypeAlias = Int[Tensor, "#batch length"]
"""The positions of tokens in the text, which may repeat; one row for all sequences, or one for each."""
PerToken: TypeAlias = Float[Tensor, "batch length"]
"""One number for each position, such as a loss or a weight."""
PerSequence: TypeAlias = Float[Tensor, " batch"]
"""One number for each sequence."""

Times: TypeAlias = Float[Tensor, "..."]
"""Times in [0, 1], 0 clean and 1 noise: [batch], one for each sequence, or [batch, length], one for each token."""
TokenTimes: TypeAlias = Float[Tensor, "batch time"]
"""Times as `as_token_times` makes them: float64, [batch, 1] or [batch, length]."""
Grid: TypeAlias = Float[Tensor, " grid"]
"""The falling times of a walk: N + 1 of them make N steps."""
Elementwise: TypeAlias = Float[Tensor, "*batch"]
"""Times of any shape, or the values that a function of time has there."""
ElementwiseProbs: TypeAlias = Float[Tensor, "*batch state"]
"""A distribution over tokens for each of the times."""

Logits: TypeAlias = Float[Tensor, "batch length state"]
"""Unnormalised log-probabilities over the vocabulary at each position."""
Probs: TypeAlias = Float[Tensor, "batch length state"]
"""Probabilities over the vocabulary at each position, or one number for each token of it."""
RowLogits: TypeAlias = Float[Tensor, "rows state"]
"""Logits of the selected positions only."""
RowTokens: TypeAlias = Int[Tensor, " rows"]
"""The token ids at the selected positions."""
PerRow: TypeAlias = Float[Tensor, " rows"]
"""One number for each selected position, such as its time."""
TokenSet: TypeAlias = Bool[Tensor, " state"]
"""A set of tokens of the vocabulary, such as the support of the data."""
TokenProbs: TypeAlias = Float[Tensor, " state"]
"""One number for each token of the vocabulary, such as its frequency."""
Scalar: TypeAlias = Float[Tensor, ""]
"""A single number."""

Variants: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Settings of a class by name: name for tables -> keyword arguments."""
