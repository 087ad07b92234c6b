"""The tree of joints in motion: angles between bones, joints from bones, bones that keep their length."""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.skeletons import Skeleton


def joint_angles(xyz: Float[Tensor, "*batch V C"], skeleton: Skeleton) -> Float[Tensor, "*batch A"]:
    """Return, for each bone that hangs on another bone, the angle between the two in radians, 0 when straight.

    Computed as ``2 atan2(|u - w|, |u + w|)`` of the unit bones u and w, which, unlike the arc cosine, has a bounded
    derivative near 0 and pi. An angle at a bone without length is zero.

    Examples
    --------
    >>> from funnybone.skeletons import Skeleton
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> bent = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.3, 0.2, 0.0]])
    >>> joint_angles(bent, arm).rad2deg()
    tensor([90.])
    """
    place = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    pairs = [(place[child], place[parent]) for child, parent in skeleton.bones if parent in place]
    outer, inner = [outer for outer, _ in pairs], [inner for _, inner in pairs]
    bones = skeleton.bone_vectors(xyz)
    unit = torch.nn.functional.normalize(bones, dim=-1)
    apart, along = unit[..., outer, :] - unit[..., inner, :], unit[..., outer, :] + unit[..., inner, :]
    angle = 2 * torch.atan2(torch.linalg.vector_norm(apart, dim=-1), torch.linalg.vector_norm(along, dim=-1))
    length = torch.linalg.vector_norm(bones, dim=-1)
    return torch.where((length[..., outer] > 0) & (length[..., inner] > 0), angle, 0)


@lru_cache(maxsize=64)
def levels(skeleton: Skeleton) -> tuple[tuple[int, ...], ...]:
    """Return the joints by how many bones away from the root they are: the root, its children, their children, ...

    What is done from the root to the leaves is done a level at a time, not a joint at a time.

    Examples
    --------
    >>> from funnybone.skeletons import Skeleton
    >>> levels(Skeleton("cross", ("hip", "spine", "head", "left_arm", "right_arm"), (-1, 0, 1, 1, 1)))
    ((0,), (1,), (2, 3, 4))
    """
    found: list[tuple[int, ...]] = [(skeleton.root,)]
    while sum(map(len, found)) < len(skeleton.joints):
        found.append(tuple(child for child, parent in skeleton.bones if parent in found[-1]))
    return tuple(found)


def outwardness(skeleton: Skeleton) -> Float[Tensor, " V"]:
    """Return how far out on its limb each joint is, counted in bones: 0 at the root, 1 where a chain ends.

    A joint with d bones to the root, and h to the farthest joint that hangs on it, has ``d / (d + h)``.

    Examples
    --------
    >>> from funnybone.skeletons import Skeleton
    >>> outwardness(Skeleton("cross", ("hip", "spine", "head", "left_arm", "left_hand"), (-1, 0, 1, 1, 3)))
    tensor([0.0000, 0.3333, 1.0000, 0.6667, 1.0000])
    """
    depth = {joint: distance for distance, level in enumerate(levels(skeleton)) for joint in level}
    height = dict.fromkeys(depth, 0)
    for joint in reversed(skeleton.topological_order[1:]):
        parent = skeleton.parents[joint]
        height[parent] = max(height[parent], height[joint] + 1)
    return torch.tensor([depth[joint] / max(depth[joint] + height[joint], 1) for joint in range(len(depth))])


def triplets(skeleton: Skeleton) -> tuple[tuple[int, int, int], ...]:
    """Return (outer joint, joint, outer joint) wherever two bones meet at an angle that a body holds.

    Those are each bone with the bone that it hangs on, and at the root, where bones hang on none, each two of them.

    Examples
    --------
    >>> from funnybone.skeletons import Skeleton
    >>> triplets(Skeleton("arms", ("chest", "left", "right", "left_hand"), (-1, 0, 0, 1)))
    ((0, 1, 3), (1, 0, 2))
    """
    hanging = [(skeleton.parents[joint], joint, child) for child, joint in skeleton.bones if joint != skeleton.root]
    first = [child for child, parent in skeleton.bones if parent == skeleton.root]
    meeting = [(one, skeleton.root, other) for place, one in enumerate(first) for other in first[place + 1 :]]
    return (*hanging, *meeting)


def ancestors(
    skeleton: Skeleton, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "V B"]:
    """Return the matrix A with one where a bone lies between the root and a joint, so that joints = root + A @ bones.

    A column says what a bone carries. Bones are in the order of ``skeleton.bones``. The matrix is remembered: do not
    write into it.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> xyz = torch.rand(4, 17, 3)
    >>> again = xyz[:, [COCO17.root]] + ancestors(COCO17) @ COCO17.bone_vectors(xyz)
    >>> torch.allclose(again, xyz, atol=1e-6)
    True
    """
    return _ancestors(skeleton, dtype, torch.device(device))


@lru_cache(maxsize=64)
def _ancestors(skeleton: Skeleton, dtype: torch.dtype, device: torch.device) -> Tensor:
    place = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    rows = [[0.0] * len(place) for _ in skeleton.joints]
    for joint in skeleton.topological_order[1:]:
        rows[joint] = list(rows[skeleton.parents[joint]])
        rows[joint][place[joint]] = 1.0
    with torch.inference_mode(False):  # what is remembered must serve callers that differentiate, too
        return torch.tensor(rows, dtype=dtype, device=device).reshape(len(rows), len(place))


