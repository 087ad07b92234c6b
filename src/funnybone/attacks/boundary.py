"""Boundary attack: a random walk on the border of a class, on spheres around the clean clip that shrink."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.decision import DecisionAttack, Questions, Walk
from funnybone.attacks.problem import Problem
from funnybone.attacks.spaces import SpaceName, smooth, space_of
from funnybone.attacks.starts import Form
from funnybone.errors import DataError

SEARCH, AROUND, AHEAD = range(3)  # what a clip is at

BISECTIONS = 10  # from the start clip to the border; walking there would take hundreds of steps
# Shares of success above which steps grow, and below which they shrink, and the trials that they are taken over.
MANY_AROUND, FEW_AROUND, TRIALS_AROUND = 0.5, 0.2, 100
MANY_AHEAD, FEW_AHEAD, TRIALS_AHEAD = 0.25, 0.1, 30
LONGEST_AHEAD, LONGEST_AROUND = 0.9, 10.0  # a step ahead must not pass the clean clip
SHORTEST = 1e-7  # a step ahead that is shorter than this share of the way is none


@register_attack("boundary")
@dataclass(frozen=True, kw_only=True)
class Boundary(DecisionAttack):
    """Walk at random along the border of the class, by labels alone, on spheres around the clean clip that shrink.

    The way from the start clip to the clean one is bisected to its border. From there each step has two moves. One goes
    around: ``trials`` random moves orthogonal to the way and ``spherical`` times as long, drawn back onto the sphere
    around the clean clip. Those that achieve the goal then go ``ahead`` times the way towards the clean clip, and the
    first that still does is where the next step begins. Where more than half of the last 100 trials around achieve the
    goal the border is flat at this scale, and both lengths grow by ``adaptation``; where less than a fifth do, both
    shrink. The length ahead grows too where more than a quarter of the last 30 trials ahead achieve it, and shrinks
    below a tenth.

    Preset ``natural`` is this library's own: it searches joint angles on rigid bones within limits, and moves around
    with slow changes over time only.

    Parameters
    ----------
    steps : int
        Steps of each clip.
    trials : int
        Moves around of each step; one query each, and another for each of them that achieves the goal.
    spherical, ahead : float
        Lengths of the moves to begin with, as shares of the way to the clean clip.
    adaptation : float
        Factor by which lengths grow and shrink.
    space : {"positions", "angles"}
        What is searched: coordinates of joints, or joint angles on bones that keep their length.
    frequencies : int, optional
        Move around by such changes over time as the first so many cosines make; any by default.

    References
    ----------
    Brendel, Rauber and Bethge, "Decision-based adversarial attacks: reliable attacks against black-box machine learning
    models", ICLR 2018. Constants are foolbox's. It asks about one move around and ahead at once, and about the part
    around by itself every tenth time alone; here all trials around are asked about, so that their length is adapted ten
    times as fast, and only those go ahead that may arrive.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:12]
    >>> outcome = fb.create_attack("boundary", preset="natural", steps=20)(victim, clips[:2], starts=clips)
    >>> outcome.gradients.max(), outcome.distances["bone_length_change"].max() < 1e-5
    (tensor(0), tensor(True))
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"natural": {"space": "angles", "frequencies": 8}}

    steps: int = 25_000
    trials: int = 5
    spherical: float = 0.01
    ahead: float = 0.01
    adaptation: float = 1.5
    space: SpaceName = "positions"
    frequencies: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("steps", "trials", "spherical", "ahead"):
            if not 0 < getattr(self, what) < math.inf:
                raise DataError(f"attack {self.name}: {what} is {getattr(self, what)}", hint="give more than zero")
        if not self.ahead < 1:
            raise DataError(f"attack {self.name}: ahead is {self.ahead}", hint="give less than 1, the whole way")
        if not 1 < self.adaptation < math.inf:
            raise DataError(f"attack {self.name}: adaptation is {self.adaptation}", hint="give more than 1")
        if self.space not in ("positions", "angles"):
            raise DataError(f"attack {self.name}: no space {self.space!r}", hint="write positions or angles")
        if self.frequencies is not None and self.frequencies < 1:
            raise DataError(f"attack {self.name}: frequencies is {self.frequencies}", hint="give at least 1")

    def form(self, problem: Problem) -> Form:
        space = space_of(problem, self.space)
        return lambda xyz, owner: space.positions(space.points(xyz, owner), owner)

    def walk(self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]) -> "BoundaryWalk":
        return BoundaryWalk(self, problem, start, started)


