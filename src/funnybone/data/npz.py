"""funnybone's own npz layout: plain arrays, no pickle. ``docs/npz.md`` describes it for users."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from funnybone import skeletons
from funnybone.clips import Clips
from funnybone.data.registry import formats
from funnybone.errors import DataError

LAYOUT = "docs/npz.md describes the layout"
REQUIRED = ("clips", "lengths", "labels", "classes", "joint_names", "parents", "fps")
METRES = {"metre": 1.0, "centimetre": 0.01, "millimetre": 0.001}
# Arrays with one entry for each clip that say something else than what clips can be grouped by.
NOT_GROUPS = {"lengths", "labels", "fps", "file_names"}
# Padding to the longest clip must fit into memory; a damaged lengths array must not take the machine down.
MOST_BYTES = 16 * 2**30


@formats.register("npz")
def read(path: Path) -> Clips:
    """Return the clips of an npz file at their recorded lengths, padded to the longest.

    Raises
    ------
    DataError
        Naming the file, the array and the mend.
    """
    arrays = _arrays(path)
    for key in REQUIRED:
        if key not in arrays:
            raise DataError(f"{path}: there is no array {key!r}", hint=LAYOUT)
    frames = _of_kind(path, arrays, "clips", "f", (3, 4))
    frames = frames[:, None] if frames.ndim == 3 else frames  # (sum of lengths, M, V, C)
    lengths = _of_kind(path, arrays, "lengths", "iu", (1,)).astype(np.int64)
    labels = _of_kind(path, arrays, "labels", "iu", (1,)).astype(np.int64)
    if (lengths < 1).any():
        raise DataError(f"{path}: array 'lengths': clip {int((lengths < 1).argmax())} is empty", hint="leave it out")
    if lengths.sum() != len(frames):
        raise DataError(f"{path}: array 'lengths' sums to {lengths.sum()}, array 'clips' has {len(frames)} frames")
    n, longest, (_, m, v, c) = len(lengths), int(lengths.max(initial=0)), frames.shape
    if n == 0:
        raise DataError(f"{path}: there are no clips")
    if n * m * longest * v * c * 4 > MOST_BYTES:
        raise DataError(f"{path}: {n} clips padded to {longest} frames do not fit into memory", hint="cut the longest")
    joints = [str(joint) for joint in _of_kind(path, arrays, "joint_names", "U", (1,))]
    parents = [int(parent) for parent in _of_kind(path, arrays, "parents", "iu", (1,))]
    if len(joints) != v:
        raise DataError(f"{path}: array 'joint_names' names {len(joints)} joints, array 'clips' has {v}", hint=LAYOUT)
    try:
        skeleton = skeletons.from_layout(path.stem, joints, parents)
    except DataError as error:
        raise DataError(f"{path}: arrays 'joint_names' and 'parents': {error}") from None
    unit, scale = _unit(path, arrays)
    fps = np.broadcast_to(_of_kind(path, arrays, "fps", "fiu", (0, 1)).astype(np.float32), (n,)).copy()

    clip = np.repeat(np.arange(n), lengths)
    frame = np.arange(len(frames)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    xyz = np.zeros((n, m, longest, v, c), np.float32)
    xyz[clip, :, frame] = frames * np.float32(scale)
    valid = np.zeros((n, m, longest), bool)
    valid[clip, :, frame] = _present(path, arrays, frames)
    try:
        return Clips(
            xyz=torch.from_numpy(xyz),
            valid=torch.from_numpy(valid),
            labels=torch.from_numpy(labels),
            classes=tuple(str(name) for name in _of_kind(path, arrays, "classes", "U", (1,))),
            skeleton=skeleton,
            fps=torch.from_numpy(fps),
            ids=_ids(arrays, n),
            groups=_groups(arrays, n),
            name=path.stem,
            up=_choice(path, arrays, "up_axis", ("x", "y", "z"), "y"),  # type: ignore[arg-type]
            unit=unit,  # type: ignore[arg-type]
            synthetic=bool(arrays.get("synthetic", False)),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def write(path: Path, clips: Clips) -> None:
    """Write clips in the layout that `read` takes; frames that are not valid for anybody are left out."""
    keep = clips.valid.any(1)
    names = {f"{key}_names": sorted(set(values)) for key, values in clips.groups.items()}
    arrays = {
        "clips": clips.xyz.transpose(1, 2)[keep].cpu().numpy(),
        "valid": clips.valid.transpose(1, 2)[keep].cpu().numpy(),
        "lengths": keep.sum(1).to(torch.int32).cpu().numpy(),
        "labels": clips.labels.to(torch.int16).cpu().numpy(),
        "classes": np.array(clips.classes),
        "joint_names": np.array(clips.skeleton.joints),
        "parents": np.array(clips.skeleton.parents, np.int16),
        "fps": clips.fps.cpu().numpy(),
        "file_names": np.array(clips.ids),
        "units": np.array(clips.unit),
        "up_axis": np.array(clips.up),
        "synthetic": np.array(clips.synthetic),
        **{key: np.array(values) for key, values in names.items()},
        **{
            key: np.array([names[f"{key}_names"].index(value) for value in values], np.int16)
            for key, values in clips.groups.items()
        },
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise DataError(f"{path}: one bare array", hint=LAYOUT)
            return {key: file[key] for key in file.files}
    except DataError:
        raise
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else "damaged, or not an npz file"
        raise DataError(f"{path}: {reason}", hint=LAYOUT) from None


def _of_kind(path: Path, arrays: dict[str, np.ndarray], key: str, kinds: str, ndims: tuple[int, ...]) -> np.ndarray:
    array = arrays[key]
    if array.dtype.kind not in kinds or array.ndim not in ndims:
        raise DataError(f"{path}: array {key!r} is {array.dtype} of shape {array.shape}", hint=LAYOUT)
    return array


def _choice(path: Path, arrays: dict[str, np.ndarray], key: str, known: tuple[str, ...], default: str) -> str:
    value = str(arrays.get(key, default))
    if value not in known:
        raise DataError(f"{path}: {key} is {value!r}", hint=f"write one of {', '.join(known)}")
    return value


def _unit(path: Path, arrays: dict[str, np.ndarray]) -> tuple[str, float]:
    unit = _choice(path, arrays, "units", (*METRES, "pixel", "normalised"), "metre")
    return ("metre", METRES[unit]) if unit in METRES else (unit, 1.0)


def _present(path: Path, arrays: dict[str, np.ndarray], frames: np.ndarray) -> np.ndarray:
    """(sum of lengths, M): the array 'valid' where there is one; else a person whose joints are all zero is absent."""
    if "valid" not in arrays:
        return (frames != 0).any((-1, -2))
    given = arrays["valid"]
    if given.dtype != bool or given.shape not in ((len(frames),), frames.shape[:2]):
        raise DataError(f"{path}: array 'valid' is {given.dtype} of shape {given.shape}", hint=LAYOUT)
    return np.broadcast_to(given.reshape(len(frames), -1), frames.shape[:2])


def _ids(arrays: dict[str, np.ndarray], n: int) -> tuple[str, ...]:
    names = [str(name) for name in arrays.get("file_names", np.arange(n)).ravel()]
    return tuple(names if len(set(names)) == len(names) == n else map(str, range(n)))


def _groups(arrays: dict[str, np.ndarray], n: int) -> dict[str, tuple[str, ...]]:
    """Every integer or text array with one entry a clip; ``subjects`` is spelt out by ``subject_names``."""
    groups = {}
    for key, array in arrays.items():
        if key in NOT_GROUPS or array.shape != (n,) or array.dtype.kind not in "iub" + "U":
            continue
        if key in ("classes", "joint_names", "parents", "valid") or key.endswith("_names"):
            continue
        singular = key.removesuffix("s")
        names = arrays.get(f"{singular}_names", arrays.get(f"{key}_names"))
        spelt = names is not None and array.dtype.kind in "iu" and array.min() >= 0 and array.max() < len(names)
        groups[singular] = tuple(str(names[value] if spelt else value) for value in array)  # type: ignore[index]
    return groups
