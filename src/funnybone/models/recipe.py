"""How to train a model: the settings of `funnybone.training.train`, with defaults that each family may replace."""

import math
from dataclasses import dataclass

from funnybone.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: AdamW on a one-cycle learning rate, with clips turned about the vertical at random.

    Parameters
    ----------
    epochs : int or None
        Passes over the clips; None for 30, or fewer where that would show the network more than ``shown`` clips in all.
    shown : int
        Most clips shown in all, when ``epochs`` is None: it bounds the work on large data sets.
    batch : int
        Clips in an optimiser step, at most.
    max_lr : float
        Learning rate at the top of the cycle.
    warmup : float
        Share of the steps in which the learning rate rises.
    weight_decay : float
        AdamW's, on matrices and convolutions; not on biases, norms and edge importances.
    dropout : float
        The network's, where it has any. Published recipes of the graph networks use 0.5 and train ten times as long.
    label_smoothing : float
        Share of the target that is spread over all classes.
    rotation : float
        Largest random turn about the vertical axis, radians either way. Clips with two coordinates are not turned.
    scale : float
        Largest random change of size, as a share of it.

    Examples
    --------
    >>> Recipe().epochs_for(188), Recipe(shown=1000).epochs_for(300), Recipe(epochs=5).epochs_for(300)
    (30, 4, 5)
    """

    epochs: int | None = None
    shown: int = 16000
    batch: int = 8
    max_lr: float = 2e-3
    warmup: float = 0.25
    weight_decay: float = 0.05
    dropout: float = 0.2
    label_smoothing: float = 0.1
    rotation: float = math.pi
    scale: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not math.isfinite(value):
                raise DataError(f"recipe: {name} is {value}", hint="give a finite number")
        least = {"epochs": 1, "shown": 1, "batch": 1, "max_lr": 0, "weight_decay": 0, "rotation": 0, "scale": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise DataError(f"recipe: {name} is {value}", hint=f"give at least {low}")
        for name in ("warmup", "dropout", "label_smoothing", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"recipe: {name} is {getattr(self, name)}", hint="give a share from 0 to below 1")

    def epochs_for(self, clips: int) -> int:
        """Passes over this many clips."""
        return self.epochs if self.epochs is not None else min(30, math.ceil(self.shown / clips))

    def learning_rate(self, progress: float) -> float:
        """Learning rate when this share of the steps is done: two halves of a cosine.

        Examples
        --------
        >>> recipe = Recipe(max_lr=1.0, warmup=0.5)
        >>> [round(recipe.learning_rate(share), 2) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
        """
        if progress < self.warmup:
            low, share = self.max_lr / 25, 1 - progress / self.warmup
        else:
            low, share = 0.0, (progress - self.warmup) / (1 - self.warmup)
        return low + (self.max_lr - low) * (1 + math.cos(math.pi * share)) / 2
