"""The evaluation of `backspace.py`: bounds, samples, forced errors and recovery, the same for all models."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import noiselab as nl
from noiselab.autoregressive import (
    BackspaceDetector,
    BackspaceSampler,
    ContinuationReviser,
    Proofreader,
    RandomTokenBackspace,
    Semantics,
    SurpriseDetector,
    SurpriseProofreader,
    UniformTokens,
    edit_bound,
)
from noiselab.bench import ForcedErrorRow, ForcedErrors, force_errors, measure_forced_errors, tabulate_forced_errors
from noiselab.correctors import BestGuessReviser, CorrectorReviser, DenoiserDetector, InfillingReviser
from noiselab.evaluation import Interval, generative_perplexity, interval, threshold_at, validation_bound
from noiselab.files import new_file
from noiselab.pipeline import DiffusionPipeline

from .recovery import Recovery, measure_recovery, tabulate_recovery


@dataclass(frozen=True)
class Model:
    """A model to evaluate: autoregressive with or without backspaces, or a diffusion model."""

    arm: str
    network: transformers.LlamaForCausalLM | DiffusionPipeline
    semantics: Semantics = "visible"
    edits: RandomTokenBackspace | None = None
    """edit process for the bound and for decoding; None bans backspaces"""

    @property
    def name(self) -> str:
        """The name of the arm, and whether backspaces are used."""
        if isinstance(self.network, DiffusionPipeline):
            return self.arm
        return f"{self.arm}, {'without' if self.edits is None else 'with'} backspaces"


class Banned(torch.nn.Module):
    """A network whose backspace has probability 0."""

    def __init__(self, network: Any, backspace: int) -> None:
        super().__init__()
        self.network, self.backspace = network, backspace

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Logits, minus infinity for the backspace."""
        logits = self.network(**inputs).logits.clone()
        logits[..., self.backspace] = -torch.inf
        return logits


@dataclass(frozen=True)
class Rows:
    """The rows of the three tables."""

    texts: list[dict[str, Any]]
    forced_errors: list[ForcedErrorRow]
    recovery: dict[str, list[Recovery]]

    def __add__(self, other: "Rows") -> "Rows":
        return Rows(self.texts + other.texts, self.forced_errors + other.forced_errors, self.recovery | other.recovery)


