"""The published losses beside ours: the table of docs/families/index.md.

    python tests/equalities.py            prints it
    python tests/equalities.py --write    and puts it into the page

Each row compares values and gradients in float64 on random inputs. The papers' side is in `published.py` and takes
nothing from the library.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import published
import torch
from torch import Tensor

import noiselab as nl
from noiselab import schedules
from noiselab.processes import Coarse, Neighbours, TokenRates

PAGE = Path(__file__).parents[1] / "docs" / "families" / "index.md"
START, END = "<!-- written by tests/equalities.py -->", "<!-- end -->"

V, MASK = 7, 6
ALL, WORDS = torch.ones(V, dtype=torch.bool), torch.arange(V) != MASK
FREQUENCIES = torch.tensor([0.4, 0.2, 0.15, 0.1, 0.1, 0.05, 0], dtype=torch.float64)
POWERS = torch.tensor([0.5, 1, 1.5, 2, 0.7, 3, 1], dtype=torch.float64)
PARENTS = torch.tensor([4, 4, 5, 5, 4, 5, 6])
HOPS = torch.tensor([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4], [6, 6]])
SIGNALS = {
    "linear": (schedules.linear(), published.linear),
    "log-linear": (schedules.log_linear(), published.log_linear),
    "cosine": (schedules.cosine(1e-3), published.cosine),
    "cosine squared": (schedules.cosine_squared(1e-3), published.cosine_squared),
    "MD4 cosine": (schedules.cosine_md4(), published.md4_cosine),
    "square": (schedules.polynomial(2), published.polynomial(2)),
    "square root": (schedules.polynomial(0.5), published.polynomial(0.5)),
    "geometric": (schedules.geometric(), published.geometric),
}

Pairs = Iterator[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Equality:
    """One row: what is equal to what, and pairs of tensors (ours, the paper's) that show it."""

    ours: str
    paper: str
    where: str
    pairs: Callable[[], Pairs]
    limit: float = 1e-9

    def error(self) -> float:
        return max(relative_error(*pair) for pair in self.pairs())


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest relative error; below 1e-4 of the largest entry errors count relative to that."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    if not (ours.isfinite().all() and theirs.isfinite().all() and theirs.abs().max() > 0):
        return math.inf
    return ((ours - theirs).abs() / theirs.abs().clamp(min=1e-4 * theirs.abs().max())).max().item()


def draw(process, seed: int = 0, per_token: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, clean and noisy tokens, and times in the inner 96 % of the domain: for half of the rows one per token."""
    generator, shape = torch.Generator().manual_seed(seed), (6, 8)
    data, (low, high) = process.data_tokens().nonzero()[:, 0], process.domain
    x = data[torch.randint(len(data), shape, generator=generator)]
    t = torch.rand(shape, dtype=torch.float64, generator=generator)
    t[: len(t) // 2 if per_token else len(t)] = t[: len(t) // 2 if per_token else len(t), :1]
    t = low + (high - low) * (0.02 + 0.96 * t)
    logits = 2 * torch.randn(*shape, process.vocab_size, dtype=torch.float64, generator=generator)
    return logits, x, process.corrupt(x, t, generator=generator), t


def normalised(process, logits: Tensor) -> Tensor:
    return logits.masked_fill(~process.data_tokens(), -math.inf).log_softmax(-1)


def bound(process, paper: Loss, seed: int = 0) -> Pairs:
    """`nelbo` and a paper's loss."""
    logits, x, z, t = draw(process, seed)
    yield from values_and_gradients(
        lambda leaf: nl.nelbo(process, leaf, x, z, t), lambda leaf: paper(normalised(process, leaf), x, z, t), logits
    )


def values_and_gradients(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], leaf: Tensor) -> Pairs:
    results = []
    for loss in (ours, theirs):
        own = leaf.clone().requires_grad_()
        value = loss(own)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), own)))
    yield from zip(*results, strict=True)


def masking(names: str, paper=published.mdlm) -> Callable[[], Pairs]:
    def pairs() -> Pairs:
        for seed, name in enumerate(names.split(", ")):
            ours, theirs = SIGNALS[name]
            yield from bound(nl.masked(vocab_size=V, mask_id=MASK, signal=ours), paper(theirs, MASK), seed)

    return pairs


def llada() -> Pairs:
    yield from bound(nl.masked(vocab_size=V, mask_id=MASK), published.llada(MASK))


