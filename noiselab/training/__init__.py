"""Training on one device or many: losses as plain functions, exact resumption, averaged and sharded weights."""

from ..files import new_folder
from .adapting import Adapted, adapt
from .callbacks import Callback
from .checkpoints import intact, last_intact, seal
from .checks import NonFiniteLoss
from .clocks import PromptedTimes, TimesPerBlock, TimesPerToken
from .completep import CompleteP
from .curriculum import Stage, process_at, staged_loss
from .drafts import CorrectionLoss, draft_loss, fill_draft
from .edits import EditLoss
from .ema import Average
from .finetuning import merged, with_lora
from .laprop import LaProp
from .loop import Trained
from .losses import Loss, causal_loss, noised_loss, noised_tokens, predicted_tokens, real_tokens
from .muon import MuonWithAdamW, block_matrices
from .noise import Place, TimesOfStep, row_generators, step_times
from .noised import NoisyBatch, draw_noise
from .options import Optimization, Run
from .probes import labelled, load_probe, probe_loss, save_probe
from .quality import QualityLoss, quality_loss, reveal
from .scoring import noisy_loss
from .trainer import Trainer

__all__ = [
    "Adapted",
    "Average",
    "Callback",
    "CompleteP",
    "CorrectionLoss",
    "EditLoss",
    "LaProp",
    "Loss",
    "MuonWithAdamW",
    "NoisyBatch",
    "NonFiniteLoss",
    "Optimization",
    "Place",
    "PromptedTimes",
    "QualityLoss",
    "Run",
    "Stage",
    "TimesOfStep",
    "TimesPerBlock",
    "TimesPerToken",
    "Trained",
    "Trainer",
    "adapt",
    "block_matrices",
    "causal_loss",
    "draft_loss",
    "draw_noise",
    "fill_draft",
    "intact",
    "labelled",
    "last_intact",
    "load_probe",
    "merged",
    "new_folder",
    "noised_loss",
    "noised_tokens",
    "noisy_loss",
    "predicted_tokens",
    "probe_loss",
    "process_at",
    "quality_loss",
    "real_tokens",
    "reveal",
    "row_generators",
    "save_probe",
    "seal",
    "staged_loss",
    "step_times",
    "with_lora",
]
