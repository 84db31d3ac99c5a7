"""Autoregressive models that take things back: noise for them, its bound, decoding with backspaces and regret."""

from .backspace import RandomMistakes, RandomTokenBackspace, StepBackspace
from .decoding import BackspaceSampler
from .detectors import by_backspace_probability, by_denoiser_confidence, by_entropy, by_improbability, by_probe
from .edits import EditProcess
from .likelihood import Semantics, committed_law, edit_bound, erasing_log_probability, stream_log_probability
from .memory import KeysAndValues, Memory, Rereading
from .probes import Probe
from .regret import Detector, RetryUponRegret
from .streams import Reach, Tree, tree_of
from .writing import Writer, Written
from .wrong_tokens import LaterTokens, ModelTokens, UniformTokens, UnigramTokens, Without, WrongTokens

__all__ = [
    "BackspaceSampler",
    "Detector",
    "EditProcess",
    "KeysAndValues",
    "LaterTokens",
    "Memory",
    "ModelTokens",
    "Probe",
    "RandomMistakes",
    "RandomTokenBackspace",
    "Reach",
    "Rereading",
    "RetryUponRegret",
    "Semantics",
    "StepBackspace",
    "Tree",
    "UniformTokens",
    "UnigramTokens",
    "Without",
    "Writer",
    "Written",
    "WrongTokens",
    "by_backspace_probability",
    "by_denoiser_confidence",
    "by_entropy",
    "by_improbability",
    "by_probe",
    "committed_law",
    "edit_bound",
    "erasing_log_probability",
    "stream_log_probability",
    "tree_of",
]