def md4_steps() -> Pairs:
    steps = 10
    for seed, name in enumerate(["linear", "MD4 cosine", "square"]):
        signal, theirs = SIGNALS[name]
        process = nl.masked(vocab_size=V, mask_id=MASK, signal=signal)
        logits, x, _, t = draw(process, seed)
        t = ((t * steps).floor() + 1) / steps
        z = process.corrupt(x, t, generator=torch.Generator().manual_seed(seed))
        paper = published.md4_steps(theirs, MASK, steps)
        yield from values_and_gradients(
            lambda leaf, x=x, z=z, t=t, process=process: nl.elbo.step_kl(process, leaf, x, z, t - 1 / steps, t),
            lambda leaf, x=x, z=z, t=t, process=process, paper=paper: paper(normalised(process, leaf), x, z, t),
            logits,
        )


def uniform(paper) -> Callable[[], Pairs]:
    def pairs() -> Pairs:
        for seed, name in enumerate(["linear", "log-linear", "cosine", "square"]):
            signal, theirs = SIGNALS[name]
            for special, words in (((), ALL), ((MASK,), WORDS)):
                process = nl.uniform(vocab_size=V, special=special, signal=signal)
                yield from bound(process, paper(theirs, words), seed)

    return pairs


def sedd(kind: str, free: bool) -> Callable[[], Pairs]:
    """The score of a prediction with `nelbo`, or any score with `score_entropy`."""
    one = torch.ones(V, dtype=torch.float64)
    noise = (torch.arange(V) == MASK).double() if kind == "absorb" else one / V
    rates = noise - torch.eye(V, dtype=torch.float64)

    def pairs() -> Pairs:
        for seed, name in enumerate(["log-linear", "geometric"]):
            signal, theirs = SIGNALS[name]
            process = nl.masked(vocab_size=V, mask_id=MASK, signal=signal)
            if kind == "uniform":
                process = nl.uniform(vocab_size=V, signal=signal)
            # The mask's own score is not read: no token comes from a mask.
            paper = published.sedd(theirs, rates, process.data_tokens())
            if free:
                scores, x, z, t = draw(process, seed)
                yield from values_and_gradients(
                    lambda leaf, x=x, z=z, t=t, process=process: nl.elbo.score_entropy(process, leaf, x, z, t),
                    lambda leaf, x=x, z=z, t=t, paper=paper: paper(leaf, x, z, t),
                    scores,
                )
            else:
                read_off = published.score(theirs, noise)
                yield from bound(
                    process,
                    lambda log_x, x, z, t, paper=paper, read=read_off: paper(read(log_x, z, t), x, z, t),
                    seed,
                )

    return pairs


def gidd() -> Pairs:
    for seed, (share, gamma) in enumerate([(0.1, 1.0), (0.2, 1.0), (0.5, 2.0), (0.9, 0.5)]):
        process = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=share, gamma=gamma)
        yield from bound(process, published.gidd(share, gamma, MASK, V), seed)


def gidd_v1_0() -> Pairs:
    for seed, (share, gamma) in enumerate([(0.1, 1.0), (0.2, 1.0), (0.4, 1.7)]):
        process = nl.processes.gidd_v1_0(vocab_size=V, mask_id=MASK, p_uniform=share, gamma=gamma)
        yield from bound(process, published.gidd_v1_0(share, gamma, MASK, V), seed)


def log_snr() -> Pairs:
    for seed, (scale, shift) in enumerate([(1.0, 0.0), (1.0, -2.0), (1.0, 2.0), (0.5, 1.0), (-1.0, 0.0)]):
        process = nl.processes.log_snr_hybrid(vocab_size=V, mask_id=MASK, scale=scale, shift=shift)
        yield from bound(process, published.log_snr(scale, shift, MASK, V), seed)


def unigram() -> Pairs:
    for seed, name in enumerate(["linear", "cosine", "geometric"]):
        signal, theirs = SIGNALS[name]
        row = FREQUENCIES[:-1]
        yield from bound(
            nl.unigram(row, signal=signal), published.jump_process(published.row_matrices(theirs, row)), seed
        )


def mask_and_unigram() -> Pairs:
    for seed, (share, gamma) in enumerate([(0.1, 1.0), (0.4, 2.0)]):
        process = nl.processes.mask_and_unigram(FREQUENCIES, mask_id=MASK, p_unigram=share, gamma=gamma)
        matrices = published.hybrid_matrices(share, gamma, MASK, FREQUENCIES)
        yield from bound(process, published.jump_process(matrices), seed)


def token_rates() -> Pairs:
    for seed, learned in enumerate([False, True]):
        process = TokenRates(POWERS, mask_id=MASK, learned=learned)
        yield from bound(process, published.genmd4(POWERS, MASK), seed)


def coarse() -> Pairs:
    yield from bound(Coarse(PARENTS, mask_id=MASK), published.jump_process(published.coarse_matrices(PARENTS, MASK)))


