"""Projection onto natural motion: angles within limits, bones that keep their length, the dynamics of a clean clip."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.motion.angles import AngleMotion, positions, to_angles, to_angles_near
from funnybone.motion.dynamics import stencil
from funnybone.motion.hinges import FARTHEST, farthest_bends, no_farther
from funnybone.motion.programmes import Paths, nearest_paths, programme


def project_angles(
    theta: Float[Tensor, "N T D"],
    clean: Float[Tensor, "N T D"],
    lower: Float[Tensor, "*n D"],
    upper: Float[Tensor, "*n D"],
    *,
    weight: float = 1.0,
    valid: Bool[Tensor, "N T"] | None = None,
) -> Float[Tensor, "N T D"]:
    r"""Return the angles nearest to some that keep limits and, as far as they are weighted, clean accelerations.

    Each angle over time is the solution of a quadratic programme of its own,

    .. math:: \min_x \|x - \theta\|^2 + w \|\ddot x - \ddot x_{clean}\|^2
              \quad \text{subject to} \quad l \le x_t \le u,

    where :math:`\ddot x` are second differences, per frame squared. All of them have one matrix and are solved together
    (`funnybone.motion.programmes`), in float64 inside. No gradient flows through
    the solution, unless ``weight`` is zero.

    With ``weight`` zero it is the projection onto the limits, and what it returns it returns again. With more, only
    what has the clean accelerations and keeps the limits comes back unchanged: each use draws the dynamics nearer.

    Parameters
    ----------
    theta, clean : Float[Tensor, "N T D"]
        Angles to project, and those whose accelerations are kept, in radians.
    lower, upper : Float[Tensor, "D"] or Float[Tensor, "N D"]
        Limits of each angle in radians, of all clips or of each; infinite where there is none.
    weight : float
        Weight w of accelerations, at least zero.
    valid : Bool[Tensor, "N T"], optional
        Which frames count; an acceleration does where all three of its frames do. All of them by default.

    Raises
    ------
    DataError
        For shapes that disagree, a lower limit above an upper one, or a negative weight.

    References
    ----------
    Diao et al., "BASAR: Black-box Attack on Skeletal Action Recognition", CVPR 2021, manifold projection. The published
    code gives this programme to a general interior-point solver.

    Examples
    --------
    A sudden turn by 1 rad in one frame of seven, with a limit of 0.3 rad: cut off, and shared out over its neighbours.

    >>> clean = torch.zeros(1, 7, 1)
    >>> theta = torch.nn.functional.one_hot(torch.tensor([3]), 7).reshape(1, 7, 1).float()
    >>> limit = torch.tensor([0.3])
    >>> project_angles(theta, clean, -limit, limit, weight=0.0).flatten()
    tensor([0.0000, 0.0000, 0.0000, 0.3000, 0.0000, 0.0000, 0.0000])
    >>> project_angles(theta, clean, -limit, limit).flatten()
    tensor([-0.0286,  0.0643,  0.1857,  0.3000,  0.1857,  0.0643, -0.0286])
    """
    n, t, d = theta.shape
    if clean.shape != theta.shape:
        raise DataError(f"angles have shape {tuple(theta.shape)}, the clean ones {tuple(clean.shape)}")
    for bound in (lower, upper):
        if bound.shape not in ((d,), (n, d)):
            raise DataError(f"limits have shape {tuple(bound.shape)}", hint=f"give {(d,)} or {(n, d)}")
    if not bool((lower <= upper).all()):
        raise DataError("a limit is no number, or a lower limit is above the upper one")
    if not 0 <= weight < math.inf:
        raise DataError(f"the weight of accelerations is {weight}", hint="give zero or more")
    low, high = (bound.double().expand(n, d) for bound in (lower, upper))
    if t < 3 or weight == 0:  # without accelerations, frames do not meet
        return torch.minimum(torch.maximum(theta, low[:, None].to(theta)), high[:, None].to(theta))
    if valid is None:
        valid = theta.new_ones(n, t, dtype=torch.bool)
    counted = stencil(valid[:, None], 2)[:, 0]
    found = torch.empty_like(theta)
    # Clips differ in their matrix by which frames count alone: most often there is one pattern.
    patterns, which = counted.unique(dim=0, return_inverse=True)
    for place, pattern in enumerate(patterns):
        rows = (which == place).nonzero().flatten()
        shared = programme(tuple(pattern.tolist()), float(weight), theta.device)
        aim, still = (part[rows].double().movedim(1, 0).reshape(t, -1) for part in (theta, clean))
        floor, ceiling = (bound[rows].reshape(-1) for bound in (low, high))
        solved = nearest_paths(Paths(aim, still, floor, ceiling), shared)
        found[rows] = solved.reshape(t, -1, d).movedim(0, 1).to(theta.dtype)
    return torch.minimum(torch.maximum(found, low[:, None].to(theta)), high[:, None].to(theta))


@dataclass(frozen=True, eq=False)
class Manifold:
    """The natural motions that a body could do in place of a clean one: on its bones, within limits, with its dynamics.

    A motion is a path (N, M, T, P): where the root is in metres, then the rotations of the joints in radians, as in the
    clean motion's angles. Bones keep the clean length of each frame, whatever the path.

    Parameters
    ----------
    clean : AngleMotion
        The clean motion.
    lower, upper : Float[Tensor, "N M P"]
        Limits of paths; infinite for the root.
    farthest : Float[Tensor, "N M 1 H"]
        How far elbows and knees bend (`funnybone.motion.hinges`).
    """

    clean: AngleMotion
    lower: Float[Tensor, "N M P"]
    upper: Float[Tensor, "N M P"]
    farthest: Float[Tensor, "N M 1 H"]

    @classmethod
    def around(cls, clean: AngleMotion, lower: Float[Tensor, "J 3"], upper: Float[Tensor, "J 3"]) -> "Manifold":
        """Return the manifold with these limits, wider where the clean motion itself is beyond them."""
        free = clean.theta.new_full((*clean.theta.shape[:2], 3), torch.inf)
        low = torch.minimum(clean.theta.amin(2), lower).flatten(2)
        high = torch.maximum(clean.theta.amax(2), upper).flatten(2)
        farthest = torch.where(clean.valid[..., None], farthest_bends(clean), FARTHEST).amax(2, keepdim=True)
        return cls(clean, torch.cat([-free, low], -1), torch.cat([free, high], -1), farthest)

    def __getitem__(self, rows: Int[Tensor, " K"] | Bool[Tensor, " N"]) -> "Manifold":
        """Return that of some of the clips."""
        return Manifold(self.clean[rows], self.lower[rows], self.upper[rows], self.farthest[rows])

    def paths(self, xyz: Float[Tensor, "N M T V 3"]) -> Float[Tensor, "N M T P"]:
        """Return positions as paths: inverse kinematics from the clean pose, with no regard to limits."""
        return _path(to_angles_near(xyz, self.clean))

    def far_paths(self, xyz: Float[Tensor, "N M T V 3"]) -> Float[Tensor, "N M T P"]:
        """Return positions of another motion as paths that do not jump: each joint's shortest turn from rest.

        Where a joint is turned by more than half a turn from the clean pose, the turns nearest to the clean one flicker
        from frame to frame; those from rest do not, as long as a joint keeps clear of a half turn from there.
        """
        clean = self.clean
        return _path(to_angles(xyz, clean.valid, clean.skeleton, clean.rest, facing=clean.facing))

    @property
    def clean_paths(self) -> Float[Tensor, "N M T P"]:
        """The clean motion."""
        return _path(self.clean)

    def limited(self, paths: Float[Tensor, "N M T P"]) -> Float[Tensor, "N M T P"]:
        """Return paths within the limits: each angle as near as it can be, then elbows and knees bent not too far."""
        paths = torch.minimum(torch.maximum(paths, self.lower[:, :, None]), self.upper[:, :, None])
        theta = no_farther(paths[..., 3:].unflatten(-1, (-1, 3)), self.clean, self.farthest)
        return torch.cat([paths[..., :3], theta.flatten(-2)], -1)

    def projected(self, paths: Float[Tensor, "N M T P"], weight: float = 1.0) -> Float[Tensor, "N M T P"]:
        """Return the nearest paths within the limits of angles whose dynamics are near those of the clean motion.

        Frames in which an elbow or knee then bends too far go back towards the clean pose, each for itself.
        """
        rows = [part.flatten(0, 1) for part in (paths, self.clean_paths, self.lower, self.upper, self.clean.valid)]
        return self.limited(project_angles(*rows[:4], weight=weight, valid=rows[4]).reshape(paths.shape))

    def positions(self, paths: Float[Tensor, "N M T P"]) -> Float[Tensor, "N M T V 3"]:
        """Return the joint positions of paths in metres; zero where a frame is not valid."""
        return positions(replace(self.clean, root=paths[..., :3], theta=paths[..., 3:].unflatten(-1, (-1, 3))))


def project(
    xyz: Float[Tensor, "N M T V 3"],
    clean: AngleMotion,
    lower: Float[Tensor, "J 3"],
    upper: Float[Tensor, "J 3"],
    *,
    weight: float = 1.0,
) -> Float[Tensor, "N M T V 3"]:
    """Return the natural motion nearest to clips, with the dynamics of clean ones and on their bones.

    Inverse kinematics from the clean pose, `project_angles`, elbows and knees that bend too far back towards the clean
    pose, and forward kinematics. The path of the root is kept to
    the clean accelerations as angles are, and has no limits. Frames that are not valid are zero.

    The angles that made the result are within limits. Those that are read back from it may be others of the same
    positions, and far beyond: nobody sees how a bone is turned about itself, so a twist that was cut off at one joint
    shows at the next. With ``weight`` zero the projection of angles is idempotent (`project_angles`), that of positions
    only where no limit is in the way.

    Parameters
    ----------
    xyz : Float[Tensor, "N M T V 3"]
        Joint positions in metres.
    clean : AngleMotion
        The clean clips.
    lower, upper : Float[Tensor, "J 3"]
        Limits of rotations in radians. A clean motion beyond them widens them to what it does itself.
    weight : float
        As for `project_angles`.

    Examples
    --------
    >>> from funnybone.motion.angles import to_angles
    >>> from funnybone.motion.rest import rest_pose
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(2)
    >>> rest = rest_pose(clips.xyz, clips.valid, clips.skeleton)
    >>> clean = to_angles(clips.xyz, clips.valid, clips.skeleton, rest, breathing=True)
    >>> limit = torch.full(clean.theta.shape[-2:], 0.1)
    >>> torch.allclose(project(clips.xyz, clean, -limit, limit), clips.xyz, atol=1e-5)
    True
    """
    manifold = Manifold.around(clean, lower, upper)
    return manifold.positions(manifold.projected(manifold.paths(xyz), weight))


def _path(motion: AngleMotion) -> Tensor:
    return torch.cat([motion.root, motion.theta.flatten(3)], -1)
