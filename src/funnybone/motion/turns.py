"""Which rotations describe the poses of a skeleton, and in which order they are applied."""

from functools import lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from funnybone.motion.kinematics import levels
from funnybone.skeletons import Skeleton


def turns(skeleton: Skeleton) -> tuple[str, ...]:
    """Return the names of the rotations that describe a pose, in the order of the theta of angle motions.

    First the joints that carry others, in joint order: how each is turned against the bone that leads to it. Then,
    where several bones hang on one joint, each of them: how it is turned against that joint. Without these a shoulder
    could not be shrugged, nor an arm move against the trunk where a shoulder carries both (COCO17); limits of zero
    width forbid it again where that is wanted.

    Examples
    --------
    >>> turns(Skeleton("cross", ("chest", "head", "left_elbow", "right_elbow", "left_hand"), (-1, 0, 0, 0, 2)))
    ('chest', 'left_elbow', 'chest-head', 'chest-left_elbow', 'chest-right_elbow')
    """
    carrying, shared = _rotated(skeleton)
    own = (f"{skeleton.joints[skeleton.parents[child]]}-{skeleton.joints[child]}" for child in shared)
    return (*(skeleton.joints[joint] for joint in carrying), *own)


@lru_cache(maxsize=64)
def carried(skeleton: Skeleton) -> tuple[tuple[bool, ...], ...]:
    """Return for each rotation, in the order of `turns`, which joints it moves; it is remembered.

    Examples
    --------
    >>> carried(Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1)))
    ((False, True, True), (False, False, True))
    """
    carrying, shared = _rotated(skeleton)
    own = {joint: {joint} for joint in range(len(skeleton.joints))}  # with all that hang on it
    for joint in reversed(skeleton.topological_order):
        if skeleton.parents[joint] >= 0:
            own[skeleton.parents[joint]] |= own[joint]
    moved = [*(own[joint] - {joint} for joint in carrying), *(own[child] for child in shared)]
    return tuple(tuple(joint in those for joint in own) for those in moved)


def _rotated(skeleton: Skeleton) -> tuple[list[int], list[int]]:
    """The joints that carry others, and the far ends of the bones that share their near end with others."""
    carrying = [joint for joint in range(len(skeleton.joints)) if joint in skeleton.parents]
    shared = [child for child, parent in skeleton.bones if skeleton.parents.count(parent) > 1]
    return carrying, shared


class Level(NamedTuple):
    """The joints at one distance from the root that carry others, and the bones to the joints that they carry.

    Parameters
    ----------
    turn : (K,)
        The place in theta of each carrying joint.
    among : (K,)
        Where these joints stand among the ends of the bones of the level before.
    hubs : (H,)
        Which of them carry several, as places in K.
    first : (K,)
        A joint that each carries, as a place in B.
    bones, ends, owner : (B,)
        Each bone, the joint that it leads to, and the joint that carries it as a place in K.
    heirs, heir_bones : (B,)
        The first joint that each end carries and the bone to it, or the end itself and its bone.
    shared, own, hub : (S,)
        The bones of the hubs as places in B, the place in theta of each, and its hub as a place in H.
    """

    turn: Tensor
    among: Tensor
    hubs: Tensor
    first: Tensor
    bones: Tensor
    ends: Tensor
    owner: Tensor
    heirs: Tensor
    heir_bones: Tensor
    shared: Tensor
    own: Tensor
    hub: Tensor


class Walk(NamedTuple):
    """The levels from the root outwards, and what brings the rotations of all of them back into order."""

    levels: tuple[Level, ...]
    turns: Tensor


@lru_cache(maxsize=64)
def walk(skeleton: Skeleton, device: torch.device) -> Walk:
    """Return the walk from the root to the leaves of a skeleton; it is remembered."""
    tensor = partial(torch.tensor, dtype=torch.long, device=device)
    carrying, shared = _rotated(skeleton)
    turn = {joint: place for place, joint in enumerate(carrying)}
    own = {child: len(carrying) + place for place, child in enumerate(shared)}
    bone = {child: place for place, (child, _) in enumerate(skeleton.bones)}
    heir = {joint: next((c for c, parent in skeleton.bones if parent == joint), joint) for joint in bone}
    found = []
    with torch.inference_mode(False):  # what is remembered must serve callers that differentiate, too
        for before, ends in pairwise(levels(skeleton)):
            joints = [joint for joint in before if joint in turn]
            owner = [joints.index(skeleton.parents[end]) for end in ends]
            hubs = [place for place in range(len(joints)) if owner.count(place) > 1]
            of_hubs = [place for place, end in enumerate(ends) if end in own]
            found.append(
                Level(
                    turn=tensor([turn[joint] for joint in joints]),
                    among=tensor([before.index(joint) for joint in joints]),
                    hubs=tensor(hubs),
                    first=tensor([owner.index(place) for place in range(len(joints))]),
                    bones=tensor([bone[end] for end in ends]),
                    ends=tensor(ends),
                    owner=tensor(owner),
                    heirs=tensor([heir[end] for end in ends]),
                    heir_bones=tensor([bone[heir[end]] for end in ends]),
                    shared=tensor(of_hubs),
                    own=tensor([own[ends[place]] for place in of_hubs]),
                    hub=tensor([hubs.index(owner[place]) for place in of_hubs]),
                )
            )
        in_turn = [place for level in found for place in (*level.turn.tolist(), *level.own.tolist())]
        return Walk(tuple(found), tensor([in_turn.index(place) for place in range(len(in_turn))]))


class Outward(NamedTuple):
    """The tree of the rotations themselves: each turns against the one before it, the root's against the room.

    Parameters
    ----------
    order : (J,)
        Their places in theta, level by level.
    before : tuple of (K,)
        For each level but the root's, the rotation before each, as a place in the level before.
    bones : (B,)
        By which rotation each bone is turned in the end, as a place in the order.
    """

    order: Tensor
    before: tuple[Tensor, ...]
    bones: Tensor


@lru_cache(maxsize=64)
def outward(skeleton: Skeleton, device: torch.device) -> Outward:
    """Return the rotations of a skeleton from the root outwards; it is remembered."""
    tensor = partial(torch.tensor, dtype=torch.long, device=device)
    carrying, shared = _rotated(skeleton)
    turn = {joint: place for place, joint in enumerate(carrying)}
    own = {child: len(carrying) + place for place, child in enumerate(shared)}
    last = {child: own.get(child, turn[parent]) for child, parent in skeleton.bones}  # of the bone to each joint
    before = {turn[joint]: last[joint] for joint in carrying if joint in last}
    before |= {own[child]: turn[skeleton.parents[child]] for child in shared}
    found = [[turn[skeleton.root]] if turn else []]
    while after := [rotation for rotation in sorted(before) if before[rotation] in found[-1]]:
        found.append(after)
    order = [rotation for level in found for rotation in level]
    with torch.inference_mode(False):  # what is remembered must serve callers that differentiate, too
        return Outward(
            tensor(order),
            tuple(tensor([inner.index(before[rotation]) for rotation in outer]) for inner, outer in pairwise(found)),
            tensor([order.index(last[child]) for child, _ in skeleton.bones]),
        )
