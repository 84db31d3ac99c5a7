"""noiselab: noise processes and samplers for language models that correct themselves.

Write a process in two methods, `alpha(t)` and `mixing(t)`; noise, ELBO, reverse step and samplers are derived. Time 0
is clean, time 1 is noise. The top level has what the first hour needs; everything else is in its module:
`nl.samplers`, `nl.correctors`, `nl.denoisers`, `nl.likelihood`, and so on. Modules that need transformers are imported
by name (`noiselab.networks`, `noiselab.data`, `noiselab.training`, `noiselab.evaluation`).
"""

from typing import TYPE_CHECKING, Any

from . import (  # noqa: F401 - the modules that users reach as `nl.samplers` and so on
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
from .plotting import plot_process
from .process import InterpolatingProcess, Interpolation, NoiseProcess, TokenDependentProcess
from .processes import gidd, masked, uniform, unigram
from .revisions import Detector, Outcome, Reviser, Revision
from .samplers import AncestralSampler, Infilling, Sampler, WrappedSampler
from .schedules import Schedule, t
from .times import stratified_times
from .tracing import Trace, plot_trace, trace

if TYPE_CHECKING:
    from .pipeline import GiddPipeline, Pipeline

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


def __getattr__(name: str) -> Any:
    # Pipelines need transformers, which takes seconds to import: they are loaded when asked for.
    if name in ("GiddPipeline", "Pipeline"):
        from . import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'noiselab' has no attribute {name!r}")
