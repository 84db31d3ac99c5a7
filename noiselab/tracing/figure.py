"""Plotting a trace: tokens over time, coloured by the kind of change that set them."""

import unicodedata
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .style import Decode, colours, no_data, texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .trace import Trace

MAX_POSITIONS = 64  # positions with text
MAX_CHARACTERS = 12  # characters of a cell
LETTER, LINE = 0.062, 0.2  # inches
INK, GREY, PAPER = "#1f2733", "#c9ced6", "#ffffff"
SIGNS = {" ": "·", "\n": "⏎", "\r": "␍", "\t": "⇥"}


def plot_trace(
    trace: "Trace",
    sequence: int = 0,
    *,
    decode: Decode | None = None,
    positions: range | None = None,
    rows: int | None = None,
) -> "Figure":
    """Plot one sequence from noise to data: one row per stage, one column per position.

    A token is coloured by the kind of change that set it; the colour fades with age. It is bold if it changed since the
    row above. Initial tokens are white; tokens outside the support of the data are grey, or empty cells if there is
    only one such token, a mask. More than 64 positions are drawn without text.

    **Arguments:**

    - `sequence`: the index of the sequence.
    - `decode`: a function from token id to text, of which at most 12 characters are shown; by default the id is shown.
    - `positions`: the positions to plot; by default all.
    - `rows`: the maximum number of rows, spread evenly over the stages, at least 2; by default 40, or 240 without text.

    **Returns:** a `matplotlib.figure.Figure`; `figure.savefig("trace.svg")` writes it. No global state of matplotlib is
    used or changed.

    **Raises:** `ValueError` if the sequence or positions are out of range, or `rows` is less than 2.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    one = trace.sequence(sequence)
    length = one.start.shape[1]
    place = range(length) if positions is None else positions
    if not len(place) or min(place) < 0 or max(place) >= length:
        raise ValueError(f"positions must contain at least one position in range({length}); got {place}")
    if rows is not None and rows < 2:
        raise ValueError(f"rows must be at least 2; got {rows}")
    written = len(place) <= MAX_POSITIONS
    most = (40 if written else 240) if rows is None else rows
    shown = torch.linspace(0, len(one) - 1, min(most, len(one)), dtype=torch.float64).round().long()
    states, made_by = one.states[shown][:, 0, list(place)], one.made_by()[shown][:, 0, list(place)]
    of_kind, off = colours(one), no_data(one, states.flatten().tolist())
    paint = _paint(one, shown, states, made_by, of_kind, off)
    if written:
        words = {token: _visible(text) for token, text in texts(states.flatten().tolist(), decode).items()}
        words |= {token: "" for token in off if len(off) == 1}
        widths = _widths(states, words)
        size = (max(sum(widths) * LETTER + 1.9, 4.5), len(shown) * LINE + 1.1)
    else:
        size = (10, min(max(len(shown) * 0.03, 2), 7) + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    if written:
        _draw_cells(axis, states, made_by, paint, words, widths, list(place))
    else:
        axis.imshow(paint.numpy(), aspect="auto", interpolation="nearest",
                    extent=(place[0] - 0.5, place[-1] + 0.5, len(shown), 0))  # fmt: skip
        axis.set_xlabel("position", fontsize=8, color=INK)
    _label_rows(axis, one, shown, torch.tensor(list(place)))
    some = "all" if len(shown) == len(one) else f"{len(shown)} of"
    picked = "" if len(shown) == len(one) else ", evenly picked"
    axis.set_title(f"Sequence {sequence}: {some} {len(one)} stages{picked}", fontsize=9, loc="left", color=INK)
    active = {one.kinds[stage] for stage in one.changed[:, 0].tolist()}
    handles = [Patch(facecolor=_mix(of_kind[kind], 0.75), label=kind) for kind in of_kind if kind in active]
    if ((made_by < 0) & ~torch.isin(states, torch.tensor(off, dtype=states.dtype))).any():
        handles.append(Patch(facecolor=PAPER, edgecolor=GREY, label="initial"))
    if off:
        handles.append(Patch(facecolor=GREY, label=_name_of(off, decode)))
    figure.legend(handles=handles, loc="outside lower left", ncols=6, fontsize=8, frameon=False, handlelength=1.2)
    return figure


def _name_of(off: list[int], decode: Decode | None) -> str:
    if len(off) > 1:
        return "not in data"
    return f"token {off[0]}" if decode is None else _visible(decode(off[0])) or "mask"


def _paint(
    trace: "Trace", shown: Tensor, states: Tensor, made_by: Tensor, of_kind: dict[str, str], off: list[int]
) -> Tensor:
    """The colour of each cell, [row, position, 3]."""
    rgb = torch.stack([_rgb(PAPER), *(_rgb(colour) for colour in of_kind.values())])
    number = {kind: 1 + k for k, kind in enumerate(of_kind)}
    # The last entry is read by the index -1, which marks initial tokens.
    stage = torch.cat([trace.changed[:, 0].long(), torch.zeros(1, dtype=torch.long)])[made_by.long()]
    kind = torch.tensor([0, *(number[name] for name in trace.kinds[1:])])[stage]
    fresh = torch.exp(-(shown[:, None] - stage) / max(1, len(trace) / 10))[..., None]
    is_off = torch.isin(states, torch.tensor(off, dtype=states.dtype))[..., None]
    ground = torch.where(is_off, _rgb(GREY), _rgb(PAPER))
    strength = torch.where(kind[..., None] > 0, torch.where(is_off, 0.5 * fresh, 0.12 + 0.63 * fresh), 0)
    return ground + (rgb[kind] - ground) * strength


def _rgb(colour: str) -> Tensor:
    return torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=torch.float64)


def _mix(colour: str, strength: float) -> tuple[float, float, float]:
    red, green, blue = (_rgb(PAPER) + (_rgb(colour) - _rgb(PAPER)) * strength).tolist()
    return red, green, blue


def _visible(text: str) -> str:
    """Replace blanks and line ends by visible signs, and other invisible characters by a placeholder."""
    signs = "".join(SIGNS.get(c, c if c.isprintable() else "\ufffd") for c in text)
    return signs if len(signs) <= MAX_CHARACTERS else signs[: MAX_CHARACTERS - 1] + "…"


def _widths(states: Tensor, words: dict[int, str]) -> list[int]:
    """The width of each column in letters."""
    wide = {token: sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text) for token, text in words.items()}
    return [1 + max(1, *(wide[token] for token in column)) for column in states.T.tolist()]


def _draw_cells(
    axis: "Axes",
    states: Tensor,
    made_by: Tensor,
    paint: Tensor,
    words: dict[int, str],
    widths: list[int],
    place: list[int],
) -> None:
    edges = torch.tensor([0, *widths]).cumsum(0)
    axis.pcolormesh(edges.numpy(), list(range(len(states) + 1)), paint.numpy(), edgecolors=PAPER, linewidth=0.8)
    middle = ((edges[1:] + edges[:-1]) / 2).tolist()
    changed = torch.cat([torch.zeros_like(made_by[:1], dtype=torch.bool), made_by[1:] != made_by[:-1]])
    for y, (row, bold) in enumerate(zip(states.tolist(), changed.tolist(), strict=True)):
        for x, token, new in zip(middle, row, bold, strict=True):
            axis.text(x, y + 0.5, words[token], ha="center", va="center_baseline", fontsize=7, family="monospace",
                      color=INK, weight="bold" if new else "normal", parse_math=False)  # fmt: skip
    every = max(1, len(place) // 8)
    axis.set_xticks(middle[::every], [str(position) for position in place[::every]])


def _label_rows(axis: "Axes", trace: "Trace", shown: Tensor, place: Tensor) -> None:
    """Label rows with kind and step on the left and time on the right; labels are thinned to stay readable."""
    every = max(1, -(-len(shown) // 40))
    rows = list(range(0, len(shown), every))
    left, right = [], []
    for stage in shown[rows].tolist():
        left.append(f"{trace.kinds[stage]} {trace.steps[stage]}" if stage else trace.kinds[0])
        times = trace.times[stage, 0]
        times = times[place] if len(times) > 1 else times
        low, high = (f"{float(time):.3g}" for time in (times.min(), times.max()))
        right.append("" if low == "nan" else low if low == high else f"{low} to {high}")
    axis.set_ylim(len(shown), 0)
    axis.set_yticks([row + 0.5 for row in rows], left)
    clock = axis.secondary_yaxis("right")
    clock.set_yticks([row + 0.5 for row in rows], right)
    clock.set_ylabel("time t", fontsize=8, color=INK)
    for side in (axis, clock):
        side.tick_params(labelsize=7, length=0, colors=INK)
        side.spines[:].set_visible(False)
