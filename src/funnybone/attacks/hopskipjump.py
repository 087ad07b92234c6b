"""HopSkipJump: the border's direction estimated by labels around it, a jump along it, and back to the border."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.problem import Problem
from funnybone.attacks.space_attack import SEARCH, BorderAttack, BorderWalk, Hear, Propose
from funnybone.attacks.spaces import norm, over, unit
from funnybone.errors import DataError

PROBE, JUMP = SEARCH + 1, SEARCH + 2  # what a clip is at, after the bisection
AT_ONCE = 32  # probes of a clip in one tick; their number bounds what is held in memory
FIRST_PROBE = 0.1  # of the way: the first probes, where nothing is known of the border
SHORTEST = 2.0**-30  # a jump that is no longer than this share of the way is none

Jump = Literal["normal", "tangent"]


@register_attack("hopskipjump")
@dataclass(frozen=True, kw_only=True)
class HopSkipJump(BorderAttack):
    """Find the nearest clip by the direction in which the border of the class lies, seen by labels alone.

    From a clip on the border, ``probes`` random moves times the root of the number of the step say, by which of them
    achieve the goal, where it is deepest: the mean of those that do, less the mean of those that do not, is the
    border's normal. A jump is as long as the way to the clean clip divided by the root of the step's number, and halved
    until it achieves the goal. A bisection along the way from there to the clean clip leads back to the border. The
    jump goes along the normal, or to where a straight line from the clean clip touches the sphere of that radius on the
    normal's side (`touching`): of all such jumps, that from which the way back meets a flat border nearest to the clean
    clip.

    Preset ``tangent`` jumps to the tangent point. Preset ``natural`` is this library's own: it searches joint angles on
    rigid bones within limits, and probes with slow changes over time only. All that it asks about is natural motion in
    bones and angles, and smooth; there are some hundred numbers to be found instead of thousands.

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
    jump : {"normal", "tangent"}
        Where a jump goes.
    space : {"positions", "angles"}
        What is searched: coordinates of joints, or joint angles on bones that keep their length.
    frequencies : int, optional
        Search such changes over time as the first so many cosines make; any by default.
    queries, tries, starts
        As in `DecisionAttack`.

    References
    ----------
    Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", IEEE S&P 2020, algorithm
    2 for the Euclidean norm, whose mean of moves weighted by answers less their mean is the normal here times a number;
    that a search in few dimensions needs fewer queries is Li et al., "QEBA: Query-efficient boundary-based blackbox
    attack", CVPR 2020. Constants are foolbox's. The tangent jump is the Tangent Attack on a hemisphere of Ma et al.,
    "Finding optimal tangent points for reducing distortions of hard-label attacks", NeurIPS 2021; its formula was
    derived anew.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:12]
    >>> attack = fb.create_attack("hopskipjump", preset="natural", steps=1, probes=10)
    >>> outcome = attack(victim, clips[:1], starts=clips)
    >>> outcome.gradients.max(), outcome.distances["bone_length_change"].max() < 1e-5
    (tensor(0), tensor(True))
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "natural": {"space": "angles", "frequencies": 8},
        "tangent": {"jump": "tangent"},
    }

    steps: int = 64
    probes: int = 100
    most_probes: int = 10_000
    gamma: float = 1.0
    jump: Jump = "normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("steps", "probes", "most_probes", "gamma"):
            if not 0 < getattr(self, what) < math.inf:
                raise DataError(f"attack {self.name}: {what} is {getattr(self, what)}", hint="give more than zero")
        if self.jump not in get_args(Jump):
            raise DataError(f"attack {self.name}: jump is {self.jump!r}", hint="write normal or tangent")

    def walk(
        self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> "HopSkipJumpWalk":
        return HopSkipJumpWalk(self, problem, start, started)


class HopSkipJumpWalk(BorderWalk):
    """The clips of a problem, each in bisection, among its probes or in a jump."""

    def __init__(
        self, attack: HopSkipJump, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> None:
        super().__init__(attack, problem, start, started)
        self.attack = attack
        n, persons, frames, width = self.at.shape
        self.size = persons * min(attack.frequencies or frames, frames) * width  # how many numbers are searched for
        # Shares of a way that are nearer to each other than float32 tells apart are one.
        self.exact = max(attack.gamma / self.size**1.5, 4 * torch.finfo(self.at.dtype).eps)
        self.round, self.left = torch.zeros_like(self.steps).repeat(2, 1)  # bisections so far, and probes to come
        # Sums of the probes that miss the goal, and of those that achieve it. In float64, so that what float32 is told
        # does not depend on the order in which they are added, nor on the clips beside them.
        self.sums = self.at.new_zeros(n, 2, *self.at.shape[1:], dtype=torch.float64)
        self.counts = self.sums.new_zeros(n, 2)
        self.normal = torch.zeros_like(self.at)
        self.near, self.radius = self.at.new_zeros(2, n)  # how far probes and jumps go

    @property
    def stages(self) -> Sequence[tuple[Propose, Hear]]:
        return (self._probe, self._probed), (self._jump, self._jumped)

    def arrived(self, rows: Tensor) -> None:
        self.round[rows] += 1
        self.steps[rows] = self.round[rows] - 1  # the first bisection is none
        self.done[rows] |= self.round[rows] > self.attack.steps
        wanted = self.attack.probes * self.round[rows].double().sqrt()
        self.left[rows] = wanted.long().clamp(max=self.attack.most_probes)
        share = torch.where(self.round[rows] == 1, FIRST_PROBE, math.sqrt(self.size) * self.exact)
        self.near[rows] = share * self._far(rows)
        self.sums[rows], self.counts[rows] = 0, 0
        self.stage[rows] = PROBE

    def _far(self, rows: Tensor) -> Tensor:
        """How far clips are from the clean ones."""
        return norm(self.at[rows] - self.space.clean[rows]).flatten()

    def _probe(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        number = self.left[rows].clamp(max=AT_ONCE)
        most = int(number.max())
        self.moves = unit(self.noise(rows, most))
        self.asked = torch.arange(most, device=rows.device) < number[:, None]  # of clips with fewer probes not all
        points = self.at[rows][:, None] + over(self.near[rows])[:, None] * self.moves
        return points[self.asked], rows[:, None].expand_as(self.asked)[self.asked]

    def _probed(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        held = torch.zeros_like(self.asked)
        held[self.asked] = fooled
        sides = torch.stack([self.asked & ~held, held], 1).double()  # (K, 2, probes)
        self.sums[rows] += (sides @ self.moves.double().flatten(2)).view_as(self.sums[rows])
        self.counts[rows] += sides.sum(2)
        self.left[rows] -= self.asked.sum(1)
        rows = rows[self.left[rows] == 0]
        missed, held = (self.sums[rows] / self.counts[rows].clamp(min=1)[..., None, None, None]).unbind(1)
        self.normal[rows] = unit(held - missed).to(self.at)
        radius = self._far(rows) / self.round[rows].sqrt()
        if self.attack.jump == "tangent":  # the first would lead to the clean clip itself
            radius = torch.where(self.round[rows] == 1, radius / 2, radius)
        self.radius[rows] = radius
        self.stage[rows] = JUMP

    def _jump(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        at, normal, radius = self.at[rows], self.normal[rows], self.radius[rows]
        if self.attack.jump == "tangent":
            return touching(self.space.clean[rows], at, normal, radius), rows
        return at + over(radius) * normal, rows

    def _jumped(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        self.at[rows[fooled]] = points[fooled]
        nowhere = self.radius[rows] < SHORTEST * self._far(rows)
        self.radius[rows] /= 2
        self.search(rows[fooled | nowhere])


def touching(
    clean: Float[Tensor, "K M T W"],
    at: Float[Tensor, "K M T W"],
    normal: Float[Tensor, "K M T W"],
    radius: Float[Tensor, " K"],
) -> Float[Tensor, "K M T W"]:
    """Return where a straight line from the clean point touches the sphere around a point on the border.

    The line is in the plane of the way between both and of the border's normal, on the normal's side. Let ``w`` be the
    way from ``at`` to ``clean`` and ``d`` its length, ``f = w / d``, ``m`` the part of the normal that is orthogonal to
    ``f``, at a length of one, and ``r`` the radius. The line touches the sphere at ``at + k`` where ``|k| = r`` and
    ``k . (w - k) = 0``, so that ``k . w = r^2``, and ``k = r (c f + sqrt(1 - c^2) m)`` with ``c = r / d``.

    The lines from ``clean`` to the sphere fill a cone. A flat border is met nearest to ``clean`` by the one that makes
    the least angle with its normal: this one, at the cone's edge. Where the normal itself is inside of the cone, what
    is touched is on the wrong side of the border, and a smaller radius is needed.

    Parameters
    ----------
    normal : Float[Tensor, "K M T W"]
        Where the goal holds; of length one.
    radius : Float[Tensor, "K"]
        Less than the way.

    Examples
    --------
    >>> clean, at, normal = (torch.tensor(point).view(1, 1, 1, 2) for point in ([2.0, 0.0], [0.0, 0.0], [0.0, 1.0]))
    >>> touching(clean, at, normal, torch.tensor([1.0])).flatten()
    tensor([0.5000, 0.8660])
    """
    way = clean - at
    ahead = unit(way)
    aside = unit(normal - (normal * ahead).sum((-3, -2, -1), keepdim=True) * ahead)
    cosine = over(radius) / norm(way).clamp(min=torch.finfo(way.dtype).tiny)
    return at + over(radius) * (cosine * ahead + (1 - cosine.square()).clamp(min=0).sqrt() * aside)
