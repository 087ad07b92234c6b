"""How to train a model: the settings of `funnybone.training.train`, and the recipe file of each family."""

import dataclasses
import inspect
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from funnybone.errors import DataError
from funnybone.models.preprocess import Preprocess
from funnybone.settings import build

_FOLDER = Path(__file__).parent / "recipes"
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, by default AdamW on a one-cycle learning rate, with clips turned about the vertical at random.

    Parameters
    ----------
    epochs : int or None
        Passes over the clips; None for as many as ``max_epochs`` and ``shown`` allow.
    max_epochs : int
        Most passes, when ``epochs`` is None.
    shown : int
        Most clips shown in all, when ``epochs`` is None: it bounds the work on large data sets.
    batch : int
        Clips in an optimiser step, at most.
    optimiser : {"adamw", "adam", "sgd"}
        SGD has Nesterov momentum 0.9, as published recipes of the graph networks have. Adam and SGD decay weights by
        way of the gradient, AdamW by itself: what a decay of 1e-4 does with one is not what it does with the other.
    schedule : {"one_cycle", "cosine", "steps"}
        ``"one_cycle"``: up, then down to zero. ``"cosine"``: the same from the top. ``"steps"``: divided by ten at each
        of the ``milestones``. All rise through ``warmup`` first.
    milestones : tuple of float
        Shares of the steps at which ``"steps"`` divides the learning rate.
    max_lr : float
        Highest learning rate.
    warmup : float
        Share of the steps in which the learning rate rises.
    weight_decay : float
        On matrices and convolutions; not on biases, norms and edge importances.
    clip_norm : float
        Longest gradient of a step; 0 for no bound.
    dropout : float
        The network's, where it has any. Published recipes of the graph networks use 0.5 and train ten times as long.
    label_smoothing : float
        Share of the target that is spread over all classes.
    rotation : float
        Largest random turn about the vertical axis, radians either way; pi where people may face anywhere. Clips with
        two coordinates are not turned.
    tilt : float
        Largest random turn about each horizontal axis, radians either way.
    scale : float
        Largest random change of size, as a share of it.
    crop : float
        Shortest part of a clip that is shown, stretched to the clip's length; 1 for whole clips.
    mirror : float
        Share of the clips shown as in a mirror, left for right; 0 where classes differ by side.
    validation : float
        Share of the training clips, of each class, that choose the epoch whose weights are kept; 0 for the last epoch.
    patience : int or None
        Epochs without a better validation loss after which training stops; None to run to the end.
    options : mapping
        The network's own options.
    preprocess : mapping
        What `Preprocess.of` takes, but for the vertical, which is that of the clips.

    Examples
    --------
    >>> Recipe().epochs_for(188), Recipe(shown=1000).epochs_for(300), Recipe(epochs=5).epochs_for(300)
    (30, 4, 5)
    """

    epochs: int | None = None
    max_epochs: int = 30
    shown: int = 16000
    batch: int = 8
    optimiser: str = "adamw"
    schedule: str = "one_cycle"
    milestones: tuple[float, ...] = ()
    max_lr: float = 2e-3
    warmup: float = 0.25
    weight_decay: float = 0.05
    clip_norm: float = 0.0
    dropout: float = 0.2
    label_smoothing: float = 0.1
    rotation: float = 0.5
    tilt: float = 0.0
    scale: float = 0.1
    crop: float = 1.0
    mirror: float = 0.0
    validation: float = 0.1
    patience: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DataError(f"recipe: {name} is {value}", hint="give a finite number")
        least = {"epochs": 1, "max_epochs": 1, "shown": 1, "batch": 1, "patience": 1}
        least |= dict.fromkeys(("max_lr", "weight_decay", "clip_norm", "rotation", "tilt", "scale"), 0)
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise DataError(f"recipe: {name} is {value}", hint=f"give at least {low}")
        for name in ("warmup", "dropout", "label_smoothing", "scale", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"recipe: {name} is {getattr(self, name)}", hint="give a share from 0 to below 1")
        if not 0 < self.crop <= 1:
            raise DataError(f"recipe: crop is {self.crop}", hint="give a share above 0, up to 1")
        if not 0 <= self.mirror <= 1:
            raise DataError(f"recipe: mirror is {self.mirror}", hint="give a share from 0 to 1")
        if not all(0 < share < 1 for share in self.milestones):
            raise DataError(f"recipe: milestones are {self.milestones}", hint="give shares between 0 and 1")
        for name, known in (("optimiser", ("adamw", "adam", "sgd")), ("schedule", ("one_cycle", "cosine", "steps"))):
            if getattr(self, name) not in known:
                raise DataError(f"recipe: {name} is {getattr(self, name)!r}", hint=f"it is one of {', '.join(known)}")
        self._check_preprocess()

    def _check_preprocess(self) -> None:
        hints = get_type_hints(Preprocess.of)
        known = [key for key in inspect.signature(Preprocess.of).parameters if key not in ("skeleton", "up")]
        for key, value in self.preprocess.items():
            if key not in known:
                hint = f"it has {', '.join(known)}; joints and the vertical are those of the clips"
                raise DataError(f"recipe: preprocess has no setting {key!r}", hint=hint)
            choices = get_args(hints[key])
            if choices and value not in choices:
                raise DataError(f"recipe: preprocess: {key} is {value!r}", hint=f"it is one of {', '.join(choices)}")

    def epochs_for(self, clips: int) -> int:
        """Passes over this many clips."""
        return self.epochs if self.epochs is not None else min(self.max_epochs, math.ceil(self.shown / clips))

    def learning_rate(self, progress: float) -> float:
        """Learning rate when this share of the steps is done.

        Examples
        --------
        >>> recipe = Recipe(max_lr=1.0, warmup=0.5)
        >>> [round(recipe.learning_rate(share), 2) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
        >>> Recipe(max_lr=1.0, warmup=0.0, schedule="steps", milestones=(0.5, 0.75)).learning_rate(0.8)
        0.01
        """
        if progress < self.warmup:
            low, share = self.max_lr / 25, 1 - progress / self.warmup
            return low + (self.max_lr - low) * (1 + math.cos(math.pi * share)) / 2
        if self.schedule == "steps":
            return self.max_lr / 10 ** sum(progress >= share for share in self.milestones)
        return self.max_lr * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2


def recipe_for(model: str, table: str = "small", changes: Mapping[str, Any] = _NONE) -> Recipe:
    """Return a recipe of a family's recipe file, with some settings changed.

    Parameters
    ----------
    model : str
        Name in the registry of models. A family without a recipe file has the defaults of `Recipe`.
    table : str
        ``"small"``: for hundreds of clips and a CPU, what funnybone trains with. ``"published"``: what the family's
        paper or released code trains with on the large sets, as far as `Recipe` has the words for it.
    changes : mapping
        Settings in place of the file's; ``options`` and ``preprocess`` are merged with the file's.

    Raises
    ------
    DataError
        For a table or a setting that is not there.

    Examples
    --------
    >>> recipe_for("stgcn", "published").optimiser, recipe_for("stgcn", changes={"epochs": 3}).epochs
    ('sgd', 3)
    """
    path = _FOLDER / f"{model}.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"small": {}}
    if table not in tables:
        raise DataError(f"model {model!r} has no recipe {table!r}", hint=f"it has {', '.join(tables)}")
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in tables[table].items()
    }
    nested = {key: {**settings.get(key, {}), **changes.get(key, {})} for key in ("options", "preprocess")}
    return build("training", "recipe", Recipe, {**settings, **changes, **nested})


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's settings as JSON can hold them."""
    return {item.name: _plain(getattr(recipe, item.name)) for item in dataclasses.fields(recipe)}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
