"""Losses and bounds of a model on the same held-out tokens, and what the adapted model does with one of them."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

import noiselab as nl
from noiselab.bench import force_errors
from noiselab.data.rows import predicted_tokens, stack_rows
from noiselab.denoisers.modes import evaluating
from noiselab.evaluation import validation_bound
from noiselab.evaluation.bound import mean_and_error
from noiselab.networks.outputs import logits_of
from noiselab.pipeline import DiffusionPipeline


class Conditioned(Dataset[dict[str, Tensor]]):
    """Held-out rows whose first token is conditioned on, because an autoregressive model does not predict it."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = dict(self.rows[index])
        labels = row.get("labels", row["input_ids"]).clone()
        labels[: int(row["attention_mask"].int().argmax()) + 1] = -100
        return {**row, "labels": labels}


class Nats(NamedTuple):
    """Nats per token over the scored tokens of held-out rows.

    **Arguments:**

    - `name`: what it is.
    - `mean`, `error`: the mean and its standard error over rows.
    - `each`: nats of each row as a whole; `tokens`: the number of scored tokens of each row.
    - `bound`: whether the mean is an upper bound.
    """

    name: str
    mean: float
    error: float
    each: Tensor
    tokens: Tensor
    bound: bool = True


def measure_causal(name: str, model: nn.Module, rows: Conditioned, *, batch_size: int = 16) -> Nats:
    """-log p of the scored tokens, each given all earlier tokens, by a causal model."""
    sums, counts = [], []
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        for part in DataLoader(rows, batch_size=batch_size, collate_fn=stack_rows):
            batch = {key: value.to(device) for key, value in part.items()}
            seen = {key: batch[key] for key in ("attention_mask",) if key in batch}
            logits = logits_of(model(input_ids=batch["input_ids"], **seen))[:, :-1].float()
            chosen = predicted_tokens(batch)
            nats = F.cross_entropy(logits.mT, batch["input_ids"][:, 1:], reduction="none")
            sums.append(torch.where(chosen, nats, 0).double().sum(-1).cpu())
            counts.append(chosen.sum(-1).cpu())
    each, tokens = torch.cat(sums), torch.cat(counts)
    return Nats(name, *mean_and_error(each, tokens), each, tokens, bound=False)


def measure_bound(
    name: str,
    process: nl.NoiseProcess,
    denoiser: nl.Denoiser,
    rows: Conditioned,
    *,
    repeats: int = 4,
    batch_size: int = 16,
    seed: int = 0,
) -> Nats:
    """The bound on -log p of the scored tokens given the others, with the same times and noise for each model."""
    random = Generator().manual_seed(seed)
    found = validation_bound(process, denoiser, rows, repeats=repeats, batch_size=batch_size, generator=random)
    return Nats(name, found.nelbo, found.error, found.nats, found.lengths)


def tabulate_nats(found: list[Nats]) -> str:
    """The rows as a Markdown table; ± is a standard error over held-out rows."""
    lines = ["| model | nats per token | tokens |", "| --- | ---: | ---: |"]
    for one in found:
        sign = "≤ " if one.bound else ""
        lines.append(f"| {one.name} | {sign}{one.mean:.3f} ± {one.error:.3f} | {int(one.tokens.sum()):,} |")
    return "\n".join(lines)


def show_model(pipe: DiffusionPipeline, rows: Conditioned, *, steps: int = 32, seed: int = 0) -> str:
    """Let the model write the answer of the first row, fill a gap in it and correct errors in it; returns all as text."""
    row = rows[0]
    real = row["attention_mask"].bool()
    x, labels = (row[name][real][None] for name in ("input_ids", "labels"))
    scored = labels != -100
    places = scored[0].nonzero()[:, 0]
    gap = torch.zeros_like(scored)
    gap[0, places[len(places) // 4 : len(places) // 4 + max(1, len(places) // 2)]] = True
    random = Generator().manual_seed(seed)
    sampler = nl.AncestralSampler(pipe.process, pipe.denoiser)

    def fill(missing: Tensor) -> Tensor:
        known, given = (part.to(pipe.device) for part in (~missing, x))
        around = nl.Infilling(sampler, given, known, times="sequence")  # trained with one time per sequence
        return around.sample(x.shape, steps=steps, generator=random).cpu()

    written, filled = fill(scored), fill(gap)
    lines = [("prompt", x[~scored]), ("answer", x[scored]), ("written", written[scored]), ("filled", filled[scored])]
    support = pipe.support.nonzero()[:, 0].cpu()
    if torch.isin(x[scored], support).all() and scored.sum() > 1:
        forced = force_errors(x[scored][None], support, 0.2, generator=random).tokens[0]
        damaged = x.masked_scatter(scored, forced)
        correction = nl.SelfCorrection(pipe.denoiser, process=pipe.process, support=pipe.support)
        moved = damaged.to(pipe.device)
        corrected = correction.correct(moved, rows=scored.to(pipe.device), steps=steps, generator=random).cpu()
        lines += [("damaged", damaged[scored]), ("corrected", corrected[scored])]
    return "\n".join(f"{name + ':':<11}{pipe.tokenizer.decode(tokens)!r}" for name, tokens in lines)
