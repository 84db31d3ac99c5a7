import math

import pytest
import torch
from networks import Table
from transformers import LlamaConfig, LlamaForCausalLM

import noiselab as nl
from noiselab.autoregressive import (
    BackspaceDetector,
    EntropyDetector,
    PooledDetector,
    ProbeDetector,
    RetryUponRegret,
    StepDetector,
    SurpriseDetector,
)
from noiselab.autoregressive.detectors import find_last_step
from noiselab.correctors import DenoiserDetector

V, STOP, START = 6, 4, 5
TEXTS = [[0, 1, 4], [4], [2, 4, 0, 3, 1, 4], [4, 4], [0, 4, 3, 4, 1, 2, 4]]
STEPS = [[0, 1, 4], [4], [0, 3, 1, 4], [4], [1, 2, 4]]
CASES = list(zip(TEXTS, STEPS, strict=True))
NETWORK = Table(V, seed=3)


def pooled(detector, **settings):
    return PooledDetector(detector, boundary=[STOP], **settings)


def laws(text, network=NETWORK):
    """The law of each token of a text, one forward pass for each."""
    return [network(torch.tensor([[START, *text[:place]]]))[0, -1].softmax(-1) for place in range(len(text) + 1)]


@pytest.mark.parametrize(("text", "step"), CASES)
def test_the_last_step_is_all_since_the_last_end(text, step):
    assert text[find_last_step(torch.tensor(text), {STOP}) :] == step
    assert find_last_step(torch.tensor(text), {0, 1, 2, 3, 4}) == len(text) - 1


@pytest.mark.parametrize(("text", "step"), CASES)
def test_entropy_and_surprise_are_those_of_the_tokens_of_the_last_step(text, step):
    first, found = len(text) - len(step), laws(text)
    entropies = [-(p * p.log()).sum().item() / math.log(V) for p in found[first : len(text)]]
    surest = -math.log(min(found[place][text[place]].item() for place in range(first, len(text))))
    z = torch.tensor(text)
    assert pooled(EntropyDetector(NETWORK, start=START)).score_step(z) == pytest.approx(max(entropies), abs=1e-9)
    assert pooled(SurpriseDetector(NETWORK, start=START)).score_step(z) == pytest.approx(surest, abs=1e-9)
    back = BackspaceDetector(NETWORK, 3, start=START)
    assert pooled(back, pool="last").score_step(z) == pytest.approx(found[-1][3].item(), abs=1e-9)
    for stop in (0, 1):  # read up to there, for a model that deletes steps that have just begun
        expected = found[first + step.index(stop) + 1][3].item() if stop in step else math.inf
        assert pooled(back, pool=stop).score_step(z) == pytest.approx(expected, abs=1e-9)


def test_all_steps_of_a_text_are_scored_as_the_last_ones_of_its_beginnings():
    """Also those of a detector that reads what follows: nothing after a step is given to it."""
    z = torch.tensor([[0, 1, STOP, 3, STOP, 2], [STOP, STOP, 0, 1, 2, STOP]])
    for token_detector in (SurpriseDetector(NETWORK, start=START), DenoiserDetector(Sees(), length=8, filler=2)):
        detector = pooled(token_detector)
        scores = detector(z)
        assert torch.equal(scores > -torch.inf, z == STOP)
        for row, place in (z == STOP).nonzero().tolist():
            begin = z[row, : place + 1]
            assert scores[row, place] == detector.score_step(begin) == detector.score_last(begin[None])[0]


def test_a_surprise_of_a_text_is_its_negative_log_probability():
    z = torch.tensor([[0, 1, 2], [3, 3, 5]])
    for row, text in enumerate(z.tolist()):
        want = [-law[token].log().item() for law, token in zip(laws(text), text, strict=False)]
        assert SurpriseDetector(NETWORK, start=START)(z)[row].tolist() == pytest.approx(want)


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
    detector = pooled(DenoiserDetector(denoiser, length=8, filler=2, time=0.3, hide=hide))
    assert detector.score_step(torch.tensor(text)) == pytest.approx(-math.log(min(chances)), abs=1e-9)