def neighbours() -> Pairs:
    hop = torch.zeros(V, V, dtype=torch.float64).scatter_add(1, HOPS, torch.full((V, 2), 0.5, dtype=torch.float64))
    process = Neighbours(HOPS, torch.ones(V, 2), mask_id=MASK)
    yield from bound(process, published.jump_process(published.neighbour_matrices(hop, MASK)))


def chain(noise, row: Tensor, betas: Tensor, own_betas: Tensor, states: int) -> Pairs:
    """The whole bound of a chain in T steps: ours from `prior_kl` and `step_kl`, theirs from matrices."""
    process, steps = nl.processes.d3pm(noise, betas), len(betas)
    data = process.data_tokens().nonzero()[:, 0]
    table = torch.randn(steps, states, states, dtype=torch.float64, generator=torch.Generator().manual_seed(steps))
    matrices = published.replacing(own_betas, row)
    time = torch.arange(steps + 1, dtype=torch.float64) / steps

    def ours(leaf: Tensor) -> Tensor:
        bounds = []
        z = torch.arange(states).expand(steps, -1)
        for x in data:
            clean = torch.full_like(z, int(x))
            chance = process.probability(clean, z, time[1:])
            # An impossible noisy token has chance 0 and a divergence that is no number.
            noisy = torch.where(chance > 0, z, process.marginal(clean, time[1:]).argmax(-1))
            nats = nl.elbo.step_kl(process, leaf, clean, noisy, time[:-1], time[1:])
            prior = nl.elbo.prior_kl(process, x.view(1, 1), time[-1:])[0, 0]
            bounds.append(prior + torch.where(chance > 0, chance * nats, 0).sum())
        return torch.stack(bounds)

    def theirs(leaf: Tensor) -> Tensor:
        log_x = normalised(process, leaf)
        return torch.stack([published.d3pm(matrices, row, log_x, int(x)) for x in data])

    yield from values_and_gradients(ours, theirs, table)
    yield nl.likelihood.expected_discrete_bound(process, Table(table), data[:, None], time.flip(0)).total, theirs(table)


