"""Boundary attack: a random walk on the border of a class, on spheres around the clean clip that shrink."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.problem import Problem
from funnybone.attacks.space_attack import SEARCH, BorderAttack, BorderWalk, Hear, Propose
from funnybone.attacks.spaces import norm, over, unit
from funnybone.errors import DataError

AROUND, AHEAD = SEARCH + 1, SEARCH + 2  # what a clip is at, after the bisection

BISECTED = 2.0**-10  # of the way from the start clip: how near to the border the walk begins
# Shares of success above which steps grow, and below which they shrink, and the trials that they are taken over.
MANY_AROUND, FEW_AROUND, TRIALS_AROUND = 0.5, 0.2, 100
MANY_AHEAD, FEW_AHEAD, TRIALS_AHEAD = 0.25, 0.1, 30
LONGEST_AHEAD, LONGEST_AROUND = 0.9, 10.0  # a step ahead must not pass the clean clip
SHORTEST = 1e-7  # a step ahead that is shorter than this share of the way is none


@register_attack("boundary")
@dataclass(frozen=True, kw_only=True)
class Boundary(BorderAttack):
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
    queries, tries, starts
        As in `DecisionAttack`.

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
    >>> outcome = fb.create_attack("boundary", preset="natural", steps=2)(victim, clips[:1], starts=clips)
    >>> outcome.gradients.max(), outcome.distances["bone_length_change"].max() < 1e-5
    (tensor(0), tensor(True))
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"natural": {"space": "angles", "frequencies": 8}}

    steps: int = 25_000
    trials: int = 5
    spherical: float = 0.01
    ahead: float = 0.01
    adaptation: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("steps", "trials", "spherical", "ahead"):
            if not 0 < getattr(self, what) < math.inf:
                raise DataError(f"attack {self.name}: {what} is {getattr(self, what)}", hint="give more than zero")
        if not self.ahead < 1:
            raise DataError(f"attack {self.name}: ahead is {self.ahead}", hint="give less than 1, the whole way")
        if not 1 < self.adaptation < math.inf:
            raise DataError(f"attack {self.name}: adaptation is {self.adaptation}", hint="give more than 1")

    def walk(self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]) -> "BoundaryWalk":
        return BoundaryWalk(self, problem, start, started)


class BoundaryWalk(BorderWalk):
    """The clips of a problem, each in bisection, on its way around or on its way ahead."""

    exact = BISECTED

    def __init__(
        self, attack: Boundary, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> None:
        super().__init__(attack, problem, start, started)
        n, trials = len(problem), attack.trials
        self.attack, new = attack, self.at.new_full
        self.around, self.ahead = new((n,), attack.spherical), new((n,), attack.ahead)
        self.trials = new((n, trials, *self.at.shape[1:]), 0)  # on the sphere
        self.held = torch.zeros(n, trials, dtype=torch.bool, device=self.at.device)  # which of them achieve the goal
        # Answers; nan where there was none yet.
        self.last_around, self.last_ahead = new((n, TRIALS_AROUND), torch.nan), new((n, TRIALS_AHEAD), torch.nan)

    @property
    def stages(self) -> Sequence[tuple[Propose, Hear]]:
        return (self._sphere, self._went_around), (self._nearer, self._went_ahead)

    def arrived(self, rows: Tensor) -> None:
        self.stage[rows] = AROUND

    def _sphere(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Random points on the spheres around the clean clips on which these clips are."""
        clean = self.space.clean[rows][:, None]
        way = self.at[rows][:, None] - clean
        direction, far = unit(way), over(self.around[rows])[:, None]
        noise = self.noise(rows, self.attack.trials)
        noise = unit(noise - (noise * direction).sum((-3, -2, -1), keepdim=True) * direction)
        points = clean + (way + far * norm(way) * noise) / (1 + far.square()).sqrt()
        return points.flatten(0, 1), rows.repeat_interleave(self.attack.trials)

    def _went_around(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        held = fooled.unflatten(0, (len(rows), -1))
        self.trials[rows], self.held[rows] = points.unflatten(0, held.shape), held
        self.last_around[rows] = latest(self.last_around[rows], held.to(points))
        self._adapt(rows, self.last_around, MANY_AROUND, FEW_AROUND, self.around, self.ahead)
        some = held.any(1)
        self.stage[rows] = torch.where(some, AHEAD, AROUND)
        self._step(rows[~some])

    def _nearer(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The trials that hold, so much nearer to the clean clip."""
        place, trial = self.held[rows].nonzero().unbind(1)
        owner = rows[place]
        self.going = place, trial
        return torch.lerp(self.trials[owner, trial], self.space.clean[owner], over(self.ahead[owner])), owner

    def _went_ahead(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        answers = points.new_full((len(rows), self.attack.trials), torch.nan)
        answers[self.going] = fooled.to(answers)
        self.last_ahead[rows] = latest(self.last_ahead[rows], answers)
        self._adapt(rows, self.last_ahead, MANY_AHEAD, FEW_AHEAD, self.ahead)
        # All that arrive are equally near; of each clip the first goes on.
        which = torch.where(fooled, torch.arange(len(points), device=rows.device), len(points))
        first = torch.full_like(rows, len(points)).scatter_reduce(0, self.going[0], which, "amin")
        arrived = first < len(points)
        self.put(points[first[arrived]], rows[arrived])
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