class Reads(torch.nn.Module):
    """A probe that says which row it was given, as a number in base 10."""

    def forward(self, input_ids):
        return -torch.tensor([float("".join(map(str, input_ids[0].tolist()))) / 1e6])


def test_a_probe_reads_up_to_its_word_and_no_further():
    detector = ProbeDetector(Reads(), boundary=[STOP], stop=3, start=START)
    sure = lambda digits: torch.tensor(float(digits) / 1e6).double().sigmoid().item()  # noqa: E731
    assert detector.score_step(torch.tensor([3, 4, 0, 3, 1, 3, 4])) == pytest.approx(sure("53403"))
    assert detector.score_step(torch.tensor([3, 4])) == pytest.approx(sure("53"))
    assert detector.score_step(torch.tensor([3, 4, 0, 4])) == 1  # the step before has it, the last one has not


def detectors():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=V, initializer_range=0.4, **sizes)).eval()
    return {
        "entropy": pooled(EntropyDetector(network, start=START)),
        "surprise": pooled(SurpriseDetector(network, start=START)),
        "backspace": pooled(BackspaceDetector(network, 3, start=START), pool="last"),
        "denoiser": pooled(DenoiserDetector(Sees(), length=20, filler=0)),
        "probe": ProbeDetector(Reads(), boundary=[STOP], stop=3, start=START),
    }, network


@pytest.mark.parametrize("name", ["entropy", "surprise", "backspace", "denoiser", "probe"])
def test_sampling_with_a_detector_is_bounded_and_no_score_is_negative(name):
    found, network = detectors()
    answers = []

    class Recorded(StepDetector):
        def score_step(self, text):
            answers.append(found[name].score_step(text))
            return answers[-1]

    written = RetryUponRegret(
        network, Recorded([STOP]), vocab_size=V, boundary=[STOP], start=START, threshold=0.0, retries=3
    ).sample(4, length=20, generator=[torch.Generator().manual_seed(seed) for seed in range(4)])
    assert answers and min(answers) >= 0
    if name in ("entropy", "backspace", "probe"):
        assert max(answers) <= 1
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

    text = torch.tensor([[STOP, STOP], [0, STOP]])
    assert EntropyDetector(Sure(), start=START)(text).tolist() == [[0, 0], [0, 0]]
    assert EntropyDetector(Even(), start=START)(text).flatten().tolist() == pytest.approx([1] * 4)
    assert SurpriseDetector(Sure(), start=START)(text).tolist() == [[0, 0], [math.inf, 0]]
    assert pooled(SurpriseDetector(Sure(), start=START)).score_last(text).tolist() == [0, math.inf]


def test_detectors_refuse_what_they_cannot_read(unchecked):
    entropy = EntropyDetector(NETWORK, start=START)
    for make in (
        lambda: PooledDetector(entropy, boundary=[]),
        lambda: ProbeDetector(Reads(), boundary=[], stop=3, start=START),
    ):
        with pytest.raises(ValueError, match="boundary must have tokens"):
            make()
    with pytest.raises(ValueError, match="must have tokens"):
        pooled(entropy).score_step(torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match="at most 2 tokens"):
        DenoiserDetector(Sees(), length=2, filler=0)(torch.tensor([[0, 1, 4]]))
    with pytest.raises(ValueError, match="together"):
        DenoiserDetector(Sees(), length=2)
    with pytest.raises(ValueError, match="time must lie"):
        DenoiserDetector(Sees(), time=1.5)
    with pytest.raises(ValueError, match="must be 'token'; PooledDetector has 'step'"):
        pooled(pooled(entropy))
    with pytest.raises(ValueError, match="pool must be"):
        pooled(entropy, pool="mean")
