"""Denoisers of networks that read a prefix once and denoise the block after it: a canvas."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..categorical import Randomness
from ..denoisers import Denoiser, SelfConditioned, select
from ..likelihood import BoundTerms, continuous_bound
from ..numerics import require_count
from ..process import NoiseProcess
from ..typing import Selection, Times, Tokens


@runtime_checkable
class CanvasNetwork(Protocol):
    """What a network of a prefix and a canvas offers; `noiselab.networks.published.diffusion_gemma.DiffusionGemma` does.

    `encode(tokens, real, after=prefix)` reads tokens after an encoded prefix and returns the longer one, an object with
    `tokens` and `real`. `states(canvas, prefix=..., attention_mask=..., self_conditioning=..., conditioned=...)` returns
    hidden states of the canvas, and `project` the logits of the posterior from them.
    """

    @property
    def canvas_length(self) -> int:
        """The number of tokens in a canvas."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""

    def encode(self, tokens: Tensor, real: Tensor | None = None, *, after: Any = None) -> Any:
        """The prefix with these tokens at its end."""

    def states(self, input_ids: Tensor, *args: Any, **options: Any) -> Tensor:
        """The hidden states of a canvas."""

    def project(self, hidden: Tensor) -> Tensor:
        """The logits of hidden states."""


class CanvasDenoiser(SelfConditioned):
    """A denoiser from a network of a prefix and a canvas, such as `DiffusionGemma`: block by block, after a prompt.

    The logits of a block are those of the network for the block as canvas, given all tokens before it as prefix. Use it
    with `BlockSampler(..., block_size, given=given, context="past")`, which samples one block at a time and keeps earlier
    ones clean. The prompt is read once, and each finished block once more; prefixes are recognised by their tokens, so that
    results do not depend on what was read before.

    It predicts the posterior. Within the walk of a sampler the network is conditioned on its previous prediction for the
    block, anew in each block (`noiselab.denoisers.SelfConditioned`). Called directly it is not: then it is a function of
    tokens alone, as a bound on the likelihood requires.

    **Arguments:**

    - `network`: the network.
    - `given`: the length of the prompt, whose tokens are never predicted: their logits are 0.
    - `block_size`: the number of tokens of a block; by default the `canvas_length` of the network. The last block of a
      sequence may be shorter.
    - `self_conditioning`: whether the network is conditioned on its previous prediction.

    **Raises:** `ValueError` if a size is out of range; on a call, if tokens of the prompt are requested, or tokens of
    several blocks of one sequence at once.

    With the published weights (the guide on block diffusion runs it on a tiny network):

    ```py
    network = load_diffusion_gemma("google/diffusiongemma-26B-A4B-it")
    process = nl.uniform(vocab_size=network.vocab_size)
    denoiser = CanvasDenoiser(network, given=prompt.shape[1])
    steps = nl.samplers.RenoisingSampler(process, denoiser, 0.1, temperature=0.4 + 0.4 * nl.t, stability=1)
    blocks = nl.samplers.BlockSampler(steps, network.canvas_length, given=prompt.shape[1], context="past")
    x = nl.samplers.Prompted(blocks, prompt).sample((1, prompt.shape[1] + 512), steps=48)
    ```
    """

    takes_mask = True

    def __init__(
        self,
        network: CanvasNetwork,
        *,
        given: int = 0,
        block_size: int | None = None,
        self_conditioning: bool = True,
    ):
        super().__init__()
        self.network: Any = network
        self.predicts = "posterior"
        self.given = require_count("given", given, 0)
        self.block_size = require_count("block_size", network.canvas_length if block_size is None else block_size)
        self.self_conditioning = self_conditioning
        self._read: list[tuple[tuple, Any]] = []

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The logits of each block given the tokens before it, as they are; only blocks with selected rows are evaluated."""
        size, length, real = self.block_size, z.shape[1], self.real_tokens(z)
        starts = range(self.given, length, size)
        asked = [True] * len(starts) if rows is None else [bool(rows[:, i : i + size].any()) for i in starts]
        if rows is not None:
            self._check(rows, starts)
        nothing = torch.zeros(len(z), min(self.given, length), self.network.vocab_size, device=z.device)
        parts = [nothing]
        for start, wanted in zip(starts, asked, strict=True):
            canvas = z[:, start : start + size]
            if wanted:
                prefix = self._prefix(z[:, :start], None if real is None else real[:, :start])
                parts.append(self._logits(canvas, start, prefix, real))
            else:
                parts.append(nothing.new_zeros(1, 1, 1).expand(*canvas.shape, self.network.vocab_size))
        return select(torch.cat([part.to(parts[-1].dtype) for part in parts], 1), rows)

    def _check(self, rows: Tensor, starts: range) -> None:
        if rows[:, : self.given].any():
            raise ValueError(
                f"tokens of the prompt, the first {self.given}, must not be asked for; got some of them in rows"
            )
        count = sum(rows[:, i : i + self.block_size].any(-1).long() for i in starts)
        if isinstance(count, Tensor) and (count > 1).any():
            raise ValueError(
                f"one block of {self.block_size} tokens must be denoised at a time, because those before it are read as clean; "
                f"got tokens of {int(count.max())} blocks: use BlockSampler(..., {self.block_size}, given={self.given})"
            )

    def _logits(self, canvas: Tensor, start: int, prefix: Any, real: Tensor | None) -> Tensor:
        """The logits of one block, which become the previous prediction of the next step."""
        options: dict[str, Any] = {}
        if real is not None and not real[:, start : start + canvas.shape[1]].all():
            options["attention_mask"] = real[:, : start + canvas.shape[1]]
        before = self.previous(start, canvas) if self.self_conditioning else None
        if before is not None:
            options |= {"self_conditioning": before.logits, "conditioned": before.known}
        logits = self.network.project(self.network.states(canvas, prefix=prefix, **options))
        if self.self_conditioning:
            self.keep(start, logits)
        return logits

    def _prefix(self, tokens: Tensor, real: Tensor | None) -> Any:
        """The encoded prefix: read as far as it is not known."""
        key, known = self._network_key(), None
        if not torch.is_grad_enabled():
            for then, prefix in self._read:
                if then == key and _begins(tokens, real, prefix):
                    known = prefix if known is None or prefix.tokens.shape[1] > known.tokens.shape[1] else known
        start = 0 if known is None else known.tokens.shape[1]
        if known is None or start < tokens.shape[1]:
            known = self.network.encode(tokens[:, start:], None if real is None else real[:, start:], after=known)
        if not torch.is_grad_enabled():
            # The prompt, for the next walk, and the last prefix, for the next step or block.
            prompts = [kept for kept in self._read if kept[1].tokens.shape[1] == self.given]
            now = [(key, known)]
            self._read = now if tokens.shape[1] == self.given else prompts[:1] + now
        return known

    def _network_key(self) -> tuple:
        """A key that changes with the weights."""
        if not isinstance(self.network, nn.Module):
            return ()
        return tuple((w.data_ptr(), w.dtype, 0 if w.is_inference() else w._version) for w in self.network.parameters())

    def reset(self) -> None:
        """Delete all cached prefixes: needed only if weights were changed without autograd's knowledge (through `.data`)."""
        self._read = []

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"block_size={self.block_size}" + (f", given={self.given}" if self.given else "")


