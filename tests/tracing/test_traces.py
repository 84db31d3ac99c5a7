"""Traces say who changed what, when and why; figures and pages show what traces say."""

import json
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_rgb
from worlds import INITIAL, PROCESSES, TRANSITION, V

import noiselab as nl
from noiselab.samplers.wrappers.blocks import BlockSampler
from noiselab.samplers.wrappers.infilling import Infilling
from noiselab.tracing import figure as figures
from noiselab.tracing.trace import Change, Trace, trace

LENGTH, MASK = 7, V - 1
PROCESS = PROCESSES["gidd"]()
ORACLE = nl.MarkovOracle(INITIAL, TRANSITION, PROCESS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TwoStages(nl.WrappedSampler):
    """After each step, one token of every sequence is drawn from the prediction by itself."""

    def stages(self, z, t, s, *, generator=None):
        done = self.inner.stages(z, t, s, generator=generator)
        z, u = done[-1].z, nl.categorical.uniforms(len(z), 2, generator=generator)
        rows = torch.arange(z.shape[1]) == (u[:, :1] * z.shape[1]).long()
        drawn = nl.categorical.choose(self.denoiser(z, s, rows).softmax(-1), u[:, 1])
        return [*done, nl.samplers.Stage("redraw", s, z.masked_scatter(rows, drawn))]


TOKENS, KNOWN = torch.tensor([[0, 0, 0, 1, 0, 0, 2]]), torch.tensor([[1, 0, 0, 1, 0, 0, 1]]).bool()
SAMPLERS = {
    "one stage": lambda denoiser: nl.AncestralSampler(PROCESS, denoiser),
    "two stages": lambda denoiser: TwoStages(nl.AncestralSampler(PROCESS, denoiser)),
    "blocks": lambda denoiser: BlockSampler(nl.AncestralSampler(PROCESS, denoiser), 3, context="past"),
    "known tokens": lambda denoiser: Infilling(TwoStages(nl.AncestralSampler(PROCESS, denoiser)), TOKENS, KNOWN),
}


def by_hand(steps):
    """The changes along a list of lists of stages, the first of which is the start."""
    found, number, before = [], 0, steps[0][0]
    for step, stages in enumerate(steps[1:], 1):
        for stage in stages:
            number += 1
            time = stage.time.view(len(stage.z), -1).expand(stage.z.shape)
            for b, i in (stage.z != before.z).nonzero().tolist():
                old, new = int(before.z[b, i]), int(stage.z[b, i])
                found.append(Change(b, i, step, old, new, stage.kind, number, float(time[b, i]), None, None))
            before = stage
    return found


def replay(start, changes, stages):
    """The states at every stage."""
    z, states = start.clone().long(), []
    for stage in range(stages):
        for change in changes:
            if change.stage == stage:
                assert z[change.sequence, change.position] == change.old
                z[change.sequence, change.position] = change.new
        states.append(z.clone())
    return torch.stack(states)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_trace_is_what_happened(name):
    """Changes, their makers and times are those of the stages; replayed from the start they give every state."""
    sampler = SAMPLERS[name](ORACLE)
    steps = list(sampler.run((3, LENGTH), steps=8, generator=generator()))
    got = Trace.of(sampler, (3, LENGTH), steps=8, generator=generator())
    assert got.changes() == by_hand(steps)
    states = torch.stack([stage.z for stages in steps for stage in stages])
    assert torch.equal(got.states, states) and torch.equal(got.end, states[-1])
    assert torch.equal(replay(got.start, got.changes(), len(got)), states)
    assert torch.equal(got.end, sampler.sample((3, LENGTH), steps=8, generator=generator()))
    assert got.kinds == tuple(stage.kind for stages in steps for stage in stages)
    free = ~KNOWN if name == "known tokens" else torch.ones_like(KNOWN)
    assert got.kinds[0] == "noise" and (got.times[0].expand(3, LENGTH)[free.expand(3, -1)] == 1).all()
    if name == "two stages":  # the planted mistake: all changes of a step are put down to its last stage
        wrong = by_hand([steps[0], *([stages[-1]] for stages in steps[1:])])
        assert len(got.changes()) > 20 and [change.kind for change in wrong] != [c.kind for c in got.changes()]


def test_revisions_are_those_of_the_walk():
    sampler, times = SAMPLERS["one stage"](ORACLE), torch.linspace(1, 0, 9)
    start = PROCESS.prior(3, LENGTH, generator=generator(1))
    kept = start.clone()
    got = Trace.of(sampler, start, times=times, clean=False, generator=generator())
    assert got.revisions() == nl.revisions.list_revisions(
        start, sampler.walk(start, times, generator=generator()), "denoise"
    )
    assert torch.equal(start, kept) and got.kinds[0] == "start" and got.times[0].eq(1).all()
    assert [c for c in got.changes() if (c.sequence, c.position) == (1, 2)] == got.changes(sequence=1, position=2)


def test_self_correction_is_traced_by_name():
    correction = nl.SelfCorrection(ORACLE, support=PROCESS.support, temperature=0.5)
    start = ORACLE.sample(4, LENGTH, generator=generator(3))
    got = Trace.of(correction, start, steps=6, generator=generator(), why=True)
    assert got.revisions() == nl.revisions.list_revisions(
        start, correction.walk(start, steps=6, generator=generator()), "self-correct"
    )
    assert all(change.time == 0.01 and change.p_new > 0 for change in got.changes()) and got.changes()


@pytest.mark.parametrize("name", SAMPLERS)
def test_reasons_are_the_oracles_and_cost_one_evaluation_for_each_stage_that_changes_something(name):
    counting = nl.denoisers.CallCounter(ORACLE)
    plain = SAMPLERS[name](counting)
    end = Trace.of(plain, (3, LENGTH), steps=8, generator=generator()).end
    without = counting.calls
    counting.calls = 0
    got = Trace.of(plain, (3, LENGTH), steps=8, generator=generator(), why=True)
    assert counting.calls - without == len({change.stage for change in got.changes()})
    assert torch.equal(got.end, end)
    times = got.times.expand(-1, -1, LENGTH)
    later = []
    for change in got.changes():
        b, before = slice(change.sequence, change.sequence + 1), change.stage - 1
        x_hat = ORACLE(got.states[before, b], times[before, b])[0, change.position].softmax(-1)
        torch.testing.assert_close(torch.tensor([change.p_old, change.p_new]).double(), x_hat[[change.old, change.new]])
        later.append(ORACLE(got.states[change.stage, b], times[change.stage, b])[0, change.position].softmax(-1))
    # The planted mistake: the model is evaluated after the change.
    wrong = torch.stack(later).gather(1, got.changed[:, 4:].long())[:, 0]
    assert (wrong - got.probs[:, 1]).abs().max() > 0.01
    assert Trace.of(plain, (3, LENGTH), steps=8, generator=generator()).probs.isnan().all()


def test_a_sequence_alone_has_the_same_trace():
    sampler = SAMPLERS["two stages"](ORACLE)
    generators = [generator(seed) for seed in range(4)]
    together = Trace.of(sampler, (4, LENGTH), steps=8, generator=generators, why=True)
    for seed in range(4):
        alone = Trace.of(sampler, (1, LENGTH), steps=8, generator=[generator(seed)], why=True)
        part = together.sequence(seed)
        assert torch.equal(part.states, alone.states) and part.revisions() == alone.revisions()
        torch.testing.assert_close(part.probs, alone.probs)
        assert [change._replace(sequence=0) for change in together.changes(seed)] == part.changes()


def random_trace(length=LENGTH, stages=12, **more):
    """A walk of two makers that change a third of the tokens each time."""
    u = nl.categorical.uniforms(stages, 3, length, 2, generator=generator(5))
    z = torch.zeros(3, length, dtype=torch.long)
    steps, time = [[nl.samplers.Stage("noise", torch.ones(3), z)]], torch.ones(3)
    for k in range(1, stages):
        z = torch.where(u[k, ..., 0] < 0.3, (u[k, ..., 1] * V).long(), z)
        time = torch.full((3, length), 1 - k / stages).cumsum(-1) / length
        steps.append([nl.samplers.Stage(("even", "odd")[k % 2], time, z)])
    return trace(iter(steps), **more), steps


def test_tallies_add_up():
    """By brute force; and what all kinds gain is the rise in right tokens from start to end."""
    got, _ = random_trace()
    truth = (nl.categorical.uniforms(3, LENGTH, generator=generator(9)) * V).long()
    found, changes = got.summary(truth), got.changes()
    assert set(found) == {"even", "odd"}
    for kind, tally in found.items():
        mine = [(k, c) for k, c in enumerate(changes) if c.kind == kind]
        later = [[d for d in changes[k + 1 :] if d[:2] == c[:2]] for k, c in mine]
        assert tally.changes == len(mine) and tally.stayed == sum(not after for after in later)
        assert tally.undone == sum(
            any(d.new == c.old for d in after) for (_, c), after in zip(mine, later, strict=True)
        )
        assert tally.undone < tally.changes - tally.stayed  # most are replaced by a third token
        right = [(c.old == truth[c[:2]], c.new == truth[c[:2]]) for _, c in mine]
        assert tally.outcome.wrong_to_right == sum(bool(after and not before) for before, after in right)
        assert tally.outcome.right_before == sum(bool(before) for before, _ in right) and tally.p_old is None
    gain = (got.end == truth).sum() - (got.start == truth).sum()
    assert sum(tally.outcome.net_gain for tally in found.values()) == gain
    head, *rows = got.table(truth).splitlines()
    assert head.split()[:4] == ["kind", "changes", "stayed", "undone"] and len({len(row) for row in rows}) == 1
    assert rows[0].split() == ["odd", *map(str, [*found["odd"][:3], *found["odd"].outcome[:3]])]


def test_one_walk_after_another():
    sampled = Trace.of(SAMPLERS["blocks"](ORACLE), (3, LENGTH), steps=4, generator=generator())
    correction = nl.SelfCorrection(ORACLE, temperature=0.5)
    corrected = Trace.of(correction, sampled.end, steps=5, generator=generator(), why=True)
    both = sampled + corrected
    assert torch.equal(both.states, torch.cat([sampled.states, corrected.states[1:]]))
    assert both.steps == (*sampled.steps, *(sampled.steps[-1] + k for k in range(1, len(corrected))))
    assert both.changes()[: len(sampled.changes())] == sampled.changes()
    assert both.times.shape == (len(both), 3, LENGTH) and both.times[-1].eq(0.01).all()
    assert torch.equal(both.support, PROCESS.support)
    with pytest.raises(ValueError, match="must start from the final tokens of the first"):
        corrected + sampled


def test_walks_that_edit_their_tokens_in_place_are_traced_and_arguments_are_not_edited():
    def walk(z):
        for k in range(1, 4):
            z[:, k] = k
            yield z

    start = torch.zeros(2, 5, dtype=torch.long)
    got = trace(walk(start), start=start, kind="by hand")
    assert [(c.position, c.old, c.new, c.step) for c in got.changes(0)] == [(1, 0, 1, 1), (2, 0, 2, 2), (3, 0, 3, 3)]
    assert torch.equal(got.states[0], torch.zeros(2, 5, dtype=torch.long)) and got.times.isnan().all()
    small = start.int()
    assert trace([small + 1], start=small).start.data_ptr() != small.data_ptr()


def test_what_does_not_fit_is_refused():
    sampler, correction = SAMPLERS["one stage"](ORACLE), nl.SelfCorrection(ORACLE)
    z = torch.zeros(1, LENGTH, dtype=torch.long)
    with pytest.raises(ValueError, match="SelfCorrection must start from tokens"):
        Trace.of(correction, (1, LENGTH))
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 5\); got 0 to 5"):
        Trace.of(sampler, torch.arange(6)[None], steps=3)
    with pytest.raises(ValueError, match="exactly one of steps and times"):
        Trace.of(sampler, z)
    with pytest.raises(ValueError, match="start must be given for a walk that does not yield it"):
        trace([z])
    with pytest.raises(ValueError, match=r"start must be given .*; got None"):
        trace([])
    with pytest.raises(ValueError, match="time must be given if a denoiser is; got None"):
        trace([z], start=z, denoiser=ORACLE)
    got = trace([z], start=z)
    with pytest.raises(ValueError, match=r"sequence must lie in \[0, 1\); got 1"):
        got.sequence(1)
    with pytest.raises(ValueError, match=r"truth must have shape \[1, 7\]; got \[1, 6\]"):
        got.table(z[:, 1:])
    with pytest.raises(ValueError, match="rows must be at least 2; got 1"):
        got.plot(rows=1)
    with pytest.raises(ValueError, match=r"positions must contain at least one position in range\(7\)"):
        got.plot(positions=range(3, 9))


