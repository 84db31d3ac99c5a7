"""Several open blocks: with share 1 it is `BlockSampler`, with share 0 none, and the law is that of the inner sampler."""

import pytest
import torch
from exact_worlds import NOISES, generator, oracle_of, p_value
from published_decoders import RUNS, PublishedNetwork

import noiselab as nl
from noiselab.samplers import (
    BlockSampler,
    ConfidenceThreshold,
    EarlyStopping,
    EndToken,
    EntropyBound,
    JointThresholdSampler,
    Prompted,
    Quota,
    RenoisingSampler,
    SlidingBlockSampler,
    StableConfidence,
    ThresholdSampler,
    even_quotas,
)

MASK = 36
PROCESS = nl.masked(vocab_size=37, mask_id=MASK)
RULES = {
    "confidence": ConfidenceThreshold(0.6),
    "quotas": Quota(even_quotas(6, 4)),
    "bound": EntropyBound(1.5),
    "stable": StableConfidence(0.4, 0.4, history=1, minimum=[2, 1]),
}
KNOWN = torch.zeros(3, 26, dtype=torch.bool)
for row, size in enumerate((5, 9, 2)):
    KNOWN[row, :size] = True
KNOWN[:, 20] = True
TOKENS = torch.randint(MASK, (3, 26), generator=generator(3))


def sampled(wrap, rule, steps=6):
    """The result for prompts of three lengths, and the number of evaluations."""
    network = PublishedNetwork(RUNS, MASK)
    sampler = nl.Infilling(wrap(ThresholdSampler(PROCESS, network, rule)), TOKENS, KNOWN)
    return sampler.sample((3, 26), steps=steps), len(network.seen)


@pytest.mark.parametrize("given", [None, 0])
@pytest.mark.parametrize("name", RULES)
def test_with_share_1_it_is_the_block_sampler(name, given):
    """For one sequence canvas by canvas; in a batch a sequence need not wait for the others."""
    wraps = (
        lambda inner: BlockSampler(inner, 6, given=given),
        lambda inner: SlidingBlockSampler(inner, 6, share=1, given=given),
    )
    blocks, sliding = (sampled(wrap, RULES[name])[0] for wrap in wraps)
    assert torch.equal(blocks, sliding)
    seen = []
    for wrap in wraps:
        network = PublishedNetwork(RUNS, MASK)
        sampler = Prompted(wrap(ThresholdSampler(PROCESS, network, RULES[name])), TOKENS[:1, :4])
        x = sampler.sample((1, 26), steps=6)
        seen.append(torch.stack([*network.seen, x]))
    assert torch.equal(*seen)


def test_with_share_0_there_are_no_blocks():
    rule = RULES["confidence"]
    plain, _ = sampled(lambda inner: inner, rule, steps=26)
    sliding, none = sampled(lambda inner: SlidingBlockSampler(inner, 6, share=0), rule, steps=26)
    assert torch.equal(plain, sliding)
    _, half = sampled(lambda inner: SlidingBlockSampler(inner, 6, share=0.5), rule)
    _, one = sampled(lambda inner: SlidingBlockSampler(inner, 6, share=1), rule)
    assert none < half < one


