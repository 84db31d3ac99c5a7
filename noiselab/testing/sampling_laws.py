"""Laws of draws: noisy tokens, pure noise and reverse moves follow their formulas."""

import torch
from torch import Generator, Tensor

from ..categorical import uniforms
from ..numerics import UNIFORMS_PER_MOVE
from ..process import NoiseProcess
from .overrides import Primitives
from .tools import (
    data_tokens,
    draws,
    every_token,
    frequencies,
    kernel,
    logits,
    select_tokens,
    times,
    tokens,
    within_errors,
)


def draws_follow_their_generator(process: NoiseProcess) -> None:
    """The same generator gives the same tokens, and torch's global generator is not used."""
    x, t = tokens(process, 4, 16), times(process, 4)
    state = torch.get_rng_state()

    def twice(what: str, first: Tensor, second: Tensor) -> None:
        assert torch.equal(first, second), (
            f"`{what}` does not take its randomness from `generator`: two equal ones differ"
        )
        assert torch.equal(torch.get_rng_state(), state), f"`{what}` draws from torch's global generator"

    twice("corrupt", *(process.corrupt(x, t, generator=Generator().manual_seed(1)) for _ in range(2)))
    twice("prior", *(process.prior(4, 16, generator=Generator().manual_seed(1)) for _ in range(2)))


def draws_have_the_marginal_law(process: NoiseProcess) -> None:
    """Tokens drawn by `corrupt` and `prior` follow `marginal`."""
    n, x = draws(process, 20_000), select_tokens(data_tokens(process), 8)
    generator = Generator().manual_seed(0)
    for t in times(process, 3):
        before = x.expand(n, -1).clone()
        z = process.corrupt(before, t.expand(n), generator=generator)
        assert torch.equal(before, x.expand(n, -1)), "`corrupt` edits the clean tokens in place"
        want = process.marginal(x[None], t[None])[0]
        within_errors("draws of `corrupt`", frequencies(z.T, process.vocab_size), want, n, x=x, t=t.expand(len(x)))
    z = process.prior(n, 1, generator=generator)
    within_errors("draws of `prior`", frequencies(z.T, process.vocab_size), _prior(process)[None], n)


def positions_are_independent(process: NoiseProcess) -> None:
    """The noise at one position is independent of the noise at others."""
    states, generator = process.vocab_size, Generator().manual_seed(0)
    n = 20_000 if states <= 64 else 2_000
    x = data_tokens(process)[0].expand(n, 2)
    for t in times(process, 3):
        law = process.marginal(x[:1, :1], t[None])[0, 0]
        pairs = process.corrupt(x, t.expand(n), generator=generator) @ torch.tensor([states, 1])
        want = (law[:, None] * law).flatten()[None]
        share = frequencies(pairs[None], states**2)
        excess = (share - want).abs() - 5 * (want * (1 - want) / n).sqrt() - 4 / n
        if not (excess <= 0).all():
            first, second = divmod(int(excess.argmax()), states)
            raise AssertionError(
                f"noise must be drawn independently for each position; at t = {t.item():.6g} two neighbours become tokens "
                f"{first} and {second} {share.flatten()[first * states + second]:.4f} of {n} times, and would "
                f"{want.flatten()[first * states + second]:.4f} if they were independent"
            )


def _prior(process: NoiseProcess) -> Tensor:
    """The law of pure noise: the mean of the last marginals over clean tokens."""
    end, data = torch.tensor([process.domain[1]], dtype=torch.float64), process.data_tokens().cpu()
    return process.marginal((data.double() / data.sum()).view(1, 1, -1), end)[0, 0]


def revealed_tokens_stay(process: NoiseProcess) -> None:
    """Where z can only have come from itself, the reverse step keeps it."""
    s, t = times(process, 2)[:, None]
    z = every_token(process, 1)
    certain = process.is_clean(z, t)
    u = uniforms(1, process.vocab_size, process.reverse_draws, generator=Generator().manual_seed(0))
    plan = process.plan_reverse(z, s, t, u)
    moved = certain & (plan.rows | (plan.z != z))
    assert not moved.any(), (
        f"token {z[moved][0].item()} is certain at t = {t.item():.6g}: noise cannot have produced it, but the reverse step "
        "asks for its prediction or moves it"
    )


