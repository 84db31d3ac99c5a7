"""Losses and noise of trained correction against numbers of the published code (tests/fixtures/reference/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import noiselab as nl
from noiselab.processes import absorbing_hybrid

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
V, MASK = 13, 12
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


@pytest.fixture(scope="module")
def numbers():
    return load_file(REFERENCE / "losses.safetensors")


def part(numbers, case):
    """The fields of a case; tokens as int64, scalars as numbers."""
    found = {name.removeprefix(f"{case}."): value for name, value in numbers.items() if name.startswith(f"{case}.")}
    return {
        name: value.item() if not value.dim() else value.long() if value.dtype == torch.int16 else value
        for name, value in found.items()
    }


# SCDD: the noise.


def scdd_process(own):
    return absorbing_hybrid(vocab_size=V, mask_id=MASK, p_uniform=own["ratio"], gamma=own["gamma"], peak=own["t_peak"])


def test_scdd_clocks_are_those_of_the_absorbing_hybrid(numbers):
    own = part(numbers, "scdd")
    kept, unmasked = scdd_process(own).shares(own["times"]).unbind(-1)
    torch.testing.assert_close(kept * unmasked, own["keep"], rtol=1e-12, atol=0)
    torch.testing.assert_close((1 - kept) * unmasked, own["uniform"], rtol=1e-12, atol=0)


def test_scdd_noise_has_the_law_of_the_absorbing_hybrid(numbers):
    own = part(numbers, "scdd")
    process, x = scdd_process(own), torch.tensor([[own["noised_from"]]])
    law = process.marginal(x, torch.tensor([own["noised_at"]], dtype=torch.float64))[0, 0]
    for counts in (
        own["noised_counts"].double(),
        torch.bincount(
            process.corrupt(
                x.expand(1, 20_000), torch.tensor([own["noised_at"]]), generator=torch.Generator().manual_seed(0)
            )[0],
            minlength=V,
        ).double(),
    ):
        assert counts.sum() == own["draws"]
        statistic = ((counts - own["draws"] * law) ** 2 / (own["draws"] * law)).sum()
        assert torch.special.gammaincc(torch.tensor((V - 1) / 2).double(), statistic / 2) > 1e-3


def test_scdd_reverse_step_is_that_of_the_absorbing_hybrid_and_not_of_hybrid_noise(numbers):
    own = part(numbers, "scdd")
    process = scdd_process(own)
    x_hat, before = process.on_support(own["logits"]).softmax(-1), own["t"] - own["reverse_dt"]
    law = process.posterior(own["z_t"], x_hat, before, own["t"])
    torch.testing.assert_close(law, own["reverse_law"], rtol=1e-9, atol=1e-12)
    hybrid = nl.gidd(vocab_size=V, mask_id=MASK, p_uniform=own["ratio"])
    torch.testing.assert_close(hybrid.marginal(own["x"], own["t"]), process.marginal(own["x"], own["t"]))
    assert (hybrid.posterior(own["z_t"], x_hat, before, own["t"]) - law).abs().max() > 0.01


def test_scdd_loss_has_the_gradient_of_our_bound_in_steps_but_is_no_bound(numbers):
    own = part(numbers, "scdd")
    process, steps, logits = scdd_process(own), own["steps"], own["logits"].clone().requires_grad_()
    bound = steps * nl.elbo.step_kl(process, logits, own["x"], own["z_t"], own["t"] - 1 / steps, own["t"])
    torch.testing.assert_close(torch.autograd.grad(bound.mean(), logits)[0], own["grad_logits"], **CLOSE)
    constants = bound.detach() - own["per_token"]
    assert bound.min() >= 0 and own["per_token"].min() < 0 and constants.abs().min() > 1
