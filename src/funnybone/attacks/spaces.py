"""What attacks that see labels search in: positions of joints, or the angles of a body whose bones are rigid."""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from funnybone.attacks.problem import Problem, free
from funnybone.chance import Chance
from funnybone.errors import DataError
from funnybone.motion.limits import learn_limits
from funnybone.motion.manifold import Manifold
from funnybone.motion.turns import carried

LEARNED_FROM = 256

SpaceName = Literal["positions", "angles"]


class Space(ABC):
    """Points (N, M, T, W) that stand for clips. All numbers are metres, so that distances mean something.

    Attributes
    ----------
    clean : Float[Tensor, "N M T W"]
        The clean clips.
    movable : Bool[Tensor, "N M T W"]
        What may move of them: a direction is zero elsewhere.
    natural : bool
        Whether all points are natural motion.
    """

    clean: Float[Tensor, "N M T W"]
    movable: Bool[Tensor, "N M T W"]
    natural: bool

    @abstractmethod
    def points(self, xyz: Float[Tensor, "B M T V C"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B M T W"]:
        """Return the points nearest to positions of some of the clips."""

    @abstractmethod
    def positions(self, points: Float[Tensor, "B M T W"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B M T V C"]:
        """Return the positions that points stand for; points outside of limits stand for some inside."""

    def directions(self, noise: Float[Tensor, "B K M T W"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B K M T W"]:
        """Return noise as directions: zero where nothing moves."""
        return torch.where(self.movable[rows][:, None], noise, 0)


class Positions(Space):
    """The coordinates of all joints; those that a mask of the threat model holds do not move."""

    natural = False

    def __init__(self, problem: Problem) -> None:
        self.shape, self.clean = problem.clean.shape[3:], problem.clean.flatten(3)
        self.movable = free(problem).expand_as(problem.clean).flatten(3)

    def points(self, xyz: Float[Tensor, "B M T V C"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B M T W"]:
        return xyz.flatten(3)

    def positions(self, points: Float[Tensor, "B M T W"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B M T V C"]:
        return points.unflatten(-1, self.shape)


class Angles(Space):
    """Where the root is and how joints are turned, on bones as long as in the clean clip and within joint limits.

    An angle counts as far as the joints go that it moves: in metres for a radian, the root of the sum of their squared
    distances from where it turns.
    """

    natural = True

    def __init__(self, problem: Problem) -> None:
        if problem.clean.shape[-1] != 3:
            raise DataError("joint angles: joints have two coordinates", hint="give three, or search positions")
        self.manifold = manifold_of(problem)
        self.arm = _arms(problem)
        self.clean = self.manifold.clean_paths * self.arm
        self.movable = problem.clips.valid[..., None].expand_as(self.clean)

    def points(self, xyz: Float[Tensor, "B M T V C"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B M T W"]:
        manifold = self.manifold[rows]
        return manifold.limited(manifold.far_paths(xyz)) * self.arm[rows]

    def positions(self, points: Float[Tensor, "B M T W"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B M T V C"]:
        manifold = self.manifold[rows]
        return manifold.positions(manifold.limited(points / self.arm[rows]))


def space_of(problem: Problem, name: SpaceName) -> Space:
    """Return a space by name."""
    return Angles(problem) if name == "angles" else Positions(problem)


def manifold_of(problem: Problem) -> Manifold:
    """Return the natural motions around the clips, by the joint limits of ``natural``, or of the motions to start from.

    Without ``natural`` limits are learned from at most some hundred of the motions that the attacker starts from.
    """
    if problem.natural is not None:
        limits = problem.natural.limits
    else:
        limits = learn_limits(problem.motions[:: -(-len(problem.motions) // LEARNED_FROM)])
    return Manifold.around(limits.angles(problem.clips, breathing=True), limits.lower, limits.upper)


def smooth(chance: Chance, shape: tuple[int, int, int, int], frequencies: int | None) -> Float[Tensor, "B K M T W"]:
    """Return random paths of shape (K, M, T, W) for each clip: white noise, or so many cosines over time.

    The cosines are those of the discrete cosine transform from the constant one on, and all weigh the same.
    """
    k, m, t, w = shape
    if frequencies is None or frequencies >= t:
        return chance.normal(k, m, t, w)
    return _cosines(t, frequencies, chance.keys.device) @ chance.normal(k, m, frequencies, w)


def over(values: Shaped[Tensor, " K"]) -> Shaped[Tensor, "K 1 1 1"]:
    """Return one value for each clip in a shape that goes with points."""
    return values[:, None, None, None]


def norm(points: Float[Tensor, "*K M T W"]) -> Float[Tensor, "*K 1 1 1"]:
    """Return the Euclidean length of points or moves, in metres."""
    return torch.linalg.vector_norm(points, dim=(-3, -2, -1), keepdim=True)


def unit(moves: Float[Tensor, "*K M T W"]) -> Float[Tensor, "*K M T W"]:
    """Return moves at a length of one; none where there was none."""
    return moves / norm(moves).clamp(min=torch.finfo(moves.dtype).tiny)


@lru_cache(maxsize=64)
def _cosines(frames: int, frequencies: int, device: torch.device) -> Tensor:
    """An orthonormal basis (T, F) of slow changes over time."""
    with torch.inference_mode(False):
        time = (torch.arange(frames, device=device) + 0.5) * torch.pi / frames
        basis = torch.cos(time[:, None] * torch.arange(frequencies, device=device))
        return basis / torch.linalg.vector_norm(basis, dim=0)


def _arms(problem: Problem) -> Float[Tensor, "N M 1 W"]:
    """How far joints go for a radian of each angle, and for a metre of the root, over the frames of a clip."""
    clips, skeleton = problem.clips, problem.clips.skeleton
    moved = torch.tensor(carried(skeleton), device=clips.xyz.device)  # (J, V)
    pivots = [_pivot(skeleton.parents, row) for row in moved.tolist()]
    away = clips.xyz[..., None, :, :] - clips.xyz[..., pivots, None, :]  # (N, M, T, J, V, 3)
    square = torch.where(moved[..., None], away, 0).square().sum((-1, -2))
    there = clips.valid[..., None]
    mean = torch.where(there, square, 0).sum(2) / there.sum(2).clamp(min=1)
    turn = mean.sqrt().clamp(min=0.01).repeat_interleave(3, -1)
    root = turn.new_full((*turn.shape[:2], 3), len(skeleton.joints) ** 0.5)
    return torch.cat([root, turn], -1)[:, :, None]


def _pivot(parents: tuple[int, ...], moved: list[bool]) -> int:
    """The joint about which a rotation turns: it carries what is moved, and stays itself."""
    return next(parents[joint] for joint, does in enumerate(moved) if does and not moved[parents[joint]])