class Left(nl.Denoiser):
    """Predicts token 0, and is surer to the right."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, z, t):
        self.seen.append(t.clone() if t.dim() == 2 else t[:, None].expand(z.shape))
        return torch.linspace(0, 3, z.shape[1])[:, None].mul(torch.eye(4)[0]).expand(len(z), -1, -1)


def revealed(share, at_once=None, rule=None, prompt=None):
    """In which step each of nine tokens in blocks of three is revealed; one token a step, the surest."""
    process = NOISES["masked"]()
    sampler = ThresholdSampler(process, Left(), Quota(1) if rule is None else rule)
    sampler = SlidingBlockSampler(sampler, 3, share=share, at_once=at_once)
    if prompt is not None:
        sampler = Prompted(sampler, torch.zeros(1, prompt, dtype=torch.long))
    found = torch.full((9,), -1)
    states = list(sampler.walk(torch.full((1, 9), 3), torch.linspace(1, 0, 10)))
    for k, z in enumerate(states):
        found[(z[0] == 0) & (found < 0)] = k
    return found[prompt or 0 :].tolist()


def test_when_a_block_opens():
    assert revealed(1) == [2, 1, 0, 5, 4, 3, 8, 7, 6]
    assert revealed(0) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    # After one of three tokens the next block is open, and its tokens are surer.
    assert revealed(0.3) == [8, 7, 0, 6, 5, 1, 4, 3, 2]
    # After two of three.
    assert revealed(0.5) == revealed(2 / 3) == [8, 1, 0, 7, 3, 2, 6, 5, 4]
    # Two open blocks at most: the third waits until the second is finished.
    assert revealed(0.3, at_once=2) == [8, 7, 0, 3, 2, 1, 6, 5, 4]
    assert revealed(0.3, at_once=1) == revealed(1)
    # All open blocks move in one step, and the first takes the rest of its tokens with the rule's.
    assert revealed(0.5, rule=ConfidenceThreshold(0)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_blocks_are_counted_from_the_prompt_and_the_last_one_may_be_short():
    """Five tokens after a prompt of four are a block of three and one of two; all are drawn."""
    assert revealed(1, prompt=4) == [2, 1, 0, 4, 3]
    assert revealed(0.5, prompt=4) == [4, 1, 0, 3, 2]
    assert revealed(1, prompt=7) == [1, 0] and revealed(1, prompt=9) == []


@pytest.mark.parametrize("name", ["masked", "gidd"])
@pytest.mark.parametrize("end", [0, 0.5])
def test_all_tokens_are_drawn_and_a_sequence_alone_is_as_in_a_batch(name, end):
    """Ten tokens in blocks of three after prompts of unlike lengths, of which one is the whole; the grid may end in noise."""
    process, known = NOISES[name](), torch.arange(10) < torch.tensor([0, 1, 5, 7, 10])[:, None]
    inner = SlidingBlockSampler(nl.AncestralSampler(process, oracle_of(process)), 3)
    times, tokens = torch.linspace(1, end, 5, dtype=torch.float64), torch.zeros_like(known).long()
    for seed in range(2):
        random = lambda row: torch.Generator().manual_seed(5 * seed + row)  # noqa: B023, E731
        together = nl.Infilling(inner, tokens, known).sample(
            (5, 10), times=times, generator=[random(row) for row in range(5)]
        )
        assert process.support[together].all() and (together[known] == 0).all()
        for row in range(5):
            alone = nl.Infilling(inner, tokens[row, None], known[row, None])
            assert torch.equal(alone.sample((1, 10), times=times, generator=[random(row)])[0], together[row])


def test_a_block_of_known_tokens_opens_nothing_before_those_before_it_are_reached():
    """The second of three blocks is known; the third waits for the first."""
    process, known = NOISES["masked"](), torch.tensor([[False] * 3 + [True] * 3 + [False] * 3])
    inner = SlidingBlockSampler(ThresholdSampler(process, Left(), Quota(1)), 3, share=1)
    sampler, last = nl.Infilling(inner, torch.zeros_like(known).long(), known), torch.arange(9) > 5
    states = list(sampler.walk(torch.full((1, 9), 3), torch.linspace(1, 0, 10)))
    assert [int((z == 3)[0, last].sum()) for z in states] == [3, 3, 3, 2, 1, 0]


def test_each_block_has_its_own_clock():
    network = Left()
    sampler = SlidingBlockSampler(ThresholdSampler(NOISES["masked"](), network, Quota(1)), 3, share=0.3)
    list(sampler.walk(torch.full((1, 6), 3), torch.linspace(1, 0, 9, dtype=torch.float64)))
    seen = [(1 - t[0]) * 8 for t in network.seen]
    # The first block has made k steps, the second k - 1; the network is given the time before the step.
    assert [t.tolist() for t in seen[:3]] == [[0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [2, 2, 2, 1, 1, 1]]


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_the_law_is_that_of_an_exact_inner_sampler(share):
    process = NOISES["masked"]()
    exact = SlidingBlockSampler(ThresholdSampler(process, oracle_of(process), Quota(1), draw=True), 2, share=share)
    assert exact.converges and p_value(exact, steps=4) > 1e-3
    two = SlidingBlockSampler(ThresholdSampler(process, oracle_of(process), Quota(2), draw=True), 2, share=share)
    assert not two.converges and p_value(two, steps=4) < 1e-4


def test_the_law_around_a_sampler_that_follows_the_grid():
    process = NOISES["masked"]()
    sampler = SlidingBlockSampler(nl.AncestralSampler(process, oracle_of(process)), 2, share=0.5)
    assert p_value(sampler, n=2000, times=torch.linspace(1, 0, 33, dtype=torch.float64) ** 2) > 1e-3


@pytest.mark.parametrize("name", ["uniform", "gidd"])
def test_with_noise_on_data_tokens_blocks_are_sampled_one_after_another(name):
    process = NOISES[name]()
    inner = nl.AncestralSampler(process, oracle_of(process))
    x, y = (
        wrapped.sample((50, 4), steps=8, generator=generator(2))
        for wrapped in (SlidingBlockSampler(inner, 2, share=0.5), BlockSampler(inner, 2))
    )
    assert torch.equal(x, y)


@pytest.mark.parametrize("name", RULES)
def test_in_a_batch_or_alone(name):
    process = NOISES["masked"]()
    sampler = SlidingBlockSampler(ThresholdSampler(process, oracle_of(process), RULES[name], draw=True), 6)
    together = sampler.sample((4, 20), steps=6, generator=[generator(i) for i in range(4)])
    alone = [sampler.sample((1, 20), steps=6, generator=[generator(i)]) for i in range(4)]
    assert torch.equal(together, torch.cat(alone)) and (together < 3).all()


def test_a_grid_that_ends_above_0_and_steps_that_are_too_few():
    process = NOISES["masked"]()
    sampler = SlidingBlockSampler(ThresholdSampler(process, oracle_of(process), Quota(1)), 4)
    for grid in ({"times": torch.tensor([1.0, 0.7, 0.4])}, {"steps": 1}):
        assert (sampler.sample((2, 11), generator=generator(), **grid) < 3).all()


def test_an_ended_sequence_makes_no_more_steps():
    process = NOISES["masked"]()
    counting = nl.denoisers.CallCounter(oracle_of(process))
    sliding = SlidingBlockSampler(ThresholdSampler(process, counting, Quota(1), draw=True), 2, share=0.5)
    x = EndToken(sliding, 0).sample((1, 40), steps=2, generator=generator(1))
    end = int(nl.samplers.lengths(x, 0))
    assert end < 20 and (x[0, end:] == 0).all() and counting.calls < 30


def test_it_is_sampled_to_the_end_and_says_how_far():
    process = NOISES["masked"]()
    sampler = SlidingBlockSampler(ThresholdSampler(process, oracle_of(process), ConfidenceThreshold(0)), 4)
    z, times = torch.full((2, 10), 3), torch.linspace(1, 0, 5)
    states = list(sampler.walk(z, times))
    assert len(states) == 3 <= sampler.count_steps(z, times) == 12
    assert sampler.sample((2, 0), steps=3).shape == (2, 0)


def noise_on_data():
    process = NOISES["gidd"]()
    return process, oracle_of(process)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda inner: SlidingBlockSampler(inner, 2, share=1.5), r"share must lie in \[0, 1\]; got 1.5"),
        (lambda inner: SlidingBlockSampler(inner, 2, at_once=0), "at_once must be at least 1; got 0"),
        (lambda inner: SlidingBlockSampler(inner, 0), "block_size must be at least 1; got 0"),
        (
            lambda inner: SlidingBlockSampler(Prompted(EarlyStopping(inner, 1), torch.tensor([[0]])), 2),
            "must not stop sequences by itself, because later blocks have not begun; got EarlyStopping",
        ),
        (
            lambda inner: SlidingBlockSampler(RenoisingSampler(inner.process, inner.denoiser, stability=1), 2),
            "must not stop sequences by itself.*; got RenoisingSampler",
        ),
        (
            lambda inner: SlidingBlockSampler(JointThresholdSampler(*noise_on_data(), most_edits=1), 2),
            "must not stop sequences by itself.*; got JointThresholdSampler",
        ),
        (
            lambda inner: SlidingBlockSampler(SlidingBlockSampler(inner, 2), 4),
            "must not have blocks of its own; got SlidingBlockSampler",
        ),
    ],
)
def test_what_is_refused(make, message):
    process = NOISES["masked"]()
    with pytest.raises(ValueError, match=message):
        make(nl.AncestralSampler(process, oracle_of(process)))


def test_it_prints_its_settings():
    inner = nl.AncestralSampler(NOISES["masked"](), oracle_of(NOISES["masked"]()))
    assert repr(SlidingBlockSampler(inner, 4)).endswith("block_size=4, share=0.5)")
    assert repr(SlidingBlockSampler(inner, 4, at_once=2, given=0)).endswith("share=0.5, at_once=2, given=0)")
