"""Committing to confident tokens: the rule by hand, what is remembered, what it does not claim, and what is refused."""

import re

import pytest
import torch
from exact_worlds import NOISES, generator, oracle_of, p_value

import noiselab as nl
from noiselab.samplers import BlockSampler, CommittingSampler


class Recorded(CommittingSampler):
    """Noise that is recognised: always token 2."""

    def renoised(self, z, s, u):
        return torch.full_like(z, 2)


class Script(nl.Denoiser):
    """Step k predicts the k-th row of tokens, with the k-th row of probabilities."""

    predicts = "posterior"

    def __init__(self, tokens, chances):
        super().__init__()
        self.tokens, self.chances, self.k = torch.tensor(tokens), torch.tensor(chances, dtype=torch.float64), 0

    def forward(self, z, t):
        p = self.chances[self.k]
        law = ((1 - p) / 2)[:, None].expand(-1, 3).scatter(1, self.tokens[self.k, :, None], p[:, None])
        self.k += 1
        return law.log()[None].expand(len(z), -1, -1)


TOKENS = [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
CHANCES = [[0.95, 0.4, 0.5, 0.6], [0.7, 0.8, 0.45, 0.4], [0.8, 0.5, 0.6, 0.45], [0.5, 0.5, 0.5, 0.99]]


@pytest.mark.parametrize(
    ("edit", "want"),
    [
        # Step 1: position 0 is above the threshold, and one is owed. Step 2: a second is owed, position 1. Step 3: position 2.
        (None, [[0, 2, 2, 2], [0, 1, 2, 2], [0, 1, 0, 2], [0, 1, 0, 1]]),
        # In step 2 position 0 is edited, in step 3 back; position 1, below the edit threshold, stays.
        (0.65, [[0, 2, 2, 2], [1, 1, 2, 2], [0, 1, 0, 2], [0, 1, 0, 1]]),
    ],
)
def test_four_steps_by_hand(edit, want):
    sampler = Recorded(nl.uniform(vocab_size=3), Script(TOKENS, CHANCES), 0.9, edit)
    states = list(sampler.walk(torch.tensor([[2, 2, 2, 2]]), torch.linspace(1, 0, 5)))
    assert [z[0].tolist() for z in states] == want


def test_what_is_above_the_threshold_comes_early_and_then_nothing_is_owed():
    tokens, chances = [[0] * 4] * 3, [[0.95, 0.95, 0.95, 0.5], [0.5] * 4, [0.5] * 4]
    sampler = Recorded(nl.uniform(vocab_size=3), Script(tokens, chances), 0.9)
    states = list(sampler.walk(torch.tensor([[2, 2, 2, 2]]), torch.linspace(1, 0, 4)))
    assert [z[0].tolist() for z in states] == [[0, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("blocks", [False, True])
def test_in_a_batch_or_alone(name, blocks):
    process = NOISES[name]()
    edit = None if name == "masked" else 0.6
    sampler = CommittingSampler(process, oracle_of(process), 0.8, edit)
    sampler = nl.samplers.Prompted(BlockSampler(sampler, 3) if blocks else sampler, torch.tensor([[2]]))
    together = sampler.sample((4, 7), steps=5, generator=[generator(i) for i in range(4)])
    alone = torch.cat([sampler.sample((1, 7), steps=5, generator=[generator(i)]) for i in range(4)])
    assert torch.equal(together, alone) and (together < 3).all() and (together[:, 0] == 2).all()


def test_a_committed_token_that_a_corrector_masks_is_free_again():
    process = NOISES["gidd"]()

    class Masks(nl.Corrector):
        def step(self, z, t, *, rows=None, generator=None):
            return torch.where(torch.arange(z.shape[1]) == 1, 3, z)

    sampler = CommittingSampler(process, oracle_of(process), 0.1)
    x = nl.PredictorCorrector(sampler, Masks(process, oracle_of(process))).sample(
        (4, 5), steps=6, generator=generator()
    )
    assert (x < 3).all()


@pytest.mark.parametrize("name", NOISES)
def test_it_is_not_exact_and_says_so(name):
    process = NOISES[name]()
    sampler = CommittingSampler(process, oracle_of(process))
    assert not sampler.converges and p_value(sampler, steps=8) < 1e-10


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("uniform", {"threshold": 1.1}, "threshold must"),
        ("uniform", {"edit": -1}, "edit must"),
        ("masked", {"edit": 0.5}, "edit must be None under noise that never makes a visible token wrong"),
    ],
)
def test_what_is_refused(name, options, message):
    process = NOISES[name]()
    with pytest.raises(ValueError, match=re.escape(message)):
        CommittingSampler(process, oracle_of(process), **options)
    assert repr(CommittingSampler(process, oracle_of(process))).endswith("threshold=0.9)")


def test_tokens_that_reach_the_lower_end_are_committed_whatever_others_are_owed():
    # The two left tokens end at t = 0; those on the right are surer, and would take all that is owed.
    process = nl.masked(vocab_size=3, mask_id=2)
    network = Script([[0, 1, 0, 1]], [[0.5, 0.6, 0.8, 0.9]])
    z, t = torch.full((1, 4), 2), torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    s = torch.tensor([[0.0, 0.0, 0.9, 0.9]])
    moved = CommittingSampler(process, network, 1.0).step(z, t, s, generator=generator())
    assert moved[0, :2].tolist() == [0, 1]
