"""The rest pose that joint angles are counted from."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.motion.alignment import Body, aligned, pointing
from funnybone.motion.kinematics import ancestors
from funnybone.motion.turns import walk
from funnybone.skeletons import Skeleton

# A mean of few thousand poses does not move any more; a data set has a hundred thousand.
FRAMES = 5000


def rest_pose(
    xyz: Float[Tensor, "N M T V 3"], valid: Bool[Tensor, "N M T"], skeleton: Skeleton
) -> Float[Tensor, "B 3"]:
    """Return the direction of each bone in the middle of its motion, in the order of ``skeleton.bones``.

    From the root outwards: the mean direction of a bone as it is seen from the joint that carries it, after that joint
    was turned along with the bone that leads to it; where a joint carries several bones, the mean of their shape after
    it was turned to fit. Rotations are then as small as they can be and lie on all sides of zero, far from the half
    turn at which a bone's shortest rotation jumps. A pose with stretched or spread arms is half a turn away from
    arms that hang or are raised, and depends on who drew it.

    Axes are those of the body, where the skeleton knows its left and right: x to its left, y along it, upwards if it
    stands upright in the first frame, z to the front. Angles about x bend forwards and back.

    It is to be taken from the clips that limits are learned from, and kept with them. Frames beyond a few thousand
    are skipped evenly; the order of clips otherwise decides no more than rounding.

    Examples
    --------
    An arm whose elbow swings by a right angle to the left and to the right rests straight.

    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> angle = torch.linspace(-torch.pi / 2, torch.pi / 2, 9)
    >>> xyz = torch.zeros(1, 1, 9, 3, 3)
    >>> xyz[..., 1:, 1] = -0.3
    >>> xyz[0, 0, :, 2, 0] = 0.25 * angle.sin()
    >>> xyz[0, 0, :, 2, 1] -= 0.25 * angle.cos()
    >>> rest_pose(xyz, torch.ones(1, 1, 9, dtype=torch.bool), arm).abs().round(decimals=3)
    tensor([[0., 1., 0.],
            [0., 1., 0.]])
    """
    way, frames = walk(skeleton, xyz.device), xyz[valid]
    frames = frames[:: max(1, len(frames) // FRAMES)].double()
    child, parent = ([bone[end] for bone in skeleton.bones] for end in (0, 1))
    lengths = torch.linalg.vector_norm(frames[:, child] - frames[:, parent], dim=-1).median(0).values
    frames = frames[None, None]  # one clip of one person, whose bones are those of all
    body = Body.of(frames.new_zeros(len(child), 3), lengths[None, None, None])
    turned = torch.eye(3, dtype=frames.dtype, device=xyz.device).expand(*frames.shape[:3], 1, 3, 3)
    for level in way.levels:
        start = turned.index_select(-3, level.among)
        parents = frames[..., [skeleton.parents[end] for end in level.ends.tolist()], :]
        seen = pointing(level, body, frames, parents)
        # People face all ways: the root's bones have no mean before they are turned to the same.
        shape = _mean(seen, start.index_select(-3, level.owner))
        shape = seen[0, 0, 0] if level is way.levels[0] else shape
        for _ in range(4 if len(level.hubs) else 1):
            body.rest[level.heir_bones] = body.rest[level.bones] = torch.nn.functional.normalize(shape, dim=-1)
            joints, turned = aligned(level, body, frames, parents, start)
            start = start.index_copy(-3, level.hubs, joints.index_select(-3, level.hubs))
            shape = _mean(seen, start.index_select(-3, level.owner))
    rest = body.rest @ _axes(body, skeleton)
    nowhere = (rest == 0).all(-1, keepdim=True)
    return torch.where(nowhere, rest.new_tensor([0.0, 1.0, 0.0]), rest).to(xyz.dtype)


def _mean(seen: Tensor, frames: Tensor) -> Tensor:
    """The mean of vectors as seen from their frames; the first of them where they point all ways."""
    inside = (frames.mT @ seen[..., None]).squeeze(-1)[0, 0]
    mean = inside.mean(0)
    size = torch.linalg.vector_norm(inside, dim=-1).mean(0)
    return torch.where((torch.linalg.vector_norm(mean, dim=-1) > 0.05 * size)[:, None], mean, inside[0])


def _axes(body: Body, skeleton: Skeleton) -> Tensor:
    """The matrix whose columns are the axes of a resting body: to its left, along it, to its front."""
    eye = torch.eye(3, dtype=body.rest.dtype, device=body.rest.device)
    if not skeleton.pairs:
        return eye
    pose = ancestors(skeleton, dtype=eye.dtype, device=eye.device) @ (body.rest * body.lengths[0, 0, 0, :, None])
    left, right = (pose[list(side)] for side in zip(*skeleton.pairs, strict=True))
    across = torch.nn.functional.normalize((left - right).sum(0), dim=0)
    flat = (pose - pose.mean(0)) @ (eye - torch.outer(across, across))
    along = torch.linalg.eigh(flat.mT @ flat).eigenvectors[:, -1]
    along = torch.nn.functional.normalize(along - (along @ across) * across, dim=0)
    along = along * torch.where(along[along.abs().argmax()] < 0, -1, 1)
    axes = torch.stack([across, along, torch.linalg.cross(across, along)], -1)
    return axes if bool(torch.linalg.det(axes) > 0.5) else eye
