"""Published losses, each written from its paper: signals, slopes, weights and matrices by hand, nothing of the library.

Times are `t` [batch, length], `log_x` is the logarithm of the predicted law over all tokens, -inf where a paper excludes a
token. Their notation is brought to one clock, t = 0 clean; otherwise it is theirs.
"""

import math

import torch
from torch.nn import functional as F

# Signals: (alpha, its slope), and sigma = -log alpha with its slope.


def linear(t):
    return 1 - t, -torch.ones_like(t)


def log_linear(t, eps=1e-3):
    """SEDD, MDLM: sigma = -log(1 - (1 - eps) t)."""
    return 1 - (1 - eps) * t, torch.full_like(t, eps - 1)


def cosine(t, eps=1e-3):
    """MDLM's release."""
    angle = math.pi * t / 2
    return eps + (1 - eps) * angle.cos(), -(1 - eps) * math.pi / 2 * angle.sin()


def cosine_squared(t, eps=1e-3):
    """MDLM's release."""
    angle = math.pi * t / 2
    return eps + (1 - eps) * angle.cos() ** 2, -(1 - eps) * math.pi / 2 * (2 * angle).sin()


def md4_cosine(t):
    """MD4, table of schedules."""
    angle = math.pi / 2 * (1 - t)
    return 1 - angle.cos(), -math.pi / 2 * angle.sin()


def polynomial(power):
    """MD4, table of schedules."""
    return lambda t: (1 - t**power, -power * t ** (power - 1))


def geometric(t, low=1e-4, high=20.0):
    """SEDD: sigma = low^(1-t) high^t."""
    sigma = low ** (1 - t) * high**t
    return (-sigma).exp(), -sigma * math.log(high / low) * (-sigma).exp()


# Masking.


def mdlm(signal, mask):
    """Sahoo et al. (2024), equations 10 and 11: alpha' / (1 - alpha) log <x_hat, x> at masks."""

    def loss(log_x, x, z, t):
        alpha, slope = signal(t)
        return torch.where(z == mask, slope / (1 - alpha) * value_at(log_x, x), 0)

    return loss


def llada(mask):
    """Nie et al. (2025), equation 3: -1 / t log p(x) at masks."""
    return lambda log_x, x, z, t: torch.where(z == mask, -value_at(log_x, x) / t, 0)


def bd3lm(mask, size):
    """Arriola et al. (2025): the sum over blocks b of alpha' / (1 - alpha) log p(x^b | x_t^b, x^{<b}), with a linear signal.

    Estimated from one block for each sequence, the one that is neither clean nor pure noise.
    """

    def loss(log_x, x, z, t):
        value = torch.zeros_like(t)
        starts = range(0, x.shape[1], size)
        for row in range(len(x)):
            for start in starts:
                block = slice(start, start + size)
                time = t[row, start]
                if 0 < time < 1:
                    value[row, block] = len(starts) * mdlm(linear, mask)(
                        log_x[row, block], *(v[row, block] for v in (x, z, t))
                    )
        return value

    return loss


def genmd4(powers, mask):
    """Shi et al. (2024), section 6: alpha = 1 - t^w, sum_v alpha_v' / (1 - alpha_v) (x_v - mu_v + x_v log mu_v) at masks.

    The model's mu is the posterior: x_hat_v (1 - alpha_v), normalised.
    """

    def loss(log_x, x, z, t):
        t = t[..., None]
        log_mu = (log_x + powers * t.log()).log_softmax(-1)
        one_hot = F.one_hot(x, len(powers)).double()
        terms = one_hot - log_mu.exp() + torch.where(one_hot > 0, log_mu, 0)
        return torch.where(z == mask, (-powers / t * terms).sum(-1), 0)

    return loss


def prism(mask, weight):
    """Kim et al. (2025), PRISM: the cross-entropy of labels at tokens revealed in z_s, plus weight / t times that of masks.

    The mask has no probability, as in the paper; the released code gives it some.
    """

    def loss(quality, log_x, x, z_s, z, t):
        p = 1 / (1 + (-quality).exp())
        revealed = (z == mask) & (z_s != mask)
        label = torch.where(z_s == x, -p.log(), -(1 - p).log())
        return torch.where(revealed, label, 0) + weight * llada(mask)(log_x, x, z, t)

    return loss


