"""Revisers of finished texts by decoders that backtrack."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..categorical import Randomness
from ..denoisers.modes import evaluating
from ..revisions import Detector, Revised, Reviser, require_detector, require_free_end
from ..typing import Selection, Tokens
from .backtracking import BacktrackingDecoder, Generation


class BacktrackingReviser(Reviser):
    """Deletes the first suspected unit of a text and everything after it, and lets a decoder continue from there.

    The text is read as if the decoder had written it: the first token or step whose score is above the threshold is
    deleted, and the decoder continues to the full length, with its own backtracking. Texts without a suspected unit are
    not changed. Evaluations are those of the decoder; the detector's are not counted.

    **Arguments:**

    - `decoder`: a `BackspaceSampler`, a `RetryUponRegret`, or another `BacktrackingDecoder`, with a budget such that no text
      reaches the limit on entries, ten times its length. `decoder.reach` sets what is left when a unit is deleted.
    - `detector`: its unit must be "token" or "step".
    - `threshold`: units with a larger score are suspected.

    **Raises:** `ValueError` for anything but such a detector, or a threshold that is NaN; when called, if a text stays shorter
    than it was.

    **Example:**

    ```python
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from noiselab.autoregressive import BacktrackingReviser, RetryUponRegret, StepDetector

    class NoSeven(StepDetector):
        def score_step(self, text):
            return float(7 in text.tolist())

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes)).eval()
    detector = NoSeven(ends=[9])
    decoder = RetryUponRegret(network, detector, vocab_size=10, boundary=[9], start=0)
    reviser = BacktrackingReviser(decoder, detector, threshold=0.5)
    revised = reviser(torch.tensor([[1, 2, 9, 7, 9, 3], [1, 2, 9, 4, 9, 3]]))
    assert revised.tokens[:, :3].tolist() == [[1, 2, 9]] * 2 and revised.tokens[1].tolist() == [1, 2, 9, 4, 9, 3]
    ```
    """

    kind = "backtrack"

    def __init__(self, decoder: BacktrackingDecoder, detector: Detector, *, threshold: float | int) -> None:
        if math.isnan(threshold):
            raise ValueError(f"threshold must not be NaN; got {threshold}")
        self.decoder, self.detector = decoder, require_detector(detector, "token", "step")
        self.threshold = float(threshold)

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The texts, continued from their first suspected unit."""
        suspected = (self.detector(z) > self.threshold).tolist()
        free = torch.ones_like(z, dtype=torch.bool) if rows is None else rows
        first_free = count_protected(free)
        found = {
            number: left
            for number, text in enumerate(z.tolist())
            if (left := self._find_first(text, suspected[number], first_free[number])) is not None
        }
        if not found:
            return Revised(z, 0)
        if isinstance(generator, Sequence):
            generator = [generator[number] for number in found]
        prompts = [z[number, :left].cpu() for number, left in found.items()]
        with evaluating(self.decoder.network):
            generation = self.decoder.sample(prompts, length=z.shape[1], generator=generator)
        tokens = z.clone()
        tokens[list(found)] = stack_texts(generation, z.shape[1], self.decoder.budget).to(z)
        return Revised(tokens, sum(generation.evaluations))

    def _find_first(self, text: list[int], suspected: list[bool], first_free: int) -> int | None:
        """How many tokens are left when the first suspected unit that can be deleted is deleted; `None` if there is none."""
        for place, is_suspected in enumerate(suspected):
            if is_suspected and (left := self.decoder.reach(text[: place + 1])) >= first_free:
                return left
        return None

    def __repr__(self) -> str:
        return f"BacktrackingReviser({type(self.decoder).__name__}, {self.detector}, threshold={self.threshold:g})"


class ContinuationReviser(Reviser):
    """Takes the beginning of each text as a prompt, whose end the decoder can delete, and generates the rest again.

    With `bias=-torch.inf` a `BackspaceSampler` is the plain model, which deletes nothing. With `deep=False` it deletes no more
    than the last token of a prompt. Evaluations are those of the decoder.

    **Arguments:**

    - `decoder`: a `BackspaceSampler`, a `RetryUponRegret`, or another `BacktrackingDecoder`, with a budget such that no text
      reaches the limit on entries, ten times its length.
    - `given`: the length of the prompts; the tokens after them are replaced, whatever they were.

    **Raises:** `ValueError` for a negative `given`; when called, for `rows` that leave out a token after the prompt, or if a
    text stays shorter than it was.
    """

    kind = "continue"

    def __init__(self, decoder: BacktrackingDecoder, *, given: int) -> None:
        if given < 0:
            raise ValueError(f"given must not be negative; got {given}")
        self.decoder, self.given = decoder, given

    def revise(self, z: Tokens, *, rows: Selection | None = None, generator: Randomness = None) -> Revised:
        """The texts with a new end; of a prompt, the tokens after the last one outside `rows` can be deleted."""
        kept = count_protected(require_free_end(rows, z, self.given))
        with evaluating(self.decoder.network):
            generation = self.decoder.sample(
                list(z[:, : self.given].cpu()), length=z.shape[1], kept=kept, generator=generator
            )
        return Revised(stack_texts(generation, z.shape[1], self.decoder.budget).to(z), sum(generation.evaluations))

    def __repr__(self) -> str:
        return f"ContinuationReviser({type(self.decoder).__name__}, given={self.given})"


def count_protected(free: Selection) -> list[int]:
    """For each sequence, the number of tokens up to the last one that must not change."""
    places = torch.arange(1, free.shape[1] + 1, device=free.device)
    return torch.where(free, 0, places).amax(-1).tolist()


def stack_texts(generation: Generation, length: int, budget: int | None) -> Tensor:
    """The texts of a generation as one tensor.

    **Raises:** `ValueError` if one is shorter than `length`.
    """
    if (shortest := min(map(len, generation.texts))) < length:
        raise ValueError(f"texts must have {length} tokens; got one of {shortest} within the budget {budget}")
    return torch.stack(generation.texts)
