"""Any process is stored as a tree of names and numbers in noiselab.json, and read back equal, bit for bit."""

import importlib
import json
import sys
import tempfile

import composed
import family
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import noiselab as nl
from noiselab import schedules, t
from noiselab.pipeline import ModelSettings
from noiselab.processes import process_from, registered, settings_of
from noiselab.processes.registry import KINDS


def through_a_file(process):
    """The process that a noiselab.json on disk gives."""
    with tempfile.TemporaryDirectory() as folder:
        ModelSettings(process).save_pretrained(folder)
        return ModelSettings.from_pretrained(folder).process()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(composed.composed())
def test_composed_processes_are_read_back_equal(make):
    process = make()
    assert composed.differences(process, through_a_file(process)) == []


READY = {**family.gather("WORLDS"), **family.gather("DEPENDENT")}


@pytest.mark.parametrize("name", READY)
def test_ready_made_processes_are_read_back_equal(name):
    process = READY[name]()
    if any(isinstance(part, schedules.Function) for part in process.modules()):
        with pytest.raises(ValueError, match=r"cannot be written as data: \w+ is a Python function"):
            settings_of(process)
        return
    assert composed.differences(process, through_a_file(process)) == []


def every_class(base):
    for cls in base.__subclasses__():
        yield cls
        yield from every_class(cls)


def test_every_class_of_the_library_can_be_written():
    """But those that wrap Python code, or are made anew at each call."""
    classes = {cls for base in (schedules.Schedule, nl.mixing.Mixing, nl.NoiseProcess) for cls in every_class(base)}
    ours = {cls for cls in classes if cls.__module__.startswith("noiselab.") and not cls.__abstractmethods__}
    ours = {cls.__name__ for cls in ours if not cls.__module__.startswith("noiselab.testing.")}
    kinds = {kind.cls.__name__ for kind in KINDS.values()}
    assert ours - kinds == {"Time", "Function", "_Reclocked"} and "Interpolation" in kinds


def example():
    words, mask = nl.Unigram(torch.tensor([0.1, 0.2, 0.7, 0.0]).double()), nl.Absorbing(3, 4)
    blend = nl.mixing.Blend({words: 2 - t, nl.Uniform(torch.tensor([True, True, False, False])): 1 / 3})
    return nl.Interpolation(1 - t**1.5, {mask: t**1.5, blend: 0.5 * t}, domain=(0.0, 0.99))


TREE = {
    "kind": "Interpolation",
    "signal": {"kind": "-", "left": 1.0, "right": {"kind": "**", "left": "t", "right": 1.5}},
    "noises": [
        {
            "mixing": {"kind": "Absorbing", "token": 3, "vocab_size": 4},
            "weight": {"kind": "**", "left": "t", "right": 1.5},
        },
        {
            "mixing": {
                "kind": "Blend",
                "parts": [
                    {
                        "mixing": {"kind": "Unigram", "row": [0.1, 0.2, 0.7, 0.0]},
                        "weight": {"kind": "-", "left": 2.0, "right": "t"},
                    },
                    {
                        "mixing": {"kind": "Uniform", "tokens": {"vocab_size": 4, "without": [2, 3]}},
                        "weight": 1 / 3,
                    },
                ],
            },
            "weight": {"kind": "*", "left": 0.5, "right": "t"},
        },
    ],
    "support": {"vocab_size": 4, "without": [3]},
    "domain": [0.0, 0.99],
}


def test_a_tree_by_hand():
    found = settings_of(example())
    row = found["noises"][1]["mixing"]["parts"][0]["mixing"]
    assert torch.allclose(torch.tensor(row["row"]), torch.tensor([0.1, 0.2, 0.7, 0.0]), rtol=1e-7)
    row["row"] = [0.1, 0.2, 0.7, 0.0]
    assert found == TREE
    assert repr(process_from(TREE)) == (
        "Interpolation(1 - t ** 1.5, {Absorbing(3): t ** 1.5, Blend({Unigram(4): 2 - t, Uniform(2 of 4): 0.333333}): "
        "0.5 * t})"
    )


def test_constants_with_names():
    e = schedules.Constant(2.718281828459045, "e")
    tree = settings_of(nl.Interpolation(1 - t, {nl.Uniform(3): e * t, nl.Uniform(3): schedules.pi * t}))
    assert tree["noises"][0]["weight"]["left"] == {"kind": "Constant", "value": 2.718281828459045, "name": "e"}
    assert tree["noises"][1]["weight"]["left"] == "pi"
    assert repr(process_from(tree)) == "Interpolation(1 - t, {Uniform(3): e * t, Uniform(3): pi * t})"


