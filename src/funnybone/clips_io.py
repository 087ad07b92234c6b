"""Clips as tensors and a record that JSON can hold: what every file of this library that keeps clips writes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.skeletons import Skeleton

FORMAT = 1
_TENSORS = ("xyz", "valid", "labels", "fps")
_PLAIN = ("classes", "ids", "name", "up", "unit", "synthetic")


def to_parts(clips: Clips) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of clips, and everything else as plain values.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> tensors, record = to_parts(random_clips(2))
    >>> sorted(tensors), record["ids"]
    (['fps', 'labels', 'valid', 'xyz'], ('clip0', 'clip1'))
    """
    tensors = {key: getattr(clips, key) for key in _TENSORS}
    record = {key: getattr(clips, key) for key in _PLAIN}
    record |= {"groups": dict(clips.groups), "skeleton": vars(clips.skeleton)}
    return tensors, record


def from_parts(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Clips:
    """Return the clips that `to_parts` took apart, whether or not JSON lies between.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        When a part is missing or of another kind; `DataError` (a ValueError) when the parts do not fit together.
    """
    skeleton = record["skeleton"]
    return Clips(
        xyz=tensors["xyz"],
        valid=tensors["valid"],
        labels=tensors["labels"],
        fps=tensors["fps"],
        name=record["name"],
        up=record["up"],
        unit=record["unit"],
        synthetic=record["synthetic"],
        classes=tuple(record["classes"]),
        ids=tuple(record["ids"]),
        groups={key: tuple(values) for key, values in record["groups"].items()},
        skeleton=Skeleton(
            skeleton["name"],
            tuple(skeleton["joints"]),
            tuple(skeleton["parents"]),
            skeleton["centre"],
            tuple((left, right) for left, right in skeleton["pairs"]),
        ),
    )


def own_memory(tensor: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU: safetensors refuses views, and tensors that share memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def save_clips(clips: Clips, path: Path) -> None:
    """Write clips as one safetensors file: ``xyz``, ``valid``, ``labels``, ``fps``, and the rest as JSON metadata.

    The metadata has one key, ``funnybone``: safetensors keeps several in no particular order, and the same clips
    shall give the same bytes.
    """
    tensors, record = to_parts(clips)
    metadata = {"funnybone": json.dumps({"format": FORMAT, "kind": "clips", "clips": record}, sort_keys=True)}
    # As bytes: a file that safetensors writes itself can be read by its owner alone.
    path.write_bytes(save({key: own_memory(value) for key, value in tensors.items()}, metadata))


def load_clips(path: Path) -> Clips:
    """Read what `save_clips` wrote.

    Raises
    ------
    DataError
        When the file is missing, cut or not of this kind.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="an audit's clean clips are missing; copy its whole folder")
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
            record = json.loads((file.metadata() or {})["funnybone"])
        if record["format"] != FORMAT:
            raise DataError(f"written in format {record['format']}, this version reads {FORMAT}")
        return from_parts(tensors, record["clips"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a file of clips ({error})", hint="it is damaged; take it from a copy of the folder"
        ) from None
