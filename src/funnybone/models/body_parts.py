"""Joints of a skeleton in body parts of equal size, as networks need them that cut the joint axis into windows."""

import math

from funnybone.errors import DataError
from funnybone.skeletons import KINECT20, NTU25, Skeleton

# The feeders' orders: arms, legs, then NTU's shoulders with elbows, then the spine. Joint 20 of NTU is left out.
PUBLISHED = {
    NTU25: ((6, 7, 21, 22), (10, 11, 23, 24), (12, 13, 14, 15), (16, 17, 18, 19), (4, 8, 5, 9), (1, 2, 0, 3)),
    KINECT20: ((4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15), (16, 17, 18, 19), (1, 2, 0, 3)),
}


def body_parts(skeleton: Skeleton) -> tuple[tuple[int, ...], ...]:
    """Return joints in parts of equal size: an arm, a leg, a piece of the trunk.

    NTU25 and KINECT20 have the authors' parts, four joints each; those of NTU25 leave joint 20 out. For any other
    skeleton every joint is used. A limb is a connected piece of all-left or all-right joints, with its mirror image
    beside it. Limbs are cut into whole parts from their far ends; what is left of them, near the trunk, follows the
    trunk's joints from the root on, in whole parts too. The skeleton's centre is repeated where the last is not full.

    Parts have three to six joints: the size that repeats least, then that which keeps most joints in parts of one limb,
    then that with the smallest sum of size and number of parts, then the smaller.

    Raises
    ------
    DataError
        For a skeleton of fewer than three joints.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> body_parts(COCO17)
    ((5, 7, 9), (6, 8, 10), (11, 13, 15), (12, 14, 16), (0, 1, 2), (3, 4, 0))
    """
    for known, parts in PUBLISHED.items():
        if skeleton.same_layout(known):
            return parts
    count = len(skeleton.joints)
    if count < 3:
        raise DataError(f"skeleton {skeleton.name!r} has {count} joints", hint="body parts need three or more")
    limbs, trunk = _limbs(skeleton)

    def cost(size: int) -> tuple[int, int, int, int]:
        in_limbs = sum(2 * (len(left) // size) * size for left, _ in limbs)
        return -count % size, -in_limbs, size + math.ceil(count / size), size

    size = min(range(3, min(6, count) + 1), key=cost)
    joints: list[int] = []
    for pair in limbs:
        rest = len(pair[0]) % size
        for start in range(rest, len(pair[0]), size):
            joints += [joint for limb in pair for joint in limb[start : start + size]]
        trunk += [joint for mirrored in zip(*(limb[:rest] for limb in pair), strict=True) for joint in mirrored]
    joints += trunk + [skeleton.centre] * (-count % size)
    return tuple(tuple(joints[start : start + size]) for start in range(0, len(joints), size))


def _limbs(skeleton: Skeleton) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Left limbs with their mirror images, and all other joints; depth first from the root."""
    mirror: dict[int, int] = {}
    for left, right in skeleton.pairs:
        if left != right and {left, right}.isdisjoint({*mirror, *mirror.values()}):
            mirror[left] = right
    order: list[int] = []
    ahead = [skeleton.root]
    while ahead:
        order.append(ahead.pop())
        ahead += [child for child, parent in reversed(skeleton.bones) if parent == order[-1]]
    limbs: dict[int, list[int]] = {}  # of each left joint
    for joint in order:
        if joint in mirror:
            limbs[joint] = limbs.get(skeleton.parents[joint], [])
            limbs[joint].append(joint)
    whole = [limb for joint, limb in limbs.items() if limb[0] == joint]
    others = [joint for joint in order if joint not in {*mirror, *mirror.values()}]
    return [(limb, [mirror[joint] for joint in limb]) for limb in whole], others