def test_a_tree_in_a_file_by_hand(tmp_path):
    """Written by hand, with whole numbers and an expression within a family."""
    noise = {
        "family": "masked",
        "vocab_size": 4,
        "mask_id": 3,
        "signal": {
            "kind": "cos",
            "inner": {"kind": "*", "left": {"kind": "/", "left": "pi", "right": 2}, "right": "t"},
        },
    }
    for content in ({"version": 2, "noise": noise}, {"noise": noise}, {"version": 1, "noise": noise}):
        (tmp_path / "noiselab.json").write_text(json.dumps(content))
        process = ModelSettings.from_pretrained(tmp_path).process()
        assert repr(process) == "Interpolation(cos(pi / 2 * t), {Absorbing(3): 1 - cos(pi / 2 * t)})"
    clock = {"kind": "ChangeOfTime", "process": noise, "clock": {"kind": "**", "left": "t", "right": 2}}
    assert repr(process_from(clock)).endswith(", t ** 2)")


def rounded(tree):
    if isinstance(tree, float):
        return float(f"{tree:.6g}")
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    return [rounded(value) for value in tree] if isinstance(tree, list) else tree


def without(tree, *names):
    return {key: value for key, value in tree.items() if key not in names}


def swapped(tree):
    one, two = tree["noises"]
    return {**tree, "noises": [{**one, "weight": two["weight"]}, {**two, "weight": one["weight"]}]}


@pytest.mark.parametrize(
    ("mistake", "seen"),
    [
        (lambda tree: {**tree, "noises": tree["noises"][:1]}, {"repr", "marginal"}),
        (swapped, {"repr", "marginal", "draws"}),
        (lambda tree: {**tree, "noises": tree["noises"][::-1]}, {"repr", "draws"}),
        (lambda tree: without(tree, "domain"), {"domain or size"}),
        (lambda tree: without(tree, "support"), {"support"}),
        (rounded, {"marginal", "likelihood"}),
    ],
    ids=[
        "a weight is lost",
        "two weights are swapped",
        "two parts are swapped",
        "no domain",
        "no support",
        "six digits",
    ],
)
def test_a_planted_mistake_is_seen(mistake, seen):
    """The comparison of the tests above is red where a tree has lost something."""
    process = nl.Interpolation(
        (1 - t) ** 1.23456789,
        {nl.Uniform(4): t**1.5, nl.Unigram(torch.tensor([0.1, 0.2, 0.7, 0.0])): 0.5 * t * (1 - t) ** 1.23456789},
        support=torch.arange(4) < 3,
        domain=(0.0, 0.99),
    )
    tree = settings_of(process)
    assert composed.differences(process, process_from(tree)) == []
    assert seen <= set(composed.differences(process, process_from(mistake(tree))))


def test_shared_parameters_stay_shared():
    alpha = composed.moved(schedules.MonotoneNetwork(3), 0)
    process = nl.Interpolation(alpha, {nl.Absorbing(3, 4): 1 - alpha})
    tree = settings_of(process)
    assert tree["noises"][0]["weight"]["right"] == {"same_as": "noise.signal"}
    again = process_from(json.loads(json.dumps(tree)))
    assert len(list(again.parameters())) == 3 and again.signal is again.weights[0].right
    apart = {**tree, "noises": [{**tree["noises"][0], "weight": {"kind": "-", "left": 1, "right": tree["signal"]}}]}
    assert "parameters that are shared" in composed.differences(process, process_from(apart))


def test_unnormalised_rows_are_normalised_and_stored_ones_are_not_touched():
    row = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    words = nl.Unigram(row / row.sum())
    again = nl.Unigram(words.row)  # normalised twice: some digits change
    process = nl.Interpolation(1 - t, {words: t})
    read = process_from(settings_of(process)).mixings[0]
    assert torch.equal(read.row, words.row) and torch.equal(read.cumulative, words.cumulative)
    assert torch.allclose(again.row, words.row, rtol=1e-13) and not torch.equal(again.row, words.row)
    rough = {"kind": "Unigram", "row": [0.3333333, 0.3333333, 0.3333333]}
    tree = {"kind": "Interpolation", "signal": TREE["signal"], "noises": [{"mixing": rough, "weight": "t"}]}
    assert process_from(tree).mixings[0].row.sum() == pytest.approx(1, abs=1e-15)


@pytest.fixture
def own():
    """The registry, restored after the test."""
    before = dict(KINDS)
    yield
    KINDS.clear()
    KINDS.update(before)


class Bent(nl.Schedule):
    def __init__(self, power, inner=t):
        super().__init__()
        self.power, self.inner = power, inner
        self.scale = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, t):
        return self.inner(t) ** (self.power + self.scale.double() ** 2)


class Sparse(nl.mixing.Mixing):
    def __init__(self, table, others=()):
        super().__init__()
        self.vocab_size = len(table)
        self.register_buffer("table", table)
        self.others = torch.nn.ModuleList(others)

    def probs(self, t):
        return self.table.to(t).expand(*t.shape, -1)


class Tilted(nl.InterpolatingProcess):
    def __init__(self, clock, names=("a", "b"), support=None):
        super().__init__(support)
        self.clock, self.names = clock, list(names)

    def alpha(self, t):
        return 1 - self.clock(t)

    def mixing(self, t):
        return torch.full((*t.shape, 4), 0.25, dtype=torch.float64)


