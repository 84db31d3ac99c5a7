"""The attention mask of a padded batch reaches the network, whatever is around it, and follows its sequences."""

import pytest
import torch

import noiselab as nl
from noiselab.denoisers import (
    ActiveOnly,
    CallCounter,
    ClassifierFreeGuidance,
    Suppress,
    Temperature,
    attending_to,
    selected_sequences,
    takes_mask,
)
from noiselab.denoisers.one_by_one import OneByOne

Z = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [1, 2, 3, 4, 5]])
REAL = torch.arange(5) < torch.tensor([[3], [2], [5]])
T = torch.full((3,), 0.5)


class MeanOfReal(nl.Denoiser):
    """A network that attends: each token gets the mean of the real tokens, as its first logit."""

    takes_mask = True

    def forward(self, z, t, rows=None):
        real = self.real_tokens(z)
        real = torch.ones_like(z) if real is None else real.long()
        mean = (z * real).sum(-1) / real.sum(-1)
        logits = torch.stack([mean, *[torch.zeros(len(z))] * 6], -1)[:, None].expand(*z.shape, -1)
        return nl.denoisers.select(logits, rows)


class Blind(nl.Denoiser):
    def forward(self, z, t, rows=None):
        return nl.denoisers.select(torch.zeros(*z.shape, 7), rows)


MEANS = [2.0, 4.5, 3.0]
WRAPPERS = {
    "none": lambda d: d,
    "temperature": lambda d: Temperature(d, 1.0),
    "counter": lambda d: CallCounter(Suppress(d, [6])),
    "active only": ActiveOnly,
    "guidance": lambda d: ClassifierFreeGuidance(d, d, 0.0),
    "compiled": lambda d: torch.compile(d, backend="eager"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_mask_reaches_the_network_inside(name, unchecked):
    denoiser = WRAPPERS[name](MeanOfReal())
    with attending_to(denoiser, REAL):
        logits = denoiser(Z, T)
    first = logits[..., 0] - logits[..., 1]  # guidance normalizes
    torch.testing.assert_close(first, torch.tensor(MEANS)[:, None].expand(3, 5))
    outside = denoiser(Z, T)
    torch.testing.assert_close((outside[..., 0] - outside[..., 1])[:, 0], torch.tensor([6 / 5, 9 / 5, 3.0]))


def test_it_follows_the_sequences():
    denoiser = MeanOfReal()
    with attending_to(denoiser, REAL):
        with selected_sequences(denoiser, torch.tensor([2, 0])):
            assert denoiser(Z[[2, 0]], T[:2])[:, 0, 0].tolist() == [3.0, 2.0]
            with selected_sequences(denoiser, torch.tensor([False, True])):
                assert denoiser(Z[[0]], T[:1])[:, 0, 0].tolist() == [2.0]
        assert denoiser(Z, T)[:, 0, 0].tolist() == MEANS
        rows = torch.zeros(3, 5, dtype=torch.bool)
        rows[1, 0] = True
        assert ActiveOnly(denoiser)(Z, T, rows)[0, 0] == 4.5
    one = MeanOfReal()
    one.attention_mask = torch.arange(5)[None] < 2  # for all sequences, and more hidden than the padding
    with attending_to(one, REAL), selected_sequences(one, torch.tensor([1, 2])):
        assert one(Z[1:], T[1:])[:, 0, 0].tolist() == [4.5, 1.5]


def test_an_own_mask_of_each_sequence_is_selected_too():
    denoiser = MeanOfReal()
    denoiser.attention_mask = REAL
    with selected_sequences(denoiser, torch.tensor([False, True, True])):
        assert denoiser(Z[1:], T[1:])[:, 0, 0].tolist() == MEANS[1:]
    assert denoiser(Z, T)[:, 0, 0].tolist() == MEANS


def test_the_mask_is_removed_after_an_error():
    denoiser = MeanOfReal()
    with (
        pytest.raises(ValueError, match=r"shape of the tokens \[2, 5\] or \[1, 5\]; got \[3, 5\]"),
        attending_to(denoiser, REAL),
    ):
        denoiser(Z[:2], T[:2])
    assert denoiser(Z[:2], T[:2])[1, 0, 0] == 9 / 5


def test_who_takes_a_mask():
    assert takes_mask(CallCounter(MeanOfReal())) and not takes_mask(CallCounter(Blind()))
    with attending_to(Blind(), REAL):
        assert Blind()(Z, T).shape == (3, 5, 7)


def test_one_by_one_predicts_a_padded_text_as_alone():
    denoiser = OneByOne(MeanOfReal(), mask_id=6, passes=5)
    with attending_to(denoiser, REAL):
        together = denoiser(Z, T)
    assert together[0, :3, 0].tolist() == denoiser(Z[:1, :3], T[:1])[0, :, 0].tolist()


def test_a_corrector_between_the_steps_of_a_sampler_sees_the_masks_of_its_sequences():
    """The second sequence is given, so that the corrector is called without it."""
    process = nl.masked(vocab_size=7, mask_id=6)
    seen = []

    class Recorded(MeanOfReal):
        def forward(self, z, t, rows=None):
            seen.append(self.real_tokens(z).clone())
            return super().forward(z, t, rows)

    denoiser = Recorded()
    sampler = nl.AncestralSampler(process, denoiser)
    known = ~REAL | torch.tensor([[False], [True], [False]])
    around = nl.Infilling(nl.PredictorCorrector(sampler, nl.GibbsCorrector(process, denoiser)), Z, known)
    with attending_to(denoiser, REAL):
        x = around.sample(Z.shape, steps=4, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    assert torch.equal(x[known], Z[known]) and {len(mask) for mask in seen} == {2, 3}
    assert all(torch.equal(mask, REAL[[0, 2]] if len(mask) == 2 else REAL) for mask in seen)
