"""What the attacks share that look for the nearest clip that achieves the goal: C&W, DDN, FAB."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import Attack, Problem, Progress, Trace, achieved
from funnybone.attacks.losses import Objective
from funnybone.attacks.rigid import free_joints
from funnybone.errors import DataError
from funnybone.threat.ball import largest_one

Norm = Literal["l2", "linf"]


def length(change: Float[Tensor, "N M T V C"], norm: Norm) -> Float[Tensor, " N"]:
    """Return the norm of each clip's displacement, in the unit of the clip: metres.

    What is not valid never moves, and adds nothing. A stored clip with this norm is a success at every radius that is
    not smaller, so one outcome of a minimum-norm attack holds a whole curve of success against budget.

    Examples
    --------
    >>> change = torch.tensor([3.0, 0.0, -4.0]).reshape(1, 1, 1, 1, 3)
    >>> length(change, "l2"), length(change, "linf")
    (tensor([5.]), tensor([4.]))
    """
    flat = change.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)


def to_border(
    margin: Float[Tensor, " N"], gradient: Float[Tensor, "N M T V C"], norm: Norm
) -> Float[Tensor, "N M T V C"]:
    """Return the shortest displacement after which a linear margin is zero; none where the gradient is zero.

    That is ``-m w / |w|_2^2`` in L2 and ``-m sign(w) / |w|_1`` in L-infinity: the projections of Croce and Hein
    (ICML 2020) onto a hyperplane, without the box, since a coordinate in metres has no end.

    Examples
    --------
    >>> gradient = torch.tensor([3.0, -4.0]).reshape(1, 1, 1, 1, 2)
    >>> to_border(torch.tensor([2.5]), gradient, "l2").flatten()
    tensor([-0.3000,  0.4000])
    >>> to_border(torch.tensor([3.5]), gradient, "linf").flatten()
    tensor([-0.5000,  0.5000])
    """
    size = gradient.flatten(1).abs().amax(1)
    scaled = largest_one(gradient)  # small numbers vanish when squared
    if norm == "linf":
        direction, slope = scaled.sign(), scaled.abs().flatten(1).sum(1)
    else:
        direction, slope = scaled, scaled.square().flatten(1).sum(1)
    share = torch.where(size > 0, -margin / (slope * size).clamp(min=torch.finfo(size.dtype).tiny), 0)
    return per_clip(share) * direction


def limited(change: Float[Tensor, "N M T V C"], most: Float[Tensor, " N"], norm: Norm) -> Float[Tensor, "N M T V C"]:
    """Return displacements, scaled down to a length where they are longer."""
    size = length(change, norm)
    share = torch.where(size > most, most / size.clamp(min=torch.finfo(size.dtype).tiny), 1)
    return per_clip(share) * change


def per_clip(values: Float[Tensor, " N"] | Bool[Tensor, " N"]) -> Tensor:
    """Return one number for each clip in the shape that goes with clips, (N, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]