def proseco(mask, weight):
    """Schiff et al. (2026), ProSeCo: the masked loss, plus weight / t times the cross-entropy given the text filled in."""

    def loss(log_x, log_corrected, x, z, t):
        return llada(mask)(log_x, x, z, t) - weight / t * value_at(log_corrected, x)

    return loss


# Uniform noise on the tokens `words`.


def udlm(signal, words):
    """Schiff et al. (2024), section 4, the continuous-time bound, with x_bar = N alpha x + 1 - alpha."""

    def loss(log_x, x, z, t):
        (alpha, slope), n = (value[..., None] for value in signal(t)), int(words.sum())
        one_hot = F.one_hot(x, len(words)).double()
        x_bar, x_bar_hat = (n * alpha * law + 1 - alpha for law in (one_hot, log_x.exp()))
        at_z, at_z_hat = value_at(x_bar, z)[..., None], value_at(x_bar_hat, z)[..., None]
        sums = x_bar / at_z * (at_z_hat.log() - x_bar_hat.log() + x_bar.log() - at_z.log())
        value = slope / (n * alpha) * (n / at_z - n / at_z_hat - sums[..., words].sum(-1, keepdim=True))
        return value[..., 0]

    return loss


def duo(signal, words):
    """Sahoo et al. (2025), the Rao-Blackwellised bound, with zeta = (1 - alpha) / (K alpha + 1 - alpha)."""

    def loss(log_x, x, z, t):
        (alpha, slope), k = signal(t), int(words.sum())
        zeta = (1 - alpha) / (k * alpha + 1 - alpha)
        kept = z == x
        x_bar_hat = k * alpha[..., None] * log_x.exp() + (1 - alpha)[..., None]
        at_z, at_z_hat = k * alpha * kept + 1 - alpha, value_at(x_bar_hat, z)
        logs = (at_z_hat.log()[..., None] - x_bar_hat.log())[..., words].sum(-1)
        inside = torch.where(kept, zeta, 1) * logs
        inside = inside + torch.where(
            kept,
            (k - 1) * zeta * zeta.log(),
            k * alpha / (1 - alpha) * (at_z_hat / value_at(x_bar_hat, x)).log() - zeta.log() / zeta,
        )
        return slope / (k * alpha) * (k / at_z - k / at_z_hat - inside)

    return loss


# Score entropy.


def sedd(signal, rates, words):
    """Lou et al. (2024), theorem 3.6: the denoising score entropy of any score, sigma' times

    sum_{y != z} Q(y -> z) (s_y - p_y / p_z log s_y + K(p_y / p_z)),  K(a) = a (log a - 1),  p = exp(sigma Q)[x].

    **Returns:** (log_scores, x, z, t) -> the loss; the matrix exponential is used unchanged.
    """

    def loss(log_s, x, z, t):
        alpha, slope = signal(t)
        law = torch.linalg.matrix_exp(-alpha.log()[..., None, None] * rates)
        p = law.gather(-2, x[..., None, None].expand(*x.shape, 1, len(words)))[..., 0, :].clamp(min=0)
        ratio = p / value_at(p, z)[..., None]
        into_z = rates.T[z].scatter(-1, z[..., None], 0)
        there = ratio > 1e-14
        safe = torch.where(there, ratio, 1)
        k = torch.where(there, safe * (safe.log() - 1), 0)
        used = (into_z > 0) & words
        s = torch.where(used, log_s, 0)
        terms = s.exp() - torch.where(there, ratio * s, 0) + k
        return -slope / alpha * torch.where(used, into_z * terms, 0).sum(-1)

    return loss


def score(signal, noise):
    """The log-scores of a prediction, log q(y | x_hat) - log q(z | x_hat), for the noise row `noise`."""

    def scores(log_x, z, t):
        alpha = signal(t)[0][..., None]
        log_q = (alpha * log_x.exp() + (1 - alpha) * noise).log()
        return log_q - value_at(log_q, z)[..., None]

    return scores


