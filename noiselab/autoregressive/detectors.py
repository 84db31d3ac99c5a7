"""Who says that a step was wrong: ready-made detectors for `RetryUponRegret`."""

import math
from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..denoisers import Denoiser
from ..networks.outputs import logits_of
from ..typing import TokenSequence
from .regret import Detector


def last_step(text: TokenSequence, boundary: Collection[int]) -> int:
    """Where the last step of a text begins: behind the last token of `boundary`, but that of the text's end.

    **Raises:** `ValueError` for a text without tokens.
    """
    if not len(text):
        raise ValueError("a text must have tokens; got none")
    return next((place + 1 for place in range(len(text) - 2, -1, -1) if int(text[place]) in boundary), 0)


def by_probe(probe: nn.Module, *, boundary: Collection[int], stop: int, start: int) -> Detector:
    """How sure a probe is that the last step has begun wrongly.

    It reads the text up to the first `stop` of the step, and not what comes behind; what it is sure of is 1 minus the
    probability of "yes". A step without `stop` is wrong for sure.

    **Arguments:**

    - `probe`: a `Probe`, or whatever gives one logit for each row when called with `input_ids`.
    - `boundary`: the tokens behind which a step may begin; those that end a step, and those that end a prompt.
    - `stop`: the token up to which the probe was trained to read.
    - `start`: the token before each text.

    **Raises:** `ValueError` if there is no token in `boundary`.

    **Source:** Ye et al. (2024), arXiv 2408.16293, section 3.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import Probe, RetryUponRegret, by_probe

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()
    detector = by_probe(Probe(network), boundary=[9], stop=7, start=0)
    sampler = RetryUponRegret(network, detector, vocab_size=10, boundary=[9], start=0, retries=5)
    written = sampler.sample(2, length=12, generator=torch.Generator().manual_seed(0))
    ```
    """
    ends = _ends(boundary)

    def detector(text: Tensor) -> float:
        read = _up_to(text, last_step(text, ends), stop)
        if read is None:
            return 1.0
        row = _started(read, start, probe)
        with torch.no_grad():
            return float((-probe(input_ids=row).double()).sigmoid())

    return detector


def by_entropy(network: nn.Module, *, boundary: Collection[int], start: int) -> Detector:
    r"""The largest entropy with which a plain model has written a token of the last step, as a share of $\log |V|$.

    **Arguments:**

    - `network`: a causal model, called with `input_ids`; set it to `eval` before.
    - `boundary`: the tokens behind which a step may begin; those that end a step, and those that end a prompt.
    - `start`: the token before each text.

    **Raises:** `ValueError` if there is no token in `boundary`.

    **Example:**

    ```python
    import torch
    from noiselab.autoregressive import by_entropy

    class Coin(torch.nn.Module):
        def forward(self, input_ids):
            return torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]).expand(*input_ids.shape, 4)

    print(by_entropy(Coin(), boundary=[1], start=0)(torch.tensor([0, 0, 1])))  # one bit of two
    ```
    """
    ends = _ends(boundary)

    def detector(text: Tensor) -> float:
        law = _laws(network, text, start)[last_step(text, ends) : -1]
        entropy = torch.special.entr(law.exp()).sum(-1)
        return min(1.0, float(entropy.max()) / math.log(law.shape[-1]))

    return detector


def by_improbability(network: nn.Module, *, boundary: Collection[int], start: int) -> Detector:
    """How improbable the least probable token of the last step was to a plain model: 1 minus its probability.

    **Arguments, raises:** as for `by_entropy`.
    """
    ends = _ends(boundary)

    def detector(text: Tensor) -> float:
        begin = last_step(text, ends)
        law = _laws(network, text, start)[begin:-1]
        return _one_minus_least(law, text[begin:])

    return detector


