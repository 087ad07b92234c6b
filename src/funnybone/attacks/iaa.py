"""IAA (Zheng et al., 2020): bones, angles and speeds change by no more than so much, by multipliers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.adam import adam, evened
from funnybone.attacks.base import register_attack
from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.losses import Loss, Objective, objective
from funnybone.attacks.problem import Problem, Progress, Trace, achieved
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.goals import Goal
from funnybone.metrics.deviations import masked_mean
from funnybone.motion.dynamics import derivative, stencil
from funnybone.motion.kinematics import realign, triplets
from funnybone.skeletons import Skeleton

# How often bones, angles, speeds and the threat model are visited in turn, and the shares of what then remains of the
# way from the clean clip that are tried: where limits are wide, bones turn, and half of a way is no better than all.
ROUNDS = 4
SHARES = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def lengths(clean: Float[Tensor, "N M T V C"], skeleton: Skeleton) -> Float[Tensor, "N M T B"]:
    """Return what changes of bones are measured by: their lengths; the pose's mean length for bones without any."""
    found = skeleton.bone_lengths(clean)
    mean = found.mean(-1, keepdim=True)
    return torch.where(found > 1e-3 * mean, found, mean)


def changes(
    clips: Clips, xyz: Float[Tensor, "N M T V C"], *, bone_floor: float, speed_floor: float
) -> dict[str, Float[Tensor, "N M F K"]]:
    """Return by how much bones, angles and speeds changed, in every valid frame; zero in the others.

    Returns
    -------
    dict
        ``bone``: ``||b'| - |b|| / (|b| + bone_floor)`` for each bone. ``angle``: ``|d_p| / l + |d_e| / k + |d_m| (1 / l
        + 1 / k)`` for each triplet p, m, e with bones of length l = |p - m| and k = |e - m| and displacements d, which
        bounds the change of the angle at m to first order, in radians. ``speed``: ``|v' - v| / (|v| + speed_floor)``
        for each joint and pair of frames, with velocities in m/s. Floors are added as they are in the authors' code.
    """
    clean, skeleton, valid = clips.xyz, clips.skeleton, clips.valid[..., None]
    longer = skeleton.bone_lengths(xyz) - skeleton.bone_lengths(clean)
    bone = longer.abs() / (lengths(clean, skeleton) + bone_floor)
    angle = angle_change(clips, torch.linalg.vector_norm(xyz - clean, dim=-1))
    before = torch.linalg.vector_norm(derivative(clean, clips.fps, 1), dim=-1)
    speed = torch.linalg.vector_norm(derivative(xyz - clean, clips.fps, 1), dim=-1) / (before + speed_floor)
    return {
        "bone": torch.where(valid, bone, 0),
        "angle": torch.where(valid, angle, 0),
        "speed": torch.where(stencil(clips.valid, 1)[..., None], speed, 0),
    }


def angle_change(clips: Clips, moved: Float[Tensor, "N M T V"]) -> Float[Tensor, "N M T A"]:
    """Return the bound on the change of each triplet's angle, from how far each joint moved: see `changes`."""
    one, joint, other, first, second = _triplets(clips.skeleton)
    inverse = 1 / lengths(clips.xyz, clips.skeleton).clamp(min=torch.finfo(moved.dtype).tiny)
    at_first = (moved[..., one] + moved[..., joint]) * inverse[..., first]
    return at_first + (moved[..., other] + moved[..., joint]) * inverse[..., second]


def _triplets(skeleton: Skeleton) -> tuple[list[int], ...]:
    """The two outer joints of each triplet and the one between, and the two bones."""
    place = {frozenset(bone): index for index, bone in enumerate(skeleton.bones)}
    found = triplets(skeleton)
    one, joint, other = ([triplet[end] for triplet in found] for end in range(3))
    first, second = ([place[frozenset(bone)] for bone in zip(ends, joint, strict=True)] for ends in (one, other))
    return one, joint, other, first, second


