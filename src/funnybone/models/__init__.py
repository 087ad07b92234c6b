"""Skeleton classifiers: `create` builds one by name, `load_weights` reads a trained one from a file.

A model is a `torch.nn.Module` that maps (N, M, T, V, C) positions to (N, classes) logits and whose ``features`` gives
the vector that enters its classifier. Each family is one file of this package and registers itself.
"""

from funnybone.models.checkpoints import load_checkpoint
from funnybone.models.cost import Cost, cost
from funnybone.models.importing import import_checkpoint
from funnybone.models.objective import Objective
from funnybone.models.preprocess import Preprocess
from funnybone.models.published import PREPROCESSINGS
from funnybone.models.recipe import Recipe, recipe_for
from funnybone.models.registry import Model, create, models, names, register_model
from funnybone.models.streams import STREAMS, Fused, check_streams, shown
from funnybone.models.weights import (
    WeightsRecord,
    list_packaged,
    load_weights,
    packaged,
    save_weights,
)

__all__ = [
    "PREPROCESSINGS",
    "STREAMS",
    "Cost",
    "Fused",
    "Model",
    "Objective",
    "Preprocess",
    "Recipe",
    "WeightsRecord",
    "check_streams",
    "cost",
    "create",
    "import_checkpoint",
    "list_packaged",
    "load_checkpoint",
    "load_weights",
    "models",
    "names",
    "packaged",
    "recipe_for",
    "register_model",
    "save_weights",
    "shown",
]
