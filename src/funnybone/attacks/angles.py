"""Search in angle space: gradient attacks that turn joints, so that bones stay as long as they are."""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.as_text import attack_from
from funnybone.attacks.base import Attack, register_attack
from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.problem import Problem, Progress, Trace
from funnybone.attacks.rigid import free_joints, furthest_inside
from funnybone.errors import DataError
from funnybone.motion.angles import AngleMotion, as_it_is, positions, to_angles_near
from funnybone.motion.hinges import farthest_bends, no_farther
from funnybone.motion.turns import carried


@register_attack("angles")
@dataclass(frozen=True, kw_only=True)
class AngleSearch(Attack):
    """Let a gradient attack turn joints and move the root, instead of moving each joint for itself.

    Positions follow by forward kinematics, through which gradients come back, so every iterate is a pose of the same
    body: bones keep in each frame the length that they were recorded with. No joint is turned by more than ``slack``
    from where it was, nor, where several bones hang on one joint, any of these by more against it. So no angle between
    two bones leaves the range that it has in the clip by more than ``slack``, or twice that at such a joint. With the
    ``natural`` of the call, no angle leaves the joint limits of recorded motion either, and no elbow or knee bends
    farther than anatomy has it, but where the clean clip itself is beyond them; without, nothing knows where an elbow
    ends. How fast a body can turn is no limit.

    Of a threat model that was left, the nearest point is taken, and joints are turned to point there; what that still
    leaves outside goes back, frame by frame, on its way to the clean clip. So an L-infinity ball is searched well
    inside, for nearly no point of its surface is a pose. Turns that would move a joint that the threat model holds are
    not made.

    What the attack counts in metres is then metres for the root and radians for turns: 0.001 is a milliradian. Its
    losses, such as SMART's perceptual one, are still those of positions.

    Parameters
    ----------
    search : str
        The attack with its settings, as ``"pgd steps=20"``: one whose ``any_coordinates`` is true.
    slack : float
        Farthest that a joint may be turned from where it was, in radians.

    References
    ----------
    The search space is that of Diao et al., "BASAR: Black-box Attack on Skeletal Action Recognition", CVPR 2021,
    section 3.4: joint angles on bones that keep their length. The attack is this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("angles", search="smart steps=3")(victim, clips)
    >>> outcome.distances["bone_length_change"].max() < 1e-5
    tensor(True)
    """

    search: str = "smart"
    slack: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.slack <= 1.5:
            raise DataError(f"attack angles: slack is {self.slack}", hint="give radians above 0, up to 1.5")
        self.search_with()  # said now, where there is none of that name

    def search_with(self) -> GradientAttack:
        """Return the attack that searches."""
        attack = attack_from(self.search)
        if not isinstance(attack, GradientAttack) or not vars(type(attack)).get("any_coordinates"):
            raise DataError(
                f"attack angles: {attack.name} searches positions only",
                hint="search may be fgsm, pgd, mifgsm, apgd or smart, with settings",
            )
        return attack

    def run(self, problem: Problem, progress: Progress) -> Trace:
        if problem.clean.shape[-1] != 3:
            raise DataError("attack angles: joints have two coordinates", hint="give clips in three dimensions")
        turned = Turned.of(problem, self.slack)
        if len(problem) and not bool(turned.free.any()):
            raise DataError(
                f"attack angles: every turn moves joints that {problem.threat!r} holds",
                hint="free all joints that hang on one, such as a hand with its fingers",
            )
        trace = self.search_with().run(turned, progress)
        return replace(trace, xyz=turned.shown(trace.xyz))


