"""Square Attack (Andriushchenko et al., 2020) on motion: random tiles of joints and frames."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.losses import Loss
from funnybone.attacks.problem import Problem, free
from funnybone.attacks.scored import RandomSearch
from funnybone.errors import DataError
from funnybone.skeletons import Skeleton
from funnybone.threat.ball import L2, Ball, Linf, ball_of

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries


@register_attack("square")
@dataclass(frozen=True, kw_only=True)
class Square(RandomSearch):
    """Move a tile of joints and frames to the surface of the ball, and keep that if the loss falls.

    An image's tile is a square; a motion's is some joints that follow each other along the limbs times some frames that
    follow each other, the persons one after another. What cannot move, padding, absent persons and what a mask holds,
    is in no tile, so that no question is spent on it. Tiles take a share of joints and frames that is halved by the
    paper's schedule, stretched to the number of questions.

    Needs a threat model with a ball. In ``Linf`` a tile moves by the whole radius, with one random sign for each axis.
    In ``L2`` it takes a hill beside a valley, and all the way that another tile had, which goes back to the clean clip.
    Other parts of the threat model are projected onto.

    Parameters
    ----------
    queries : int
        Most queries for each clip; a budget of the call that is smaller holds. AutoAttack has 5000.
    loss : {"goal", "ce", "margin", "dlr"}
        What is made small: see `funnybone.attacks.losses`; the margin, as published for AB.
    p_init : float
        Share of the joints and frames in the first tiles; 0.8 in AutoAttack.

    References
    ----------
    Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search", ECCV 2020,
    algorithms 1 to 3; the steps in L2 are from general knowledge of the paper. The start is its stripes, constant over
    time, in L2 too, where it has a grid of hills.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("square", queries=5)(victim, clips, threat=fb.threat.Linf(0.01))
    >>> outcome.violation.max() <= 1e-6
    tensor(True)
    """

    loss: Loss = "margin"
    p_init: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.p_init <= 1:
            raise DataError(f"attack square: p_init is {self.p_init}", hint="give a share, above zero")

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        ball = _known(problem)
        _, m, _, v, c = problem.clean.shape
        problem.state["free"] = movable = free(problem)
        problem.state["row"], problem.state["frame"] = places(movable[..., 0], along_limbs(problem.clips.skeleton))
        stripes = torch.where(movable, _signs(problem, m, 1, v, c), 0)
        return problem.clean + ball.steepest(stripes)

    def proposed(self, problem: Problem, kept: Float[Tensor, "N M T V C"], k: int) -> Float[Tensor, "N M T V C"]:
        ball = _known(problem)
        share = share_of_tile(self.p_init, k, problem.state["questions"])
        if isinstance(ball, L2):
            return _hill_moved(problem, kept, share, ball.radius)
        tile, *_ = _tile(problem, share)
        way = ball.radius * _signs(problem, 1, 1, 1, kept.shape[-1])
        # Where that is what is kept already, the opposite is tried, lest a question is wasted.
        news = tile & ((problem.clean + way - kept).abs() > 0.01 * ball.radius)
        way = torch.where(news.flatten(1).any(1)[:, None, None, None, None], way, -way)
        return torch.where(tile, problem.clean + way, kept)


def share_of_tile(p_init: float, k: int, questions: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return how much of joints and frames a tile takes, after ``k`` tiles of so many questions for each clip.

    Examples
    --------
    >>> share_of_tile(0.8, 11, torch.tensor([100, 1000, 10000]))
    tensor([0.0250, 0.2000, 0.4000])
    """
    done = k * 10_000 // questions
    halved = (done[:, None] > torch.tensor(HALVED_AFTER, device=done.device)).sum(1)
    return p_init * 0.5**halved


@lru_cache(maxsize=64)
def along_limbs(skeleton: Skeleton) -> tuple[int, ...]:
    """Return the joints in such an order that each limb is in one piece: depth first from the root.

    Examples
    --------
    >>> along_limbs(Skeleton("two arms", ("neck", "left", "right", "wrist"), (-1, 0, 0, 1)))
    (0, 1, 3, 2)
    """
    order, ahead = [], [skeleton.root]
    while ahead:
        order.append(ahead.pop())
        ahead += [joint for joint in reversed(range(len(skeleton.joints))) if skeleton.parents[joint] == order[-1]]
    return tuple(order)


def places(
    movable: Bool[Tensor, "N M T V"], order: tuple[int, ...]
) -> tuple[Int[Tensor, "N M 1 V"], Int[Tensor, "N 1 T 1"]]:
    """Return the place of each joint and of each frame among those of its clip that move; -1 for those that do not.

    Joints are counted in ``order``, person after person.
    """
    rows = movable.any(2)[..., list(order)]
    counted = torch.where(rows, rows.flatten(1).cumsum(1).view_as(rows) - 1, -1)
    row = torch.empty_like(counted)
    row[..., list(order)] = counted
    frames = movable.any(3).any(1)
    return row[:, :, None], torch.where(frames, frames.cumsum(1) - 1, -1)[:, None, :, None]