def test_classes_of_ones_own(own):
    for cls in (Bent, Sparse, Tilted):
        registered(cls)
    bent = Bent(2.123456789012345, 1 - (1 - t) ** 2)
    bent.scale.data.fill_(0.3)
    table = torch.tensor([0.5, 0.25, 0.25, 0.0])
    composed_of_them = nl.Interpolation(1 - bent, {Sparse(table, [nl.Uniform(4)]): bent})
    tree = settings_of(composed_of_them)
    assert tree["noises"][0]["mixing"] == {
        "kind": "Sparse",
        "table": {"tensor": "float32", "values": [0.5, 0.25, 0.25, 0.0]},
        "others": [{"mixing": {"kind": "Uniform", "tokens": 4}}],
    }
    assert composed.differences(composed_of_them, through_a_file(composed_of_them)) == []
    process = Tilted(bent, ["x", "y", "z"], torch.tensor([True, True, True, False]))
    again = through_a_file(process)
    assert composed.differences(process, again) == [] and again.names == ["x", "y", "z"]


def test_a_name_belongs_to_one_class(own):
    with pytest.raises(ValueError, match=r"'Absorbing' is taken by noiselab.mixing.fixed.Absorbing"):
        registered(Sparse, name="Absorbing")
    with pytest.raises(ValueError, match="only a class of schedules, mixings, noise processes or denoisers"):
        registered(dict)

    class Loose(nl.Schedule):
        def __init__(self, *powers):
            super().__init__()

        def forward(self, t):
            return t

    with pytest.raises(ValueError, match="must name its arguments"):
        registered(Loose)


class Older(nl.Interpolation):
    """A subclass is another kind than its base, which would lose what it adds."""


REFUSED = {
    "a lambda": (
        lambda: nl.Interpolation(1 - t, {nl.Uniform(3): lambda t: t}),
        r"noise.noises\[0\].weight cannot be written as data: f is a Python function. Write it as an expression",
    ),
    "a function of torch": (
        lambda: nl.process.ChangeOfTime(nl.masked(vocab_size=4, mask_id=3), schedules.Function(torch.sqrt).inverse(t)),
        r"noise.clock.inner cannot be written as data: sqrt is a Python function",
    ),
    "a class that is not registered": (
        lambda: nl.Interpolation(1 - t, {Sparse(torch.full((4,), 0.25)): t}),
        r"noise.noises\[0\].mixing cannot be written as data: the class Sparse is not registered. Put the decorator "
        r"noiselab.processes.registered on it, or name it as an entry point",
    ),
    "a subclass": (
        lambda: Older(1 - t, {nl.Uniform(3): t}),
        "noise cannot be written as data: the class Older is not registered",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_written_is_refused(what):
    make, words = REFUSED[what]
    with pytest.raises(ValueError, match=words):
        ModelSettings(make())


class Losing(Tilted):
    def __init__(self, power, support=None):
        super().__init__(t**power, support=support)
        self.power = 1.0


class Secretive(Tilted):
    def __init__(self, power):
        super().__init__(t**power)


def test_a_class_that_does_not_keep_its_arguments_is_refused(own):
    registered(Losing)
    with pytest.raises(ValueError, match="must be restored by its arguments alone"):
        settings_of(Losing(2.0))
    registered(Secretive)
    with pytest.raises(ValueError, match="in an attribute of the same name; Secretive has no 'power'"):
        settings_of(Secretive(2.0))


PACKAGE = """
import torch, noiselab as nl

class Faint(nl.InterpolatingProcess):
    def __init__(self, power):
        super().__init__()
        self.power = power

    def alpha(self, t):
        return 1 - t**self.power

    def mixing(self, t):
        return torch.full((*t.shape, 4), 0.25, dtype=torch.float64)
"""


def test_a_class_of_an_installed_package_needs_no_import(own, tmp_path, monkeypatch):
    (tmp_path / "faintly.py").write_text(PACKAGE)
    (tmp_path / "faintly-1.dist-info").mkdir()
    (tmp_path / "faintly-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: faintly\nVersion: 1\n")
    points = "[noiselab.processes]\nFaint = faintly:Faint\nBroken = faintly:Nothing\n"
    (tmp_path / "faintly-1.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    process = process_from({"kind": "Faint", "power": 3})
    assert process.alpha(torch.tensor(0.5)) == 0.875
    assert settings_of(process) == {"kind": "Faint", "power": 3}
    with pytest.raises(ValueError, match=r"the entry point 'Broken' of the group 'noiselab.processes' must be a class"):
        process_from({"kind": "Broken"})
    sys.modules.pop("faintly")


def test_settings_take_a_process_and_compare_as_data(tmp_path):
    one, two = ModelSettings(example()), ModelSettings(example())
    assert one == two and one.noise["domain"] == [0.0, 0.99]
    one.save_pretrained(tmp_path)
    assert ModelSettings.from_pretrained(tmp_path) == one
    assert json.loads((tmp_path / "noiselab.json").read_text())["version"] == 2