@dataclass(frozen=True, eq=False)
class Turned(Problem):
    """A problem in which an iterate is how far the root moved, then how joints are turned, (N, M, T, 1 + J, 3)."""

    slack: float = field(kw_only=True)
    motion: AngleMotion = field(kw_only=True)  # the clean clips
    lower: Float[Tensor, "N M T J 3"] = field(kw_only=True)  # how far each angle may go from the clean one
    upper: Float[Tensor, "N M T J 3"] = field(kw_only=True)
    farthest: Float[Tensor, "N M T H"] | None = field(kw_only=True)  # how far elbows and knees bend, if limits count
    still: Float[Tensor, "N M T V C"] = field(kw_only=True)  # positions of the clean clips, as rounded on their way
    free: Bool[Tensor, "N M T W 1"] = field(kw_only=True)  # what moves no joint that the threat model holds

    @classmethod
    def of(cls, problem: Problem, slack: float) -> "Turned":
        """Return a problem as one of turns, in which nothing is turned yet."""
        parts = {part.name: getattr(problem, part.name) for part in dataclasses.fields(Problem)}
        held = ~free_joints(problem)[..., None, :]
        if problem.natural is None:
            # Angles that are all zero are far from where rotation vectors jump.
            motion = as_it_is(problem.clips.xyz, problem.clips.valid, problem.clips.skeleton)
            upper = torch.full_like(motion.theta, torch.inf)
            lower, farthest = -upper, None
        else:
            limits = problem.natural.limits
            motion = limits.angles(problem.clips, breathing=True)
            lower, upper = (limits.lower - motion.theta).clamp(max=0), (limits.upper - motion.theta).clamp(min=0)
            farthest = farthest_bends(motion)
        return cls(
            **parts,
            slack=slack,
            motion=motion,
            lower=lower,
            upper=upper,
            farthest=farthest,
            still=positions(motion),
            free=~(held & _moved(problem)).any(-1, keepdim=True),
        )

    @property
    def movable(self) -> Bool[Tensor, "N M T W 1"]:
        """True on valid frames of present persons, where no held joint would follow."""
        return super().movable & self.free

    @property
    def clean(self) -> Float[Tensor, "N M T W C"]:
        return self.clips.xyz.new_zeros(*self.free.shape[:-1], 3)

    def shown(self, xyz: Float[Tensor, "N M T W C"]) -> Float[Tensor, "N M T V C"]:
        with torch.autocast(xyz.device.type, enabled=False):  # positions keep their digits whatever the victim does
            motion = self.motion
            motion = replace(motion, root=motion.root + xyz[..., 0, :], theta=motion.theta + xyz[..., 1:, :])
            # What nothing turned stays where it was to the last digit.
            return self.clips.xyz + (positions(motion) - self.still)

    def spread(self, weights: Float[Tensor, " V"]) -> Float[Tensor, "W 1"]:
        moved = _moved(self).to(weights)
        return (moved @ weights / moved.sum(1))[:, None]

    def constrain(self, xyz: Float[Tensor, "N M T W C"]) -> Float[Tensor, "N M T W C"]:
        xyz = self._allowed(xyz)
        clean, there = self.clips.xyz, self.shown(xyz)
        outside = self.threat.violation(clean, there) > 0
        if not bool(outside.any()):
            return xyz
        part = cast(Turned, self.keep(outside))
        return xyz.index_put((outside,), part._returned(there[outside]))

    def _allowed(self, xyz: Tensor) -> Tensor:
        """Without turns that are not to be made, or too far."""
        xyz = torch.where(self.movable & torch.isfinite(xyz), xyz, 0)
        turned = xyz[..., 1:, :].clamp(self.lower, self.upper)
        angle = torch.linalg.vector_norm(turned, dim=-1, keepdim=True)
        turned = turned * (self.slack / angle.clamp(min=self.slack))
        if self.farthest is not None:
            theta = self.motion.theta
            turned = no_farther(theta + turned, self.motion, self.farthest) - theta
        return torch.cat([xyz[..., :1, :], turned], -2)

    def _returned(self, there: Tensor) -> Tensor:
        """Turned to point into the threat model, and back towards the clean clip where that is not enough."""
        clean, motion = self.clips.xyz, self.motion
        aim = self.threat.project(clean, torch.where(self.clips.valid[..., None, None], there, clean))
        near = to_angles_near(aim, motion)
        turned = near.theta - motion.theta
        way = self._allowed(torch.cat([(near.root - motion.root)[..., None, :], turned], -2))

        def along(share: Tensor) -> Tensor:
            return self.shown(way * share[..., None, None])

        return way * furthest_inside(self.threat, clean, along)[..., None, None]


def _moved(problem: Problem) -> Bool[Tensor, "W V"]:
    """Which joints the root, and each turn, moves."""
    skeleton = problem.clips.skeleton
    return torch.tensor([[True] * len(skeleton.joints), *carried(skeleton)], device=problem.clips.xyz.device)