def angles_cut(clips: Clips, delta: Float[Tensor, "N M T V C"], limit: float) -> Float[Tensor, "N M T V C"]:
    """Return displacements shortened, for each joint in each frame, until no angle changes by more than a limit."""
    moved = torch.linalg.vector_norm(delta, dim=-1)
    share = (limit / angle_change(clips, moved).clamp(min=1e-9)).clamp(max=1)
    corners = torch.tensor(_triplets(clips.skeleton)[:3], device=delta.device).flatten().expand(*moved.shape[:-1], -1)
    least = torch.ones_like(moved).scatter_reduce(-1, corners, share.repeat(1, 1, 1, 3), "amin")
    return delta * least[..., None]


def speeds_cut(
    clips: Clips, delta: Float[Tensor, "N M T V C"], limit: float, floor: float
) -> Float[Tensor, "N M T V C"]:
    """Return displacements whose changes from frame to frame are cut to what speeds allow, about their mean."""
    valid = clips.valid[..., None, None]
    before = torch.linalg.vector_norm(derivative(clips.xyz, clips.fps, 1), dim=-1, keepdim=True)
    allowed = limit * (before + floor) / clips.fps.reshape(-1, 1, 1, 1, 1)
    change = torch.diff(delta, dim=2)
    size = torch.linalg.vector_norm(change, dim=-1, keepdim=True)
    cut = change * (allowed / torch.where(size > 0, size, 1)).clamp(max=1)
    cut = torch.where(stencil(clips.valid, 1)[..., None, None], cut, change)  # nothing is asked across a gap
    path = torch.cat([torch.zeros_like(delta[:, :, :1]), cut.cumsum(2)], 2)
    frames = clips.valid.sum(2).clamp(min=1)[..., None, None, None]
    path = path + torch.where(valid, delta - path, 0).sum(2, keepdim=True) / frames
    return torch.where(valid, path, 0)


