"""One step of inverse kinematics: the joints of a level are turned until their bones point where they were recorded."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.motion.rotations import nearest_rotation, shortest
from funnybone.motion.turns import Level

# A bone shorter than this share of a body's mean bone points nowhere: 25 micrometres where that is 25 cm.
POINT = 1e-4


class Body(NamedTuple):
    """The bones of each person, in all frames (L is one) or in each.

    Parameters
    ----------
    rest : Float[Tensor, "*each B 3"]
        Where they point while nothing is turned.
    lengths : Float[Tensor, "N M L B"]
        How long they are.
    solid : Bool[Tensor, "N M L B"]
        Which are long enough to point anywhere.
    """

    rest: Float[Tensor, "*each B 3"]
    lengths: Float[Tensor, "N M L B"]
    solid: Bool[Tensor, "N M L B"]

    @classmethod
    def of(cls, rest: Float[Tensor, "*each B 3"], lengths: Float[Tensor, "N M L B"]) -> "Body":
        """Return the body with these bones, in float64."""
        lengths = lengths.double()
        return cls(rest.double(), lengths, lengths > POINT * lengths.mean(-1, keepdim=True))

    def drawn(self, bones: Tensor) -> Float[Tensor, "N M L K 3"]:
        """Return some of the bones as vectors at rest."""
        return self.rest.index_select(-2, bones) * self.lengths.index_select(-1, bones)[..., None]


def pointing(
    level: Level, body: Body, xyz: Float[Tensor, "N M T V 3"], parents: Float[Tensor, "N M T K 3"]
) -> Float[Tensor, "N M T K 3"]:
    """Return where the bones of a level point, from their near ends; a bone without length as the one that follows."""
    firm = body.solid.index_select(-1, level.bones)[..., None]
    return torch.where(firm, xyz.index_select(-2, level.ends), xyz.index_select(-2, level.heirs)) - parents


def aligned(
    level: Level,
    body: Body,
    xyz: Float[Tensor, "N M T V 3"],
    parents: Float[Tensor, "N M T K 3"],
    start: Float[Tensor, "N M T L 3 3"],
    guide: Float[Tensor, "N M T J 3 3"] | None = None,
) -> tuple[Float[Tensor, "N M T L 3 3"], Float[Tensor, "N M T K 3 3"]]:
    """Return how a level's joints are turned, and how its bones are, that they point at the recorded joints.

    Parameters
    ----------
    level : Level
        L joints and the K bones that they carry.
    body : Body
        The bones at rest.
    xyz : Float[Tensor, "N M T V 3"]
        The recorded joints.
    parents : Float[Tensor, "N M T K 3"]
        Where each bone begins.
    start : Float[Tensor, "N M T L 3 3"]
        Joints to begin with. They, and the bones with them, are turned no further than the recorded joints ask for.
    guide : Float[Tensor, "N M T J 3 3"], optional
        How bones that share a joint are turned against it to begin with. Bones without length then have no say.
    """
    firm = body.solid.index_select(-1, level.bones)[..., None]
    seen = pointing(level, body, xyz, parents)
    bones = start.index_select(-3, level.owner)
    if guide is not None:
        own = bones.index_select(-3, level.shared) @ guide.index_select(-3, level.own)
        bones = bones.index_copy(-3, level.shared, own)
    if len(level.hubs):
        there = _turned(bones, body.drawn(level.bones))
        if guide is None:
            there = torch.where(firm, there, _turned(bones, body.drawn(level.heir_bones)))
        pairs = torch.zeros_like(start).index_add(-3, level.owner, seen[..., :, None] * there[..., None, :])
        fit = nearest_rotation(pairs.index_select(-3, level.hubs))
        start = start.index_copy(-3, level.hubs, fit @ start.index_select(-3, level.hubs))
        own = fit.index_select(-3, level.hub) @ bones.index_select(-3, level.shared)
        bones = bones.index_copy(-3, level.shared, own)
    there = _turned(bones, body.rest.index_select(-2, level.bones))
    bones = shortest(there, torch.where(firm, seen, 0)) @ bones
    # A joint that carries one bone turns with it.
    joints = bones.index_select(-3, level.first)
    return joints.index_copy(-3, level.hubs, start.index_select(-3, level.hubs)), bones


def _turned(frames: Tensor, vectors: Tensor) -> Tensor:
    return (frames @ vectors[..., None]).squeeze(-1)
