"""What a classifier network is here, and the names under which networks are known."""

import inspect
import math
import numbers
import typing
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.objective import Objective
from funnybone.registry import Registry
from funnybone.skeletons import NTU25, Skeleton


class Model(nn.Module, ABC):
    """A network that classifies clips; the base of every family in this package.

    A family implements `features` and `classify`. It adds no wrapper around its layers, so that ``state_dict()`` has
    exactly the keys of the authors' checkpoints.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M of a clip; an absent person is all zeros.
    frames : int
        Frames T that the network is meant for. Networks that pool over time take others as well.
    in_channels : int
        Coordinates C of a joint.

    Attributes
    ----------
    symmetric : bool
        Whether the persons' order makes no difference.
    skips_empty : bool
        Whether frames in which nobody is present make no difference.
    exact_gradients : bool
        Whether the input's gradient is that of the answers, not one of a smoother network that stands in for a step.
    """

    symmetric: ClassVar[bool] = False
    skips_empty: ClassVar[bool] = False
    exact_gradients: ClassVar[bool] = True

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "persons": persons, "frames": frames, "in_channels": in_channels}
        for name, size in sizes.items():
            if size < 1:
                raise DataError(f"{type(self).__name__}: {name} is {size}", hint="give at least 1")
        self.skeleton, self.num_classes, self.persons = skeleton, num_classes, persons
        self.frames, self.in_channels = frames, in_channels

    def forward(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N K"]:
        """Logits of each clip; for ``present`` see `features`."""
        return self.classify(self.features(xyz, present))

    @abstractmethod
    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The vector of each clip that enters the classifier.

        Parameters
        ----------
        xyz : Tensor
            Positions, or what a stream shows of them; zero where nobody is.
        present : Tensor, optional
            When each person is there. Without it, wherever any number is not zero: of positions that is the same, but
            of differences between frames, in which who stands still is zero too, it is not.
        """

    @abstractmethod
    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector: the last layer alone."""

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> "tuple[dict[str, Any], dict[str, Tensor]] | None":
        """What a checkpoint of the authors' code says, or None when it is not of this family.

        Returns the constructor's arguments that can be read off the tensors' shapes, with ``joints`` in place of the
        skeleton, and the tensors without those that only training needs.
        """
        return None

    def objective(self, label_smoothing: float) -> Objective:
        """What training this network minimises."""
        return Objective(label_smoothing)

    def check(self, xyz: Tensor, present: Tensor | None = None) -> None:
        """Raise `DataError` when an input is not (N, M, T, V, C) floats of this network's sizes and type."""
        want = f"(N, {self.persons}, T, {len(self.skeleton.joints)}, {self.in_channels})"
        hint = f"{type(self).__name__} on {self.skeleton.name} takes floats of shape {want}"
        if xyz.ndim != 5 or not xyz.is_floating_point():
            raise DataError(f"input is {xyz.dtype} of shape {tuple(xyz.shape)}", hint=hint)
        _, persons, frames, joints, channels = xyz.shape
        if joints != len(self.skeleton.joints):
            raise DataError(f"input has {joints} joints", hint=hint)
        if channels != self.in_channels:
            raise DataError(f"input has {channels} coordinates for each joint", hint=hint)
        if persons != self.persons:
            raise DataError(f"input has {persons} person slots", hint=f"{hint}; fill absent persons with zeros")
        if frames < 1:
            raise DataError("input has no frames", hint=hint)
        own = next((parameter.dtype for parameter in self.parameters()), xyz.dtype)
        if xyz.dtype != own and not torch.is_autocast_enabled(xyz.device.type):
            raise DataError(f"input is {xyz.dtype}, the network {own}", hint=f"convert one of them, xyz.to({own})")
        if present is not None and (present.dtype != torch.bool or present.shape != xyz.shape[:3]):
            raise DataError(f"present is {present.dtype} of shape {tuple(present.shape)}", hint="give (N, M, T) bools")


models: Registry[type[Model]] = Registry("model", "funnybone.models")
register_model = models.register
_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
_TRUTH = {"true": True, "false": False}


def create(
    name: str, *, skeleton: Skeleton = NTU25, num_classes: int = 60, persons: int = 2, frames: int = 64, **options: Any
) -> Model:
    """Return a freshly initialised network.

    Parameters
    ----------
    name : str
        One of `names()`.
    skeleton : Skeleton
        The V joints.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M of a clip.
    frames : int
        Frames T of a clip.
    **options
        The family's own options: ``in_channels``, ``width``, ...

    Raises
    ------
    DataError
        For an unknown name or option, or a value of another type than the constructor's.

    Examples
    --------
    >>> net = create("stgcn", num_classes=5, persons=1, width=4)
    >>> import torch
    >>> net(torch.zeros(3, 1, 20, 25, 3)).shape
    torch.Size([3, 5])
    >>> create("stgcnn")
    Traceback (most recent call last):
    ...
    funnybone.errors.DataError: no model is named 'stgcnn'; did you mean 'stgcn'? Known: ...
    """
    return from_arguments(
        name, {"skeleton": skeleton, "num_classes": num_classes, "persons": persons, "frames": frames, **options}
    )


def from_arguments(name: str, arguments: dict[str, Any]) -> Model:
    """Return a freshly initialised network from what a file says that its constructor was given: nothing is trusted."""
    known = _argument_names(name)
    unknown = sorted(arguments.keys() - known)
    if unknown:
        own = ", ".join(sorted(option_names(name)))
        raise DataError(f"model {name!r} has no option {', '.join(unknown)}", hint=f"it has {own}")
    _check_types(name, arguments)
    hops, joints = arguments.get("max_hop", 0), len(arguments["skeleton"].joints)
    if not 0 <= hops <= joints:  # no path is longer, and each hop takes time
        raise DataError(f"model {name!r}: max_hop is {hops}", hint=f"give 0 to {joints}, the number of joints")
    return models[name](**arguments)


def _check_types(name: str, arguments: dict[str, Any]) -> None:
    """Raise `DataError` for an argument that its constructor's annotation does not allow, and for a size below 1."""
    hints = typing.get_type_hints(models[name].__init__)
    kinds = {int: numbers.Integral, float: numbers.Real}
    for key, value in arguments.items():
        kind = hints.get(key, object)
        if not isinstance(kind, type):
            continue
        fits = isinstance(value, kinds.get(kind, kind)) and (kind is bool or not isinstance(value, bool))
        if not fits or (kind is float and not math.isfinite(value)):
            raise DataError(f"model {name!r}: {key} is {value!r}", hint=f"give {_WORDS.get(kind, kind.__name__)}")
        if kind is int and value < 1 and key != "max_hop":  # every whole number is a size, but for this
            raise DataError(f"model {name!r}: {key} is {value}", hint="give at least 1")


def names(pattern: str = "*") -> list[str]:
    """Return the sorted names of the models that match a shell pattern.

    Examples
    --------
    >>> "stgcn" in names("*gcn*")
    True
    """
    return models.names(pattern)


def option_names(name: str) -> set[str]:
    """Names of the constructor's arguments that are a family's own.

    Examples
    --------
    >>> sorted(option_names("stgcn"))
    ['dropout', 'graph', 'in_channels', 'max_hop', 'width']
    """
    return _argument_names(name) - {"skeleton", "num_classes", "persons", "frames"}


def typed_options(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return a family's options from ``key=value`` texts, each of its constructor's type.

    Examples
    --------
    >>> typed_options("stgcn", ["width=32", "dropout=0.1"])
    {'width': 32, 'dropout': 0.1}
    """
    hints = typing.get_type_hints(models[name].__init__) | dict.fromkeys(("persons", "frames", "in_channels"), int)
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise DataError(f"model {name!r}: {pair!r} is not an option", hint="write key=value")
        kind = hints.get(key, str)
        try:
            options[key] = _TRUTH[text.lower()] if kind is bool else kind(text) if kind in _WORDS else text
        except (ValueError, KeyError):
            raise DataError(f"model {name!r}: {key} is {text!r}", hint=f"give {_WORDS[kind]}") from None
    return options


def _argument_names(name: str) -> set[str]:
    """Names that a constructor takes; one that hands everything on takes those of `Model` too."""
    parameters = inspect.signature(models[name]).parameters.values()
    named = {part.name for part in parameters if part.kind not in (part.VAR_POSITIONAL, part.VAR_KEYWORD)}
    hands_on = any(part.kind is part.VAR_KEYWORD for part in parameters)
    return named | (set(inspect.signature(Model).parameters) if hands_on else set())
