"""Self-correcting autoregressive models: edit processes, their bound, decoding with backtracking, detectors, revisers."""

from .backspace import RandomMistakes, RandomTokenBackspace, StepBackspace
from .backspace_sampler import BackspaceSampler
from .backtracking import BacktrackingDecoder, Generation
from .detectors import (
    BackspaceDetector,
    EntropyDetector,
    PooledDetector,
    ProbeDetector,
    StepDetector,
    SurpriseDetector,
)
from .edits import EditProcess
from .kv_cache import DecoderCache, KVCache, NoCache
from .likelihood import Semantics, committed_law, edit_bound, erasing_log_probability, stream_log_probability
from .probes import Probe
from .proofreading import Proofreader, SurpriseProofreader
from .regret import RetryUponRegret
from .revisers import BacktrackingReviser, ContinuationReviser
from .streams import Reach, Tree, tree_of
from .wrong_tokens import LaterTokens, ModelTokens, UniformTokens, UnigramTokens, Without, WrongTokens

__all__ = [
    "BackspaceDetector",
    "BackspaceSampler",
    "BacktrackingDecoder",
    "BacktrackingReviser",
    "ContinuationReviser",
    "DecoderCache",
    "EditProcess",
    "EntropyDetector",
    "Generation",
    "KVCache",
    "LaterTokens",
    "ModelTokens",
    "NoCache",
    "PooledDetector",
    "Probe",
    "ProbeDetector",
    "Proofreader",
    "RandomMistakes",
    "RandomTokenBackspace",
    "Reach",
    "RetryUponRegret",
    "Semantics",
    "StepBackspace",
    "StepDetector",
    "SurpriseDetector",
    "SurpriseProofreader",
    "Tree",
    "UniformTokens",
    "UnigramTokens",
    "Without",
    "WrongTokens",
    "committed_law",
    "edit_bound",
    "erasing_log_probability",
    "stream_log_probability",
    "tree_of",
]
