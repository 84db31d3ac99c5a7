"""What a fuzz of the public edge needs: a valid call of each function, odd values for one of its arguments, and the law."""

import functools
import importlib
import inspect
import math
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin

import torch
from torch import Tensor

import noiselab as nl
from noiselab.evaluation import TextScores

PACKAGES = (
    "noiselab",
    "noiselab.processes",
    "noiselab.process",
    "noiselab.schedules",
    "noiselab.mixing",
    "noiselab.constraints",
    "noiselab.denoisers",
    "noiselab.samplers",
    "noiselab.samplers.wrappers",
    "noiselab.correctors",
    "noiselab.elbo",
    "noiselab.likelihood",
    "noiselab.times",
    "noiselab.parametrization",
    "noiselab.objectives",
    "noiselab.evaluation",
    "noiselab.revisions",
)
INNER = (
    "select",
    "selected_sequences",
    "select_generators",
    "attending_to",
    "uniforms",
    "replace_tokens",
    "noise_on_data",
)
"""Parts of the library that it imports from one package into another."""
LIBRARY = Path(nl.__file__).parent
STATES, MASK, BATCH, LENGTH, STEPS = 4, 3, 2, 3, 4
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-40, 0.5, 1.0, 2.0, 1e300, -1, 0, 1, 2, 7, True, None)
COUNTS = (math.nan, math.inf, -1, 0, 1, 2, 3, 7, 2.5, True, None)


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@functools.lru_cache
def pool(process: nl.NoiseProcess) -> dict[str, Any]:
    """A valid value for each name of an argument."""
    oracle = nl.MarkovOracle(torch.tensor([0.5, 0.3, 0.2]), torch.full((3, 3), 1 / 3), process)
    x = torch.tensor([[0, 1, 2], [2, 2, 0]])
    t, s = torch.tensor([0.7, 0.6]), torch.tensor([0.3, 0.2])
    z = process.corrupt(x, t, generator=random())
    sampler = nl.AncestralSampler(process, oracle)
    return {
        "process": process,
        "denoiser": oracle,
        "inner": oracle,
        "conditional": oracle,
        "unconditional": oracle,
        "sampler": sampler,
        "predictor": sampler,
        "corrector": nl.GibbsCorrector(process, oracle),
        "x": x,
        "z": z,
        "tokens": x,
        "known": torch.tensor([[True, False, False]] * BATCH),
        "rows": torch.tensor([[True, True, False]] * BATCH),
        "t": t,
        "s": s,
        "x_hat": torch.full((BATCH, LENGTH, STATES), 0.0, dtype=torch.float64).index_fill(-1, torch.arange(3), 1 / 3),
        "logits": torch.zeros(BATCH, LENGTH, STATES).index_fill(-1, torch.tensor([MASK]), -30.0),
        "log_scores": torch.zeros(BATCH, LENGTH, STATES),
        "outputs": torch.zeros(BATCH, LENGTH, STATES),
        "generator": random(),
        "times": torch.linspace(1, 0, STEPS + 1, dtype=torch.float64),
        "steps": STEPS,
        "shape": (BATCH, LENGTH),
        "batch": BATCH,
        "length": LENGTH,
        "count": 4,
        "block": 2,
        "nodes": 4,
        "draws": 2,
        "replicates": torch.tensor([1.0, 2.0, 3.0]),
        "vocab_size": STATES,
        "mask_id": MASK,
        "p_uniform": 0.2,
        "p_unigram": 0.2,
        "temperature": 0.7,
        "p": 0.9,
        "k": 2,
        "weight": 1.5,
        "penalty": 1.5,
        "scale": 0.5,
        "power": 2.0,
        "value": 0.5,
        "row": torch.tensor([0.5, 0.3, 0.2, 0.0]),
        "frequencies": torch.tensor([0.5, 0.3, 0.2, 0.0]),
        "support": torch.tensor([True, True, True, False]),
        "initial": torch.tensor([0.5, 0.3, 0.2]),
        "transition": torch.full((3, 3), 1 / 3),
        "token": MASK,
        "ids": [MASK],
        "embeddings": torch.eye(STATES),
        "automaton": nl.constraints.TokenAutomaton(torch.tensor([[0, 0, 0, -1]]), [0]),
        "transitions": torch.tensor([[0, 1, -1, -1], [1, 0, 0, -1]]),
        "accepting": [1],
        "neighbours": 2,
        "score": torch.tensor([0.1, 0.9, 0.4, 0.2]),
        "wrong": torch.tensor([False, True, True, False]),
        "before": x,
        "after": z,
        "truth": x,
        "powers": torch.tensor([1.0, 2.0]),
        "classes": torch.tensor([0, 1, 1, 0]),
        "parent": torch.tensor([4, 4, 5, 5, 0, 0, 0]),
        "betas": torch.tensor([0.1, 0.5, 1.0]),
        "u": torch.tensor([0.1, 0.6]),
        "loss": torch.ones(BATCH, LENGTH),
        "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.bool),
        "counts": torch.tensor([1, 2]),
        "of": 7,
        "low": 0.0,
        "high": 1.0,
        "clock": nl.t,
        "signal": 1 - nl.t,
        "schedule": nl.t,
        "density": 1.0,
        "max_weight": 1.0,
        "gamma": 1.0,
        "noise": nl.Uniform(STATES),
        "samples": x,
        "data": x,
        "z_s": z,
    }


