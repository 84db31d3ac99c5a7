r"""Exact bounds and model distributions by enumeration, for small vocabularies and short sequences.

All $V^L$ noisy sequences are summed and time is integrated by quadrature, so that only rounding errors remain. Use the
results as a reference for estimates and samplers.
"""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..denoisers import Denoiser, as_leave_one_out
from ..denoisers.checked import checked
from ..elbo import nelbo, reconstruction
from ..elbo.ends import prior_log_prob
from ..elbo.steps import step_kl
from ..numerics import ENTRIES_AT_ONCE, TIME_EPS, require_count, require_number, require_sequences
from ..process import NoiseProcess
from ..typing import Grid, PerSequence, Tokens
from .bounds import BoundTerms, Scene
from .nodes import process_quadrature
from .ranges import falling, time_range

LARGEST = 1 << 16  # maximum number of enumerated sequences


def every_sequence(tokens: int | Int[Tensor, " chain"], length: int) -> Tokens:
    """All sequences of the given tokens, in lexical order.

    **Arguments:**

    - `tokens`: the tokens, or a number n for 0 to n - 1.
    - `length`: the length of a sequence.

    **Raises:** `ValueError` if there are more than 65,536.
    """
    tokens = tokens if isinstance(tokens, Tensor) else torch.arange(require_count("tokens", tokens))
    require_count("length", length)
    _small(len(tokens), length)
    return torch.cartesian_prod(*length * [tokens]).view(-1, length)


@torch.no_grad()
def expected_bound(
    process: NoiseProcess,
    denoiser: Denoiser,
    x: Tokens,
    *,
    times: tuple[Float[Tensor, "nodes ..."], Float[Tensor, "nodes ..."]] | None = None,
    nodes: int = 64,
    low: float | int = 0.0,
    high: float | int | None = None,
) -> BoundTerms:
    r"""The continuous-time bound of each sequence without Monte Carlo error: the mean of `continuous_bound`.

    With the exact leave-one-out denoiser, its mean over the data distribution is the entropy of the data.

    **Arguments:**

    - `denoiser`: of any parametrisation.
    - `x`: clean sequences. Noisy sequences that none of them can become are not evaluated.
    - `times`: (t, weight) such that the **sum** of weight * f(t) is the integral: of shape [nodes], or [nodes, length] for
      times that differ by token. By default those of `process_quadrature`.
    - `nodes`: the number of times; `process_quadrature` describes how many suffice.
    - `low`, `high`: the time range, by default the whole domain. At its lower end the reconstruction is evaluated at
      1e-12, the smallest time with defined rates, so that noise as steep as the tenth root of t also has a bound. At
      the upper end the last 1e-12 is not included: for a signal that jumps to 0 there, as $(1 - t)^{0.1}$ nearly does,
      the result is below the bound.

    **Returns:** nats per sequence, float64; average them with `terms.mean(probabilities)`.

    **Raises:** `ValueError` for more than 65,536 noisy sequences, or a time range outside the domain.

    **Source:** enumeration; the identity with the entropy is on the theory page.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    x = nl.likelihood.every_sequence(2, 3)
    bound = nl.likelihood.expected_bound(process, oracle, x).mean(oracle.log_prob(x).exp()).total
    assert abs(bound.item() - oracle.entropy(3)) < 1e-4
    ```
    """
    low, high = time_range(process, max(require_number("low", low), process.domain[0]), high)
    low = max(low, process.domain[0] + TIME_EPS)
    t, weight = process_quadrature(process, nodes, low=low, high=high) if times is None else times
    every = _Every(process, denoiser, x)
    diffusion, scene = every.expect(nelbo, t.double(), weight.double()), Scene(process, denoiser, x)
    return BoundTerms(diffusion, every.rebuilt(low), scene.prior(high))


