"""Plotting noise processes."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .numerics import require_count, require_token
from .process import InterpolatingProcess, NoiseProcess
from .typing import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): distinguishable with any colour vision, and in greyscale by their order.
KEPT, ITSELF, OFF = "#0072b2", "#9ecae1", "#444444"
COLOURS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#999999")
MAX_GROUPS = 8  # groups that one can tell apart


class Group(NamedTuple):
    """A group of tokens, or a component of a mixture of noises, drawn as one; each tensor is [points], for a clean
    token x.
    """

    name: str
    colour: str
    noise: Tensor  # probability of the group under the noise
    elsewhere: Tensor  # the same, excluding x itself
    rate: Tensor | None  # jump rate into the group


def plot_process(
    process: NoiseProcess, *, token: int | None = None, names: Sequence[str] | None = None, points: int = 256
) -> "Figure":
    r"""Plot a process over time for one clean token x.

    What becomes of x, $q_t(\cdot \mid x)$, stacked: untouched, itself again by noise, and the rest by parts of a composed
    process, by the tokens that it most probably becomes where the noise depends on it, else by tokens of the support and
    off it. For an `InterpolatingProcess` also the signal and the noise, the
    rates of jumps, and the weight that a token has in the bound, for each kind of noisy token.

    **Arguments:**

    - `token`: the clean token x; by default the first token of the support.
    - `names`: names of all tokens, at most 8; each token is then drawn separately.
    - `points`: the number of times inside the domain, at least 2.

    **Returns:** a `matplotlib.figure.Figure`, 8 inches wide; `figure.savefig("process.svg")` writes it. No global state
    of matplotlib is used or changed.

    **Raises:** `ValueError` if the token is outside the support, or the number of names does not match or exceeds 8.

    **Example:**

    ```python
    import noiselab as nl

    figure = nl.plot_process(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2))
    assert len(figure.axes) == 4
    ```
    """
    from matplotlib.figure import Figure

    data = process.data_tokens().nonzero()[:, 0].tolist()
    x = data[0] if token is None else require_token("token", token, process.vocab_size)
    if x not in data:
        raise ValueError(f"token must be in the support of the process, because it is a clean token; got {x}")
    if names is not None and (len(names) != process.vocab_size or len(names) > MAX_GROUPS):
        raise ValueError(
            f"names must be {process.vocab_size}, one for each token, and at most {MAX_GROUPS}; got {len(names)}"
        )
    points = require_count("points", points, 2)
    low, high = process.domain
    u = torch.linspace(0.002, 0.998, points, dtype=torch.float64, device=process.device)
    t = low + (high - low) * torch.sin(torch.pi * u / 2) ** 2
    factored = process if isinstance(process, InterpolatingProcess) else None
    figure = Figure(figsize=(8, 3.6 if factored is None else 6), layout="constrained")
    axes = [figure.subplots()] if factored is None else figure.subplots(2, 2).flatten()
    with torch.no_grad():
        if factored is None:
            kept, itself, groups = _groups_of_tokens(process, x, names, t)
        else:
            kept, itself, groups = _groups(factored, x, names, t)
        _draw_shares(axes[0], t, kept, itself, groups, f"token {x}" if names is None else names[x])
        if factored is not None:
            _draw_signal(axes[1], t, kept, groups)
            _draw_rates(axes[2], t, groups)
            _draw_weights(axes[3], factored, x, names, t)
    for axis in axes:
        axis.set(xlabel="time t", xlim=(low, high))
        axis.set_title(axis.get_title(), fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(textwrap.wrap(str(process), 100)[:3]), fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = len(labels) if sum(map(len, labels)) < 70 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    return figure


def _groups(
    process: InterpolatingProcess, x: int, names: Sequence[str] | None, t: Tensor
) -> tuple[Grid, Grid, list[Group]]:
    """How probably x is untouched, how probably it is itself by noise, and what else it is; all on the CPU."""
    xs = torch.full((len(t), 1), x, device=t.device)
    kept = process.alpha(t).double()
    mass = process.noise(t[:, None])
    if names is None and len(mass.parts) > 1:
        groups, itself = _by_part(process, xs, t), mass.at(xs)[:, 0]
        return kept.cpu(), itself.expand(len(t)).cpu(), groups
    noise = mass.dense()[:, 0]
    every = torch.arange(process.vocab_size, device=t.device).expand(len(t), -1)
    rate = process.rate_into(every, t).expand(len(t), -1)
    return kept.cpu(), noise[:, x].cpu(), _grouped(_members(process, x, names), x, noise, rate)


def _groups_of_tokens(
    process: NoiseProcess, x: int, names: Sequence[str] | None, t: Tensor
) -> tuple[Grid, Grid, list[Group]]:
    """The same of any process: the tokens that x most probably becomes, without their rates."""
    xs = torch.full((len(t), 1), x, device=t.device)
    kept = process.untouched(xs, t)[:, 0]
    noise = process.marginal(xs, t)[:, 0]
    noise = noise - kept[:, None] * torch.nn.functional.one_hot(xs[:, 0], noise.shape[1])
    members = _group_most_likely(noise, x) if names is None else _members(process, x, names)
    return kept.cpu(), noise[:, x].cpu(), _grouped(members, x, noise, None)


def _grouped(members: list[tuple[str, str, list[int]]], x: int, noise: Tensor, rate: Tensor | None) -> list[Group]:
    groups = []
    for name, colour, these in members:
        elsewhere = [v for v in these if v != x]
        into = None if rate is None else rate[:, these].sum(-1).cpu()
        groups.append(Group(name, colour, noise[:, these].sum(-1).cpu(), noise[:, elsewhere].sum(-1).cpu(), into))
    return groups


def _members(process: NoiseProcess, x: int, names: Sequence[str] | None) -> list[tuple[str, str, list[int]]]:
    """Return (name, colour, tokens) of each group of tokens."""
    data = process.data_tokens().cpu()
    on, off = data.nonzero()[:, 0].tolist(), (~data).nonzero()[:, 0].tolist()
    if names is None:
        one = "the mask" if len(off) == 1 else "tokens outside the support"
        return [("another token", COLOURS[0], on), *([(one, OFF, off)] if off else [])]
    colours = iter(COLOURS * 2)
    return [(name, ITSELF if v == x else next(colours) if data[v] else OFF, [v]) for v, name in enumerate(names)]


def _group_most_likely(noise: Tensor, x: int) -> list[tuple[str, str, list[int]]]:
    """Return the most likely noisy tokens of x as separate groups, and all others as one group."""
    peak = noise.amax(0).index_fill(0, torch.tensor(x, device=noise.device), 0)
    order = peak.argsort(descending=True).tolist()
    shown = [v for v in order[:5] if peak[v] > 0.01]
    rest = [v for v in order if v not in shown and v != x]
    last = int(noise[-1].argmax())  # the token at the end of time, usually a mask
    colours = iter(COLOURS)
    single = [(f"token {v}", OFF if v == last else next(colours), [v]) for v in sorted(shown)]
    return [*single, ("other tokens", "#cccccc", rest)] if rest else single


def _by_part(process: InterpolatingProcess, xs: Tensor, t: Tensor) -> list[Group]:
    def shares(t: Tensor) -> tuple[Tensor, Tensor]:
        return process.alpha(t).double(), process.noise(t).weights

    (alpha, weights), (alpha_slope, slopes), *_ = torch.func.jvp(shares, (t[:, None],), (torch.ones_like(t[:, None]),))
    rates = slopes - (alpha_slope / alpha)[..., None] * weights
    groups, colours = [], iter(COLOURS * len(process.noise(t[:, None]).parts))
    for k, part in enumerate(process.noise(t[:, None]).parts):
        weight, share = weights[:, 0, k], part.at(xs, t[:, None]).expand(xs.shape)[:, 0]
        support = process.data_tokens(t.device)
        never_data = part.probs(t[:1, None])[0, 0][support].sum() == 0
        colour = OFF if never_data else next(colours)
        groups.append(Group(f"{part}", colour, weight.cpu(), (weight * (1 - share)).cpu(), rates[:, 0, k].cpu()))
    return groups


def _draw_shares(axis: "Axes", t: Tensor, kept: Tensor, itself: Tensor, groups: list[Group], x: str) -> None:
    layers: list[tuple[str, str, Tensor]] = [("untouched", KEPT, kept)]
    if itself.max() > 1e-12:
        layers.append(("itself again, by noise", ITSELF, itself))
    layers += [(group.name, group.colour, group.elsewhere) for group in groups if group.elsewhere.max() > 1e-12]
    names, colours, values = zip(*layers, strict=True)
    axis.stackplot(
        t.cpu().numpy(), *(value.numpy() for value in values), labels=names, colors=colours, edgecolor="white", lw=0.6
    )
    axis.set(title=f"what becomes of {x}", ylabel="probability", ylim=(0, 1))


def _draw_signal(axis: "Axes", t: Tensor, kept: Tensor, groups: list[Group]) -> None:
    axis.plot(t.cpu(), kept, color=KEPT, lw=2, label="signal")
    for group in groups:
        if group.noise.max() > 1e-12:
            axis.plot(t.cpu(), group.noise, color=group.colour, lw=2)
    axis.annotate(r"$\alpha_t$", (float(t[len(t) // 4]), float(kept[len(t) // 4])), xytext=(5, 4), color=KEPT,
                  textcoords="offset points")  # fmt: skip
    axis.set(title=r"signal $\alpha_t$ and noise", ylabel="share", ylim=(0, 1.02))


def _draw_rates(axis: "Axes", t: Tensor, groups: list[Group]) -> None:
    for group in groups:
        if group.rate is not None:
            axis.plot(t.cpu(), _finite(group.rate), color=group.colour, lw=2)
    axis.set(title="rate of jumps into each", ylabel="jumps per unit of time", yscale="log")
    _limit(axis)


def _draw_weights(axis: "Axes", process: InterpolatingProcess, x: int, names: Sequence[str] | None, t: Tensor) -> None:
    every, middle = torch.arange(process.vocab_size, device=t.device), t[len(t) // 2].view(1)
    reached = process.rate_into(every[None], middle).expand(1, len(every))[0] > 0
    kinds: list[tuple[str, str, str, int]] = []
    for k, (name, colour, members) in enumerate(_members(process, x, names)):
        others = [v for v in members if v != x and reached[v]]
        if others:  # the first token represents its group
            label = f"{name}, {others[0]}" if names is None else name
            kinds.append((label, colour, "--" if k % 2 == 0 else ":", others[0]))
    kinds.insert(0, ("itself", KEPT, "-", x))
    clean = torch.full((len(t), 1), x, device=t.device)
    for name, colour, style, z in kinds:
        weight = process.elbo_weight(clean, torch.full_like(clean, z), t)[:, 0]
        if (weight > 0).any():
            axis.plot(t.cpu(), _finite(weight.cpu()), style, color=colour, lw=2, label=name)
    axis.set(title="weight in the bound, by noisy token", ylabel="per unit of time", yscale="log")
    axis.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
    _limit(axis)


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite() & (values > 0), values, torch.nan)


def _limit(axis: "Axes") -> None:
    """Set the axis limits from times away from the ends, where rates may diverge or vanish."""
    low, high = [], []
    for line in axis.get_lines():
        values: Any = torch.as_tensor(line.get_ydata())
        inside = values[len(values) // 12 : -len(values) // 12]
        inside = inside[inside.isfinite()]
        if len(inside):
            low.append(float(inside.min()))
            high.append(float(inside.max()))
    if low:
        axis.set_ylim(min(low) / 3, max(high) * 3)
