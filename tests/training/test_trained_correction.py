"""Quality heads and corrected drafts: their minimisers by enumeration, and what is drawn for them."""

import itertools
import math

import pytest
import torch

import noiselab as nl
from noiselab.data import TokenBlocks
from noiselab.denoisers import ProjectedDenoiser, QualityDenoiser
from noiselab.networks.dit import DiT, DiTConfig
from noiselab.networks.huggingface import TransformersDenoiser
from noiselab.training import (
    CorrectionLoss,
    Optimization,
    Place,
    QualityLoss,
    Run,
    Trainer,
    draft_loss,
    fill_draft,
    quality_loss,
    reveal,
)

V, MASK, L = 3, 3, 3
INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRANSITION = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], dtype=torch.float64)
PROCESS = nl.masked(vocab_size=V + 1, mask_id=MASK)
ORACLE = nl.MarkovOracle(INITIAL, TRANSITION, PROCESS)
TEXTS = nl.likelihood.every_sequence(V, L)
CHANCE = ORACLE.log_prob(TEXTS).exp()
HIDDEN = torch.tensor(list(itertools.product([False, True], repeat=L)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def predict(z):
    """The oracle's law of each token; time does not matter to it."""
    return PROCESS.on_support(ORACLE(z, torch.full((len(z),), 0.5))).double().softmax(-1)


def code(z):
    return (z * (V + 1) ** torch.arange(L)).sum(-1)


def blurred(z):
    """A denoiser that is wrong: it draws with half of the oracle's law, and prefers some tokens by their position."""
    bias = torch.tensor([[3.0, 1, 1], [1, 1, 4], [2, 1, 1]], dtype=torch.float64)
    law = predict(z)[..., :V] * 0.5 + 0.5 * bias / bias.sum(-1, keepdim=True)
    return law / law.sum(-1, keepdim=True)


def revealed_worlds(count, t=0.6):
    """Every clean text, every set of masks, every choice of `count` of them, every filling: with their probabilities."""
    for hidden in HIDDEN:
        masks = hidden.nonzero()[:, 0].tolist()
        choices = list(itertools.combinations(masks, min(count, len(masks)))) if masks else []
        z = torch.where(hidden, MASK, TEXTS)
        law, pattern = blurred(z), t ** len(masks) * (1 - t) ** (L - len(masks))
        for places in choices:
            for filling in itertools.product(range(V), repeat=len(places)):
                shown, revealed = z.clone(), torch.zeros_like(z, dtype=torch.bool)
                weight = CHANCE * pattern / len(choices)
                for place, token in zip(places, filling, strict=True):
                    weight = weight * law[:, place, token]
                    shown[:, place], revealed[:, place] = token, True
                yield shown, revealed, weight


def minimiser(count):
    """The quality of each token of each text at which the expected loss is least, from its values and gradients at 0."""
    table = torch.zeros((V + 1) ** L, L, dtype=torch.float64, requires_grad=True)
    total, mass = torch.zeros(()).double(), torch.zeros_like(table)
    for shown, revealed, weight in revealed_worlds(count):
        losses = weight[:, None] * quality_loss(table[code(shown)], TEXTS, shown, revealed)
        total = total + losses.sum()
        mass = mass.index_add(0, code(shown), losses.detach() / math.log(2))
    slope = torch.autograd.grad(total, table)[0]
    seen = mass > 0
    return torch.where(seen, 0.5 - slope / torch.where(seen, mass, 1), torch.nan), seen


def right_with_own_place_masked():
    """p(x_i = z_i | position i masked, the others as they are) for each text, from the oracle."""
    every = torch.tensor(list(itertools.product(range(V + 1), repeat=L)))
    found = torch.full(((V + 1) ** L, L), torch.nan, dtype=torch.float64)
    for place in range(L):
        shown = every.clone()
        shown[:, place] = MASK
        law = predict(shown)[:, place]
        found[code(every), place] = law.gather(-1, every[:, place, None])[:, 0]
    return found


def test_quality_of_one_revealed_token_is_the_probability_that_it_is_right():
    """Whatever law the tokens are drawn from."""
    found, seen = minimiser(1)
    exact = right_with_own_place_masked()
    assert seen.sum() == 3 * V * (V + 1) ** 2  # every text with a token at the place
    assert (found - exact)[seen].abs().max() < 1e-12


def test_quality_of_several_revealed_tokens_is_another_one():
    """Others of them may be wrong too: the mean over what was masked is no longer the law given the others as they are."""
    found, seen = minimiser(2)
    assert (found - right_with_own_place_masked())[seen].abs().max() > 0.05


def test_planted_labels_move_the_minimiser(monkeypatch):
    """Labels of the revealed text against itself instead of the clean one."""
    right = quality_loss
    monkeypatch.setitem(globals(), "quality_loss", lambda q, x, z, revealed: right(q, z, z, revealed))
    found, seen = minimiser(1)
    assert (found - right_with_own_place_masked())[seen].abs().max() > 0.1


def drafts(times=(0.3, 0.8)):
    """Every clean text with every set of masks at two times, its draft, and its probability times the weight 1 / t."""
    for t in times:
        for hidden in HIDDEN:
            z = torch.where(hidden, MASK, TEXTS)
            draft = fill_draft(predict(z), z, z == MASK)
            weight = CHANCE * (t ** hidden.sum() * (1 - t) ** (~hidden).sum() / t / len(times))
            yield draft, weight


def corrected_law():
    """The law of each clean token given the draft, by counting."""
    counts = torch.zeros((V + 1) ** L, L, V, dtype=torch.float64)
    for draft, weight in drafts():
        for place in range(L):
            counts.index_put_((code(draft), torch.tensor(place), TEXTS[:, place]), weight, accumulate=True)
    return counts


def gradient_at_the_law(counted):
    counts = corrected_law()
    seen = counts.sum((1, 2)) > 0
    law = counts / counts.sum(-1, keepdim=True).clamp(min=1e-300)
    leaf = torch.nn.functional.pad(law.clamp(min=1e-300).log(), (0, 1)).requires_grad_()
    total = torch.zeros(()).double()
    for draft, weight in drafts():
        total = total + (weight[:, None] * draft_loss(PROCESS, leaf[code(draft)], TEXTS, draft, counted=counted)).sum()
    return torch.autograd.grad(total, leaf)[0][seen].abs().max().item(), seen


def test_the_exact_law_given_the_draft_minimises_its_loss():
    slope, seen = gradient_at_the_law("all")
    assert slope < 1e-12 and seen.sum() > 9
    counts = corrected_law()[seen]
    assert (counts.argmax(-1) != -1).all() and (
        counts.amax(-1) / counts.sum(-1)
    ).min() < 0.9  # not decided by the draft


@pytest.mark.parametrize("counted", ["errors", "errors, as released"])
def test_losses_of_errors_have_another_minimiser(counted):
    assert gradient_at_the_law(counted)[0] > 1e-3


def test_reveal_draws_places_and_tokens_by_their_laws():
    n = 20_000
    z = torch.tensor([[0, MASK, MASK]]).expand(n, -1)
    law = torch.tensor([0.6, 0.3, 0.1, 0], dtype=torch.float64)
    shown, revealed = reveal(law.log().expand(n, L, -1), z, z == MASK, 1, generator=generator())
    assert (revealed.sum(-1) == 1).all() and torch.equal(shown[~revealed], z[~revealed]) and (z[:, 1] == MASK).all()
    assert abs(revealed[:, 1].double().mean() - 0.5) < 0.02
    share = torch.bincount(shown[revealed], minlength=4) / n
    assert (share - law).abs().max() < 0.02
    both, all_of_them = reveal(law.log().expand(n, L, -1), z, z == MASK, 9)
    assert torch.equal(all_of_them, z == MASK) and (both != MASK).all()


class Scripted(ProjectedDenoiser):
    """Logits that are wrong at every second place."""

    def hidden(self, z, t):
        return torch.nn.functional.one_hot((torch.arange(z.shape[1]) % 2).expand(z.shape), V + 1).double()

    def project(self, hidden):
        return 5 * hidden


def test_quality_loss_of_a_batch_by_hand():
    """Labels are known: the scripted network writes token 0 at even places, 1 at odd ones, and the text is all zeros."""
    denoiser = QualityDenoiser(Scripted())
    with torch.no_grad():
        denoiser.head.weight.copy_(torch.tensor([[2.0, -3, 0, 0]]))
    batch = {"input_ids": torch.zeros(6, 8, dtype=torch.long)}
    loss = QualityLoss(PROCESS, revealed=8, filling="most likely", time_range=(0.999, 0.9999))
    # Nearly all are masks: half of the tokens that are filled in are right, with quality 2, the others wrong, with -3.
    softplus = torch.nn.functional.softplus(torch.tensor([-2.0, -3.0]))
    assert abs(loss(denoiser, batch, place=Place(0)) - softplus.mean()) < 0.02


def test_padding_and_prompts_are_no_part_of_either_loss():
    denoiser = QualityDenoiser(TransformersDenoiser(tiny()))
    with torch.no_grad():
        for weight in denoiser.parameters():
            if (weight == 0).all():  # gates of the blocks, too: otherwise no token depends on another
                weight.normal_(std=0.5, generator=generator())
    ids = torch.randint(V, (4, 6), generator=generator(1))
    learned = torch.ones(4, 6, dtype=torch.long)
    learned[:, 4:] = 0
    others = torch.where(learned.bool(), ids, (ids + 1) % V)
    for loss in (QualityLoss(PROCESS, revealed=2, bound=1.0), CorrectionLoss(PROCESS)):
        values = [
            loss(denoiser, {"input_ids": each, "attention_mask": learned}, place=Place(3, seed=2))
            for each in (ids, others)
        ]
        torch.testing.assert_close(*values)  # other padding, same loss
        cut = loss(denoiser, {"input_ids": ids[:, :4]}, place=Place(3, seed=2))
        assert cut.isfinite() and values[0] > 0
        prompt = loss(denoiser, {"input_ids": ids, "scored": 1 - learned}, place=Place(3, seed=2))
        assert prompt.isfinite()


def tiny():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = DiT(DiTConfig(vocab_size=V + 1, max_seq_len=8, **sizes))
    torch.nn.init.normal_(model.output_layer.linear.weight, std=0.5)
    return model


@pytest.mark.parametrize(
    "loss", [QualityLoss(PROCESS, revealed=2, copies=2, bound=0.5), CorrectionLoss(PROCESS, filling="drawn")]
)
def test_micro_batches_sum_to_the_loss_of_the_step(loss):
    denoiser = QualityDenoiser(TransformersDenoiser(tiny()))
    with torch.no_grad():
        denoiser.head.weight.normal_(generator=generator())
    ids = torch.randint(V, (4, 6), generator=generator(1))
    whole = loss(denoiser, {"input_ids": ids}, place=Place(1))
    parts = [loss(denoiser, {"input_ids": ids[2 * m : 2 * m + 2]}, place=Place(1, m, 2)) for m in range(2)]
    torch.testing.assert_close(sum(parts), whole)
    of_more = loss(denoiser, {"input_ids": ids}, place=Place(1), tokens=torch.tensor(3 * ids.numel()))
    torch.testing.assert_close(of_more, whole / 3)  # a third of the tokens of its step


def test_no_gradient_reaches_the_denoiser_through_what_it_filled_in():
    """Without the bound, logits are not differentiated at all; the body learns by the head alone."""
    denoiser = QualityDenoiser(TransformersDenoiser(tiny()))
    with torch.no_grad():
        denoiser.head.weight.normal_(generator=generator())
    batch = {"input_ids": torch.randint(V, (4, 6), generator=generator(1))}
    QualityLoss(PROCESS)(denoiser, batch, place=Place(0)).backward()
    linear = denoiser.inner.model.output_layer.linear
    assert linear.weight.grad is None and denoiser.head.weight.grad.abs().max() > 0
    assert denoiser.inner.model.vocab_embed.embedding.grad is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QualityLoss(nl.uniform(vocab_size=3)), "noise must be masks only"),
        (lambda: QualityLoss(nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2)), "noise must be masks only"),
        (lambda: CorrectionLoss(PROCESS, weight=-1), "weight must"),
        (lambda: QualityLoss(PROCESS, revealed=0), "revealed must"),
        (lambda: QualityLoss(PROCESS)(TransformersDenoiser(tiny()), {}, place=Place(0)), "trains a QualityDenoiser"),
        (lambda: CorrectionLoss(PROCESS)(tiny(), {}, place=Place(0)), "trains a noiselab.Denoiser"),
        (lambda: QualityDenoiser(ORACLE), "needs a denoiser with hidden states"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["quality", "correction"])
def test_the_trainer_trains_both(kind, tmp_path):
    x = ORACLE.sample(64, 8, generator=generator())
    blocks = TokenBlocks(x, torch.full((64,), 8), vocab_size=V + 1)
    denoiser = QualityDenoiser(TransformersDenoiser(tiny()))
    loss = QualityLoss(PROCESS, bound=1.0) if kind == "quality" else CorrectionLoss(PROCESS, flat=True)
    optimization, run = Optimization(steps=20, batch=16, learning_rate=1e-2), Run(tmp_path, cpu=True, progress=False)
    trainer = Trainer(denoiser, optimization, run, train_dataset=blocks, loss=loss)
    batch = {"input_ids": x}
    before = loss(denoiser, batch, place=Place(999)).item()
    trainer.train()
    assert loss(denoiser, batch, place=Place(999)).item() < 0.9 * before