# GIDD: a weight times KL + IS.


def gidd(share, gamma, mask, states):
    """Von Ruette et al. (2025), theorem 3.7 and the weights of the hybrid process in closed form."""

    def loss(log_x, x, z, t):
        n, b = states - 1, 2**gamma * share / (1 - share)
        c = b * t ** (gamma / 2) * (1 - t) ** (gamma / 2)
        slope = gamma / 2 * (1 - 2 * t) / (t * (1 - t)) * c
        total = 1 + c
        clean = (c + (1 - t) * slope) / n / ((1 - t) * (1 - t + c / n))
        wrong = (c + (1 - t) * slope) / ((1 - t) * c)
        weight = torch.where(z == x, clean, torch.where(z == mask, 1 / ((1 - t) * t), wrong))
        is_mask = (torch.arange(states) == mask).double()
        noise = (t[..., None] * is_mask + (c / n)[..., None] * (1 - is_mask)) / total[..., None]
        return weight * kl_and_is(log_x, x, z, (1 - t) / total, noise)

    return loss


def gidd_v1_0(share, gamma, mask, states):
    """Release v1.0.0: c on every token but the mask, (1 - t)^gamma - c on the clean one, t^gamma on the mask."""

    def loss(log_x, x, z, t):
        b = 1 / (1 + (1 - share) / share * states / 2)
        c = b * (t * (1 - t)) ** (gamma / 2)
        c_slope = b * gamma / 2 * (t * (1 - t)) ** (gamma / 2 - 1) * (1 - 2 * t)
        signal, signal_slope = (1 - t) ** gamma - c, -gamma * (1 - t) ** (gamma - 1) - c_slope
        total = signal + t**gamma + (states - 1) * c
        is_mask = (torch.arange(states) == mask).double()
        noise = t[..., None] ** gamma * is_mask + c[..., None] * (1 - is_mask)
        noise_slope = gamma * t[..., None] ** (gamma - 1) * is_mask + c_slope[..., None] * (1 - is_mask)
        rate = value_at(noise_slope - (signal_slope / signal)[..., None] * noise, z)
        weight = rate / (signal * (z == x) + value_at(noise, z))
        return weight * kl_and_is(log_x, x, z, signal / total, noise / total[..., None])

    return loss


def log_snr(scale, shift, mask, states, low=-9.0, high=9.0):
    """Von Ruette et al. (2025), arXiv 2512.10858: sigma(-lambda) (pi - pi') / q, per unit of lambda; here per unit of t."""

    def loss(log_x, x, z, t):
        snr = (high - (high - low) * t)[..., None]
        share = 1 / (1 + (-scale * snr - shift).exp())
        is_mask = (torch.arange(states) == mask).double()
        u = (1 - is_mask) / (states - 1)
        pi = share * u + (1 - share) * is_mask
        pi_slope = scale * share * (1 - share) * (u - is_mask)
        alpha, noise = 1 / (1 + (-snr).exp()), 1 / (1 + snr.exp())
        weight = value_at(noise * (pi - pi_slope), z) / (alpha[..., 0] * (z == x) + value_at(noise * pi, z))
        return (high - low) * weight * kl_and_is(log_x, x, z, alpha[..., 0], noise * pi)

    return loss


def kl_and_is(log_x, x, z, alpha, noise):
    """KL(q || p) + q_z / p_z - log(q_z / p_z) - 1, dense."""
    q, p = (alpha[..., None] * law + noise for law in (F.one_hot(x, noise.shape[-1]).double(), log_x.exp()))
    some = q > 0
    kl = torch.where(some, q * (torch.where(some, q, 1).log() - torch.where(some, p, 1).log()), 0).sum(-1)
    ratio = value_at(q, z) / value_at(p, z)
    return kl + ratio - ratio.log() - 1


# Any jump process, from its matrices.


