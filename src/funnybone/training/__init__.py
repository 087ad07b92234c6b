"""Training of victims: deterministic from a seed, resumed exactly, and chosen without the test set."""

from funnybone.training.checkpoint import checkpoint_of
from funnybone.training.curves import Epoch, draw, write_curves
from funnybone.training.fit import Progress, Trained, train
from funnybone.training.hardware import Plain, hardware
from funnybone.training.measure import Measured, evaluate, hold_out
from funnybone.training.method import Batch, Method

__all__ = [
    "Batch",
    "Epoch",
    "Measured",
    "Method",
    "Plain",
    "Progress",
    "Trained",
    "checkpoint_of",
    "draw",
    "evaluate",
    "hardware",
    "hold_out",
    "train",
    "write_curves",
]
