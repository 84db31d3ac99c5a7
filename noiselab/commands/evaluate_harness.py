"""`noiselab evaluate harness`: tasks of lm-evaluation-harness."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .arguments import Device, JsonFile, Model, OptionalFloat, OptionalInt, OptionalPath, OptionalText, PrintJson


@dataclass(frozen=True)
class Options:
    """Tasks of EleutherAI's lm-evaluation-harness (pip install noiselab[harness]) under a diffusion model.

    Example: noiselab evaluate harness runs/demo/final --tasks arc_easy piqa --limit 100 --out found.json
    """

    model: Model
    """folder of a diffusion model, or its name on the Hugging Face hub"""
    tasks: tuple[str, ...]
    """names of tasks, groups or tags"""
    include: OptionalPath = None
    """folder with .yaml files of tasks of your own"""
    shots: OptionalInt = None
    """number of solved examples before each question; by default that of the task"""
    limit: OptionalFloat = None
    """number of questions of each task, or below 1 their share; by default all"""
    chat: bool = False
    """write questions with the chat template of the model's tokenizer"""
    system: OptionalText = None
    """instruction before the questions"""
    nodes: int = 16
    """fixed times of the bound, one evaluation each"""
    draws: int = 8
    """noise samples at each time"""
    steps: OptionalInt = None
    """network evaluations per generated text; by default that of the model"""
    batch_size: int = 8
    """requests per batch; log-likelihoods evaluate `draws` sequences for each"""
    seed: int = 0
    """seed of the noise"""
    json: PrintJson = False
    out: JsonFile = None
    csv: OptionalPath = None
    """output file for CSV, one row for each task and metric"""
    device: Device = None


def main(options: Options) -> dict[str, Any]:
    """Evaluate, print and return the results."""
    from ..pipeline import DiffusionPipeline
    from .common import check_outputs, load, report_results

    try:
        from ..pipeline.harness import evaluate
    except ImportError as error:
        raise ValueError(
            f"evaluate harness needs lm-evaluation-harness: pip install noiselab[harness] ({error})"
        ) from error

    check_outputs(options)
    check_options(options)
    manager = known_tasks(options)
    pipe = load(options.model, options.device)
    if not isinstance(pipe, DiffusionPipeline):
        raise ValueError(
            f"model must be a diffusion model; {options.model!r} is one for {type(pipe).__name__} (for an autoregressive "
            f"model: lm_eval --model hf --model_args pretrained={options.model})"
        )
    names = ("nodes", "draws", "steps", "batch_size", "seed", "limit")
    found = evaluate(
        pipe,
        options.tasks,
        **{name: getattr(options, name) for name in names},
        num_fewshot=options.shots,
        system_instruction=options.system,
        apply_chat_template=options.chat,
        task_manager=manager,
        show_progress=not options.json,
    )
    rows = list(metrics(found))
    record = {"versions": dict(found.get("versions", {})), "error_is": "standard error over questions"}
    lines = [_line(row) for row in rows]
    return report_results("evaluate harness", options, record, "\n".join(lines), None, rows)


def check_options(options: Options) -> None:
    """Check the numbers and the folder of tasks.

    **Raises:** `ValueError` for one that is out of range, or a folder that is none.
    """
    from ..numerics import require_count

    for name, least in (("nodes", 1), ("draws", 1), ("batch_size", 1), ("shots", 0), ("steps", 1), ("seed", 0)):
        if (value := getattr(options, name)) is not None:
            require_count(name.replace("_", "-"), value, least)
    if options.limit is not None and not 0 < options.limit < float("inf"):
        raise ValueError(f"limit must be positive; got {options.limit}")
    if options.include is not None and not options.include.is_dir():
        raise ValueError(f"include must be a folder with .yaml files of tasks; got {str(options.include)!r}")


def known_tasks(options: Options) -> Any:
    """The harness's index of tasks: of the folder alone if it has all of them, because the whole index takes seconds.

    **Raises:** `ValueError` for a task that is in none.
    """
    from lm_eval.tasks import TaskManager

    own = None if options.include is None else str(options.include)
    unknown = list(options.tasks)
    for defaults in (False, True) if own else (True,):
        manager = TaskManager(include_path=own, include_defaults=defaults)
        unknown = [name for name in options.tasks if not manager.match_tasks([name])]
        if options.tasks and not unknown:
            return manager
    raise ValueError(
        f"tasks must be names that the harness knows; got {', '.join(unknown) or 'none'} (`lm-eval ls tasks` lists them; "
        "--include adds a folder of your own)"
    )


def metrics(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each task and metric of the results of `lm_eval.simple_evaluate`."""
    for task, values in found["results"].items():
        for name, value in values.items():
            metric, _, kind = name.partition(",")
            if not kind or metric.endswith("_stderr") or isinstance(value, str):
                continue
            error = values.get(f"{metric}_stderr,{kind}")
            count = found.get("n-samples", {}).get(task, {}).get("effective")
            yield {
                "task": task,
                "metric": metric,
                "filter": kind,
                "value": float(value),
                "standard_error": float(error) if isinstance(error, float | int) else None,
                "questions": count,
                "shots": found.get("n-shot", {}).get(task),
            }


def _line(row: Mapping[str, Any]) -> str:
    from .common import with_interval

    error = float("nan") if row["standard_error"] is None else row["standard_error"]
    name = row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"
    return f"{row['task']}: {name} {with_interval(row['value'], error, 'of 1' if 'acc' in name else '', 'questions')}"