def jump_process(matrices):
    """Campbell et al. (2022), the continuous-time bound, conditioned on x and with its constant.

    sum_{y != z} [ l log(l / l_hat) - l + l_hat ],  l = R(y, z) q(y | x) / q(z | x), with x_hat in place of x for l_hat.
    `matrices` gives Q_t and R_t, whose rows are the tokens left.
    """

    def loss(log_x, x, z, t):
        law, rates = matrices(t)
        one_hot = F.one_hot(x, law.shape[-1]).double()
        q, p = ((v[..., None, :] @ law)[..., 0, :] for v in (one_hot, log_x.exp()))
        column = rates.gather(-1, z[..., None, None].expand(*z.shape, law.shape[-1], 1))[..., 0]
        column = column.scatter(-1, z[..., None], 0)
        true, guessed = column * q / value_at(q, z)[..., None], column * p / value_at(p, z)[..., None]
        some = true > 0
        logs = torch.where(some, true * (torch.where(some, true, 1).log() - torch.where(some, guessed, 1).log()), 0)
        return (logs - true + guessed).sum(-1)

    return loss


def row_matrices(signal, frequencies):
    """Replacement by a fixed row of frequencies."""

    def matrices(t):
        alpha, slope = (value[..., None, None] for value in signal(t))
        eye = torch.eye(len(frequencies)).double()
        return alpha * eye + (1 - alpha) * frequencies, -slope / alpha * (frequencies - eye)

    return matrices


def hybrid_matrices(share, gamma, mask, frequencies):
    """Masks and a row of frequencies with the weights of GIDD."""

    def matrices(t):
        t = t[..., None, None]
        eye, is_mask = torch.eye(len(frequencies)).double(), (torch.arange(len(frequencies)) == mask).double()
        b = 2**gamma * share / (1 - share)
        c = b * (t * (1 - t)) ** (gamma / 2)
        slope = b * gamma / 2 * (t * (1 - t)) ** (gamma / 2 - 1) * (1 - 2 * t)
        law = ((1 - t) * eye + t * is_mask + c * frequencies) / (1 + c)
        # b' - (alpha' / alpha) b: the slope of the common factor 1 + c cancels.
        rate = (is_mask + slope * frequencies + (t * is_mask + c * frequencies) / (1 - t)) / (1 + c)
        return law, rate.expand(*rate.shape[:-2], len(frequencies), -1)

    return matrices


def coarse_matrices(parent, mask):
    """Tokens become their parents with share c = 2t - t^2, then masks with share m = t."""

    def matrices(t):
        t = t[..., None, None]
        eye = torch.eye(len(parent)).double()
        up, masks = eye[parent], eye[mask].expand(len(parent), -1)
        c, m = 2 * t - t**2, t
        law = (1 - m) * ((1 - c) * eye + c * up) + m * masks
        return law, 2 / (1 - t) * (up - eye) + 1 / (1 - t) * (masks - eye)

    return matrices


def neighbour_matrices(hop, mask):
    """sigma = 2t hops on average by the chances `hop`, and masks with share m = t."""

    def matrices(t):
        t = t[..., None, None]
        eye = torch.eye(len(hop)).double()
        masks = eye[mask].expand(len(hop), -1)
        law = (1 - t) * torch.linalg.matrix_exp(2 * t * (hop - eye)) + t * masks
        return law.clamp(min=0), 2 * (hop - eye) + 1 / (1 - t) * (masks - eye)

    return matrices


def scdd_shares(share, gamma, peak, t):
    """SCDD's clocks: the probabilities that a token is unchanged, and that it is uniform noise."""
    top = peak ** (gamma * peak) * (1 - peak) ** (gamma * (1 - peak))
    c = share / (1 - share) / top * t ** (gamma * peak) * (1 - t) ** (gamma * (1 - peak))
    return (1 - t) / (1 + c), c / (1 + c)