def _begins(tokens: Tensor, real: Tensor | None, prefix: Any) -> bool:
    """Whether an encoded prefix is the beginning of tokens with this mask."""
    size = prefix.tokens.shape[1]
    if size > tokens.shape[1] or len(prefix.tokens) != len(tokens) or prefix.tokens.device != tokens.device:
        return False
    ones = torch.ones_like(prefix.tokens, dtype=torch.bool)
    theirs, ours = ones if prefix.real is None else prefix.real, ones if real is None else real[:, :size]
    return torch.equal(prefix.tokens, tokens[:, :size]) and torch.equal(theirs, ours)


class _OnCanvas(Denoiser):
    """The prediction on one canvas after an encoded prefix."""

    def __init__(self, network: CanvasNetwork, prefix: Any):
        super().__init__()
        self.network, self.prefix, self.predicts = network, prefix, "posterior"

    def forward(self, z: Tokens, t: Times, rows: Selection | None = None) -> Float[Tensor, "... state"]:
        """The logits of the canvas, without self-conditioning."""
        return self.network.project(select(self.network.states(z, prefix=self.prefix), rows))


@torch.no_grad()
def canvas_bounds(
    process: NoiseProcess,
    network: CanvasNetwork,
    x: Tokens,
    *,
    given: int = 0,
    block_size: int | None = None,
    nodes: int | tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]] | None = None,
    times: tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]] | None = None,
    low: float | int | None = None,
    generator: Randomness = None,
) -> list[BoundTerms]:
    r"""Estimate the bound on -log p of each block given all tokens before it; their sum is that of the text.

    $$-\log p(x_{> n} \mid x_{\le n}) = \sum_b -\log p(x^b \mid x^{<b}) \le \sum_b \text{bound}(x^b \mid x^{<b})$$

    Each block is one canvas: it is noised, and the tokens before it are the clean prefix. The network is used without
    self-conditioning. That is a valid denoiser: a bound holds for every function from noisy tokens and times to
    predictions, and self-conditioned networks are trained on first steps, which have no previous prediction. With a
    prediction carried from step to step the reverse process would depend on earlier steps too, and the terms of the bound,
    one time each, would not describe it.

    **Arguments:**

    - `process`: the noise on a canvas; uniform over the vocabulary for DiffusionGemma. Its schedule does not matter.
    - `network`: a network of a prefix and a canvas that predicts the posterior.
    - `x`: clean tokens, with the prompt.
    - `given`: the length of the prompt, which is not scored.
    - `block_size`: the number of tokens of a block; by default the `canvas_length` of the network.
    - `nodes`, `times`, `low`, `generator`: as for `noiselab.continuous_bound`, for every block.

    **Returns:** the terms of each block, in nats for each sequence, float64.

    **Source:** the chain rule, and Arriola et al. (2025), arXiv 2503.09573, for bounds of blocks.

    For the tokens x of which the first 64 are given:

    ```py
    terms = canvas_bounds(nl.uniform(vocab_size=network.vocab_size), network, x, given=64, nodes=16)
    nats = sum(block.total for block in terms) / (x.shape[1] - 64)
    ```
    """
    given, length = require_count("given", given, 0, x.shape[1]), x.shape[1]
    size = require_count("block_size", network.canvas_length if block_size is None else block_size)
    prefix, found = network.encode(x[:, :given]), []
    for start in range(given, length, size):
        block = x[:, start : start + size]
        on_canvas = _OnCanvas(network, prefix)
        found.append(
            continuous_bound(process, on_canvas, block, times=times, nodes=nodes, low=low, generator=generator)
        )
        prefix = network.encode(block, after=prefix)
    return found
