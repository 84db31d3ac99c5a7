"""The same numbers by other code: numpy, the definitions, and jump rates instead of the closed form of the bound.

Nothing of the library is used but the logits of a network. Every noise is a signal and a law of noisy tokens, as in
its own paper.
"""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Predict = Callable[[NDArray[np.int64], float], Array]
"""The network: noisy texts [n, length] and a time to probabilities of clean tokens [n, length, 3]."""
TOKENS, MASK, LENGTH = 3, 3, 6
UNIFORM = np.array([1 / 3, 1 / 3, 1 / 3, 0])
MASKS = np.array([0, 0, 0, 1.0])


def marginal(noise: str, t: float) -> tuple[float, Array]:
    """The signal and the noise of time t: q_t(z | x) = signal [z = x] + noise[z]."""
    if noise == "masks":
        return 1 - t, t * MASKS
    if noise == "uniform":
        return 1 - t, t * UNIFORM
    share = float(noise)  # c_t = 2 p / (1 - p) sqrt(t (1 - t)); von Ruette et al. (2025), appendix
    c = 2 * share / (1 - share) * np.sqrt(t * (1 - t))
    return (1 - t) / (1 + c), (t * MASKS + c * UNIFORM) / (1 + c)


def likelihood(noise: str, t: float) -> Array:
    """q_t(z | x) as a matrix [x, z]."""
    signal, other = marginal(noise, t)
    return signal * np.eye(TOKENS, TOKENS + 1) + other


def transition(noise: str, s: float, t: float) -> Array:
    """q(z_t | z_s) as a matrix [z_s, z_t], for s < t."""
    (a_s, b_s), (a_t, b_t) = marginal(noise, s), marginal(noise, t)
    return a_t / a_s * np.eye(TOKENS + 1) + (b_t - a_t / a_s * b_s)


def every(states: int) -> NDArray[np.int64]:
    """All sequences of tokens 0 to states - 1."""
    return np.array(list(itertools.product(range(states), repeat=LENGTH)))


def sampler_law(noise: str, predict: Predict, steps: int) -> Array:
    """The law of clean texts [729] after equal steps from pure noise: a sum over all noisy texts for each step."""
    z = every(TOKENS + 1)
    law = np.prod(marginal(noise, 1.0)[1][z], axis=1)
    times = np.linspace(1, 0, steps + 1)
    for t, s in itertools.pairwise(times):
        possible = law > 0
        now, weight = z[possible], law[possible]
        step = reverse_step(noise, predict(now, t), now, s, t)
        law = np.zeros((TOKENS + 1,) * LENGTH)
        for rows in np.array_split(np.arange(len(now)), max(1, len(now) // 256)):
            law += np.einsum("n,na,nb,nc,nd,ne,nf->abcdef", weight[rows], *step[rows].swapaxes(0, 1), optimize=True)
        law = law.reshape(-1)
    return law.reshape((TOKENS + 1,) * LENGTH)[(slice(TOKENS),) * LENGTH].reshape(-1)


def reverse_step(noise: str, x_hat: Array, z: NDArray[np.int64], s: float, t: float) -> Array:
    """P(z_s | z_t) [n, length, 4]: the clean token from its posterior, then z_s given both, each by Bayes' rule."""
    posterior = x_hat * likelihood(noise, t)[:, z].transpose(1, 2, 0)
    posterior = posterior / posterior.sum(-1, keepdims=True)
    # Given x: q(z_s | z_t, x) = q(z_t | z_s) q(z_s | x) / q(z_t | x), [x, z_t, z_s].
    before, after = likelihood(noise, s) if s > 0 else np.eye(TOKENS, TOKENS + 1), likelihood(noise, t)
    joint = before[:, None, :] * transition(noise, s, t).T[None]
    given = np.divide(joint, after[:, :, None], out=np.zeros_like(joint), where=after[:, :, None] > 0)
    return np.einsum("nlx,xnls->nls", posterior, given[:, z])


def bound(noise: str, predict: Predict, data: Array, nodes: int = 96) -> float:
    """Nats per text: an integral over time of how the rates of jumps differ; at t = 0 nothing is left, at t = 1 no signal.

    For the jump of one token from z to y with the true reverse rate r and the network's rate m, the integrand is
    r log(r / m) - r + m (Campbell et al., 2022).
    """
    x = every(TOKENS)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    u = (points + 1) / 2
    # The rates of hybrid noise are like 1 / sqrt(t) at both ends; with t = sin^2(pi / 2 (3 u^2 - 2 u^3)) it is 0 there.
    angle, slope = np.pi / 2 * (3 * u**2 - 2 * u**3), np.pi / 2 * 6 * u * (1 - u)
    times, factors = np.sin(angle) ** 2, weights / 2 * slope * np.sin(2 * angle)
    total = 0.0
    for t, factor in zip(times, factors, strict=True):
        total += factor * integrand(noise, predict, data, x, t)
    return total


def integrand(noise: str, predict: Predict, data: Array, x: NDArray[np.int64], t: float) -> float:
    """The integrand at time t, in the mean over the data `x` and all noisy texts."""
    like, z = likelihood(noise, t), every(TOKENS + 1)
    rates = forward_rates(noise, t)  # [from, to]
    z = z[(like.max(0)[z] > 0).all(1)]
    x_hat, value = predict(z, t), 0.0
    joint = data[:, None] * np.prod([like[x[:, j]][:, z[:, j]] for j in range(LENGTH)], axis=0)
    for i, v in itertools.product(range(LENGTH), range(TOKENS)):
        weight = joint[x[:, i] == v].sum(0)  # P(z, x_i = v)
        for y in range(TOKENS + 1):
            here = (z[:, i] != y) & (weight > 0)
            now = z[here, i]
            true = rates[y, now] * like[v, y] / like[v, now]
            predicted = rates[y, now] * (x_hat[here, i] @ like[:, y]) / (x_hat[here, i] * like[:, now].T).sum(-1)
            ratio = np.divide(true, predicted, out=np.ones_like(true), where=true > 0)
            value += (weight[here] * (true * np.log(ratio) - true + predicted)).sum()
    return value


def forward_rates(noise: str, t: float) -> Array:
    """The rates of jumps [from, to] at time t, by a difference of the definition over a short time."""
    h = 1e-8 * min(t, 1 - t)
    return (transition(noise, t - h / 2, t + h / 2) - np.eye(TOKENS + 1)) / h