def absorbing_hybrid_matrices(share, gamma, peak, mask, states):
    """Moves at the rate -k'/k, k = keep / (keep + uniform), and masks, which absorb, at -u'/u, u = keep + uniform."""

    def matrices(t):
        t = t[..., None, None]
        rise, fall = gamma * peak, gamma * (1 - peak)
        c = share / (1 - share) / (peak**rise * (1 - peak) ** fall) * t**rise * (1 - t) ** fall
        slope = c * (rise / t - fall / (1 - t))
        moving = (slope / (1 - t) + c / (1 - t) ** 2) / (1 + c / (1 - t))
        masking = (1 + c - t * slope) / (1 + c) ** 2 / (1 - t / (1 + c))
        eye, words = torch.eye(states).double(), (torch.arange(states) != mask).double()
        on_words = words[:, None] * words / (states - 1)
        masks = words[:, None] * eye[mask]
        keep, uniform = (1 - t) / (1 + c), c / (1 + c)
        law = (
            keep * torch.diag(words)
            + uniform * on_words
            + (1 - keep - uniform) * masks
            + torch.outer(eye[mask], eye[mask])
        )
        return law, moving * (on_words - torch.diag(words)) + masking * (masks - torch.diag(words))

    return matrices


# Discrete time, from the matrices of the steps.


def scdd(share, gamma, peak, mask, states, steps):
    """SCDD (2603.02230, released code): the cross-entropy of the step t - 1/T -> t without its constants, times T."""

    def loss(log_x, x, z, t):
        (keep_s, uniform_s), (keep, uniform) = (scdd_shares(share, gamma, peak, u) for u in (t - 1 / steps, t))
        stays = keep / keep_s
        moves = (keep + uniform) / (keep_s + uniform_s) - stays
        n = states - 1
        words = torch.arange(states) != mask
        one_hot = F.one_hot(x, states).double()
        true, guessed = ((uniform_s / n)[..., None] + keep_s[..., None] * law for law in (one_hot, log_x.exp()))
        logs = guessed.log()
        at_mask = -(1 - stays - moves) / (1 - keep - uniform) * (true * logs)[..., words].sum(-1)
        into = stays[..., None] * F.one_hot(z, states) + (moves / n)[..., None]
        norms = [uniform / n + keep * value_at(law, z) for law in (one_hot, log_x.exp())]
        at_token = -(true * into * (logs - norms[1].log()[..., None]))[..., words].sum(-1) / norms[0]
        return steps * torch.where(z == mask, at_mask, at_token)

    return loss


def md4_steps(signal, mask, steps):
    """Shi et al. (2024), section 3: (alpha_s - alpha_t) / (1 - alpha_t) times the cross-entropy, at masks, for a step 1/T."""

    def loss(log_x, x, z, t):
        before, after = signal(t - 1 / steps)[0], signal(t)[0]
        return torch.where(z == mask, -(before - after) / (1 - after) * value_at(log_x, x), 0)

    return loss


def d3pm(steps, prior, log_x, x):
    """Austin et al. (2021), equations 1 to 4: L_T + sum_k L_{k-1} + L_0 for a clean token, all expectations summed out.

    - `steps`: Q_1 ... Q_T, [T, state, state], rows are the tokens left.
    - `prior`: p(z_T).
    - `log_x`: the predicted law for each step and noisy token, [T, state, state].
    """
    eye = torch.eye(steps.shape[-1], dtype=torch.float64)
    products = [eye]
    for q in steps:
        products.append(products[-1] @ q)
    last = products[-1][x]
    some = last > 0
    bound = (last * (torch.where(some, last, 1) / torch.where(some, prior, 1)).log())[some].sum()
    for k in range(len(steps), 0, -1):
        for z in products[k][x].nonzero()[:, 0].tolist():
            # Equation 3 for the true posterior; equation 4 puts x_hat in the place of x under the sum over clean tokens.
            true = steps[k - 1][:, z] * products[k - 1][x]
            guessed = steps[k - 1][:, z] * (log_x[k - 1, z].exp() @ products[k - 1])
            true, guessed = true / true.sum(), guessed / guessed.sum()
            some = true > 0
            bound = bound + products[k][x, z] * (true[some] * (true[some] / guessed[some]).log()).sum()
    return bound


def replacing(betas, noise):
    """(1 - beta) I + beta 1 noise^T for each beta."""
    betas = betas[:, None, None]
    return (1 - betas) * torch.eye(len(noise), dtype=torch.float64) + betas * noise


def value_at(values, tokens):
    return values.gather(-1, tokens[..., None])[..., 0]