def _tile(
    problem: Problem, share: Float[Tensor, " N"]
) -> tuple[Bool[Tensor, "N M T V 1"], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A random tile of each clip; the places of joints and frames counted from its corner; how many of each it has."""
    inside, place, size = problem.state["free"][..., 0], [], []
    drawn = problem.chance.uniform(2)
    for axis, number in enumerate((problem.state["row"], problem.state["frame"])):
        count = number.amax((1, 2, 3), keepdim=True) + 1
        side = (share.sqrt()[:, None, None, None] * count).round().long().clamp(min=1)
        first = (drawn[:, axis, None, None, None] * (count - side + 1)).long()
        inside = inside & (number >= first) & (number < first + side)
        place.append(number - first)
        size.append(side)
    return inside[..., None], (place[0], place[1]), (size[0], size[1])


def _hill_moved(
    problem: Problem, kept: Float[Tensor, "N M T V C"], share: Float[Tensor, " N"], radius: float
) -> Float[Tensor, "N M T V C"]:
    """Give one tile the way that another has, and what is left of the radius; algorithm 3 of the paper."""

    def norm(values: Tensor, dim: tuple[int, ...] = (1, 2, 3)) -> Tensor:
        return torch.linalg.vector_norm(values, dim=dim, keepdim=True)

    def unit(values: Tensor) -> Tensor:  # for each axis; zeros stay zeros
        return values / norm(values).clamp(min=torch.finfo(values.dtype).tiny)

    way, axes = kept - problem.clean, kept.shape[-1]
    left = (radius**2 - norm(way, (1, 2, 3, 4)).square()).clamp(min=0)
    (into, place, size), (out_of, *_) = _tile(problem, share), _tile(problem, share)
    turned = problem.chance.uniform(1, 1, 1) < 0.5
    shape = torch.where(into, hill_and_valley(*place, *size, turned)[..., None], 0)
    own, hill = torch.where(into, way, 0), _signs(problem, 1, 1, 1, axes) * unit(shape)
    both = hill + unit(own)
    # In tiles of one joint and frame they may cancel out, and the way would be lost: the hill alone, which is a change.
    direction = unit(torch.where(norm(both) > 1e-3, both, hill))
    # The way of both tiles and what is left of the radius, so that the whole is as long as the radius again.
    length = (norm(torch.where(into | out_of, way, 0)).square() + left / axes).sqrt()
    return problem.clean + torch.where(into, direction * length, torch.where(out_of, 0, way))


def hill_and_valley(
    row: Int[Tensor, "N M 1 V"],
    frame: Int[Tensor, "N 1 T 1"],
    rows: Int[Tensor, "N 1 1 1"],
    frames: Int[Tensor, "N 1 1 1"],
    over_time: Bool[Tensor, "N 1 1 1"],
) -> Float[Tensor, "N M T V"]:
    """Return a hill in the first half of a tile and a valley in the second: frames where ``over_time``, else joints."""
    turned = torch.where(over_time, frame, row)
    half = torch.where(over_time, frames, rows) // 2
    second = turned >= half
    length = torch.where(second, torch.where(over_time, frames, rows) - half, half).clamp(min=1)
    along = turned - torch.where(second, half, 0)
    across, width = torch.where(over_time, row, frame), torch.where(over_time, rows, frames)
    # From zero in the middle to nearly one at the edge; rings around it are as many as half of the longer side.
    off = torch.maximum((2 * along + 1 - length).abs() / length, (2 * across + 1 - width).abs() / width)
    rings = torch.maximum(length, width) // 2
    climbed = ((1 - off) * (rings + 1)).long().clamp(min=0).minimum(rings)
    most = int(rings.max()) + 1
    heights = torch.arange(1, most + 1, device=off.device).float().square().reciprocal().cumsum(0)
    heights = torch.cat([heights.new_zeros(1), heights])
    return torch.where(second, -1, 1) * (heights[rings + 1] - heights[rings - climbed])


def _signs(problem: Problem, *shape: int) -> Float[Tensor, "N ..."]:
    return torch.where(problem.chance.uniform(*shape) < 0.5, -1.0, 1.0)


def _known(problem: Problem) -> Ball:
    ball = ball_of(problem.threat)
    if not isinstance(ball, Linf | L2):
        raise DataError(f"attack square has no tiles for {ball!r}", hint="use a ball in linf or l2")
    return ball