TEXT_SCORES: dict[str, Any] = {
    **{"name": "model", "texts": ["a", "b"], "nats": [1.0, 2.0]},
    **{"tokens": [1, 2], "sizes": [3, 4], "tokenizer": "one"},
}


@functools.lru_cache
def overrides(process: nl.NoiseProcess) -> dict[str, dict[str, Any]]:
    """Values for functions that use a name in another sense; by the last part of their name."""
    values = pool(process)
    oracle, sampler = values["denoiser"], values["sampler"]
    masked = nl.masked(vocab_size=STATES, mask_id=MASK)
    words = nl.MarkovOracle(torch.tensor([0.5, 0.3, 0.2]), torch.full((3, 3), 1 / 3), masked)
    z = torch.tensor([[0, MASK, 2], [MASK, 2, MASK]])
    rows = {"z": values["z"][0], "t": torch.full((LENGTH,), 0.7), "outputs": torch.zeros(LENGTH, STATES)}
    confident = {"process": masked, "denoiser": words}
    return {
        "Uniform": {"tokens": STATES},
        "Infilling": {"inner": sampler},
        "WrappedSampler": {"inner": sampler},
        "Suppress": {"tokens": [MASK]},
        "Coarse": {"parent": torch.tensor([4, 4, 5, 5, 4, 5, 6]), "mask_id": 6},
        "AbsorbingHybrid": {"vocab_size": STATES, "mask_id": MASK, "kept": 1 - nl.t / 2},
        "absorbing_hybrid": {"vocab_size": STATES, "mask_id": MASK, "p_uniform": 0.2},
        "TokenRates": {"powers": torch.tensor([1.0, 2.0, 3.0, 1.0])},
        "adaptive_grid": {"sequences": 2, "resolution": 4},
        "ConfidenceSampler": confident,
        "EntropyBoundedSampler": {**confident, "bound": 0.5},
        "RenoisingSampler": {"bound": 0.5, "stability": 1, "confidence": 0.1},
        "ThresholdSampler": confident,
        "DraftSampler": confident,
        "even_quotas": {"block_size": 8, "steps": 3},
        "DeterministicSampler": confident,
        "JointThresholdSampler": {"edit": None},
        "FirstHittingSampler": confident,
        "GillespieSampler": confident,
        "EarliestTime": {"time": 0.1},
        "ResamplingReviser": {"time": 0.5, "steps": 2},
        "EndToken": {"inner": sampler, "token": 2},
        "every_sequence": {"tokens": 3},
        "weighted_loss": {"weight": None},
        "to_leave_one_out": rows,
        "to_posterior": rows,
        "to_score": rows,
        "check_shapes": {"rows": values["logits"]},
        "low_variance": {"process": masked, "z": z},
        "mask_exactly": {"process": masked},
        "any_order_loss": {"process": masked, "z": z},
        "BlockSampler": {"inner": sampler, "block_size": 2},
        "SlidingBlockSampler": {"inner": sampler, "block_size": 2},
        "EarlyStopping": {"inner": sampler, "patience": 2},
        "Prompted": {"inner": sampler, "prompt": torch.tensor([[0, 1]] * BATCH)},
        "paired_difference": {"new": [True, False], "old": [False, False]},
        "interval": {"values": [1.0, 2.0]},
        "TextScores": TEXT_SCORES,
        "compare_texts": {"first": TextScores(**TEXT_SCORES), "second": TextScores(**TEXT_SCORES)},
        "distinct": {"texts": [[0, 1, 2]], "n": 2},
        "token_entropy": {"texts": [[0, 1, 2]]},
        "select_units": {"score": torch.rand(2, 3), "wrong": torch.rand(2, 3) > 0.5, "unit": "token"},
        "threshold_at": {},
        "self_accuracy": {"correction": nl.SelfCorrection(oracle, process=process), "z": values["x"]},
        "self_correction": {"correction": nl.SelfCorrection(oracle, process=process), "steps": 2},
        "from_log_snr": {"log_snr": 3 - 6 * nl.t},
        "Blend": {"parts": {nl.Uniform(STATES): 0.5, nl.Absorbing(MASK, STATES): 0.5}},
        "Interpolation": {"signal": 1 - nl.t, "noises": {nl.Uniform(STATES): nl.t}},
        "Neighbours": {
            "index": torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]]),
            "weight": torch.full((STATES, 2), 0.5),
        },
        "path_times": {"tau": torch.tensor([0.2, 0.7]), "path": lambda tau: tau ** torch.tensor([1.0, 2.0])},
        "process_from": {"settings": {"family": "masked", "vocab_size": STATES, "mask_id": MASK}},
        "by_enumeration": {"classifier": lambda x, t: torch.zeros(len(x))},
        "first_order": {"classifier": lambda x, t: torch.zeros(len(x))},
        "average": {"draw": lambda: torch.zeros(2), "repeats": 2},
        "require_number": {"name": "value", "value": 0.5},
        "require_count": {"name": "value", "value": 2},
        "require_token": {"name": "value", "token": 2, "states": 3},
        "nelbo_fused": {
            "hidden": torch.zeros(BATCH, LENGTH, 2),
            "projection": torch.zeros(STATES, 2),
            "bias": torch.zeros(STATES),
            "scale": torch.ones(BATCH, LENGTH),
        },
        "list_revisions": {"start": values["x"], "states": [values["z"]], "kind": "edit"},
        "correction_grid_table": {"rows": []},
    }


