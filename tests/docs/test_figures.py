"""The pictures of the families are those of docs/figures.py."""

import sys
from pathlib import Path

import matplotlib as mpl
import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import figures  # noqa: E402

mpl.use("Agg")


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_picture_can_be_drawn_and_is_shown(name):
    assert figures.draw(name).startswith("<?xml")
    assert (figures.FOLDER / f"{name}.svg").exists(), "run docs/figures.py"
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "families").glob("*.md"))
    assert f"(../assets/families/{name}.svg)" in pages


def test_no_picture_is_left_over():
    assert {path.stem for path in figures.FOLDER.iterdir()} == set(figures.FIGURES)
