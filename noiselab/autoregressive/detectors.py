"""Detection of wrong tokens and wrong steps by autoregressive models."""

import abc
import math
from collections.abc import Collection
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..denoisers.modes import device_of, evaluating
from ..networks.outputs import logits_of
from ..revisions import Detector, check_scores, require_detector
from ..typing import PerSequence, PerToken, Tokens, TokenSequence


class SurpriseDetector(Detector):
    r"""Scores each token by its improbability, in nats, under an autoregressive model: a baseline without training on mistakes.

    $$s_i = -\log \pi(z_i \mid z_1 \dots z_{i-1})$$

    **Arguments:**

    - `network`: called with `input_ids`; returns logits or something that has them. Used in evaluation mode.
    - `start`: the token before each text.
    - `backspace`: a token of the model that texts do not contain, if it has one; its probability is set to 0.
    """

    def __init__(self, network: nn.Module, *, start: int, backspace: int | None = None) -> None:
        self.network, self.start, self.backspace = network, start, backspace

    def score(self, z: Tokens) -> PerToken:
        """The scores, float64."""
        logits = predict(self.network, z, self.start)[:, :-1]
        if self.backspace is not None:
            logits = logits.index_fill(-1, torch.tensor(self.backspace, device=logits.device), -torch.inf)
        log_probs = logits.log_softmax(-1)
        return -log_probs.gather(-1, z.to(log_probs.device)[..., None])[..., 0].to(z.device)

    def __repr__(self) -> str:
        return f"SurpriseDetector({type(self.network).__name__}, start={self.start})"


class EntropyDetector(Detector):
    r"""The entropy of the distribution from which an autoregressive model would draw each token, as a share of $\log |V|$.

    **Arguments:**

    - `network`, `start`: as for `SurpriseDetector`.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import EntropyDetector

    class Coin(torch.nn.Module):
        def forward(self, input_ids):
            return torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]).expand(*input_ids.shape, 4)

    print(EntropyDetector(Coin(), start=0)(torch.tensor([[0, 1]])))  # one bit of two
    ```
    """

    def __init__(self, network: nn.Module, *, start: int) -> None:
        self.network, self.start = network, start

    def score(self, z: Tokens) -> PerToken:
        """The scores, float64, in [0, 1]."""
        log_probs = predict(self.network, z, self.start)[:, :-1].log_softmax(-1)
        entropy = torch.special.entr(log_probs.exp()).sum(-1)
        return (entropy / math.log(log_probs.shape[-1])).clamp(max=1).to(z.device)

    def __repr__(self) -> str:
        return f"EntropyDetector({type(self.network).__name__}, start={self.start})"


class BackspaceDetector(Detector):
    r"""The probability with which a model that was trained on backspaces would write one after each token.

    $$s_i = \pi(\text{backspace} \mid z_1 \dots z_i)$$

    The model reads the text as it is, in which nothing was deleted.

    **Arguments:**

    - `network`: a causal model that was trained on streams; otherwise as for `SurpriseDetector`.
    - `backspace`, `start`: as for `BackspaceSampler`.
    """

    def __init__(self, network: nn.Module, backspace: int, *, start: int) -> None:
        self.network, self.backspace, self.start = network, backspace, start

    def score(self, z: Tokens) -> PerToken:
        """The scores, float64, in [0, 1]."""
        return predict(self.network, z, self.start)[:, 1:].softmax(-1)[..., self.backspace].to(z.device)

    def __repr__(self) -> str:
        return f"BackspaceDetector({type(self.network).__name__}, {self.backspace}, start={self.start})"


class StepDetector(Detector):
    """Scores the steps of a text by a function of the text up to the end of each step.

    A subclass writes `score_step`. `RetryUponRegret` scores the last step only; calling the detector scores all steps,
    one after another.

    **Arguments:**

    - `ends`: the tokens that end a step.

    **Raises:** `ValueError` if there is none.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import StepDetector

    class NoSeven(StepDetector):
        def score_step(self, text):
            return float(7 in text.tolist())

    score = NoSeven(ends=[9])(torch.tensor([[1, 9, 7, 9]]))
    assert score.tolist() == [[-torch.inf, 0, -torch.inf, 1]]
    ```
    """

    unit = "step"

    def __init__(self, ends: Collection[int]) -> None:
        self.ends = require_boundary(ends)

    @abc.abstractmethod
    def score_step(self, text: TokenSequence) -> float:
        """The score of the last step of a text, which ends with this step."""

    def score(self, z: Tokens) -> PerToken:
        """The scores, float64: -inf where no step ends."""
        found = torch.full(z.shape, -torch.inf, dtype=torch.float64)
        for row, text in enumerate(z):
            for place, token in enumerate(text.tolist()):
                if token in self.ends:
                    found[row, place] = self.score_step(text[: place + 1])
        return found.to(z.device)

    def score_last(self, z: Tokens) -> PerSequence:
        """The score of the step that ends with the last token of each text, whichever token that is."""
        scores = torch.tensor([self.score_step(text) for text in z], dtype=torch.float64, device=z.device)
        return check_scores(scores, (len(z),), self)


Pool: TypeAlias = Literal["max", "last"]
"""How the scores of a step's tokens become one: the largest of them, or that of the last token."""


