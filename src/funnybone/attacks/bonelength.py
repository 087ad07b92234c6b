"""The adversarial bone length attack (Tanaka, Kera and Kawamoto, 2022): another body makes the same motion."""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.problem import Problem
from funnybone.attacks.rigid import free_joints, furthest_inside
from funnybone.errors import DataError
from funnybone.motion.kinematics import ancestors, free_branches, scale_bones
from funnybone.skeletons import Skeleton

# How often a step's positions go to the threat model and back to what scales of bones can make.
ROUNDS = 8

LOG = logging.getLogger(__name__)


def scale_gradient(
    clean: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], skeleton: Skeleton
) -> Float[Tensor, "N M B"]:
    """Return the derivative with respect to each bone's scale, from that with respect to positions.

    The transpose of `funnybone.motion.kinematics.scale_bones`: what a bone carries moves along it, in all frames.
    """
    carried = ancestors(skeleton, dtype=gradient.dtype, device=gradient.device).mT @ gradient
    return (carried * skeleton.bone_vectors(clean)).sum((2, 4))


def position_metric(clean: Float[Tensor, "N M T V C"], skeleton: Skeleton) -> Float[Tensor, "N M B B"]:
    """Return the matrix G of ``s' G s``, the squared displacement of all joints in all frames when scales change by s.

    Bones b and c move the joints that both carry, along themselves: ``G_bc = (A'A)_bc sum_t <b_t, c_t>``. In float64.
    """
    bones = skeleton.bone_vectors(clean.double())
    path = ancestors(skeleton, dtype=bones.dtype, device=bones.device)
    return path.mT @ path * torch.einsum("nmtbc,nmtdc->nmbd", bones, bones)


@register_attack("bonelength")
@dataclass(frozen=True, kw_only=True)
class BoneLengthAttack(GradientAttack):
    """Scale each person's bones, the same in all frames: a handful of numbers, and nothing happens over time.

    Signed steps on the scales, kept from ``1 - tolerance`` to ``1 + tolerance``. Positions follow from the clean
    offsets along the tree, ``x'_child = x'_parent + scale (x_child - x_parent)``; the root stays.

    Any goal will do, and any threat model, as far as it leaves something to do. In one that binds positions
    (`funnybone.threat.Linf`), all of a clip's scales go back towards one together until the clip is inside, so that
    they remain scales of bones; a bone that carries a joint which the threat model holds keeps its length. A clip in
    which no bone may change stays as it was, which is logged.

    Parameters
    ----------
    steps : int
        Gradient steps for each clip.
    tolerance : float
        Largest change of a bone's length, as a share of it.
    step_size : float
        Change of a scale in one step.
    symmetric : bool
        Bones that mirror each other, by the skeleton's left and right, share a scale.
    shared : bool
        The persons of a clip share their scales.

    References
    ----------
    Tanaka, Kera and Kawamoto, "Adversarial Bone Length Attack on Action Recognition", AAAI 2022, arXiv 2109.05830.
    Idea, forward kinematics, the L-infinity ball around one, and the defaults of ``steps``, ``tolerance`` and
    ``step_size`` are those of the authors' code; so is untargeted cross-entropy (``loss="ce"``; the default here is the
    goal's own loss, which a sure victim does not flatten). Ours: ``symmetric``, ``shared``, goals other than AB, what
    happens in a threat model, and the tree, which is the skeleton's (for NTU RGB+D, theirs hangs both the thumb and
    the tip on the hand). No figure of the paper is known to us.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("bonelength", steps=2, tolerance=0.05)(victim, clips)
    >>> bool(outcome.distances["bone_length_change"].max() <= 0.05)
    True
    """

    steps: int = 50
    tolerance: float = 0.1
    step_size: float = 0.01
    symmetric: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance < 1:
            raise DataError(f"attack bonelength: tolerance is {self.tolerance}", hint="give a share, from 0 to 1")
        if not 0 < self.step_size < float("inf"):
            raise DataError(f"attack bonelength: step_size is {self.step_size}", hint="give a share, above zero")

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        free = self._free_bones(problem)
        metric = position_metric(torch.where(problem.movable, problem.clean, 0), problem.clips.skeleton)
        # Rows of bones that cannot change, or have no length, are made those of the identity: they stay.
        moves = free & (metric.diagonal(dim1=-2, dim2=-1) > 0)
        metric = torch.where(moves[..., None] & moves[..., None, :], metric, 0)
        metric = metric + torch.diag_embed(torch.where(moves, 1e-6 * metric.diagonal(dim1=-2, dim2=-1), 1))
        problem.state["inverse"] = torch.cholesky_inverse(torch.linalg.cholesky(metric)).to(problem.clean.dtype)
        problem.state.update(free=moves, scale=torch.ones_like(free, dtype=problem.clean.dtype))
        held = int((~free.any(2)).all(1).sum())
        if held:
            LOG.warning("attack bonelength: the threat model lets no bone change in %d of %d clips", held, len(free))
        return problem.clean

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        clean, skeleton = problem.clean, problem.clips.skeleton
        direction = self._tied(problem, scale_gradient(clean, gradient, skeleton))
        change = problem.state["scale"] - 1 - self.step_size * direction.sign()
        change = self._nearer(problem, change)

        def along(share: Tensor) -> Tensor:
            return self._positions(problem, share[..., :1] * change)

        share = furthest_inside(problem.threat, clean, along, together=(1, 2) if self.shared else (2,))
        problem.state["scale"] = 1 + share[..., :1] * change
        return along(share)

    def _positions(self, problem: Problem, change: Float[Tensor, "N M B"]) -> Float[Tensor, "N M T V C"]:
        return torch.where(
            problem.movable, scale_bones(problem.clean, 1 + change, problem.clips.skeleton), problem.clean
        )

    def _tied(self, problem: Problem, values: Float[Tensor, "N M B"]) -> Float[Tensor, "N M B"]:
        """The mean over bones, and over present persons, that share a scale."""
        if self.symmetric:
            values = (values + values[..., list(problem.clips.skeleton.mirrored_bones)]) / 2
        if self.shared:
            present = problem.clips.valid.any(2, keepdim=True)
            values = torch.where(present, values, 0).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
        return values.expand_as(problem.state["scale"])

    def _nearer(self, problem: Problem, change: Float[Tensor, "N M B"]) -> Float[Tensor, "N M B"]:
        """Changes of scale whose positions are nearly inside: to the threat model and back to scales, in turn."""
        clean, skeleton = problem.clean, problem.clips.skeleton
        for _ in range(ROUNDS):
            change = torch.where(problem.state["free"], change.clamp(-self.tolerance, self.tolerance), 0)
            positions = self._positions(problem, change)
            back = problem.constrain(positions) - positions
            if not bool(back.any()):
                break
            nearest = problem.state["inverse"] @ scale_gradient(clean, back, skeleton)[..., None]
            change = change + self._tied(problem, nearest[..., 0])
        return torch.where(problem.state["free"], change.clamp(-self.tolerance, self.tolerance), 0)

    def _free_bones(self, problem: Problem) -> Bool[Tensor, "N M B"]:
        """Which bones of each person may change: those that carry nothing that is held in any valid frame."""
        skeleton = problem.clips.skeleton
        branches = free_branches(free_joints(problem), skeleton) | ~problem.movable[..., 0]
        present = problem.clips.valid.any(2, keepdim=True)
        free = branches.all(2)[..., [child for child, _ in skeleton.bones]] & present
        if self.symmetric:
            free = free & free[..., list(skeleton.mirrored_bones)]
        if self.shared:  # absent persons have no say
            free = (free | ~present).all(1, keepdim=True) & present
        return free
