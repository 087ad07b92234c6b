"""What the attacks share that look for the nearest clip that achieves the goal."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import Attack, Problem, Progress, Trace, achieved
from funnybone.attacks.losses import Objective
from funnybone.errors import DataError
from funnybone.threat.ball import largest_one
from funnybone.threat.base import parts_of
from funnybone.threat.mask import Mask

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
    if norm == "linf":
        return change.flatten(1).abs().amax(1)
    return torch.linalg.vector_norm(change.flatten(1), dim=1)


def to_border(
    margin: Float[Tensor, " N"], gradient: Float[Tensor, "N M T V C"], norm: Norm
) -> Float[Tensor, "N M T V C"]:
    """Return the shortest displacement after which a linear margin is zero; none where the gradient is zero.

    That is ``-m w / |w|_2^2`` in L2 and ``-m sign(w) / |w|_1`` in L-infinity, since no coordinate has an end.

    Examples
    --------
    >>> gradient = torch.tensor([3.0, 0.0, -4.0]).reshape(1, 1, 1, 1, 3)
    >>> to_border(torch.tensor([2.5]), gradient, "l2").flatten()
    tensor([-0.3000,  0.0000,  0.4000])
    >>> to_border(torch.tensor([3.5]), gradient, "linf").flatten()
    tensor([-0.5000,  0.0000,  0.5000])
    """
    size = gradient.flatten(1).abs().amax(1)
    unit = largest_one(gradient)  # small numbers vanish when squared
    if norm == "linf":
        unit, square = unit.sign(), unit.abs().flatten(1).sum(1)
    else:
        square = unit.square().flatten(1).sum(1)
    share = torch.where(size > 0, -margin / (square * size).clamp(min=torch.finfo(margin.dtype).tiny), 0)
    return per_clip(share) * unit


def per_clip(values: Tensor) -> Tensor:
    """Return (N,) values in the shape that multiplies clips."""
    return values[:, None, None, None, None]


def limited(
    change: Float[Tensor, "N M T V C"], most: Float[Tensor, " N"], norm: Norm
) -> Float[Tensor, "N M T V C"]:
    """Return displacements scaled down to a length where they are longer."""
    size = length(change, norm)
    return per_clip(torch.where(size > most, most / size.clamp(min=1e-30), 1)) * change


@dataclass(frozen=True)
class Visit:
    """What a victim said of the clips as they are: all (N,), but for the gradient."""

    margin: Float[Tensor, " N"]  # by how much the goal is missed
    gradient: Float[Tensor, "N M T V C"]  # of the attack's objective; zero where nothing may move
    fallen: Bool[Tensor, " N"]
    norm: Float[Tensor, " N"]  # how far the clips are from the clean ones
    best: Float[Tensor, " N"]  # the smallest norm at which each fell, these clips included; infinite where it has not


@dataclass
class Found:
    """The nearest clips that achieve the goal so far; of one that never did, the iterate closest to it."""

    xyz: Float[Tensor, "N M T V C"]
    norm: Float[Tensor, " N"]
    margin: Float[Tensor, " N"]
    steps: Int[Tensor, " N"]  # at which what is kept was found; all that were made where nothing was
    made: Int[Tensor, " N"]
    blind: Bool[Tensor, " N"]

    @classmethod
    def of(cls, problem: Problem) -> "Found":
        """Nothing found yet."""
        infinite = torch.full((len(problem),), torch.inf, device=problem.clean.device)
        none = torch.zeros_like(infinite, dtype=torch.long)
        return cls(problem.clean.clone(), infinite, infinite.clone(), none, none.clone(), none.bool())

    def note(self, place: Int[Tensor, " K"], xyz: Tensor, margin: Tensor, fallen: Tensor, norm: Tensor) -> None:
        """Keep what is better than before; ``place`` says where in the batch these clips are."""
        never = ~fallen & self.norm[place].isinf()
        better = (fallen & (norm < self.norm[place])) | (never & (margin < self.margin[place]))
        where = place[better]
        self.xyz[where], self.margin[where] = xyz[better], margin[better]
        self.norm[place[better & fallen]] = norm[better & fallen]
        self.steps[place[better | never]] = self.made[place[better | never]]


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that looks for the smallest displacement that achieves the goal, in L2 or L-infinity.

    Parameters
    ----------
    steps : int
        Gradient steps of one search.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f"attack {self.name}: steps is {self.steps}", hint="give at least 1")

    @property
    def minimised(self) -> Norm:
        """The norm that is made small."""
        return "l2"

    def searches(self, problem: Problem) -> int:
        """Return how often each clip is searched for, one time after another."""
        return 1

    def start(self, problem: Problem, search: int, best: Float[Tensor, " N"]) -> Float[Tensor, "N M T V C"]:
        """Return where a search begins; the clean clips by default. ``best`` is the smallest norm so far."""
        return problem.clean

    def objective(self, problem: Problem) -> Objective:
        """Return what is differentiated; the goal's margin by default."""
        return problem.goal.margin

    @abstractmethod
    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], visit: Visit, k: int
    ) -> Float[Tensor, "N M T V C"]:
        """Return the clips moved once. """

    def converged(self, problem: Problem, visit: Visit, k: int) -> Bool[Tensor, " N"]:
        """Return which clips have nothing to gain from more steps of this search; none by default."""
        return torch.zeros_like(visit.fallen)

    def run(self, problem: Problem, progress: Progress) -> Trace:
        found = Found.of(problem)
        problem.state["reach"] = reach(problem, self.minimised)
        problem.state["free"] = free(problem)
        searches = self.searches(problem)
        for search in range(searches):
            def tell(share, search=search):
                done = int(len(problem) * (search + share) / searches)
                progress(done, int(found.norm.isfinite().sum()), len(problem))
            problem.state["won"] = self._search(problem, found, search, tell)
        return Trace(found.xyz, found.norm.isfinite(), found.steps, found.blind)

    def _search(self, problem, found, search, tell):
        total = len(problem)
        won = torch.zeros(total, dtype=torch.bool, device=problem.clean.device)
        xyz = self._inside(problem, self.start(problem, search, found.norm))
        place = torch.arange(total, device=xyz.device)
        standing = problem.can_ask()
        for k in range(self.steps + 1):
            if not bool(standing.any()):
                break
            place, xyz, problem = place[standing], xyz[standing], problem.keep(standing)
            visit = self._visit(problem, found, place, xyz, k)
            won[place] |= visit.fallen
            tell(1 - len(place) / total if k < self.steps else 1)
            if k == self.steps:
                break
            standing = problem.can_ask() & ~self.converged(problem, visit, k)
            if not bool(standing.all()):
                place, xyz, problem = place[standing], xyz[standing], problem.keep(standing)
                visit = Visit(*(getattr(visit, f)[standing] for f in visit.__dataclass_fields__))
                standing = standing[standing]
            if not len(place): break
            xyz = self._inside(problem, self.step(problem, xyz, visit, k))
            found.made[place] += 1
            standing = problem.can_ask()
        tell(1)
        return won

    def _inside(self, problem: Problem, xyz: Tensor) -> Tensor:
        change = limited(xyz - problem.clean, problem.state["reach"], self.minimised)
        return problem.constrain(problem.clean + change)

    def _visit(self, problem, found, place, xyz, k):
        if k < self.steps:
            logits, _, gradient = problem.gradient(xyz, self.objective(problem))
            gradient = torch.where(problem.state["free"] & per_clip(torch.isfinite(gradient).flatten(1).all(1)), gradient, 0)
            found.blind[place] |= (gradient == 0).flatten(1).all(1)
        else:
            logits, _ = problem.score(xyz, self.objective(problem))
            gradient = torch.zeros_like(xyz)
        margin = problem.goal.margin(logits, problem.reference)
        fallen = self.fallen(problem, xyz, logits, margin, k < self.steps)
        norm = length(xyz - problem.clean, self.minimised)
        found.note(place, xyz, margin, fallen, norm)
        return Visit(margin, gradient, fallen, norm, found.norm[place])

    def fallen(self, problem, xyz, logits, margin, searched):
        fallen = achieved(problem.goal, logits, problem.reference)
        if searched and problem.precision == "bf16":
            asked = fallen & problem.can_ask()
            if bool(asked.any()):
                part = problem.keep(asked)
                fallen[asked] = achieved(problem.goal, part.score(xyz[asked])[0], part.reference)
        return fallen


def reach(problem: Problem, norm: Norm) -> Float[Tensor, " N"]:
    """Return how far a clip may go at all: ten times what draws it together into one point.
    """
    movable = problem.movable.expand(*problem.clean.shape[:-1], 1)
    centre = torch.where(movable, problem.clean, 0).sum((1, 2, 3)) / movable.sum((1, 2, 3)).clamp(min=1)
    spread = torch.where(movable, problem.clean - centre[:, None, None, None], 0)
    size = length(spread, norm)
    return torch.where(size > 0, 10 * size, torch.inf)


def free(problem: Problem) -> Bool[Tensor, "N M T V C"]:
    """Return the coordinates that may move: valid, and left open by every mask of the threat model."""
    free = problem.movable.expand(problem.clean.shape)
    for part in parts_of(problem.threat):
        if isinstance(part, Mask):
            free = free & part.free(problem.clean)
    return free
