"""Every sampler and corrector runs on a real network, which takes times as [batch] or [batch, length] and nothing else."""

import pytest
import torch

import noiselab as nl
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser

V, LENGTH = 12, 6
SAMPLERS = {
    "ancestral": nl.AncestralSampler,
    "euler": nl.samplers.EulerSampler,
    "tau-leaping": nl.samplers.TauLeapingSampler,
    "deterministic": nl.samplers.DeterministicSampler,
    "remasking": lambda process, denoiser: nl.samplers.RemaskingSampler(process, denoiser, amount=0.1),
    "path planning": nl.samplers.PathPlanningSampler,
    "confidence": nl.samplers.ConfidenceSampler,
    "entropy-bounded": nl.samplers.EntropyBoundedSampler,
    "renoising": lambda process, denoiser: nl.samplers.RenoisingSampler(process, denoiser, 1.0),
    "first hitting": nl.samplers.FirstHittingSampler,
    "gillespie": nl.samplers.GillespieSampler,
}
CORRECTORS = {
    "gibbs": nl.GibbsCorrector,
    "forward-backward": nl.correctors.ForwardBackwardCorrector,
    "dfm": nl.correctors.DFMCorrector,
    "remasking": lambda process, denoiser: nl.correctors.RemaskingCorrector(process, denoiser, amount=0.1),
}


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "timestep_cond_dim": 8}
    model = DiT(DiTConfig(vocab_size=V, max_seq_len=LENGTH, **sizes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if (weight == 0).all():
                weight.normal_(std=0.1)
    return TransformersDenoiser(model.double())  # in single precision entropies tie, and rounding chooses


def runs(process, sampler):
    """Whether it gives data tokens: the same ones in a batch as one by one, so that each sequence meets its own time."""
    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    x = sampler.sample((3, LENGTH), steps=3, generator=seeds)
    assert process.data_tokens()[x].all()
    for i in range(3):
        assert (sampler.sample((1, LENGTH), steps=3, generator=[torch.Generator().manual_seed(i)]) == x[i]).all()


@pytest.mark.long_for("gillespie")
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name, denoiser):
    process = nl.masked(vocab_size=V, mask_id=V - 1)
    runs(process, SAMPLERS[name](process, denoiser))
    if name in ("ancestral", "euler", "tau-leaping", "remasking", "renoising", "path planning"):
        hybrid = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
        runs(hybrid, SAMPLERS[name](hybrid, denoiser))


@pytest.mark.parametrize("name", CORRECTORS)
def test_correctors(name, denoiser):
    process = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
    sampler = nl.AncestralSampler(process, denoiser)
    runs(process, nl.PredictorCorrector(sampler, CORRECTORS[name](process, denoiser)))
