"""The scene of each clip: who is in it, who touches whom, and where on the floor it takes place."""

import numpy as np
from jaxtyping import Bool, Float, Int

from funnybone.data.procedural import body, chance, performance
from funnybone.data.procedural.actions import ACTIONS
from funnybone.data.procedural.performance import Cast, Clock
from funnybone.data.procedural.subjects import subjects
from funnybone.skeletons import NTU25

_PERSONS: Int[np.ndarray, " A"] = np.array([len(action.roles) for action in ACTIONS])
_CONTACT = np.array([-1.0 if action.contact is None else action.contact for action in ACTIONS])
_HEIGHT = np.array([action.height for action in ACTIONS])
_GAP = np.array([action.gap for action in ACTIONS])
# For each role the share of each joint in the point that touches, and whether the role reaches for what it touches.
_TOUCH = np.array(
    [[(name in role.touch) / max(len(role.touch), 1) for name in NTU25.joints] for _, role in performance.ROLES]
)
_REACHES = np.array([bool(role.reach) for _, role in performance.ROLES])
_OTHER_SIDE = np.arange(len(NTU25.joints))
for _left, _right in NTU25.pairs:
    _OTHER_SIDE[[_left, _right]] = _right, _left


def play(
    subject: Int[np.ndarray, " N"],
    action: Int[np.ndarray, " N"],
    repetition: Int[np.ndarray, " N"],
    *,
    seed: int,
    frames: int,
    fps: float,
) -> tuple[Float[np.ndarray, "N 2 T 25 3"], Bool[np.ndarray, " N"], Float[np.ndarray, "P T D"]]:
    """Return N clips, each a function of its own subject, action, repetition and the seed alone.

    Returns
    -------
    xyz : Float[np.ndarray, "N 2 T 25 3"]
        Metres, y up, the floor at 0; zero where there is no second person.
    paired : Bool[np.ndarray, " N"]
        Which clips have a second person.
    angles : Float[np.ndarray, "P T D"]
        Joint angles in radians of the first person of every clip, then of the second persons.
    """
    count, seconds = len(action), np.arange(frames) / fps
    clip = chance.key(seed, "clip", subject, action, repetition)
    paired = _PERSONS[action] == 2
    row = np.concatenate([np.arange(count), np.flatnonzero(paired)])
    second = np.arange(len(row)) >= count
    # Either may be the one who pushes. The partner is a passer-by, seen in no other clip: subjects stay in their part.
    turned = (chance.uniform(clip, "role") < 0.5) & paired
    mine = chance.key(seed, "subject", subject)
    leader = subjects(mine[row])
    cast = Cast(
        action=action[row],
        role=(turned[row] ^ second).astype(np.int64),
        clip=clip[row],
        person=chance.key(clip[row], "person", second.astype(np.int64)),
        leader=leader,
        subject=subjects(np.where(second, chance.key(clip, "partner")[row], mine[row])),
    )
    when = performance.clock(cast, seconds)
    partner = np.arange(len(row))
    partner[count:], partner[row[count:]] = row[count:], np.arange(count, len(row))
    angles = performance.settle(_reach(performance.wishes(cast, when, seconds), cast, when, partner))
    joints, soles = body.forward(angles, cast.subject.lengths)
    facing = performance.facing(cast, when, seconds)
    joints, soles = _turn(joints, facing), _turn(soles, facing)
    joints += body.tread(soles, when.flight, fps)[:, :, None]

    xyz = np.zeros((count, 2, frames, len(NTU25.joints), 3))
    xyz[:, 0] = joints[:count]
    xyz[paired, 1] = _face(joints, cast, when, row[count:])
    left = performance.left_first(cast)[:count]
    xyz[left] = (xyz[left] * [-1, 1, 1])[..., _OTHER_SIDE, :]
    heading = 2 * np.pi * chance.uniform(clip, "heading")
    place = 0.4 * chance.normal(clip, "place", 3) * [1, 0, 1]
    xyz = _turn(xyz, np.broadcast_to(heading[:, None, None], xyz.shape[:3])) + place[:, None, None, None]
    xyz[~paired, 1] = 0
    return xyz, paired, angles


