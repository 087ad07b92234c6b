"""Motion as a path of the root, rotations of joints and lengths of bones: inverse kinematics, and forward ones back."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.motion.alignment import Body, aligned
from funnybone.motion.forward import joints_from_root
from funnybone.motion.rotations import matrix, rotvec
from funnybone.motion.turns import walk
from funnybone.motion.unwrapping import held, nearest_turn, unwrapped
from funnybone.skeletons import Skeleton


@dataclass(frozen=True, eq=False)
class AngleMotion:
    """Clips described by how joints are turned, on bones that keep their length.

    Parameters
    ----------
    root : Float[Tensor, "N M T 3"]
        Where the root is, in metres.
    theta : Float[Tensor, "N M T J 3"]
        Rotation vectors in radians, in the order of `funnybone.motion.turns.turns`: each joint that carries others,
        turned against the bone that leads to it; then each bone that shares its near end with others, turned against
        that joint. The root's first rotation is counted from ``facing``.
    lengths : Float[Tensor, "N M L B"]
        Length of each bone of each person in metres, in the order of ``skeleton.bones``; in all frames (L is one) or in
        each (L is T).
    facing : Float[Tensor, "N M 3 3"]
        How the root is turned where its rotation is zero: as in the middle one of the valid frames. Clips do not differ
        in theta by where in the room a person faces, and a root stays clear of full turns as long as it can.
    rest : Float[Tensor, "*each B 3"]
        Direction of each bone where all rotations are zero: one rest pose (`funnybone.motion.rest.rest_pose`), or one
        for each frame, (N, M, T, B, 3).
    valid : Bool[Tensor, "N M T"]
        Which frames of which persons count. In the others ``root`` and ``theta`` stay as in the last valid frame, so
        that they do not jump; all of an absent person is zero.
    skeleton : Skeleton
        The joints.
    """

    root: Float[Tensor, "N M T 3"]
    theta: Float[Tensor, "N M T J 3"]
    lengths: Float[Tensor, "N M L B"]
    facing: Float[Tensor, "N M 3 3"]
    rest: Float[Tensor, "*each B 3"]
    valid: Bool[Tensor, "N M T"]
    skeleton: Skeleton

    def flat(self) -> Float[Tensor, "N T D"]:
        """Return the angles of each frame in one row, D = M * J * 3: persons, rotations, axes."""
        return self.theta.transpose(1, 2).flatten(2)

    def __getitem__(self, rows: Int[Tensor, " K"] | Bool[Tensor, " N"]) -> "AngleMotion":
        """Return some of the clips."""
        chosen = {key: getattr(self, key)[rows] for key in ("root", "theta", "lengths", "facing", "valid")}
        return replace(self, **chosen, rest=self.rest if self.rest.ndim == 2 else self.rest[rows])

    def with_flat(self, theta: Float[Tensor, "N T D"]) -> "AngleMotion":
        """Return the motion with other angles, given as `flat` gives them."""
        n, m, t, j, _ = self.theta.shape
        return replace(self, theta=theta.reshape(n, t, m, j, 3).transpose(1, 2))


def positions(motion: AngleMotion) -> Float[Tensor, "N M T V 3"]:
    """Return the joint positions of a motion in metres: forward kinematics, zero where a frame is not valid.

    Differentiable in the root, in theta and in the lengths of bones, in the precision of theta
    (`funnybone.motion.forward`).

    Examples
    --------
    A forearm that hangs straight down from the elbow, and is bent by a right angle.

    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> theta = torch.zeros(1, 1, 1, 2, 3)
    >>> theta[..., 1, 0] = -torch.pi / 2
    >>> motion = AngleMotion(torch.zeros(1, 1, 1, 3), theta, torch.tensor([[[[0.3, 0.25]]]]), torch.eye(3)[None, None],
    ...                      torch.tensor([[0.0, -1.0, 0.0]] * 2), torch.ones(1, 1, 1, dtype=torch.bool), arm)
    >>> positions(motion)[0, 0, 0, 2].round(decimals=3)
    tensor([ 0.0000, -0.3000,  0.2500])
    """
    there = joints_from_root(motion.theta, motion.lengths, motion.rest, motion.skeleton)
    # One product for all joints of all frames of a person: clips face one way as long as they last.
    faced = (there.flatten(2, 3) @ motion.facing.mT).view_as(there)
    xyz = faced + motion.root[..., None, :]
    return torch.where(motion.valid[..., None, None], xyz, 0)


def to_angles(
    xyz: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
    rest: Float[Tensor, "B 3"],
    *,
    breathing: bool = False,
    facing: Float[Tensor, "N M 3 3"] | None = None,
) -> AngleMotion:
    """Return clips in joint angles: inverse kinematics without iterations, differentiable, in float64 inside.

    A bone gets its median length over the valid frames, or with ``breathing`` the length that it has in each. From the
    root outwards, a joint that carries one bone is turned by the shortest rotation that points the bone at where the
    next joint was recorded, without a twist; one that carries several by the rotation that brings them all nearest to
    where they were (`nearest_rotation`), and then each of the bones by the shortest that is left. Clips whose bones
    keep their length come back exactly; where bones breathe, as in recordings of depth cameras, each joint comes to the
    point nearest to it that its bone reaches from where the joint before it is now, and `residual` says how far that
    is; with ``breathing`` they come back exactly, too. Rotation vectors are continuous over time as far as motion is
    (`unwrapped`).

    Bones without length are looked through: a joint is turned to fit the bone that follows on one. Where a bone points
    opposite to how it rests, the shortest rotation is one of many, and jumps from one to the other.

    Parameters
    ----------
    xyz : Float[Tensor, "N M T V C"]
        Joint positions in metres, of three coordinates.
    valid : Bool[Tensor, "N M T"]
        Which frames of which persons count.
    skeleton : Skeleton
        The joints.
    rest : Float[Tensor, "B 3"]
        What angles are counted from (`funnybone.motion.rest.rest_pose`): angles compare only over one rest pose.
    breathing : bool
        Let bones keep the length of each frame, so that L of ``lengths`` is T.
    facing : Float[Tensor, "N M 3 3"], optional
        What the root's rotation is counted from, to compare clips; each clip's own by default.

    Examples
    --------
    >>> from funnybone.motion.rest import rest_pose
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> angle = torch.linspace(0, torch.pi / 2, 5)
    >>> xyz = torch.zeros(1, 1, 5, 3, 3)
    >>> xyz[..., 1, 1] = xyz[..., 2, 1] = -0.3
    >>> xyz[0, 0, :, 2, 1] -= 0.25 * angle.cos()
    >>> xyz[0, 0, :, 2, 2] += 0.25 * angle.sin()
    >>> valid = torch.ones(1, 1, 5, dtype=torch.bool)
    >>> motion = to_angles(xyz, valid, arm, rest_pose(xyz, valid, arm))
    >>> torch.linalg.vector_norm(motion.theta[0, 0, :, 1].diff(dim=0), dim=-1) / torch.pi
    tensor([0.1250, 0.1250, 0.1250, 0.1250])
    >>> torch.allclose(positions(motion), xyz, atol=1e-6)
    True
    """
    if xyz.shape[-1] != 3:
        raise DataError(f"joint angles: a joint has {xyz.shape[-1]} coordinates", hint="give clips in three dimensions")
    if len(rest) != len(skeleton.bones):
        raise DataError(
            f"joint angles: the rest pose has {len(rest)} bones, skeleton {skeleton.name!r} {len(skeleton.bones)}",
            hint="give the rest pose of this skeleton",
        )
    wide = xyz.double()
    lengths = _lengths(wide, valid, skeleton, breathing)
    facing = _facing(wide, lengths, valid, skeleton, rest) if facing is None else facing.double()
    body = Body.of(rest, lengths)
    theta = rotvec(_turned(wide, body, facing, skeleton)).transpose(2, 3)
    theta = unwrapped(theta, _for_each(theta, valid)).transpose(2, 3)
    there = valid.any(-1)[..., None, None]
    return AngleMotion(
        root=torch.where(there, held(xyz[..., skeleton.root, :], valid), 0),
        theta=torch.where(there[..., None], theta, 0).to(xyz.dtype),
        lengths=body.lengths.to(xyz.dtype),
        facing=facing.to(xyz.dtype),
        rest=rest.to(xyz.dtype),
        valid=valid,
        skeleton=skeleton,
    )


def as_it_is(xyz: Float[Tensor, "N M T V 3"], valid: Bool[Tensor, "N M T"], skeleton: Skeleton) -> AngleMotion:
    """Return clips whose angles are counted from themselves: all zero, on bones as long as they are in each frame.

    For searches around a clip. Nothing has to be found, nothing is lost, and small angles are far from where rotation
    vectors jump; but angles of two clips do not compare.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(2)  # of bones that breathe
    >>> torch.allclose(positions(as_it_is(clips.xyz, clips.valid, clips.skeleton)), clips.xyz, atol=1e-6)
    True
    """
    way = walk(skeleton, xyz.device)
    child, parent = ([bone[end] for bone in skeleton.bones] for end in (0, 1))
    drawn = torch.where(valid[..., None, None], xyz[..., child, :] - xyz[..., parent, :], 0)
    lengths = torch.linalg.vector_norm(drawn, dim=-1)
    return AngleMotion(
        root=xyz[..., skeleton.root, :],
        theta=xyz.new_zeros(*valid.shape, len(way.turns), 3),
        lengths=lengths,
        facing=torch.eye(3, dtype=xyz.dtype, device=xyz.device).expand(*valid.shape[:2], 3, 3),
        rest=torch.nn.functional.normalize(drawn, dim=-1),
        valid=valid,
        skeleton=skeleton,
    )


def to_angles_near(xyz: Float[Tensor, "N M T V 3"], motion: AngleMotion) -> AngleMotion:
    """Return clips in joint angles as near to those of another motion as they can be, on the bones of that motion.

    What an attack has moved, beside the clean motion: positions that are hardly moved have angles that hardly are. From
    the angles of the motion each joint is turned by the shortest rotation (or the best fit) to where the bones
    point now, so that where positions leave a turn open it is the motion's, and of the forms of a rotation vector the
    one next to the motion's is taken. Lengths, facing, rest pose and valid frames are those of the motion.

    Examples
    --------
    >>> from funnybone.motion.rest import rest_pose
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(2)
    >>> clean = to_angles(clips.xyz, clips.valid, clips.skeleton, rest_pose(clips.xyz, clips.valid, clips.skeleton))
    >>> moved = to_angles_near(clips.xyz + 1e-4 * torch.randn_like(clips.xyz), clean)
    >>> bool((moved.theta - clean.theta).abs().max() < 0.01)
    True
    """
    wide, valid = xyz.double(), motion.valid
    facing, near = motion.facing.double(), motion.theta.double()
    turned = _turned(wide, Body.of(motion.rest, motion.lengths), facing, motion.skeleton, matrix(near))
    theta = nearest_turn(rotvec(turned), near).transpose(2, 3)
    theta = held(theta, _for_each(theta, valid)).transpose(2, 3)
    there = valid.any(-1)[..., None, None]
    return replace(
        motion,
        root=torch.where(there, held(xyz[..., motion.skeleton.root, :], valid), 0).to(motion.root.dtype),
        theta=torch.where(there[..., None], theta, 0).to(motion.theta.dtype),
    )


def residual(motion: AngleMotion, xyz: Float[Tensor, "N M T V 3"]) -> Float[Tensor, " N"]:
    """Return the mean distance in metres between the joints of a motion and recorded ones, for each clip.

    Over valid frames, persons and joints; NaN where a clip has no valid frame. Where bones breathe this is the least
    that a search in angles moves a clip before it begins. ``tests/test_angles.py`` holds the mean over clips of 60
    frames below 0.02 mm on hdm05_11 (as recorded, below 0.001 mm; resampling shortens bones that turn), 14 mm on
    utd_mhad and 29 mm on nw_ucla, whose Kinect misjudges bones by centimetres.

    Examples
    --------
    >>> from funnybone.motion.rest import rest_pose
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(2)  # of bones that breathe
    >>> motion = to_angles(clips.xyz, clips.valid, clips.skeleton, rest_pose(clips.xyz, clips.valid, clips.skeleton))
    >>> residual(motion, positions(motion)), residual(motion, clips.xyz) > 0
    (tensor([0., 0.]), tensor([True, True]))
    """
    distance = torch.linalg.vector_norm(positions(motion) - xyz, dim=-1)
    valid = motion.valid[..., None].expand_as(distance)
    return torch.where(valid, distance, 0).flatten(1).sum(1) / valid.flatten(1).sum(1)


def _facing(wide: Tensor, lengths: Tensor, valid: Tensor, skeleton: Skeleton, rest: Tensor) -> Tensor:
    """How the root is turned in the middle one of the valid frames, (N, M, 3, 3)."""
    way, eye = walk(skeleton, wide.device), torch.eye(3, dtype=wide.dtype, device=wide.device)
    start = eye.expand(*valid.shape[:2], 1, 1, 3, 3)
    if not way.levels:
        return start[:, :, 0, 0]
    middle = (2 * valid.cumsum(-1) >= valid.sum(-1, keepdim=True)).to(torch.uint8).argmax(-1)[..., None, None]
    pose = wide.take_along_dim(middle[..., None], 2)
    body = Body.of(rest, lengths.take_along_dim(middle, 2) if lengths.shape[2] > 1 else lengths)
    root = pose[..., [skeleton.root] * len(way.levels[0].ends), :]
    return aligned(way.levels[0], body, pose, root, start)[0][:, :, 0, 0]


def _turned(wide: Tensor, body: Body, facing: Tensor, skeleton: Skeleton, guide: Tensor | None = None) -> Tensor:
    """The matrices (N, M, T, J, 3, 3) that turn joints and bones to where they were recorded."""
    way = walk(skeleton, wide.device)
    joints = wide[..., [skeleton.root], :]
    frames = facing[:, :, None, None].expand(*wide.shape[:3], 1, 3, 3)
    found = [frames[..., :0, :, :]]
    for level in way.levels:
        before = frames.index_select(-3, level.among)
        start = before if guide is None else before @ guide.index_select(-3, level.turn)
        parents = joints.index_select(-2, level.among).index_select(-2, level.owner)
        turned, frames = aligned(level, body, wide, parents, start, guide)
        shared = turned.index_select(-3, level.owner.index_select(0, level.shared))
        found += [before.mT @ turned, shared.mT @ frames.index_select(-3, level.shared)]
        # The next bones are aimed from where these end now, so that errors do not add up along a limb.
        joints = parents + (frames @ body.drawn(level.bones)[..., None]).squeeze(-1)
    return torch.cat(found, -3).index_select(-3, way.turns)


def _for_each(theta: Tensor, valid: Tensor) -> Tensor:
    """The valid frames (N, M, J, T) of rotations (N, M, J, T, 3)."""
    return valid[:, :, None].expand(theta.shape[:-1])


def _lengths(xyz: Tensor, valid: Tensor, skeleton: Skeleton, breathing: bool) -> Tensor:
    """The length (N, M, L, B) of each bone: in each frame, or its median over the valid ones; zero without a person."""
    child, parent = ([bone[end] for bone in skeleton.bones] for end in (0, 1))
    lengths = torch.linalg.vector_norm(xyz[..., child, :] - xyz[..., parent, :], dim=-1)
    if breathing:
        lengths = held(lengths, valid)
    else:
        lengths = torch.where(valid[..., None], lengths, torch.nan).nanmedian(2, keepdim=True).values
    return torch.where(valid.any(-1)[..., None, None], lengths, 0)
