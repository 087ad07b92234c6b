"""What attacks share that search a space by labels: questions about its points, and the bisection to a border."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.decision import DecisionAttack, Questions, Walk, WalkTrace
from funnybone.attacks.problem import Problem, Progress
from funnybone.attacks.spaces import Space, SpaceName, over, smooth, space_of
from funnybone.errors import DataError

SEARCH = 0  # the first stage of every walk along a border

Propose = Callable[[Tensor], tuple[Tensor, Tensor]]
Hear = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True, eq=False)
class Searched(Problem):
    """A problem with the space that is searched for it, which is built once."""

    space: Space = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class SpaceAttack(DecisionAttack):
    """An attack by labels whose walk goes through a space: positions of joints, or the angles of a rigid body.

    Parameters
    ----------
    space : {"positions", "angles"}
        What is searched: coordinates of joints, or joint angles on bones that keep their length.
    """

    space: SpaceName = "positions"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space not in get_args(SpaceName):
            raise DataError(f"attack {self.name}: no space {self.space!r}", hint="write positions or angles")

    def run(self, problem: Problem, progress: Progress) -> WalkTrace:
        parts = {part.name: getattr(problem, part.name) for part in dataclasses.fields(Problem)}
        return super().run(Searched(**parts, space=space_of(problem, self.space)), progress)

    def searches(self, problem: Problem) -> Space:
        return searched(problem)


@dataclass(frozen=True, kw_only=True)
class BorderAttack(SpaceAttack):
    """An attack that walks along the border of a class, by moves at random.

    Parameters
    ----------
    space
        As in `SpaceAttack`.
    frequencies : int, optional
        Move by such changes over time as the first so many cosines make; any by default.
    """

    frequencies: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frequencies is not None and self.frequencies < 1:
            raise DataError(f"attack {self.name}: frequencies is {self.frequencies}", hint="give at least 1")


class SpaceWalk(Walk):
    """A walk among the points of a space.

    Attributes
    ----------
    space : Space
        The space.
    at : Float[Tensor, "N M T W"]
        Where each clip is; where it starts, to begin with.
    """

    def __init__(self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]) -> None:
        super().__init__(problem, start, started)
        self.space = searched(problem)
        self.at = self.space.points(start, torch.arange(len(problem), device=start.device))

    def about(self, points: Float[Tensor, "B M T W"], owner: Int[Tensor, " B"]) -> Questions:
        """Return the questions about points: what they stand for, as the threat model lets it be."""
        xyz, same = self._allowed(points, owner)
        return Questions(xyz, owner, same if self.space.natural else None)

    def put(self, points: Float[Tensor, "K M T W"], rows: Int[Tensor, " K"]) -> None:
        """Put clips at points, or where the threat model lets them be: what is beyond it is no way to go on."""
        xyz, same = self._allowed(points, rows)
        self.at[rows] = points
        moved = (~same).nonzero().flatten()
        if len(moved):
            self.at[rows[moved]] = self.space.points(xyz[moved], rows[moved])

    def _allowed(self, points: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Positions inside of the threat model, and which of them it has left as they were."""
        proposed = self.space.positions(points, owner)
        xyz = self.problem.constrain_some(proposed, owner)
        return xyz, (xyz == proposed).flatten(1).all(1)


class BorderWalk(SpaceWalk):
    """A walk along the border of a class, to which a bisection of the way to the clean clip leads.

    Clips are at stages; `SEARCH`, at which all begin, is the bisection, and a subclass has ``stages`` of its own.

    Parameters
    ----------
    attack : BorderAttack
        Says what moves are made of.
    problem, start, started
        As in `Walk`.

    Attributes
    ----------
    exact : float
        How exact bisections are, as a share of the way.
    stage : Int[Tensor, "N"]
        What each clip is at.
    """

    exact: float

    def __init__(
        self,
        attack: BorderAttack,
        problem: Problem,
        start: Float[Tensor, "N M T V C"],
        started: Bool[Tensor, " N"],
    ) -> None:
        super().__init__(problem, start, started)
        self.frequencies = attack.frequencies
        self.stage = torch.zeros_like(self.steps)
        # Of the way to the clean clip, the share that is known to achieve the goal, and the one known not to.
        self.good, self.bad = self.at.new_zeros(len(problem)), self.at.new_ones(len(problem))

    @property
    @abstractmethod
    def stages(self) -> Sequence[tuple[Propose, Hear]]:
        """For each stage after the bisection: what gives points to ask about and whose they are, and what is told.

        Both are given the clips that are at the stage, the latter also the points, and for which the goal holds.
        """

    @abstractmethod
    def arrived(self, rows: Int[Tensor, " K"]) -> None:
        """Go on with clips that are on the border: send them to another stage."""

    def search(self, rows: Int[Tensor, " K"]) -> None:
        """Send clips that achieve the goal to the border."""
        self.good[rows], self.bad[rows], self.stage[rows] = 0, 1, SEARCH

    def noise(self, rows: Int[Tensor, " K"], number: int) -> Float[Tensor, "K R M T W"]:
        """Return so many random directions for each of some clips."""
        drawn = smooth(self.chance(rows), (number, *self.at.shape[1:]), self.frequencies)
        return self.space.directions(drawn, rows)

    def ask(self) -> Questions:
        stages = ((self._middle, self._halved), *self.stages)
        at = torch.where(self.done, len(stages), self.stage)
        # All clips in the order of their stages, those that are done behind.
        rows = at.argsort(stable=True).split(torch.bincount(at, minlength=len(stages) + 1).tolist())[:-1]
        batches = [
            propose(some) if len(some) else (self.at[:0], some) for (propose, _), some in zip(stages, rows, strict=True)
        ]
        points, owner = (torch.cat(parts) for parts in zip(*batches, strict=True))
        asked = points.split([len(part) for _, part in batches])
        self.heard = [(hear, *parts) for (_, hear), *parts in zip(stages, rows, asked, strict=True)]
        return self.about(points, owner)

    def hear(self, fooled: Bool[Tensor, " B"], labels: Int[Tensor, " B"]) -> None:
        answers = fooled.split([len(points) for _, _, points in self.heard])
        for (hear, rows, points), answer in zip(self.heard, answers, strict=True):
            if len(rows):
                hear(rows, points, answer)

    def _middle(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._ahead(rows, (self.good[rows] + self.bad[rows]) / 2), rows

    def _halved(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        middle = (self.good[rows] + self.bad[rows]) / 2
        self.good[rows] = torch.where(fooled, middle, self.good[rows])
        self.bad[rows] = torch.where(fooled, self.bad[rows], middle)
        rows = rows[self.bad[rows] - self.good[rows] <= self.exact]
        if len(rows):
            self.put(self._ahead(rows, self.good[rows]), rows)
            self.arrived(rows)

    def _ahead(self, rows: Tensor, share: Tensor) -> Tensor:
        """Points so far on the way to the clean clip."""
        return torch.lerp(self.at[rows], self.space.clean[rows], over(share))


def searched(problem: Problem) -> Space:
    """Return the space that is searched for a problem."""
    assert isinstance(problem, Searched)  # as `SpaceAttack.run` makes it
    return problem.space
