"""noiselab: noise processes and samplers for language models that correct themselves.

Write a process in two methods, `alpha(t)` and `mixing(t)`; noise, ELBO, reverse step and samplers are derived. Time 0
is clean, time 1 is noise. Networks, data, training and evaluation live in modules of their own and are imported by name
(`noiselab.denoisers.dit`, `noiselab.data`, `noiselab.training`, `noiselab.evaluation`).
"""

from .categorical import Randomness, choose, uniforms
from .denoisers import (
    Denoiser,
    LeaveOneOut,
    MarkovOracle,
    MinP,
    Posterior,
    ProjectedDenoiser,
    Support,
    Temperature,
    TopP,
    Transform,
)
from .elbo import nelbo, nelbo_by_token, nelbo_dense, nelbo_fused, prior_kl, reconstruction
from .mixing import Absorbing, Mass, Mixing, Uniform, Unigram
from .objectives import Clipped, Dynamic, DynamicV11, mean_over_tokens, objective_loss, stratified_times
from .parametrization import to_leave_one_out, to_posterior
from .process import InterpolatingProcess, Interpolation, NoiseProcess, TokenDependentProcess
from .processes import gidd, masked, uniform
from .samplers import AncestralSampler, Outcome, Revision, Sampler, SelfCorrection, outcome, revisions
from .schedules import Constant, Function, Schedule, Time, t

__version__ = "0.1.0"

__all__ = [
    "Absorbing",
    "AncestralSampler",
    "Clipped",
    "Constant",
    "Denoiser",
    "Dynamic",
    "DynamicV11",
    "Function",
    "InterpolatingProcess",
    "Interpolation",
    "LeaveOneOut",
    "MarkovOracle",
    "Mass",
    "MinP",
    "Mixing",
    "NoiseProcess",
    "Outcome",
    "Posterior",
    "ProjectedDenoiser",
    "Randomness",
    "Revision",
    "Sampler",
    "Schedule",
    "SelfCorrection",
    "Support",
    "Temperature",
    "Time",
    "TokenDependentProcess",
    "TopP",
    "Transform",
    "Uniform",
    "Unigram",
    "choose",
    "gidd",
    "masked",
    "mean_over_tokens",
    "nelbo",
    "nelbo_by_token",
    "nelbo_dense",
    "nelbo_fused",
    "objective_loss",
    "outcome",
    "prior_kl",
    "reconstruction",
    "revisions",
    "stratified_times",
    "t",
    "to_leave_one_out",
    "to_posterior",
    "uniform",
    "uniforms",
]
