"""What the attacks share that look for the nearest clip that achieves the goal: C&W, DDN, FAB."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import Attack
from funnybone.attacks.border import UNIT, length, limited, per_clip, to_border
from funnybone.attacks.losses import Objective
from funnybone.attacks.problem import Problem, Progress, Trace, achieved
from funnybone.attacks.rigid import free_joints
from funnybone.errors import DataError
from funnybone.threat.ball import Ball
from funnybone.threat.base import All, Threat, Unbounded, parts_of


@dataclass(frozen=True)
class Visit:
    """What a victim said of the clips as they are."""

    logits: Float[Tensor, "N K"]
    margin: Float[Tensor, " N"]  # by how much the goal is missed
    loss: Float[Tensor, " N"]  # the attack's objective
    gradient: Float[Tensor, "N M T V C"]  # of the objective; zero where nothing may move
    fallen: Bool[Tensor, " N"]
    norm: Float[Tensor, " N"]  # how far the clips are from the clean ones
    best: Float[Tensor, " N"]  # the smallest norm at which each has fallen, now included; infinite where it has not


@dataclass(frozen=True)
class Found:
    """What is kept of each clip: the nearest iterate that achieves the goal inside of the bound.

    Of a clip that never did, the iterate inside of the bound that misses the goal least.
    """

    xyz: Float[Tensor, "N M T V C"]
    bound: Float[Tensor, " N"]
    norm: Float[Tensor, " N"]  # the smallest that achieved the goal, also beyond the bound; infinite where none did
    margin: Float[Tensor, " N"]
    steps: Int[Tensor, " N"]  # made when what is kept of a fallen clip was found, or all
    made: Int[Tensor, " N"]
    blind: Bool[Tensor, " N"]

    @classmethod
    def nothing(cls, clean: Float[Tensor, "N M T V C"], bound: float) -> "Found":
        """Before the first question: the clean clips."""
        norm, margin = (clean.new_full((len(clean),), torch.inf, dtype=kind) for kind in (torch.float64, clean.dtype))
        steps, made = torch.zeros(2, len(clean), dtype=torch.long, device=clean.device)
        blind = torch.zeros_like(made, dtype=torch.bool)
        return cls(clean.clone(), torch.full_like(norm, bound), norm, margin, steps, made, blind)

    @property
    def fallen(self) -> Bool[Tensor, " N"]:
        return self.norm.isfinite() & (self.norm <= self.bound)

    def note(self, place: Int[Tensor, " K"], xyz: Float[Tensor, "K M T V C"], visit: "Visit") -> None:
        """Keep of some clips, whose places among all are given, what is better than what was kept."""
        inside = visit.norm <= self.bound[place]
        nearer = visit.fallen & (visit.norm < self.norm[place])
        self.norm[place[nearer]] = visit.norm[nearer]
        standing = ~self.fallen[place]
        kept = inside & (nearer | (standing & (visit.margin < self.margin[place])))
        self.xyz[place[kept]], self.margin[place[kept]] = xyz[kept], visit.margin[kept]
        dated = place[standing | (inside & nearer)]
        self.steps[dated] = self.made[dated]


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that looks for the smallest displacement that achieves the goal, under any threat model or none.

    A clip is not left when it has fallen: of all iterates that achieve the goal the one nearest to the clean clip is
    kept, until the steps end, the queries do, or the search has converged. Every iterate is brought into the threat
    model. An attack may say that of a ball in the norm that is made small it keeps the result inside, and not the
    search: a success beyond does not count. Joints that are held still take no part in directions and distances.

    The outcome's ``steps`` are those after which the stored clip was found; its queries are all that were asked.

    A subclass writes `step`, and where it differs `start`, `objective`, `searches` and `converged`.

    Parameters
    ----------
    steps : int
        Gradient steps of a search.
    """

    stays_inside: ClassVar[bool] = True  # whether the search itself keeps to a ball in its norm

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f"attack {self.name}: steps is {self.steps}", hint="give at least 1")

    @property
    def minimised(self) -> Ball:
        """The unit ball of the norm that the attack makes small."""
        return UNIT["l2"]

    def searches(self, problem: Problem) -> int:
        """Return how often each clip is searched for, one time after another."""
        return 1

    def start(self, problem: Problem, search: int, kept: Float[Tensor, " N"]) -> Float[Tensor, "N M T V C"]:
        """Return where a search begins; the clean clips by default.

        Parameters
        ----------
        problem : Problem
            All clips, whose state is kept from one search to the next; there, ``state["won"]`` says which have fallen
            in the second half of the last one.
        search : int
            Searches before this one.
        kept : Float[Tensor, "N"]
            How far away each clip has fallen, at the nearest. Where it has not, the radius of the ball that bounds it,
            and without one, how far away it missed the goal least.
        """
        return problem.clean

    def objective(self, problem: Problem) -> Objective:
        """Return what is differentiated; the goal's margin by default."""
        return problem.goal.margin

    @abstractmethod
    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], visit: Visit, k: int
    ) -> Float[Tensor, "N M T V C"]:
        """Return the clips moved once.

        Parameters
        ----------
        problem : Problem
            The clips that are still searched for.
        xyz : Float[Tensor, "N M T V C"]
            Where they are.
        visit : Visit
            What the victim says of them there.
        k : int
            Steps already made in this search.
        """

    def converged(self, problem: Problem, visit: Visit, k: int) -> Bool[Tensor, " N"]:
        """Return which clips have nothing to gain from more steps of this search; none by default."""
        return torch.zeros_like(visit.fallen)

    def run(self, problem: Problem, progress: Progress) -> Trace:
        total = len(problem)
        bound, others = without_balls(problem.threat, type(self.minimised))
        if not self.stays_inside:
            problem = dataclasses.replace(problem, threat=others)
        found = Found.nothing(problem.clean, bound)
        problem.state.update(free=free_joints(problem), reach=reach(problem, self.minimised), bound=found.bound)
        searches = self.searches(problem)
        for search in range(searches):

            def tell(share: float, search: int = search) -> None:
                progress(int(total * (search + share) / searches), int(found.fallen.sum()), total)

            problem.state["won"] = self._search(problem, found, search, tell)
        progress(total, int(found.fallen.sum()), total)
        return Trace(found.xyz, found.fallen, found.steps, found.blind)

    def _search(self, problem: Problem, found: Found, search: int, tell: Callable[[float], None]) -> Bool[Tensor, " N"]:
        """One search from one start; which clips have fallen in its second half, when long steps are over."""
        total = len(problem)
        missed = torch.where(found.bound.isfinite(), found.bound, self.minimised.distance(problem.clean, found.xyz))
        kept = torch.where(found.norm.isfinite(), found.norm, missed)
        xyz = self._inside(problem, self.start(problem, search, kept))
        won = torch.zeros(total, dtype=torch.bool, device=xyz.device)
        place = torch.arange(total, device=xyz.device)  # of each clip that is still searched for among all
        standing = problem.can_ask()
        for k in range(self.steps + 1):
            place, xyz, problem = place[standing], xyz[standing], problem.keep(standing)
            if not len(place):
                break
            found.made[place] += k > 0
            visit = self._visit(problem, found, place, xyz, searched=k < self.steps)
            won[place] |= visit.fallen & (2 * k >= self.steps)
            if k == self.steps:  # the last iterate is judged, not left
                break
            tell(1 - len(place) / total)
            xyz = self._inside(problem, self.step(problem, xyz, visit, k))
            standing = problem.can_ask() & ~self.converged(problem, visit, k)
        return won

    def _visit(
        self,
        problem: Problem,
        found: Found,
        place: Int[Tensor, " N"],
        xyz: Float[Tensor, "N M T V C"],
        *,
        searched: bool,
    ) -> Visit:
        """Ask the victim, and keep what is better than what was found before."""
        objective, goal = self.objective(problem), problem.goal
        if searched:
            logits, loss, gradient, blind = self.asked(problem, xyz, objective)
        else:
            logits, loss, gradient = *problem.score(xyz, objective), torch.zeros_like(xyz)
            blind = torch.zeros_like(found.blind[place])
        margin = goal.margin(logits, problem.reference)
        fallen = self.fell(problem, logits)
        if searched and problem.precision == "bf16":  # what it takes for fallen is asked again in float32
            again = fallen & problem.can_ask()
            if bool(again.any()):
                part = problem.keep(again)
                fallen[again] = self.fell(part, part.score(xyz[again])[0])
        found.blind[place] |= blind & ~fallen  # far beyond a border there is no need of a gradient
        norm = self.minimised.distance(problem.clean, xyz)
        best = torch.minimum(found.norm[place], torch.where(fallen, norm, torch.inf))
        visit = Visit(logits, margin, loss, gradient, fallen, norm, best)
        found.note(place, xyz, visit)
        return visit

    def asked(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], objective: Objective
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N M T V C"], Bool[Tensor, " N"]]:
        """`Problem.gradient`, zero where nothing may move, and which clips have none; no number counts as none."""
        logits, loss, gradient = problem.gradient(xyz, objective)
        number = torch.isfinite(gradient).flatten(1).all(1)
        blind = ~number | (gradient == 0).flatten(1).all(1)
        return logits, loss, torch.where(per_clip(number), held_still(problem, gradient), 0), blind

    def predicted(
        self, problem: Problem, margin: Float[Tensor, " N"], gradient: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        """Return how far away a margin's gradient at the clean clips puts the border."""
        way = length(to_border(margin, gradient, self.minimised), self.minimised)
        return torch.minimum(way, problem.state["reach"])

    def fell(self, problem: Problem, logits: Float[Tensor, "N K"]) -> Bool[Tensor, " N"]:
        """Return which clips count as fallen, by what the victim says to them."""
        return achieved(problem.goal, logits, problem.reference)

    def _inside(self, problem: Problem, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Into the threat model, and no further than a clip may go at all."""
        shorter = limited(xyz - problem.clean, problem.state["reach"], self.minimised)
        return problem.constrain(problem.clean + shorter)


def without_balls(threat: Threat, kind: type[Ball]) -> tuple[float, Threat]:
    """Return the radius of the smallest ball of a kind that a threat model has, infinite without one, and the rest.

    Examples
    --------
    >>> from funnybone.threat import L2, Linf, Mask
    >>> without_balls(Linf(0.02) & Mask(joints=(1, 2)) & L2(0.5) & Linf(0.03), Linf)
    (0.02, Mask(joints=(1, 2)) & L2(radius=0.5))
    >>> without_balls(L2(0.5), L2)
    (0.5, Unbounded())
    """
    parts = parts_of(threat)
    rest = tuple(part for part in parts if not isinstance(part, kind))
    radius = min((part.radius for part in parts if isinstance(part, kind)), default=math.inf)
    if isinstance(threat, All) and len(rest) > 1:
        return radius, dataclasses.replace(threat, parts=rest)
    return radius, rest[0] if rest else Unbounded()


def held_still(problem: Problem, gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
    """Return a gradient with zero at the joints that the threat model holds."""
    return torch.where(problem.state["free"][..., None], gradient, 0)


def reach(problem: Problem, ball: Ball) -> Float[Tensor, " N"]:
    """Return how far each clip may go at all: ten times the way that draws it together into one point.

    In place of the box of images. Where a gradient nearly vanishes, the border that it predicts is kilometres away.
    """
    there = problem.movable.expand(*problem.clean.shape[:-1], 1)
    centre = torch.where(there, problem.clean, 0).sum((1, 2, 3)) / there.sum((1, 2, 3)).clamp(min=1)
    spread = length(torch.where(there, problem.clean - centre[:, None, None, None], 0), ball)
    return torch.where(spread > 0, 10 * spread, torch.inf)
