"""noiselab: noise processes and samplers for language models that correct themselves.

Write a process in two methods, `alpha(t)` and `mixing(t)`; noise, ELBO, reverse step and samplers are derived. Time 0
is clean, time 1 is noise. The top level has what the first hour needs; everything else is in its module:
`nl.samplers`, `nl.correctors`, `nl.denoisers`, `nl.likelihood`, and so on. Modules that need transformers are imported
by name (`noiselab.networks`, `noiselab.data`, `noiselab.training`, `noiselab.evaluation`).

Modules and names of the top level are imported when they are first used, so that `noiselab --help` is quick.
"""

import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (  # noqa: F401 - the modules that users reach as `nl.samplers` and so on
        categorical,
        correctors,
        denoisers,
        elbo,
        likelihood,
        mixing,
        objectives,
        parametrization,
        process,
        processes,
        revisions,
        samplers,
        schedules,
        times,
        tracing,
    )
    from .correctors import Corrector, GibbsCorrector, PredictorCorrector, SelfCorrection
    from .denoisers import ClassifierFreeGuidance, Denoiser, MarkovOracle, Temperature, TopP, Transform, WrappedDenoiser
    from .elbo import nelbo
    from .likelihood import continuous_bound, discrete_bound
    from .mixing import Absorbing, Blend, Mixing, Uniform, Unigram
    from .pipeline import GiddPipeline, Pipeline
    from .plotting import plot_process
    from .process import InterpolatingProcess, Interpolation, NoiseProcess, TokenDependentProcess
    from .processes import gidd, masked, uniform, unigram  # type: ignore[no-redef] # they are modules, too
    from .revisions import Detector, Outcome, Reviser, Revision
    from .samplers import AncestralSampler, Infilling, Sampler, WrappedSampler
    from .schedules import Schedule, t
    from .times import stratified_times
    from .tracing import Trace, plot_trace, trace

__version__ = "0.1.0"

__all__ = [
    "Absorbing",
    "AncestralSampler",
    "Blend",
    "ClassifierFreeGuidance",
    "Corrector",
    "Denoiser",
    "Detector",
    "GibbsCorrector",
    "GiddPipeline",
    "Infilling",
    "InterpolatingProcess",
    "Interpolation",
    "MarkovOracle",
    "Mixing",
    "NoiseProcess",
    "Outcome",
    "Pipeline",
    "PredictorCorrector",
    "Reviser",
    "Revision",
    "Sampler",
    "Schedule",
    "SelfCorrection",
    "Temperature",
    "TokenDependentProcess",
    "TopP",
    "Trace",
    "Transform",
    "Uniform",
    "Unigram",
    "WrappedDenoiser",
    "WrappedSampler",
    "continuous_bound",
    "discrete_bound",
    "gidd",
    "masked",
    "nelbo",
    "plot_process",
    "plot_trace",
    "stratified_times",
    "t",
    "trace",
    "uniform",
    "unigram",
]


_NAMES_OF = {
    "correctors": "Corrector GibbsCorrector PredictorCorrector SelfCorrection",
    "denoisers": "ClassifierFreeGuidance Denoiser MarkovOracle Temperature TopP Transform WrappedDenoiser",
    "elbo": "nelbo",
    "likelihood": "continuous_bound discrete_bound",
    "mixing": "Absorbing Blend Mixing Uniform Unigram",
    "pipeline": "GiddPipeline Pipeline",
    "plotting": "plot_process",
    "process": "InterpolatingProcess Interpolation NoiseProcess TokenDependentProcess",
    "processes": "gidd masked uniform unigram",
    "revisions": "Detector Outcome Reviser Revision",
    "samplers": "AncestralSampler Infilling Sampler WrappedSampler",
    "schedules": "Schedule t",
    "times": "stratified_times",
    "tracing": "Trace plot_trace trace",
}
_HOME = {name: module for module, names in _NAMES_OF.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif not name.startswith("_") and importlib.util.find_spec(f".{name}", __name__):
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'noiselab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *(module.name for module in pkgutil.iter_modules(__path__))})
