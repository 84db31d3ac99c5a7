"""Two models on the same texts: the paired difference of their log-likelihoods, with its confidence interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..numerics import require_count
from .intervals import Interval, interval


@dataclass(frozen=True)
class TextScores:
    r"""The negative log-likelihood of some texts under a model.

    **Arguments:**

    - `name`: that of the model.
    - `texts`: a key of each text, such as a hash, by which two evaluations know that they are of the same texts.
    - `nats`: of each text as a whole: $-\log p$ or a bound on it.
    - `tokens`, `sizes`: its number of scored tokens, and of bytes.
    - `tokenizer`: a key of the tokenizer.
    - `bound`: whether the values are upper bounds, or exact.
    - `noise`: what the noise depends on, such as the seed; only to say whether it was the same.

    **Raises:** `ValueError` unless there is a value of each kind for each text, finite, with at least one token.
    """

    name: str
    texts: Sequence[str]
    nats: Sequence[float]
    tokens: Sequence[int]
    sizes: Sequence[int]
    tokenizer: str
    bound: bool = True
    noise: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {len(column) for column in (self.texts, self.nats, self.tokens, self.sizes)}
        if len(counts) != 1:
            raise ValueError(f"{self.name} must have one value of each kind for each text; got {sorted(counts)}")
        for i, nats in enumerate(self.nats):
            require_count(f"tokens of text {i}", self.tokens[i])
            require_count(f"bytes of text {i}", self.sizes[i], 0)
            if not math.isfinite(nats):
                raise ValueError(f"nats of {self.name} must be finite; text {i} has {nats}")


@dataclass(frozen=True)
class Comparison:
    """The difference of two models on the same texts, first minus second: negative where the first is better.

    **Arguments:**

    - `unit`: "nats per token", or "bits per byte" for unlike tokenizers.
    - `first`, `second`: the value of each text under each model, in this unit.
    - `difference`: the mean of their differences over texts, and half of its paired 95 % confidence interval.
    - `error`: the standard error of that mean.
    - `same_noise`: whether both are bounds that were estimated with the same seed and settings.
    """

    unit: str
    first: tuple[float, ...]
    second: tuple[float, ...]
    difference: Interval
    error: float
    same_noise: bool

    @property
    def differences(self) -> tuple[float, ...]:
        """The difference of each text."""
        return tuple(a - b for a, b in zip(self.first, self.second, strict=True))


def compare_texts(first: TextScores, second: TextScores) -> Comparison:
    r"""Compare two models text by text.

    $$d_i = r_i^{(1)} - r_i^{(2)}, \qquad \bar d \pm t_{n-1}\, s_d / \sqrt n$$

    The value $r_i$ of a text is in nats per token, or, if the tokenizers differ, in bits per byte. Each text counts once,
    however long it is. Texts are taken as independent. What makes a text hard for both is not in the interval.

    **Arguments:**

    - `first`, `second`: of the same texts in the same order.

    **Returns:** the mean difference, with the half-width from Student's t.

    **Raises:** `ValueError` for other texts, other tokens of the same tokenizer, or fewer than two texts.

    **Example:**

    ```python
    from noiselab.evaluation import TextScores, compare_texts

    texts, sizes = ["x", "y", "z"], {"tokens": [10, 10, 20], "sizes": [40, 50, 90], "tokenizer": "same"}
    found = compare_texts(
        TextScores("new", texts, [20.0, 30.0, 50.0], **sizes), TextScores("old", texts, [21.0, 32.0, 56.0], **sizes)
    )
    assert found.unit == "nats per token" and abs(found.difference.mean - (-0.2)) < 1e-9
    ```
    """
    if list(first.texts) != list(second.texts):
        shared = len(set(first.texts) & set(second.texts))
        raise ValueError(
            f"both evaluations must be of the same texts in the same order; {first.name} has {len(first.texts)}, "
            f"{second.name} {len(second.texts)}, of which {shared} are the same (windows of joined texts are the same for one "
            "tokenizer only: evaluate with --per-text)"
        )
    if len(first.texts) < 2:
        raise ValueError(
            f"there must be at least two texts, for an interval; got {len(first.texts)} (a plain text file is one text; "
            "JSON Lines have one in each line)"
        )
    alike = first.tokenizer == second.tokenizer
    if alike and list(first.tokens) != list(second.tokens):
        raise ValueError(
            f"both evaluations must score the same tokens; {first.name} has {sum(first.tokens)}, {second.name} "
            f"{sum(second.tokens)} (an autoregressive model scores the first token with --per-text only)"
        )
    rates = [_rates(one, alike) for one in (first, second)]
    differences = [a - b for a, b in zip(*rates, strict=True)]
    found = interval(differences)
    mean, count = found.mean, len(differences)
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1) / count)
    same = first.bound and second.bound and bool(first.noise) and dict(first.noise) == dict(second.noise)
    return Comparison(
        "nats per token" if alike else "bits per byte", tuple(rates[0]), tuple(rates[1]), found, error, same
    )


def _rates(scores: TextScores, per_token: bool) -> list[float]:
    if per_token:
        return [nats / count for nats, count in zip(scores.nats, scores.tokens, strict=True)]
    if 0 in scores.sizes:
        raise ValueError(
            f"texts must have bytes, to be compared in bits per byte; text {scores.sizes.index(0)} has none"
        )
    return [nats / math.log(2) / count for nats, count in zip(scores.nats, scores.sizes, strict=True)]
