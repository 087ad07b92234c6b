"""How far elbows and knees bend: limits that anatomy knows, beside those that recordings teach."""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.motion.angles import AngleMotion
from funnybone.motion.rotations import matrix
from funnybone.motion.turns import turns
from funnybone.skeletons import Skeleton

# From a straight limb. By hand, an elbow and a knee are bent by 160 degrees before flesh meets flesh; the joints of
# recordings lie beside those of the bones, by which a bend can come out about a tenth of a radian larger.
FARTHEST = math.radians(160) + 0.1

# The joint at which a limb bends, as skeletons call it without its side: by name, by the segment that begins there
# (LeftForeArm, LeftLeg), or by the bone that ends there (lhumerus, lfemur).
NAMES = ("elbow", "knee", "forearm", "leg", "humerus", "femur")
SIDES = ("left", "right", "l", "r")
ROUNDED = 1e-6  # radians: a clip's own bend is not turned back
HALVINGS = 24


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


def no_farther(
    theta: Float[Tensor, "N M T J 3"], clean: AngleMotion, farthest: Float[Tensor, "N M L H"]
) -> Float[Tensor, "N M T J 3"]:
    """Return rotations without bends that are too far: those elbows and knees go back towards the clean ones.

    Rotation vectors go straight back, so that they stay within limits of their numbers that the clean ones keep.

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
    turn, own = (part.index_select(-2, joint.turn).double() for part in (theta, clean.theta))
    near, far = (bone.expand_as(turn) for bone in _resting(clean, joint))
    most = farthest.double().expand(turn.shape[:-1]) + ROUNDED
    beyond = _bend(turn, near, far) > most
    if not bool(beyond.any()):
        return theta
    aim, own, near, far, most = (part[beyond] for part in (turn, own, near, far, most))
    inside = torch.zeros_like(most)  # share of the way that is known to be
    for halving in range(1, HALVINGS + 1):
        share = inside + 0.5**halving
        inside = torch.where(_bend(torch.lerp(own, aim, share[:, None]), near, far) <= most, share, inside)
    turn[beyond] = torch.lerp(own, aim, inside[:, None])
    return theta.index_copy(-2, joint.turn, torch.where(beyond[..., None], turn, theta[..., joint.turn, :]).to(theta))


def _resting(motion: AngleMotion, joint: Hinges) -> tuple[Tensor, Tensor]:
    """The directions of the bones before and after each elbow and knee, at rest."""
    rest = motion.rest.double()
    return rest.index_select(-2, joint.near), rest.index_select(-2, joint.far)


def _bend(turn: Tensor, near: Tensor, far: Tensor) -> Tensor:
    turned = (matrix(turn) @ far[..., None]).squeeze(-1)
    across = torch.linalg.vector_norm(torch.linalg.cross(near.expand_as(turned), turned), dim=-1)
    return torch.atan2(across, (near * turned).sum(-1))
