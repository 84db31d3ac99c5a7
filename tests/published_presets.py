"""The fields of presets that are named after published runs, beside the published values: the tables of one page.

    python tests/published_presets.py            prints them
    python tests/published_presets.py --write    and puts them into docs/reference/published.md

The published values and their sources are in recipes/published.yaml; ours are those of the recipes.
"""

import argparse
import dataclasses
import importlib
import math
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RECIPES, PAGE = ROOT / "recipes", ROOT / "docs" / "reference" / "published.md"
START, END = "<!-- written by tests/published_presets.py -->", "<!-- end -->"
if str(RECIPES) not in sys.path:
    sys.path.insert(0, str(RECIPES))

from noiselab.training.options import Run  # noqa: E402


def contents() -> dict[str, Any]:
    """The file of published values."""
    return yaml.safe_load((RECIPES / "published.yaml").read_text(encoding="utf-8"))


def entries(name: str, presets: dict[str, Any]) -> dict[str, Any]:
    """The repository, the fields and what is beyond them of a preset, with those of the one that it is like."""
    own = presets[name]
    below = (
        entries(own["like"], presets)
        if "like" in own
        else {"repository": own["repository"], "fields": {}, "beyond": {}}
    )
    dropped = set(own.get("drop", ()))
    kept = {part: {key: row for key, row in below[part].items() if key not in dropped} for part in ("fields", "beyond")}
    more = {part: own.get(part) or {} for part in kept}
    return {"repository": below["repository"], **{part: {**kept[part], **more[part]} for part in kept}}


def preset_of(name: str) -> Any:
    """The settings of a preset by the name of its recipe and its own."""
    recipe, preset = name.split()
    return importlib.import_module(recipe).PRESETS[preset][1]


def fields_of(settings: Any, prefix: str = "") -> dict[str, Any]:
    """All fields of a preset but those of `Run`, which change no result."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Run):
            continue
        if dataclasses.is_dataclass(value):
            found |= fields_of(value, f"{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def plain(value: Any) -> Any:
    """A value of a preset in the types of YAML."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def equal(ours: Any, published: Any) -> bool:
    """Whether two values are the same, in type, too, but for whole numbers among others."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (ours, published))
    return ours == published if numbers else type(ours) is type(published) and ours == published


def show(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not isinstance(value, bool):
        return "no limit" if math.isinf(value) else f"{value:g}" if value < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(show, value)) if isinstance(value, list) else str(value) or "(empty)"


def verdict(row: dict[str, Any]) -> str:
    """Same, different, or without a counterpart."""
    if "own" in row:
        return f"ours alone: {row['own']}"
    return f"**differs**: {row['differs']}" if "differs" in row else "same"


def lines_of(name: str, presets: dict[str, Any], base: str | None = None) -> list[str]:
    """The table of a preset; with a base, its rows that differ from those of the base."""
    entry, ours = entries(name, presets), fields_of(preset_of(name))
    before = entries(base, presets) if base else {"fields": {}, "beyond": {}}
    earlier = fields_of(preset_of(base)) if base else {}
    rows = [["Field", "Ours", "Published", "From", ""], ["---"] * 5]
    for field, row in entry["fields"].items():
        if before["fields"].get(field) == row and plain(earlier.get(field)) == plain(ours[field]):
            continue
        published = show(row["published"]) if "published" in row else ""
        rows.append(
            [f"`{field.rpartition('.')[2]}`", show(plain(ours[field])), published, row.get("from", ""), verdict(row)]
        )
    for what, row in entry["beyond"].items():
        if before["beyond"].get(what) != row:
            rows.append([what, show(row["ours"]), show(row["published"]), row["from"], verdict(row)])
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def page() -> str:
    """All tables."""
    found = contents()
    presets, text = found["presets"], []
    for name, own in presets.items():
        recipe, preset = name.split()
        repository = found["repositories"][entries(name, presets)["repository"]]
        text.append(f"## {recipe}.py {preset}\n")
        if "like" in own:
            other_recipe, other = own["like"].split()
            text.append(f"As `{other_recipe}.py {other}`, but for:\n")
        else:
            text.append(f"{repository['url']}, commit {repository['commit'][:7]}.\n")
        text += [*lines_of(name, presets, own.get("like")), ""]
    return "\n".join(text).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into their page")
    made = page()
    print(made)
    if parser.parse_args().write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        PAGE.write_text(f"{before}{START}\n\n{made}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
