"""RayS: the signs of a direction, turned round block by block, along which the border of a class is nearest."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.decision import Questions
from funnybone.attacks.problem import Problem
from funnybone.attacks.space_attack import SpaceAttack, SpaceWalk
from funnybone.attacks.spaces import Angles, Space, over
from funnybone.errors import DataError
from funnybone.motion.turns import carried
from funnybone.skeletons import Skeleton

GROW, TURN, SEARCH = range(3)  # what a clip is at

FIRST_RADIUS = 1 / 64  # of the largest coordinate of the way from the start clip
DOUBLINGS = 8
AXES = 3  # of a joint's position, or of its rotation
WHOLE = 3  # levels at which x, y and z are turned round together; at more, all of them would end as they began or not


@register_attack("rays")
@dataclass(frozen=True, kw_only=True)
class RayS(SpaceAttack):
    """Find the signs of all coordinates with which the smallest change, the same for all, crosses the border.

    A direction has +1 or -1 for each coordinate of each joint in each frame; its radius is how far every coordinate has
    to go that way, so the L-infinity norm is what becomes small. The first direction leads from the clean clip to the
    start clip, and its radius is found by doubling, then bisection. Then blocks of coordinates are turned round in
    turn, each once: all of them, then one half and the other, then quarters and so on. A turn costs one query, a little
    inside of the smallest radius so far; only where the goal holds there the turn is kept, and the new radius searched
    for.

    Blocks are joints times times: they are halved along the frames and along the body by turns, joints in the order in
    which they hang on each other from the root; from quarters on also x, y and z are apart. So what is turned together
    is near in the body and in time. Single coordinates are turned until none helps.

    Preset ``natural`` is this library's own: signs of joint angles on rigid bones within limits. Signs change from one
    moment to the next, so that it keeps bones and angles, and is not smooth.

    Parameters
    ----------
    accuracy : float
        What a turn must bring at least, and how exact radii are: this share of the radius, divided by the number of
        blocks.
    space : {"positions", "angles"}
        What is searched: coordinates of joints, or joint angles on bones that keep their length.
    queries, tries, starts
        As in `DecisionAttack`.

    References
    ----------
    Chen and Gu, "RayS: a ray searching method for hard-label adversarial attack", KDD 2020. There coordinates are in
    one row, and blocks are parts of it; every turn is asked about at the smallest radius itself, and the new radius
    bisected from zero. Here a search goes inward in steps that double first, since most turns bring little.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:12]
    >>> outcome = fb.create_attack("rays", queries=20)(victim, clips[:1], starts=clips)
    >>> outcome.gradients.max(), outcome.queries.max() <= 20
    (tensor(0), tensor(True))
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"natural": {"space": "angles"}}

    accuracy: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.accuracy < 1:
            raise DataError(f"attack {self.name}: accuracy is {self.accuracy}", hint="give more than 0, less than 1")

    def walk(self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]) -> "RayWalk":
        return RayWalk(self, problem, start, started)

    def distance(
        self, problem: Problem, xyz: Float[Tensor, "B M T V C"], owner: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Return the largest displacement of a coordinate in metres."""
        return (xyz - problem.clean[owner]).flatten(1).abs().amax(1)


class RayWalk(SpaceWalk):
    """The clips of a problem, each with its direction, the radius of that, and the block that it turns round next."""

    def __init__(
        self, attack: RayS, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> None:
        super().__init__(problem, start, started)
        n, self.attack, device = len(problem), attack, start.device
        way = self.at - self.space.clean
        self.direction = torch.where(self.space.movable, torch.where(way < 0, -1.0, 1.0).to(way), 0)
        self.stage = torch.full((n,), GROW, device=device)
        # The direction's radius is between the one known to achieve the goal and the one known, or taken, not to.
        self.good, self.bad = FIRST_RADIUS * way.abs().flatten(1).amax(1), way.new_zeros(n)
        self.reach = way.new_zeros(n)  # how far inward the next question is, at most
        self.doubled, self.level, self.block = torch.zeros(3, n, dtype=torch.long, device=device)
        self.helped = torch.zeros_like(self.done)  # whether a turn of this level was kept
        self.parts = Parts(problem, self.space)
        self.blocks, self.number = self.parts.blocks(torch.arange(n, device=device), self.level)

    @property
    def exact(self) -> Float[Tensor, " N"]:
        """How exact radii are to be: a block has a share of the radius to give that is as its share of the clip."""
        least = 4 * torch.finfo(self.good.dtype).eps  # less would not change a coordinate
        return self.good * (self.attack.accuracy / self.number).clamp(min=least)

    def ask(self) -> Questions:
        rows = (~self.done).nonzero().flatten()
        turned = over(self.stage[rows] == TURN) & (self.blocks[rows] == over(self.block[rows]))
        self.turned = torch.where(turned, -self.direction[rows], self.direction[rows])
        good, middle = self.good[rows], (self.good[rows] + self.bad[rows]) / 2
        self.radius = torch.where(self.stage[rows] == GROW, good, torch.maximum(good - self.reach[rows], middle))
        self.rows = rows
        return self.about(self.space.clean[rows] + over(self.radius) * self.turned, rows)

    def hear(self, fooled: Bool[Tensor, " B"], labels: Int[Tensor, " B"]) -> None:
        stage = self.stage[self.rows]
        for at, hear in ((GROW, self._grown), (TURN, self._turned), (SEARCH, self._searched)):
            which = (stage == at).nonzero().flatten()
            if len(which):
                hear(self.rows[which], which, fooled[which])

    def _grown(self, rows: Tensor, which: Tensor, fooled: Tensor) -> None:
        self.doubled[rows] += 1
        # Where no radius will do, blocks are turned round at the largest until one does.
        over = ~fooled & (self.doubled[rows] > DOUBLINGS)
        self.bad[rows] = torch.where(fooled & (self.doubled[rows] > 1), self.good[rows] / 2, 0)
        self.good[rows] = torch.where(fooled | over, self.good[rows], 2 * self.good[rows])
        self.reach[rows] = torch.inf
        self.stage[rows] = torch.where(fooled, SEARCH, torch.where(over, TURN, GROW))
        self._begin(rows[over])
        self._settle(rows[fooled])

    def _turned(self, rows: Tensor, which: Tensor, fooled: Tensor) -> None:
        kept = rows[fooled]
        self.direction[kept] = self.turned[which[fooled]]
        self.good[kept] = self.radius[which[fooled]]
        self.reach[kept] *= 2
        self.stage[kept], self.helped[kept] = SEARCH, True
        self.steps[kept] += 1
        self._next(rows[~fooled])
        self._settle(kept)

    def _searched(self, rows: Tensor, which: Tensor, fooled: Tensor) -> None:
        radius = self.radius[which]
        self.good[rows] = torch.where(fooled, radius, self.good[rows])
        self.bad[rows] = torch.where(fooled, self.bad[rows], radius)
        self.reach[rows] = torch.where(fooled, 2 * self.reach[rows], torch.inf)
        self._settle(rows)

    def _settle(self, rows: Tensor) -> None:
        """End searches that are exact enough."""
        rows = rows[(self.good - self.bad <= self.exact)[rows]]
        # Of the first direction no block was turned round yet.
        first = self.steps[rows] == 0
        self.steps[rows[first]] = 1
        self._begin(rows[first])
        self._next(rows[~first])

    def _begin(self, rows: Tensor) -> None:
        """Turn round the present block."""
        self.stage[rows], self.bad[rows], self.reach[rows] = TURN, 0, self.exact[rows]

    def _next(self, rows: Tensor) -> None:
        """Turn round the next block, or the first of the next level."""
        self.block[rows] += 1
        over = rows[self.block[rows] >= self.number[rows]]
        if len(over):
            last = self.level[over] == self.parts.last
            self.done[over] |= last & ~self.helped[over]
            self.level[over] = torch.where(last, self.level[over], self.level[over] + 1)
            self.block[over], self.helped[over] = 0, False
            self.blocks[over], self.number[over] = self.parts.blocks(over, self.level[over])
        self._begin(rows)


class Parts:
    """Which block each coordinate is in, at every level.

    A clip's valid frames and present persons alone are divided, and what is left without anything that moves is none.

    Parameters
    ----------
    problem : Problem
        The clips.
    space : Space
        What is searched.

    Attributes
    ----------
    last : int
        The level at which blocks are single coordinates.
    """

    def __init__(self, problem: Problem, space: Space) -> None:
        valid, skeleton = problem.clips.valid, problem.clips.skeleton
        angles = isinstance(space, Angles)
        order = _turns_outward(skeleton) if angles else _outward(skeleton.topological_order)
        axes = AXES if angles else problem.clean.shape[-1]
        frames, persons = valid.any(1), valid.any(2)
        self.movable = space.movable
        self.frames, self.time = frames.sum(1), frames.cumsum(1) - 1
        self.places = torch.tensor(order, device=valid.device).repeat_interleave(axes)  # of each coordinate
        self.axes = torch.arange(axes, device=valid.device).repeat(len(order))
        self.persons, self.joints = persons.sum(1), len(order)
        self.body = (persons.cumsum(1) - 1)[..., None] * self.joints + self.places
        levels = _levels(valid.shape[2], valid.shape[1] * self.joints, axes)
        self.levels, self.last = torch.tensor(levels, device=valid.device), len(levels) - 1

    def blocks(
        self, rows: Int[Tensor, " K"], level: Int[Tensor, " K"]
    ) -> tuple[Int[Tensor, "K M T W"], Int[Tensor, " K"]]:
        """Return the block of each coordinate of some clips, each at a level of its own, and how many there are.

        What cannot move is in no block, -1.
        """
        whole = torch.stack([self.frames[rows], self.persons[rows] * self.joints], 1).clamp(min=1)
        into = self.levels[level]
        frames, body = torch.minimum(into[:, :2], whole).unbind(1)
        axes = into[:, 2]
        moment = self.time[rows] * frames[:, None] // whole[:, :1]
        part = self.body[rows] * body[:, None, None] // whole[:, 1, None, None]
        axis = torch.where(axes[:, None] > 1, self.axes, 0)
        where = part * axes[:, None, None] + axis[:, None]  # (K, M, W)
        block = over(body * axes) * moment[:, None, :, None] + where[:, :, None]
        return _without_empty(block, self.movable[rows])


def _without_empty(
    block: Int[Tensor, "K M T W"], movable: Bool[Tensor, "K M T W"]
) -> tuple[Int[Tensor, "K M T W"], Int[Tensor, " K"]]:
    """Blocks in the same order, of those alone in which something moves, and how many these are."""
    place = torch.where(movable, block, -1).flatten(1) + 1
    there = torch.zeros(len(block), block.shape[1:].numel() + 1, dtype=torch.bool, device=block.device)
    there = there.scatter(1, place, True)
    there[:, 0] = False  # what cannot move
    number = there.cumsum(1)
    return torch.where(movable, number.gather(1, place).view_as(block) - 1, -1), number[:, -1]


@lru_cache(maxsize=64)
def _levels(frames: int, joints: int, axes: int) -> tuple[tuple[int, int, int], ...]:
    """Into how many parts frames, joints and axes are divided at each level: twice as many by turns, while they can."""
    parts = [(1, 1)]
    while parts[-1] != (frames, joints):
        moments, body = parts[-1]
        of_time = body == joints or (moments < frames and len(parts) % 2 == 1)
        parts.append((min(2 * moments, frames), body) if of_time else (moments, min(2 * body, joints)))
    whole, single = parts[:WHOLE], parts[min(WHOLE, len(parts)) - 1 :]
    return (*((*both, 1) for both in whole), *((*both, axes) for both in single))


def _outward(order: tuple[int, ...]) -> tuple[int, ...]:
    """The place of each joint in an order."""
    return tuple(order.index(joint) for joint in range(len(order)))


@lru_cache(maxsize=64)
def _turns_outward(skeleton: Skeleton) -> tuple[int, ...]:
    """The place of the root and of each rotation, by the innermost of the joints that they move."""
    place = _outward(skeleton.topological_order)
    inner = [min(place[joint] for joint, does in enumerate(row) if does) for row in carried(skeleton)]
    return (0, *(1 + turn for turn in _outward(tuple(sorted(range(len(inner)), key=inner.__getitem__)))))
