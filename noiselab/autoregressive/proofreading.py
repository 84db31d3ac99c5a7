"""Autoregressive models that read a given text, and replace the tokens that they find wrong."""

import abc
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..categorical import Randomness, choose, uniforms
from ..denoisers.modes import device_of, evaluating
from ..revisions import Revised, Reviser
from ..typing import Selection, TokenProbs, Tokens
from .kv_cache import DecoderCache, KVCache, NoCache
from .likelihood import Semantics


class _Next(NamedTuple):
    """The entry that the network reads next, after the last `drop` entries are removed from the cache."""

    entry: int
    drop: int = 0


_Walk: TypeAlias = Generator[_Next, Tensor, list[int]]
"""The reading of one text: yields what the network reads next, gets its prediction, returns the text in the end."""

_Replace: TypeAlias = Callable[[TokenProbs, int], int]
"""Another token, from the log-probabilities in its place and the token that was there."""


class _ProofreadingReviser(Reviser):
    """What the two have in common: texts are read side by side, entry by entry; a subclass says how one is read in `walk`."""

    def __init__(
        self,
        network: nn.Module,
        backspace: int | None,
        *,
        start: int,
        threshold: float | int,
        tabu: bool,
        temperature: float | int,
        cache: bool,
        batch_size: int,
    ) -> None:
        if not temperature >= 0 or batch_size < 1:
            raise ValueError(
                f"temperature must not be negative, batch_size be positive; got {temperature} and {batch_size}"
            )
        self.network, self.backspace, self.start, self.threshold = network, backspace, start, threshold
        self.tabu, self.temperature, self.cache, self.batch_size = tabu, float(temperature), cache, batch_size

    @abc.abstractmethod
    def walk(self, given: list[int], free: list[bool], replace: _Replace) -> _Walk:
        """Read one text; `free` are the tokens that may change, `replace` draws another token."""

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The texts after one reading; `generator` is used at a temperature above 0."""
        free = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        texts: list[list[int]] = []
        reads = 0
        with evaluating(self.network):
            for first in range(0, len(z), self.batch_size):
                part = slice(first, first + self.batch_size)
                cache: DecoderCache = KVCache(self.network) if self.cache else NoCache(self.network)
                walks = [
                    self.walk(text, may_change, functools.partial(self._replace, generator, first + row))
                    for row, (text, may_change) in enumerate(zip(z[part].tolist(), free[part].tolist(), strict=True))
                ]
                found, read = _read_through(cache, walks, device_of(self.network))
                texts, reads = texts + found, reads + read
        return Revised(torch.tensor(texts, dtype=z.dtype, device=z.device).view(z.shape), reads)

    def _replace(self, generator: Randomness, number: int, log_probs: Tensor, token: int) -> int:
        """Another token for a place of text `number`."""
        if self.backspace is not None:
            log_probs = _without(log_probs, self.backspace)
        if self.tabu and _without(log_probs, token).max() > -torch.inf:
            log_probs = _without(log_probs, token)
        if self.temperature == 0:
            return int(log_probs.argmax())
        mine: Any = generator[number] if isinstance(generator, Sequence) else generator
        return int(choose((log_probs / self.temperature).softmax(-1), uniforms(1, generator=mine)[0]))


class Proofreader(_ProofreadingReviser):
    r"""A model trained on backspaces reads a text; where it would delete a token, it writes another in its place.

    After each given token $z_i$ the model predicts the probability of a backspace,

    $$b_i = \pi(\text{backspace} \mid s_i) ,$$

    and if $b_i$ is above the threshold, the token is deleted and the model writes one without a backspace. Reading
    continues with $z_{i+1}$. The model reads $s_i$: with the erasing semantics the text as revised so far,
    $y_1 \dots y_{i-1} z_i$; with the visible one the stream so far, in which $z_j$, a backspace and $y_j$ follow one
    another where a token was deleted. Tokens that the model wrote itself are not examined.

    **Arguments:**

    - `network`: a causal model of transformers; without `cache` any that is called with `input_ids`.
    - `backspace`, `start`: as for `BackspaceSampler`.
    - `threshold`: the largest probability of a backspace at which a token is kept, in [0, 1]; at 1 nothing is deleted.
      `threshold_at` chooses it for a given share of false alarms from the scores of `BackspaceDetector` on other texts.
    - `semantics`: the one that the model was trained for.
    - `tabu`: whether the deleted token is not written again. Then each false alarm damages a right token; without it,
      the model can write the deleted token again.
    - `temperature`: the temperature of replacements; 0 takes the most probable token.
    - `cache`: whether the KV cache is used. Without, the whole text is read again for each entry.
    - `batch_size`: the number of texts that are read at once.

    **Returns:** evaluations are the entries that were read, the start token among them.

    **Raises:** `ValueError` for settings out of range.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import BackspaceDetector, Proofreader
    from noiselab.bench import force_errors
    from noiselab.evaluation import threshold_at
    from noiselab.revisions import count_outcome

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes)).eval()  # a trained one would do better
    x = (torch.randint(10, (8, 1)) + torch.arange(12)) % 10
    others, forced = (force_errors(part, torch.arange(10), 0.2) for part in x.split(4))
    threshold = threshold_at(BackspaceDetector(network, 10, start=0)(others.tokens), others.wrong)
    revised = Proofreader(network, 10, start=0, threshold=threshold)(forced.tokens)
    print(count_outcome(forced.tokens, revised.tokens, forced.truth, evaluations=revised.evaluations))
    ```
    """

    kind = "backspace"

    def __init__(
        self,
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
    ) -> None:
        if semantics not in ("visible", "erasing") or not 0 <= threshold <= 1:
            raise ValueError(
                f"semantics must be 'visible' or 'erasing', threshold lie in [0, 1]; got {semantics!r} and {threshold}"
            )
        super().__init__(
            network,
            backspace,
            start=start,
            threshold=threshold,
            tabu=tabu,
            temperature=temperature,
            cache=cache,
            batch_size=batch_size,
        )
        self.semantics, self.deletion = semantics, backspace

    def walk(self, given: list[int], free: list[bool], replace: _Replace) -> _Walk:
        """Read one text, and replace tokens whose backspace is too probable."""
        deletion = self.deletion
        log_probs = yield _Next(self.start)
        text: list[int] = []
        for token, may_change in zip(given, free, strict=True):
            after = yield _Next(token)
            if may_change and after[deletion].exp() > self.threshold:
                if self.semantics == "visible":
                    log_probs = yield _Next(deletion)
                token = replace(log_probs, token)
                if len(text) + 1 < len(given):  # nothing is predicted after the last token
                    after = yield _Next(token, drop=1 if self.semantics == "erasing" else 0)
            text.append(token)
            log_probs = after
        return text

    def __repr__(self) -> str:
        return f"Proofreader({type(self.network).__name__}, threshold={self.threshold:g}, semantics={self.semantics!r})"


class SurpriseProofreader(_ProofreadingReviser):
    r"""A plain autoregressive model replaces each token that is too improbable by its own: the baseline of `Proofreader`.

    Token $z_i$ is replaced where $-\log \pi(z_i \mid y_1 \dots y_{i-1})$ is above the threshold; later tokens are read
    after the replacement. Each position is read once.

    **Arguments:**

    - `network`, `start`, `tabu`, `temperature`, `cache`, `batch_size`: as for `Proofreader`.
    - `threshold`: in nats; `threshold_at` chooses it for a share of false alarms by the scores of `SurpriseDetector` on other
      texts. At infinity nothing is replaced.
    - `backspace`: a token of the model that is never written, if it has one; its probability is set to 0.

    **Raises:** `ValueError` for settings out of range.
    """

    kind = "surprise"

    def __init__(
        self,
        network: nn.Module,
        *,
        start: int,
        threshold: float | int,
        backspace: int | None = None,
        tabu: bool = True,
        temperature: float | int = 0.0,
        cache: bool = True,
        batch_size: int = 64,
    ) -> None:
        if threshold != threshold:
            raise ValueError(f"threshold must not be NaN; got {threshold}")
        super().__init__(
            network,
            backspace,
            start=start,
            threshold=threshold,
            tabu=tabu,
            temperature=temperature,
            cache=cache,
            batch_size=batch_size,
        )

    def walk(self, given: list[int], free: list[bool], replace: _Replace) -> _Walk:
        """Read one text, and replace tokens that are too improbable."""
        log_probs = yield _Next(self.start)
        text: list[int] = []
        for token, may_change in zip(given, free, strict=True):
            if self.backspace is not None:
                log_probs = _without(log_probs, self.backspace).log_softmax(-1)
            text.append(replace(log_probs, token) if may_change and -log_probs[token] > self.threshold else token)
            if len(text) < len(given):
                log_probs = yield _Next(text[-1])
        return text

    def __repr__(self) -> str:
        return f"SurpriseProofreader({type(self.network).__name__}, threshold={self.threshold:g})"


def _read_through(cache: DecoderCache, walks: list[_Walk], device: torch.device) -> tuple[list[list[int]], int]:
    """Read texts side by side, one entry of each at a time; returns the revised texts and the number of entries read.

    A walk that deletes needs more entries than its neighbours, so each has its own position.
    """
    texts: dict[int, list[int]] = {}
    live, steps = list(range(len(walks))), [next(walk) for walk in walks]
    seen = [0] * len(walks)  # entries of each row in the cache: the position of its next one
    reads = 0
    while live:
        for place, (number, step) in enumerate(zip(live, steps, strict=True)):
            cache.roll_back(place, step.drop)
            seen[number] -= step.drop
        entries = torch.tensor([[step.entry] for step in steps], device=device)
        positions = torch.tensor([[seen[number]] for number in live], device=device)
        logits = cache.read(entries, positions, torch.ones_like(entries, dtype=torch.bool))
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
            cache.keep_rows(left)
        live = [live[place] for place in left]
    return [texts[number] for number in range(len(walks))], reads


def _without(law: Tensor, token: int) -> Tensor:
    law = law.clone()
    law[token] = -torch.inf
    return law
