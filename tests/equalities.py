"""The published losses beside ours: the tables in the pages of docs/families.

    python tests/equalities.py            prints them
    python tests/equalities.py --write    and puts each into its page

Each row compares values and gradients in float64 on random inputs. The papers' side is in `published.py`, or in the family's
file, and takes nothing from the library.
"""

import argparse
from pathlib import Path

from family import Equality, modules

PAGES = Path(__file__).parents[1] / "docs" / "families"
START, END = "<!-- written by tests/equalities.py -->", "<!-- end -->"
HEADER = ["Ours", "Theirs", "Where", "Largest relative error"]
BY_PAGE: dict[str, dict[str, Equality]] = {
    name: module.EQUALITIES for name, module in modules().items() if hasattr(module, "EQUALITIES")
}
EQUALITIES = {name: row for rows in BY_PAGE.values() for name, row in rows.items()}


def table(rows: dict[str, Equality], errors: dict[str, float]) -> str:
    lines = [[row.ours, row.paper, row.where, f"{errors[name]:.0e}"] for name, row in rows.items()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] * len(HEADER), *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put each table into its page")
    write = parser.parse_args().write
    for name, rows in BY_PAGE.items():
        made = table(rows, {key: row.error() for key, row in rows.items()})
        print(f"{name}\n{made}\n")
        if write:
            page = PAGES / f"{name}.md"
            text = page.read_text(encoding="utf-8")
            before, after = text.split(START)[0], text.split(END)[1]
            page.write_text(f"{before}{START}\n\n{made}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
