"""Checkpoints that authors published, ``.pt`` and ``.pth``: which network they are of, and loading them exactly."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.registry import Model, from_arguments, models
from funnybone.skeletons import NTU25, Skeleton

# What training frameworks put in front of each key, and the entry under which they keep the tensors.
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "weights")
_SHOWN = 4  # keys that an error lists


def load_checkpoint(
    path: Path | str, *, skeleton: Skeleton = NTU25, family: str | None = None, **options: Any
) -> Model:
    """Rebuild a network from a checkpoint of its authors' code, in evaluation mode. Nothing is unpickled but tensors.

    The family, the number of classes and the widths are read off the keys and shapes. A checkpoint holds no joint names
    and, in most families, no graph: the skeleton is for the caller to say. Nor does it hold preprocessing, which the
    victim that is made of the network must be given.

    Parameters
    ----------
    path : Path or str
        A file that ``torch.save`` wrote (a state dict, or a dictionary with one inside), or safetensors.
    skeleton : Skeleton
        The joints that it was trained on.
    family : str, optional
        Name of the model, where the keys alone do not say it.
    **options
        What shapes do not tell: ``persons`` of networks that share their statistics, ``graph="ntu25"``, ...

    Returns
    -------
    Model

    Raises
    ------
    DataError
        Naming the file: not a checkpoint, one that holds other objects than tensors, no family's keys, keys missing or
        left over, or shapes of another skeleton.

    Examples
    --------
    >>> import tempfile
    >>> from funnybone.models import create
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     state = {f"module.{key}": value for key, value in create("stgcn", width=4).state_dict().items()}
    ...     torch.save({"epoch": 3, "state_dict": state}, f"{folder}/epoch3.pt")
    ...     type(load_checkpoint(f"{folder}/epoch3.pt")).__name__
    'STGCN'
    """
    path = Path(path).expanduser()
    state = _stripped(_tensors(path))
    name, arguments, own = _recognised(path, state, family)
    _check_joints(path, name, arguments, skeleton)
    arguments = {key: value for key, value in arguments.items() if key != "joints"}
    network = from_arguments(name, {**arguments, "skeleton": skeleton, **options}).eval()
    wanted = network.state_dict()
    # Checkpoints of the years before PyTorch counted batches do not have the counts; nothing in evaluation uses them.
    counts = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    own = {**counts, **own}
    _check_keys(path, name, own, wanted)
    network.load_state_dict(own)
    return network.float()


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="give a checkpoint, .pt or .pth")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "it holds other objects")
        raise DataError(
            f"{path}: not tensors alone: {reason.strip()[:200]}",
            hint="loading it could run code; where it was made, write torch.save(model.state_dict(), ...)",
        ) from None
    except Exception as error:  # whatever odd bytes provoke in torch's reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a checkpoint, cut or damaged ({reason[:200]})", hint="copy it again") from None
    while isinstance(found, Mapping) and not any(isinstance(value, Tensor) for value in found.values()):
        entry = next((name for name in _ENTRIES if isinstance(found.get(name), Mapping)), None)
        if entry is None:
            break
        found = found[entry]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        what = (
            f"entries {', '.join(map(str, list(found)[:_SHOWN]))}"
            if isinstance(found, Mapping)
            else type(found).__name__
        )
        raise DataError(f"{path}: no state dict ({what})", hint="write torch.save(model.state_dict(), ...)")
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what training frameworks put in front of every key."""
    for prefix in _PREFIXES * 2:  # some wrap twice
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _recognised(
    path: Path, state: dict[str, Tensor], family: str | None
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    # A family that extends another is asked before it: it knows its own.
    known = sorted(models.names(), key=lambda name: -len(models[name].__mro__))
    for name in [family] if family is not None else known:
        found = models[name].from_authors(state)
        if found is not None:
            return (name, *found)
    keys = ", ".join(sorted(state)[:_SHOWN])
    if family is not None:
        raise DataError(f"{path}: not a checkpoint of {family}; its keys are {keys}, ...", hint="leave the family open")
    raise DataError(
        f"{path}: the keys {keys}, ... are those of no model", hint=f"models are {', '.join(models.names())}"
    )


def _check_joints(path: Path, name: str, arguments: Mapping[str, int], skeleton: Skeleton) -> None:
    joints = arguments.get("joints", len(skeleton.joints))
    if joints != len(skeleton.joints):
        raise DataError(
            f"{path}: a {name} of {joints} joints, skeleton {skeleton.name} has {len(skeleton.joints)}",
            hint="give the skeleton that it was trained on, skeleton=...",
        )


def _check_keys(path: Path, name: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing, left_over = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing:
        raise DataError(
            f"{path}: a {name} without {_some(missing)}", hint="the file is cut, or of another version of the code"
        )
    if left_over:
        raise DataError(
            f"{path}: {name} has no {_some(left_over)}",
            hint="a variant of the network that funnybone does not have; remove them if they matter in training only",
        )
    for key, value in wanted.items():
        if found[key].shape != value.shape:
            shapes = f"{tuple(found[key].shape)}, expected {tuple(value.shape)}"
            raise DataError(f"{path}: {key} has shape {shapes}", hint="give the sizes it was trained with as options")
        if value.is_floating_point() and not torch.isfinite(found[key]).all():
            raise DataError(f"{path}: {key} holds NaN or infinity")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{', '.join(keys[:_SHOWN])}{more}"
