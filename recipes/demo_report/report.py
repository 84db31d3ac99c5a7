"""The report of a demo run: one self-contained HTML file."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import torch
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from noiselab.bench.world import World
from noiselab.files import write_text
from noiselab.mixing import Absorbing, Uniform, Unigram
from noiselab.process import InterpolatingProcess
from noiselab.typing import TokenSequence

from .known_world import WorldResult

if TYPE_CHECKING:
    import transformers

INK, GREY, BLUE, AMBER, GREEN, RED = "#1f2733", "#8a94a3", "#2563a8", "#c47f17", "#2f855a", "#b83b3b"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "noiselab",
}


class Cell(NamedTuple):
    """A token of the grid: its text and its state ("mask", "noise", "changed" or "settled")."""

    text: str
    kind: str


class Piece(NamedTuple):
    """A stretch of text that self-correction kept, removed or inserted ("kept", "removed", "inserted")."""

    text: str
    kind: str


def write_report(path: Path, **content: Any) -> None:
    """Render `report.html.j2` and write it atomically.

    **Arguments:**

    - `path`: the file to write.
    - `content`: the variables of the template. A missing variable raises an error.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": format_number, "percent": format_percent}
    write_text(path, environment.get_template("report.html.j2").render(**content))


def format_number(value: float, digits: int = 3) -> str:
    """A number with `digits` decimals and separated thousands; ∞ for infinity, a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:,.{digits}f}" if math.isfinite(value) else "∞"


def format_percent(value: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{digits}f} %"


def decode_tokens(tokenizer: "transformers.PreTrainedTokenizerBase", ids: list[int]) -> str:
    """The text of tokens, special tokens included, without cleaning up spaces."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def show_whitespace(text: str) -> str:
    """Text with visible characters for spaces, tabs and line ends, for the grid."""
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥") or "∅"


def build_token_grid(
    states: Sequence[tuple[float, TokenSequence]],
    tokenizer: "transformers.PreTrainedTokenizerBase",
    mask_id: int | None,
    *,
    columns: int = 32,
) -> list[tuple[float, list[Cell]]]:
    """The states of one sample from noise to text, one row each.

    A token is "settled" if it is final, "changed" if it became final since the row above, "noise" if it will be replaced,
    and "mask" if it is a mask.

    **Arguments:**

    - `states`: (time, tokens), from noise to text.
    - `columns`: number of tokens shown, from the first.
    """
    rows, stays = [], torch.ones(columns, dtype=torch.bool)
    for (time, z), before in zip(reversed(states), [*reversed(states[:-1]), None], strict=True):
        z = z[:columns]
        stays = stays[: len(z)] & (z == states[-1][1][:columns])
        fresh = torch.zeros_like(stays) if before is None else z != before[1][:columns]
        cells = []
        for token, settled, new in zip(z.tolist(), stays.tolist(), fresh.tolist(), strict=True):
            kind = "mask" if token == mask_id else ("changed" if new else "settled") if settled else "noise"
            text = "¶" if token == tokenizer.eos_token_id else show_whitespace(decode_tokens(tokenizer, [token]))
            cells.append(Cell("" if token == mask_id else text, kind))
        rows.append((time, cells))
    return rows[::-1]


def mark_changes(
    before: TokenSequence, after: TokenSequence, tokenizer: "transformers.PreTrainedTokenizerBase"
) -> list[Piece]:
    """The kept, removed and inserted pieces between a text before and after correction; adjacent changes are merged."""
    pieces: list[Piece] = []
    same = (before == after).tolist()
    start = 0
    for end in range(1, len(same) + 1):
        if end == len(same) or same[end] != same[start]:
            old, new = (decode_tokens(tokenizer, z[start:end].tolist()) for z in (before, after))
            pieces += [Piece(old, "kept")] if same[start] else [Piece(old, "removed"), Piece(new, "inserted")]
            start = end
    return pieces


def encode_figure(figure: Figure) -> str:
    """A figure as an SVG image in a data URI."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


class Curves(NamedTuple):
    """A panel of `plot_curves`.

    **Arguments:**

    - `title`: of the panel.
    - `history`: what the trainer logged (`trainer.history`).
    - `tokens`: number of tokens in an optimizer step.
    - `training`, `held_out`: labels of the curves on training text and on held-out text.
    """

    title: str
    history: Sequence[Mapping[str, float]]
    tokens: int
    training: str
    held_out: str


def plot_curves(panels: Sequence[Curves]) -> str:
    """Training and held-out loss against the number of tokens seen."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.2, 3.2), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for key, label, colour, marker in (
                ("loss", panel.training, BLUE, ""),
                ("eval_loss", panel.held_out, AMBER, "o"),
            ):
                points = [(entry["step"] * panel.tokens / 1e6, entry[key]) for entry in panel.history if key in entry]
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=4)
            axes.set(title=panel.title, xlabel="million tokens seen", ylabel="nats per token")
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", alpha=0.25)
            axes.legend()
    return encode_figure(figure)


def plot_process(process: InterpolatingProcess) -> str:
    """The probabilities of the clean token and of each kind of noise at each time."""
    names = {Absorbing: "mask", Uniform: "random token", Unigram: "token by frequency"}
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    with torch.no_grad():
        mass = process.noise(t[:, None])
        shares = [process.alpha(t), *mass.weights[:, 0].unbind(-1)]
    labels = ["the clean token", *(names.get(type(part), type(part).__name__.lower()) for part in mass.parts)]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.9), layout="constrained")
        axes = figure.subplots()
        colours = [GREEN, "#b9c1cc", AMBER, BLUE, RED][: len(shares)]
        axes.stackplot(t.numpy(), [s.numpy() for s in shares], labels=labels, colors=colours, alpha=0.85, linewidth=0)
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="time t (0 = clean, 1 = noise)",
            ylabel="probability",
            title="What a token is at time t",
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=len(shares), fontsize=9)
    return encode_figure(figure)


def plot_world(world: World, results: Sequence[WorldResult]) -> str:
    """The known world: its transition matrix, and the share of forbidden transitions after each self-correction step."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.2, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 2.1])
        left.imshow(_shown(world.transition), cmap="Blues", vmin=0, vmax=1)
        left.set(title="The chain: who follows whom", xlabel="next state", ylabel="state")
        left.set_xticks(range(world.states))
        left.set_yticks(range(world.states))
        for spine in left.spines.values():
            spine.set_visible(True)
        for result, colour in zip(results, (BLUE, GREY, AMBER, RED), strict=False):
            right.plot([100 * share for share in result.trace], color=colour, label=result.name)
        right.set(
            title="Forbidden transitions while the samples correct themselves",
            xlabel="self-correction steps",
            ylabel="percent",
        )
        right.set_ylim(bottom=0)
        right.grid(axis="y", alpha=0.25)
        right.legend()
    return encode_figure(figure)


def _shown(transition: Float[Tensor, "state state"]) -> Any:
    return transition.sqrt().numpy()