class Table(nl.Denoiser):
    """Logits of its own for each of T steps and each noisy token."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, z, t):
        steps = len(self.logits)
        k = (t.reshape(len(z), -1) * steps).round().long().expand(z.shape) - 1
        return self.logits[k, z]


def d3pm_absorbing() -> Pairs:
    for steps in (1, 5):
        betas = torch.tensor([1 / (steps - k + 1) for k in range(1, steps + 1)], dtype=torch.float64)
        row = torch.tensor([0, 0, 0, 1], dtype=torch.float64)
        yield from chain(nl.Absorbing(3, 4), row, nl.processes.absorbing_betas(steps), betas, 4)


def d3pm_uniform() -> Pairs:
    steps = 6
    signal = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) for k in range(steps + 1)]
    betas = torch.tensor([min(1 - signal[k + 1] / signal[k], 0.999) for k in range(steps)], dtype=torch.float64)
    yield from chain(
        nl.Uniform(4), torch.full((4,), 0.25, dtype=torch.float64), nl.processes.cosine_betas(steps), betas, 4
    )


def digress() -> Pairs:
    row, betas = FREQUENCIES[:4] / FREQUENCIES[:4].sum(), torch.tensor([0.1, 0.2, 0.4, 0.6, 1], dtype=torch.float64)
    yield from chain(nl.Unigram(row), row, betas, betas, 4)


def blocks() -> Pairs:
    process = nl.masked(vocab_size=V, mask_id=MASK)
    for size in (1, 2, 3):
        logits, x, _, _ = draw(process, size)
        t, weight = nl.times.block_times(*x.shape, size, generator=torch.Generator().manual_seed(size))
        z = process.corrupt(x, t, generator=torch.Generator().manual_seed(size))
        paper = published.bd3lm(MASK, size)

        def ours(leaf: Tensor, x=x, z=z, t=t, weight=weight) -> Tensor:
            return torch.where(weight > 0, weight * nl.nelbo(process, leaf, x, z, t), 0)

        def theirs(leaf: Tensor, x=x, z=z, t=t, paper=paper) -> Tensor:
            return paper(normalised(process, leaf), x, z, t)

        yield from values_and_gradients(ours, theirs, logits)


MDLM = "MDLM, Sahoo et al. (2024), [2406.07524](https://arxiv.org/abs/2406.07524)"
MD4 = "MD4, Shi et al. (2024), [2406.04329](https://arxiv.org/abs/2406.04329)"
SEDD = "SEDD, Lou et al. (2024), [2310.16834](https://arxiv.org/abs/2310.16834)"
D3PM = "D3PM, Austin et al. (2021), [2107.03006](https://arxiv.org/abs/2107.03006)"
CAMPBELL = "Campbell et al. (2022), [2205.14987](https://arxiv.org/abs/2205.14987)"
EQUALITIES = {
    "mdlm": Equality(
        "`masked`, linear, log-linear, cosine and squared cosine signal",
        MDLM,
        "equations 10, 11",
        masking("linear, log-linear, cosine, cosine squared"),
    ),
    "md4": Equality(
        "`masked`, linear, polynomial and MD4's cosine signal",
        MD4,
        "equation 5",
        masking("linear, square, square root, MD4 cosine"),
    ),
    "md4 steps": Equality("`masked` with `step_kl`", MD4, "section 3, T steps", md4_steps),
    "llada": Equality(
        "`masked`", "LLaDA, Nie et al. (2025), [2502.09992](https://arxiv.org/abs/2502.09992)", "equation 3", llada
    ),
    "genmd4": Equality("`TokenRates`, fixed and learned", "GenMD4, in MD4", "section 6", token_rates),
    "bd3lm": Equality(
        "`masked` at `block_times`",
        "BD3-LM, Arriola et al. (2025), [2503.09573](https://arxiv.org/abs/2503.09573)",
        "bound of section 3",
        blocks,
    ),
    "udlm": Equality(
        "`uniform`, any signal, with and without special tokens",
        "UDLM, Schiff et al. (2024), [2412.10193](https://arxiv.org/abs/2412.10193)",
        "continuous-time bound of section 4",
        uniform(published.udlm),
    ),
    "duo": Equality(
        "`uniform`, any signal, with and without special tokens",
        "Duo, Sahoo et al. (2025), [2506.10892](https://arxiv.org/abs/2506.10892)",
        "Rao-Blackwellised bound",
        uniform(published.duo),
    ),
    "sedd absorb": Equality(
        "`masked`, log-linear and geometric signal, `nelbo`", SEDD, "theorem 3.6, absorb", sedd("absorb", free=False)
    ),
    "sedd uniform": Equality(
        "`uniform`, log-linear and geometric signal, `nelbo`", SEDD, "theorem 3.6, uniform", sedd("uniform", free=False)
    ),
    "sedd absorb, free": Equality(
        "`masked`, any scores, `score_entropy`", SEDD, "theorem 3.6, absorb", sedd("absorb", free=True)
    ),
    "sedd uniform, free": Equality(
        "`uniform`, any scores, `score_entropy`", SEDD, "theorem 3.6, uniform", sedd("uniform", free=True)
    ),
    "d3pm absorbing": Equality(
        "`d3pm` with `Absorbing` and `absorbing_betas`, `expected_discrete_bound` and its terms",
        D3PM,
        "equations 1 to 4",
        d3pm_absorbing,
    ),
    "d3pm uniform": Equality(
        "`d3pm` with `Uniform` and `cosine_betas`, `expected_discrete_bound` and its terms",
        D3PM,
        "equations 1 to 4",
        d3pm_uniform,
    ),
    "digress": Equality(
        "`d3pm` with `Unigram`, `expected_discrete_bound` and its terms",
        "DiGress, Vignac et al. (2023), [2209.14734](https://arxiv.org/abs/2209.14734)",
        "marginal transitions, section 4",
        digress,
    ),
    "gidd": Equality(
        "`gidd`, any share and gamma",
        "GIDD, von Rütte et al. (2025), [2503.04482](https://arxiv.org/abs/2503.04482)",
        "theorem 3.7, weights in closed form",
        gidd,
    ),
    "gidd v1.0.0": Equality(
        "`gidd_v1_0`", "GIDD, [release v1.0.0](https://github.com/dvruette/gidd/tree/v1.0.0)", "its weights", gidd_v1_0
    ),
    "log-SNR": Equality(
        "`log_snr_hybrid`, any scale and shift",
        "von Rütte et al. (2025), [2512.10858](https://arxiv.org/abs/2512.10858)",
        "weights in the log-SNR",
        log_snr,
    ),
    "unigram": Equality("`unigram`, any signal", CAMPBELL, "continuous-time bound", unigram),
    "mask and unigram": Equality("`mask_and_unigram`", CAMPBELL, "continuous-time bound", mask_and_unigram),
    "coarse": Equality("`Coarse`", CAMPBELL, "continuous-time bound", coarse),
    "neighbours": Equality("`Neighbours`", CAMPBELL, "continuous-time bound", neighbours),
}
HEADER = ["Ours", "Theirs", "Where", "Largest relative error"]


def table(errors: dict[str, float]) -> str:
    rows = [[row.ours, row.paper, row.where, f"{errors[name]:.0e}"] for name, row in EQUALITIES.items()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] * len(HEADER), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    errors = {name: row.error() for name, row in EQUALITIES.items()}
    if not parser.parse_args().write:
        print(table(errors))
        return
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{table(errors)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
