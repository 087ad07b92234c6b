"""The body: degrees of freedom and their limits, proportions, forward kinematics, and feet that meet the floor.

The body's own frame: x to its left, y up, z ahead; angles are zero when it stands straight with hanging arms.
Arrays are (P, T, ...) for P persons and T frames; angles in radians, lengths in metres.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from funnybone.skeletons import NTU25

# Each segment turns about the joint at its near end: Rx(first) Rz(second) Ry(third) within its parent segment.
# (segment, parent, joint it turns about, joints it carries)
_SEGMENTS = (
    ("pelvis", "", "SpineBase", ("HipL", "HipR")),
    ("spine", "pelvis", "SpineBase", ("SpineMid",)),
    ("chest", "spine", "SpineMid", ("SpineShoulder", "ShoulderL", "ShoulderR")),
    ("neck", "chest", "SpineShoulder", ("Neck", "Head")),
    ("left shoulder", "chest", "ShoulderL", ("ElbowL",)),
    ("right shoulder", "chest", "ShoulderR", ("ElbowR",)),
    ("left elbow", "left shoulder", "ElbowL", ("WristL",)),
    ("right elbow", "right shoulder", "ElbowR", ("WristR",)),
    ("left wrist", "left elbow", "WristL", ("HandL", "HandTipL", "ThumbL")),
    ("right wrist", "right elbow", "WristR", ("HandR", "HandTipR", "ThumbR")),
    ("left hip", "pelvis", "HipL", ("KneeL",)),
    ("right hip", "pelvis", "HipR", ("KneeR",)),
    ("left knee", "left hip", "KneeL", ("AnkleL",)),
    ("right knee", "right hip", "KneeR", ("AnkleR",)),
    ("left ankle", "left knee", "AnkleL", ("FootL", "heel L", "toes L")),
    ("right ankle", "right knee", "AnkleR", ("FootR", "heel R", "toes R")),
)


class _Movement(NamedTuple):
    """One degree of freedom: the axis and sense of its rotation on the right side, and its range, in degrees."""

    axis: str
    sign: int
    low: float
    high: float
    rest: float = 0


# Near the American Academy of Orthopaedic Surgeons' normal values; wider where the shoulder girdle moves along, where
# body weight bends an ankle, and for elbow and knee to the angle at which flesh stops them.
_CENTRE = {
    "pelvis": {
        "flex": _Movement("x", 1, -45, 100, 1),
        "side": _Movement("z", 1, -30, 30),
        "twist": _Movement("y", 1, -70, 70),
    },
    "spine": {
        "flex": _Movement("x", 1, -20, 50, 2),
        "side": _Movement("z", 1, -22, 22),
        "twist": _Movement("y", 1, -20, 20),
    },
    "chest": {
        "flex": _Movement("x", 1, -20, 45, 4),
        "side": _Movement("z", 1, -22, 22),
        "twist": _Movement("y", 1, -40, 40),
    },
    "neck": {
        "flex": _Movement("x", 1, -50, 60, 2),
        "side": _Movement("z", 1, -40, 40),
        "twist": _Movement("y", 1, -75, 75),
    },
}
_SIDED = {
    "shoulder": {
        "flex": _Movement("x", -1, -60, 185),
        "abduct": _Movement("z", -1, -50, 180, 9),
        "twist": _Movement("y", 1, -95, 95, 8),
    },
    "elbow": {"flex": _Movement("x", -1, -4, 150, 16), "pronate": _Movement("y", 1, -85, 85, 15)},
    "wrist": {"deviate": _Movement("x", -1, -35, 25), "flex": _Movement("z", 1, -70, 80, 6)},
    "hip": {
        "flex": _Movement("x", -1, -32, 125, 2),
        "abduct": _Movement("z", -1, -30, 55, 4),
        "twist": _Movement("y", 1, -48, 45, -7),
    },
    "knee": {"flex": _Movement("x", 1, -4, 150, 4)},
    "ankle": {"flex": _Movement("x", -1, -55, 36)},
}
_MOVEMENTS = {f"{joint} {name}": movement for joint, moves in _CENTRE.items() for name, movement in moves.items()} | {
    # About y and z left and right turn opposite ways; about x the same way.
    f"{side} {joint} {name}": m if m.axis == "x" or side == "right" else m._replace(sign=-m.sign)
    for joint, moves in _SIDED.items()
    for name, m in moves.items()
    for side in ("left", "right")
}

DOFS: tuple[str, ...] = tuple(_MOVEMENTS)
LIMITS: dict[str, tuple[float, float]] = {
    name: (float(np.deg2rad(m.low)), float(np.deg2rad(m.high))) for name, m in _MOVEMENTS.items()
}
REST: Float[np.ndarray, " D"] = np.deg2rad([m.rest for m in _MOVEMENTS.values()])
_SIGNS = np.array([m.sign for m in _MOVEMENTS.values()], float)
_AXES = ["xzy".index(m.axis) for m in _MOVEMENTS.values()]

_LOW, _HIGH = np.array(list(LIMITS.values())).T
_SOFT = np.deg2rad(4.0)


def saturate(angles: Float[np.ndarray, "P T D"]) -> Float[np.ndarray, "P T D"]:
    """Return angles within their limits: untouched inside, bent smoothly towards a limit over its last four degrees."""
    below, above = _LOW + _SOFT, _HIGH - _SOFT
    inside = np.clip(angles, below, above)
    return inside + _SOFT * np.tanh((angles - inside) / _SOFT)


def stand_on_floor(angles: Float[np.ndarray, "P T D"]) -> Float[np.ndarray, "P T D"]:
    """Turn legs given relative to the floor into hip and ankle angles.

    A leg answers to the floor, not to the pelvis: bending forward must not swing it, turning the pelvis must not turn
    the feet. So tracks give hips as the thigh's rotation in the room, and ankles as the foot's tilt, toes up.
    """
    angles = angles.copy()
    pelvis = _euler(angles[..., _columns("pelvis")])
    for side in ("left", "right"):
        hip, ankle, knee = (_columns(f"{side} {joint}") for joint in ("hip", "ankle", "knee"))
        sign = _SIGNS[hip]
        angles[..., ankle] += angles[..., knee] - angles[..., hip[:1]]
        turned = np.swapaxes(pelvis, -1, -2) @ _euler(angles[..., hip] * sign)
        # A hip bends between -32 and 125 degrees: the jump of the arc tangent belongs opposite, not at 180.
        flex = (np.arctan2(turned[..., 2, 1], turned[..., 1, 1]) - 0.75 * np.pi) % (2 * np.pi) - 1.25 * np.pi
        abduct = -np.arcsin(np.clip(turned[..., 0, 1], -1, 1))
        twist = np.arctan2(turned[..., 0, 2], turned[..., 0, 0])
        angles[..., hip] = np.stack([flex, abduct, twist], -1) * sign
    return angles


def _columns(joint: str) -> list[int]:
    """Where the movements of a joint stand among the degrees of freedom."""
    return [column for column, name in enumerate(DOFS) if name.rsplit(" ", 1)[0] == joint]


def _euler(angles: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3 3"]:
    """The rotation Rx(first) Rz(second) Ry(third)."""
    (sa, sb, sc), (ca, cb, cc) = np.moveaxis(np.sin(angles), -1, 0), np.moveaxis(np.cos(angles), -1, 0)
    turned = np.empty((*angles.shape, 3))
    turned[..., 0, 0], turned[..., 0, 1], turned[..., 0, 2] = cb * cc, -sb, cb * sc
    turned[..., 1, 0], turned[..., 1, 1], turned[..., 1, 2] = ca * sb * cc + sa * sc, ca * cb, ca * sb * sc - sa * cc
    turned[..., 2, 0], turned[..., 2, 1], turned[..., 2, 2] = sa * sb * cc - ca * sc, sa * cb, sa * sb * sc + ca * cc
    return turned


# Points moved by the kinematics: the skeleton's joints, then four points of the soles.
_POINTS = (*NTU25.joints, "heel L", "toes L", "heel R", "toes R")

# Lengths as shares of stature (Drillis and Contini, 1966, and for the trunk what a Kinect v2 reports).
PROPORTIONS = {
    "thigh": 0.242, "shank": 0.243, "ankle": 0.039, "foot": 0.095, "hips": 0.105, "abdomen": 0.17, "chest": 0.125,
    "neck": 0.045, "head": 0.09, "shoulders": 0.215, "upper arm": 0.172, "forearm": 0.15, "hand": 0.045,
}  # fmt: skip


def offsets(lengths: Float[np.ndarray, "P 13"]) -> Float[np.ndarray, "P J 3"]:
    """Return where each point lies in the frame of the segment that carries it.

    Parameters
    ----------
    lengths : Float[np.ndarray, "P 13"]
        The lengths named in ``PROPORTIONS``, in metres.

    Returns
    -------
    Float[np.ndarray, "P J 3"]
        Metres from the joint that the segment turns about; J = 25 joints and 4 points of the soles.
    """
    size = dict(zip(PROPORTIONS, np.moveaxis(lengths, -1, 0), strict=True))
    zero = np.zeros(len(lengths))
    hand, ankle, foot = size["hand"], size["ankle"], size["foot"]
    places = {
        "SpineMid": (zero, size["abdomen"], zero),
        "SpineShoulder": (zero, size["chest"], zero),
        "Neck": (zero, size["neck"], 0.2 * size["neck"]),
        "Head": (zero, size["neck"] + size["head"], 0.3 * size["head"]),
    }
    for side, x in (("L", 0.5), ("R", -0.5)):
        places |= {
            f"Shoulder{side}": (x * size["shoulders"], size["chest"] - 0.12 * size["shoulders"], zero),
            f"Elbow{side}": (zero, -size["upper arm"], zero),
            f"Wrist{side}": (zero, -size["forearm"], zero),
            f"Hand{side}": (zero, -hand, zero),
            f"HandTip{side}": (zero, -2.0 * hand, 0.1 * hand),
            f"Thumb{side}": (zero, -1.1 * hand, 0.8 * hand),
            f"Hip{side}": (x * size["hips"], -0.2 * size["hips"], zero),
            f"Knee{side}": (zero, -size["thigh"], zero),
            f"Ankle{side}": (zero, -size["shank"], zero),
            f"Foot{side}": (zero, -0.75 * ankle, foot),
            f"heel {side}": (zero, -ankle, -0.35 * foot),
            f"toes {side}": (zero, -ankle, 1.2 * foot),
        }
    points = np.zeros((len(lengths), len(_POINTS), 3))
    for name, place in places.items():
        points[:, _POINTS.index(name)] = np.stack(place, -1)
    return points


@cache
def _levels() -> list[tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]]:
    """Segments with their parents, level by level down the tree."""
    names = [name for name, *_ in _SEGMENTS]
    depth: dict[str, int] = {"": -1}
    for name, parent, *_ in _SEGMENTS:
        depth[name] = depth[parent] + 1
    levels = []
    for level in range(1, max(depth.values()) + 1):
        pairs = [(names.index(name), names.index(parent)) for name, parent, *_ in _SEGMENTS if depth[name] == level]
        levels.append((np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])))
    return levels


@cache
def _carried() -> list[tuple[Int[np.ndarray, " J"], Int[np.ndarray, " S"], Int[np.ndarray, " O"]]]:
    """Points, the segments that carry them and the points those turn about, in an order that places origins first."""
    placed, waves = {"SpineBase"}, []
    rest = [(point, row, origin) for row, (_, _, origin, points) in enumerate(_SEGMENTS) for point in points]
    while rest:
        wave = [entry for entry in rest if entry[2] in placed]
        rest = [entry for entry in rest if entry[2] not in placed]
        placed |= {point for point, _, _ in wave}
        columns = [
            [_POINTS.index(p) for p, _, _ in wave],
            [s for _, s, _ in wave],
            [_POINTS.index(o) for *_, o in wave],
        ]
        waves.append(tuple(np.array(column) for column in columns))
    return waves  # type: ignore[return-value]


def _rotations(angles: Float[np.ndarray, "P T D"]) -> Float[np.ndarray, "P T S 3 3"]:
    """Each segment's rotation within its parent."""
    names = [name for name, *_ in _SEGMENTS]
    euler = np.zeros((*angles.shape[:2], len(names), 3))
    rows = [names.index(name.rsplit(" ", 1)[0]) for name in DOFS]
    euler[..., rows, _AXES] = angles * _SIGNS
    return _euler(euler)


