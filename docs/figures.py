"""The pictures of docs/families, what becomes of a token over time, and those of the guides.

python docs/figures.py            draws them into docs/assets/families and docs/assets
python docs/figures.py --check    draws them nowhere, and says which are missing or left over
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import noiselab as nl
from noiselab import schedules
from noiselab.bench.world import World
from noiselab.elbo import reconstruction
from noiselab.processes import Coarse, Neighbours, TokenRates
from noiselab.tracing.trace import Trace

FOLDER = Path(__file__).parent / "assets" / "families"
CLEAN, MASK, OTHERS = "#3f51b5", "#9e9e9e", ["#ff9800", "#ffb74d", "#ffcc80", "#ffe0b2", "#fff3e0"]
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "noiselab",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def fates(process: nl.NoiseProcess, x: int = 0, mask: int | None = None, names: dict[int, str] | None = None) -> Figure:
    """The law of the noisy token, given the clean one, at every time."""
    figure, axis = plt.subplots(figsize=(5.6, 2.3), layout="constrained")
    stack(axis, process, x, mask, names or {})
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def stack(axis: plt.Axes, process: nl.NoiseProcess, x: int, mask: int | None, names: dict[int, str]) -> None:
    """The law of the noisy token as areas on top of each other."""
    low, high = process.domain
    t = torch.linspace(low, high, 101, dtype=torch.float64)
    law = process.marginal(torch.full((len(t), 1), x), t)[:, 0]
    others = [z for z in range(process.vocab_size) if z not in (x, mask) and law[:, z].max() > 1e-9]
    order = [x, *others, *([] if mask is None or law[:, mask].max() < 1e-9 else [mask])]
    colours = [CLEAN, *(OTHERS[k % len(OTHERS)] for k in range(len(others))), MASK]
    labels = [names.get(z, "the token" if z == x else "mask" if z == mask else f"token {z}") for z in order]
    axis.stackplot(t, law[:, order].T, colors=colours[: len(order)], labels=labels, edgecolor="white", linewidth=0.4)
    axis.set(xlim=(low, high), ylim=(0, 1), xlabel="t", ylabel="probability")


def two_rates() -> Figure:
    """Two tokens of `TokenRates` beside each other."""
    process = TokenRates(torch.tensor([0.5, 3.0, 1.0]), mask_id=2)
    figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.3), layout="constrained", sharey=True)
    for x, axis in enumerate(axes):
        stack(axis, process, x, 2, {})
        axis.set_title(("power 0.5: early", "power 3: late")[x], fontsize=9)
    axes[1].set_ylabel("")
    return figure


def blocks() -> Figure:
    """The times of a sequence, on the way from noise to data."""
    figure, axis = plt.subplots(figsize=(5.6, 2.3), layout="constrained")
    progress = torch.linspace(0.005, 2.995, 300)  # in blocks; within each, t falls
    shifts = (progress.floor() + 1 - progress.frac()) / 3
    times = torch.stack([nl.times.block_times(1, 12, 4, shift=shift)[0][0] for shift in shifts])
    image = axis.imshow(
        times.T.numpy(), aspect="auto", cmap="Greys", interpolation="nearest", vmin=0, vmax=1, extent=(0, 3, 12.5, 0.5)
    )
    axis.set(xlabel="blocks written", ylabel="token", yticks=(1, 4, 8, 12))
    figure.colorbar(image, label="t of the token")
    return figure


def learned() -> Figure:
    """A learned signal beside published ones."""
    torch.manual_seed(0)
    figure, axis = plt.subplots(figsize=(5.6, 2.3), layout="constrained")
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    axis.plot(t, nl.schedules.MonotoneNetwork(8)(t).detach(), color=CLEAN, label="MonotoneNetwork")
    for name, other, style in (
        ("linear", schedules.linear(), "--"),
        ("cosine", schedules.cosine(), ":"),
        ("MD4", schedules.cosine_md4(), "-."),
    ):
        axis.plot(t, other(t), color="#555555", linewidth=1, linestyle=style, label=name)
    axis.set(xlabel="t", ylabel="signal")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def around(n: int) -> Neighbours:
    """Tokens 0 to n - 1 on a circle, and the mask n."""
    tokens = torch.arange(n)
    index = torch.stack([(tokens + 1) % n, (tokens - 1) % n], -1)
    return Neighbours(torch.cat([index, torch.full((1, 2), n)]), torch.ones(n + 1, 2), mask_id=n)


def trace() -> Figure:
    """A sentence on its way from noise, as docs/guides/traces.md makes it."""
    words = ["the", "a", "old", "cat", "dog", "sees", "likes", "and", "."]
    after = [
        "cat dog old", "dog cat old", "cat dog", "sees likes and .", "likes sees . and", "the a", "a the", "the a", "the a"
    ]  # fmt: skip
    chain = torch.full((9, 9), 0.01, dtype=torch.float64)
    for row, others in zip(chain, after, strict=True):
        for k, other in enumerate(others.split()):
            row[words.index(other)] = 0.5**k
    chain /= chain.sum(-1, keepdim=True)
    process = nl.gidd(vocab_size=10, mask_id=9, p_uniform=0.3)
    oracle = nl.MarkovOracle(torch.full((9,), 1 / 9, dtype=torch.float64), chain, process)
    random = torch.Generator().manual_seed(20)
    sampled = Trace.of(nl.AncestralSampler(process, oracle), (4, 16), steps=12, generator=random)
    correction = nl.SelfCorrection(oracle, support=process.support)
    corrected = Trace.of(correction, sampled.end, steps=16, generator=random)
    return (sampled + corrected).plot(decode=[*words, "mask"].__getitem__)


def flat_loss() -> Figure:
    """What a bound and a flat cross-entropy collect over time, in a world of known entropy."""
    world = World.tiny(length=4)
    process = nl.uniform(vocab_size=world.states)
    oracle, x = world.oracle(process), nl.likelihood.every_sequence(world.states, world.length)
    p, times = oracle.log_prob(x).exp(), torch.linspace(0.005, 0.995, 100, dtype=torch.float64)
    bound, flat = [], []
    for t in times:
        time = t.expand(len(x))
        terms = nl.likelihood.expected_bound(process, oracle, x, times=(t[None], torch.ones_like(t)[None]))
        bound.append((p * terms.diffusion).sum())
        joint = torch.stack([p * process.probability(x, z.expand_as(x), time).prod(-1) for z in x], 1)
        logits = oracle(x, time)
        nats = torch.stack([reconstruction(process, logits, one.expand_as(x), x, time).sum(-1) for one in x])
        flat.append((joint * nats).sum())
    # The bound's integrand grows without limit towards t = 0: its area is not that of the points drawn.
    areas = nl.likelihood.expected_bound(process, oracle, x).mean(p).total.item(), torch.stack(flat).mean().item()
    figure, axis = plt.subplots(figsize=(5.6, 2.6), layout="constrained")
    for values, area, name, colour in zip(
        (bound, flat), areas, ("bound", "flat cross-entropy"), (CLEAN, OTHERS[0]), strict=True
    ):
        axis.fill_between(times, torch.stack(values), color=colour, alpha=0.25, linewidth=0)
        axis.plot(times, torch.stack(values), color=colour, label=f"{name}: area {area:.2f}")
    entropy = oracle.entropy(world.length)
    axis.axhline(entropy, color="#555555", linestyle=":", label=f"entropy of the data: {entropy:.2f}")
    axis.set(xlabel="t", ylabel="nats", xlim=(0, 1), ylim=(0, 14))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "masking": lambda: nl.plot_process(nl.masked(vocab_size=3, mask_id=2)),
    "uniform": lambda: nl.plot_process(nl.uniform(vocab_size=4)),
    "hybrid": lambda: nl.plot_process(nl.gidd(vocab_size=5, mask_id=4, p_uniform=0.2)),
    "log_snr": lambda: nl.plot_process(nl.processes.log_snr_hybrid(vocab_size=5, mask_id=4, shift=2)),
    "unigram": lambda: nl.plot_process(
        nl.unigram(torch.tensor([0.1, 0.5, 0.25, 0.15])), names=["the token (10 %)", "50 %", "25 %", "15 %"]
    ),
    "score": lambda: fates(nl.uniform(vocab_size=4, signal=schedules.geometric())),
    "discrete": lambda: fates(nl.processes.d3pm(nl.Uniform(4), nl.processes.cosine_betas(12))),
    "token_rates": two_rates,
    "coarse": lambda: fates(Coarse(torch.tensor([2, 2, 2, 3]), mask_id=3), mask=3, names={2: "its class"}),
    "neighbours": lambda: fates(
        around(5), mask=5, names={1: "next", 4: "previous", 2: "next but one", 3: "last but one"}
    ),
    "blocks": blocks,
    "learned": learned,
}

GUIDES: dict[str, Callable[[], Figure]] = {"trace": trace, "flat_loss": flat_loss}


def draw(name: str) -> str:
    """A figure as SVG text, the same on every run."""
    with mpl.rc_context(STYLE):
        figure, buffer = (FIGURES | GUIDES)[name](), io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return buffer.getvalue()


def main() -> None:
    """Draw all, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="draw nothing; fail if a picture is missing or left over")
    check = parser.parse_args().check
    mpl.use("Agg")
    pictures = {name: draw(name) for name in FIGURES}
    if not check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (FOLDER / f"{name}.svg").write_text(picture, encoding="utf-8")
        for name in GUIDES:
            (FOLDER.parent / f"{name}.svg").write_text(draw(name), encoding="utf-8")
    wrong = {path.stem for path in FOLDER.glob("*.svg")} ^ set(FIGURES)
    wrong |= {name for name in GUIDES if not (FOLDER.parent / f"{name}.svg").exists()}
    if wrong:
        raise SystemExit(f"pictures and docs/figures.py disagree: {', '.join(sorted(wrong))}")


if __name__ == "__main__":
    main()
