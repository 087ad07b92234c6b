"""What attacks share that see the predicted class only: walks from a clip that is wrong already to the clean one."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import Attack
from funnybone.attacks.problem import Problem, Progress, Trace
from funnybone.attacks.spaces import Positions, Space
from funnybone.attacks.starts import starting
from funnybone.attacks.verdict import TOLERANCE
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.deviations import joint_displacement
from funnybone.threat.ball import Ball
from funnybone.threat.base import All, Threat, Unbounded, parts_of
from funnybone.victims.access import Access

# Queries after which the distance is noted, 1, 2, 5, 10 and so on: a curve for every budget that anybody asks for.
MARKS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
MOST = 10**9
DRAWS_OF_A_TICK = 64  # more than any walk draws in a tick


@dataclass(frozen=True, eq=False)
class Questions:
    """Positions that a walk asks about.

    Parameters
    ----------
    xyz : Float[Tensor, "B M T V C"]
        In any number for each clip.
    owner : Int[Tensor, "B"]
        Which clip of the problem each belongs to.
    natural : Bool[Tensor, "B"], optional
        Which of them keep to natural motion by the way they were made; none by default.
    """

    xyz: Float[Tensor, "B M T V C"]
    owner: Int[Tensor, " B"]
    natural: Bool[Tensor, " B"] | None = None


class Walk(ABC):
    """One search for all clips of a problem, each at its own stage.

    In turn, `ask` says what the victim is to be asked for all clips that are not ``done``, and `hear` is told the
    answers. So a victim answers for all clips at once, whatever they are at.

    Parameters
    ----------
    problem : Problem
        The clips; its threat model has no balls.
    start : Float[Tensor, "N M T V C"]
        Clips that achieve the goal.
    started : Bool[Tensor, "N"]
        Where there is one.

    Attributes
    ----------
    xyz : Float[Tensor, "N M T V C"]
        Where the clips start; a walk in positions may keep where they are.
    done : Bool[Tensor, "N"]
        Which clips have arrived, or can go no further.
    steps : Int[Tensor, "N"]
        Steps of each clip.
    tick : int
        How often was asked.
    remaining : Int[Tensor, "N"]
        How many more questions about each clip will be answered; told anew before each `ask`.
    """

    remaining: Int[Tensor, " N"]

    def __init__(self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]) -> None:
        self.problem, self.xyz, self.done = problem, start.clone(), ~started
        self.steps = torch.zeros(len(problem), dtype=torch.long, device=start.device)
        self.tick = 0

    @abstractmethod
    def ask(self) -> Questions:
        """Return what to ask next; at least one question for each clip that is not done."""

    @abstractmethod
    def hear(self, fooled: Bool[Tensor, " B"], labels: Int[Tensor, " B"]) -> None:
        """Go on by the answers to the last questions, in their order.

        Parameters
        ----------
        fooled : Bool[Tensor, "B"]
            Where the goal holds; nowhere for a clip that is done, whose queries were spent.
        labels : Int[Tensor, "B"]
            The predicted classes.
        """

    def chance(self, rows: Int[Tensor, " K"]) -> Chance:
        """Return the source of chance of some clips for this tick.

        What it gives depends on the tick and the clip alone, whoever else is still on the way.
        """
        own = self.problem.chance
        return Chance(own.keys[rows], own.drawn + (1 + self.tick) * DRAWS_OF_A_TICK)


@dataclass(frozen=True)
class WalkTrace(Trace):
    """Also how far each clip was after so many queries, and whether what is handed back is natural motion."""

    curve: Float[Tensor, "N Q"]  # metres; infinite before anything was found
    natural_curve: Float[Tensor, "N Q"]  # of natural motion alone
    natural: Bool[Tensor, " N"]


@dataclass(frozen=True, kw_only=True)
class DecisionAttack(Attack):
    """An attack that sees the predicted class and nothing else.

    It starts from a motion that achieves the goal: one of ``starts``, of another class or of the chosen one, moved to
    where the clip is. So it succeeds wherever there is such a motion, a query for it, and nothing that bounds it, and
    what counts is how near it comes. Of all that was asked, what achieves the goal and is nearest to the clean clip is
    kept; an attack that makes natural motion keeps the nearest of that apart, and returns it. With the ``natural`` of
    the call, that is the nearest that its test takes for natural motion, of the nearest of each tick; without any, the
    nearest by its making.

    A threat model is kept: each question is brought inside, but for balls. Distance is what is made small, so a clip
    counts where it ends inside of the ball, if need be after it was brought there in the end.

    The outcome's provenance has ``curve``: for numbers of ``queries``, the mean joint displacement in metres of what
    was kept of each clip by then, ``position_m`` of anything and ``natural_position_m`` of natural motion; and
    ``natural``, which results are natural motion. Its ``others`` have ``nearest``: what was nearest of anything.

    Parameters
    ----------
    queries : int
        Most queries for each clip; a budget of the call that is smaller holds.
    tries : int
        Motions to start from that the victim is asked about, at most.
    starts : int
        Motions that achieve the goal to choose from: where there are more than one, the way from each to the clean clip
        is bisected, and the walk starts from the one from which it comes nearest.
    """

    access: ClassVar[Access] = "labels"

    queries: int = 5000
    tries: int = 20
    starts: int = 1

    def __post_init__(self) -> None:
        for what in ("queries", "tries", "starts"):
            if not 1 <= getattr(self, what) <= MOST:
                raise DataError(f"attack {self.name}: {what} is {getattr(self, what)}", hint=f"give 1 to {MOST:,}")
        if self.starts > self.tries:
            raise DataError(f"attack {self.name}: {self.starts} starts in {self.tries} tries", hint="give more tries")

    @abstractmethod
    def walk(self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]) -> Walk:
        """Return the search."""

    def searches(self, problem: Problem) -> Space:
        """Return what is searched; positions of joints by default."""
        return Positions(problem)

    def distance(
        self, problem: Problem, xyz: Float[Tensor, "B M T V C"], owner: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Return what is made small: the Euclidean norm of the displacement in metres, by default."""
        return torch.linalg.vector_norm((xyz - problem.clean[owner]).flatten(1), dim=1)

    def run(self, problem: Problem, progress: Progress) -> WalkTrace:
        whole, balls = problem.threat, [part for part in parts_of(problem.threat) if isinstance(part, Ball)]
        least = (1 + bool(balls)) * problem.draws
        if self.queries < least:
            raise DataError(f"attack {self.name}: queries is {self.queries}", hint=f"one question costs {least}")
        problem = dataclasses.replace(problem, threat=without(problem.threat, balls))
        # The last question about a clip is kept for what was brought into a ball.
        book = Book(self, problem, kept_back=1 if balls else 0)
        start, started = starting(
            problem,
            self.searches(problem),
            ask=lambda xyz, owner: book.ask(xyz, owner)[0],
            distance=lambda xyz, owner: self.distance(problem, xyz, owner),
            tries=self.tries,
            starts=self.starts,
        )
        walk = self.walk(problem, start, started)
        total = len(problem)
        while not bool(walk.done.all()):
            walk.remaining = book.left - book.kept_back
            questions = walk.ask()
            answers = book.ask(questions.xyz, questions.owner, questions.natural)
            walk.done |= book.spent
            walk.hear(*answers)
            walk.tick += 1
            share = torch.where(walk.done, 1.0, book.asked / self.queries)
            progress(int(share.sum()), int(book.best.found.sum()), total)
        xyz = torch.where(wide(book.made.found), book.made.xyz, book.best.xyz)
        xyz = torch.where(wide(book.natural.found), book.natural.xyz, xyz)
        fallen = book.best.found
        if balls:
            xyz, fallen = brought_inside(book, whole, xyz)
        progress(total, int(fallen.sum()), total)
        natural = fallen & book.natural.found & (xyz == book.natural.xyz).flatten(1).all(1)
        return WalkTrace(
            xyz,
            fallen,
            walk.steps,
            torch.zeros_like(fallen),
            book.best.curve,
            book.natural.curve,
            natural,
            others={"nearest": book.best.xyz},
        )

    def notes(self, success: Bool[Tensor, " N"], traces: Sequence[tuple[Tensor, Trace]]) -> dict[str, Any]:
        """Return ``curve`` and ``natural``."""
        curves = torch.full((2, len(success), len(MARKS)), torch.inf)
        natural = torch.zeros_like(success)
        for rows, trace in traces:
            assert isinstance(trace, WalkTrace)  # as `run` hands them back
            curves[:, rows], natural[rows] = torch.stack([trace.curve, trace.natural_curve]).cpu(), trace.natural.cpu()
        position, on_manifold = (
            [[None if math.isinf(value) else round(value, 6) for value in row] for row in curve.tolist()]
            for curve in curves
        )
        curve = {"queries": list(MARKS), "position_m": position, "natural_position_m": on_manifold}
        return {"curve": curve, "natural": natural.tolist()}


