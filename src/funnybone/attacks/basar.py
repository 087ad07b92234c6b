"""BASAR: random exploration around a clip, aimed probing towards it, and projection onto natural motion."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.decision import DecisionAttack, Questions, Walk, WalkTrace, like, wide
from funnybone.attacks.problem import Problem, Progress
from funnybone.attacks.spaces import manifold_of, smooth
from funnybone.errors import DataError

PULL, EXPLORE, PROBE, PROJECT = range(4)  # what a clip is at

FIRST_PULL, SHORTER_PULL = 0.95, 0.9
ROUNDS = 300  # of exploration without any trial that achieves the goal, before a clip is left as it is
PROBES = 500  # in all, before one of a clip's trials is taken as it is
LONGEST_PROBE = 0.9
NO_PULL = 1e-3
SHRINK, FEW, MANY = 0.9, 0.2, 0.8
HEAVIER = 10.0
STUCK, UNSTUCK = 0.01, 5.0
# Where a projected clip goes that misses the goal: away from the clean clip, along its own way, which stays as smooth;
# then back to where it was before its dynamics were drawn to the clean ones, and from there away.
FAR = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.1, 1.25, 1.5, 2.0)
BACK = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0)


@register_attack("basar")
@dataclass(frozen=True, kw_only=True)
class BASAR(DecisionAttack):
    """Walk along the border of a class towards the clean clip, by labels alone, and end on the natural-motion manifold.

    Each step has a sideways move and one ahead. *Random exploration* draws ``trials`` motions around the present one,
    tangential to the sphere around the clean clip, as large as ``spread`` times the way that is left; where none of
    them achieves the goal the spread shrinks, where nearly all of a class do it grows. *Aimed probing* takes the first
    trial of each class that was seen a share ``reach`` of the way ahead; the share is halved until the goal is
    achieved, and doubled for the next time. The trial that ends nearest goes on. Every ``period`` steps and in the end
    the clip is projected onto *natural motion*: bones as long as in the clean clip, joint angles within limits,
    accelerations drawn to the clean ones (`funnybone.motion.manifold`). The end may be that of its queries: those that
    a projection may need are kept for it. A projection that misses the goal goes back towards where it was, in angles,
    so that no bone is broken: as far as its own pose within limits, and then away from the clean clip. What was
    projected and achieves the goal is kept apart, and the nearest of that is the result; without any, the nearest of
    all. With the ``natural`` of the call, its test is shown where each projection ended, which costs no query: where
    none was natural motion, the last one is repeated with ten times the weight of accelerations, and ten times that,
    until one is.

    Joint limits are those of ``natural``, or learned from the motions to start from.

    Presets: ``published`` has the tangent, the exploration, the period and the weight of the published code, and no
    heavier one.

    Parameters
    ----------
    steps : int
        Steps of each clip.
    trials : int
        Motions that each round of exploration draws; one query each.
    spread, largest_spread : float
        Size of exploration to begin with, and at most, as a share of the way left.
    reach : float
        Share of the way that probing tries first.
    caps : tuple of (float, float)
        Distances, in the clips' unit, below which the spread is at most so large: the nearer, the finer. It is the
        Euclidean norm over the joints of a frame, mean over frames.
    tangent : {"true", "published"}
        How exploration is drawn: exactly orthogonal to the way, or as the published code does, which is not (its matrix
        product in place of an inner one leaves 0.645 of the size for 60 frames of 25 joints, and any direction).
    frequencies : int, optional
        Explore by such changes over time as the first so many cosines make; None: each frame by itself, as the paper
        has it, and always with the published tangent.
    joint_weights : tuple of float, optional
        Weight of each joint in exploration (W); all one by default. The paper's are not known.
    project : bool
        Project onto natural motion.
    period : int
        Steps between projections.
    weight, heaviest : float
        Weight of accelerations in the projection, and the largest in the last one.
    queries, tries, starts
        As in `DecisionAttack`.

    References
    ----------
    Diao et al., "BASAR: Black-box Attack on Skeletal Action Recognition", CVPR 2021. The constants are those of the
    published demonstration, whose distances of standardised coordinates were turned into metres: 0.1 of them is
    27 mm. The result is not: the fallback that keeps bones, the way beyond it, slow exploration, which iterate is
    kept, and the last projection's growing weight are ours.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:12]
    >>> outcome = fb.create_attack("basar", steps=3)(victim, clips[:2], starts=clips)
    >>> outcome.gradients.max(), outcome.distances["bone_length_change"].max() < 1e-5
    (tensor(0), tensor(True))
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"tangent": "published", "frequencies": None, "period": 250, "weight": 1.0, "heaviest": 1.0}
    }

    queries: int = 20_000
    steps: int = 500
    trials: int = 5
    spread: float = 0.1
    largest_spread: float = 0.4
    reach: float = 0.95
    caps: tuple[tuple[float, float], ...] = ((0.027, 0.1), (0.0134, 0.05), (0.0067, 0.025))
    tangent: Literal["true", "published"] = "true"
    frequencies: int | None = 8
    joint_weights: tuple[float, ...] | None = None
    project: bool = True
    period: int = 20
    weight: float = 1000.0
    heaviest: float = 1e7

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("steps", "trials", "period", "spread", "largest_spread", "reach"):
            if not 0 < getattr(self, what) < math.inf:
                raise DataError(f"attack basar: {what} is {getattr(self, what)}", hint="give more than zero")
        if not self.reach < 1 or not 0 <= self.weight <= self.heaviest < math.inf:
            raise DataError(
                f"attack basar: reach is {self.reach}, weight {self.weight}, heaviest {self.heaviest}",
                hint="reach below 1, weight not below 0, nor above the heaviest",
            )
        if not all(isinstance(cap, Sequence) and len(cap) == 2 for cap in self.caps):
            raise DataError(f"attack basar: caps {self.caps}", hint="give pairs of a distance and a spread")
        numbers = (*(self.joint_weights or ()), *(value for cap in self.caps for value in cap))
        if not all(0 <= number < math.inf for number in numbers):
            raise DataError(
                f"attack basar: caps {self.caps}, joint weights {self.joint_weights}", hint="give numbers from zero on"
            )
        if self.frequencies is not None and (self.frequencies < 1 or self.frequencies != int(self.frequencies)):
            raise DataError(f"attack basar: frequencies is {self.frequencies}", hint="give a whole number from 1 on")
        if self.tangent not in ("true", "published"):
            raise DataError(f"attack basar: no tangent {self.tangent!r}", hint="write true or published")

    def run(self, problem: Problem, progress: Progress) -> WalkTrace:
        frames, joints, coordinates = problem.clean.shape[2:]
        if self.joint_weights is not None and len(self.joint_weights) != joints:
            raise DataError(f"attack basar: {len(self.joint_weights)} joint weights for {joints} joints")
        if self.project and coordinates != 3:
            raise DataError("attack basar: joints have two coordinates", hint="give three, or project=false")
        if self.tangent == "published" and frames < joints:
            raise DataError(
                f"attack basar: the published tangent needs as many frames as joints, there are {frames} and {joints}",
                hint="tangent=true has no such limit",
            )
        return super().run(problem, progress)

    def walk(self, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]) -> "BASARWalk":
        return BASARWalk(self, problem, start, started)

    def distance(
        self, problem: Problem, xyz: Float[Tensor, "B M T V C"], owner: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Return the norm of the displacement of a frame, mean over valid frames, in metres."""
        change = torch.linalg.vector_norm(xyz - problem.clean[owner], dim=(3, 4))
        return change.flatten(1).sum(1) / problem.clips.valid[owner].flatten(1).sum(1)


class BASARWalk(Walk):
    """The clips of a problem on their way; each is pulled, then explores and probes in turn, and is projected at times.

    Of N clips, R trials of each are under way.
    """

    def __init__(
        self, attack: BASAR, problem: Problem, start: Float[Tensor, "N M T V C"], started: Bool[Tensor, " N"]
    ) -> None:
        super().__init__(problem, start, started)
        n, trials, of = len(problem), attack.trials, problem.clean
        self.attack = attack
        self.stage = torch.full((n,), PULL, device=of.device)
        self.tried = torch.zeros(n, dtype=torch.long, device=of.device)  # in this stage
        self.pull = of.new_full((n,), FIRST_PULL)
        self.spread, self.reach = of.new_full((n,), attack.spread), of.new_full((n,), attack.reach)
        self.last = torch.zeros_like(self.done)  # with no more than the projection in the end to come
        self.trials = of.new_zeros(n, trials, *of.shape[1:])
        self.spreads, self.reaches = of.new_zeros(2, n, trials)
        self.seen, self.open = torch.zeros(2, n, trials, dtype=torch.bool, device=of.device)
        if attack.project:
            self.manifold = manifold_of(problem)
            self.weight = torch.full_like(self.pull, attack.weight)
            self.natural = torch.zeros_like(self.done)  # whether a projection ended in natural motion
            self.aim, self.own = torch.zeros_like(self.manifold.clean_paths).repeat(2, 1, 1, 1, 1)

    def ask(self) -> Questions:
        if self.attack.project:
            self._end()
        going = ~self.done
        batches = []
        for stage, propose in (
            (PULL, self._pull),
            (EXPLORE, self._explore),
            (PROBE, self._probe),
            (PROJECT, self._way),
        ):
            rows = (going & (self.stage == stage)).nonzero().flatten()
            batches.append(propose(rows) if len(rows) else (self.problem.clean[rows], rows))
        proposed, owner = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.sizes = [len(part) for _, part in batches]
        self.asked, self.owner = self.problem.constrain_some(proposed, owner), owner
        projected = torch.arange(len(owner), device=owner.device) >= len(owner) - self.sizes[PROJECT]
        return Questions(self.asked, owner, projected & (self.asked == proposed).flatten(1).all(1))

    def hear(self, fooled: Bool[Tensor, " B"], labels: Int[Tensor, " B"]) -> None:
        parts = (part.split(self.sizes) for part in (self.owner, self.asked, fooled, labels))
        heard = (self._pulled, self._explored, self._probed, self._arrived)
        for hear, rows, xyz, wrong, seen in zip(heard, *parts, strict=True):
            if len(rows):
                hear(rows, xyz, wrong, seen)

    def _end(self) -> None:
        """Project for a last time what can afford no more beside that; the last trials count."""
        exploring, probing = self.stage == EXPLORE, self.stage == PROBE
        number = torch.where(exploring, self.attack.trials, torch.where(probing, self.open.sum(1), 1))
        ending = ~self.done & (self.stage != PROJECT) & (self.remaining < number + len(FAR))
        if bool(ending.any()):
            self.last |= ending
            self._step((ending & probing).nonzero().flatten())
            rows = (ending & ~probing).nonzero().flatten()
            self._onwards(rows, torch.ones_like(rows, dtype=torch.bool))

    def _pull(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return ahead(self.xyz[rows], self.problem.clean[rows], self.pull[rows]), rows

    def _pulled(self, rows: Tensor, xyz: Tensor, fooled: Tensor, labels: Tensor) -> None:
        self.xyz[rows] = torch.where(wide(fooled), xyz, self.xyz[rows])
        self.pull[rows] *= SHORTER_PULL
        self.stage[rows] = torch.where(fooled | (self.pull[rows] < NO_PULL), EXPLORE, PULL)

    def _explore(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        attack, way = self.attack, self.problem.clean[rows] - self.xyz[rows]
        chance, valid = self.chance(rows), self.problem.movable[rows]
        persons, frames, joints, coordinates = way.shape[1:]
        if attack.tangent == "true":
            noise = smooth(chance, (attack.trials, persons, frames, joints * coordinates), attack.frequencies)
            noise = torch.where(valid[:, None], noise.unflatten(-1, (joints, coordinates)), 0)
            move = tangent(noise, way, self.spread[rows])
        else:
            noise = chance.normal(attack.trials, persons, frames, frames, coordinates)
            move = torch.where(valid[:, None], published_tangent(noise, way, self.spread[rows]), 0)
        if attack.joint_weights is not None:
            move = move * move.new_tensor(attack.joint_weights)[:, None]
        return (self.xyz[rows][:, None] + move).flatten(0, 1), rows.repeat_interleave(attack.trials)

    def _explored(self, rows: Tensor, xyz: Tensor, fooled: Tensor, labels: Tensor) -> None:
        attack = self.attack
        rows = rows[:: attack.trials]
        xyz, fooled, labels = (part.unflatten(0, (len(rows), attack.trials)) for part in (xyz, fooled, labels))
        # Of each class that was seen, the first trial; and how many of the trials were of it.
        same = (labels[:, :, None] == labels[:, None]) & fooled[:, None]
        first = fooled & ~torch.tril(same, -1).any(2)
        share, spread = same.float().mean(2), self.spread[rows][:, None]
        wider = (spread / SHRINK).clamp(max=attack.largest_spread)
        self.spreads[rows] = torch.where(share <= FEW, SHRINK * spread, torch.where(share >= MANY, wider, spread))
        self.reaches[rows] = self.reach[rows][:, None].expand_as(share)
        self.trials[rows], self.seen[rows], self.open[rows] = xyz, first, first
        some = fooled.any(1)
        self.spread[rows] *= torch.where(some, 1, SHRINK)
        self.tried[rows] = torch.where(some, 0, self.tried[rows] + 1)
        self.stage[rows] = torch.where(some, PROBE, EXPLORE)
        given_up = rows[self.tried[rows] >= ROUNDS]
        self.last[given_up] = True
        self._onwards(given_up, torch.ones_like(given_up, dtype=torch.bool))

    def _probe(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        place, trial = self.open[rows].nonzero().unbind(1)
        self.probing = rows[place], trial
        owner = rows[place]
        return ahead(self.trials[self.probing], self.problem.clean[owner], self.reaches[self.probing]), owner

    def _probed(self, owner: Tensor, xyz: Tensor, fooled: Tensor, labels: Tensor) -> None:
        reach = self.reaches[self.probing]
        self.trials[self.probing] = torch.where(wide(fooled), xyz, self.trials[self.probing])
        further = torch.where(2 * reach < 1, 2 * reach, LONGEST_PROBE)
        self.reaches[self.probing] = torch.where(fooled, further, reach / 2)
        self.open[self.probing] = ~fooled
        rows = owner.unique()
        self.tried += torch.bincount(owner, minlength=len(self.tried))
        self._step(rows[~self.open[rows].any(1) | (self.tried[rows] >= PROBES)])

    def _step(self, rows: Tensor) -> None:
        """Go on from the nearest of the trials."""
        attack, problem = self.attack, self.problem
        trials = self.trials[rows].flatten(0, 1)
        distance = attack.distance(problem, trials, rows.repeat_interleave(attack.trials)).view(-1, attack.trials)
        distance, nearest = distance.masked_fill(~self.seen[rows], torch.inf).min(1)
        self.xyz[rows], self.reach[rows] = self.trials[rows, nearest], self.reaches[rows, nearest]
        spread = self.spreads[rows, nearest]
        for near, cap in attack.caps:
            spread = torch.where(distance <= near, spread.clamp(max=cap), spread)
        self.spread[rows], self.tried[rows] = spread, 0
        self.steps[rows] += 1
        self.last[rows] |= self.steps[rows] >= attack.steps
        self._onwards(rows, self.last[rows] | (self.steps[rows] % attack.period == 0))

    def _onwards(self, rows: Tensor, due: Bool[Tensor, " R"]) -> None:
        """Project those that are due, the last time or by their period; without projection, end what is at its last."""
        if self.attack.project:
            self._aim(rows[due])
            self.stage[rows], self.tried[rows] = torch.where(due, PROJECT, EXPLORE), 0
        else:
            self.stage[rows] = EXPLORE
            self.done[rows] |= self.last[rows]

    def _aim(self, rows: Tensor) -> None:
        """Project clips, and keep where they come from."""
        for weight in self.weight[rows].unique().tolist():
            alike = rows[self.weight[rows] == weight]
            manifold = self.manifold[alike]
            self.own[alike] = manifold.limited(manifold.paths(self.xyz[alike]))
            self.aim[alike] = manifold.projected(self.own[alike], weight)

    def _way(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        manifold, aim, own = self.manifold[rows], self.aim[rows], self.own[rows]
        far, back = (aim.new_tensor(shares)[self.tried[rows]][:, None, None, None] for shares in (FAR, BACK))
        path = torch.lerp(manifold.clean_paths, torch.lerp(aim, own, back), far)
        return manifold.positions(manifold.limited(path)), rows

    def _arrived(self, rows: Tensor, xyz: Tensor, fooled: Tensor, labels: Tensor) -> None:
        self.xyz[rows] = torch.where(wide(fooled), xyz, self.xyz[rows])
        self.tried[rows] += 1
        over = fooled | (self.tried[rows] == len(FAR))
        ended = over & self.last[rows]
        again = self._heavier(rows, xyz, fooled, ended)
        fine = over & (self.spread[rows] < STUCK)
        self.spread[rows] *= torch.where(fine, UNSTUCK, 1)
        self.tried[rows] = torch.where(over, 0, self.tried[rows])
        self.stage[rows] = torch.where(over & ~again, EXPLORE, PROJECT)
        self.done[rows] |= ended & ~again
        self._aim(rows[again])

    def _heavier(
        self, rows: Tensor, xyz: Tensor, fooled: Bool[Tensor, " R"], ended: Bool[Tensor, " R"]
    ) -> Bool[Tensor, " R"]:
        """Where none of a clip's projections was natural motion, the last one goes again: closer to clean dynamics."""
        natural = self.problem.natural
        if natural is None:
            return torch.zeros_like(ended)
        of = fooled.nonzero().flatten()
        if len(of):
            self.natural[rows[of]] |= natural.holds(like(self.problem.clips, xyz[of], rows[of]))
        heavier = (HEAVIER * self.weight[rows]).clamp(max=self.attack.heaviest)
        again = ended & ~self.natural[rows] & (heavier > self.weight[rows])
        self.weight[rows] = torch.where(again, heavier, self.weight[rows])
        return again


def ahead(
    xyz: Float[Tensor, "B M T V C"], clean: Float[Tensor, "B M T V C"], share: Float[Tensor, " B"]
) -> Float[Tensor, "B M T V C"]:
    """Return clips a share of the way nearer to the clean ones: aimed probing."""
    return torch.lerp(xyz, clean, wide(share))


def tangent(
    noise: Float[Tensor, "B R M T V C"], way: Float[Tensor, "B M T V C"], spread: Float[Tensor, " B"]
) -> Float[Tensor, "B R M T V C"]:
    """Return moves orthogonal to the way to the clean clip, in each of the coordinates x, y and z by itself.

    ``R - (R . d) d`` with ``R = spread r / |r| |way|`` and ``d = way / |way|``, norms and products over all joints and
    frames of a coordinate. A coordinate in which there is no way left has no move.

    Examples
    --------
    >>> way = torch.randn(2, 1, 4, 5, 3)
    >>> move = tangent(torch.randn(2, 7, 1, 4, 5, 3), way, torch.tensor([0.1, 0.4]))
    >>> bool((move * way[:, None]).sum((2, 3, 4)).abs().max() < 1e-5)
    True
    """
    inside = (2, 3, 4)
    left = torch.linalg.vector_norm(way, dim=(1, 2, 3), keepdim=True)[:, None]
    direction = (way[:, None] / left.clamp(min=torch.finfo(way.dtype).tiny)).nan_to_num(0)
    size = torch.linalg.vector_norm(noise, dim=inside, keepdim=True).clamp(min=torch.finfo(way.dtype).tiny)
    move = spread.view(-1, *(1,) * (noise.ndim - 1)) * left * noise / size
    return move - (move * direction).sum(inside, keepdim=True) * direction


def published_tangent(
    noise: Float[Tensor, "B R M T T C"], way: Float[Tensor, "B M T V C"], spread: Float[Tensor, " B"]
) -> Float[Tensor, "B R M T V C"]:
    """Return the moves of the published code, for comparison: square noise, cut off, and a matrix product for a dot.

    For each coordinate ``R[:, :V] - (R @ d) * d`` with ``R`` of T by T numbers, so T is not below V: shorter than
    `tangent` by the root of V / T, and orthogonal to nothing.
    """
    left = torch.linalg.vector_norm(way, dim=(1, 2, 3), keepdim=True)[:, None]
    direction = (way[:, None] / left.clamp(min=torch.finfo(way.dtype).tiny)).nan_to_num(0)
    size = torch.linalg.vector_norm(noise, dim=(2, 3, 4), keepdim=True)
    drawn = spread.view(-1, *(1,) * (noise.ndim - 1)) * left * noise / size
    product = torch.einsum("brmtsc,brmsvc->brmtvc", drawn, direction.expand(-1, noise.shape[1], -1, -1, -1, -1))
    return drawn[..., : way.shape[3], :] - product * direction
