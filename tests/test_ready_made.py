"""Every ready-made process is tested, restored and described: a new one is found by walking `noiselab.processes`."""

from pathlib import Path

import family
import pytest
import yaml

import noiselab as nl
from noiselab.processes import FAMILIES

PAGES = Path(__file__).parents[1] / "docs" / "families"


def makes_a_process(made: object) -> bool:
    """A class of processes, or a function that is annotated to return one and is no reader of settings."""
    if not isinstance(made, type) and callable(made) and made is not nl.processes.process_from:
        made = getattr(made, "__annotations__", {}).get("return")
    return isinstance(made, type) and issubclass(made, nl.NoiseProcess)


MAKERS = [name for name in nl.processes.__all__ if makes_a_process(getattr(nl.processes, name))]


def faults(name: str) -> list[str]:
    """What a ready-made process lacks."""
    worlds = {world for kind in ("WORLDS", "DEPENDENT", "SMALL") for world in family.gather(kind).values()}
    rows = family.gather("EQUALITIES").values()
    settings = [make(9)["family"] for one in family.modules().values() for make in getattr(one, "SETTINGS", [])]
    pages = [page.read_text(encoding="utf-8") for page in PAGES.glob("*.md") if page.name != "index.md"]
    written = " ".join(yaml.safe_load(page.split("---\n")[1])["written_as"] for page in pages)
    lacking = {
        "a world in tests/families": not any(name in world.__code__.co_names for world in worlds),
        "an equality with a published loss in tests/families": not any(f"`{name}`" in row.ours for row in rows),
        "a page in docs/families that names it under written_as": f".{name}`" not in written
        and f"`{name}`" not in written,
        "settings in tests/families": name in FAMILIES and name not in settings,
    }
    return [fault for fault, true in lacking.items() if true]


def test_the_walk_finds_them():
    assert {"gidd", "masked", "d3pm", "TokenRates"} <= set(MAKERS)
    assert not {"cosine_betas", "FAMILIES", "process_from"} & set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_has_a_world_an_equality_a_page_and_settings(name):
    assert faults(name) == []


def test_one_that_lacks_them_is_found(monkeypatch):
    monkeypatch.setitem(FAMILIES, "mine", nl.masked)
    assert len(faults("mine")) == 4


def test_every_family_has_its_page():
    for name, module in family.modules().items():
        assert (PAGES / f"{name}.md").exists() and module.__doc__