def brought_inside(
    book: "Book", threat: Threat, xyz: Float[Tensor, "N M T V C"]
) -> tuple[Float[Tensor, "N M T V C"], Bool[Tensor, " N"]]:
    """Return results inside of a threat model with balls, and which of them achieve the goal there.

    What ended outside is brought inside, and asked about once more.
    """
    problem = book.problem
    outside = threat.violation(problem.clean, xyz) > TOLERANCE
    nearest = torch.where(wide(outside), threat.project(problem.clean, book.best.xyz), xyz)
    rows = (outside & book.best.found & (book.left > 0)).nonzero().flatten()
    held = torch.zeros_like(outside)
    if len(rows):
        labels = problem.predicted(nearest[rows], rows)
        held[rows] = problem.goal.achieved_by_labels(labels, problem.reference[rows])
    return nearest, torch.where(outside, held, book.best.found)


@dataclass
class Kept:
    """The nearest clip that achieves the goal, of each, and how near it was after so many queries."""

    xyz: Float[Tensor, "N M T V C"]
    distance: Float[Tensor, " N"]  # as the attack measures it; infinite where none was found
    position: Float[Tensor, " N"]  # mean displacement of a joint, metres
    curve: Float[Tensor, "N Q"]  # the same after each of the marks

    @classmethod
    def nothing(cls, clean: Float[Tensor, "N M T V C"]) -> "Kept":
        """Return what is kept before the first question."""
        none = clean.new_full((len(clean),), torch.inf)
        return cls(clean.clone(), none.double(), none.clone(), none[:, None].repeat(1, len(MARKS)))

    @property
    def found(self) -> Bool[Tensor, " N"]:
        return self.distance.isfinite()

    def note(
        self,
        problem: Problem,
        xyz: Float[Tensor, "B M T V C"],
        owner: Int[Tensor, " B"],
        distance: Float[Tensor, " B"],
        asked: Int[Tensor, " N"],
    ) -> None:
        """Keep what is nearer than what was kept; ``distance`` is infinite where the goal is missed."""
        least = self.distance.scatter_reduce(0, owner, distance, "amin")
        better = (distance < self.distance[owner]) & (distance == least[owner])
        place = torch.where(better, torch.arange(len(owner), device=owner.device), -1)
        last = torch.full_like(asked, -1).scatter_reduce(0, owner, place, "amax")
        changed = (last >= 0).nonzero().flatten()
        if len(changed):
            chosen = xyz[last[changed]]
            self.xyz[changed], self.distance = chosen, least
            clips = problem.clips
            moved = joint_displacement(clips.xyz[changed], chosen, clips.valid[changed])
            self.position[changed] = moved
        self.curve = torch.where(_marks(asked.device) >= asked[:, None], self.position[:, None], self.curve)


