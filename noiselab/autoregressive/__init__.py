"""Autoregressive models that take things back: noise for them, its bound, decoding with backspaces and regret."""

from .backspace import RandomMistakes, RandomTokenBackspace, StepBackspace
from .backspace_sampler import BackspaceSampler
from .backtracking import BacktrackingDecoder, Generation
from .detectors import by_backspace_probability, by_denoiser_confidence, by_entropy, by_improbability, by_probe
from .edits import EditProcess
from .kv_cache import DecoderCache, KVCache, NoCache
from .likelihood import Semantics, committed_law, edit_bound, erasing_log_probability, stream_log_probability
from .probes import Probe
from .regret import Detector, RetryUponRegret
from .streams import Reach, Tree, tree_of
from .wrong_tokens import LaterTokens, ModelTokens, UniformTokens, UnigramTokens, Without, WrongTokens

__all__ = [
    "BackspaceSampler",
    "BacktrackingDecoder",
    "DecoderCache",
    "Detector",
    "EditProcess",
    "Generation",
    "KVCache",
    "LaterTokens",
    "ModelTokens",
    "NoCache",
    "Probe",
    "RandomMistakes",
    "RandomTokenBackspace",
    "Reach",
    "RetryUponRegret",
    "Semantics",
    "StepBackspace",
    "Tree",
    "UniformTokens",
    "UnigramTokens",
    "Without",
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
