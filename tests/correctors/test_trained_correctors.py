"""Correction by a detector and of drafts, by hand."""

import pytest
import torch

import noiselab as nl
from noiselab.correctors import (
    CorrectorReviser,
    DenoiserDetector,
    DraftCorrector,
    QualityDetector,
    SuspectCorrector,
)
from noiselab.denoisers import ProjectedDenoiser, QualityDenoiser
from noiselab.networks.quality_files import load_quality_head, save_quality_head

INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRANSITION = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], dtype=torch.float64)
MASK = 3
PROCESS = nl.masked(vocab_size=4, mask_id=MASK)
ORACLE = nl.MarkovOracle(INITIAL, TRANSITION, PROCESS)
T = torch.tensor([0.3])


class Table(ProjectedDenoiser):
    """Hidden states are one-hot tokens; each token has the logits of its row."""

    def __init__(self, rows):
        super().__init__()
        self.register_buffer("rows", torch.as_tensor(rows, dtype=torch.float64))
        self.calls = 0

    def hidden(self, z, t):
        self.calls += 1
        return torch.nn.functional.one_hot(z.long(), len(self.rows)).double()

    def project(self, hidden):
        return hidden @ self.rows


def headed(weights, rows=None):
    denoiser = QualityDenoiser(Table(torch.eye(4) * 5 if rows is None else rows))
    with torch.no_grad():
        denoiser.head.weight.copy_(torch.tensor([weights]))
    return denoiser


class Points(nl.Detector):
    """Suspects token 2, then token 1."""

    def score(self, z):
        return torch.tensor([-torch.inf, 1.0, 2.0, 9.0])[z]


def test_quality_is_the_score_of_its_logit_and_masks_have_none():
    detector, z = QualityDetector(headed([4.0, 0.0, -2.0, 0.0]), mask_id=MASK), torch.tensor([[0, 1, 2, MASK]])
    score = detector(z)
    chance = torch.tensor([4.0, 0.0, -2.0]).double().sigmoid()
    torch.testing.assert_close(score[0, :3], -chance.log())
    assert score[0, 3] == -torch.inf


def test_one_pass_for_all_tokens():
    denoiser = headed([1.0, 0, 0, 0])
    before = denoiser.inner.calls
    QualityDetector(denoiser)(torch.tensor([[0, 1, 2, 1]]))
    assert denoiser.inner.calls == before + 1


def test_the_most_suspect_tokens_are_predicted_from_the_others():
    """By the law of the chain with these places masked, and no other token changes."""
    z = torch.tensor([[0, 2, 0, 1, MASK]]).expand(20_000, -1)
    corrector = SuspectCorrector(PROCESS, ORACLE, Points(), 2)
    after = corrector.step(z, T.expand(len(z)), generator=torch.Generator().manual_seed(0))
    assert torch.equal(after[:, [0, 2, 4]], z[:, [0, 2, 4]])
    shown = torch.tensor([[0, MASK, 0, MASK, MASK]])
    law = ORACLE(shown, T)[0].softmax(-1)
    for place in (1, 3):
        share = torch.bincount(after[:, place], minlength=4) / len(z)
        assert (share - law[place]).abs().max() < 0.015


def test_suspects_below_the_threshold_or_outside_rows_are_kept():
    z = torch.tensor([[0, 2, 0, 1, MASK]])
    corrector = SuspectCorrector(PROCESS, ORACLE, Points(), 4, threshold=1.5, temperature=0)
    assert corrector.step(z, T).tolist() == [[0, 0, 0, 1, MASK]]
    rows = torch.tensor([[True, False, True, True, True]])
    assert torch.equal(corrector.step(z, T, rows=rows), z)


def test_without_a_detector_each_token_is_judged_while_it_is_masked():
    z = torch.tensor([[0, 0, 2, 0, 0]])
    one = SuspectCorrector(PROCESS, ORACLE, temperature=0).step(z, T)
    hidden = DenoiserDetector(ORACLE, hide=MASK)
    other = SuspectCorrector(PROCESS, ORACLE, hidden, temperature=0).step(z, T)
    assert torch.equal(one, other) and one.tolist() == [[0, 0, 0, 0, 0]]


