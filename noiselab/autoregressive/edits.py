"""Edit processes: noise for autoregressive models, mistakes in a text that are taken back."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Int
from torch import Generator, Tensor

from ..typing import Scalar, TokenSequence
from .streams import Tree, one_token, tree_of


class EditProcess(ABC):
    r"""A law $q(z \mid x)$ of streams $z$ that come to a text $x$: mistakes, each followed by backspaces that take it back.

    What a mask or a random token is to a diffusion model, a mistake is to an autoregressive one: noise that it learns to
    undo. A stream of tokens and backspaces collapses to one text, so that the probability of a text under a model of
    streams is bounded as it is in diffusion,

    $$-\log p(x) = -\log \sum_{z \to x} p(z) \le \mathbb E_{q(z \mid x)} [\log q(z \mid x) - \log p(z)].$$

    A process is written in three methods: `corrupt`, `log_probability` and `expected_length`. `reach` says how much a
    backspace takes back, one token unless it is overridden.

    **Arguments:**

    - `vocab_size`: tokens of a stream, the backspace among them.
    - `backspace`: the token that takes back. No text contains it.

    **Raises:** `ValueError` if the backspace is no token of the stream.

    **Source:** the noise: Ye et al. (2024), arXiv 2408.16293, section 4; the bound is Jensen's inequality.
    """

    def __init__(self, vocab_size: int, backspace: int) -> None:
        if not 0 <= backspace < vocab_size:
            raise ValueError(f"backspace must be one of {vocab_size} tokens; got {backspace}")
        self.vocab_size, self.backspace = vocab_size, backspace

    @abstractmethod
    def corrupt(self, x: TokenSequence, *, generator: Generator | None = None) -> Int[Tensor, " stream"]:
        """Draw a stream that comes to a text.

        **Arguments:**

        - `x`: the text. Mistakes may stand before each of its tokens.
        - `generator`: all randomness.
        """

    @abstractmethod
    def log_probability(self, z: Int[Tensor, " stream"], x: TokenSequence) -> Scalar:
        """Log q(z | x) in nats, float64; minus infinity for streams that are never drawn for `x`."""

    @abstractmethod
    def expected_length(self, x: TokenSequence) -> float:
        """The mean length of a stream that comes to `x`."""

    def reach(self, text: list[int]) -> int:
        """How many tokens of a text, which is not empty, a backspace leaves."""
        return one_token(text)

    def tree(self, z: Int[Tensor, " stream"]) -> Tree:
        """A stream as a tree."""
        return tree_of(z, self.backspace, self.reach)

    def clean(self, z: Int[Tensor, " stream"]) -> TokenSequence:
        """The text that a stream comes to. Backspaces on an empty text do nothing."""
        return self.tree(z).text

    def wrong(self, z: Int[Tensor, " stream"]) -> Bool[Tensor, " stream"]:
        """Which entries of a stream are tokens that are taken back later."""
        return self.tree(z).wrong

    def check(self, x: TokenSequence) -> None:
        """Whether there can be mistakes in a text.

        **Raises:** `ValueError` for a text with a backspace, or tokens that are none.
        """
        if len(x) and not 0 <= int(x.min()) <= int(x.max()) < self.vocab_size:
            raise ValueError(f"tokens must lie in [0, {self.vocab_size}); got {int(x.min())} to {int(x.max())}")
        if (x == self.backspace).any():
            raise ValueError(f"a text must not contain the backspace, {self.backspace}; got one that does")
