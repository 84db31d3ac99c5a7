"""Each field of a published preset is listed beside the published value, and is equal to it or named as different."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import published_presets
from published_presets import END, PAGE, START, contents, entries, equal, fields_of, plain, preset_of

FILE = contents()
PRESETS = FILE["presets"]
COMMITS = {"f67acc961cc858cc69e8e6d91e7eb67a0a79151c", "c112c526d193436838c98d81455ee51f90309470"}
COMMITS |= {"6525e88f9be3b1af5bc1ead83cecfcf7d282de1e"}


def faults(fields, values):
    """What is wrong with the entries of a preset: missing, superfluous, or other than they say."""
    found = [f"{name} is not in the table" for name in values.keys() - fields.keys()]
    found += [f"{name} is no field" for name in fields.keys() - values.keys()]
    for name in fields.keys() & values.keys():
        row, ours = fields[name], plain(values[name])
        if "own" in row:
            wrong = "published" in row or not row["own"]
        else:
            wrong = not row.get("from") or equal(ours, row["published"]) == ("differs" in row)
        if wrong:
            found.append(f"{name}: {ours!r} and {row}")
    return sorted(found)


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_is_the_published_one_or_named_as_different(name):
    entry = entries(name, PRESETS)
    assert faults(entry["fields"], fields_of(preset_of(name))) == []
    for row in entry["beyond"].values():
        assert row["from"] and {"ours", "published"} <= set(row)
    assert FILE["repositories"][entry["repository"]]["commit"] in COMMITS


def test_every_preset_that_is_named_after_a_publication_is_in_the_table():
    named = set()
    for recipe in ("gidd_plus", "masked", "uniform", "autoregressive", "scaling"):
        presets = published_presets.importlib.import_module(recipe).PRESETS
        named |= {f"{recipe} {name}" for name in presets if name not in ("demo", "medium")}
    assert named - set(PRESETS) == {"uniform small"}  # MDLM's settings with another noise: no published run
    for name in PRESETS:
        recipe, preset = name.split()
        text = published_presets.importlib.import_module(recipe).PRESETS[preset][0]
        assert "docs/reference/published.md" in text or text.startswith("the same with")


def test_a_changed_field_is_noticed():
    name = "gidd_plus small"
    entry, settings = entries(name, PRESETS), preset_of(name)
    other = dataclasses.replace(settings, optimization=dataclasses.replace(settings.optimization, learning_rate=1e-3))
    assert faults(entry["fields"], fields_of(other)) == [
        f"optimization.learning_rate: 0.001 and {entry['fields']['optimization.learning_rate']}"
    ]
    same = dataclasses.replace(settings, weights="dynamic_v11")  # now equal, but named as different
    assert len(faults(entry["fields"], fields_of(same))) == 1
    fewer = {key: row for key, row in entry["fields"].items() if key != "data.packing"}
    assert faults(fewer, fields_of(settings)) == ["data.packing is not in the table"]
    assert faults({**entry["fields"], "data.other": {"own": "x"}}, fields_of(settings)) == ["data.other is no field"]


def test_the_page_is_up_to_date():
    """`python tests/published_presets.py --write`."""
    shown = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0].strip()
    assert shown == published_presets.page()