@torch.no_grad()
def expected_discrete_bound(process: NoiseProcess, denoiser: Denoiser, x: Tokens, times: Grid) -> BoundTerms:
    r"""The discrete-time bound of each sequence without Monte Carlo error: the mean of `discrete_bound`.

    **Arguments:**

    - `denoiser`, `x`: as for `expected_bound`.
    - `times`: decreasing times, as for a sampler.

    **Returns:** nats per sequence, float64; never below minus the logarithm of `model_law`.

    **Raises:** `ValueError` for more than 65,536 noisy sequences, or a grid that does not fall within the domain.
    """
    grid = falling(process, times).to(x.device)
    every, scene = _Every(process, denoiser, x), Scene(process, denoiser, x)
    steps = grid[:-1] if scene.clean_at(grid[-1].item()) else grid
    diffusion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if len(steps) > 1:

        def value(process: NoiseProcess, logits: Tensor, x: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return step_kl(process, logits, x, z, s, t)

        diffusion = every.expect(value, steps[:-1], None, steps[1:])
    ends = every.rebuilt(steps[-1].item()), scene.prior(steps[0].item())
    return BoundTerms(diffusion, *ends)


@torch.no_grad()
def model_law(process: NoiseProcess, denoiser: Denoiser, length: int, times: Grid) -> Float[Tensor, " sequences"]:
    r"""The exact distribution over all $V^L$ sequences generated by `AncestralSampler` with these steps.

    It starts from pure noise at the first of `times`, multiplies dense transition matrices, and ends with the sampler's
    jump to clean tokens, $p(x \mid z) \propto \hat x_x\, q_t(z \mid x)$, if noise is left at the last time.

    **Arguments:**

    - `denoiser`: of any parametrisation.
    - `times`: decreasing times.

    **Returns:** probabilities in the order of `every_sequence(process.vocab_size, length)`, float64.

    **Raises:** `ValueError` for more than 65,536 sequences, or a grid that does not fall within the domain.

    **Example:**

    ```python
    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), process)
    law = nl.likelihood.model_law(process, oracle, 2, torch.tensor([1.0, 0.0])).view(3, 3)
    assert torch.allclose(law[:2, :2], torch.tensor(0.25).double())  # one step: the two equal tokens differ half of the time
    ```
    """
    denoiser = checked(as_leave_one_out(denoiser, process), process)
    z = every_sequence(process.vocab_size, length).to(_device(process, denoiser))
    grid = falling(process, times).to(z.device)
    law = prior_log_prob(process, z, grid[0].expand(len(z))).sum(-1).exp()
    for t, s in itertools.pairwise(grid):
        law = _moved(process, denoiser, z, law, t, s)
    return _moved(process, denoiser, z, law, grid[-1], None)


def _moved(process: NoiseProcess, denoiser: Denoiser, z: Tensor, law: Tensor, t: Tensor, s: Tensor | None) -> Tensor:
    """The law of the sequences after a step from t to s, or to clean tokens."""
    new, (reached,) = torch.zeros_like(law), (law > 0).nonzero(as_tuple=True)
    for part in reached.split(max(1, ENTRIES_AT_ONCE // len(z))):
        zs = z[part]
        now = t.expand(len(zs))
        stays = process.is_clean(zs, now)
        if s is None and bool(stays.all()):
            new[part] += law[part]
            continue
        x_hat = process.on_support(denoiser(zs, now)).double().softmax(-1)
        if s is None:
            step = x_hat * process.likelihood(zs, now)
            step = step / step.sum(-1, keepdim=True)
        else:
            step = process.posterior(zs, x_hat, s.expand(len(zs)), now)
        one_hot = torch.nn.functional.one_hot(zs, process.vocab_size).double()
        step = torch.where(stays[..., None], one_hot, step)
        # Two halves of the positions and a matrix product: the transition matrix of whole sequences is never stored.
        half = zs.shape[1] // 2
        new += (_every_product(law[part][:, None], step[:, :half]).T @ _every_product(None, step[:, half:])).flatten()
    return new


def _every_product(start: Tensor | None, steps: Tensor) -> Tensor:
    """The products of one probability at each position, for all sequences of these positions: [rows, state^positions]."""
    product = torch.ones_like(steps[:, 0, :1]) if start is None else start
    for column in steps.unbind(1):
        product = (product[:, :, None] * column[:, None, :]).flatten(1)
    return product


def _device(process: NoiseProcess, denoiser: Denoiser) -> torch.device:
    """The device for enumeration."""
    tensors = (*denoiser.parameters(), *denoiser.buffers(), *process.parameters(), *process.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


class _Every:
    """Expectations over all noisy sequences, for each clean sequence of a set."""

    def __init__(self, process: NoiseProcess, denoiser: Denoiser, x: Tensor):
        self.process, self.denoiser, self.x = process, checked(as_leave_one_out(denoiser, process), process), x
        require_sequences("x", x, process.vocab_size)
        self.z = every_sequence(process.vocab_size, x.shape[1]).to(x.device)
        self.tokens = x.unique()

    def expect(
        self, value: Callable[..., Tensor], t: Tensor, weight: Tensor | None = None, *more: Tensor
    ) -> PerSequence:
        """The mean of sum_i weight_i value(process, logits, x, z, t, *more)_i over z from q_t(. | x), for every x.

        Summed over `t`, [nodes] or [nodes, length], with weights and other arguments of the same shape. The terms of a
        position depend on x only through its own token, so that each token is evaluated once.
        """
        weight = torch.ones_like(t) if weight is None else weight
        numbers = [v.to(self.x.device) for v in (t, weight, *more)]
        rows = max(1, ENTRIES_AT_ONCE // max(len(self.x), self.x.shape[1] * self.process.vocab_size))
        total = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        for z in self.z.split(rows):
            for part in zip(*(v.split(max(1, rows // len(z))) for v in numbers), strict=True):
                total = total + self._part(
                    z.repeat(len(part[0]), 1), value, *(v.repeat_interleave(len(z), 0) for v in part)
                )
        return total

    def _part(self, z: Tensor, value: Callable[..., Tensor], time: Tensor, weight: Tensor, *more: Tensor) -> Tensor:
        """The expectation if every row of z has its own time."""
        like = self.process.likelihood(z, time)  # q_t(z_i | v)
        joint = torch.ones(len(self.x), len(z), dtype=torch.float64, device=z.device)
        for i, column in enumerate(self.x.unbind(-1)):
            joint = joint * like[:, i].T[column]
        seen = (joint > 0).any(0)
        weight = weight[:, None] if weight.dim() == 1 else weight
        z, time, weight, joint, more = z[seen], time[seen], weight[seen], joint[:, seen], tuple(v[seen] for v in more)
        if not len(z):
            return joint.sum(-1)
        logits, total = self.denoiser(z, time), torch.zeros_like(joint[:, 0])
        for token in self.tokens:
            x = torch.full_like(z, int(token))
            nats = torch.where(weight == 0, 0, weight * value(self.process, logits, x, z, time, *more).double())
            nats = torch.where(self.process.probability(x, z, time) > 0, nats, 0)
            terms = joint @ nats.nan_to_num(0, 0, 0)
            if not nats.isfinite().all():
                # Infinite only if such a noisy sequence can occur.
                occurs = (joint > 0).double()
                for bad, number in ((nats.isinf(), torch.inf), (nats.isnan(), torch.nan)):
                    terms = torch.where(occurs @ bad.double() > 0, number, terms)
            total = total + torch.where(self.x == token, terms, 0).sum(-1)
        return total

    def rebuilt(self, low: float) -> PerSequence:
        """The reconstruction at the lower end."""
        return self.expect(reconstruction, torch.tensor([low], dtype=torch.float64))


def _small(states: int, length: int) -> None:
    if states**length > LARGEST:
        raise ValueError(
            f"at most {LARGEST} sequences can be enumerated; got {states} tokens at {length} positions, "
            f"{states}^{length} = {states**length}"
        )
