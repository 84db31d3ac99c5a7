"""Texts while they are generated: their states after each step, callbacks that end generation, and the final texts."""

import contextlib
import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..distributed import Processes
from ..process import as_token_times
from ..samplers import lengths
from ..typing import PerToken, Selection, Times, Tokens, TokenSet
from .arguments import arguments_of

Decode: TypeAlias = Callable[[list[list[int]]], list[str]]


@dataclass(frozen=True)
class GenerationState:
    """All texts of a call after one step; it does not change when generation continues.

    **Arguments:**

    - `tokens`: the tokens, [text, length], on the CPU. Texts that have not begun have their prompt, or gaps as padding.
    - `first`, `last`: each text is `tokens[i, first[i] : last[i]]`. Before `first` is the conversation of a chat prompt;
      after `last` is padding.
    - `noisy`: the positions that certainly still are noise, or are not generated yet; `None` if the process does not show
      it, as for uniform noise alone. With masks and uniform noise it shows the masks.
    - `time`: the time of each token, in the domain of the process ([0, 1]): 1 noise, 0 clean.
    - `finished`: the texts that will not change.
    - `step`, `steps`: the steps made so far, and the largest number of steps; batches count one after another. When a batch
      ends early, the steps that it did not need count as made.
    """

    tokens: Tokens = field(repr=False)
    first: Int[Tensor, " batch"] = field(repr=False)
    last: Int[Tensor, " batch"] = field(repr=False)
    noisy: Selection | None = field(repr=False)
    time: PerToken = field(repr=False)
    finished: Bool[Tensor, " batch"]
    step: int
    steps: int
    decode: Decode = field(repr=False)

    @cached_property
    def texts(self) -> list[str]:
        """The texts without special tokens, hence without masks; each is a `Text`. Decoded when first read."""
        rows = zip(self.tokens.tolist(), self.first.tolist(), self.last.tolist(), strict=True)
        return self.decode([row[first:last] for row, first, last in rows])


Callback: TypeAlias = Callable[[GenerationState], bool | None]
"""Called after each step with the state; if it returns True, generation ends."""


@runtime_checkable
class Batch(Protocol):
    """Some of the texts, which take their steps together."""

    steps: int

    @property
    def texts(self) -> slice | Int[Tensor, " some"]:
        """The numbers of the texts."""

    def walk(self) -> Generator[tuple[Tokens, Times], None, None]:
        """The tokens after each step, at most `steps`, and their times."""
        ...

    def end(self, z: Tokens) -> Tokens:
        """The finished texts after the last step."""
        ...

    def interrupt(self, z: Tokens, time: Times) -> Tokens:
        """Finished texts after any step."""
        ...


