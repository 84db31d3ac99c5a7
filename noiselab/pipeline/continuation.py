"""Texts of an autoregressive model, token by token, as a `TextStream`: the steps of `generate` of transformers."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..categorical import Randomness, choose, uniforms
from ..denoisers.checked import LogitCheck, LogitChecks
from ..typing import Times, Tokens
from .settings import GenerationSettings

Value = TypeVar("Value")


class ContinuedBatch:
    """Texts with the same beginning, to which tokens are added until they end.

    `generate` of transformers runs in a thread that waits after each token, so that any causal model and its cache work.

    **Arguments:**

    - `texts`: the indices of the texts.
    - `start`: the tokens of the beginning.
    - `network`: a causal model of transformers.
    - `length`: the number of tokens of a text, with its beginning.
    - `ends`: the tokens that end a text; none if texts do not stop.
    - `pad`: the token after the end of a text while others continue.
    - `chosen`: temperature and truncation.
    - `computing`: makes the context of the arithmetic.
    """

    def __init__(
        self,
        texts: slice,
        start: Sequence[int],
        network: Any,
        *,
        length: int,
        ends: Sequence[int],
        pad: int | None,
        chosen: GenerationSettings,
        computing: Callable[[], contextlib.AbstractContextManager[None]],
        generator: Randomness = None,
    ):
        self.texts, self.start, self.network, self.steps = texts, list(start), network, length - len(start)
        self.computing, self.generator, self.chosen = computing, generator, chosen
        self.settings = GenerationConfig(
            do_sample=False,  # the last of the processors draws
            max_length=length,
            eos_token_id=list(ends) or None,
            pad_token_id=pad,
        )

    def walk(self) -> Generator[tuple[Tokens, Times], None, None]:
        """The tokens after each step; their time is 0."""
        if not self.steps:
            return
        self._rest = in_steps(self._write)
        with contextlib.closing(self._rest):
            for z in self._rest:
                yield z, torch.zeros(len(z), dtype=torch.float64)

    def end(self, z: Tokens) -> Tokens:
        """The texts as they are, after the checks of their logits are read."""
        for _ in self._rest:
            pass
        return z

    def interrupt(self, z: Tokens, time: Times) -> Tokens:
        """The texts as they are."""
        return z

    def _write(self, give: Callable[[Tokens], bool]) -> None:
        count, network = self.texts.stop - self.texts.start, self.network
        ids = torch.tensor([self.start] * count, device=next(network.parameters()).device)
        # The model has its own settings again before the first token is handed over.
        with self.computing(), contextlib.ExitStack() as own, LogitChecks() as checks:
            own.enter_context(_without_defaults(network))

            def check(_: Tensor, logits: Tensor) -> Tensor:
                own.close()
                return LogitCheck()(logits, None, network)

            network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self.settings,
                logits_processor=[check, *_filters(self.chosen), _Draw(self.generator)],
                stopping_criteria=[lambda z, scores: torch.full((count,), not give(z), device=z.device)],
                use_cache=True,
            )
            checks.read()


def in_steps(work: Callable[[Callable[[Value], bool]], None]) -> Generator[Value, None, None]:
    """The values that a function passes on, each when it is requested; in between the function waits, in a thread.

    **Arguments:**

    - `work`: called with a function that hands over a value and returns whether to go on.
    """
    values: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    orders: SimpleQueue[bool] = SimpleQueue()

    def give(value: Value) -> bool:
        values.put(("value", value))
        return orders.get()

    def run() -> None:
        try:
            if orders.get():
                work(give)
            values.put(("end", None))
        except BaseException as error:  # raised where the values are read
            values.put(("error", error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            orders.put(True)
            kind, value = values.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        orders.put(False)
        thread.join()


def _filters(chosen: GenerationSettings) -> list[LogitsProcessor]:
    """Temperature and truncation of the prediction, in the order of transformers."""
    made: list[LogitsProcessor] = []
    if chosen.temperature != 1:
        made.append(TemperatureLogitsWarper(float(chosen.temperature)))
    if chosen.top_k is not None:
        made.append(TopKLogitsWarper(chosen.top_k))
    if chosen.top_p is not None and chosen.top_p < 1:
        made.append(TopPLogitsWarper(float(chosen.top_p)))
    if chosen.min_p is not None:
        made.append(MinPLogitsWarper(float(chosen.min_p)))
    return made


class _Draw(LogitsProcessor):
    """Draws the next token of each text, and leaves transformers, which would draw for the batch, no other."""

    def __init__(self, generator: Randomness) -> None:
        self.generator = generator

    def __call__(
        self, input_ids: Int[Tensor, "text length"], scores: Float[Tensor, "text state"]
    ) -> Float[Tensor, "text state"]:
        """0 at the drawn tokens, -inf at all others."""
        u = uniforms(len(scores), generator=self.generator, device=scores.device)
        drawn = choose(scores.float().softmax(-1), u)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn[:, None], 0)


@contextlib.contextmanager
def _without_defaults(network: Any) -> Iterator[None]:
    """Context manager: generate without the model's own settings, which transformers uses where a setting is `None`: an
    end of text, penalties for repetition.
    """
    own = network.generation_config
    network.generation_config = GenerationConfig()
    try:
        yield
    finally:
        network.generation_config = own
