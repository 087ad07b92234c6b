"""Preprocessing by name: what published networks were trained with, as far as their code and papers state it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from funnybone.errors import DataError
from funnybone.models.preprocess import Preprocess
from funnybone.skeletons import HDM05_25, NTU25, Skeleton

# The mean pose of the attack papers' HDM05 to two digits, and its one standard deviation; both in the database's own
# unit, of which 0.45 make an inch.
_UNIT = 0.0254 / 0.45
_HDM05_STD = 4.7353377
_HDM05_MEAN = (
    (0, 0, 0),
    (1.33, -1.42, 1.01),
    (2.14, -6.08, 3.62),
    (1.94, -12.25, 1.68),
    (1.95, -13.39, 3.39),
    (0, 0, 0),
    (-1.43, -1.27, 0.96),
    (-2.35, -6.20, 3.03),
    (-1.97, -12.14, 0.92),
    (-2.19, -13.20, 2.63),
    (0, 0, 0),
    (0, 1.75, 0.23),
    (0, 3.49, 0.54),
    (0, 3.49, 0.54),
    (0.04, 4.96, 0.91),
    (3.19, 4.57, 0.74),
    (4.76, 1.16, 0.60),
    (4.70, -0.62, 1.76),
    (4.74, -0.85, 2.08),
    (4.70, -0.62, 1.76),
    (-3.05, 4.52, 0.71),
    (-4.53, 0.98, 0.15),
    (-4.53, -0.84, 1.37),
    (-4.59, -1.06, 1.66),
    (-4.53, -0.84, 1.37),
)

# On NTU25: the middle of the spine, the line up to it, and the line from the left shoulder to the right one.
_MIDDLE = {"joint": 1}
_UPRIGHT = {"align": "spine", "spine": (0, 1), "shoulders": (4, 8)}
_AGCN = {"order": "deviation", "trim": "each", "pad": "replay", "pad_to": 300, "centre": "frame"} | _MIDDLE | _UPRIGHT
_SGN = {"order": "variance", "trim": "anyone", "centre": "first_frame"} | _MIDDLE


@dataclass(frozen=True)
class Published:
    """A preprocessing that has a name.

    Parameters
    ----------
    about : str
        In words: whose it is and what it does; what of theirs is not part of it, and what is ours.
    fields : mapping
        Of `Preprocess`; None: `Preprocess.of`.
    skeleton : Skeleton or None
        The joints that it is stated for; None: any.
    frames : int or None
        Length of the clips that the network was trained on, where the preprocessing itself does not bring it about.
    """

    about: str
    fields: Mapping[str, Any] | None
    skeleton: Skeleton | None = None
    frames: int | None = None


PREPROCESSINGS: Mapping[str, Published] = {
    "none": Published("positions as they are", {"centre": "none"}),
    "clip": Published("funnybone's own: the mean of all joints of the clip is moved to the origin", None),
    "st-gcn": Published(
        "ST-GCN: persons as listed, zeros up to 300 frames, not centred",
        {"centre": "none", "pad": "zero", "pad_to": 300},
    ),
    "2s-agcn": Published(
        "2s-AGCN, DGNN, MS-G3D: who moves most comes first, each person begins in the first frame and starts again up "
        "to 300 frames, each frame is centred on the first person's middle of the spine, the spine of the first frame "
        "is turned to +z and then its shoulders to +x. Choosing two of more bodies is left to who reads the recording",
        _AGCN,
        NTU25,
    ),
    "as-gcn": Published(
        "AS-GCN: as 2s-agcn, then the first 290 frames", _AGCN | {"sample": "first", "sample_to": 290}, NTU25
    ),
    "sgn": Published(
        "SGN, and what SkateFormer shares with it: who moves most comes first, empty frames go, the clip is centred on "
        "the first person's middle of the spine in the first frame. Telling bodies from noise is left to who reads the "
        "recording",
        _SGN,
        NTU25,
    ),
    "ctr-gcn": Published(
        "CTR-GCN, FR-Head: as sgn, then the central 95 % of the frames are resized to 64",
        _SGN | {"sample": "resize", "sample_to": 64},
        NTU25,
    ),
    "pyskl": Published(
        "ST-GCN++: frames of the person who is there longest, centred on the middle of the spine in the first one and "
        "turned as in 2s-agcn; 100 frames, one of each of equal segments. Theirs are drawn at random, and ten draws "
        "averaged; here it is each segment's middle",
        {"order": "frames", "trim": "first", "centre": "first_frame", "sample": "segments", "sample_to": 100}
        | _MIDDLE
        | _UPRIGHT,
        NTU25,
    ),
    "hdm05": Published(
        "the HDM05 set of attack papers (SMART, BASAR, BEAT), of 60 frames: each frame is centred on the hips, then "
        "standardised by a mean pose, known to two digits, and one deviation. Their clips face +z in every frame; "
        "turning them is left to who reads the recording",
        {
            "centre": "frame",
            "joint": 10,
            "mean": tuple(tuple(value * _UNIT for value in joint) for joint in _HDM05_MEAN),
            "std": _HDM05_STD * _UNIT,
        },
        HDM05_25,
        60,
    ),
}


def find_published(name: str) -> Published:
    """Return what is known by a name.

    Examples
    --------
    >>> find_published("hdm05").frames
    60
    """
    if name not in PREPROCESSINGS:
        near = difflib.get_close_matches(name, PREPROCESSINGS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"no preprocessing is named {name!r}", hint=f"{hint}Known: {', '.join(PREPROCESSINGS)}")
    return PREPROCESSINGS[name]


def published(name: str, skeleton: Skeleton) -> Preprocess:
    """Return the preprocessing that is known by a name, for clips of a skeleton.

    Parameters
    ----------
    name : str
        One of `PREPROCESSINGS`, which says what each does.
    skeleton : Skeleton
        Most are stated for one skeleton only.

    Raises
    ------
    DataError
        For an unknown name, or a skeleton that it is not stated for.

    Examples
    --------
    >>> published("sgn", NTU25).centre
    'first_frame'
    """
    found = find_published(name)
    if found.fields is None:
        return Preprocess.of(skeleton)
    if found.skeleton is not None and found.skeleton.joints != skeleton.joints:
        fitting = [key for key, other in PREPROCESSINGS.items() if other.skeleton in (None, skeleton)]
        raise DataError(
            f"preprocessing {name!r} is stated for the joints of {found.skeleton.name}, not for {skeleton.name}",
            hint=f"{skeleton.name} can have {', '.join(fitting)}; or give the joints yourself, models.Preprocess(...)",
        )
    return Preprocess(**found.fields)