class Canvas:
    """The tokens of all texts, batch by batch.

    **Arguments:**

    - `tokens`: what the texts are before they begin, [text, length], padded at the end.
    - `first`, `last`: as in `GenerationState`.
    - `known`: the tokens that are given and do not change.
    - `decode`: decodes token ids into texts.
    - `span`: the times of clean tokens and of noise.
    - `data`: the tokens that are not noise; `None` if noise does not show; "written" if tokens are generated one by one.
    - `ends`: the tokens that end a text: a finished text is cut after the first one that is not known.
    - `complete`: whether texts are finished texts before they begin, as for corrections.
    """

    def __init__(
        self,
        tokens: Tokens,
        first: Int[Tensor, " batch"],
        last: Int[Tensor, " batch"],
        known: Selection,
        decode: Decode,
        *,
        span: tuple[float, float] = (0.0, 1.0),
        data: TokenSet | Literal["written"] | None = None,
        ends: Sequence[int] = (),
        complete: bool = False,
    ):
        self.tokens, self.first, self.last, self.known, self.decode = tokens.clone(), first, last.clone(), known, decode
        self.low, self.data, self.ends, self.complete = span[0], data, list(ends), complete
        self.time = torch.full(tokens.shape, span[1], dtype=torch.float64)
        self.finished = torch.zeros(len(tokens), dtype=torch.bool)
        self.begun = torch.zeros_like(self.finished)

    def put(self, texts: slice | Int[Tensor, " some"], z: Tokens | None, time: Times | None, finished: bool) -> None:
        """Store the tokens of a batch and their times; without any, it stays as it is given."""
        if z is not None and time is not None:
            self.tokens[texts, : z.shape[1]] = z.cpu()
            time = time[:, : z.shape[1]] if time.dim() == 2 else time  # an ended text may be shorter
            self.time[texts, : z.shape[1]] = as_token_times(time, z).expand(z.shape).cpu()
        self.finished[texts] |= finished
        if finished and z is not None:
            self.last[texts] = self.last[texts].clamp(max=z.shape[1])  # texts that grow may be shorter
        if finished and self.ends:
            given = self.known[texts].long().cumprod(-1).sum(-1)
            self.last[texts] = (lengths(self.tokens[texts], self.ends, prompt=given) + 1).clamp(max=self.last[texts])
        self.begun[texts] = True

    def leave_out_others(self) -> None:
        """Leave out the texts that have not begun, unless they are complete as they are."""
        self.finished[:] = True
        if not self.complete:
            kept = self.begun
            for name in ("tokens", "first", "last", "known", "time", "finished", "begun"):
                setattr(self, name, getattr(self, name)[kept])

    def state(self, step: int, steps: int) -> GenerationState:
        """A copy of the texts."""
        place = torch.arange(self.tokens.shape[1])
        still = (place < self.last[:, None]) & ~self.known
        noisy = None
        if isinstance(self.data, str):
            noisy = still & (self.time > self.low)
        elif self.data is not None:
            data = torch.cat([self.data.cpu(), self.data.new_zeros(1, device="cpu")])
            shown = data[self.tokens.clamp(max=len(self.data))]
            noisy = still & (~shown if self.complete else ~self.begun[:, None] | ~shown)
        time = torch.where(still & ~self.finished[:, None], self.time, self.low)
        tokens, finished = self.tokens.clone(), self.finished.clone()
        return GenerationState(tokens, self.first, self.last.clone(), noisy, time, finished, step, steps, self.decode)


