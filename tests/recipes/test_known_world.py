"""The known world measures exactly, and self-correction helps there where theory says it can."""

import pytest
import torch

import noiselab as nl
from demo_report.known_world import measure_denoiser, train_in_world
from noiselab.bench.world import World
from noiselab.evaluation import self_correction


def world():
    return World.random(states=6, length=16, followers=(0.9, 0.1), generator=torch.Generator().manual_seed(0))


def test_true_sequences_have_nothing_wrong():
    here = world()
    found = here.measure(here.sample(4000, generator=torch.Generator().manual_seed(1)))
    assert found.forbidden == 0 and found.flawless == 1
    per_step = (here.entropy * here.length - torch.tensor(6.0).log().item()) / (here.length - 1)
    assert found.nats == pytest.approx(per_step, rel=0.03)
    assert found.pairs < 0.01
    assert here.ngrams(2).sum().item() == pytest.approx(1)


def test_what_is_wrong_is_counted():
    here = World(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), length=4)
    found = here.measure(torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [2, 0, 1, 2]]))
    assert found.forbidden == pytest.approx(3 / 9)
    assert found.flawless == pytest.approx(1 / 3)
    assert found.nats == 0
    # Pairs: 01 four times, 10 twice, and three that cannot be; truth is one half each.
    assert found.pairs == pytest.approx((abs(4 / 9 - 0.5) + abs(2 / 9 - 0.5) + 3 / 9) / 2)


def test_the_exact_denoiser_corrects_its_few_step_samples():
    """Tokens drawn at the same time contradict one another, even from an exact denoiser; correction mends that."""
    here = world()
    process = nl.gidd(vocab_size=7, mask_id=6, p_uniform=0.2)
    found = measure_denoiser(here, "oracle", process, here.oracle(process), samples=150, sampling_steps=2)
    assert found.bound == found.exact and abs(found.exact.nelbo - here.entropy) < 4 * found.exact.error
    assert found.samples.forbidden > 0.05
    assert found.corrected.forbidden < 0.1 * found.samples.forbidden
    assert found.repaired.forbidden < 0.1 * found.damaged.forbidden
    assert found.outcome.wrong_to_right > 0.5 * found.outcome.wrong_before
    assert found.trace[0] == found.samples.forbidden and found.trace[-1] == found.corrected.forbidden


def test_masking_cannot_question_what_it_sees():
    """The posterior of a visible token under masking is that token: self-correction changes nothing."""
    here = world()
    process = nl.masked(vocab_size=7, mask_id=6)
    x = torch.randint(6, (20, 16), generator=torch.Generator().manual_seed(0))
    believer = nl.denoisers.Posterior(train_in_world(here, process, steps=2), process)
    found = self_correction(nl.SelfCorrection(believer), x, generator=torch.Generator().manual_seed(0))
    assert found.changed == 0 and not found.revisions and found.accuracy_before == 1


def test_training_lowers_the_bound():
    here = world()
    process = nl.gidd(vocab_size=7, mask_id=6, p_uniform=0.2)
    start, trained = (
        measure_denoiser(
            here, "network", process, train_in_world(here, process, steps=steps), samples=100, correction_steps=4
        )
        for steps in (1, 80)
    )
    assert start.bound.nelbo > 1.5 > trained.bound.nelbo > here.entropy - 4 * trained.bound.error
    assert train_in_world(here, process, steps=1).model.training is False


def test_before_and_after_with_a_judge():
    here = world()
    process = nl.gidd(vocab_size=7, mask_id=6, p_uniform=0.2)

    class Chain(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return torch.nn.functional.pad(here.transition, (0, 1, 0, 1), value=0.0).clamp(min=1e-3).log()[input_ids]

    x = nl.AncestralSampler(process, here.oracle(process)).sample(
        (60, 16), steps=4, generator=torch.Generator().manual_seed(0)
    )
    untouched = x.clone()
    correction = nl.SelfCorrection(here.oracle(process), support=process.support)
    found = self_correction(correction, x, judge=Chain(), generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, untouched) and torch.equal(found.before, untouched)
    assert found.judge_after.perplexity < found.judge_before.perplexity
    assert found.accuracy_after > found.accuracy_before
    assert found.changed == (found.before != found.after).double().mean()
    assert len({(r.sequence, r.position) for r in found.revisions}) >= (found.before != found.after).sum()
    assert max(r.step for r in found.revisions) <= found.steps