def reverse_move_has_the_posterior_law(process: NoiseProcess) -> None:
    """The reverse step draws from the dense posterior, also from t = 1 and down to s = 0."""
    n, generator, (low, high) = draws(process, 40_000), Generator().manual_seed(0), process.domain
    x_hat = logits(process, 1, process.vocab_size)
    for pair in ((0.7, 0.3), (1.0, 0.5), (0.4, 0.0)):
        t, s = low + (high - low) * torch.tensor(pair, dtype=torch.float64)[:, None]
        possible = select_tokens((process.marginal(x_hat.softmax(-1), t)[0].diagonal() > 1e-9).nonzero()[:, 0], 8)
        joint = (process.marginal(x_hat.softmax(-1), s)[0] * kernel(process, s, t).T)[possible]
        want = joint / joint.sum(-1, keepdim=True)
        z, u = possible.repeat(n, 1), uniforms(n, len(possible), process.reverse_draws, generator=generator)
        plan = process.plan_reverse(z, s.expand(n), t.expand(n), u)
        out = plan.resolve(x_hat[:, possible].expand(n, -1, -1)[plan.rows])
        places = {"z_t": possible, "t": t.expand(len(possible)), "s": s.expand(len(possible))}
        within_errors("reverse moves", frequencies(out.T, process.vocab_size), want, n, **places)


def other_draws_have_their_laws(process: NoiseProcess) -> None:
    """`renoise`, `draw_posterior` and the two halves of a noisy token given a prediction draw from the dense laws."""
    n, (s, t) = draws(process, 20_000), times(process, 2)
    states, bare = process.vocab_size, Primitives(process)
    at_s, at_t = s.expand(n), t.expand(n)
    possible = select_tokens((bare.prior_law() + bare.marginal(bare.data_tokens().double()[None, None], s[None])[0, 0] > 1e-9)
                    .nonzero()[:, 0], 8)  # fmt: skip
    places = {"z": possible, "s": s.expand(len(possible)), "t": t.expand(len(possible))}
    z = possible.repeat(n, 1)
    drawn = process.renoise(z, at_s, at_t, generator=Generator().manual_seed(1))
    within_errors(
        "draws of `renoise`", frequencies(drawn.T, states), kernel(bare, s[None], t[None])[possible], n, **places
    )

    x = select_tokens(data_tokens(process), 4)
    pairs_x, pairs_z = (v.flatten() for v in torch.meshgrid(x, possible, indexing="ij"))
    seen = bare.probability(pairs_x[None], pairs_z[None], t[None])[0] > 1e-9
    pairs_x, pairs_z = pairs_x[seen], pairs_z[seen]
    one_hot = torch.nn.functional.one_hot(pairs_x, states).double()[None]
    want = bare.posterior(pairs_z[None], one_hot, s[None], t[None])[0]
    args = (pairs_x.repeat(n, 1), pairs_z.repeat(n, 1), at_s, at_t)
    drawn = process.draw_posterior(*args, generator=Generator().manual_seed(2))
    within_errors("draws of `draw_posterior`", frequencies(drawn.T, states), want, n, x=pairs_x, z=pairs_z)

    x_hat = logits(process, 1, 1)[0].softmax(-1)
    u = uniforms(n, UNIFORMS_PER_MOVE, generator=Generator().manual_seed(3))
    drawn, needs = process.plan_noisy(at_t, u)
    drawn = drawn.masked_scatter(needs, process.resolve_noisy(x_hat.expand(n, -1)[needs], at_t[needs], u[needs]))
    want = bare.marginal(x_hat[None], t[None])[0]
    within_errors("draws of `plan_noisy` and `resolve_noisy`", frequencies(drawn[None], states), want, n, t=t[None])
