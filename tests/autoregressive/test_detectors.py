import math

import pytest
import torch
from networks import Table
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.autoregressive import (
    RetryUponRegret,
    by_backspace_probability,
    by_denoiser_confidence,
    by_entropy,
    by_improbability,
    by_probe,
)
from noiselab.autoregressive.detectors import last_step

V, STOP, START = 6, 4, 5
TEXTS = [[0, 1, 4], [4], [2, 4, 0, 3, 1, 4], [4, 4], [0, 4, 3, 4, 1, 2, 4]]
STEPS = [[0, 1, 4], [4], [0, 3, 1, 4], [4], [1, 2, 4]]
CASES = list(zip(TEXTS, STEPS, strict=True))
NETWORK = Table(V, seed=3)


def laws(text, network=NETWORK):
    """The law of each token of a text, one forward pass for each."""
    return [network(torch.tensor([[START, *text[:place]]]))[0, -1].softmax(-1) for place in range(len(text) + 1)]


@pytest.mark.parametrize(("text", "step"), CASES)
def test_the_last_step_is_all_since_the_last_end(text, step):
    assert text[last_step(torch.tensor(text), {STOP}) :] == step
    assert last_step(torch.tensor(text), {0, 1, 2, 3, 4}) == len(text) - 1


@pytest.mark.parametrize(("text", "step"), CASES)
def test_entropy_and_improbability_are_those_of_the_tokens_of_the_last_step(text, step):
    first, found = len(text) - len(step), laws(text)
    entropies = [-(p * p.log()).sum().item() / math.log(V) for p in found[first : len(text)]]
    surest = 1 - min(found[place][text[place]].item() for place in range(first, len(text)))
    settings = {"boundary": [STOP], "start": START}
    assert by_entropy(NETWORK, **settings)(torch.tensor(text)) == pytest.approx(max(entropies), abs=1e-9)
    assert by_improbability(NETWORK, **settings)(torch.tensor(text)) == pytest.approx(surest, abs=1e-9)
    back = by_backspace_probability(NETWORK, 3, start=START)(torch.tensor(text))
    assert back == pytest.approx(found[-1][3].item(), abs=1e-9)
    for stop in (0, 1):  # read up to there, as a model that deletes steps that have hardly begun
        back = by_backspace_probability(NETWORK, 3, start=START, boundary=[STOP], stop=stop)(torch.tensor(text))
        expected = found[first + step.index(stop) + 1][3].item() if stop in step else 1.0
        assert back == pytest.approx(expected, abs=1e-9)


class Sees(nl.Denoiser):
    """Answers from the token itself, and from how many of the others are like it."""

    def __init__(self):
        super().__init__()
        self.table = torch.randn(V, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def forward(self, z, t):
        alike = (z[:, :, None] == z[:, None, :]).double().sum(-1, keepdim=True)
        return self.table[z] * alike * (1 + t.double()[:, None, None])


@pytest.mark.parametrize("hide", [None, 3])
@pytest.mark.parametrize(("text", "step"), CASES)
def test_a_denoiser_sees_the_padded_text(text, step, hide):
    denoiser, row = Sees(), [*text, *[2] * (8 - len(text))]
    chances = []
    for place in range(len(text) - len(step), len(text)):
        shown = list(row)
        if hide is not None:
            shown[place] = hide
        law = denoiser(torch.tensor([shown]), torch.tensor([0.3], dtype=torch.float64))[0, place].softmax(-1)
        chances.append(law[text[place]].item())
    detector = by_denoiser_confidence(denoiser, length=8, filler=2, boundary=[STOP], time=0.3, hide=hide)
    assert detector(torch.tensor(text)) == pytest.approx(1 - min(chances), abs=1e-9)


class Reads(torch.nn.Module):
    """A probe that says which row it was given, as a number in base 10."""

    def forward(self, input_ids):
        return -torch.tensor([float("".join(map(str, input_ids[0].tolist()))) / 1e6])


def test_a_probe_reads_up_to_its_word_and_no_further():
    detector = by_probe(Reads(), boundary=[STOP], stop=3, start=START)
    sure = lambda digits: torch.tensor(float(digits) / 1e6).double().sigmoid().item()  # noqa: E731
    assert detector(torch.tensor([3, 4, 0, 3, 1, 3, 4])) == pytest.approx(sure("53403"))
    assert detector(torch.tensor([3, 4])) == pytest.approx(sure("53"))
    assert detector(torch.tensor([3, 4, 0, 4])) == 1  # the step before has it, the last one has not


def detectors():
    settings = {"boundary": [STOP], "start": START}
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=V, initializer_range=0.4, **sizes)).eval()
    return {
        "entropy": by_entropy(network, **settings),
        "improbability": by_improbability(network, **settings),
        "backspace": by_backspace_probability(network, 3, start=START),
        "denoiser": by_denoiser_confidence(Sees(), length=20, filler=0, boundary=[STOP]),
        "probe": by_probe(Reads(), boundary=[STOP], stop=3, start=START),
    }, network


@pytest.mark.parametrize("name", ["entropy", "improbability", "backspace", "denoiser", "probe"])
def test_sampling_with_a_detector_is_bounded_and_each_answer_is_a_probability(name):
    found, network = detectors()
    answers = []

    def detector(text):
        answers.append(found[name](text))
        return answers[-1]

    written = RetryUponRegret(
        network, detector, vocab_size=V, boundary=[STOP], start=START, threshold=0.0, retries=3
    ).sample(4, length=20, generator=[torch.Generator().manual_seed(seed) for seed in range(4)])
    assert answers and all(0 <= answer <= 1 for answer in answers)
    assert all(written.stopped) and all(int((stream == V).sum()) <= 3 for stream in written.streams)
    assert any(written.spent)  # at threshold 0 it fires at nearly every step


def test_certainty_is_exact_at_both_ends():
    class Sure(torch.nn.Module):
        def forward(self, input_ids):
            logits = torch.full((*input_ids.shape, V), -torch.inf)
            logits[..., STOP] = 0
            return logits

    class Even(torch.nn.Module):
        def forward(self, input_ids):
            return torch.zeros(*input_ids.shape, V)

    settings = {"boundary": [STOP], "start": START}
    text, wrong = torch.tensor([STOP, STOP]), torch.tensor([0, STOP])
    assert by_entropy(Sure(), **settings)(text) == 0 and by_entropy(Even(), **settings)(text) == pytest.approx(1)
    assert by_improbability(Sure(), **settings)(text) == 0 and by_improbability(Sure(), **settings)(wrong) == 1


def test_detectors_refuse_what_they_cannot_read():
    for make in (
        lambda: by_entropy(NETWORK, boundary=[], start=START),
        lambda: by_improbability(NETWORK, boundary=[], start=START),
        lambda: by_probe(Reads(), boundary=[], stop=3, start=START),
        lambda: by_backspace_probability(NETWORK, 3, start=START, stop=3),
        lambda: by_denoiser_confidence(Sees(), length=8, filler=0, boundary=[]),
    ):
        with pytest.raises(ValueError, match="boundary must have tokens"):
            make()
    with pytest.raises(ValueError, match="must have tokens"):
        by_entropy(NETWORK, boundary=[STOP], start=START)(torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match="at most 2 tokens"):
        by_denoiser_confidence(Sees(), length=2, filler=0, boundary=[STOP])(torch.tensor([0, 1, 4]))
