"""Losses and noise of trained correction against numbers of the published code (tests/fixtures/reference/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import noiselab as nl
from noiselab.denoisers import BlockDenoiser, ProjectedDenoiser, attending_to
from noiselab.denoisers.blockwise import attended_pairs
from noiselab.processes import absorbing_hybrid
from noiselab.training import draft_loss, fill_draft, quality_loss, reveal
from noiselab.training.masked_texts import mask_weight

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


# PRISM: quality.


def masked():
    return nl.masked(vocab_size=V, mask_id=MASK)


def released_cross_entropy(logits, x):
    """With the mask in the softmax, as PRISM's code has it."""
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), x, reduction="none")


@pytest.mark.parametrize("case", ["plain", "reweighted", "with_ce", "copies"])
def test_prism(numbers, case):
    shared, own = part(numbers, "prism"), part(numbers, f"prism.{case}")
    x, z, t, real, copies = *(shared[name] for name in ("x", "z_t", "t", "attention")), own["copies"]
    quality, logits = (own[name].clone().requires_grad_() for name in ("quality", "logits"))
    many = [each.repeat(copies, 1) for each in (x, z, real, t[:, None].expand(x.shape))]
    revealed = (many[1] == MASK) & (own["z_s"] != MASK)
    losses = quality_loss(quality, many[0], own["z_s"], revealed)
    if case == "reweighted":
        loss = (losses * many[2] / (1 - many[3])).sum() / x.numel()
    else:  # as released, padding is among those by whose number is divided
        loss = (losses * many[2]).sum() / revealed.sum()
    ours = nl.nelbo(masked(), logits, x, z, t)
    released = torch.where(z == MASK, released_cross_entropy(logits, x) / t[:, None], 0)
    loss = loss + own["reg"] * (real * released).sum() / x.numel()
    torch.testing.assert_close(loss.item(), own["loss"], rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(loss, (quality, logits), allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(gradients[0], own["grad_quality"], **CLOSE)
    torch.testing.assert_close(gradients[1], own["grad_logits"], **CLOSE)
    # Ours has no mask in the softmax: the released loss is larger by -log(1 - p(mask)) for each mask.
    excess = -(1 - logits.softmax(-1)[..., MASK]).log() / t[:, None]
    torch.testing.assert_close(released - ours, torch.where(z == MASK, excess, 0))
    assert (released - ours).max() > 0.01


def test_prism_for_llada_reveals_the_most_confident_masks_and_divides_by_512(numbers):
    own = part(numbers, "prism_llada")
    x, z, t = own["x"], own["z_t"], own["t"]
    quality, logits = (own[name].clone().requires_grad_() for name in ("quality", "logits"))
    allowed = logits.detach().index_fill(-1, torch.tensor([MASK]), -torch.inf)
    shown, revealed = reveal(allowed, z, z == MASK, own["K"], choice="confident", filling="most likely")
    assert torch.equal(shown, own["z_s"]) and torch.equal(revealed, (z == MASK) & (own["z_s"] != MASK))
    released = torch.where(z == MASK, released_cross_entropy(logits, x) / t[:, None], 0).sum()
    loss = quality_loss(quality, x, shown, revealed).sum() / (len(x) * own["K"])
    loss = loss + own["reg"] * released / (own["normaliser"] * len(x))
    torch.testing.assert_close(loss.item(), own["loss"], rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(loss, (quality, logits))
    torch.testing.assert_close(
        gradients[0], own["grad_quality"], rtol=1e-6, atol=1e-7
    )  # its labels pass through float32
    torch.testing.assert_close(gradients[1], own["grad_logits"], **CLOSE)


# ProSeCo: correction of drafts.


@pytest.mark.parametrize("case", ["weighted", "flat", "errors", "outputs"])
def test_proseco(numbers, case):
    shared, own = part(numbers, "proseco"), part(numbers, f"proseco.{case}")
    x, z, t, process = shared["x"], shared["z_t"], shared["t"], masked()
    logits, corrected = (own[name].clone().requires_grad_() for name in ("logits", "corrector_logits"))
    draft = fill_draft(process.on_support(logits), z, z == MASK)
    assert torch.equal(draft, own["corrector_input"])
    own_loss = draft_loss(process, corrected, x, draft, counted="errors, as released" if case == "errors" else "all")
    factor = 1 if case == "flat" else mask_weight(process, x, t)
    mdlm = nl.nelbo(process, logits, x, z, t)
    torch.testing.assert_close(mdlm, own["mdlm"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(factor * own_loss, own["corrector"], rtol=1e-6, atol=1e-9)
    loss = (mdlm + own["weight"] * factor * own_loss).mean()
    torch.testing.assert_close(loss.item(), own["loss"], rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(loss, (logits, corrected))
    torch.testing.assert_close(gradients[0], own["grad_logits"], **CLOSE)
    torch.testing.assert_close(gradients[1], own["grad_corrector_logits"], **CLOSE)


def test_the_errors_option_of_proseco_is_not_the_loss_of_errors(numbers):
    """Its terms at right tokens are negative probabilities; those of ours are 0. At errors the two are one."""
    own, x = part(numbers, "proseco.errors"), part(numbers, "proseco")["x"]
    right = own["corrector_input"] == x
    arguments = masked(), own["corrector_logits"], x, own["corrector_input"]
    ours, released = (draft_loss(*arguments, counted=counted) for counted in ("errors", "errors, as released"))
    assert (ours[right] == 0).all() and (released[right] < 0).all() and right.any()
    assert torch.equal(ours[~right], released[~right])


def test_mask_weight_is_that_of_the_bound():
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x = torch.zeros(3, 2, dtype=torch.long)
    torch.testing.assert_close(mask_weight(masked(), x, t), (1 / t)[:, None].expand(3, 2))
    squared = nl.masked(vocab_size=V, mask_id=MASK, signal=1 - nl.t**2)
    torch.testing.assert_close(mask_weight(squared, x, t), (2 / t)[:, None].expand(3, 2))


# BD3-LM: all blocks in one pass.


class Attention(ProjectedDenoiser):
    """The one-layer network of the reference: it takes a mask of pairs and positions."""

    takes_mask = True

    def __init__(self, own):
        super().__init__()
        self.own = own

    def require_attention(self):
        pass

    def hidden(self, z, t):
        own, positions, pairs = self.own, self.positions(z), self.may_attend(z)
        places = torch.arange(z.shape[1])[None] if positions is None else positions
        h = own["emb"][z] + own["pos"][places]
        scores = (h @ own["q"]) @ (h @ own["k"]).transpose(1, 2) / h.shape[-1] ** 0.5
        if pairs is not None:
            scores = scores.masked_fill(~pairs, -torch.inf)
        return h + scores.softmax(-1) @ h @ own["v"]

    def project(self, hidden):
        return hidden @ self.own["out"]


@pytest.mark.parametrize("size", [3, 4])
def test_bd3(numbers, size):
    shared, own = part(numbers, "bd3"), part(numbers, f"bd3.block{size}")
    x, z, t, process = own["x"], own["z_t"], own["t"], masked()
    n = x.shape[1]
    pairs = attended_pairs(torch.arange(n).repeat(2) // size, n, one_pass=True)
    assert torch.equal(pairs, own["mask"])
    denoiser = BlockDenoiser(Attention(shared), size)
    with attending_to(denoiser, clean=x):
        logits = denoiser(z, t)
    torch.testing.assert_close(logits, own["logits"], rtol=1e-6, atol=1e-9)
    leaf = own["logits"].clone().requires_grad_()
    losses = nl.nelbo(process, leaf, x, z, t)
    torch.testing.assert_close(losses, own["per_token"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(losses.mean().item(), own["loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(losses.mean(), leaf)[0], own["grad_logits"], **CLOSE)


@pytest.mark.parametrize("size", [3, 4])
def test_bd3_needs_exactly_this_mask(numbers, size):
    """A planted mistake: noisy tokens that see the clean ones of their own block."""
    own = part(numbers, f"bd3.block{size}")
    block, n = torch.arange(own["x"].shape[1]).repeat(2) // size, own["x"].shape[1]
    leaking = attended_pairs(block, n, one_pass=True)
    leaking[:n, n:] |= block[:n, None] == block[None, n:]
    assert not torch.equal(leaking, own["mask"])
