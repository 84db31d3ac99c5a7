"""The table of corrections: the exact model of backspaces by enumeration, edits by threshold by hand, and its pages."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

import noiselab as nl

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import correction_backspaces as backspaces  # noqa: E402
import correction_pages  # noqa: E402
import correction_roc  # noqa: E402
import correction_roc_pages  # noqa: E402
from correction_edits import EditReviser  # noqa: E402
from noiselab.bench import World  # noqa: E402
from noiselab.bench.corrections import CorrectionMeasures, summarize_corrections, tabulate_corrections  # noqa: E402

WORLD = World(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]], dtype=torch.float64), 3)


def next_token(exact, text):
    """What the model proposes after a text, and with which chance it deletes each proposal, from its outputs alone."""
    rows = torch.tensor([[backspaces.start_of(WORLD), *text, v] for v in range(3)])
    probs = exact(rows).softmax(-1)
    before = probs[0, -2, :3] / probs[0, -2, :3].sum()
    return before, probs[:, -1, 3]


def test_the_exact_model_of_backspaces_writes_texts_by_the_law_of_the_data():
    """All 27 texts: proposals are examined once, and drawn again until one is kept; what is left has the chain's law."""
    exact = backspaces.ExactBackspaces(WORLD)
    for text in itertools.product(range(3), repeat=3):
        found, want = 1.0, 1 / 3
        for place, token in enumerate(text):
            proposed, deleted = next_token(exact, text[:place])
            kept = proposed * (1 - deleted)
            found *= (kept / kept.sum())[token].item()
            want *= WORLD.transition[text[place - 1], token].item() if place else 1
        assert found == pytest.approx(want, abs=1e-12)


def test_its_proposals_and_deletions_are_those_of_the_noise():
    """After 0 a right token is 0 with chance 0.7. A draw is wrong with chance 0.1, and then one of the two others: 0 is
    proposed with 0.9 * 0.7 + 0.1 * 0.3 / 2 = 0.645, of which 0.015 are wrong; by Bayes 0.015 / 0.645 are deleted.
    """
    proposed, deleted = next_token(backspaces.ExactBackspaces(WORLD), [0])
    assert proposed.tolist() == pytest.approx([0.645, 0.22, 0.135])
    assert deleted.tolist() == pytest.approx([0.015 / 0.645, 0.04 / 0.22, 0.045 / 0.135])


def test_samples_without_backspaces_have_the_wrong_tokens_of_the_noise():
    """The chance of three zeros is that of the proposals, 0.645 ** 2 / 3; the chain's own is 0.7 ** 2 / 3."""
    case = backspaces.make_backspace_case(WORLD, backspaces.ExactBackspaces(WORLD), 1000, 0)
    share = (case.samples == 0).all(-1).double().mean().item()
    assert share == pytest.approx(0.645**2 / 3, abs=0.022)  # two standard errors
    assert not torch.equal(case.forced.tokens, case.others.tokens)


def test_every_method_of_backspaces_reads_texts_of_a_trained_model():
    trained = backspaces.train_backspaces(WORLD, 2, 0)
    rows = list(backspaces.backspace_revisers(WORLD, trained, 6, 0))
    assert [(label, method) for label, method, *_ in rows] == [
        (label, method) for label in ("exact", "trained") for method in backspaces.METHODS
    ]
    for _, method, case, reviser, detector in rows:
        revised = reviser(case.forced.tokens, generator=torch.Generator().manual_seed(0))
        assert revised.tokens.shape == (6, 3) and revised.tokens.max() < 3 and detector(case.samples).shape == (6, 3)
        if method.startswith("backspaces, one reading"):
            assert (
                revised.evaluations >= 6 * 4
            )  # the start and each token, and one more for a replacement before the end


class Never(torch.nn.Module):
    """Deletes every token that it reads, but with a chance of 1e-9."""

    def forward(self, input_ids, **unused):
        return torch.tensor([0.0, 0.0, 0.0, 20.0], dtype=torch.float64).expand(*input_ids.shape, 4)


def test_a_model_that_deletes_all_it_writes_ends_within_its_budget():
    case = backspaces.make_backspace_case(WORLD, Never(), 5, 0)
    reviser, _ = backspaces.METHODS[backspaces.ANEW](case)
    assert reviser(case.samples, generator=torch.Generator().manual_seed(0)).tokens.shape == (5, 3)