@register_attack("iaa")
@dataclass(frozen=True, kw_only=True)
class IAA(GradientAttack):
    """Reach the goal with bones, angles and speeds that hardly change: an augmented Lagrangian, solved by Adam.

    With the excesses h of `changes` over their limits, ``goal + sum over the three of mean(m h) + beta / 2 mean(h^2)``
    is descended, and after every ``inner`` steps the multipliers m of each bone, angle and joint in each frame grow by
    ``beta h``. Means are over valid frames of present persons only.

    Multipliers approach the limits and do not keep them. So each time that they grow, and at the end, a mended copy of
    the iterate is tried (one more query): bones, angles, speeds and the threat model are visited in turn, and what is
    left of the way from the clean clip is shortened, for each person, until all hold. **What is returned is inside the
    threat model and exceeds no limit by more than** ``tolerance``: the first such clip that achieves the goal, or,
    where none does, the one with the lowest loss. A goal reached at the price of a limit is no success here, and the
    limits are narrow: by default, a joint 25 cm from its neighbours may move about 6 mm, and one that rests may not
    move from frame to frame.

    Any goal and any threat model will do, none is needed.

    Parameters
    ----------
    steps : int
        Steps of Adam for each clip, in all.
    loss : {"margin", "goal", "ce", "dlr"}
        What leads to the goal. The margin ends at ``-confidence``; published are the margin for AB, and cross-entropy
        for SA.
    confidence : float
        By how much, in logits, the goal shall be reached before the margin pushes no longer.
    step_size : float
        About how far one step of Adam moves a coordinate, in metres.
    inner : int
        Steps from one growth of the multipliers to the next.
    beta : float
        Weight of the penalty, and rate of the multipliers.
    balanced : bool
        Scale the goal's gradient to root mean square one over a clip's coordinates, against the constraints' summed
        and not averaged: how narrow the limits are then does not depend on how sure the victim is. False: the plain sum
        of means, as published, in which the goal outweighs the constraints by orders of magnitude.
    noise : float
        Standard deviation of the start about the clean clip, in metres.
    bone_limit, angle_limit, speed_limit : float
        Largest change of a bone, as a share of its length; of an angle, in radians; of a speed, as a share of it.
    bone_floor, speed_floor : float
        Added to a bone's length, in metres, and to a joint's speed, in m/s, before a change is divided by them.
    tolerance : float
        By how much, in the units of the limits, a limit may be exceeded.

    References
    ----------
    Zheng et al., arXiv 2005.07151, 2020; called IAA by Wang et al., CVPR 2021. From the authors' code: constraints,
    hinges, augmented Lagrangian, margin, limits, ``beta``, ``inner`` and the number of steps; ``step_size``, floors and
    ``noise`` (off, or 0.01) too, but in metres, and in m/s at 30 frames a second (1e-4 m a frame is 3e-3 m/s). Ours:
    triplets from the skeleton's tree in place of 22 written down for NTU RGB+D; means over valid slots (theirs count
    absent persons); lengths for bones without any (`lengths`); ``balanced``; the mended copy, and that what is returned
    keeps the limits (theirs returns the last iterate and keeps none). The preset ``published`` leaves ``balanced`` out.
    No table of the paper is known to us.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> attack = fb.create_attack("iaa", steps=2)
    >>> outcome = attack(victim, clips)
    >>> bool((attack.excess(clips, outcome.adversarial.xyz) <= attack.tolerance).all())
    True
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": {"balanced": False}}

    steps: int = 1000
    loss: Loss = "margin"
    confidence: float = 1.0
    step_size: float = 1e-3
    inner: int = 10
    beta: float = 1.0
    balanced: bool = True
    noise: float = 0.0
    bone_limit: float = 0.01
    angle_limit: float = 0.1
    speed_limit: float = 0.1
    bone_floor: float = 1e-5
    speed_floor: float = 3e-3
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("step_size", "beta", "bone_limit", "angle_limit", "speed_limit", "bone_floor", "speed_floor"):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"attack iaa: {name} is {getattr(self, name)}", hint="give more than zero")
        for name in ("confidence", "noise", "tolerance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise DataError(f"attack iaa: {name} is {getattr(self, name)}", hint="give zero or more")
        if not self.bone_limit < 1:
            raise DataError(f"attack iaa: bone_limit is {self.bone_limit}", hint="give a share, below 1")
        if self.inner < 1:
            raise DataError(f"attack iaa: inner is {self.inner}", hint="give at least 1")

    def hinges(self, clips: Clips, xyz: Float[Tensor, "N M T V C"]) -> dict[str, Float[Tensor, "N M F K"]]:
        """Return by how much `changes` exceed their limits; zero where they do not."""
        limits = {"bone": self.bone_limit, "angle": self.angle_limit, "speed": self.speed_limit}
        found = changes(clips, xyz, bone_floor=self.bone_floor, speed_floor=self.speed_floor)
        return {name: (found[name] - limit).clamp(min=0) for name, limit in limits.items()}

    def excess(self, clips: Clips, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M"]:
        """Return the largest hinge of each person."""
        return torch.cat([hinge.flatten(2) for hinge in self.hinges(clips, xyz).values()], 2).amax(2)

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        zero = self.hinges(problem.clips, problem.clean)
        problem.state.update({f"multipliers.{name}": torch.zeros_like(hinge) for name, hinge in zero.items()})
        if not self.noise:
            return problem.clean
        return problem.clean + self.noise * problem.chance.normal(*problem.clean.shape[1:])

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        if k and k % self.inner == 0:
            for name, hinge in self.hinges(problem.clips, xyz).items():
                grown = problem.state[f"multipliers.{name}"] + self.beta * hinge
                problem.state[f"multipliers.{name}"] = grown
        penalty = self._penalty_gradient(problem, xyz)
        if self.balanced:
            count = problem.clips.valid.flatten(1).sum(1) * xyz[0, 0, 0].numel()
            gradient, penalty = evened(gradient, problem.movable), count[:, None, None, None, None] * penalty
        return xyz - self.step_size * adam(problem.state, "motion", gradient + penalty, k)

    def run(self, problem: Problem, progress: Progress) -> Trace:
        total, descended = len(problem), self._descended(problem.goal)
        best = problem.clean.clone()
        lowest = torch.full((total,), torch.inf, device=best.device)
        taken = torch.full((total,), self.steps, device=best.device)
        solved, blind = torch.zeros(2, total, dtype=torch.bool, device=best.device)
        place = torch.arange(total, device=best.device)  # of each standing clip among all

        def keep(places: Tensor, found: Tensor, loss: Tensor, fallen: Tensor, k: int) -> None:
            first = fallen & ~solved[places]
            better = first | ((fallen | ~solved[places]) & (loss < lowest[places]))
            best[places[better]], lowest[places[better]] = found[better], loss[better]
            taken[places[first]], solved[places[first]] = k, True

        xyz = problem.constrain(self.start(problem))
        for k in range(self.steps + 1):
            if k < self.steps:
                logits, loss, gradient = problem.gradient(xyz, descended)
            else:
                logits, loss, gradient = *problem.score(xyz, descended), torch.zeros_like(xyz)
            kept = (self.excess(problem.clips, xyz) <= self.tolerance).all(1)
            fallen = kept & self._fallen(problem, xyz, logits, searched=k < self.steps)
            keep(place[kept], xyz[kept], loss[kept], fallen[kept], k)
            if k and (k % self.inner == 0 or k == self.steps):
                asked = problem.can_ask() & ~(solved[place] & self.early_stop)
                if bool(asked.any()):
                    part = problem.keep(asked)
                    mended, inside = self.mended(part, xyz[asked])
                    if bool(inside.any()):
                        part, mended = part.keep(inside), mended[inside]
                        places = place[asked][inside]
                        answers, mended_loss = part.score(mended, descended)
                        keep(places, mended, mended_loss, achieved(part.goal, answers, part.reference), k)
            standing = problem.can_ask() & ~(solved[place] & self.early_stop)
            taken[place[~standing & ~solved[place]]] = k  # out of queries
            if k == self.steps or not bool(standing.any()):
                break
            gradient = torch.where(torch.isfinite(gradient).flatten(1).all(1)[:, None, None, None, None], gradient, 0)
            # Where the goal is reached the margin pushes no longer, and only the limits are left.
            unmoved = (gradient == 0).flatten(1).all(1) & ~achieved(problem.goal, logits, problem.reference)
            blind[place] |= unmoved
            place, xyz, gradient, problem = place[standing], xyz[standing], gradient[standing], problem.keep(standing)
            progress(total - len(place), int(solved.sum()), total)
            xyz = problem.constrain(self.step(problem, xyz, gradient, k))
        progress(total, int(solved.sum()), total)
        return Trace(best, solved, taken, blind)

    def mended(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"]
    ) -> tuple[Float[Tensor, "N M T V C"], Bool[Tensor, " N"]]:
        """Return clips near ``xyz`` that keep the limits and are inside the threat model, and which of them do so."""
        clips, clean = problem.clips, problem.clean
        for _ in range(ROUNDS):  # aimed a little inside, because each undoes a little of what the others did
            delta = realign(xyz, clean, clips.skeleton, tolerance=0.95 * self.bone_limit) - clean
            delta = angles_cut(clips, delta, 0.98 * self.angle_limit)
            delta = speeds_cut(clips, delta, 0.98 * self.speed_limit, self.speed_floor)
            xyz = problem.constrain(clean + delta)
        found, left = clean.clone(), clips.valid.any(2)
        for share in SHARES:
            tried = problem.constrain(clean + share * (xyz - clean)) if share < 1 else xyz
            good = left & (self.excess(clips, tried) <= self.tolerance)
            found, left = torch.where(good[:, :, None, None, None], tried, found), left & ~good
            if not bool(left.any()):
                break
        inside = problem.threat.violation(clean, found) <= 0  # persons may have gone different shares of the way
        return found, inside & (self.excess(clips, found) <= self.tolerance).all(1)

    def _descended(self, goal: Goal) -> Objective:
        plain = objective(self.loss, goal)
        if self.loss != "margin":
            return plain
        return lambda logits, reference: (plain(logits, reference) + self.confidence).clamp(min=0)

    def _penalty_gradient(self, problem: Problem, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        valid = problem.clips.valid
        xyz = xyz.detach().requires_grad_(True)
        penalty = xyz.new_zeros(len(xyz))
        with torch.enable_grad():
            for name, hinge in self.hinges(problem.clips, xyz).items():
                where = stencil(valid, 1) if name == "speed" else valid
                term = problem.state[f"multipliers.{name}"] * hinge + self.beta / 2 * hinge.square()
                penalty = penalty + masked_mean(term, where[..., None]).nan_to_num()
            (gradient,) = torch.autograd.grad(penalty.sum(), xyz)
        return torch.where(problem.movable, gradient, 0)
