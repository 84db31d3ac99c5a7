"""Sampling around tokens that are given: prompts, endings, gaps."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ...categorical import Randomness
from ...numerics import TIME_EPS
from ...process import as_token_times
from ...typing import Grid, Selection, Times, Tokens
from ..base import Advance, Sampler, Stage, WrappedSampler

TimeMode = Literal["token", "sequence"]


class Infilling(WrappedSampler):
    r"""Draws the tokens that are missing, given those that are known: any positions, in each sequence its own.

    Known tokens are put in at the start and stand at the lower end of time throughout, so that the denoiser is told that they
    are clean and a step leaves them alone. With the exact denoiser of one time per token the law of the others tends to
    $p(x_{\text{missing}} \mid x_{\text{known}})$ as steps grow; for one missing token it is that at any number of steps.
    (Where noise is left at the lower end itself, as in `log_snr_hybrid`, up to that noise.)

    Put it around a sampler with correctors, not inside: what is around it does not know of known tokens. `converges` is
    False, for the law is not that of whole sequences.

    **Arguments:**

    - `inner`: the sampler to wrap.
    - `tokens`: the known tokens, for each sequence or one row for all; what stands elsewhere makes no difference.
    - `known`: where they are known.
    - `times`: "token", or "sequence" for networks that were trained with one time per sequence: they are told the time of the
      sequence, and known tokens are put back after each step. For masking both are the same. For noise that does not
      show, the network then takes known tokens for as noisy as the others, and the law is another one.

    **Raises:** `ValueError` for known tokens that data cannot contain, and for sequences of another length.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.1)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    tokens = torch.tensor([[0, 0, 0, 1]])
    known = torch.tensor([[True, False, False, True]])
    x = nl.Infilling(nl.AncestralSampler(process, oracle), tokens, known).sample((5, 4), steps=16)
    assert (x[:, 0] == 0).all() and (x[:, 3] == 1).all()
    ```
    """

    def __init__(self, inner: Sampler, tokens: Tokens, known: Selection, *, times: TimeMode = "token"):
        super().__init__(inner)
        if times not in get_args(TimeMode):
            raise ValueError(f"times must be 'token' or 'sequence'; got {times!r}")
        if tokens.shape != known.shape:
            raise ValueError(f"tokens and known must have one shape; got {list(tokens.shape)} and {list(known.shape)}")
        given, vocab_size = tokens[known].cpu(), self.process.vocab_size
        if given.numel() and (given.min() < 0 or given.max() >= vocab_size):
            raise ValueError(f"known tokens must lie in [0, {vocab_size}); got {given.min()} to {given.max()}")
        strange = given[~self.process.host_support()[given.long()]]
        if len(strange):
            raise ValueError(
                f"known tokens must be tokens that data can contain; got {strange.unique().tolist()[:8]}, which only noise is"
            )
        self.tokens, self.known, self.times = tokens.long(), known, times
        self.converges = False

    def start(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """The inner sampler's, with the known tokens in it."""
        self.require(length)
        return self.put(self.inner.start(batch, length, generator=generator, device=device))

    def walk(self, z: Tokens, times: Grid, *, generator: Randomness = None) -> Iterator[Tokens]:
        """As `Sampler.walk`; the known tokens are put into `z` first."""
        self.require(z.shape[1])
        return super().walk(z, times, generator=generator)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """That of the inner sampler, from a state with the known tokens in it."""
        for stages in self.inner.path(self.put(z), times, generator=generator, advance=advance or self.stages):
            yield [stage._replace(z=self.put(stage.z)) for stage in stages]

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """Those of the inner sampler, each with the known tokens as they were."""
        z = self.put(z)
        done = self.inner.stages(z, self.clock(t, z), self.clock(s, z), generator=generator)
        return [stage._replace(z=self.put(stage.z)) for stage in done]

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """As the inner sampler does it, around the known tokens."""
        z = self.put(z)
        return self.put(self.inner.clean(z, self.clock(t, z), generator=generator))

    def put(self, z: Tokens) -> Tokens:
        """The sequences, or their beginnings, with the known tokens in their places."""
        return torch.where(self._fit(self.known, z), self._fit(self.tokens, z), z)

    def clock(self, t: Times, z: Tokens) -> Float[Tensor, "..."]:
        """The times that the inner sampler is given."""
        if self.times == "sequence":
            # At the very end of time an exact denoiser finds tokens of data impossible.
            return t.double().clamp(max=self.process.domain[1] - TIME_EPS)
        return torch.where(self._fit(self.known, z), self.process.domain[0], as_token_times(t, z))

    def require(self, length: int) -> None:
        """Raise `ValueError` unless the known tokens fit sequences of this length."""
        if length != self.known.shape[1]:
            raise ValueError(
                f"sequences must be as long as `known`, {self.known.shape[1]} tokens; got sequences of {length}"
            )

    def _fit(self, given: Tensor, z: Tensor) -> Tensor:
        """Cut or filled up to the length of z: a sampler by blocks may show the beginning only."""
        batch, length = z.shape
        if len(given) not in (1, batch):
            raise ValueError(
                f"known tokens must be those of one sequence or of each; got {len(given)} for {batch} sequences"
            )
        given = given[:, :length].to(z.device)
        return given if given.shape[1] == length else pad(given, (0, length - given.shape[1]))

    def extra_repr(self) -> str:
        """What it is set to."""
        return f"{int(self.known.sum())} of {self.known.numel()} tokens known" + (
            ", times='sequence'" if self.times == "sequence" else ""
        )


class Prompted(Infilling):
    """`Infilling` of what follows a prompt, in sequences of any length that holds it.

    **Arguments:**

    - `inner`: the sampler to wrap.
    - `prompt`: the first tokens, for each sequence or one row for all.
    - `times`: as for `Infilling`.

    **Raises:** `ValueError` for tokens that data cannot contain, and for sequences shorter than the prompt.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    sampler = nl.samplers.Prompted(nl.AncestralSampler(process, oracle), torch.tensor([[0, 1]]))
    assert (sampler.sample((5, 8), steps=16)[:, :2] == torch.tensor([0, 1])).all()
    ```
    """

    def __init__(self, inner: Sampler, prompt: Int[Tensor, "batch prompt"], *, times: TimeMode = "token"):
        super().__init__(inner, prompt, torch.ones_like(prompt, dtype=torch.bool), times=times)

    def require(self, length: int) -> None:
        """Raise `ValueError` if sequences of this length do not hold the prompt."""
        if length < self.known.shape[1]:
            raise ValueError(
                f"sequences must hold the prompt of {self.known.shape[1]} tokens; got sequences of {length}"
            )

    def extra_repr(self) -> str:
        """What it is set to."""
        return f"a prompt of {self.known.shape[1]} tokens" + (", times='sequence'" if self.times == "sequence" else "")