class Says(nl.Denoiser):
    """Is sure of the token after the one to the left; the first place it leaves open."""

    def forward(self, z, t, rows=None):
        left = torch.cat([z[:, :1], (z[:, :-1] + 1) % 3], 1)
        probs = torch.full((*z.shape, 4), 1e-9).scatter(-1, left[..., None], 0.8)
        probs = probs.scatter_add(-1, ((left + 1) % 3)[..., None], torch.full((*z.shape, 1), 0.2))
        logits = probs.log()
        return logits if rows is None else logits[rows]


def test_edits_by_threshold_go_on_until_nothing_changes():
    """0 0 0 becomes 0 1 1 (each token follows the old left one), then 0 1 2, then nothing: three evaluations.

    A sequence that is right is evaluated once; with a threshold of 0.9 nothing is sure enough.
    """
    process = nl.gidd(vocab_size=4, mask_id=3, p_uniform=0.2)
    z = torch.tensor([[0, 0, 0], [0, 1, 2]])
    assert EditReviser(process, Says(), 0.5)(z).tokens.tolist() == [[0, 1, 2]] * 2
    assert EditReviser(process, Says(), 0.5)(z).evaluations == 3 + 1
    assert EditReviser(process, Says(), 0.9)(z).tokens.tolist() == z.tolist()
    with pytest.raises(ValueError, match="whole sequences"):
        EditReviser(process, Says(), 0.5)(z, rows=torch.ones_like(z, dtype=torch.bool))


def test_a_measure_without_meaning_is_a_dash_and_survives_the_file(tmp_path):
    measures = CorrectionMeasures(*[0.5] * 13)
    nothing = CorrectionMeasures(**{**measures.__dict__, "mended": math.nan, "harmed": math.nan})
    row = summarize_corrections("edit", "exact", "anew", [nothing, nothing])
    text = correction_pages.as_text({"settings": {}, "rows": [{**row.__dict__, "measures": _plain(row)}]})
    assert "NaN" not in text and '"mended":{"mean":null,"half":null}' in text
    (tmp_path / "rows.json").write_text(text)
    (again,), _ = correction_pages.read_rows(tmp_path / "rows.json")
    cells = tabulate_corrections([again]).splitlines()[-1].split(" | ")
    assert cells[2:4] == ["–", "–"] and cells[1] == "0.500 ± 0.000"


def _plain(row):
    return {name: {"mean": one.mean, "half": one.half} for name, one in row.measures.items()}


def test_areas_are_compared_network_by_network():
    """Two networks: the head is 0.1 and 0.2 below, so -0.15 on average; ± is 12.706 * 0.05 by hand."""
    areas = [
        {"quality head": [1, 0.8, 0.5], "other": [16, 0.9, 0.5]},
        {"quality head": [1, 0.4, 0.5], "other": [16, 0.6, 0.5]},
    ]
    runs = [{"detection": {"1": one}} for one in areas]
    random, own = correction_roc_pages.compared(runs, "1", "other")
    assert random.mean == pytest.approx(-0.15) and random.half == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert (own.mean, own.half) == (0, 0)
    assert (
        "| 1 | other | 16 | 0.750 ± 1.906 | 0.500 ± 0.000 | -0.150 ± 0.635 | +0.000 ± 0.000 |"
        in correction_roc_pages.detection(runs)
    )


def test_own_errors_are_draws_of_the_network_and_the_rest_stays():
    """A network that always writes 0 leaves zeros right: only tokens that were not 0 become wrong, one in ten."""
    world, sure = World.sharp(), Sure()
    z, wrong = correction_roc.errors(world, sure, "own", 500, 0)
    x, _ = correction_roc.errors(world, sure, "random", 500, 0)
    assert (z[wrong] == 0).all() and 0.05 < wrong.double().mean() < 0.12
    again = world.sample(500, generator=torch.Generator().manual_seed(2000))
    assert torch.equal(z != again, wrong) and 0.07 < (x != again).double().mean() < 0.13


class Sure(nl.Denoiser):
    """Writes 0."""

    def forward(self, z, t, rows=None):
        logits = torch.full((*z.shape, 9), -50.0)
        logits[..., 0] = 0
        return logits if rows is None else logits[rows]


def test_the_page_of_areas_is_that_of_the_stored_measures():
    folder = ROOT / "docs" / "assets" / "corrections"
    assert (folder / "roc.md").read_text(encoding="utf-8") == correction_roc_pages.render(folder / "roc.json")