class Book:
    """Asks for a walk, keeps to the budget, and keeps the best of what achieves the goal.

    Parameters
    ----------
    attack : DecisionAttack
        Says how distance is measured, and how much may be asked.
    problem : Problem
        The clips.
    kept_back : int
        Questions about each clip that are not for the walk.
    """

    def __init__(self, attack: DecisionAttack, problem: Problem, kept_back: int) -> None:
        self.attack, self.problem, self.kept_back = attack, problem, kept_back
        # Of all, of what the walk makes as natural motion, and of that what the test (if any) takes for such.
        self.best, self.made, self.natural = (Kept.nothing(problem.clean) for _ in range(3))
        self.spent = torch.zeros_like(self.best.distance, dtype=torch.bool)
        self.asked = torch.zeros_like(self.spent, dtype=torch.long)  # queries about each clip

    @property
    def left(self) -> Int[Tensor, " N"]:
        """How many more questions each clip can afford."""
        left = self.problem.victim.remaining(self.problem.rows).to(self.asked.device)
        return torch.minimum(left, self.attack.queries - self.asked) // self.problem.draws

    def ask(
        self,
        xyz: Float[Tensor, "B M T V C"],
        owner: Int[Tensor, " B"],
        natural: Bool[Tensor, " B"] | None = None,
    ) -> tuple[Bool[Tensor, " B"], Int[Tensor, " B"]]:
        """Return for which positions the goal holds, and their classes.

        A clip that cannot afford all of its questions is not asked about: its answers are False, and its true class.
        """
        problem = self.problem
        counts = torch.bincount(owner, minlength=len(problem))
        asked = (counts > 0) & (counts + self.kept_back <= self.left)
        self.spent |= (counts > 0) & ~asked
        of = asked[owner].nonzero().flatten()
        fooled, labels = torch.zeros_like(owner, dtype=torch.bool), problem.clips.labels[owner]
        if len(of):
            labels[of] = problem.predicted(xyz[of], owner[of])
            fooled[of] = problem.goal.achieved_by_labels(labels[of], problem.reference[owner[of]])
        self.asked += torch.where(asked, counts * problem.draws, 0)
        distance = self.attack.distance(problem, xyz, owner).double().masked_fill(~fooled, torch.inf)
        self.best.note(problem, xyz, owner, distance, self.asked)
        if natural is not None:
            distance = distance.masked_fill(~natural, torch.inf)
            self.made.note(problem, xyz, owner, distance, self.asked)
            distance = distance.masked_fill(~self._held(xyz, owner, distance), torch.inf)
            self.natural.note(problem, xyz, owner, distance, self.asked)
        return fooled, labels

    def _held(self, xyz: Tensor, owner: Tensor, distance: Tensor) -> Tensor:
        """Which positions are natural motion by the test: it is asked about the nearest of each clip, if it is news."""
        least = self.natural.distance.scatter_reduce(0, owner, distance, "amin")
        news = distance.isfinite() & (distance < self.natural.distance[owner]) & (distance == least[owner])
        held = torch.full_like(news, self.problem.natural is None)
        of = news.nonzero().flatten()
        if self.problem.natural is not None and len(of):
            held[of] = self.problem.natural.holds(like(self.problem.clips, xyz[of], owner[of]))
        return held


