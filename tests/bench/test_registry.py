"""Samplers and correctors are found by walking their packages: none is listed by hand, and none is missing."""

import importlib
import pkgutil
import warnings
from pathlib import Path

import pytest
from exact_worlds import NOISES

import noiselab as nl
from noiselab.bench import registry
from noiselab.bench.catalogue import catalogue

PROCESSES = {name: make() for name, make in NOISES.items()}
FOUND = {"samplers": registry.find_samplers(), "correctors": registry.find_correctors()}


def defined(kind, package):
    """The public subclasses that a package defines, found another way: those that Python knows of."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    left, found = [kind], set()
    while left:
        left += (more := left.pop().__subclasses__())
        found |= {c.__name__ for c in more if c.__module__.startswith(package.__name__) and c.__name__[0] != "_"}
    return found


@pytest.mark.parametrize("room", FOUND)
def test_none_is_missing(room):
    package, kind = getattr(nl, room), {"samplers": nl.Sampler, "correctors": nl.Corrector}[room]
    around = defined(nl.WrappedSampler, package) | {"WrappedSampler"} if room == "samplers" else set()
    assert set(FOUND[room]) == defined(kind, package) - around - {"ConstrainedSampler"}  # which needs a constraint
    assert set(FOUND[room]) <= set(package.__all__), "export it in __init__.py"


@pytest.mark.parametrize("room", FOUND)
def test_each_takes_some_noise_and_has_a_name_of_its_own(room):
    names = [name for kind in FOUND[room].values() for name in registry.variants_of(kind)]
    assert len(names) == len(set(names))
    for kind in FOUND[room].values():
        for name, make in registry.factories_of(kind).items():
            assert any(registry.takes(make, process) for process in PROCESSES.values()), name


def test_the_bench_has_them_all():
    benched = set().union(*(catalogue(process, slow=True) for process in PROCESSES.values()))
    for kind in (*FOUND["samplers"].values(), *FOUND["correctors"].values()):
        assert set(registry.variants_of(kind)) <= benched


def test_a_class_that_says_nothing_has_a_name_and_its_defaults():
    class LuckyGuessSampler(nl.AncestralSampler):
        pass

    assert registry.variants_of(LuckyGuessSampler) == {"lucky guess": {}}


def test_trying_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for process in PROCESSES.values():
            catalogue(process)


def test_the_guide_has_them_all():
    """The tables that docs/hooks.py puts into the guide."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "samplers.md").read_text(encoding="utf-8")
    for mark in ("a row for each sampler", "a row for each corrector"):
        assert f"<!-- {mark}: docs/hooks.py -->" in page
    tables = registry.sampler_table() + "\n" + registry.corrector_table()
    for kind in (*FOUND["samplers"].values(), *FOUND["correctors"].values()):
        assert f"| `{kind.__name__}` |" in tables
        assert registry.in_literature(kind), "a Source in the docstring, with its year"
    assert "| DDIM: [Song et al. (2021)](https://arxiv.org/abs/2010.02502) |" in tables
    for row in tables.splitlines():
        assert row.count("|") == 6, row


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("AncestralSampler", "any"),
        ("EulerSampler", "state-independent"),
        ("DeterministicSampler", "state-independent, constant mixing"),
        ("ConfidenceSampler", "masking"),
        ("JointThresholdSampler", "masking with wrong tokens"),
    ],
)
def test_the_noise_that_is_taken_is_found_by_trying(name, noise):
    assert registry.noise_taken(FOUND["samplers"][name]) == noise