class TextStream(Iterator[GenerationState]):
    """The states of texts after each step of their generation, made when the next state is requested.

    The last state has the finished texts. After the loop is left early, nothing stays changed: gradient mode, autocast and
    attention masks are set within steps only, and the progress bar is closed with the iterator.

    **Arguments:**

    - `batches`: the batches of texts.
    - `canvas`: the texts.
    - `computing`: makes the context of each step.
    - `callback`: called with each state; if it returns True, generation ends.
    - `name`: the name of the progress bar; `None` for none.
    - `processes`: those that divide the batches among them in `run`.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        canvas: Canvas,
        computing: Callable[[], contextlib.AbstractContextManager[None]],
        *,
        callback: Callback | None = None,
        name: str | None = None,
        processes: Processes | None = None,
    ):
        if callback is not None and not callable(callback):
            raise ValueError(f"callback must be a function of a GenerationState; got {callback!r}")
        if callback is not None and processes is not None:
            raise ValueError(
                "callback must be None with processes, of which each would see its own texts only; got one"
            )
        self.processes = processes
        # Apart from this object, which is gone at once when nobody holds it, and with it what its steps have open.
        self._steps = _Steps(batches, canvas, computing, callback, name)
        self._iterator = self._steps.states()

    def __next__(self) -> GenerationState:
        return next(self._iterator)

    def close(self) -> None:
        """End generation; further states are not computed."""
        self._iterator.close()

    def run(self) -> list[str]:
        """All steps, and the finished texts."""
        if self.processes is not None:
            return self._run_together(self.processes)
        steps = self._steps
        steps.observed = steps.callback is not None
        # One context for all steps lets autocast keep the weights that it has cast; a callback runs outside of it.
        with contextlib.nullcontext() if steps.observed else steps.computing():
            for _ in self._iterator:
                pass
        return steps.canvas.state(steps.count, steps.count).texts

    def _run_together(self, processes: Processes) -> list[str]:
        """The same, each batch by one of the processes."""
        whole = self._steps
        batches, canvas, computing = whole.batches, whole.canvas, whole.computing

        def work(numbers: Sequence[int]) -> Iterator[list[Tensor]]:
            own = [batches[number] for number in numbers]
            steps = _Steps(own, canvas, computing, None, whole.name if processes.first else None)
            steps.observed = False
            with computing():
                for _ in steps.states():
                    pass
            for batch in own:
                yield [canvas.tokens[batch.texts], canvas.last[batch.texts]]

        about = ["texts", canvas.tokens, canvas.first, canvas.known, canvas.ends, whole.count]
        about += [one for batch in batches for one in getattr(batch, "generator", None) or ()]
        found = processes.collect(work, len(batches), about=about)
        for batch, (tokens, last) in zip(batches, found, strict=True):
            canvas.tokens[batch.texts], canvas.last[batch.texts] = tokens, last
        return canvas.state(whole.count, whole.count).texts


class _Steps:
    """The steps of all batches, one batch after another; arguments as for `TextStream`."""

    def __init__(
        self,
        batches: Sequence[Batch],
        canvas: Canvas,
        computing: Callable[[], contextlib.AbstractContextManager[None]],
        callback: Callback | None,
        name: str | None,
    ):
        self.batches, self.canvas, self.computing, self.callback, self.name = batches, canvas, computing, callback, name
        self.count = sum(batch.steps for batch in batches)
        self.observed, self.ended = True, False

    def states(self) -> Generator[GenerationState, None, None]:
        """The states after each step; none if nobody observes them."""
        before = 0
        with tqdm(total=self.count, desc=self.name, disable=self.name is None) as bar:
            for batch in self.batches:
                with contextlib.closing(batch.walk()) as walk:
                    yield from self._states_of(batch, walk, before, bar)
                if self.ended:
                    return
                before += batch.steps

    def _states_of(
        self, batch: Batch, walk: Iterator[tuple[Tokens, Times]], before: int, bar: Any
    ) -> Generator[GenerationState, None, None]:
        """The states while a batch takes its steps, `before` of which were made by others."""
        done, more, z, time = 0, True, None, None
        while more:
            with self.computing():
                found = next(walk, None)
                if found is not None:
                    (z, time), done = found, done + 1
                more = found is not None and done < batch.steps
                z = z if more or z is None else batch.end(z)
            step = before + (done if more else batch.steps)  # steps that were not needed count as made
            bar.update(step - bar.n)
            if more and not self.observed:
                continue
            self.canvas.put(batch.texts, z, time, finished=not more)
            if not self.observed:
                return
            state = self.canvas.state(step, self.count)
            if self.callback is not None and _is_true(self.callback(state)):
                if more and z is not None and time is not None:
                    with self.computing():
                        z = batch.interrupt(z, time)
                self.canvas.put(batch.texts, z, time, finished=True)
                self.canvas.leave_out_others()
                self.ended, more = True, False
                state = self.canvas.state(step, self.count)
            yield state


class Streaming:
    """A pipeline whose methods can be streamed."""

    streams: ClassVar[Mapping[str, Callable[..., TextStream]]] = {}
    """The functions that make the stream of each method from the pipeline and all arguments of the method."""

    def stream(self, *arguments: Any, method: str = "generate", **settings: Any) -> TextStream:
        """The states of the texts after each step of `generate`, or of another method.

        The texts of the last state are those that the method returns, bit for bit. A step is made when its state is
        requested; after the loop is left early, nothing stays changed.

        **Arguments:**

        - `method`: "generate"; of diffusion models also "infill" and "self_correction".
        - `arguments`, `settings`: those of the method; the rule of "self_correction", there `method`, is
          `correction_method` here. No progress bar is shown unless `show_progress=True`.

        **Returns:** an iterator over `noiselab.pipeline.GenerationState`: one for each step, and one more if a batch ends
        early.

        **Raises:** `ValueError` as the method, before the first step.
        """
        if not isinstance(method, str) or method not in self.streams:
            raise ValueError(f"method must be one of {', '.join(self.streams)}; got {method!r}")
        signature = inspect.signature(getattr(self, method))
        if "correction_method" in settings and "method" in signature.parameters:
            settings["method"] = settings.pop("correction_method")
        quiet = {"show_progress": False} if "show_progress" in signature.parameters else {}
        bound = signature.bind(*arguments, **{**quiet, **settings})
        bound.apply_defaults()
        if bound.arguments.get("processes") is not None:
            raise ValueError("processes must be None in a stream, whose states are those of one process; got some")
        return self.streams[method](self, **arguments_of(bound.arguments))


def _is_true(answer: Any) -> bool:
    """Whether a callback returned True, also as numpy or torch have it."""
    return answer is True or (hasattr(answer, "dtype") and bool(answer))