class PooledDetector(StepDetector):
    """Scores steps by the scores of their tokens: the largest of them, or that of one token.

    The detector of tokens reads the text up to the end of the step only.

    **Arguments:**

    - `detector`: its unit must be "token".
    - `boundary`: the tokens after which a step can begin; those that end a step, and those that end a prompt.
    - `pool`: "max" for the largest score of the step's tokens, "last" for the score of its last token, or a token: then the
      score is that of its first occurrence in the step, after which nothing is read, and a step without it has the score
      infinity. A model that was trained to delete steps that have just begun does so after such a token, never at their end.
    - `ends`: the tokens that end a step; `boundary` by default.

    **Raises:** `ValueError` for a detector of another unit, no tokens in `boundary`, or another `pool`; when called, for a text
    without tokens.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.autoregressive import PooledDetector

    class Frequencies(nl.Denoiser):
        def forward(self, z, t):
            return torch.tensor([0.5, 0.3, 0.2]).log().expand(*z.shape, 3)

    detector = PooledDetector(nl.correctors.DenoiserDetector(Frequencies()), boundary=[1])
    print(detector(torch.tensor([[2, 1, 0, 1]])).neg().exp())  # 0.2 at the end of the first step, 0.3 at that of the second
    ```
    """

    def __init__(
        self,
        detector: Detector,
        *,
        boundary: Collection[int],
        pool: Pool | int = "max",
        ends: Collection[int] | None = None,
    ) -> None:
        super().__init__(boundary if ends is None else ends)
        if isinstance(pool, str) and pool not in get_args(Pool):
            raise ValueError(f"pool must be 'max', 'last' or a token; got {pool!r}")
        self.detector, self.boundary, self.pool = require_detector(detector, "token"), require_boundary(boundary), pool

    def score_step(self, text: TokenSequence) -> float:
        """The score of the last step."""
        begin = find_last_step(text, self.boundary)
        if self.pool == "max":
            return float(self.detector(text[None])[0, begin:].max())
        if self.pool == "last":
            return float(self.detector(text[None])[0, -1])
        read = cut_after(text, begin, int(self.pool))
        return math.inf if read is None else float(self.detector(read[None])[0, -1])

    def __repr__(self) -> str:
        return f"PooledDetector({self.detector}, boundary={sorted(self.boundary)}, pool={self.pool!r})"


class ProbeDetector(StepDetector):
    """The probability, by a probe, that the last step has begun wrongly.

    The probe reads the text up to the first `stop` of the step, and nothing after it; the score is 1 minus the probability of
    "yes". A step without `stop` has the score 1.

    **Arguments:**

    - `probe`: a `Probe`, or any module that returns one logit for each row when called with `input_ids`.
    - `boundary`, `ends`: as for `PooledDetector`.
    - `stop`: the token up to which the probe was trained to read.
    - `start`: the token before each text.

    **Raises:** `ValueError` if there is no token in `boundary`.

    **Source:** Ye et al. (2024), arXiv 2408.16293, section 3.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import Probe, ProbeDetector, RetryUponRegret

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()
    detector = ProbeDetector(Probe(network), boundary=[9], stop=7, start=0)
    sampler = RetryUponRegret(network, detector, vocab_size=10, boundary=[9], start=0, retries=5)
    generation = sampler.sample(2, length=12, generator=torch.Generator().manual_seed(0))
    ```
    """

    def __init__(
        self,
        probe: nn.Module,
        *,
        boundary: Collection[int],
        stop: int,
        start: int,
        ends: Collection[int] | None = None,
    ) -> None:
        super().__init__(boundary if ends is None else ends)
        self.probe, self.boundary, self.stop, self.start = probe, require_boundary(boundary), stop, start

    def score_step(self, text: TokenSequence) -> float:
        """The score of the last step, in [0, 1]."""
        read = cut_after(text, find_last_step(text, self.boundary), self.stop)
        if read is None:
            return 1.0
        row = prepend(read[None], self.start, self.probe)
        with torch.no_grad(), evaluating(self.probe):
            return float((-self.probe(input_ids=row).double()).sigmoid())

    def __repr__(self) -> str:
        return f"ProbeDetector({type(self.probe).__name__}, boundary={sorted(self.boundary)}, stop={self.stop})"


def find_last_step(text: TokenSequence, boundary: Collection[int]) -> int:
    """Where the last step of a text begins: after the last token of `boundary`, the text's last token left out.

    **Raises:** `ValueError` for a text without tokens.
    """
    if not len(text):
        raise ValueError("a text must have tokens; got none")
    return next((place + 1 for place in range(len(text) - 2, -1, -1) if int(text[place]) in boundary), 0)


def require_boundary(boundary: Collection[int]) -> frozenset[int]:
    """The tokens of a boundary.

    **Raises:** `ValueError` if there is none.
    """
    if not boundary:
        raise ValueError("boundary must have tokens; got none")
    return frozenset(boundary)


def cut_after(text: TokenSequence, begin: int, stop: int) -> Tensor | None:
    """A text up to the first `stop` of the step that begins at `begin`; `None` if the step has none."""
    found = (text[begin:] == stop).nonzero()
    return text[: begin + int(found[0]) + 1] if len(found) else None


def prepend(z: Tokens, start: int, network: nn.Module) -> Tensor:
    """Texts with the start token before them, on the device of a network."""
    return torch.cat([torch.full_like(z[:, :1], start), z], 1).to(device_of(network))


@torch.no_grad()
def predict(network: nn.Module, z: Tokens, start: int) -> Float[Tensor, "batch read state"]:
    """The logits after the start token and after each token, float64, with the network in evaluation mode."""
    with evaluating(network):
        return logits_of(network(input_ids=prepend(z, start, network))).double()