def test_a_draft_is_corrected_as_a_whole_and_masks_stay():
    """0 -> 1 -> 2 -> 2 by the table; masks are filled with 0, which the corrected token at their place does not change."""
    rows = torch.full((4, 4), -9.0)
    for before, after in ((0, 1), (1, 2), (2, 2), (MASK, 0)):
        rows[before, after] = 9.0
    z = torch.tensor([[0, 1, 2, MASK]])
    assert DraftCorrector(PROCESS, Table(rows)).step(z, T).tolist() == [[1, 2, 2, MASK]]
    assert DraftCorrector(PROCESS, Table(rows), passes=2).step(z, T).tolist() == [[2, 2, 2, MASK]]
    rows_free = torch.tensor([[False, True, True, True]])
    assert DraftCorrector(PROCESS, Table(rows)).step(z, T, rows=rows_free).tolist() == [[0, 2, 2, MASK]]
    denoiser = Table(rows)
    DraftCorrector(PROCESS, denoiser, passes=9).step(z, T)
    assert denoiser.calls == 4  # one fills in, then 0 -> 1 -> 2, of the mask's place too, and one that changes nothing


def test_the_network_reads_masks_filled_in():
    class Sees(Table):
        def hidden(self, z, t):
            seen.append(z.clone())
            return super().hidden(z, t)

    seen, rows = [], torch.eye(4) * 5
    rows[MASK] = torch.tensor([0, 0, 9.0, 0])
    DraftCorrector(PROCESS, Sees(rows)).step(torch.tensor([[0, MASK]]), T)
    assert [z.tolist() for z in seen] == [[[0, MASK]], [[0, 2]]]


def test_a_corrector_of_a_finished_text_counts_its_evaluations_and_settles():
    denoiser = headed([4.0, 0.0, -2.0, 0.0])
    corrector = SuspectCorrector(PROCESS, ORACLE, QualityDetector(denoiser, mask_id=MASK), temperature=0)
    revised = CorrectorReviser(corrector, steps=3)(torch.tensor([[0, 0, 2, 0, 0]] * 2))
    assert revised.tokens.tolist() == [[0, 0, 0, 0, 0]] * 2
    assert revised.evaluations == 3 * (2 + 2)  # the oracle and the head, for two texts
    assert CorrectorReviser(corrector, steps=9, settles=True)(torch.zeros(1, 4, dtype=torch.long)).evaluations == 2


def test_better_texts_by_exact_likelihood():
    """A tenth of the tokens of texts of the chain are made wrong; each reviser raises their exact log-likelihood."""
    random = torch.Generator().manual_seed(0)
    x = ORACLE.sample(64, 16, generator=random)
    wrong = torch.rand(x.shape, generator=random) < 0.1
    z = torch.where(wrong, (x + 1) % 3, x)
    before = ORACLE.log_prob(z).mean()
    corrector = SuspectCorrector(PROCESS, ORACLE, temperature=0)
    after = ORACLE.log_prob(CorrectorReviser(corrector, steps=2, batch_size=64)(z).tokens).mean()
    assert after > before + 1


def test_the_head_is_saved_and_loaded_as_safetensors(tmp_path):
    denoiser = headed([4.0, 0.5, -2.0, 1.0])
    save_quality_head(denoiser, tmp_path)
    again = load_quality_head(Table(torch.eye(4)), tmp_path)
    z, t = torch.tensor([[0, 1, 2]]), torch.tensor([0.1])
    torch.testing.assert_close(again.quality(z, t), denoiser.quality(z, t))
    with pytest.raises(ValueError, match=r"must be an intact quality_head\.safetensors"):
        load_quality_head(Table(torch.eye(4)), tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"weight must have shape \[1, 5\]"):
        load_quality_head(Table(torch.eye(5)), tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuspectCorrector(nl.uniform(vocab_size=3), ORACLE), "one mask"),
        (lambda: DraftCorrector(nl.uniform(vocab_size=3), ORACLE), "one mask"),
        (lambda: QualityDetector(headed([float("nan"), 0, 0, 0]))(torch.tensor([[0]])), "must be finite"),
        (lambda: SuspectCorrector(PROCESS, ORACLE, tokens_per_step=0), "tokens_per_step must"),
        (lambda: SuspectCorrector(PROCESS, ORACLE, temperature=1e-320), "temperature must lie in"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_no_texts_are_none():
    assert SuspectCorrector(PROCESS, ORACLE).step(torch.zeros(0, 5, dtype=torch.long), torch.zeros(0)).shape == (0, 5)


def test_blocks_are_counted_as_by_the_denoiser_inside():
    inner = Table(torch.eye(4))
    inner.attention_block, inner.attention_given = 4, torch.tensor([[3]])
    denoiser = QualityDenoiser(inner)
    sampler = nl.samplers.BlockSampler(nl.AncestralSampler(PROCESS, denoiser), 4)
    first = list(sampler.run((64, 11), steps=2))[1][-1].z
    assert denoiser.attention_given.item() == 3 and (first[:, :3] == MASK).all() and (first[:, 3:7] != MASK).any()