# Pages.

EVIL = ["</script><b>bold", "<!--", '"quoted"\n', "\U0001f600 &amp; \u2028{{ title }}", "\ud800 \\ ' é"]


class Page(HTMLParser):
    """What a browser would find: the elements that load something, the data, the title, and unclosed elements."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.loads, self.kept = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        self.loads += [value for name, value in attributes if name in ("src", "href", "action", "data", "srcset")]
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append((tag, names.get("id")))

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if self.open:
            self.kept[self.open[-1]] = self.kept.get(self.open[-1], "") + text


def decoded(data):
    """The states, times and probabilities that a page knows: [stage, sequence, position] each, and [change, 2]."""
    states, times, probs = [], [], []
    for sequence in data["sequences"]:
        z, at = [list(sequence["start"])], 0
        for stage, position, new, *p in sequence["changes"]:
            while at < stage:
                z.append(list(z[-1]))
                at += 1
            z[at][position] = new
            probs.append([stage, [torch.nan if q is None else q for q in p]])
        states.append(z + [z[-1]] * (len(data["stages"]["kind"]) - len(z)))
        runs = [
            [[time, len(z[0])]] if not isinstance(time, list) else time for time in sequence.get("times", data["times"])
        ]
        times.append([[torch.nan if t is None else t for t, n in run for _ in range(n)] for run in runs])
    in_order = [p for _, p in sorted(probs, key=lambda entry: entry[0])]
    return torch.tensor(states).transpose(0, 1), torch.tensor(times, dtype=torch.float64).transpose(0, 1), in_order


@pytest.mark.parametrize("name", [*SAMPLERS, "random"])
def test_a_page_holds_the_whole_trace_and_loads_nothing(name, tmp_path):
    got = random_trace()[0] if name == "random" else None
    got = got or Trace.of(SAMPLERS[name](ORACLE), (3, LENGTH), steps=8, generator=generator(), why=True)
    kept = [got.start.clone(), got.changed.clone(), got.probs.clone(), got.times.clone()]
    path = got.html(tmp_path / "folder" / "trace.html", decode=EVIL.__getitem__, title='</title>{{ data }}"<b>')
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.loads == [] and "url(" not in text and "@import" not in text
    assert page.kept["title", None] == page.kept["h1", None] == '</title>{{ data }}"<b>'
    data = json.loads(page.kept["script", "data"])
    states, times, probs = decoded(data)
    assert torch.equal(states, got.states)
    torch.testing.assert_close(times, got.times.expand(-1, -1, LENGTH), rtol=0, atol=0, equal_nan=True)
    probs = torch.tensor(probs, dtype=torch.float64)
    torch.testing.assert_close(probs, got.probs, rtol=0, atol=0, equal_nan=True)
    assert [data["kinds"][k] for k in data["stages"]["kind"]] == list(got.kinds)
    assert data["stages"]["step"] == list(got.steps)
    assert data["texts"] == {str(v): EVIL[v] for v in got.states.unique().tolist()}
    assert data["off"] == ([] if got.support is None else [MASK])
    for before, after in zip(kept, [got.start, got.changed, got.probs, got.times], strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0, equal_nan=True)
    assert list(path.parent.iterdir()) == [path]


def test_a_page_stores_changes_and_not_states(tmp_path):
    start = torch.arange(1000)[None] % 7
    got = trace((start + (torch.arange(1000) == k) for k in range(500)), start=start)
    assert got.html(tmp_path / "long.html").stat().st_size < 60_000  # 500 states of 1000 tokens are a million


def test_a_page_appears_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    got, path = random_trace()[0], tmp_path / "trace.html"

    def fails(token):
        raise RuntimeError("no such token")

    with pytest.raises(RuntimeError, match="no such token"):
        got.html(path, decode=fails)
    with pytest.raises(ValueError, match="decode must return a str for each token; got 0 for token 0"):
        got.html(path, decode=lambda token: token)
    with pytest.raises(ValueError, match=r"sequence must lie in \[0, 3\); got 3"):
        got.html(path, sequence=3)
    with pytest.raises(ValueError, match="at least one; got none"):
        got.html(path, sequence=[])
    assert list(tmp_path.iterdir()) == []
    got.html(path, sequence=[2, 0])
    before = path.read_bytes()
    data = json.loads(Page(before.decode()).kept["script", "data"])
    assert [sequence["index"] for sequence in data["sequences"]] == [2, 0]

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        got.html(path, title="another")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


# Figures.


def cells(figure, rows, columns):
    texts = [text.get_text() for text in figure.axes[0].texts]
    return [texts[row * columns : (row + 1) * columns] for row in range(rows)]


def test_cells_hold_the_tokens_in_the_colour_of_their_maker(tmp_path):
    words = ["$a", "b$", " c", "d\n", "a token of many letters"]
    got, _ = random_trace()
    figure = got.plot(sequence=1, decode=words.__getitem__, rows=12)
    want = [[["$a", "b$", "·c", "d⏎", "a·token·of·…"][v] for v in row] for row in got.states[:, 1].tolist()]
    assert cells(figure, 12, LENGTH) == want
    figure.savefig(tmp_path / "trace.svg")  # a pair of $ is no formula
    paint = figure.axes[0].collections[0].get_array()
    of_kind = {"odd": torch.tensor(to_rgb("#0072b2")), "even": torch.tensor(to_rgb("#e69f00"))}
    for change in got.changes(1):
        shade = torch.as_tensor(paint[change.stage, change.position]).float()
        torch.testing.assert_close(shade, 1 + 0.75 * (of_kind[change.kind] - 1))
    never = ~(got.made_by()[:, 1] >= 0)
    assert never.any() and (torch.as_tensor(paint)[never] == 1).all()
    weights = [text.get_weight() == "bold" for text in figure.axes[0].texts]
    assert torch.equal(torch.tensor(weights).view(12, LENGTH)[1:], got.states[1:, 1] != got.states[:-1, 1])


def test_colours_fade_and_masks_are_grey():
    got = Trace.of(SAMPLERS["one stage"](ORACLE), (3, LENGTH), steps=64, generator=generator())
    figure = got.plot()
    assert figure.axes[0].get_title(loc="left") == "Sequence 0: 40 of 66 stages, evenly picked"
    shown = torch.linspace(0, 65, 40).round().long()
    want = [["" if v == MASK else str(v) for v in row] for row in got.states[shown, 0].tolist()]
    assert cells(figure, 40, LENGTH) == want and any("" in row for row in want)
    paint = torch.as_tensor(figure.axes[0].collections[0].get_array()).double()
    assert torch.allclose(paint[0][got.states[0, 0] == MASK], torch.tensor(to_rgb(figures.GREY), dtype=torch.float64))
    last = max(change.stage for change in got.changes(0, 0))
    fading = paint[shown > last + 1][:, 0, 0]
    assert (fading.diff() >= 0).all() and fading[-1] > fading[0]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "denoise" and f"token {MASK}" in labels and "clean" not in labels
    left = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert left[:2] == ["noise", "denoise 2"] and left[-1] == "clean 65"


def test_long_sequences_are_drawn_without_text():
    got, _ = random_trace(length=100, stages=300)
    figure = got.plot(2)
    (image,) = figure.axes[0].get_images()
    assert image.get_array().shape == (240, 100, 3) and not figure.axes[0].texts
    part = got.plot(2, positions=range(90, 100), rows=5)
    picked = torch.linspace(0, 299, 5).round().long()
    assert cells(part, 5, 10) == [[str(v) for v in row] for row in got.states[picked, 2, 90:].tolist()]
    times = [label.get_text() for label in part.axes[0].child_axes[0].get_yticklabels()]
    low, high = got.times[picked[2], 2, 90:].aminmax()
    assert times[0] == "1" and times[2] == f"{low:.3g} to {high:.3g}"


def test_a_trace_of_nothing_is_drawn_too(tmp_path):
    z = torch.zeros(1, 3, dtype=torch.long)
    for got in (trace([], start=z), trace([z, z], start=z)):
        got.plot().savefig(tmp_path / "nothing.svg")
        got.html(tmp_path / "nothing.html")
        assert got.changes() == [] and torch.equal(got.end, z) and got.table()


SCRIPT = """
import sys, torch
from noiselab.tracing.trace import trace
z = torch.zeros(1, 3, dtype=torch.long)
got = trace([z + 1], start=z)
assert "matplotlib" not in sys.modules, "traces are light"
got.html("trace.html")
assert "matplotlib" not in sys.modules, "pages need no figures"
got.plot().savefig("trace.svg")
assert "matplotlib.pyplot" not in sys.modules, "the global state of matplotlib is left alone"
"""


def test_heavy_imports_wait_until_they_are_needed(tmp_path):
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_the_figure_of_the_docs_can_be_drawn_and_is_shown():
    docs = Path(__file__).parents[2] / "docs"
    namespace = runpy.run_path(str(docs / "figures.py"))
    assert namespace["draw"]("trace").startswith("<?xml") and (docs / "assets" / "trace.svg").exists()
    assert "(../assets/trace.svg)" in (docs / "guides" / "traces.md").read_text(encoding="utf-8")
