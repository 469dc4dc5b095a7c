"""The one training loop, and how its batches reach it."""

from diffvae.train._data import RowSource, Source
from diffvae.train._engine import best_device, best_precision
from diffvae.train._loop import Epoch, Objective, TrainingError, fit, optimise
from diffvae.train._stream import StreamSource

__all__ = [
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
]