def by_backspace_probability(
    network: nn.Module, backspace: int, *, start: int, boundary: Collection[int] = (), stop: int | None = None
) -> Detector:
    """How probably a model that takes back does so just after the last step.

    It reads the text as it stands, in which nothing was taken back. A model that was trained to take back steps that have
    hardly begun does so behind their `stop`, and never at their end.

    **Arguments:**

    - `network`: a causal model that was trained on streams, called with `input_ids`; set it to `eval` before.
    - `backspace`: its token that takes back.
    - `start`: the token before each text.
    - `boundary`, `stop`: as for `by_probe`, to read the last step up to there; not given, it is read to its end.

    **Raises:** `ValueError` if `stop` is given without `boundary`.
    """
    if stop is not None:
        _ends(boundary)

    def detector(text: Tensor) -> float:
        read = text if stop is None else _up_to(text, last_step(text, boundary), stop)
        return 1.0 if read is None else float(_laws(network, read, start)[-1, backspace].exp())

    return detector


def by_denoiser_confidence(
    denoiser: Denoiser,
    *,
    length: int,
    filler: int,
    boundary: Collection[int],
    time: float = 0.01,
    hide: int | None = None,
) -> Detector:
    """How improbable the least probable token of the last step is to a denoiser: 1 minus its probability.

    What is not written yet is `filler`. This assumes that the denoiser has seen rows that end so: padding if rows were padded,
    or masks if it knows masks. A denoiser that was trained on masks alone says nothing of tokens that it sees; with `hide`
    it is asked for each token of the step while that one is hidden.

    **Arguments:**

    - `denoiser`: set it to `eval` before.
    - `length`: of its rows.
    - `filler`: the token behind the text.
    - `boundary`: the tokens behind which a step may begin; those that end a step, and those that end a prompt.
    - `time`: that it is told.
    - `hide`: the token to hide others behind, one at a time; `None` lets it see them all.

    **Raises:** `ValueError` if there is no token in `boundary`; when asked, for a text longer than `length`.

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab.autoregressive import by_denoiser_confidence

    class Frequencies(nl.Denoiser):
        def forward(self, z, t):
            return torch.tensor([0.5, 0.3, 0.2]).log().expand(*z.shape, 3)

    detector = by_denoiser_confidence(Frequencies(), length=8, filler=0, boundary=[1])
    print(detector(torch.tensor([2, 1, 0, 1])))  # 1 - 0.3, for 2 is of the step before
    ```
    """
    ends = _ends(boundary)

    def detector(text: Tensor) -> float:
        if len(text) > length:
            raise ValueError(f"a text must have at most {length} tokens; got {len(text)}")
        begin = last_step(text, ends)
        places = torch.arange(begin, len(text))
        z = nn.functional.pad(text, (0, length - len(text)), value=filler)[None]
        rows = torch.zeros_like(places)
        if hide is not None:
            rows = torch.arange(len(places))
            z = z.repeat(len(places), 1)
            z[rows, places] = hide
        device = next(iter(denoiser.parameters()), text).device
        t = torch.full((len(z),), time, dtype=torch.float64, device=device)
        with torch.no_grad():
            law = denoiser(z.to(device), t).double().log_softmax(-1).cpu()
        return _one_minus_least(law[rows, places], text[begin:])

    return detector


def _ends(boundary: Collection[int]) -> frozenset[int]:
    if not boundary:
        raise ValueError("boundary must have tokens; got none")
    return frozenset(boundary)


def _up_to(text: Tensor, begin: int, stop: int) -> Tensor | None:
    """A text up to the first `stop` of the step that begins there, if it has one."""
    found = (text[begin:] == stop).nonzero()
    return text[: begin + int(found[0]) + 1] if len(found) else None


def _started(text: Tensor, start: int, network: nn.Module) -> Int[Tensor, "1 length"]:
    """A text as a row for a network."""
    device = next(iter(network.parameters()), text).device
    return torch.cat([text.new_tensor([start]), text])[None].to(device)


def _laws(network: nn.Module, text: Tensor, start: int) -> Float[Tensor, "read state"]:
    """Log-probabilities of the token behind the start and behind each token, float64."""
    with torch.no_grad():
        logits = logits_of(network(input_ids=_started(text, start, network)))
    return logits[0].double().log_softmax(-1).cpu()


def _one_minus_least(law: Float[Tensor, "step state"], step: Int[Tensor, " step"]) -> float:
    return max(0.0, -math.expm1(float(law.gather(-1, step[:, None]).min())))