OBJECTS = {
    "process": (*("marginal", "transition", "posterior", "corrupt", "prior", "renoise", "draw_posterior"),),
    "denoiser": ("__call__", "log_prob", "sample"),
    "sampler": ("step", "walk", "sample", "clean", "grid", "start"),
    "corrector": ("step",),
}
"""Methods that are called on the objects of the pool, by the name of the object."""


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class that can be called, once, and the methods of the objects."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        for name in sorted(names):
            found = getattr(module, name)
            ours = callable(found) and (getattr(found, "__module__", None) or "").startswith("noiselab")
            if not ours or id(found) in seen or name in INNER or name.startswith(("require_", "check_")):
                continue
            seen.add(id(found))
            record = isinstance(found, type) and (issubclass(found, tuple) or is_dataclass(found))
            if record:  # of results, made by the library
                continue
            if not inspect.isabstract(found) and get_origin(found) is None:
                yield f"{found.__module__}.{name}", found
    for owner, methods in OBJECTS.items():
        for method in methods:
            yield f"{owner}.{method}", (owner, method)


def resolve(target: Any, values: Mapping[str, Any]) -> Any:
    return getattr(values[target[0]], target[1]) if isinstance(target, tuple) else target


def signature(function: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a call that have a name."""
    found = inspect.signature(function).parameters
    return {n: p for n, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def valid_call(label: str, target: Any, process: nl.NoiseProcess) -> tuple[Any, dict[str, Any]] | None:
    """The function with a valid value for each argument that must be given; `None` if the pool lacks one."""
    values = pool(process) | overrides(process).get(label.rpartition(".")[2], {})
    function = resolve(target, values)
    given = {}
    for name, parameter in signature(function).items():
        if parameter.default is inspect.Parameter.empty:
            if name not in values:
                return None
            given[name] = values[name]
    if "x" in signature(function) and "length" in signature(function) and "x" not in given and "length" not in given:
        given["x"] = values["x"]
    if "steps" in signature(function) and "times" in signature(function) and "steps" not in given:
        given |= {} if "times" in given else {"steps": values["steps"]}
    if "generator" in signature(function):
        given["generator"] = random()
    return function, given


def odd_values(parameter: inspect.Parameter, value: Any) -> list[Any]:
    """Values of the right kind that are out of place: numbers, shapes, dtypes, names."""
    note = str(parameter.annotation)
    if isinstance(value, Tensor):
        return odd_tensors(value)
    if isinstance(value, tuple):
        return [
            value[::-1],
            value[:1],
            (*value, *value),
            (math.nan, *value[1:]),
            (*value[:-1], math.inf),
            (-1, *value[1:]),
        ]
    if "Literal" in note and "Tensor" not in note:
        return ["no such", ""]
    if "bool" in note.lower() or "Callable" in note or ("Schedule" in note and isinstance(value, nl.Schedule)):
        return []
    if "Sequence" in note or "list" in note:
        several = [value] if isinstance(value, int) else value  # of one or several
        return [] if value is None else [[], several[:1], [*several, *several]]
    if re.search(r"\bfloat\b", note):
        return list(NUMBERS)
    if re.search(r"\bint\b", note) or isinstance(value, int):
        return list(COUNTS)
    return []


def odd_tensors(value: Tensor) -> list[Tensor]:
    odd = [value[..., None], value[:0], value[..., :-1], value[None], torch.cat([value, value]), value.flatten()]
    if value.dim() > 1:
        odd += [value.transpose(0, 1).contiguous(), value[:, :1], value[0]]
    if value.dtype == torch.bool:
        return [*odd, value.long(), value.float()]
    if value.is_floating_point():
        numbers = (math.nan, math.inf, -math.inf, -1e-3, -1.0, 0.0, 1.0, 1.5, 500.0, 1e-40)
        one = [value.clone().view(-1).index_fill(0, torch.tensor(0), n).view_as(value) for n in numbers]
        return [*odd, *one, *(torch.full_like(value, n) for n in numbers), value.half(), value.long(), value > 0]
    ids = (-100, -1, 0, MASK, STATES, 10**6)
    one = [value.clone().view(-1).index_fill(0, torch.tensor(0), n).view_as(value) for n in ids]
    return [*odd, *one, *(torch.full_like(value, n) for n in ids), value.int(), value.float(), value.bool()]


def everything(found: Any, depth: int = 0) -> Iterator[Tensor | float]:
    """The numbers in a result."""
    if isinstance(found, Tensor | float):
        yield found
    elif isinstance(found, torch.nn.Module):
        yield from found.buffers()
    elif is_dataclass(found) and not isinstance(found, type):
        for field in fields(found):
            yield from everything(getattr(found, field.name), depth + 1)
    elif isinstance(found, tuple | list) and depth < 4:
        for part in found:
            yield from everything(part, depth + 1)
    elif inspect.isgenerator(found):
        yield from everything(list(found), depth + 1)


def verdict(function: Any, given: dict[str, Any]) -> str:
    """ "right" for numbers, "refused" for a sentence, otherwise what is wrong."""
    try:
        found = list(everything(function(**given)))
    except ValueError as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if LIBRARY not in Path(last).parents or len(str(error).split()) < 4:
            return f"ValueError of {Path(last).name}: {str(error)[:90]}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:90]}"
    for part in found:
        tensor = torch.as_tensor(part)
        if tensor.is_floating_point() and tensor.isnan().any():
            return "NaN"
        if not tensor.is_floating_point() and tensor.dtype != torch.bool and tensor.numel():
            if tensor.min() < 0 or tensor.max() >= 10**4:
                return f"tokens of {tensor.min().item()} to {tensor.max().item()}"
    return "right"


def finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())
