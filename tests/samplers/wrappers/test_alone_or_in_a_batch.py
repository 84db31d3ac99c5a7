"""With a generator for each text, a text after its prompt is the one that it is alone, whatever the others in the batch."""

import pytest
import torch
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.bench.catalogue import OnGrid, ThenCorrect
from noiselab.categorical import TokenGenerators
from noiselab.samplers import BlockSampler, EarlyStopping, EndToken, RenoisingSampler, SlidingBlockSampler

LENGTH = 10
KNOWN = torch.arange(LENGTH) < torch.tensor([0, 1, 5, 7, LENGTH])[:, None]  # with blocks of three: 4, 3, 2, 1 and none
TOKENS = torch.zeros_like(KNOWN).long()
NOISES = {
    "masked": PROCESSES["masked"],
    "gidd": PROCESSES["gidd"],
    # Some tokens are noise at the lower end of time, too.
    "leaky": lambda: nl.processes.log_snr_hybrid(vocab_size=V, mask_id=V - 1, shift=1),
}
SAMPLERS = {
    "no blocks": nl.AncestralSampler,
    "renoising": RenoisingSampler,
    "corrected": lambda p, d: nl.PredictorCorrector(nl.AncestralSampler(p, d), nl.GibbsCorrector(p, d)),
    "stopping": lambda p, d: EarlyStopping(nl.AncestralSampler(p, d), 1),
}
WRAPS = {
    "blocks": lambda p, d: BlockSampler(nl.AncestralSampler(p, d), 3),
    "blocks of a grid": lambda p, d: OnGrid(BlockSampler(nl.AncestralSampler(p, d), 3), nl.samplers.power_grid),
    "blocks of renoising": lambda p, d: BlockSampler(SAMPLERS["renoising"](p, d), 3),
    "blocks of corrected": lambda p, d: BlockSampler(SAMPLERS["corrected"](p, d), 3),
    "blocks of stopping": lambda p, d: BlockSampler(SAMPLERS["stopping"](p, d), 3),
    "corrected blocks": lambda p, d: nl.PredictorCorrector(WRAPS["blocks"](p, d), nl.GibbsCorrector(p, d)),
    "then corrected": lambda p, d: ThenCorrect(WRAPS["blocks"](p, d), nl.GibbsCorrector(p, d)),
    "stopping blocks": lambda p, d: EarlyStopping(WRAPS["blocks"](p, d), 1),
    "ended blocks": lambda p, d: EndToken(WRAPS["blocks"](p, d), 1),
    "sliding": lambda p, d: SlidingBlockSampler(nl.AncestralSampler(p, d), 3),
    "ended sliding": lambda p, d: EndToken(WRAPS["sliding"](p, d), 1),
}


def oracle_of(process):
    return nl.MarkovOracle(INITIAL, TRANSITION, process)


def sampled(make, process, rows, end, known=KNOWN, pack=lambda generators, rows: generators):
    """The texts of some rows, and the states in which they leave their generators."""
    each = [torch.Generator().manual_seed(7 * row) for row in rows]
    sampler = nl.Infilling(make(process, oracle_of(process)), TOKENS[rows], known[rows])
    times = torch.linspace(process.domain[1], end, 5, dtype=torch.float64)
    x = sampler.sample((len(rows), LENGTH), times=times, generator=pack(each, rows))
    return x, torch.stack([generator.get_state() for generator in each])


def agree(make, process, end, **more):
    together = sampled(make, process, list(range(len(KNOWN))), end, **more)
    alone = [sampled(make, process, [row], end, **more) for row in range(len(KNOWN))]
    return [
        torch.equal(whole, torch.cat(parts)) for whole, parts in zip(together, zip(*alone, strict=True), strict=True)
    ]


@pytest.mark.long_for("*-masked-0.5", "*-gidd-0")
@pytest.mark.parametrize(("noise", "end"), [("masked", 0.5), ("gidd", 0.5), ("gidd", 0), ("leaky", 0)])
@pytest.mark.parametrize("name", [*SAMPLERS, *WRAPS])
def test_a_text_alone_is_as_in_a_batch(name, noise, end):
    """The texts, and what the generators would draw next; the grid may end above 0, or 0 be noisy."""
    assert agree((SAMPLERS | WRAPS)[name], NOISES[noise](), end) == [True, True]


def test_so_it_is_with_padding():
    """Of a text of 8 tokens padded to 10, the padding gets no numbers."""
    real = torch.arange(LENGTH) < 8
    pack = lambda generators, rows: TokenGenerators(generators, real.expand(len(rows), -1))  # noqa: E731
    assert agree(WRAPS["blocks"], NOISES["gidd"](), 0.5, known=KNOWN | ~real, pack=pack) == [True, True]


def test_a_sequence_that_does_not_move_draws_no_numbers():
    process = NOISES["gidd"]()
    for sampler in (make(process, oracle_of(process)) for make in SAMPLERS.values()):
        each, fresh = ([torch.Generator().manual_seed(row) for row in range(3)] for _ in range(2))
        t, s = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.5, 0.2, 0.5])
        z = process.prior(3, LENGTH, generator=torch.Generator().manual_seed(1))
        for call in (sampler.step, sampler.stages):
            call(z, t, s, generator=each)
            same = [torch.equal(a.get_state(), b.get_state()) for a, b in zip(each, fresh, strict=True)]
            assert same == [True, False, True]
            call(z, t[:, None].expand(z.shape), s[:, None].expand(z.shape), generator=TokenGenerators(each, z == z))
            same = [torch.equal(a.get_state(), b.get_state()) for a, b in zip(each, fresh, strict=True)]
            assert same == [True, False, True]


def test_one_generator_for_all_draws_for_all():
    """What others draw from it then does not depend on which of them move."""
    process = NOISES["gidd"]()
    z, t = torch.zeros(3, LENGTH, dtype=torch.long), torch.full((3,), 0.5)
    states = []
    for s in (t, t / 2):
        one = torch.Generator().manual_seed(0)
        nl.AncestralSampler(process, oracle_of(process)).step(z, t, s, generator=one)
        states.append(one.get_state())
    assert torch.equal(*states)
