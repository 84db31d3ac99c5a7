"""Laws of draws: noisy tokens, pure noise and reverse moves are distributed as the formulas say."""

import torch
from torch import Generator, Tensor

from ..categorical import uniforms
from ..elbo.tokens import outside
from ..process import InterpolatingProcess, NoiseProcess
from ..samplers.three_way import UNIFORMS_PER_MOVE, reverse_move
from .tools import data_tokens, draws, every_token, frequencies, logits, some, times, tokens, within_errors


def draws_follow_their_generator(process: NoiseProcess) -> None:
    """The same generator gives the same tokens, and torch's global one is left alone."""
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
    """Tokens drawn by `corrupt` and `prior` are distributed as `marginal` says."""
    n, x = draws(process, 20_000), some(data_tokens(process), 8)
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
    """The noise of one position says nothing about that of another."""
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
                f"noise must be drawn for each position by itself; at t = {t.item():.6g} two neighbours become tokens "
                f"{first} and {second} {share.flatten()[first * states + second]:.4f} of {n} times, and would "
                f"{want.flatten()[first * states + second]:.4f} if they were independent"
            )


def _prior(process: NoiseProcess) -> Tensor:
    """The law of pure noise: the mean of the last marginals over clean tokens."""
    end, data = torch.tensor([process.domain[1]], dtype=torch.float64), process.data_tokens().cpu()
    return process.marginal((data.double() / data.sum()).view(1, 1, -1), end)[0, 0]


def revealed_tokens_stay(process: InterpolatingProcess) -> None:
    """Where noise cannot have produced z, the reverse move keeps it."""
    s, t = times(process, 2)[:, None]
    z = every_token(process, 1)
    certain = process.is_clean(z, t)
    u = uniforms(1, process.vocab_size, UNIFORMS_PER_MOVE, generator=Generator().manual_seed(0))
    moves = reverse_move(process, z, s, t).plan(process, z, u)
    moved = certain & (moves.rows | (moves.z != z))
    assert not moved.any(), (
        f"token {z[moved][0].item()} is revealed at t = {t.item():.6g}: noise cannot have produced it, but the reverse move "
        "asks about it or moves it"
    )


def reverse_move_has_the_posterior_law(process: InterpolatingProcess) -> None:
    """The three-way move draws from the dense posterior, also from t = 1 and down to s = 0."""
    n, generator, (low, high) = draws(process, 40_000), Generator().manual_seed(0), process.domain
    x_hat = logits(process, 1, process.vocab_size)
    for pair in ((0.7, 0.3), (1.0, 0.5), (0.4, 0.0)):
        t, s = low + (high - low) * torch.tensor(pair, dtype=torch.float64)[:, None]
        possible = some((process.marginal(x_hat.softmax(-1), t)[0].diagonal() > 0).nonzero()[:, 0], 8)
        want = process.posterior(possible[None], x_hat[:, possible].softmax(-1), s, t)[0]
        z, u = possible.repeat(n, 1), uniforms(n, len(possible), UNIFORMS_PER_MOVE, generator=generator)
        moves = reverse_move(process, z, s.expand(n), t.expand(n)).plan(process, z, u)
        out = moves.resolve(x_hat[:, possible].expand(n, -1, -1)[moves.rows], outside(process))
        places = {"z_t": possible, "t": t.expand(len(possible)), "s": s.expand(len(possible))}
        within_errors("reverse moves", frequencies(out.T, process.vocab_size), want, n, **places)
