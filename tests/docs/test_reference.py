"""Every public name of every package is on a page of the reference."""

import re
from pathlib import Path

import griffe
import pytest
import yaml

PAGES = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))
ENTRY = re.compile(r"^::: (noiselab\S*)\n(?: {4}options: (\{.*\})$)?", re.MULTILINE)


@pytest.fixture(scope="module")
def library():
    return griffe.load("noiselab", search_paths=[Path(__file__).parents[2]], resolve_aliases=True)


def target(thing):
    return thing.final_target if thing.is_alias else thing


def shown(library, text):
    """The objects that a page documents, by the rules of mkdocstrings' options `members` and `filters`."""
    paths = set()
    for name, options in ENTRY.findall(text):
        entry = library[name.removeprefix("noiselab.")]
        options = yaml.safe_load(options) if options else {}
        hidden = [pattern.removeprefix("!") for pattern in options.get("filters", ["!^_"])]
        if not entry.is_module:
            paths.add(target(entry).path)
            continue
        for member in entry.members.values():
            wanted = member.is_public and not any(re.search(pattern, member.name) for pattern in hidden)
            if (member.name in options["members"] if "members" in options else wanted) and target(member).has_docstring:
                paths.add(target(member).path)
    return paths


def missing(library, paths):
    """Public names of packages that are not among the documented objects."""
    packages, found = [library], []
    for package in packages:
        packages += [each for each in package.modules.values() if not each.is_alias]
        found += [target(package[str(name)]) for name in package.exports or []]
    return {each.path for each in found if not each.is_module} - paths


def test_every_public_name_is_on_a_page(library):
    paths = set().union(*(shown(library, page.read_text(encoding="utf-8")) for page in PAGES))
    assert not missing(library, paths)


def test_a_name_on_no_page_is_found(library):
    """Without the page of samplers, the test above names the samplers."""
    paths = set().union(
        *(shown(library, page.read_text(encoding="utf-8")) for page in PAGES if page.stem != "samplers")
    )
    assert "noiselab.samplers.ancestral.AncestralSampler" in missing(library, paths)