class BoundaryWalk(Walk):
    """The clips of a problem, each in bisection, on its way around or on its way ahead."""

    def __init__(
        self, attack: Boundary, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> None:
        super().__init__(problem, start, started)
        n, trials = len(problem), attack.trials
        self.attack, self.space = attack, space_of(problem, attack.space)
        clean = self.space.clean
        self.at = self.space.points(start, torch.arange(n, device=clean.device))
        self.stage = torch.full((n,), SEARCH, device=clean.device)
        # Of the way to the clean clip, the share that is known to achieve the goal, and the one known not to.
        self.good, self.bad = clean.new_zeros(n), clean.new_ones(n)
        self.searched = torch.zeros(n, dtype=torch.long, device=clean.device)
        self.around, self.ahead = clean.new_full((n,), attack.spherical), clean.new_full((n,), attack.ahead)
        self.trials = clean.new_zeros(n, trials, *clean.shape[1:])  # on the sphere
        self.held = torch.zeros(n, trials, dtype=torch.bool, device=clean.device)  # which of them achieve the goal
        self.last_around = clean.new_full((n, TRIALS_AROUND), torch.nan)  # answers; nan where there was none yet
        self.last_ahead = clean.new_full((n, TRIALS_AHEAD), torch.nan)

    def ask(self) -> Questions:
        self.rows = [(~self.done & (self.stage == stage)).nonzero().flatten() for stage in (SEARCH, AROUND, AHEAD)]
        search, around, ahead = self.rows
        middle = (self.good[search] + self.bad[search]) / 2
        searched = torch.lerp(self.at[search], self.space.clean[search], middle[:, None, None, None])
        place, self.of = self.held[ahead].nonzero().unbind(1)
        self.owner = ahead[place]
        share = self.ahead[self.owner][:, None, None, None]
        nearer = torch.lerp(self.trials[self.owner, self.of], self.space.clean[self.owner], share)
        points = torch.cat([searched, self._sphere(around).flatten(0, 1), nearer])
        owner = torch.cat([search, around.repeat_interleave(self.attack.trials), self.owner])
        proposed = self.space.positions(points, owner)
        xyz = self.problem.constrain_some(proposed, owner)
        same = (xyz == proposed).flatten(1).all(1)
        # Where the threat model moved something, the walk goes on from there: what is beyond it is no way left.
        if not bool(same.all()):
            points[~same] = self.space.points(xyz[~same], owner[~same])
        self.asked = points
        self.sizes = [len(search), len(around) * self.attack.trials, len(self.owner)]
        return Questions(xyz, owner, same if self.space.natural else None)

    def _sphere(self, rows: Tensor) -> Tensor:
        """Random points (K, trials, M, T, W) on the sphere around the clean clips on which these clips are."""
        clean, inside = self.space.clean[rows][:, None], (2, 3, 4)
        way = self.at[rows][:, None] - clean
        if not len(rows):
            return way.expand(-1, self.attack.trials, -1, -1, -1)
        tiny = torch.finfo(way.dtype).tiny
        left = torch.linalg.vector_norm(way, dim=inside, keepdim=True).clamp(min=tiny)
        noise = smooth(self.chance(rows), (self.attack.trials, *way.shape[2:]), self.attack.frequencies)
        noise = self.space.directions(noise, rows)
        noise = noise - (noise * way / left).sum(inside, keepdim=True) * (way / left)
        size = torch.linalg.vector_norm(noise, dim=inside, keepdim=True).clamp(min=tiny)
        far = self.around[rows][:, None, None, None, None]
        return clean + (way + far * left * noise / size) / (1 + far.square()).sqrt()

    def hear(self, fooled: Bool[Tensor, " B"], labels: Int[Tensor, " B"]) -> None:
        heard = (self._bisected, self._went_around, self._went_ahead)
        parts = (part.split(self.sizes) for part in (self.asked, fooled))
        for hear, rows, points, wrong in zip(heard, self.rows, *parts, strict=True):
            # A clip whose budget is spent was not answered.
            if len(rows):
                hear(rows, points, wrong)

    def _bisected(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        middle = (self.good[rows] + self.bad[rows]) / 2
        self.good[rows] = torch.where(fooled, middle, self.good[rows])
        self.bad[rows] = torch.where(fooled, self.bad[rows], middle)
        self.searched[rows] += 1
        rows = rows[self.searched[rows] == BISECTIONS]
        self.at[rows] = torch.lerp(self.at[rows], self.space.clean[rows], self.good[rows][:, None, None, None])
        self.stage[rows] = AROUND

    def _went_around(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        held = fooled.unflatten(0, (len(rows), -1))
        self.trials[rows], self.held[rows] = points.unflatten(0, held.shape), held
        self.last_around[rows] = latest(self.last_around[rows], held.to(points))
        self._adapt(rows, self.last_around, MANY_AROUND, FEW_AROUND, self.around, self.ahead)
        some = held.any(1)
        self.stage[rows] = torch.where(some, AHEAD, AROUND)
        self._step(rows[~some])

    def _went_ahead(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        answers = self.last_ahead.new_full((len(self.at), self.attack.trials), torch.nan)
        answers[self.owner, self.of] = fooled.to(answers)
        self.last_ahead[rows] = latest(self.last_ahead[rows], answers[rows])
        self._adapt(rows, self.last_ahead, MANY_AHEAD, FEW_AHEAD, self.ahead)
        # All that arrive are equally near; of each clip the first goes on.
        place = torch.arange(len(self.owner), device=rows.device)
        first = torch.full_like(self.searched, len(place))
        first = first.scatter_reduce(0, self.owner, torch.where(fooled, place, len(place)), "amin")
        arrived = rows[first[rows] < len(place)]
        self.at[arrived] = points[first[arrived]]
        self.stage[rows] = AROUND
        self._step(rows)

    def _step(self, rows: Tensor) -> None:
        self.steps[rows] += 1
        self.done[rows] |= (self.steps[rows] >= self.attack.steps) | (self.ahead[rows] < SHORTEST)

    def _adapt(self, rows: Tensor, last: Tensor, many: float, few: float, *lengths: Tensor) -> None:
        """Change lengths by the share of success, once there are enough trials; those then begin anew."""
        share = last[rows].mean(1)  # nan, which is neither many nor few, before there are enough
        factor = torch.where(share > many, self.attack.adaptation, torch.ones_like(share))
        factor = torch.where(share < few, 1 / self.attack.adaptation, factor)
        for length in lengths:
            length[rows] *= factor
        self.ahead.clamp_(max=LONGEST_AHEAD)
        self.around.clamp_(max=LONGEST_AROUND)
        last[rows] = torch.where((factor != 1)[:, None], torch.nan, last[rows])


def latest(kept: Float[Tensor, "K W"], more: Float[Tensor, "K R"]) -> Float[Tensor, "K W"]:
    """Return the last W numbers of each row of both that are numbers; nan before them, where there are fewer.

    Examples
    --------
    >>> nan = torch.nan
    >>> latest(torch.tensor([[nan, 1.0, 2.0]]), torch.tensor([[3.0, nan, 4.0]]))
    tensor([[2., 3., 4.]])
    """
    both = torch.cat([kept, more], 1)
    order = (~both.isnan()).byte().argsort(dim=1, stable=True)
    return both.gather(1, order)[:, -kept.shape[1] :]
