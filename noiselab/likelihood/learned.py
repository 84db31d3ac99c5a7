"""Learning a process with the bound: gradients that account for the dependence of noisy tokens on its parameters."""

from collections.abc import Sequence

import torch

from ..categorical import Randomness
from ..denoisers import Denoiser, as_leave_one_out, attending_to
from ..elbo import nelbo
from ..process import NoiseProcess
from ..typing import PerSequence, Times, Tokens


def learned_nelbo(
    process: NoiseProcess, denoiser: Denoiser, x: Tokens, t: Times, *, generator: Randomness = None
) -> PerSequence:
    r"""The bound's integrand for each sequence, with an unbiased gradient also for the parameters of the process.

    With f(z) the sum of `nelbo` over the tokens and two draws $z, z' \sim q_t(\cdot \mid x)$, the value is
    $\frac12 (f(z) + f(z'))$ and the gradient

    $$\tfrac12 \big(\nabla f(z) + \nabla f(z')\big)
    + \tfrac12 \big(f(z) - f(z')\big) \big(\nabla \log q_t(z \mid x) - \nabla \log q_t(z' \mid x)\big)$$

    Plain backpropagation through `nelbo` omits the second term: the distribution of z also depends on the parameters.
    This term is the score-function gradient in which each draw is the baseline of the other. Both draws form one batch
    for the denoiser, whose gradient is the usual one.

    **Arguments:**

    - `process`: a process with parameters, such as `MonotoneNetwork` or `noiselab.schedules.LearnedConstant` in an
      `Interpolation`. Without parameters, the result is the mean of `nelbo` over two draws.
    - `x`: clean tokens.
    - `t`: times from a distribution that does not depend on the parameters: [batch] or [batch, length].
    - `generator`: the source of randomness for z.

    **Returns:** nats per sequence and unit of time. If the process keeps signal at the end of its domain, or has noise
    at its start, `prior_kl` and `reconstruction` depend on the parameters as well.

    **Source:** Shi et al. (2024), arXiv 2406.04329, learn the schedules of GenMD4 in this way; the baseline is from
    Salimans and Knowles (2014), arXiv 1401.1022, and Kool et al. (2019), "Buy 4 REINFORCE samples, get a baseline for
    free!".

    **Example:**

    ```python
    import torch
    import noiselab as nl
    from noiselab import t

    share = nl.schedules.LearnedConstant(0.5)
    process = nl.Interpolation(1 - t, {nl.Absorbing(2, 3): t, nl.Uniform(3): share * t})
    denoiser = nl.MarkovOracle(torch.tensor([0.9, 0.1]), torch.full((2, 2), 0.5), process)
    x = torch.tensor([[0, 1, 1]])
    nl.likelihood.learned_nelbo(process, denoiser, x, torch.tensor([0.3])).mean().backward()
    assert share.log_value.grad is not None
    ```
    """
    twice = list(generator) * 2 if isinstance(generator, Sequence) else generator
    x, t = torch.cat([x, x]), torch.cat([t, t])
    with torch.no_grad():
        z = process.corrupt(x, t, generator=twice)
    with attending_to(denoiser, clean=x):
        logits = as_leave_one_out(denoiser, process)(z, t)
    loss = nelbo(process, logits, x, z, t).double().sum(-1)
    log_q = process.probability(x, z, t).log().sum(-1)
    return leave_one_out_surrogate(*loss.chunk(2), *log_q.chunk(2))


def leave_one_out_surrogate(
    first: PerSequence, second: PerSequence, log_first: PerSequence, log_second: PerSequence
) -> PerSequence:
    """The mean of two losses, with a gradient that includes the distribution from which they were drawn.

    **Arguments:**

    - `first`, `second`: the losses of two independent draws.
    - `log_first`, `log_second`: the logarithms of their probabilities.
    """
    score = log_first - log_second
    # The last term has value 0 and contributes only its gradient.
    return (first + second) / 2 + (first - second).detach() / 2 * (score - score.detach())
