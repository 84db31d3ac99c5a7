"""Laws of the forward process: it is Markov, and its methods agree."""

import torch

from ..process import InterpolatingProcess, NoiseProcess
from .tools import Places, agree, data_tokens, every_token, kernel, logits, pairs, times


def is_a_markov_process(process: NoiseProcess) -> None:
    """Alpha falls from 1, mixing is a distribution, and no rate is negative."""
    try:
        process.validate()
    except ValueError as error:
        raise AssertionError(f"{error}{_guess(process)}") from error


def _guess(process: NoiseProcess) -> str:
    """Suggest the cause of an invalid process from its values."""
    x = data_tokens(process)[None]
    first, last = (process.probability(x, x, torch.tensor([end], dtype=torch.float64)) for end in process.domain)
    if (first < 0.99).all() and (last > 0.99).all():
        return " (does its time run backwards? Here t = 0 is clean and t = 1 is noise)"
    law = process.marginal(x.expand(9, -1), times(process, 9))
    if (law < -1e-9).any() or (law > 1 + 1e-5).any():
        return " (logits, or a distribution that is not normalised?)"
    return ""


def rows_are_distributions(process: NoiseProcess) -> None:
    """The marginal of every token is non-negative and sums to 1, at the ends of time too."""
    low, high = process.domain
    t = torch.cat([torch.tensor([low, high], dtype=torch.float64), times(process, 7)])
    rows = process.marginal(every_token(process, len(t)), t)
    token = torch.arange(process.vocab_size)
    agree("a row of `marginal` does not sum to 1", rows.sum(-1), torch.ones(()), rtol=1e-5, x=token, t=t[:, None])
    what = "`marginal` is negative"
    agree(what, rows.clamp(max=0), torch.zeros(()), x=token[:, None], token=token, t=t[:, None, None])


def signal_falls(process: NoiseProcess) -> None:
    """The clock of a process, `signal_share`, lies in [0, 1], sums to 1 with its complement, and is monotone."""
    t = times(process, 17)
    signal, rest = process.signal_share(t)
    agree("`signal_share` does not add up to 1", signal + rest, torch.ones(()), t=t)
    bad = ~((signal > -1e-9) & (signal < 1 + 1e-9))
    bad[1:] |= signal.diff() > 1e-9
    assert not bad.any(), (
        f"`signal_share` must fall within [0, 1]; got {signal[bad][0].item():.6g} at t = {t[bad][0].item():.6g}"
    )


def noise_is_the_share_of_mixing(process: InterpolatingProcess) -> None:
    """The factored noise is (1 - alpha) times mixing."""
    t = times(process, 9)
    want = (1 - process.alpha(t))[:, None] * process.mixing(t)
    token = torch.arange(process.vocab_size)
    agree("`noise` is not (1 - alpha) mixing", process.noise(t[:, None]).dense()[:, 0], want, token=token, t=t[:, None])


def one_law_in_three_forms(process: NoiseProcess) -> None:
    """`marginal`, `likelihood` and `probability` give the same q(z | x), and it sums to 1."""
    t, (x, z) = times(process, 5), pairs(process)
    x, z = x.expand(len(t), -1), z.expand(len(t), -1)
    dense, probability = process.marginal(x, t), process.probability(x, z, t)
    agree("`marginal` does not sum to 1", dense.sum(-1), torch.ones(()), x=x, t=t[:, None])
    places: Places = {"x": x, "z": z, "t": t[:, None]}
    agree("`probability` differs from `marginal`", probability, dense.gather(-1, z[..., None])[..., 0], **places)
    of_x = process.likelihood(z, t).gather(-1, x[..., None])[..., 0]
    agree("`likelihood` differs from `probability`", of_x, probability, **places)


