r"""Upper bounds on the negative log-likelihood of sequences, as the sum of three terms.

$$-\log p(x) \;\le\; \text{diffusion} + \text{reconstruction} + \text{prior}$$

Each term is estimated without bias for each sequence. The sum is a bound only with all three.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..categorical import Randomness, TokenGenerators
from ..denoisers import Denoiser, as_leave_one_out, attending_to
from ..denoisers.checked import LogitChecks, check_of
from ..distributed import is_sharded
from ..elbo import nelbo, prior_kl, reconstruction
from ..elbo.steps import step_kl
from ..numerics import TIME_EPS, require_tokens
from ..process import NoiseProcess
from ..times import sine_clock, stratified_times
from ..typing import Grid, PerSequence, Selection, Tokens
from .nodes import process_quadrature
from .ranges import falling, require_range, time_range

Result = TypeVar("Result")


class BoundTerms(NamedTuple):
    r"""The terms of a bound on $-\log p(x)$ in nats, one value for each sequence.

    **Arguments:**

    - `diffusion`: the integral of `nelbo` over the time range, or the sum of `step_kl` over the steps.
    - `reconstruction`: the term for predicting the clean tokens from noisy ones at the lower end.
    - `prior`: the term for starting from pure noise at the upper end.
    """

    diffusion: PerSequence
    reconstruction: PerSequence
    prior: PerSequence

    @property
    def total(self) -> PerSequence:
        """The bound: the sum of all three terms."""
        return self.diffusion + self.reconstruction + self.prior

    def mean(self, weights: PerSequence | None = None) -> "BoundTerms":
        """Each term averaged over the sequences, as a batch of one.

        **Arguments:**

        - `weights`: probabilities of the sequences; uniform by default.
        """
        if weights is None:
            weights = torch.full_like(self.prior, 1 / len(self.prior))
        return BoundTerms(*((term * weights.to(term)).sum(-1, keepdim=True) for term in self))


def continuous_bound(
    process: NoiseProcess,
    denoiser: Denoiser,
    x: Tokens,
    *,
    times: tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]] | None = None,
    nodes: int | tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]] | None = None,
    low: float | int | None = None,
    high: float | int | None = None,
    real: Selection | None = None,
    generator: Randomness = None,
) -> BoundTerms:
    r"""Estimate the continuous-time bound of each sequence.

    $$\int_{low}^{high} \mathbb E_{z \sim q_t}\Big[\sum_i \text{nelbo}_i\Big] dt
    + \mathbb E_{z \sim q_{low}}\Big[\sum_i -\log p(x_i \mid z)\Big] + \sum_i KL(q_{high}(\cdot \mid x_i)\,\|\,\bar q_{high})$$

    It is a bound for every time range and denoiser, and equals $-\log p(x)$ for the exact denoiser on the full range.

    **Arguments:**

    - `denoiser`: a denoiser of any prediction type.
    - `x`: clean tokens.
    - `times`: (t, weight), one time for each sequence, [batch], or for each token, [batch, length], such that the mean of
      weight * f(t) is the integral: from `importance_times`, `block_times`, `path_times`. They must run over the range
      from `low` to `high`. By default stratified on the clock of `sine_clock`.
    - `nodes`: the number of fixed quadrature times for all sequences, in place of random times (`process_quadrature`,
      which describes how many suffice), or the times themselves as (t, weight), to be summed. Each is one network
      evaluation; the only randomness is that of z.
    - `low`, `high`: the time range: by default from 1e-4, or the lower end of the process's domain if that is higher,
      to its upper end. Reconstruction treats tokens as independent, so the bound is tighter for `low` closer to 0. With
      `low` = 0 it is evaluated at 1e-12, the smallest time with defined rates. It needs the network only if some token
      is noisy there: almost never for absorbing noise, always for noise on data tokens.
    - `real`: the mask of real tokens; padding is neither noised nor scored.
    - `generator`: the source of randomness for times and z: one generator, or, with `times` or `nodes`, one for each
      sequence.

    **Returns:** nats per sequence, float64. For the standard error of their mean use `average`, or, if they are
    independent, their standard deviation.

    **Raises:** `ValueError` for a time range outside the domain, both `times` and `nodes`, neither with a generator for each
    sequence, or logits that are NaN, inf, or all -inf at a token.

    **Source:** the terms are those of Kingma et al. (2021), arXiv 2107.00630; for jumps, Campbell et al. (2022),
    arXiv 2205.14987.

    **Example:**

    ```python
    from collections.abc import Sequence

    import torch
    import noiselab as nl

    process = nl.gidd(vocab_size=3, mask_id=2, p_uniform=0.2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]), process)
    generator = torch.Generator().manual_seed(0)
    x = oracle.sample(500, 4, generator=generator)
    terms = nl.continuous_bound(process, oracle, x, nodes=16, generator=generator)
    assert abs(terms.total.mean() + oracle.log_prob(x).mean()) < 0.1
    ```
    """
    low, high = time_range(process, low, high)
    low = max(low, process.domain[0] + TIME_EPS)
    if times is not None and nodes is not None:
        raise ValueError("times and nodes must not both be given; got both")
    scene = Scene(process, denoiser, x, real, generator)
    if nodes is not None:
        fixed = nodes if isinstance(nodes, tuple) else process_quadrature(process, nodes, low=low, high=high)
        parts = [scene.integrand(t.expand(len(x)), weight.expand(len(x))) for t, weight in zip(*fixed, strict=True)]
        diffusion = torch.stack(parts).sum(0)
    else:
        if times is None:
            if isinstance(generator, Sequence):
                raise ValueError("times or nodes must be given with one generator for each sequence; got neither")
            times = sine_clock(stratified_times(len(x), generator=generator), low=low, high=high)
        else:
            if not isinstance(times, Sequence) or len(times) != 2:
                raise ValueError(f"times must be two tensors, the times and their weights; got {times!r}")
            require_range(*times, low, high)
        diffusion = scene.integrand(*times)
    return scene.read(BoundTerms(diffusion, scene.rebuilt(low), scene.prior(high)))


def discrete_bound(
    process: NoiseProcess,
    denoiser: Denoiser,
    x: Tokens,
    times: Grid,
    *,
    pick: PerSequence | None = None,
    real: Selection | None = None,
    generator: Randomness = None,
) -> BoundTerms:
    r"""Estimate the bound on $-\log p(x)$ of the sampler that takes these steps, for each sequence.

    $$\sum_{(t, s)} \mathbb E_{z \sim q_t}\Big[\sum_i KL\big(q(z_s \mid z, x_i)\,\|\,q(z_s \mid z, \hat x_i)\big)\Big]
    + \text{reconstruction} + \text{prior}$$

    If no noise is left at the end of the grid, the last step is the reconstruction; otherwise the sampler's jump to
    clean tokens is an additional step. The result bounds the likelihood under `AncestralSampler` with this grid and
    denoiser (`model_law`), for any number of steps, and converges to the continuous bound as their number grows.

    **Arguments:**

    - `denoiser`, `x`, `real`, `generator`: as for `continuous_bound`.
    - `times`: decreasing times, as for a sampler; N + 1 times define N steps.
    - `pick`: a number in [0, 1) for each sequence (`stratified_times(batch)`) that selects a single step, whose term is
      multiplied by the number of steps. By default all steps are evaluated, with one network evaluation each.

    **Returns:** nats per sequence, float64.

    **Raises:** `ValueError` for a grid that does not fall within the domain.

    **Source:** Austin et al. (2021), arXiv 2107.03006, equation 1.

    **Example:**

    ```python
    from collections.abc import Sequence

    import torch
    import noiselab as nl

    process = nl.masked(vocab_size=3, mask_id=2)
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), process)
    x = torch.tensor([[0, 0], [1, 1]])  # two equal tokens: one bit
    one_step = nl.discrete_bound(process, oracle, x, torch.tensor([1.0, 0.0]))
    # All tokens at once, independently: two bits.
    assert torch.allclose(one_step.total, torch.tensor(4.0).log().double())
    ```
    """
    grid = falling(process, times).to(x.device)
    scene = Scene(process, denoiser, x, real, generator)
    steps = grid[:-1] if scene.clean_at(grid[-1].item()) else grid
    ends = scene.rebuilt(steps[-1].item()), scene.prior(steps[0].item())
    count = len(steps) - 1
    if pick is not None and count:
        if pick.shape != x.shape[:1] or not ((pick >= 0) & (pick < 1)).all():
            raise ValueError(f"pick must contain {len(x)} numbers in [0, 1); got {pick.tolist()}")
        k = (pick.double() * count).long().clamp(max=count - 1)
        return scene.read(BoundTerms(count * scene.step(steps[k + 1], steps[k]), *ends))
    diffusion = torch.zeros_like(ends[0])
    for t, s in itertools.pairwise(steps):
        diffusion = diffusion + scene.step(s.expand(len(x)), t.expand(len(x)))
    return scene.read(BoundTerms(diffusion, *ends))


class Scene:
    """Sequences with a process and a leave-one-out denoiser: computes the terms of bounds, summed over tokens."""

    def __init__(
        self,
        process: NoiseProcess,
        denoiser: Denoiser,
        x: Tokens,
        real: Selection | None = None,
        generator: Randomness = None,
    ):
        self.process, self.denoiser = process, as_leave_one_out(denoiser, process)
        self.check, self.checks = check_of(process), LogitChecks()
        self.given, self.real = x, real
        data = process.data_tokens(x.device)
        if real is not None and (real.dtype != torch.bool or real.shape != x.shape):
            raise ValueError(f"real must be Bool of shape {list(x.shape)}; got {real.dtype} {list(real.shape)}")
        if x.dim() != 2:
            raise ValueError(f"x must have shape [batch, length]; got {list(x.shape)}")
        require_tokens("x", x if real is None else x[real], process.vocab_size)
        if real is not None and isinstance(generator, Sequence):
            generator = TokenGenerators(generator, real)  # the noise of a sequence does not depend on its padding
        self.generator = generator
        x = x if real is None else torch.where(real, x, 0)
        strange = ~data[x] if real is None else ~data[x] & real
        if strange.any():
            raise ValueError(f"x must consist of data tokens (`process.support`); got token {x[strange][0].item()}")
        # Padding may be outside the support of the process; it is replaced by a token of the support, and its loss
        # dropped.
        self.x = x if real is None else torch.where(real, x, data.to(torch.uint8).argmax())

    def draw(self, t: Tensor) -> Tensor:
        """Tokens drawn at the times t."""
        z = self.process.corrupt(self.x, t, generator=self.generator)
        return z if self.real is None else torch.where(self.real, z, self.x)

    def noisy(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy tokens at the times t, and the prediction from them."""
        z = self.draw(t)
        return z, self.predict(z, t)

    def predict(self, z: Tensor, t: Tensor) -> Tensor:
        """Leave-one-out logits; the network receives padding unchanged."""
        if self.real is not None:
            # A prompt is given, not noise. At the upper end of time, where data tokens may be impossible, an exact denoiser
            # would not take it for evidence; samplers given known tokens make their first step from here, too.
            z = torch.where(self.real, z, self.given)
            t = t.double().clamp(max=self.process.domain[1] - TIME_EPS)
        with attending_to(self.denoiser, clean=self.given):
            logits = self.denoiser(z, t)
        with self.checks:
            self.check(logits if self.real is None else logits[self.real], t, self.denoiser)
        return logits

    def integrand(self, t: Tensor, weight: Tensor) -> Tensor:
        """One draw of the bound's integrand, weighted."""
        t, weight = t.to(self.x.device), weight.to(self.x.device)
        weight = (weight[:, None] if weight.dim() == 1 else weight).expand(self.x.shape)
        z, logits = self.noisy(t)
        # Dropped where the weight is 0, because at the ends of time the integrand may be infinite.
        value = nelbo(self.process, logits, self.x, z, t).double()
        return self.sum(torch.where(weight == 0, 0, weight * value))

    def step(self, s: Tensor, t: Tensor) -> Tensor:
        """One draw of the divergence of a step."""
        s, t = s.to(self.x.device), t.to(self.x.device)
        z, logits = self.noisy(t)
        return self.sum(step_kl(self.process, logits, self.x, z, s, t).double())

    def rebuilt(self, low: float) -> Tensor:
        """One draw of the reconstruction; the network is not evaluated if all tokens are known to be clean."""
        t = self.full(low)
        z = self.draw(t)
        certain = self.process.is_clean(z, t)
        if bool((certain if self.real is None else certain | ~self.real).all()):
            if is_sharded(self.denoiser):
                self.predict(z, t)  # other processes may need it for their sequences, and wait for the call of this one
            return torch.zeros_like(t)
        return self.sum(reconstruction(self.process, self.predict(z, t), self.x, z, t).double())

    def prior(self, high: float) -> Tensor:
        """The divergence from pure noise."""
        return self.sum(prior_kl(self.process, self.x, self.full(high)).double())

    def clean_at(self, t: float) -> bool:
        """Whether no noise is left at a time, so that every token is clean."""
        time = self.full(t)
        certain = (self.process.probability(self.x, self.x, time) == 1) & self.process.is_clean(self.x, time)
        return bool(certain.all())

    def full(self, t: float) -> Tensor:
        """One time for all sequences."""
        return torch.full((len(self.x),), t, dtype=torch.float64, device=self.x.device)

    def read(self, result: Result) -> Result:
        """The result, after reading the checks of all logits that it is made from."""
        self.checks.read()
        return result

    def sum(self, value: Tensor) -> Tensor:
        """Summed over real tokens."""
        return (value if self.real is None else torch.where(self.real, value, 0)).sum(-1)