@dataclass(frozen=True)
class Measures:
    """Evaluates models on the same texts with the same random numbers."""

    judge: transformers.LlamaForCausalLM
    held_out: torch.Tensor
    support: torch.Tensor
    """ids of the tokens that occur in texts"""
    start: int
    backspace: int
    per_byte: float
    """tokens per byte of text"""
    seeds: int
    samples: int
    share: float
    streams: int

    @property
    def length(self) -> int:
        """The number of tokens of a text."""
        return self.held_out.shape[1]

    def set(self, number: int) -> torch.Tensor:
        """A set of texts; the set after the last one is used for thresholds."""
        return self.held_out[number * self.samples : (number + 1) * self.samples]

    def damaged(self, number: int) -> ForcedErrors:
        """A set of texts with forced errors."""
        return force_errors(self.set(number), self.support, self.share, generator=torch.Generator().manual_seed(number))

    def rows(self, model: Model) -> Rows:
        """The rows of a model in each table."""
        if isinstance(model.network, DiffusionPipeline):
            return self._of_diffusion(model, model.network)
        edits = model.edits or RandomTokenBackspace(
            self.backspace + 1, self.backspace, 0.0, UniformTokens(self.backspace)
        )
        sampler = BackspaceSampler(
            model.network,
            edits,
            start=self.start,
            semantics=model.semantics,
            deep=False,
            bias=-math.inf if model.edits is None else 0.0,
            budget=4 * self.length,
        )

        def write(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
            written = sampler.sample(self.samples, length=self.length, generator=generator)
            taken = sum(int((z == self.backspace).sum()) for z in written.streams) / self.samples
            reads = sum(written.evaluations) / sum(map(len, written.texts))
            return torch.stack(written.texts), {"taken_back": taken, "evaluations": reads}

        bound = edit_bound(
            model.network if model.edits is not None else Banned(model.network, self.backspace),
            edits,
            list(self.held_out[: self.seeds * self.samples].to(model.network.device)),
            start=self.start,
            semantics=model.semantics,
            deep=False,
            samples=self.streams if model.edits is not None else 1,
            generator=torch.Generator().manual_seed(0),
        )
        nats = bound / self.length
        text = self._texts(model, nats.mean().item(), (nats.std() / len(nats) ** 0.5).item(), write)
        text |= {"exact": model.edits is None, "per_text": nats.tolist()}
        detector: nl.Detector
        reviser: nl.Reviser
        if model.edits is None:
            detector = SurpriseDetector(model.network, start=self.start, backspace=self.backspace)
        else:
            detector = BackspaceDetector(model.network, self.backspace, start=self.start)
        others = self.damaged(self.seeds)
        threshold = threshold_at(detector(others.tokens.to(model.network.device)).cpu(), others.wrong)
        if model.edits is None:
            reviser = SurpriseProofreader(
                model.network, start=self.start, threshold=threshold, backspace=self.backspace
            )
        else:
            reviser = Proofreader(
                model.network, self.backspace, start=self.start, threshold=threshold, semantics=model.semantics
            )
        return Rows(
            [text],
            [self._forced(model.name, detector, reviser)],
            {model.name: self._recovery(ContinuationReviser(sampler, given=self.length // 2))},
        )

    def _of_diffusion(self, model: Model, pipe: DiffusionPipeline) -> Rows:
        part = self.held_out[: self.seeds * self.samples]
        bound = validation_bound(
            pipe.process, pipe.denoiser, part, repeats=8, batch_size=16, generator=torch.Generator().manual_seed(0)
        )
        sampler = nl.AncestralSampler(pipe.process, pipe.denoiser)
        correction = nl.SelfCorrection(pipe.denoiser, process=pipe.process, support=pipe.support)

        def write(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
            counting = nl.denoisers.CallCounter(pipe.denoiser)
            x = nl.AncestralSampler(pipe.process, counting).sample(
                (self.samples, self.length), steps=self.length, generator=generator
            )
            return x, {"evaluations": counting.sequences / x.numel()}

        detector = DenoiserDetector(pipe.denoiser)
        others = self.damaged(self.seeds)
        threshold = threshold_at(detector(others.tokens), others.wrong)
        random_numbers = torch.Generator().manual_seed(0)
        revisers: dict[str, nl.Reviser] = {
            "best guess": BestGuessReviser(pipe.denoiser, threshold=threshold, support=pipe.support),
            "self-correction": CorrectorReviser(correction),
        }
        steps = self.length // 2
        plain, corrected = (
            InfillingReviser(sampler, given=steps, steps=steps, correction=some) for some in (None, correction)
        )
        return Rows(
            [self._texts(model, bound.nelbo, bound.error, write) | {"exact": False}],
            [
                self._forced(f"{model.name}, {name}", detector, reviser, random_numbers)
                for name, reviser in revisers.items()
            ],
            {model.name: self._recovery(plain), f"{model.name}, self-correction": self._recovery(corrected)},
        )

    def _texts(
        self,
        model: Model,
        nats: float,
        error: float,
        write: Callable[[torch.Generator], tuple[torch.Tensor, dict[str, float]]],
    ) -> dict[str, Any]:
        """The bound, and the judge's scores of the samples of each seed."""
        measures = []
        for seed in range(self.seeds):
            tokens, found = write(torch.Generator().manual_seed(seed))
            judged = generative_perplexity(self.judge, tokens, start=self.start)
            measures.append({"judge": judged.nats, "entropy": judged.entropy, "distinct": judged.distinct[1], **found})
        row = {"model": model.name, "nats": nats, "error": error, "bits_per_byte": nats * self.per_byte / math.log(2)}
        return row | {key: asdict(interval([m[key] for m in measures])) for key in measures[0]}

    def _forced(
        self, name: str, detector: nl.Detector, reviser: nl.Reviser, generator: torch.Generator | None = None
    ) -> ForcedErrorRow:
        sets = [self.damaged(number) for number in range(self.seeds)]
        return measure_forced_errors(
            name, sets, detector, reviser, judge=self.judge, start=self.start, generator=generator
        )

    def _recovery(self, reviser: nl.Reviser) -> list[Recovery]:
        half = self.length // 2
        return measure_recovery(
            reviser,
            self.judge,
            self.held_out[: self.seeds * self.samples, :half],
            self.support,
            more=self.length - half,
            start=self.start,
            errors=[k for k in (1, 2, 4, 8) if k < half],
            sets=self.seeds,
        )


COLUMNS = {
    "judge": "judge, nats per token",
    "entropy": "entropy",
    "distinct": "distinct 2-grams",
    "taken_back": "deleted per text",
    "evaluations": "evaluations per token",
}


def tabulate_rows(found: Rows) -> str:
    """The rows as Markdown tables. Likelihoods are of the same texts: the third column is paired by text."""
    lines = [
        f"| model | nats per token | above the first model, paired | bits per byte | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' ---: |' * (3 + len(COLUMNS))}",
    ]
    for row in found.texts:
        sign = "" if row["exact"] else "≤ "
        cells = [
            row["model"],
            f"{sign}{row['nats']:.3f} ± {1.96 * row['error']:.3f}",
            format_difference(row.get("per_text"), found.texts[0].get("per_text")),
            f"{sign}{row['bits_per_byte']:.3f}",
        ]
        lines.append(f"| {' | '.join([*cells, *(format_interval(row.get(key)) for key in COLUMNS)])} |")
    return "\n\n".join(
        ["\n".join(lines), tabulate_forced_errors(found.forced_errors), tabulate_recovery(found.recovery)]
    )


def format_difference(nats: list[float] | None, of_first: list[float] | None) -> str:
    """The mean difference of values of the same texts with its 95 % interval; empty without values, and for equal ones."""
    if nats is None or of_first is None or nats == of_first:
        return ""
    found = interval([own - first for own, first in zip(nats, of_first, strict=True)])
    return f"{found.mean:+.3f} ± {found.half:.3f}"


def format_interval(value: dict[str, float] | None) -> str:
    """A mean with its 95 % interval; empty for None."""
    return "" if value is None else f"{value['mean']:.3f} ± {value['half']:.3f}"


def strip_usage(name: str) -> str:
    """The arm of a model, without the mention of backspaces, which determines its color."""
    return name.removesuffix(", with backspaces").removesuffix(", without backspaces")


def plot_rows(found: Rows, file: Path) -> None:
    """Plot nats against entropy of samples, and corrected against corrupted tokens for forced errors."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    samples, errors = figure.subplots(1, 2)
    points = [(row["model"], Interval(**row["entropy"]), Interval(**row["judge"])) for row in found.texts]
    repairs = [(row.model, row.harmed, row.mended) for row in found.forced_errors]
    for axes, part in ((samples, points), (errors, repairs)):
        arms = list(dict.fromkeys(strip_usage(name) for name, _, _ in part))
        for name, x, y in part:
            marker = "o" if "with backspaces" in name else "s" if "GIDD" in name else "x"
            color = colormaps["tab20"](arms.index(strip_usage(name)) % 20)
            axes.errorbar(x.mean, y.mean, xerr=x.half, yerr=y.half, fmt=marker, color=color, elinewidth=0.5, label=name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    samples.set(xlabel="entropy of a text's tokens, nats", ylabel="nats per token by the judge", title="samples")
    errors.set(xlabel="right tokens made wrong", ylabel="wrong tokens made right", title="forced errors")
    with new_file(file) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