def two_jumps_are_one(process: NoiseProcess) -> None:
    """Chapman-Kolmogorov: the transitions from r to s and from s to t compose to the transition from r to t."""
    r, s, t = times(process, 3)[:, None]
    token = torch.arange(process.vocab_size)
    here: Places = {"from token": token[:, None], "to token": token}
    two = kernel(process, r, s) @ kernel(process, s, t)
    agree("two jumps are not one", two, kernel(process, r, t), **here, r=r, s=s, t=t)
    agree("a jump does not sum to 1", kernel(process, s, t).sum(-1), torch.ones(()), token=token, s=s, t=t)
    data = torch.eye(process.vocab_size, dtype=torch.float64)[None]
    later = process.marginal(data, s)[0] @ kernel(process, s, t)
    agree("a jump does not lead from the marginal at s to that at t", later, process.marginal(data, t)[0],
          x=token[:, None], z=token, s=s, t=t)  # fmt: skip


def rate_is_the_slope_of_jump(process: NoiseProcess) -> None:
    """The rate from each token into another is the derivative of the transition at equal times."""
    t, h = times(process, 5), 1e-5
    z = every_token(process, len(t))
    off = ~torch.eye(process.vocab_size, dtype=torch.bool)
    token = torch.arange(process.vocab_size)
    slope = torch.where(off, process.transition(z, t - h / 2, t + h / 2) / h, 0)
    places = {"from token": token, "into token": token[:, None], "t": t[:, None, None]}
    agree("`rate` is not the slope of `transition`", process.rate(z, t), slope, rtol=1e-3, atol=1e-3, **places)


def weight_is_rate_over_marginal(process: InterpolatingProcess) -> None:
    """The weight of a token in the bound is the rate into it divided by its probability."""
    t, (x, z) = times(process, 7), pairs(process)
    x, z = x.expand(len(t), -1), z.expand(len(t), -1)
    want = process.rate_into(z, t) / process.marginal(x, t).gather(-1, z[..., None])[..., 0]
    what = "`elbo_weight` is not `rate_into` over `marginal`"
    agree(what, process.elbo_weight(x, z, t), want, x=x, z=z, t=t[:, None])


def posterior_is_bayes(process: NoiseProcess) -> None:
    """The reverse transition is Bayes' rule applied to the jump and the marginal, by enumeration."""
    s, t = times(process, 2)[:, None]
    x_hat, z = logits(process, 1, process.vocab_size).softmax(-1), torch.arange(process.vocab_size)
    # Row z of the joint has its own x_hat; its columns are z_s.
    joint = process.marginal(x_hat, s)[0] * kernel(process, s, t).T
    possible = joint.sum(-1) > 0
    posterior = process.posterior(z[None], x_hat, s, t)[0]
    want = joint / joint.sum(-1, keepdim=True)
    places: Places = {"z_t": z[possible, None], "z_s": z, "s": s, "t": t}
    agree("`posterior` is not Bayes' rule", posterior[possible], want[possible], **places)
    diagonal = process.marginal(x_hat, t)[0].diagonal()
    agree("jumps from `marginal` at s do not arrive at that at t", joint.sum(-1), diagonal, z=z, s=s, t=t)


def revealed_tokens_are_certain(process: NoiseProcess) -> None:
    """Where `is_clean` is true, no other clean token can have become z, and the reverse step keeps it."""
    s, t = times(process, 2)[:, None]
    z = every_token(process, 1)
    x_hat = logits(process, 1, process.vocab_size).softmax(-1)
    certain = process.is_clean(z, t)[0]
    data = process.data_tokens().cpu()
    others = torch.where(torch.eye(process.vocab_size, dtype=torch.bool) | ~data, 0, process.likelihood(z, t)[0])
    agree("`is_clean` a token that others may have become", others[certain], torch.zeros(()), atol=0.0,
          token=z[0, certain, None], x=z[0], t=t)  # fmt: skip
    kept = process.posterior(z, x_hat, s, t)[0].diagonal()[certain & data]
    agree(
        "the reverse step moves a token that `is_clean` calls certain",
        kept,
        torch.ones(()),
        token=z[0, certain & data],
        t=t,
    )
