"""Model cards, generated from a model's settings."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .own import logits_count

if TYPE_CHECKING:
    from .base import Pipeline


def model_card(pipe: "Pipeline") -> str:
    """The text of the README.md that is saved with a model."""
    head = [
        "---",
        "library_name: noiselab",
        "tags:",
        "- noiselab",
        f"- {pipe.tag}",
        "---",
        "",
        "# A noiselab language model",
        "",
    ]
    facts = facts_of(pipe)
    rows = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items()), ""]
    use = [
        "```python",
        "from noiselab.pipeline import Pipeline",
        "",
        'pipe = Pipeline.from_pretrained("this folder or name")',
    ]
    use += ["texts = pipe.generate(num_samples=4)"]
    if hasattr(pipe, "self_correction"):
        use += ["texts = pipe.self_correction(texts)"]
    return "\n".join([*head, *rows, *use, "```", ""])


def facts_of(pipe: "Pipeline") -> dict[str, Any]:
    """The facts about a model, by name."""
    facts: dict[str, Any] = {
        "network": type(pipe.network).__name__,
        "parameters": f"{sum(p.numel() for p in pipe.network.parameters()):,}",
        "vocabulary": f"{logits_count(pipe.network):,} tokens",
        "context": "no limit" if pipe.length is None else f"{pipe.length:,} tokens",
    }
    noise = pipe.settings.noise
    if isinstance(noise, Mapping):
        if "family" in noise:  # a tree is as long as the process that it describes
            facts["noise"] = f"`{json.dumps({k: v for k, v in noise.items() if not isinstance(v, list)})}`"
        facts["process"] = f"`{pipe.settings.process()}`"
        facts["predicts"] = pipe.settings.predicts
    facts["sampled by default"] = f"{pipe.generation.steps} steps, temperature {pipe.generation.temperature:g}"
    if pipe.generation.length is not None:
        facts["sampled by default"] += f", {pipe.generation.length} tokens"
    if (own := pipe.settings.canvas) is not None:
        facts["sampled by default"] = (
            f"canvases of {pipe.network.canvas_length} tokens, each in at most {pipe.generation.steps} steps, entropy bound "
            f"{own.bound:g}, temperature from {own.t_max:g} to {own.t_min:g}"
        )
    return facts
