"""How far elbows and knees bend: limits that anatomy knows, beside those that recordings teach."""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.motion.angles import AngleMotion
from funnybone.motion.rotations import turned
from funnybone.motion.turns import turns
from funnybone.skeletons import Skeleton

# From a straight limb. Bent by hand, flesh meets flesh at about 160 degrees: a round figure of ours, no table's. The
# joints of recordings lie beside those of the bones, by which a bend can come out about a tenth of a radian larger.
FARTHEST = math.radians(160) + 0.1

# The joint at which a limb bends, as skeletons call it without its side: by name, by the segment that begins there
# (LeftForeArm, LeftLeg), or by the bone that ends there (lhumerus, lfemur).
NAMES = ("elbow", "knee", "forearm", "leg", "humerus", "femur")
SIDES = ("left", "right", "l", "r")
ROUNDED = 1e-6  # radians: a clip's own bend is not turned back
SAMPLES, HALVINGS = 64, 20


class Hinges(NamedTuple):
    """The elbows and knees of a skeleton.

    Parameters
    ----------
    turn : (H,)
        The place of each in theta.
    near, far : (H,)
        The bone that leads to each and the one that it carries, as places in ``skeleton.bones``.
    """

    turn: Tensor
    near: Tensor
    far: Tensor


@lru_cache(maxsize=64)
def hinges(skeleton: Skeleton, device: torch.device) -> Hinges:
    """Return the elbows and knees that a skeleton's names tell, where each carries one bone; it is remembered.

    Examples
    --------
    >>> from funnybone.skeletons import HDM05
    >>> [HDM05.joints[HDM05.bones[bone][0]] for bone in hinges(HDM05, torch.device("cpu")).near]
    ['lfemur', 'rfemur', 'lhumerus', 'rhumerus']
    """
    named = {one for name in NAMES for side in SIDES for one in (f"{side}{name}", f"{name}{side}")}
    bone = {child: place for place, (child, _) in enumerate(skeleton.bones)}
    far = {parent: place for place, (_, parent) in enumerate(skeleton.bones)}
    found = [
        joint
        for joint, name in enumerate(skeleton.joints)
        if name.lower().replace("_", "") in named and joint in bone and skeleton.parents.count(joint) == 1
    ]
    order = turns(skeleton)
    tensor = partial(torch.tensor, dtype=torch.long, device=device)
    with torch.inference_mode(False):  # what is remembered must serve callers that differentiate, too
        return Hinges(
            tensor([order.index(skeleton.joints[joint]) for joint in found]),
            tensor([bone[joint] for joint in found]),
            tensor([far[joint] for joint in found]),
        )


def bends(motion: AngleMotion) -> Float[Tensor, "N M T H"]:
    """Return by how many radians each elbow and knee is bent in each frame; a straight limb by none.

    Examples
    --------
    >>> arm = Skeleton("arm", ("shoulder", "left_elbow", "wrist"), (-1, 0, 1))
    >>> theta = torch.zeros(1, 1, 1, 2, 3)
    >>> theta[..., 1, 0] = 2.5
    >>> motion = AngleMotion(torch.zeros(1, 1, 1, 3), theta, torch.tensor([[[[0.3, 0.25]]]]), torch.eye(3)[None, None],
    ...                      torch.tensor([[0.0, -1.0, 0.0]] * 2), torch.ones(1, 1, 1, dtype=torch.bool), arm)
    >>> bends(motion).item()
    2.5
    """
    joint = hinges(motion.skeleton, motion.theta.device)
    turn = motion.theta.index_select(-2, joint.turn).double()
    return _bend(turn, *_resting(motion, joint)).to(motion.theta.dtype)


def farthest_bends(clean: AngleMotion) -> Float[Tensor, "N M T H"]:
    """Return how far elbows and knees may bend in each frame: as anatomy has it, or as far as the clip itself does."""
    return bends(clean).clamp(min=FARTHEST)


def bends_of(xyz: Float[Tensor, "N M T V 3"], skeleton: Skeleton) -> Float[Tensor, "N M T H"]:
    """Return by how many radians each elbow and knee of positions is bent; zero where a bone has no length.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(1, frames=4)
    >>> bends_of(clips.xyz, clips.skeleton).shape
    torch.Size([1, 1, 4, 4])
    """
    joint, bones = hinges(skeleton, xyz.device), skeleton.bone_vectors(xyz).double()
    return _between(bones[..., joint.near, :], bones[..., joint.far, :]).to(xyz.dtype)


def no_farther(
    theta: Float[Tensor, "N M T J 3"], clean: AngleMotion, farthest: Float[Tensor, "N M L H"]
) -> Float[Tensor, "N M T J 3"]:
    """Return rotations whose elbows and knees went from the clean ones only until they were bent too far.

    Each rotation vector goes straight from the clean one to where it is, and stops where its limb is first bent
    farther, even if it would come out on the other side: a forearm does not go through the upper arm. So whatever is
    between the clean rotations and those that come back may be reached, too, and limits of the numbers that the clean
    ones keep are kept. A part of the way that is bent too far and shorter than a sixty-fourth of it can be missed.

    Parameters
    ----------
    theta : Float[Tensor, "N M T J 3"]
        Rotation vectors in radians.
    clean : AngleMotion
        The clean clips.
    farthest : Float[Tensor, "N M L H"]
        Largest bends in radians, at least those of the clean clips; of each frame (L is T) or of all (L is one).
    """
    joint = hinges(clean.skeleton, theta.device)
    aim, own = (part.index_select(-2, joint.turn).double() for part in (theta, clean.theta))
    near, far = (bone.expand_as(aim) for bone in _resting(clean, joint))
    most = farthest.double().expand(aim.shape[:-1]) + ROUNDED
    # A turn bends a limb by no more than its own angle; of the angles on the way, the largest is at one of its ends.
    turned = torch.maximum(torch.linalg.vector_norm(aim, dim=-1), torch.linalg.vector_norm(own, dim=-1))
    may = _between(near, far) + turned > most
    if not bool(may.any()):
        return theta
    start, way, near, far, most = own[may], (aim - own)[may], near[may], far[may], most[may]

    shares = torch.linspace(0, 1, SAMPLES + 1, dtype=way.dtype, device=way.device)[1:, None]
    beyond = _bend(start + shares[..., None] * way, near, far) > most
    inside = beyond.to(torch.uint8).argmax(0).to(way.dtype) / SAMPLES  # the last share before the first that is not
    for halving in range(1, HALVINGS + 1):
        share = inside + 0.5**halving / SAMPLES
        inside = torch.where(_bend(start + share[:, None] * way, near, far) <= most, share, inside)
    stopped, bent = beyond.any(0)[:, None], theta.index_select(-2, joint.turn)
    bent[may] = torch.where(stopped, (start + inside[:, None] * way).to(theta), bent[may])
    return theta.index_copy(-2, joint.turn, bent)


def _resting(motion: AngleMotion, joint: Hinges) -> tuple[Tensor, Tensor]:
    """The directions of the bones before and after each elbow and knee, at rest."""
    rest = motion.rest.double()
    return rest.index_select(-2, joint.near), rest.index_select(-2, joint.far)


def _bend(turn: Tensor, near: Tensor, far: Tensor) -> Tensor:
    return _between(near, turned(turn, far))


def _between(one: Tensor, other: Tensor) -> Tensor:
    """The angle between directions."""
    one, other = torch.broadcast_tensors(one, other)
    across = torch.linalg.vector_norm(torch.linalg.cross(one, other), dim=-1)
    return torch.atan2(across, (one * other).sum(-1))
