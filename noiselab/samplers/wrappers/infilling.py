"""Infilling: sampling given known tokens such as prompts, endings or any other positions."""

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
    r"""Samples the missing tokens given known ones, at any positions, which may differ between sequences.

    Known tokens are inserted at the start and have the lower end of time throughout: the denoiser receives them as
    clean, and steps do not change them. With the exact denoiser and per-token times, the distribution of the other
    tokens converges to $p(x_{\text{missing}} \mid x_{\text{known}})$ as the number of steps grows; for one missing
    token it is exact for any number of steps. (For processes with noise at the lower end of time, such as
    `log_snr_hybrid`, up to that noise.)

    Wrap it around a sampler with correctors, not inside one: an outer wrapper may change the known tokens. `converges`
    is False, because the distribution is conditional.

    **Arguments:**

    - `inner`: the sampler to wrap.
    - `tokens`: the known tokens, for each sequence or one row for all; other positions are ignored.
    - `known`: the mask of known positions.
    - `times`: "token", or "sequence" for networks trained with one time per sequence: they receive the time of the
      sequence, and known tokens are restored after each step. For absorbing noise both are equivalent. For noise on
      data tokens, the network then treats known tokens as noisy, and the distribution differs.

    **Raises:** `ValueError` if known tokens are outside the support, or sequences have another length.

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
        super().__init__(inner.knowing(known) if isinstance(inner, Sampler) else inner)
        if times not in get_args(TimeMode):
            raise ValueError(f"times must be 'token' or 'sequence'; got {times!r}")
        if tokens.shape != known.shape or known.dtype != torch.bool:
            raise ValueError(
                f"known must be Bool of the shape of the tokens, {list(tokens.shape)}; got {known.dtype} {list(known.shape)}"
            )
        given, vocab_size = tokens[known].cpu(), self.process.vocab_size
        if given.numel() and (given.min() < 0 or given.max() >= vocab_size):
            raise ValueError(f"known tokens must lie in [0, {vocab_size}); got {given.min()} to {given.max()}")
        strange = given[~self.process.host_support()[given.long()]]
        if len(strange):
            raise ValueError(f"known tokens must be in the support of the process; got {strange.unique().tolist()[:8]}")
        self.tokens, self.known, self.times = tokens.long(), known, times
        self.converges, self.keeps_clean = False, inner.keeps_clean

    def start(
        self, batch: int, length: int, *, generator: Randomness = None, device: torch.device | str | None = None
    ) -> Tokens:
        """The initial tokens of the inner sampler, with the known tokens inserted."""
        self.require(length)
        return self.put(self.inner.start(batch, length, generator=generator, device=device))

    def walk(self, z: Tokens, times: Grid, *, generator: Randomness = None) -> Iterator[Tokens]:
        """As `Sampler.walk`, after inserting the known tokens into `z`."""
        self.require(z.shape[1])
        return super().walk(z, times, generator=generator)

    def path(
        self, z: Tokens, times: Grid, *, generator: Randomness = None, advance: Advance | None = None
    ) -> Iterator[list[Stage]]:
        """The path of the inner sampler, from a state with the known tokens inserted."""
        for stages in self.inner.path(self.put(z), times, generator=generator, advance=advance or self.stages):
            yield [stage._replace(z=self.put(stage.z)) for stage in stages]

    def stages(self, z: Tokens, t: Times, s: Times, *, generator: Randomness = None) -> list[Stage]:
        """The stages of the inner sampler, each with the known tokens restored."""
        z = self.put(z)
        done = self.inner.stages(z, self.clock(t, z), self.clock(s, z), generator=generator)
        return [stage._replace(z=self.put(stage.z)) for stage in done]

    def clean(self, z: Tokens, t: Times, *, generator: Randomness = None) -> Tokens:
        """As for the inner sampler, with the known tokens restored."""
        z = self.put(z)
        return self.put(self.inner.clean(z, self.clock(t, z), generator=generator))

    def known_tokens(self) -> Selection:
        """The mask of known positions."""
        return self.known

    def put(self, z: Tokens) -> Tokens:
        """Insert the known tokens into sequences, or into their beginnings."""
        return torch.where(self._fit(self.known, z), self._fit(self.tokens, z), z)

    def clock(self, t: Times, z: Tokens) -> Float[Tensor, "..."]:
        """The times passed to the inner sampler."""
        if self.times == "sequence":
            # At the upper end of time data tokens are impossible for an exact denoiser.
            return t.double().clamp(max=self.process.domain[1] - TIME_EPS)
        return torch.where(self._fit(self.known, z), self.process.domain[0], as_token_times(t, z))

    def require(self, length: int) -> None:
        """Raise `ValueError` unless the known tokens fit sequences of this length."""
        if length != self.known.shape[1]:
            raise ValueError(
                f"sequences must be as long as `known`, {self.known.shape[1]} tokens; got sequences of {length}"
            )

    def _fit(self, given: Tensor, z: Tensor) -> Tensor:
        """Truncate or pad to the length of z, because block samplers may pass only the beginning."""
        batch, length = z.shape
        if len(given) not in (1, batch):
            raise ValueError(
                f"known tokens must be those of one sequence or of each; got {len(given)} for {batch} sequences"
            )
        given = given[:, :length].to(z.device)
        return given if given.shape[1] == length else pad(given, (0, length - given.shape[1]))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{int(self.known.sum())} of {self.known.numel()} tokens known" + (
            ", times='sequence'" if self.times == "sequence" else ""
        )


class Prompted(Infilling):
    """`Infilling` after a prompt, for sequences of any length that contain it.

    **Arguments:**

    - `inner`: the sampler to wrap.
    - `prompt`: the leading tokens, for each sequence or one row for all.
    - `times`: as for `Infilling`.

    **Raises:** `ValueError` if tokens are outside the support, or sequences are shorter than the prompt.

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
        """Raise `ValueError` if sequences of this length are shorter than the prompt."""
        if length < self.known.shape[1]:
            raise ValueError(
                f"sequences must hold the prompt of {self.known.shape[1]} tokens; got sequences of {length}"
            )

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"a prompt of {self.known.shape[1]} tokens" + (", times='sequence'" if self.times == "sequence" else "")
