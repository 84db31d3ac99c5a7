"""Published claims beside ours: the page is what the generator writes, and each number is that of the study it is from."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import claims as tables  # noqa: E402

ARTICLES = tables.read_articles()
ROWS = {f"{a['key']} {n}": (a, claim) for a in ARTICLES for n, claim in enumerate(a["claims"])}
NUMBER = re.compile(r"[-+]?\d*\.?\d+")


def plain(cell: str) -> str:
    return cell.replace("*", "").strip()


def tables_of(text: str):
    """(columns, rows) of each Markdown table; included files are read in their place, those of claims are left out."""
    text = re.sub(
        r'^--8<-- "(docs/assets/(?!claims).*?)"$', lambda m: (ROOT / m[1]).read_text(encoding="utf-8"), text, flags=re.M
    )
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.M):
        lines = [[plain(cell) for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()]
        yield lines[0], lines[2:]


def cells_of(page: str, key: str, column: str) -> list[str]:
    """The cells in a column of the rows that begin with the key; a key that ends with a bar is a whole first cell."""
    found = []
    for columns, rows in tables_of((ROOT / page).read_text(encoding="utf-8")):
        if column in columns:
            found += [row[columns.index(column)] for row in rows if " | ".join(row).startswith(key)]
    return found


def the_cell(page: str, key: str, column: str) -> str:
    cells = set(cells_of(page, key, column))
    assert len(cells) == 1, f"{page}, row {key!r}, column {column!r}: {cells}"
    return cells.pop()


def first_number(cell: str) -> float:
    return float(NUMBER.search(cell)[0])


def value_of(figure: dict) -> str:
    """What the study says, for a figure of a claim."""
    if "text" in figure:
        page = (ROOT / figure["page"]).read_text(encoding="utf-8")
        assert figure["text"] in page and figure["shown"] in figure["text"]
        return figure["shown"]
    if "json" in figure:
        rows = json.loads((ROOT / figure["json"]).read_text(encoding="utf-8"))["rows"]
        (row,) = (row for row in rows if all(row[name] == value for name, value in figure["where"].items()))
        sign = "+" if figure["measure"].endswith("gap") else ""
        mean, half = (row["measures"][figure["measure"]][name] for name in ("mean", "half"))
        return f"{mean:{sign}.3f} ± {half:.3f}"
    if "difference" in figure:
        first, second = (first_number(the_cell(figure["page"], key, figure["column"])) for key in figure["difference"])
        sign = "+" if figure["shown"].startswith("+") else ""
        return f"{first - second:{sign}.{len(figure['shown'].partition('.')[2])}f}"
    return the_cell(figure["page"], figure["row"], figure["column"])


@pytest.mark.parametrize("name", ROWS)
def test_a_claim_says_all_that_it_must(name):
    article, claim = ROWS[name]
    assert claim["verdict"] in tables.VERDICTS and claim["reason"] and claim["claim"] and claim["published"]
    assert not any("|" in claim[field] or "\n" in claim[field] for field in ("claim", "published", "ours", "reason"))
    if claim["setting"] == tables.NOT_MEASURED:
        assert claim["verdict"] == "not tested" and claim["ours"] == "-" and not claim["figures"]
        return
    setting = article["settings"][claim["setting"]]
    assert all(setting[field] for field in ("scale", "seeds", "interval")) and claim["figures"]
    if "±" not in claim["ours"]:
        assert "none" in claim.get("interval", setting["interval"]) or "interval" in claim or " to " in claim["ours"]


@pytest.mark.parametrize("name", ROWS)
def test_each_number_is_that_of_the_study(name):
    _, claim = ROWS[name]
    for figure in claim["figures"]:
        said = f"{claim['ours']} {claim['reason']}"
        assert re.search(rf"(?<![\d.]){re.escape(figure['shown'])}(?!\d)", said), figure
        value = value_of(figure)
        assert re.search(rf"(?<![\d.]){re.escape(figure['shown'])}(?![\d])", value), (figure, value)
    # Every figure of ours has a source: what is left are settings (steps, times, rates), which have no ±.
    left = claim["ours"]
    for shown in sorted((figure["shown"] for figure in claim["figures"]), key=len, reverse=True):
        left = left.replace(shown, "")
    assert "±" not in left, left


def test_the_pages_are_what_the_generator_writes(tmp_path):
    tables.write_pages(ARTICLES, tmp_path)
    page = (ROOT / "docs" / "studies" / "claims.md").read_text(encoding="utf-8")
    for file in tmp_path.iterdir():
        assert file.read_text(encoding="utf-8") == (tables.FOLDER / file.name).read_text(encoding="utf-8")
        assert f'--8<-- "docs/assets/claims/{file.name}"' in page
    assert {file.name for file in tmp_path.iterdir()} == {f.name for f in tables.FOLDER.iterdir()} - {"claims.json"}


def test_planted_mistake_a_number_that_is_not_of_its_study():
    figure = next(f for _, c in ROWS.values() for f in c["figures"] if "json" in f)
    assert value_of(figure) == figure["shown"]
    other = figure | {"measure": "pairs"}
    assert value_of(other) != figure["shown"]
    with pytest.raises(AssertionError):
        the_cell("docs/studies/mistakes.md", "no such arm", "11 operations")
