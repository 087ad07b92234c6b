"""funnybone's own npz layout: plain arrays, no pickle. ``docs/npz.md`` describes it for users."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from funnybone import skeletons
from funnybone.clips import Clips, repeated
from funnybone.data.registry import formats
from funnybone.errors import DataError

LAYOUT = "docs/npz.md describes the layout"
REQUIRED = ("clips", "lengths", "labels", "classes", "joint_names", "parents", "fps")
METRES = {"metre": 1.0, "centimetre": 0.01, "millimetre": 0.001}
# Arrays that, whatever their shape, say something else than what clips can be grouped by.
NOT_GROUPS = {*REQUIRED, "valid", "units", "up_axis", "file_names", "synthetic"}
# Both a file's arrays and its clips padded to the longest must fit into a laptop's memory: a file of a megabyte can
# hold a thousand times that in zeros, and a damaged lengths array can ask for anything.
MOST_BYTES = 4 * 2**30


@formats.register("npz")
def read(path: Path) -> Clips:
    """Return the clips of an npz file at their recorded lengths, padded to the longest, zero where not valid.

    Raises
    ------
    DataError
        Naming the file, the array and the mend.
    """
    file = _Archive(path)
    for key in REQUIRED:
        if key not in file:
            raise DataError(f"{path}: there is no array {key!r}", hint=LAYOUT)
    lengths = file.array("lengths", "iu", 1).astype(np.int64)
    if len(lengths) == 0:
        raise DataError(f"{path}: there are no clips")
    if (lengths < 1).any():
        raise DataError(f"{path}: array 'lengths': clip {int((lengths < 1).argmax())} is empty", hint="leave it out")
    # What the headers give away is checked before the frames are read.
    total, *persons, v, c = file.shape("clips", "f", 3, 4)
    if 0 in (total, *persons, v, c):
        raise DataError(f"{path}: array 'clips' is empty, of shape {file.headers['clips'][0]}", hint=LAYOUT)
    if (recorded := sum(lengths.tolist())) != total:
        raise DataError(f"{path}: array 'lengths' sums to {recorded}, array 'clips' has {total} frames")
    n, m, longest = len(lengths), math.prod(persons), int(lengths.max())
    if n * m * longest * v * c * 4 > MOST_BYTES:
        raise DataError(f"{path}: {n} clips padded to {longest} frames do not fit into memory", hint="cut the longest")
    joints = [str(joint) for joint in file.array("joint_names", "U", 1)]
    parents = [int(parent) for parent in file.array("parents", "iu", 1)]
    if len(joints) != v:
        raise DataError(f"{path}: array 'joint_names' names {len(joints)} joints, array 'clips' has {v}", hint=LAYOUT)
    try:
        skeleton = skeletons.from_layout(path.stem, joints, parents)
    except DataError as error:
        raise DataError(f"{path}: arrays 'joint_names' and 'parents': {error}") from None
    unit = file.choice("units", (*METRES, "pixel", "normalised"), "metre")
    up = file.choice("up_axis", ("x", "y", "z"), "y")
    labels = file.array("labels", "iu", 1).astype(np.int64)
    classes = tuple(str(name) for name in file.array("classes", "U", 1))
    synthetic = "synthetic" in file and bool(file.array("synthetic", "biu", 0))
    ids, groups = _ids(file, n), _groups(file, n)

    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and Clips says where
        fps = file.array("fps", "fiu", 0, 1).astype(np.float32)
        frames = file.array("clips", "f", 3, 4).astype(np.float32, copy=False).reshape(total, m, v, c)
        frames *= np.float32(METRES.get(unit, 1))
    present = _present(file, frames)
    frames[~present] = 0
    clip = np.repeat(np.arange(n), lengths)
    frame = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    xyz = np.zeros((n, m, longest, v, c), np.float32)
    xyz[clip, :, frame] = frames
    valid = np.zeros((n, m, longest), bool)
    valid[clip, :, frame] = present
    try:
        return Clips(
            xyz=torch.from_numpy(xyz),
            valid=torch.from_numpy(valid),
            labels=torch.from_numpy(labels),
            classes=classes,
            skeleton=skeleton,
            fps=torch.from_numpy(fps if fps.ndim else np.full(n, fps)),
            ids=ids,
            groups=groups,
            name=path.stem,
            up=up,  # type: ignore[arg-type]
            unit="metre" if unit in METRES else unit,  # type: ignore[arg-type]
            synthetic=synthetic,
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


class _Archive:
    """The headers of an npz file, and its arrays one at a time: what nobody asks for is never inflated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                magic = file.read(6)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        if magic == np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{path}: one bare array, not an npz file", hint=LAYOUT)
        if not magic.startswith(b"PK"):
            raise DataError(f"{path}: {'not an npz file' if magic else 'the file is empty'}", hint=LAYOUT)
        self.headers: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        with self._opened() as file:
            members = [info for info in file.infolist() if info.filename.endswith(".npy")]
            if (size := sum(info.file_size for info in members)) > MOST_BYTES:
                raise DataError(
                    f"{path}: unpacked, the arrays take {size / 2**30:.0f} GiB, more than {MOST_BYTES / 2**30:.0f} GiB",
                    hint="split the file",
                )
            for info in members:
                key = info.filename.removesuffix(".npy")
                with file.open(info) as member:
                    first = np.lib.format.read_magic(member) == (1, 0)
                    read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read_header(member)
                    start = member.tell()
                if dtype.hasobject:
                    raise DataError(
                        f"{path}: array {key!r} holds Python objects", hint="write text as np.array([...], str)"
                    )
                # Entries without bytes are counted too: a header can claim any number of empty texts.
                if start + math.prod(shape) * dtype.itemsize != info.file_size or math.prod(shape) > info.file_size:
                    raise DataError(
                        f"{path}: array {key!r} is not as long as {dtype} of shape {shape}", hint="the file is damaged"
                    )
                self.headers[key] = shape, dtype

    def __contains__(self, key: str) -> bool:
        return key in self.headers

    def shape(self, key: str, kinds: str, *ndims: int) -> tuple[int, ...]:
        """The shape of an array that must be of one of these kinds and numbers of dimensions."""
        shape, dtype = self.headers[key]
        if dtype.kind not in kinds or len(shape) not in ndims:
            raise DataError(f"{self.path}: array {key!r} is {dtype} of shape {shape}", hint=LAYOUT)
        return shape

    def array(self, key: str, kinds: str, *ndims: int) -> np.ndarray:
        """The array, which must be of one of these kinds and numbers of dimensions."""
        self.shape(key, kinds, *ndims)
        with self._opened() as file, file.open(f"{key}.npy") as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    def choice(self, key: str, known: tuple[str, ...], default: str) -> str:
        """The text of an array of no dimensions, one of those known."""
        value = self.array(key, "U", 0).item() if key in self else default
        if value not in known:
            raise DataError(f"{self.path}: {key} is {value!r}", hint=f"write one of {', '.join(known)}")
        return value

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as file:
                yield file
        except DataError:
            raise
        # Of a damaged file, zipfile and NumPy raise whatever their parsers do: BadZipFile, zlib.error, TokenError,
        # SyntaxError, RuntimeError for a password, NotImplementedError for a compression, MemoryError for a shape, ...
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"{self.path}: damaged, or not an npz file: {reason}", hint=LAYOUT) from None


