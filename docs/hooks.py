"""What MkDocs does with docs/families and the tables of samplers: each page and class has its row without being listed.

A page begins with its `title`, `noise` and `written_as`; the losses it shows are between the marks of tests/equalities.py.
"""

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "families"
ROWS, LOSSES = "<!-- a row for each page: docs/hooks.py -->", "<!-- rows of all pages: docs/hooks.py -->"
SAMPLERS, CORRECTORS = (
    "<!-- a row for each sampler: docs/hooks.py -->",
    "<!-- a row for each corrector: docs/hooks.py -->",
)
START, END = "<!-- written by tests/equalities.py -->", "<!-- end -->"


def on_config(config: Any) -> Any:
    """Adds the families that mkdocs.yml does not list to its navigation, after those that it does."""
    families = next(part["Families"] for part in config.nav if "Families" in part)
    families += sorted({f"families/{path.name}" for path in FOLDER.glob("*.md")} - set(families))
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, **unused: Any) -> str:
    """Puts the tables of families, samplers and correctors into their pages."""
    if page.file.src_uri == "guides/samplers.md":
        from noiselab.bench.registry import corrector_table, sampler_table

        return markdown.replace(SAMPLERS, sampler_table()).replace(CORRECTORS, corrector_table())
    if page.file.src_uri != "families/index.md":
        return markdown
    families = next(part["Families"] for part in config.nav if "Families" in part)
    order = [Path(name).name for name in families if name != "families/index.md"]
    return markdown.replace(ROWS, overview(order)).replace(LOSSES, losses(order))


def overview(order: list[str]) -> str:
    """A row for each family: its page, its noise, how it is written."""
    rows = ["| Family | Noise | Written as |", "| --- | --- | --- |"]
    for name in order:
        facts = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8").split("---\n")[1])
        rows.append(f"| [{facts['title']}]({name}) | {facts['noise']} | {facts['written_as']} |")
    return "\n".join(rows)


def losses(order: list[str]) -> str:
    """The rows of every page's table of published losses, under one head."""
    head: list[str] = []
    rows: list[str] = []
    for name in order:
        for table in re.findall(f"{START}(.*?){END}", (FOLDER / name).read_text(encoding="utf-8"), re.DOTALL):
            head, found = table.strip().splitlines()[:2], table.strip().splitlines()[2:]
            rows += found
    return "\n".join([*head, *rows])
