"""Clips: a batch of recorded motions, and what must be known of them to attack them honestly."""

import copy
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.skeletons import Skeleton

Unit = Literal["metre", "pixel", "normalised"]
_TENSORS = {"xyz": torch.float32, "valid": torch.bool, "labels": torch.int64, "fps": torch.float32}
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Clips:
    """A batch of motions of one or more persons on one skeleton.

    Parameters
    ----------
    xyz : Float[Tensor, "N M T V C"]
        Joint positions of N clips, M persons, T frames, V joints; C = 3 in metres (or C = 2 in ``unit``).
        Zero where not valid, so that a victim can tell absent persons from present ones: files are read so, and
        `resample` sees to it. Other floating-point types become float32, whole numbers are refused.
    valid : Bool[Tensor, "N M T"]
        False on padding frames and absent persons. Attacks never move what is not valid.
    labels : Int[Tensor, "N"]
        The true class of each clip, an index into ``classes``; kept as int64.
    classes : tuple of str
        Class names, each once.
    skeleton : Skeleton
        The V joints.
    fps : Float[Tensor, "N"]
        Frames per second of each clip, as float32; clips resampled to one length have different rates.
    ids : tuple of str
        A name for each clip, unique.
    groups : mapping of str to tuple of str
        What clips can be split by: ``{"subject": ("bd", "bk", ...), "view": ...}``, one value for each clip.
    name : str
        The data set's name, for tables.
    up : {"x", "y", "z"}
        The vertical axis; not z where C = 2.
    unit : {"metre", "pixel", "normalised"}
        Unit of ``xyz``.
    synthetic : bool
        True when no person was recorded; carried to wherever the data are named.

    Raises
    ------
    DataError
        For shapes that disagree, NaN or infinity, an empty clip, labels outside of the classes, repeated ids or
        class names, an unknown axis or unit.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> clips = Clips(torch.zeros(2, 1, 30, 17, 3), torch.ones(2, 1, 30, dtype=torch.bool), torch.tensor([0, 1]),
    ...               ("walk", "run"), COCO17, torch.full((2,), 30.0), ("a", "b"))
    >>> clips
    Clips('clips', n=2, persons=1, frames=30, COCO17, 2 classes)
    >>> clips[1].ids
    ('b',)
    """

    # Plain tensors: what a user hands in is checked below, in sentences, also where shape types are not.
    xyz: Tensor
    valid: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    skeleton: Skeleton
    fps: Tensor
    ids: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = "clips"
    up: Literal["x", "y", "z"] = "y"
    unit: Unit = "metre"
    synthetic: bool = False

    def __post_init__(self) -> None:
        for key in _TENSORS:
            if not isinstance(getattr(self, key), Tensor):
                raise DataError(f"{self.name}: {key} is a {type(getattr(self, key)).__name__}", hint="give a tensor")
        self._check_shape()
        n, m, t = self.xyz.shape[:3]
        whole = not self.labels.is_floating_point() and self.labels.dtype != torch.bool
        if self.labels.ndim != 1 or not whole:
            raise DataError(f"{self.name}: labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}")
        if self.valid.shape != (n, m, t) or self.valid.dtype != torch.bool:
            raise DataError(
                f"{self.name}: valid is {self.valid.dtype} of shape {tuple(self.valid.shape)}",
                hint=f"it must be bool of shape {(n, m, t)}",
            )
        if self.fps.ndim != 1:
            raise DataError(f"{self.name}: fps has shape {tuple(self.fps.shape)}", hint=f"it must be {(n,)}")
        counts = {"labels": len(self.labels), "fps": len(self.fps), "ids": len(self.ids)}
        counts |= {f"group {key!r}": len(values) for key, values in self.groups.items()}
        for what, count in counts.items():
            if count != n:
                raise DataError(f"{self.name}: {count} {what} for {n} clips", hint="give one for each clip")
        if (name := repeated(self.ids)) is not None:
            raise DataError(f"{self.name}: clip id {name!r} occurs twice", hint="ids must be unique")
        if (name := repeated(self.classes)) is not None:
            raise DataError(f"{self.name}: class {name!r} occurs twice", hint="give one label to all of its clips")
        if self.unit not in (units := get_args(Unit)):
            raise DataError(f"{self.name}: unit is {self.unit!r}", hint=f"units are {', '.join(units)}")
        # One number type for all clips: a victim's float32 weights refuse others. A frozen class needs the detour.
        for key, dtype in _TENSORS.items():
            object.__setattr__(self, key, getattr(self, key).to(dtype))
        empty = ~self.valid.flatten(1).any(1)
        if empty.any():
            raise DataError(f"{self.name}: clip {self._id(empty)} has no valid frame", hint="leave it out")
        self._check_finite()
        outside = (self.labels < 0) | (self.labels >= len(self.classes))
        if outside.any():
            raise DataError(
                f"{self.name}: clip {self._id(outside)} has label {int(self.labels[outside][0])}, "
                f"there are {len(self.classes)} classes"
            )
        if not bool(((self.fps > 0) & torch.isfinite(self.fps)).all()):
            raise DataError(f"{self.name}: a frame rate is not a positive number", hint="give fps in Hz")

    def _check_shape(self) -> None:
        if self.xyz.ndim != 5:
            raise DataError(f"{self.name}: xyz has shape {tuple(self.xyz.shape)}", hint="it must be (N, M, T, V, C)")
        v, c = self.xyz.shape[3:]
        if not self.xyz.is_floating_point():
            raise DataError(f"{self.name}: xyz is {self.xyz.dtype}", hint="give float32 positions in metres")
        if v != len(self.skeleton.joints):
            raise DataError(
                f"{self.name}: xyz has {v} joints, skeleton {self.skeleton.name} has {len(self.skeleton.joints)}",
                hint="name the skeleton that the file was recorded with",
            )
        if c not in (2, 3):
            raise DataError(
                f"{self.name}: a joint has {c} coordinates", hint="give 2 or 3; confidences are no coordinates"
            )
        if self.up not in (axes := ("x", "y", "z")[:c]):
            raise DataError(f"{self.name}: up is {self.up!r}", hint=f"the axes are {', '.join(axes)}")

    def _check_finite(self) -> None:
        finite = torch.isfinite(self.xyz)
        if not bool(finite.all()):
            i, person, frame, joint, _ = (int(index) for index in (~finite).nonzero()[0])
            raise DataError(
                f"{self.name}: clip {self.ids[i]}, person {person}, frame {frame}, joint "
                f"{self.skeleton.joints[joint]}: not a finite number",
                hint="interpolate the gap or mark the frame as not valid with zeros",
            )

    def _with(self, **fields: Any) -> "Clips":
        """Return the clips with other fields, unchecked: attacks part and move in every step what was checked once."""
        clips = copy.copy(self)
        vars(clips).update(fields)  # a frozen class stops assignment only
        return clips

    def _id(self, chosen: Tensor) -> str:
        return self.ids[int(chosen.nonzero()[0])]

    def __len__(self) -> int:
        return len(self.xyz)

    def __repr__(self) -> str:
        _, m, t, _, _ = self.xyz.shape
        kind = ", synthetic" if self.synthetic else ""
        return (
            f"Clips({self.name!r}, n={len(self)}, persons={m}, frames={t}, {self.skeleton.name}, "
            f"{len(self.classes)} classes{kind})"
        )

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "Clips":
        """Return the chosen clips: an index, a slice, a list, an index tensor or a mask."""
        where = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
        rows, there = where.tolist(), where.to(self.xyz.device)
        if (row := repeated(rows)) is not None:
            raise DataError(f"{self.name}: clip {self.ids[row]} is chosen twice", hint="ids must be unique")
        return self._with(
            **{key: getattr(self, key)[there] for key in _TENSORS},
            ids=tuple(self.ids[row] for row in rows),
            groups={key: tuple(values[row] for row in rows) for key, values in self.groups.items()},
        )

    @property
    def dt(self) -> Float[Tensor, " N"]:
        """Seconds between two frames of each clip."""
        return 1 / self.fps

    def to(self, device: torch.device | str) -> "Clips":
        """Return the clips on a device."""
        return self._with(**{key: getattr(self, key).to(device) for key in _TENSORS})

    def with_xyz(self, xyz: Float[Tensor, "N M T V C"]) -> "Clips":
        """Return the same clips with other positions, which are checked as in new clips."""
        clips = self._with(xyz=xyz.to(_TENSORS["xyz"]) if xyz.is_floating_point() else xyz)
        clips._check_shape()
        if xyz.shape[:3] != self.valid.shape:
            raise DataError(
                f"{self.name}: xyz has shape {tuple(xyz.shape)}",
                hint=f"clips, persons and frames are {tuple(self.valid.shape)}",
            )
        clips._check_finite()
        return clips

    def select(self, split: str) -> "Clips":
        """Return the part that a split names.

        Parameters
        ----------
        split : str
            ``"subject:mm,tr"``: the clips of these subjects. ``"!subject:mm,tr"``: all others.
            The key is one of ``groups`` or ``class``. A value may hold commas itself: of the values there are, the
            longest that fits is taken.

        Raises
        ------
        DataError
            For an unknown key or value, or a part without clips.
        """
        inverted, rule = split.startswith("!"), split.removeprefix("!")
        key, colon, wanted = rule.partition(":")
        known = {**self.groups, "class": tuple(self.classes[label] for label in self.labels.tolist())}
        if not colon or key not in known:
            raise DataError(
                f"{self.name}: cannot split by {split!r}",
                hint=f"write KEY:VALUE,VALUE with KEY one of {', '.join(sorted(known))}",
            )
        values = set(_listed(wanted, known[key]))
        unknown = values - set(known[key])
        if unknown:
            raise DataError(
                f"{self.name}: no clip has {key} {', '.join(sorted(unknown))}",
                hint=f"there are {', '.join(sorted(set(known[key])))}",
            )
        rows = [row for row, value in enumerate(known[key]) if (value in values) != inverted]
        if not rows:
            raise DataError(f"{self.name}: split {split!r} is empty", hint="leave some values on each side")
        return self[rows]

    def resample(self, frames: int) -> "Clips":
        """Return clips of one length, each keeping its duration and getting its own frame rate.

        Linear interpolation between the first and the last valid frame of each clip (over its persons); a frame is
        valid where both of the frames it lies between are, and zero where it is not. Between frames a rotating bone is
        shorter than it was recorded, by the chord of its arc.

        Parameters
        ----------
        frames : int
            Frames of the result, at least 2.
        """
        if frames < 2:
            raise DataError(f"cannot resample to {frames} frames", hint="give at least 2")
        n, m, t, v, c = self.xyz.shape
        some = self.valid.any(1)
        time = torch.arange(t, device=some.device)
        first = torch.where(some, time, t).amin(1)
        last = torch.where(some, time, -1).amax(1)
        if t == frames and bool((last - first == t - 1).all()):
            stray = (self.xyz != 0) & ~self.valid[..., None, None]
            return self.with_xyz(torch.where(stray, 0, self.xyz)) if bool(stray.any()) else self
        span = (last - first).to(self.xyz.dtype)
        place = first[:, None] + span[:, None] * torch.linspace(0, 1, frames, device=some.device)
        low = place.floor().long().clamp(max=t - 1)
        weight = place - low
        high = torch.minimum(low + (weight > 0), last[:, None])

        def take(values: Tensor, rows: Tensor) -> Tensor:
            rows = rows.reshape(n, 1, frames, *(1,) * (values.ndim - 3))
            return values.gather(2, rows.expand(n, m, frames, *values.shape[3:]))

        valid = take(self.valid, low) & take(self.valid, high)
        weight = weight[:, None, :, None, None]
        xyz = torch.lerp(take(self.xyz, low), take(self.xyz, high), weight.expand(n, m, frames, v, c))
        fps = torch.where(span > 0, self.fps * (frames - 1) / span.clamp(min=1), self.fps)
        return dataclasses.replace(self, xyz=xyz * valid[..., None, None], valid=valid, fps=fps)

    def fingerprints(self) -> tuple[str, ...]:
        """A content hash of each clip: positions, validity, frame rate and label."""
        parts = (self.xyz, self.valid, self.fps, self.labels)
        arrays = [part.detach().cpu().contiguous().numpy() for part in parts]
        rows = zip(*arrays, strict=True)
        return tuple(hashlib.sha256(b"".join(part.tobytes() for part in row)).hexdigest()[:32] for row in rows)


def repeated(values: Iterable[Value]) -> Value | None:
    """Return the first value that occurs more than once, or None.

    Examples
    --------
    >>> repeated(["walk", "jog", "walk"])
    'walk'
    """
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _listed(wanted: str, known: Iterable[str]) -> list[str]:
    """Take a comma-separated list apart. Known values, the longest first, may hold commas; others end at the next."""
    fits = "|".join(re.escape(value) for value in sorted(set(known), key=len, reverse=True))
    return re.findall(rf",\s*({fits}|[^,]*?)\s*(?=,|\Z)", f",{wanted}")