def _present(file: _Archive, frames: np.ndarray) -> np.ndarray:
    """(sum of lengths, M): the array 'valid' where there is one; else a person whose joints are all zero is absent."""
    if "valid" not in file:
        return (frames != 0).any((-1, -2))
    shape = file.shape("valid", "b", 1, 2)
    if shape not in ((len(frames),), frames.shape[:2]):
        raise DataError(f"{file.path}: array 'valid' has shape {shape}", hint=f"it must be {frames.shape[:2]}")
    return np.broadcast_to(file.array("valid", "b", 1, 2).reshape(len(frames), -1), frames.shape[:2])


def _ids(file: _Archive, n: int) -> tuple[str, ...]:
    if "file_names" not in file:
        return tuple(map(str, range(n)))
    names = tuple(str(name) for name in file.array("file_names", "Uiu", 1))
    if len(names) != n:
        raise DataError(f"{file.path}: array 'file_names' has {len(names)} names for {n} clips", hint=LAYOUT)
    if (name := repeated(names)) is not None:
        raise DataError(
            f"{file.path}: array 'file_names': {name!r} occurs twice",
            hint="make the names unique or leave the array out",
        )
    return names


def _groups(file: _Archive, n: int) -> dict[str, tuple[str, ...]]:
    """Every integer or text array with one entry a clip; ``subjects`` is spelt out by ``subject_names``."""
    groups = {}
    for key, (shape, dtype) in file.headers.items():
        if key in NOT_GROUPS or key.endswith("_names") or shape != (n,) or dtype.kind not in "iubU":
            continue
        values, singular = file.array(key, "iubU", 1), key.removesuffix("s")
        spelt = next((names for names in (f"{singular}_names", f"{key}_names") if names in file), None)
        if spelt is not None and dtype.kind in "iu":
            names = file.array(spelt, "Uiu", 1)
            if values.min() >= 0 and values.max() < len(names):
                values = names[values]
        groups[singular] = tuple(str(value) for value in values)
    return groups