def forward(
    angles: Float[np.ndarray, "P T D"], lengths: Float[np.ndarray, "P 13"]
) -> tuple[Float[np.ndarray, "P T 25 3"], Float[np.ndarray, "P T 4 3"]]:
    """Forward kinematics with the base of the spine at the origin.

    Returns
    -------
    joints, soles
        Positions in metres of the 25 joints and of heel and toes of the left and the right sole.

    Examples
    --------
    >>> lengths = 1.7 * np.array([list(PROPORTIONS.values())])
    >>> joints, _ = forward(REST[None, None], lengths)
    >>> joints.shape
    (1, 1, 25, 3)
    """
    world = _rotations(angles)
    for rows, parents in _levels():
        world[:, :, rows] = world[:, :, parents] @ world[:, :, rows]
    points = np.zeros((*angles.shape[:2], len(_POINTS), 3))
    local = offsets(lengths)[:, None]
    for rows, segments, origins in _carried():
        arms = (world[:, :, segments] @ local[:, :, rows, :, None])[..., 0]
        points[:, :, rows] = points[:, :, origins] + arms
    return points[:, :, : len(NTU25.joints)], points[:, :, len(NTU25.joints) :]


def tread(
    soles: Float[np.ndarray, "P T 4 3"], flight: Float[np.ndarray, "P T"], fps: float
) -> Float[np.ndarray, "P T 3"]:
    """Return where the base of the spine goes: the lowest sole stays on the floor and what stands does not slide.

    Parameters
    ----------
    soles : Float[np.ndarray, "P T 4 3"]
        Points of the soles relative to the base of the spine, metres.
    flight : Float[np.ndarray, "P T"]
        Metres between the lowest sole and the floor; above zero only in the air, where the speed ahead is kept.
    fps : float
        Frames per second.
    """
    height = soles[..., 1]
    soft = 0.006
    low = height.min(-1, keepdims=True)
    share = np.exp((low - height) / soft)
    lowest = low[..., 0] - soft * np.log(share.mean(-1))
    share /= share.sum(-1, keepdims=True)
    ground = soles[..., [0, 2]]
    step = 0.5 * ((share[:, 1:] + share[:, :-1])[..., None] * np.diff(ground, axis=1)).sum(-2)
    # In the air there is nothing to push against: the steps nearest in time fill the gap.
    standing = np.maximum((flight[:, 1:] <= 0) & (flight[:, :-1] <= 0), 1e-9)
    frame = np.arange(step.shape[1])
    near = np.exp(-0.5 * ((frame[:, None] - frame) / (0.05 * fps)) ** 2) + 1e-12
    step = (near @ (step * standing[..., None])) / (near @ standing[..., None])
    path = np.zeros((*height.shape[:2], 3))
    path[:, 1:, [0, 2]] = -np.cumsum(step, 1)
    path[..., 1] = flight - lowest
    return path