def _turn(
    points: Float[np.ndarray, "*shape J 3"], heading: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape J 3"]:
    """Points turned to the left about the vertical, radians."""
    cos, sin = np.cos(heading)[..., None], np.sin(heading)[..., None]
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], -1)


def _touch(joints: Float[np.ndarray, "P T 25 3"], cast: Cast) -> Float[np.ndarray, "P T 3"]:
    """The point by which each person touches, where there is one."""
    weight = _TOUCH[performance.FIRST_ROLE[cast.action] + cast.role]
    return (weight[:, None, None] @ joints)[..., 0, :]


def _reach(
    wishes: Float[np.ndarray, "P T D"], cast: Cast, when: Clock, partner: Int[np.ndarray, " P"]
) -> Float[np.ndarray, "P T D"]:
    """Return wishes changed such that what touches has the height of what it touches, by Newton's method."""
    contact = _CONTACT[cast.action]
    who = np.flatnonzero(contact >= 0)
    frame = np.abs(when.phase[who] - contact[who, None]).argmin(1)
    cast, when, partner = cast[who], when[who], np.searchsorted(who, partner[who])
    reaches = _REACHES[performance.FIRST_ROLE[cast.action] + cast.role]
    shape = performance.reach_shape(cast, when)
    now = np.arange(len(who))
    low, high = _HEIGHT[cast.action].T
    floor = low + (high - low) * chance.uniform(cast.clip, "height")
    moment, way = wishes[who, frame][:, None], shape[now, frame][:, None]

    def above_floor(turn: Float[np.ndarray, " P"]) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
        """Metres from the floor to the touch, and to the lowest joint."""
        joints, soles = body.forward(performance.settle(moment + turn[:, None, None] * way), cast.subject.lengths)
        standing = soles[:, 0, :, 1].min(-1)
        return _touch(joints, cast)[:, 0, 1] - standing, joints[:, 0, :, 1].min(-1) - standing

    turn, small = np.zeros(len(who)), 0.02
    for _ in range(6):
        here, _ = above_floor(turn)
        slope = (above_floor(turn + small)[0] - here) / small
        # Both meet half way when both reach; else the one who reaches goes all the way.
        theirs = np.where(reaches[partner], 0.5 * (here + here[partner]), here[partner])
        target = np.where(partner == now, floor, theirs)
        safe = np.where(np.abs(slope) < 0.1, np.copysign(0.1, slope), slope)
        turn = np.clip(turn + np.where(reaches, (target - here) / safe, 0), -1.2, 1.2)
    # Newton may end with a head or a hand in the ground where limits keep the body from obeying; such a one bends less.
    for _ in range(16):
        buried = above_floor(turn)[1] < 0
        if not buried.any():
            break
        turn = turn - 0.15 * buried
    wishes = wishes.copy()
    wishes[who] += turn[:, None, None] * shape
    return wishes


def _face(
    joints: Float[np.ndarray, "P T 25 3"], cast: Cast, when: Clock, first: Int[np.ndarray, " Q"]
) -> Float[np.ndarray, "Q T 25 3"]:
    """Return the second persons turned towards the first and as near as they must be to touch."""
    count = len(joints) - len(first)
    second = joints[count:] * [-1, 1, -1]
    contact = _CONTACT[cast.action[first]]
    frame = np.abs(when.phase[first] - contact[:, None]).argmin(1)
    pair = np.arange(len(first))
    touch = _touch(joints, cast)
    shift = (touch[first] - touch[count:] * [-1, 1, -1])[pair, frame]
    shift[:, 1], shift[:, 2] = 0, shift[:, 2] + _GAP[cast.action[first]]
    return second + shift[:, None, None]
