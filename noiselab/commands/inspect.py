"""`noiselab inspect`: describe a model."""

from dataclasses import dataclass
from typing import Any

from .arguments import Device, JsonFile, Model, OptionalPath, PrintJson


@dataclass(frozen=True)
class Options:
    """Describe a model (network, noise, context), plot its noise, and write one denoising trajectory as a page."""

    model: Model
    """folder of a model, or its name on the Hugging Face hub"""
    plot: OptionalPath = None
    """output file for a plot of the noise, .svg or .png"""
    denoising: OptionalPath = None
    """output file for one denoising trajectory, token by token over time, .html"""
    steps: int = 32
    """of that denoising"""
    seed: int = 0
    """of that denoising"""
    json: PrintJson = False
    out: JsonFile = None
    device: Device = None


def main(options: Options) -> dict[str, Any]:
    """Print the facts about a model, write the requested plots, and return the facts."""
    from ..pipeline import AutoregressivePipeline
    from ..pipeline.card import facts_of
    from .common import PLOTS, check_output, load, report_results

    check_output(options.out)
    check_output(options.plot, PLOTS)
    check_output(options.denoising)
    pipe = load(options.model, options.device)
    facts = facts_of(pipe)
    if (options.plot or options.denoising) and isinstance(pipe, AutoregressivePipeline):
        raise ValueError(f"plot and denoising require a diffusion model; {options.model!r} is autoregressive")
    if options.plot is not None:
        from ..files import new_file
        from ..plotting import plot_process

        with new_file(options.plot) as temporary:
            plot_process(pipe.process).savefig(temporary, dpi=150)  # type: ignore[arg-type]
    if options.denoising is not None:
        trace = _trace(pipe, options)
        options.denoising.parent.mkdir(parents=True, exist_ok=True)
        trace.html(options.denoising, decode=lambda token: pipe.tokenizer.decode([token]))
    width = max(map(len, facts))
    text = "\n".join(f"{name:{width}}  {str(value).strip('`')}" for name, value in facts.items())
    return report_results("inspect", options, facts, text)


def _trace(pipe: Any, options: Options) -> Any:
    """One denoising trajectory: of a block-diffusion model that of one canvas, by its own sampler."""
    import torch

    from .. import AncestralSampler, Trace
    from ..networks.lengths import generated_length
    from ..pipeline import CanvasPipeline

    settings: dict[str, Any] = {"steps": options.steps, "generator": torch.Generator().manual_seed(options.seed)}
    if isinstance(pipe, CanvasPipeline):
        start = torch.tensor([pipe.opening], dtype=torch.long)
        return Trace.of(pipe.sampler_after(start), (1, start.shape[1] + pipe.canvas_length), **settings)
    sampler = AncestralSampler(pipe.process, pipe.denoiser)
    return Trace.of(sampler, (1, generated_length(None, pipe.length)), **settings)