def free_branches(free: Bool[Tensor, "*batch V"], skeleton: Skeleton) -> Bool[Tensor, "*batch V"]:
    """Return True where a joint is free and all that hang on it are.

    Examples
    --------
    >>> from funnybone.skeletons import Skeleton
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist", "thumb", "fingers"), (-1, 0, 1, 2, 2))
    >>> free_branches(torch.tensor([True, True, False, True, True]), arm)
    tensor([False, False, False,  True,  True])
    """
    held = (~free).float()
    below = held @ ancestors(skeleton, device=free.device)
    carried = torch.cat([below, held.sum(-1, keepdim=True)], -1)  # the root carries everything
    place = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    return carried[..., [place.get(joint, -1) for joint in range(len(skeleton.joints))]] == 0


def scale_bones(
    xyz: Float[Tensor, "N M T V C"], scale: Float[Tensor, "N M B"], skeleton: Skeleton
) -> Float[Tensor, "N M T V C"]:
    """Return clips whose bones are ``scale`` times as long, the same in all frames; root and directions stay.

    Forward kinematics from the offsets of ``xyz``: ``x'_child = x'_parent + scale (x_child - x_parent)``, in one
    matrix product. Linear in ``scale``.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> xyz = torch.rand(1, 1, 4, 17, 3)
    >>> longer = scale_bones(xyz, torch.full((1, 1, 16), 1.1), COCO17)
    >>> torch.allclose(COCO17.bone_lengths(longer), 1.1 * COCO17.bone_lengths(xyz), atol=1e-6)
    True
    """
    change = (scale - 1)[:, :, None, :, None] * skeleton.bone_vectors(xyz)
    return xyz + ancestors(skeleton, dtype=xyz.dtype, device=xyz.device) @ change


class _Level(NamedTuple):
    """The joints of one level: their indices, those of their bones, their parents' places in the level before."""

    joints: Tensor
    bones: Tensor
    parents: Tensor


@lru_cache(maxsize=64)
def _walk(skeleton: Skeleton, device: torch.device) -> tuple[tuple[_Level, ...], Tensor]:
    """The levels beyond the root, and the place of each joint in the joints of all levels in turn."""
    bone = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    by_level = levels(skeleton)
    in_turn = [joint for level in by_level for joint in level]
    with torch.inference_mode(False):
        walk = tuple(
            _Level(
                torch.tensor(level, device=device),
                torch.tensor([bone[joint] for joint in level], device=device),
                torch.tensor([before.index(skeleton.parents[joint]) for joint in level], device=device),
            )
            for before, level in pairwise(by_level)
        )
        return walk, torch.tensor([in_turn.index(joint) for joint in range(len(in_turn))], device=device)


def realign(
    xyz: Float[Tensor, "*batch V C"], clean: Float[Tensor, "*batch V C"], skeleton: Skeleton, *, tolerance: float = 0.0
) -> Float[Tensor, "*batch V C"]:
    """Return poses near ``xyz`` whose bones have the lengths of ``clean``, up to a share ``tolerance`` of them.

    From the root, which stays, to the leaves, each joint goes to the point nearest to it at its bone's length from
    where its parent went: ``x'_j = x'_p + b (x_j - x'_p) / |x_j - x'_p|``. Because a joint is aimed at from where
    its parent is now, errors do not add up along a chain as they do where bones keep their directions. A joint that
    lies right already, to rounding, stays exactly where it is, so realigned poses come back unchanged; one that lies
    on its parent takes the direction of the clean bone.

    Differentiable with respect to both; at a joint that stays, too, the derivative is that of the formula. Work is
    a step for each level of the tree, whatever the batch.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> clean = torch.rand(8, 17, 3)
    >>> moved = realign(clean + 0.1 * torch.randn(8, 17, 3), clean, COCO17)
    >>> torch.allclose(COCO17.bone_lengths(moved), COCO17.bone_lengths(clean), atol=1e-6)
    True
    """
    walk, places = _walk(skeleton, xyz.device)
    straight = skeleton.bone_vectors(clean)
    wanted = torch.linalg.vector_norm(straight, dim=-1, keepdim=True)
    rounding = 4 * torch.finfo(xyz.dtype).eps * xyz.detach().abs().amax((-1, -2), keepdim=True)
    level = xyz[..., [skeleton.root], :]
    placed = [level]
    for joints, bones, parents in walk:
        parent, joint = level.index_select(-2, parents), xyz.index_select(-2, joints)
        length, offset = wanted.index_select(-2, bones), joint - parent
        found = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        direction = torch.where(found > 0, offset, straight.index_select(-2, bones))
        size = torch.where(found > 0, found, length)
        length = found.clamp((1 - tolerance) * length, (1 + tolerance) * length) if tolerance else length
        moved = parent + direction * (length / torch.where(size > 0, size, 1))
        right = (found - length).abs() <= rounding
        level = torch.where(right, joint.detach() + (moved - moved.detach()), moved)
        placed.append(level)
    return torch.cat(placed, -2).index_select(-2, places)
