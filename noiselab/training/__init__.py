"""Training on transformers' Trainer: losses as plain functions, exact resumption, averages of the weights."""

from ..files import new_folder
from .arguments import training_arguments
from .checkpoints import intact, last_intact, seal
from .checks import NonFiniteLoss
from .edits import EditLoss
from .ema import Average
from .losses import Loss, causal_loss, noised_loss, predicted_tokens, real_tokens
from .muon import MuonWithAdamW, block_matrices
from .noise import Place, row_generators, step_times
from .trainer import Trainer

__all__ = [
    "Average",
    "EditLoss",
    "Loss",
    "MuonWithAdamW",
    "NonFiniteLoss",
    "Place",
    "Trainer",
    "block_matrices",
    "causal_loss",
    "intact",
    "last_intact",
    "new_folder",
    "noised_loss",
    "predicted_tokens",
    "real_tokens",
    "row_generators",
    "seal",
    "step_times",
    "training_arguments",
]
