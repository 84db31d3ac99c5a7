"""The tables of published claims beside ours, from docs/assets/claims/claims.json.

    python benchmarks/claims.py

Each claim has the published figure and its source, ours, a setting (scale, seeds, and what ± covers), one of five verdicts
and its reason. `figures` says where each number of ours is from: a cell of a table, a row of a JSON file, or the words of a
page; tests/docs/test_claims.py compares them. The pages of the studies and docs/studies/claims.md include the tables.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiselab.files import write_text

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "claims"
VERDICTS = ("reproduced", "sign holds", "contradicted at this scale", "no evidence", "not tested")
NOT_MEASURED = "not measured"


def read_articles(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The articles with their claims."""
    return json.loads((folder / "claims.json").read_text(encoding="utf-8"))["articles"]


def tabulate_claims(article: Mapping[str, Any]) -> str:
    """The claims of an article, and the settings of our measurements, as Markdown tables."""
    lines = [
        f"Published: {article['source']}.",
        "",
        "| claim | published | ours | setting | verdict | reason |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for claim in article["claims"]:
        published = f"{claim['published']} ({claim['source']})" if claim["source"] else claim["published"]
        setting = claim["setting"] + (f"; ±: {claim['interval']}" if "interval" in claim else "")
        cells = [claim["claim"], published, claim["ours"], setting, f"**{claim['verdict']}**", claim["reason"]]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| setting | scale | seeds | ± |", "| --- | --- | --- | --- |"]
    for name, setting in article["settings"].items():
        lines.append(f"| {name} | {setting['scale']} | {setting['seeds']} | {setting['interval']} |")
    return "\n".join(lines) + "\n"


def tabulate_verdicts(articles: list[dict[str, Any]]) -> str:
    """How often each verdict is given, for each article."""
    lines = [f"| article | {' | '.join(VERDICTS)} |", f"| --- |{' ---: |' * len(VERDICTS)}"]
    for article in articles:
        counts = Counter(claim["verdict"] for claim in article["claims"])
        lines.append(f"| {article['title']} | {' | '.join(str(counts[verdict]) for verdict in VERDICTS)} |")
    return "\n".join(lines) + "\n"


def write_pages(articles: list[dict[str, Any]], folder: Path) -> None:
    """One table for each article, and the counts of verdicts."""
    for article in articles:
        write_text(folder / f"{article['key']}.md", tabulate_claims(article))
    write_text(folder / "verdicts.md", tabulate_verdicts(articles))


if __name__ == "__main__":
    write_pages(read_articles(), FOLDER)
