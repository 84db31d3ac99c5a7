"""Passes of a network over a draft, a text without masks: each replaces its tokens by the most likely ones."""

from torch import Tensor

from ..categorical import replace_tokens
from ..denoisers import Denoiser
from ..process import NoiseProcess
from ..typing import RowLogits, RowTokens, Selection, Times, Tokens


def most_likely(process: NoiseProcess, logits: RowLogits) -> RowTokens:
    """The most probable token of each row among those that data may contain."""
    return process.on_support(logits).argmax(-1)


def correct_draft(
    process: NoiseProcess, denoiser: Denoiser, y: Tokens, t: Times, rows: Selection, passes: int
) -> tuple[Tokens, RowLogits | None]:
    r"""The draft after passes that replace tokens by the most likely ones, $y_i \leftarrow \arg\max_v \hat x_i(v \mid y)$.

    There are `passes` at most; a sequence in which one changes nothing is final.

    **Arguments:**

    - `denoiser`: its logits are used as they are.
    - `y`: the drafts.
    - `rows`: the tokens that are replaced; others are read.

    **Returns:** the draft, and the logits at `rows` from the last pass of each sequence; none if there are no rows.
    """
    live, last = rows, None
    for _ in range(passes):
        if not live.any():
            break
        found: Tensor = denoiser(y, t, live)
        if last is None:
            last = found
        else:
            last = last.clone()
            last[live[rows]] = found.to(last)
        new = replace_tokens(y, live, most_likely(process, found))
        live, y = live & (new != y).any(-1, keepdim=True), new
    return y, last