def falling(first: float, last: float, k: int, steps: int) -> float:
    """Return the ``k``-th of some steps that fall from one size to another along half a cosine.

    Examples
    --------
    >>> [round(falling(1.0, 0.0, k, 4), 2) for k in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    """
    return last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2


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
    """The nearest clips that achieve the goal so far; of one that never did, the iterate that misses it least."""

    xyz: Float[Tensor, "N M T V C"]
    norm: Float[Tensor, " N"]  # infinite where none achieved it
    margin: Float[Tensor, " N"]
    steps: Int[Tensor, " N"]  # made when the nearest one was found; all that were made where there is none
    made: Int[Tensor, " N"]
    blind: Bool[Tensor, " N"]

    @classmethod
    def nothing(cls, clean: Float[Tensor, "N M T V C"]) -> "Found":
        """Before the first question: the clean clips."""
        far, further = torch.full((2, len(clean)), torch.inf, device=clean.device)
        steps, made = torch.zeros(2, len(clean), dtype=torch.long, device=clean.device)
        return cls(clean.clone(), far, further, steps, made, torch.zeros_like(made, dtype=torch.bool))

    @property
    def fallen(self) -> Bool[Tensor, " N"]:
        return self.norm.isfinite()

    def note(self, place: Int[Tensor, " K"], xyz: Float[Tensor, "K M T V C"], visit: Visit) -> None:
        """Keep of some clips, whose places among all are given, what is better than what was kept."""
        nearer = visit.fallen & (visit.norm < self.norm[place])
        never = ~visit.fallen & ~self.fallen[place]
        kept = nearer | (never & (visit.margin < self.margin[place]))
        self.xyz[place[kept]], self.margin[place[kept]] = xyz[kept], visit.margin[kept]
        self.norm[place[nearer]] = visit.norm[nearer]
        dated = place[nearer | never]
        self.steps[dated] = self.made[dated]


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that looks for the smallest displacement that achieves the goal, under any threat model or none.

    A clip is not left when it has fallen: of all iterates that achieve the goal the one nearest to the clean clip is
    kept, until the steps end, the queries do, or the search has converged. Every iterate is brought into the threat
    model: balls bound the result, bones and masks shape it. Coordinates that a mask holds still take no part in
    directions and distances.

    The outcome's ``steps`` are those after which the stored clip was found; its queries are all that were asked.

    A subclass writes `step`, and where it differs `start`, `objective`, `searches` and `converged`.

    Parameters
    ----------
    steps : int
        Gradient steps of a search.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f"attack {self.name}: steps is {self.steps}", hint="give at least 1")

    @property
    def minimised(self) -> Norm:
        """The norm that the attack makes small."""
        return "l2"

    def searches(self, problem: Problem) -> int:
        """Return how often each clip is searched for, one time after another."""
        return 1

    def start(self, problem: Problem, search: int, kept: Float[Tensor, " N"]) -> Float[Tensor, "N M T V C"]:
        """Return where a search begins; the clean clips by default.

        Parameters
        ----------
        problem : Problem
            All clips, whose state is kept from one search to the next; there, ``state["won"]`` says which have fallen
            in the last one.
        search : int
            Searches before this one.
        kept : Float[Tensor, "N"]
            How far the clips that are kept so far are from the clean ones.
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
        found = Found.nothing(problem.clean)
        problem.state.update(free=free_joints(problem), reach=reach(problem, self.minimised))
        searches = self.searches(problem)
        for search in range(searches):

            def tell(share: float, search: int = search) -> None:
                progress(int(total * (search + share) / searches), int(found.fallen.sum()), total)

            problem.state["won"] = self._search(problem, found, search, tell)
        progress(total, int(found.fallen.sum()), total)
        return Trace(found.xyz, found.fallen, found.steps, found.blind)

    def _search(self, problem: Problem, found: Found, search: int, tell: Callable[[float], None]) -> Bool[Tensor, " N"]:
        """One search from one start; which clips have fallen in it."""
        total = len(problem)
        kept = length(found.xyz - problem.clean, self.minimised)
        xyz = self._inside(problem, self.start(problem, search, kept), 2 * found.norm)
        won = torch.zeros(total, dtype=torch.bool, device=xyz.device)
        place = torch.arange(total, device=xyz.device)  # of each clip that is still searched for among all
        standing = problem.can_ask()
        for k in range(self.steps + 1):
            place, xyz, problem = place[standing], xyz[standing], problem.keep(standing)
            if not len(place):
                break
            found.made[place] += k > 0
            visit = self._visit(problem, found, place, xyz, searched=k < self.steps)
            won[place] |= visit.fallen
            if k == self.steps:  # the last iterate is judged, not left
                break
            tell(1 - len(place) / total)
            # Beyond twice the way of a clip that has fallen there is nothing to find.
            xyz = self._inside(problem, self.step(problem, xyz, visit, k), 2 * visit.best)
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
            logits, loss, gradient = self.asked(problem, xyz, objective)
            found.blind[place] |= (gradient == 0).flatten(1).all(1)
        else:
            logits, loss, gradient = *problem.score(xyz, objective), torch.zeros_like(xyz)
        margin = goal.margin(logits, problem.reference)
        fallen = self.fell(problem, logits)
        if searched and problem.precision == "bf16":  # what it takes for fallen is asked again in float32
            again = fallen & problem.can_ask()
            if bool(again.any()):
                part = problem.keep(again)
                fallen[again] = self.fell(part, part.score(xyz[again])[0])
        norm = length(xyz - problem.clean, self.minimised)
        best = torch.minimum(found.norm[place], torch.where(fallen, norm, torch.inf))
        visit = Visit(logits, margin, loss, gradient, fallen, norm, best)
        found.note(place, xyz, visit)
        return visit

    def asked(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], objective: Objective
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N M T V C"]]:
        """`Problem.gradient`, with zero where a coordinate is held or a clip's gradient is no number."""
        logits, loss, gradient = problem.gradient(xyz, objective)
        usable = problem.state["free"][..., None] & per_clip(torch.isfinite(gradient).flatten(1).all(1))
        return logits, loss, torch.where(usable, gradient, 0)

    def fell(self, problem: Problem, logits: Float[Tensor, "N K"]) -> Bool[Tensor, " N"]:
        """Return which clips count as fallen, by what the victim says to them."""
        return achieved(problem.goal, logits, problem.reference)

    def _inside(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], most: Float[Tensor, " N"]
    ) -> Float[Tensor, "N M T V C"]:
        """Into the threat model, and neither further than ``most`` nor than a clip may go at all."""
        shorter = limited(xyz - problem.clean, torch.minimum(most, problem.state["reach"]), self.minimised)
        return problem.constrain(problem.clean + shorter)


def reach(problem: Problem, norm: Norm) -> Float[Tensor, " N"]:
    """Return how far each clip may go at all: ten times the way that draws it together into one point.

    In place of the box of images. Where a gradient nearly vanishes, the border that it predicts is kilometres away.
    """
    there = problem.movable.expand(*problem.clean.shape[:-1], 1)
    centre = torch.where(there, problem.clean, 0).sum((1, 2, 3)) / there.sum((1, 2, 3)).clamp(min=1)
    spread = length(torch.where(there, problem.clean - centre[:, None, None, None], 0), norm)
    return torch.where(spread > 0, 10 * spread, torch.inf)
