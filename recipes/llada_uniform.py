"""Can a model that was trained on masks alone use uniform noise without further training? Detection and correction of wrong tokens.

    python recipes/demo.py                                           # a GIDD+ model with uniform noise, in runs/demo
    python recipes/gidd_plus.py demo --p-uniform 0 --tokenizer runs/demo/diffusion/tokenizer --output runs/masks   # the same, masks alone
    python recipes/llada_uniform.py --model runs/masks/final/ema     # a few minutes on two cores
    python recipes/llada_uniform.py --model GSAI-ML/LLaDA-8B-Base --hybrid '' --texts my.txt      # needs the internet and a GPU

A share of the tokens of held-out texts is replaced by random tokens. The probability of each token is computed in two ways: "as it is",
with all tokens visible, which a mask-only model was never trained for; and "one by one", with each token masked while it is
predicted (`noiselab.denoisers.one_by_one`). The probabilities give detection (area under the ROC curve, recall at 5 % false alarms) and,
with `noiselab.SelfCorrection`, the shares of wrong tokens made right and of right tokens made wrong.
"""  # noqa: E501

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import noiselab as nl
from noiselab.data import pack
from noiselab.denoisers.one_by_one import OneByOne
from noiselab.devices import select_device
from noiselab.evaluation import measure_detection
from noiselab.evaluation.intervals import interval
from noiselab.files import write_json
from noiselab.pipeline import DiffusionPipeline
from noiselab.training.flags import parse_flags
from noiselab.training.options import Data, run_recipe
from noiselab.training.texts import corpora


@dataclass(frozen=True)
class Options:
    """Can a mask-only model use uniform noise without further training?"""

    model: str = "runs/masked_demo/final/ema"
    """a mask-only model: a folder, or a name on the Hugging Face hub"""
    hybrid: str = "runs/demo/diffusion/final/ema"
    """a GIDD model to compare with; empty for none"""
    texts: str = "library:prose"
    """held-out texts: library:prose, or a file, folder or glob pattern"""
    out: Path = Path("runs/llada_uniform.json")
    """file of the results"""
    shares: tuple[float, ...] = (0.05, 0.2)
    """shares of tokens that are replaced"""
    sequences: int = 16
    """number of sequences per seed"""
    length: int | None = None
    """number of tokens in a sequence; by default the context of the models, at most 64"""
    seeds: int = 5
    """number of sets of sequences and of wrong tokens, at least 2"""
    passes: int = 8
    """network evaluations per prediction when tokens are masked one by one"""
    time: float = 0.01
    """time input of the networks"""
    temperature: float = 0.1
    """temperature of self-correction"""


def main(options: Options) -> list[dict[str, Any]]:
    """Evaluate, print a table, and write it to a file; returns its rows."""
    if options.seeds < 2:
        raise ValueError(f"there must be at least two seeds, for an interval; got {options.seeds}")
    transformers.logging.set_verbosity_error()
    device = select_device()
    pipes = {"masks": DiffusionPipeline.from_pretrained(options.model).to(device)}
    if options.hybrid:
        pipes["hybrid"] = DiffusionPipeline.from_pretrained(options.hybrid).to(device)
    written: list[dict[str, Any]] = []
    for name, pipe in pipes.items():
        x = load_sequences(pipe, options)
        mask = mask_of(pipe, name)
        ways = {"as it is": nl.denoisers.CallCounter(pipe.denoiser)}
        ways["one by one"] = nl.denoisers.CallCounter(OneByOne(pipe.denoiser, mask, options.passes))
        for share in options.shares:
            for way, denoiser in ways.items():
                found = [measure_set(pipe, denoiser, x, share, seed, options) for seed in range(options.seeds)]
                each = options.passes if way == "one by one" else 1
                row = {"model": name, "way": way, "share": share}
                row |= {key: asdict(interval([f[key] for f in found])) for key in found[0] if key != "evaluations"}
                row["evaluations"] = each * sum(f["evaluations"] for f in found) / options.seeds
                written.append(row)
                print(format_row(row), flush=True)
            write_json(options.out, {"rows": written})
    print("\n" + "\n".join([*HEAD, *map(format_row, written)]))
    return written


