"""Pictures show what the formulas say, and leave matplotlib's global state alone."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from worlds import DATA, PROCESSES, Learned, Stranger, V, row

import noiselab as nl
from noiselab import plotting
from noiselab.processes import TokenRates
from noiselab.testing import agree

t = nl.t
NAMES = ["a", "b", "c", "d", "mask"]
WORLDS = {**PROCESSES, "a part of a day": lambda: nl.Interpolation(1 - t, {nl.Uniform(V): t}, domain=(0.2, 0.9))}
times = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)


@pytest.mark.parametrize("names", [None, NAMES], ids=["by part", "by name"])
@pytest.mark.parametrize("name", PROCESSES)
def test_areas_are_the_marginal_law(name, names):
    process = PROCESSES[name]()
    x = int(process.data_tokens().nonzero()[1])
    with torch.no_grad():
        kept, itself, groups = plotting._groups(process, x, names, times)
        law = process.marginal(torch.full((7, 1), x), times)[:, 0]
        rate = process.rate_into(torch.arange(V).expand(7, -1), times).expand(7, -1)
    agree("untouched and again itself", kept + itself, law[:, x], t=times)
    agree("all areas", kept + itself + sum(group.elsewhere for group in groups), torch.ones(7), t=times)
    agree("all noise", sum(group.noise for group in groups), 1 - kept, t=times)
    agree("all rates", sum(group.rate for group in groups), rate.sum(-1), rtol=1e-6, t=times)
    if names:
        for z, group in enumerate(groups):
            agree("the rate into a token", group.rate, rate[:, z], t=times)
            agree("the share of a token", group.elsewhere, law[:, z] if z != x else torch.zeros(7), t=times)


def test_parts_of_a_composed_process_are_drawn_by_name():
    process = nl.gidd(vocab_size=V, mask_id=V - 1, p_uniform=0.2)
    _, _, (mask, words) = plotting._groups(process, 0, None, times)
    assert (mask.name, words.name) == ("Absorbing(4)", "Uniform(4 of 5)")
    assert mask.colour == plotting.OFF and words.colour != plotting.OFF
    z = torch.full((7, 1), V - 1)
    agree("the rate into the mask", mask.rate, process.rate_into(z, times)[:, 0], t=times)
    agree("the rate into words", words.rate, 4 * process.rate_into(0 * z, times)[:, 0], t=times)
    agree("wrong words", words.elsewhere, words.noise * 3 / 4, t=times)


@pytest.mark.parametrize("name", WORLDS)
def test_the_figure_has_what_it_says(name):
    process = WORLDS[name]()
    figure = nl.plot_process(process, points=64)
    assert isinstance(figure, Figure) and figure.get_size_inches()[0] == 8
    fate, signal, rates, weights = figure.axes
    low, high = process.domain
    assert fate.get_xlim() == (low, high) and fate.get_title() == f"what becomes of token {figure_token(process)}"
    line = signal.get_lines()[0]
    at = torch.as_tensor(line.get_xdata())
    np.testing.assert_allclose(line.get_ydata(), process.alpha(at).detach())
    assert rates.get_yscale() == "log" and all(
        (np.nan_to_num(r.get_ydata(), nan=1) > 0).all() for r in rates.get_lines()
    )
    x = torch.full((64, 1), figure_token(process))
    with torch.no_grad():
        want = process.elbo_weight(x, x, at)[:, 0]
    shown = {line.get_label(): line.get_ydata() for line in weights.get_lines()}
    if (want > 0).any():
        np.testing.assert_allclose(shown["itself"], want)
    assert len(weights.get_lines()) >= 1


def figure_token(process):
    return int(process.data_tokens().nonzero()[0])


def test_noise_that_depends_on_the_token_shows_its_fate():
    process = TokenRates(row(1.0, 2.0, 0.5, 3.0, 1.0), mask_id=4)
    (axis,) = nl.plot_process(process, token=2, names=NAMES, points=8).axes
    assert axis.get_title() == "what becomes of c"
    kept, itself, groups = plotting._groups_of_tokens(process, 2, NAMES, times)
    agree("untouched", kept, 1 - times**0.5, t=times)
    agree("masked", groups[4].elsewhere, times**0.5, t=times)
    assert itself.abs().max() < 1e-12


def test_learned_and_large_processes_are_drawn():
    learned = nl.Interpolation(1 - t, {nl.Absorbing(V - 1, V): Learned(), nl.Uniform(DATA): 0.3 * t})
    assert learned.weights[0].power.requires_grad
    nl.plot_process(learned, points=8)
    nl.plot_process(nl.gidd(vocab_size=50_258, mask_id=50_257, p_uniform=0.1), points=8)


def test_wrong_arguments_are_refused():
    process = nl.masked(vocab_size=V, mask_id=V - 1)
    with pytest.raises(ValueError, match=r"token must be in the support of the process, .*; got 4"):
        nl.plot_process(process, token=4)
    with pytest.raises(ValueError, match=r"names must be 5, .* at most 8; got 2"):
        nl.plot_process(process, names=["a", "b"])
    with pytest.raises(ValueError, match=r"at most 8; got 9"):
        nl.plot_process(nl.uniform(vocab_size=9), names=list("abcdefghi"))
    with pytest.raises(ValueError, match="points must be at least 2; got 1"):
        nl.plot_process(process, points=1)


SCRIPT = """
import sys
import noiselab as nl
assert "matplotlib" not in sys.modules, "import noiselab must stay light"
nl.plot_process(nl.masked(vocab_size=3, mask_id=2), points=4).savefig("masked.svg")
assert "matplotlib.pyplot" not in sys.modules, "the global state of matplotlib is left alone"
"""


def test_matplotlib_is_imported_when_needed_and_without_pyplot(tmp_path):
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "masked.svg").read_text().startswith("<?xml")


def test_a_wrong_picture_would_be_seen(monkeypatch):
    """The laws above are red if the noise drawn is not that of the process."""
    right = nl.InterpolatingProcess.noise
    monkeypatch.setattr(
        nl.InterpolatingProcess, "noise", lambda p, s: right(p, s)._replace(weights=0.9 * right(p, s).weights)
    )
    kept, itself, groups = plotting._groups(Stranger(), 0, None, times)
    with pytest.raises(AssertionError, match="all areas at t"):
        agree("all areas", kept + itself + sum(group.elsewhere for group in groups), torch.ones(7), t=times)
