"""Joint limits: how far joints turn, learned from recorded motion."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.motion.angles import AngleMotion, to_angles
from funnybone.motion.rest import rest_pose
from funnybone.motion.turns import turns
from funnybone.skeletons import Skeleton

FRAMES = 200_000  # more frames do not move a quantile any more; those beyond are skipped evenly


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Between which angles the joints of a body turn.

    Parameters
    ----------
    lower, upper : Float[Tensor, "J 3"]
        Limits of rotation vectors in radians, in the order of `funnybone.motion.turns.turns`; infinite for the root,
        which may face any way. How far elbows and knees bend is known beside these:
        `funnybone.motion.hinges`.
    rest : Float[Tensor, "B 3"]
        The rest pose that angles are counted from.
    skeleton : Skeleton
        The joints.
    """

    # Plain tensors: what comes from a file is checked below, in sentences.
    lower: Tensor
    upper: Tensor
    rest: Tensor
    skeleton: Skeleton

    def __post_init__(self) -> None:
        rotations, bones = len(turns(self.skeleton)), len(self.skeleton.bones)
        for what, values, shape in (
            ("lower", self.lower, (rotations, 3)),
            ("upper", self.upper, (rotations, 3)),
            ("rest", self.rest, (bones, 3)),
        ):
            if tuple(values.shape) != shape:
                raise DataError(
                    f"joint limits: {what} has shape {tuple(values.shape)}",
                    hint=f"skeleton {self.skeleton.name!r} asks for {shape}",
                )
        if not bool((self.lower <= self.upper).all()) or not bool(torch.isfinite(self.rest).all()):
            raise DataError("joint limits: a number is missing, or a lower limit is above the upper one")

    def angles(self, clips: Clips, *, breathing: bool = False) -> AngleMotion:
        """Return clips in joint angles, counted from the rest pose of the limits.

        Raises
        ------
        DataError
            For clips on another skeleton, or in two dimensions.
        """
        if clips.skeleton != self.skeleton:
            raise DataError(
                f"{clips.name}: on skeleton {clips.skeleton.name!r}, the joint limits on {self.skeleton.name!r}",
                hint="learn limits from clips on the same skeleton",
            )
        rest = self.rest.to(clips.xyz.device)
        return to_angles(clips.xyz, clips.valid, clips.skeleton, rest, breathing=breathing)

    def excess(self, motion: AngleMotion) -> Float[Tensor, "N M T J 3"]:
        """Return by how many radians each angle of a motion is beyond its limits; zero where a frame is not valid."""
        lower, upper = self.lower.to(motion.theta), self.upper.to(motion.theta)
        beyond = torch.maximum(motion.theta - upper, lower - motion.theta).clamp(min=0)
        return torch.where(motion.valid[..., None, None], beyond, 0)

    def to(self, device: torch.device | str) -> "JointLimits":
        """Return the limits on a device."""
        return replace(self, lower=self.lower.to(device), upper=self.upper.to(device), rest=self.rest.to(device))


def learn_limits(clips: Clips, *, share: float = 1e-3, margin: float = 0.1) -> JointLimits:
    """Return the limits that recorded clips keep.

    Each angle is below its upper limit in all but a share of the frames, and above its lower one, after both were moved
    outwards by a margin: recordings have single frames that are wrong, and people turn a little farther than they were
    recorded.

    Parameters
    ----------
    clips : Clips
        Recorded motion in three dimensions; training clips, never those that are tested.
    share : float
        Share of the frames that may be beyond each limit.
    margin : float
        In radians.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(8)
    >>> limits = learn_limits(clips, share=0.0)
    >>> float(limits.excess(limits.angles(clips)).max())
    0.0
    """
    if clips.xyz.shape[-1] != 3:
        raise DataError(f"{clips.name}: joints have two coordinates", hint="joint limits need three dimensions")
    if not 0 <= share < 0.5 or not margin >= 0:
        raise DataError(f"joint limits: share is {share}, margin {margin}", hint="give a share below 0.5, radians")
    rest = rest_pose(clips.xyz, clips.valid, clips.skeleton)
    motion = to_angles(clips.xyz, clips.valid, clips.skeleton, rest)
    return limits_of(motion, clips.valid, share, margin)


def limits_of(motion: AngleMotion, counted: Bool[Tensor, "N M T"], share: float, margin: float) -> JointLimits:
    """Return the limits that some of the frames of a motion keep (see `learn_limits`)."""
    theta = motion.theta[counted]
    theta = theta[:: max(1, len(theta) // FRAMES)]
    ranked, last = theta.sort(0).values, len(theta) - 1
    low, high = ranked[int(share * last)] - margin, ranked[last - int(share * last)] + margin
    facing = turns(motion.skeleton).index(motion.skeleton.joints[motion.skeleton.root])
    low[facing], high[facing] = -torch.inf, torch.inf
    return JointLimits(low, high, motion.rest, motion.skeleton)