def mask_of(pipe: DiffusionPipeline, name: str) -> int:
    """The mask token of a model: the only token that its noise makes and data lack, or of several that of the tokenizer.

    Read from the process, because noise that was composed has no `mask_id` among its settings.

    **Raises:** `ValueError` if the noise makes no such token, or several and none is the tokenizer's.
    """
    tokens = torch.arange(pipe.process.vocab_size, device=pipe.process.device)
    time = torch.full((1,), sum(pipe.process.domain) / 2, dtype=torch.float64, device=tokens.device)
    made = pipe.process.is_possible(tokens[None], time)[0] & ~pipe.process.data_tokens(tokens.device)
    found = made.nonzero()[:, 0].tolist()
    if len(found) == 1:
        return int(found[0])
    if pipe.tokenizer.mask_token_id in found:
        return int(pipe.tokenizer.mask_token_id)
    raise ValueError(
        f"the noise of the model {name!r} must have a mask token, with which tokens are masked one by one; {pipe.process} "
        f"makes the tokens {found[:8]}, which texts lack"
    )


def load_sequences(pipe: DiffusionPipeline, options: Options) -> torch.Tensor:
    """Load held-out sequences for all seeds."""
    wanted = options.sequences * options.seeds
    held_out = corpora(Data(corpus=options.texts, validation=0.05))[1]
    x = pack(held_out, pipe.tokenizer, options.length or min(64, pipe.length or 64), keep_partial=False).tokens.long()
    if len(x) < wanted:
        raise ValueError(f"the held-out texts must fill {wanted} sequences of {x.shape[1]} tokens; they fill {len(x)}")
    return x[torch.linspace(0, len(x) - 1, wanted).long()].to(pipe.device)


def measure_set(
    pipe: DiffusionPipeline,
    denoiser: nl.denoisers.CallCounter,
    x: torch.Tensor,
    share: float,
    seed: int,
    options: Options,
) -> dict[str, float]:
    """Detection and correction for one set of sequences."""
    truth = x[seed * options.sequences : (seed + 1) * options.sequences]
    random = torch.Generator().manual_seed(seed)
    tokens = pipe.support.nonzero()[:, 0].cpu()
    # Another text token: shift by a random offset in the list of all text tokens.
    place = torch.searchsorted(tokens, truth.cpu())
    other = tokens[(place + torch.randint(1, len(tokens), truth.shape, generator=random)) % len(tokens)].to(truth)
    wrong = (torch.rand(truth.shape, generator=random) < share).to(truth.device)
    damaged = torch.where(wrong, other, truth)
    with torch.no_grad():
        t = torch.full((len(truth),), options.time, dtype=torch.float64, device=truth.device)
        believed = denoiser(damaged, t).double().softmax(-1).gather(-1, damaged[..., None])[..., 0]
        correction = nl.SelfCorrection(
            denoiser, time=options.time, temperature=options.temperature, support=pipe.support
        )
        denoiser.reset()
        repaired = correction.correct(damaged, steps=max(4, math.ceil(1.5 * share * truth.shape[1])), generator=random)
    after = nl.revisions.count_outcome(damaged, repaired, truth)
    area, recall = measure_detection(1 - believed, wrong)
    return {
        "area": area,
        "recall": recall,
        "put_right": after.wrong_to_right / max(1, after.wrong_before),
        "spoiled": after.right_to_wrong / max(1, after.right_before),
        "net": after.net_gain / max(1, after.wrong_before),
        "evaluations": denoiser.sequences / len(truth),
    }


HEAD = [
    "| model | asked | wrong tokens | area under ROC | found at 5 % false alarms | put right | spoiled | net | evaluations |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
]


def format_row(row: dict[str, Any]) -> str:
    """A row of the table."""

    def cell(key: str) -> str:
        return f"{row[key]['mean']:.3f} ± {row[key]['half']:.3f}"

    cells = [
        row["model"],
        row["way"],
        f"{row['share']:.0%}",
        *map(cell, ("area", "recall", "put_right", "spoiled", "net")),
    ]
    return f"| {' | '.join([*cells, format(row['evaluations'], '.0f')])} |"


if __name__ == "__main__":
    run_recipe(lambda: main(parse_flags(Options)))
