"""Objects print as what they are made of, in one line."""

import pytest
import torch
from worlds import DATA, INITIAL, TRANSITION, Stranger, V

import noiselab as nl


def oracle(process):
    return nl.MarkovOracle(INITIAL, TRANSITION, process)


class Network(nl.Denoiser):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Embedding(V, 3), torch.nn.Linear(3, V))

    def forward(self, z, t):
        return self.layers(z)


class Named(Stranger):
    def extra_repr(self):
        return "sharpness 2"


class HalfBuilt(nl.InterpolatingProcess):
    def alpha(self, t):
        return 1 - t

    def mixing(self, t):
        return self.row


MASKED = "Interpolation(1 - t, {Absorbing(4): t})"
PRINTED = {
    "a process in two methods": (lambda: Stranger(), "Stranger(5 tokens)"),
    "with a support": (lambda: Stranger(DATA), "Stranger(5 tokens, 4 in data)"),
    "that says more itself": (lambda: Named(), "Named(sharpness 2)"),
    "that cannot say its size": (lambda: HalfBuilt(), "HalfBuilt()"),
    "an oracle": (lambda: oracle(Stranger()), "MarkovOracle(4 states, Stranger(5 tokens))"),
    "a sampler": (
        lambda: nl.AncestralSampler(Stranger(), oracle(Stranger())),
        "AncestralSampler(Stranger(5 tokens), MarkovOracle(4 states, Stranger(5 tokens)))",
    ),
    "of a network": (
        lambda: nl.AncestralSampler(nl.masked(vocab_size=V, mask_id=V - 1), Network()),
        f"AncestralSampler({MASKED}, Network(35 parameters))",
    ),
    "a correction": (
        lambda: nl.SelfCorrection(Network(), temperature=0.5),
        "SelfCorrection(Network(35 parameters), time=0.01, temperature=0.5, tokens_per_step=1, patience=32)",
    ),
}


@pytest.mark.parametrize("what", PRINTED)
def test_it_prints_in_one_line(what):
    make, text = PRINTED[what]
    assert repr(make()) == text


def test_a_wrapped_denoiser_in_a_sampler_prints_in_one_line():
    process = nl.masked(vocab_size=V, mask_id=V - 1)
    text = repr(nl.AncestralSampler(process, nl.Temperature(Network(), 0.5)))
    assert "\n" not in text and "Temperature(" in text and "Network(35 parameters)" in text


def test_printing_does_not_change_what_is_printed():
    process = Stranger()
    before = process.marginal(torch.zeros(1, 1, dtype=torch.long), torch.tensor([0.5]))
    repr(process)
    assert torch.equal(process.marginal(torch.zeros(1, 1, dtype=torch.long), torch.tensor([0.5])), before)
