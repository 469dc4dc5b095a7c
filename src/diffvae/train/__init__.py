"""The training loop, its batches, checkpoints and processes."""

from diffvae.train._checkpoint import Checkpoint
from diffvae.train._data import RowSource, Source, StreamSource
from diffvae.train._distributed import processes
from diffvae.train._engine import best_device, best_precision
from diffvae.train._guard import TrainingError
from diffvae.train._loop import Epoch, Objective, fit, optimise

__all__ = [
    "Checkpoint",
    "Epoch",
    "Objective",
    "RowSource",
    "Source",
    "StreamSource",
    "TrainingError",
    "best_device",
    "best_precision",
    "fit",
    "optimise",
    "processes",
]