@lru_cache(maxsize=16)
def _marks(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is remembered must serve any caller
        return torch.tensor(MARKS, device=device)


def like(clips: Clips, xyz: Float[Tensor, "B M T V C"], owner: Int[Tensor, " B"]) -> Clips:
    """Return positions as clips, each with the frames and the frame rate of the clip that it was made from."""
    return dataclasses.replace(
        clips,
        xyz=torch.where(clips.valid[owner][..., None, None], xyz, 0),
        valid=clips.valid[owner],
        labels=clips.labels[owner],
        fps=clips.fps[owner],
        ids=tuple(map(str, range(len(owner)))),
        groups={},
    )


def without(threat: Threat, left_out: Sequence[Threat]) -> Threat:
    """Return a threat model without some of its parts.

    Examples
    --------
    >>> from funnybone.threat import L2, Linf, Mask
    >>> without(Linf(0.02) & Mask(joints=(1, 2)), [Linf(0.02)])
    Mask(joints=(1, 2))
    """
    rest = tuple(part for part in parts_of(threat) if part not in left_out)
    return rest[0] if len(rest) == 1 else All(rest) if rest else Unbounded()


def wide(values: Bool[Tensor, " N"] | Float[Tensor, " N"]) -> Tensor:
    """Return one value for each clip in a shape that goes with clips, (N, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]
