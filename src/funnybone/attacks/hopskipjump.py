"""HopSkipJump: the border's direction estimated by labels around it, a jump along it, and back to the border."""

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
from funnybone.threat.base import Unbounded

SEARCH, PROBE, JUMP = range(3)  # what a clip is at
AT_ONCE = 32  # probes of a clip in one tick; their number bounds what is held in memory
FIRST_PROBE = 0.1  # of the way: the first probes, where nothing is known of the border
SHORTEST = 2.0**-30  # a jump that is no longer than this share of the way is none


@register_attack("hopskipjump")
@dataclass(frozen=True, kw_only=True)
class HopSkipJump(DecisionAttack):
    """Find the nearest clip by the direction in which the border of the class lies, seen by labels alone.

    From a clip on the border, ``probes`` random moves times the root of the number of the step say, by which of them
    achieve the goal, where it is deepest: their mean, weighted by the answers less their mean, is the border's normal.
    A jump along it, as long as the way to the clean clip divided by the root of the step's number and halved until it
    achieves the goal, is followed by a bisection back to the border along the way to the clean clip.

    Preset ``natural`` is this library's own: it searches joint angles on rigid bones within limits, and probes with
    slow changes over time only. All that it asks about is natural motion in bones and angles, and smooth; there are
    some hundred numbers to be found instead of thousands.

    Parameters
    ----------
    steps : int
        Steps of each clip.
    probes : int
        Probes of the first step.
    most_probes : int
        Largest number of probes of a step.
    gamma : float
        How exact bisections are: to ``gamma / d^1.5`` of the way, d numbers being searched for.
    space : {"positions", "angles"}
        What is searched: coordinates of joints, or joint angles on bones that keep their length.
    frequencies : int, optional
        Search such changes over time as the first so many cosines make; any by default.

    References
    ----------
    Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE S&P 2020, algorithm
    2 for the Euclidean norm; that a search in few dimensions needs fewer queries is Li et al., "QEBA: Query-efficient
    boundary-based blackbox attack", CVPR 2020. Constants are foolbox's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:12]
    >>> attack = fb.create_attack("hopskipjump", preset="natural", steps=1, probes=20)
    >>> outcome = attack(victim, clips[:2], starts=clips)
    >>> outcome.gradients.max(), outcome.distances["bone_length_change"].max() < 1e-5
    (tensor(0), tensor(True))
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"natural": {"space": "angles", "frequencies": 8}}

    steps: int = 64
    probes: int = 100
    most_probes: int = 10_000
    gamma: float = 1.0
    space: SpaceName = "positions"
    frequencies: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("steps", "probes", "most_probes", "gamma"):
            if not 0 < getattr(self, what) < math.inf:
                raise DataError(f"attack {self.name}: {what} is {getattr(self, what)}", hint="give more than zero")
        if self.space not in ("positions", "angles"):
            raise DataError(f"attack {self.name}: no space {self.space!r}", hint="write positions or angles")
        if self.frequencies is not None and self.frequencies < 1:
            raise DataError(f"attack {self.name}: frequencies is {self.frequencies}", hint="give at least 1")

    def form(self, problem: Problem) -> Form:
        space = space_of(problem, self.space)
        return lambda xyz, owner: space.positions(space.points(xyz, owner), owner)

    def walk(
        self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> "HopSkipJumpWalk":
        return HopSkipJumpWalk(self, problem, start, started)


class HopSkipJumpWalk(Walk):
    """The clips of a problem, each in bisection, among its probes or in a jump."""

    def __init__(
        self, attack: HopSkipJump, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> None:
        super().__init__(problem, start, started)
        self.attack, self.space = attack, space_of(problem, attack.space)
        rows = torch.arange(len(problem), device=start.device)
        clean = self.space.clean
        self.at = self.space.points(start, rows)
        frames = clean.shape[2] if attack.frequencies is None else min(attack.frequencies, clean.shape[2])
        self.numbers = clean.shape[1] * frames * clean.shape[3]
        # Shares of a way that are nearer to each other than float32 tells apart are one.
        self.accuracy = max(attack.gamma / self.numbers**1.5, 4 * torch.finfo(clean.dtype).eps)
        self.stage = torch.full((len(problem),), SEARCH, device=clean.device)
        # Of the way to the clean clip, the share that is known to achieve the goal, and the one known not to.
        self.good, self.bad = clean.new_zeros(len(problem)), clean.new_ones(len(problem))
        self.round = torch.zeros_like(self.steps)
        self.left = torch.zeros(len(problem), dtype=torch.long, device=clean.device)  # probes
        self.said, self.drawn = torch.zeros_like(clean), torch.zeros_like(clean)  # sums of probes: by answer, and all
        self.yes, self.number = clean.new_zeros(2, len(problem))
        self.length = clean.new_zeros(len(problem))  # of a jump
        self.near = clean.new_zeros(len(problem))  # of a probe

    def ask(self) -> Questions:
        going, clean = ~self.done, self.space.clean
        self.rows = [(going & (self.stage == stage)).nonzero().flatten() for stage in (SEARCH, PROBE, JUMP)]
        search, probe, jump = self.rows
        middle = (self.good[search] + self.bad[search]) / 2
        searched = torch.lerp(self.at[search], clean[search], middle[:, None, None, None])
        self.counts = self.left[probe].clamp(max=AT_ONCE)
        self.moves, owner = self._moves(probe)
        probed = self.at[owner] + self.near[owner][:, None, None, None] * self.moves
        jumped = self.at[jump] + self.length[jump][:, None, None, None] * self.said[jump]
        owners = torch.cat([search, owner, jump])
        points = torch.cat([searched, probed, jumped])
        proposed = self.space.positions(points, owners)
        xyz = self.problem.constrain_some(proposed, owners)
        natural = (xyz == proposed).flatten(1).all(1) if self.space.natural else None
        self.sizes = [len(search), len(owner), len(jump)]
        return Questions(xyz, owners, natural)

    def _moves(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Probes of clips that have some left: directions of length one, and whose they are."""
        most = int(self.counts.max()) if len(rows) else 0
        if not most:
            return self.at[:0], rows
        noise = smooth(self.chance(rows), (most, *self.at.shape[1:]), self.attack.frequencies)
        noise = self.space.directions(noise, rows)[torch.arange(most, device=rows.device) < self.counts[:, None]]
        size = torch.linalg.vector_norm(noise, dim=(1, 2, 3), keepdim=True)
        return noise / size.clamp(min=torch.finfo(noise.dtype).tiny), rows.repeat_interleave(self.counts)

    def hear(self, fooled: Bool[Tensor, " B"], labels: Int[Tensor, " B"]) -> None:
        searched, probed, jumped = fooled.split(self.sizes)
        search, probe, jump = self.rows
        if len(search):
            self._searched(search, searched)
        if len(probe):
            self._probed(probe, probed)
        if len(jump):
            self._jumped(jump, jumped)

    def _searched(self, rows: Tensor, fooled: Tensor) -> None:
        middle = (self.good[rows] + self.bad[rows]) / 2
        self.good[rows] = torch.where(fooled, middle, self.good[rows])
        self.bad[rows] = torch.where(fooled, self.bad[rows], middle)
        rows = rows[self.bad[rows] - self.good[rows] <= self.accuracy]
        if not len(rows):
            return
        # On the border: the clip is where the goal is known to hold, and probes go around it.
        clean = self.space.clean[rows]
        at = torch.lerp(self.at[rows], clean, self.good[rows][:, None, None, None])
        if not isinstance(self.problem.threat, Unbounded):  # from where the threat model lets it be
            at = self.space.points(self.problem.constrain_some(self.space.positions(at, rows), rows), rows)
        self.at[rows] = at
        self.round[rows] += 1
        self.steps[rows] = self.round[rows] - 1  # the first bisection is none
        self.done[rows] |= self.round[rows] > self.attack.steps
        way = torch.linalg.vector_norm((self.at[rows] - clean).flatten(1), dim=1)
        wanted = self.attack.probes * self.round[rows].double().sqrt()
        self.left[rows] = wanted.long().clamp(max=self.attack.most_probes)
        self.near[rows] = math.sqrt(self.numbers) * self.accuracy * way
        first = self.round[rows] == 1
        self.near[rows] = torch.where(first, FIRST_PROBE * way, self.near[rows])
        self.said[rows], self.drawn[rows] = 0, 0
        self.yes[rows], self.number[rows] = 0, 0
        self.stage[rows] = PROBE

    def _probed(self, rows: Tensor, fooled: Tensor) -> None:
        owner, answer = rows.repeat_interleave(self.counts), torch.where(fooled, 1.0, -1.0)
        self.said.index_add_(0, owner, answer[:, None, None, None] * self.moves)
        self.drawn.index_add_(0, owner, self.moves)
        self.yes.index_add_(0, owner, answer)
        self.number[rows] += self.counts
        self.left[rows] -= self.counts
        rows = rows[self.left[rows] == 0]
        mean = self.yes[rows] / self.number[rows]
        # Answers that are all the same say nothing but the mean of the moves themselves.
        told = torch.where((mean.abs() == 1)[:, None, None, None], mean[:, None, None, None], 0) * self.drawn[rows]
        normal = told + torch.where(
            (mean.abs() == 1)[:, None, None, None], 0, self.said[rows] - mean[:, None, None, None] * self.drawn[rows]
        )
        size = torch.linalg.vector_norm(normal, dim=(1, 2, 3), keepdim=True)
        self.said[rows] = normal / size.clamp(min=torch.finfo(normal.dtype).tiny)
        way = torch.linalg.vector_norm((self.at[rows] - self.space.clean[rows]).flatten(1), dim=1)
        self.length[rows] = way / self.round[rows].to(way).sqrt()
        self.stage[rows] = JUMP

    def _jumped(self, rows: Tensor, fooled: Tensor) -> None:
        length = self.length[rows]
        self.at[rows] += torch.where(fooled, length, 0)[:, None, None, None] * self.said[rows]
        self.length[rows] = length / 2
        way = torch.linalg.vector_norm((self.at[rows] - self.space.clean[rows]).flatten(1), dim=1)
        nowhere = ~fooled & (length < SHORTEST * way)
        rows = rows[fooled | nowhere]
        self.good[rows], self.bad[rows], self.stage[rows] = 0, 1, SEARCH
