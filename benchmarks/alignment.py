"""What rankings and checks in the context cost: `make bench`.

The Plackett-Luce loss of 256 rows of 20 answers in 5 dimensions, with its gradient, against a loop over ranks and rows; and how
many tokens a chat model reads in conversations of several rounds, with a cache and without, against how many there are.
"""

import argparse

import torch
from core import report
from measure import in_turns
from torch import Tensor

from noiselab.alignment import AnswersOnALine, cosine, plackett_luce


def loop(scores: Tensor, rewards: Tensor) -> Tensor:
    """The loss as its definition says, row by row and rank by rank."""
    total = scores.new_zeros(())
    for row, order in zip(scores, rewards.argsort(-1, descending=True), strict=True):
        ranked = row[order]
        for rank in range(len(ranked) - 1):
            total = total + ranked[rank:].logsumexp(0) - ranked[rank]
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each piece; the best counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads. Best of {options.rounds} rounds, in turns.\n")
    ranked = AnswersOnALine(5).draw(256, 20, generator=torch.Generator().manual_seed(0))
    said = torch.randn(256, 5, requires_grad=True)

    def ours() -> None:
        plackett_luce(cosine(said, ranked.y), ranked.rewards).sum().backward()

    def slow() -> None:
        loop(cosine(said, ranked.y), ranked.rewards).backward()

    found = in_turns({"ours": ours, "loop": slow}, options.rounds)
    rows: list[tuple[str, float, float | None, bool]] = [
        (
            "Plackett-Luce, loop over ranks / all at once, 256 rows of 20 answers",
            found["loop"] / found["ours"],
            20,
            True,
        )
    ]
    return min(report("alignment", rows), 1)


if __name__ == "__main__":
    raise SystemExit(main())
