"""Autoregressive models that read a given text, and write other tokens where they think that it is wrong."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..autoregressive import DecoderCache, KVCache, NoCache, Semantics
from ..categorical import Randomness, choose, uniforms
from ..typing import TokenProbs
from .bound import device_of, evaluating
from .repair import Revised, Reviser


class _Next(NamedTuple):
    """What the network shall read next, when some of the last entries are forgotten."""

    entry: int
    forget: int = 0


_Walk: TypeAlias = Generator[_Next, Tensor, list[int]]
"""One text while it is read: says what comes next, is told the law of what may follow, returns the text in the end."""

_Other: TypeAlias = Callable[[TokenProbs, int], int]
"""Another token, from the log-probabilities in its place and the token that was there."""


def by_proofreading(
    network: nn.Module,
    backspace: int,
    *,
    start: int,
    threshold: float | int,
    semantics: Semantics = "visible",
    tabu: bool = True,
    temperature: float | int = 0.0,
    cache: bool = True,
    batch_size: int = 64,
    generator: Randomness = None,
) -> Reviser:
    r"""A model with backspaces reads a text; where it would rather take a token back, it writes another in its place.

    After each given token $z_i$ the model is asked for the probability of a backspace,

    $$b_i = \pi(\text{backspace} \mid s_i) ,$$

    and if $b_i$ is above the threshold, the token is taken back and the model writes one without a backspace. Then reading goes
    on with $z_{i+1}$. The model reads $s_i$: with the erasing semantics the text as it stands by now, $y_1 \dots y_{i-1} z_i$;
    with the visible one the stream so far, in which $z_j$, a backspace and $y_j$ follow one another where a token was taken
    back. The tokens that it wrote itself are not asked about.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `backspace`, `start`: as for `BackspaceSampler`.
    - `threshold`: of the probability, in [0, 1]; at 1 nothing is taken back. `threshold_at` finds that of a share of false
      alarms by the scores of `by_backspace` on other texts.
    - `semantics`: the one that the model was trained for.
    - `tabu`: whether the token that was taken back is not written again. Then each false alarm does harm; without, a model
      may stand by the token that is there.
    - `temperature`: of what is written; 0 takes the likeliest.
    - `cache`: whether keys and values are kept. Without, all is read anew for each entry.
    - `batch_size`: texts at once.
    - `generator`: of what is written at a temperature above 0; one, or one for each text.

    **Returns:** the reviser; its evaluations are the entries that were read, that before each text among them.

    **Raises:** `ValueError` for settings out of range.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.evaluation import by_backspace, by_proofreading, damage, repair, threshold_at

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes)).eval()  # one that was trained would be better
    x = (torch.randint(10, (8, 1)) + torch.arange(12)) % 10
    others, damaged = (damage(some, torch.arange(10), 0.2) for some in x.split(4))
    threshold = threshold_at(by_backspace(network, 10, start=0)(others.tokens), others.wrong)
    reviser = by_proofreading(network, 10, start=0, threshold=threshold)
    print(repair(damaged, reviser(damaged.tokens)))
    ```
    """
    if semantics not in ("visible", "erasing") or not 0 <= threshold <= 1:
        raise ValueError(
            f"semantics must be 'visible' or 'erasing', threshold lie in [0, 1]; got {semantics!r} and {threshold}"
        )

    def walk(given: list[int], other: _Other) -> _Walk:
        law = yield _Next(start)
        text: list[int] = []
        for token in given:
            after = yield _Next(token)
            if after[backspace].exp() > threshold:
                if semantics == "visible":
                    law = yield _Next(backspace)
                token = other(law, token)
                if len(text) + 1 < len(given):  # behind the last token nothing is asked
                    after = yield _Next(token, forget=1 if semantics == "erasing" else 0)
            text.append(token)
            law = after
        return text

    return _reviser(network, walk, backspace, tabu, temperature, cache, batch_size, generator)


def by_surprise_proofreading(
    network: nn.Module,
    *,
    start: int,
    threshold: float | int,
    backspace: int | None = None,
    tabu: bool = True,
    temperature: float | int = 0.0,
    cache: bool = True,
    batch_size: int = 64,
    generator: Randomness = None,
) -> Reviser:
    r"""A plain autoregressive model replaces each token that surprises it by its own: the baseline of `by_proofreading`.

    Token $z_i$ is replaced where $-\log \pi(z_i \mid y_1 \dots y_{i-1})$ is above the threshold; what follows is read behind
    the token that was written. Each place is read once.

    **Arguments:**

    - `network`, `start`, `tabu`, `temperature`, `cache`, `batch_size`, `generator`: as for `by_proofreading`.
    - `threshold`: in nats; `threshold_at` finds that of a share of false alarms by the scores of `by_surprise` on other texts.
      At infinity nothing is replaced.
    - `backspace`: a token of the model that is never written, if it has one. It has no probability then.

    **Raises:** `ValueError` for settings out of range.
    """
    if threshold != threshold:
        raise ValueError(f"threshold must be a number; got {threshold}")

    def walk(given: list[int], other: _Other) -> _Walk:
        law = yield _Next(start)
        text: list[int] = []
        for token in given:
            if backspace is not None:
                law = _without(law, backspace).log_softmax(-1)
            text.append(other(law, token) if -law[token] > threshold else token)
            if len(text) < len(given):
                law = yield _Next(text[-1])
        return text

    return _reviser(network, walk, backspace, tabu, temperature, cache, batch_size, generator)


def _reviser(
    network: nn.Module,
    walk: Callable[[list[int], _Other], _Walk],
    backspace: int | None,
    tabu: bool,
    temperature: float | int,
    cache: bool,
    batch_size: int,
    generator: Randomness,
) -> Reviser:
    if not temperature >= 0 or batch_size < 1:
        raise ValueError(
            f"temperature must not be negative, batch_size be positive; got {temperature} and {batch_size}"
        )

    def other(number: int) -> _Other:
        def write(law: Tensor, token: int) -> int:
            law = law if backspace is None else _without(law, backspace)
            if tabu and _without(law, token).max() > -torch.inf:
                law = _without(law, token)
            if temperature == 0:
                return int(law.argmax())
            mine: Any = generator[number] if isinstance(generator, Sequence) else generator
            return int(choose((law / temperature).softmax(-1), uniforms(1, generator=mine)[0]))

        return write

    def revise(z: Tensor) -> Revised:
        texts: list[list[int]] = []
        reads = 0
        with evaluating(network):
            for first in range(0, len(z), batch_size):
                given = z[first : first + batch_size].tolist()
                memory: DecoderCache = KVCache(network) if cache else NoCache(network)
                walks = [walk(text, other(first + row)) for row, text in enumerate(given)]
                found, read = _read_through(memory, walks, device_of(network))
                texts, reads = texts + found, reads + read
        return Revised(torch.tensor(texts, dtype=z.dtype, device=z.device), reads / z.numel())

    return revise


def _read_through(memory: DecoderCache, walks: list[_Walk], device: torch.device) -> tuple[list[list[int]], int]:
    """Walk through texts side by side, one entry of each at a time: the texts in the end, and how many entries were read.

    A walk that takes back needs more entries than its neighbours, so that each is in a place of its own.
    """
    texts: dict[int, list[int]] = {}
    live, steps = list(range(len(walks))), [next(walk) for walk in walks]
    seen = [0] * len(walks)  # entries that a row remembers: the position of its next one
    reads = 0
    while live:
        for place, (number, step) in enumerate(zip(live, steps, strict=True)):
            memory.forget(place, step.forget)
            seen[number] -= step.forget
        entries = torch.tensor([[step.entry] for step in steps], device=device)
        positions = torch.tensor([[seen[number]] for number in live], device=device)
        logits = memory.read(entries, positions, torch.ones_like(entries, dtype=torch.bool))
        laws = logits.double().cpu().log_softmax(-1)
        reads += len(live)
        steps, left = [], []
        for place, (number, law) in enumerate(zip(live, laws, strict=True)):
            seen[number] += 1
            try:
                steps.append(walks[number].send(law))
                left.append(place)
            except StopIteration as end:
                texts[number] = end.value
        if left and len(left) < len(live):
            memory.keep(left)
        live = [live[place] for place in left]
    return [texts[number] for number in range(len(walks))], reads


def _without(law: Tensor, token: int) -> Tensor:
    law = law.clone()
    law[token] = -torch.inf
    return law
