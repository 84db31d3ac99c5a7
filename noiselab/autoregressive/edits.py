"""Edit processes, the noise of autoregressive models: errors in a text, each followed by backspaces that delete it."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Int
from torch import Generator, Tensor

from ..typing import Scalar, TokenSequence
from .streams import Tree, one_token, tree_of


class EditProcess(ABC):
    r"""A distribution $q(z \mid x)$ of streams $z$ that collapse to a text $x$: errors, each followed by backspaces.

    Errors are the noise of an autoregressive model, as masks and random tokens are that of a diffusion model: the model
    learns to remove them. A stream of tokens and backspaces collapses to one text, so the probability of a text under a
    model of streams is bounded as in diffusion,

    $$-\log p(x) = -\log \sum_{z \to x} p(z) \le \mathbb E_{q(z \mid x)} [\log q(z \mid x) - \log p(z)].$$

    A subclass writes three methods: `corrupt`, `log_probability` and `expected_length`. `reach` defines how much a backspace
    deletes, one token unless it is overridden.

    **Arguments:**

    - `vocab_size`: the number of tokens of a stream, the backspace included.
    - `backspace`: the token that deletes. No text contains it.

    **Raises:** `ValueError` if the backspace is out of range.

    **Source:** the noise: Ye et al. (2024), arXiv 2408.16293, section 4; the bound is Jensen's inequality.
    """

    def __init__(self, vocab_size: int, backspace: int) -> None:
        if not 0 <= backspace < vocab_size:
            raise ValueError(f"backspace must be one of {vocab_size} tokens; got {backspace}")
        self.vocab_size, self.backspace = vocab_size, backspace

    @abstractmethod
    def corrupt(self, x: TokenSequence, *, generator: Generator | None = None) -> Int[Tensor, " stream"]:
        """Draw a stream that collapses to a text.

        **Arguments:**

        - `x`: the text. Errors are inserted before its tokens.
        - `generator`: all randomness.
        """

    @abstractmethod
    def log_probability(self, z: Int[Tensor, " stream"], x: TokenSequence) -> Scalar:
        """Log q(z | x) in nats, float64; minus infinity for streams that are never drawn for `x`."""

    @abstractmethod
    def expected_length(self, x: TokenSequence) -> float:
        """The mean length of a stream that collapses to `x`."""

    def reach(self, text: list[int]) -> int:
        """The number of tokens that a backspace leaves of a text, which is not empty."""
        return one_token(text)

    def tree(self, z: Int[Tensor, " stream"]) -> Tree:
        """The tree of a stream."""
        return tree_of(z, self.backspace, self.reach)

    def clean(self, z: Int[Tensor, " stream"]) -> TokenSequence:
        """The text that a stream collapses to. A backspace on an empty text does nothing."""
        return self.tree(z).text

    def wrong(self, z: Int[Tensor, " stream"]) -> Bool[Tensor, " stream"]:
        """Which entries of a stream are tokens that are deleted later."""
        return self.tree(z).wrong

    def check_text(self, x: TokenSequence) -> None:
        """Check that a text can be corrupted.

        **Raises:** `ValueError` for a text with a backspace, or tokens out of range.
        """
        if len(x) and not 0 <= int(x.min()) <= int(x.max()) < self.vocab_size:
            raise ValueError(f"tokens must lie in [0, {self.vocab_size}); got {int(x.min())} to {int(x.max())}")
        if (x == self.backspace).any():
            raise ValueError(f"a text must not contain the backspace, {self.backspace}; got one that does")
