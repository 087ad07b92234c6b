"""Where attacks that see labels begin: a motion that achieves the goal already, laid over the clean one."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.problem import Problem
from funnybone.attacks.spaces import Space, over
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.deviations import masked_mean
from funnybone.motion.placing import laid_over
from funnybone.motion.unwrapping import held

HALVINGS = 10  # of a way, to compare it with others
NOISES = 14  # how often noise is tried where no motion will do: one way and the other, and then twice as large
FIRST_NOISE = 0.5  # of a clip's mean bone length

Ask = Callable[[Float[Tensor, "B M T V C"], Int[Tensor, " B"]], Bool[Tensor, " B"]]
Distance = Callable[[Float[Tensor, "B M T V C"], Int[Tensor, " B"]], Float[Tensor, " B"]]


def starting(
    problem: Problem, space: Space, *, ask: Ask, distance: Distance, tries: int, starts: int = 1
) -> tuple[Float[Tensor, "N M T V C"], Bool[Tensor, " N"]]:
    """Return a clip that achieves the goal for each clean one, and for which of them one was found.

    Motions of ``problem.starts`` in a random order: those of the wanted class, or of any but the true one. Where none
    does, and the goal only leads away from a class, noise that grows, one way and the other. Where several do, the one
    from which a straight way to the clean clip comes nearest before it leaves what achieves the goal.

    Parameters
    ----------
    problem : Problem
        The clips.
    space : Space
        What is searched: a motion is asked about as what it is there, and ways are straight there.
    ask : callable
        Tells for which positions, of which clips, the goal holds.
    distance : callable
        How far positions are from the clean clips.
    tries : int
        Motions that are asked about for each clip, at most.
    starts : int
        Motions that achieve the goal to choose from, at most.
    """
    clean, number = problem.clean, torch.zeros(len(problem), dtype=torch.long, device=problem.clean.device)
    found = clean[:, None].repeat(1, starts, 1, 1, 1, 1)

    def keep(moved: Tensor, rows: Tensor) -> None:
        """Ask about motions in the space, and keep those that achieve the goal."""
        there = problem.constrain_some(space.positions(space.points(moved, rows), rows), rows)
        fooled = ask(there, rows)
        rows = rows[fooled]
        found[rows, number[rows]] = there[fooled]
        number[rows] += 1

    order, some = _order(problem, problem.motions)
    for place in range(min(tries, order.shape[1])):
        rows = ((number < starts) & some[:, place]).nonzero().flatten()
        if not len(rows):
            break
        keep(laid(problem.motions, order[rows, place], problem.clips, rows), rows)
    noise = problem.chance.normal(*clean.shape[1:]) * (FIRST_NOISE * _size(problem.clips))[:, None, None, None, None]
    for turn in range(NOISES if problem.goal.away else 0):
        rows = (number == 0).nonzero().flatten()
        if not len(rows):
            break
        keep(clean[rows] + (-1) ** turn * 2 ** (turn // 2) * noise[rows], rows)
    chosen = _nearest(problem, space, found, number, ask, distance)
    return found[torch.arange(len(problem), device=clean.device), chosen], number > 0


def _size(clips: Clips) -> Float[Tensor, " N"]:
    """Mean bone length of each clip, so that noise fits metres and pixels; 1 where no bone has any."""
    size = masked_mean(clips.skeleton.bone_lengths(clips.xyz), clips.valid[..., None])
    return torch.where(size > 0, size, 1.0)


def _nearest(
    problem: Problem, space: Space, found: Tensor, number: Tensor, ask: Ask, distance: Distance
) -> Int[Tensor, " N"]:
    """Of the first so many motions (N, S, M, T, V, C) of each clip, the one whose way comes nearest, by bisection."""
    several = (torch.arange(found.shape[1], device=number.device) < number[:, None]) & (number > 1)[:, None]
    rows, place = several.nonzero().unbind(1)
    away = torch.full_like(several, torch.inf, dtype=found.dtype)
    if len(rows):
        start, clean = found[rows, place], space.clean[rows]
        points, near = space.points(start, rows), distance(start, rows)
        good, bad = torch.zeros_like(near), torch.ones_like(near)
        for _ in range(HALVINGS):
            middle = (good + bad) / 2
            there = space.positions(torch.lerp(points, clean, over(middle)), rows)
            there = problem.constrain_some(there, rows)
            fooled = ask(there, rows)
            good, bad = torch.where(fooled, middle, good), torch.where(fooled, bad, middle)
            near = torch.where(fooled, distance(there, rows), near)
        away[rows, place] = near
    return away.argmin(1)


def check_starts(starts: Clips, clips: Clips) -> None:
    """Say what is wrong with motions that do not fit to the clips.

    Raises
    ------
    DataError
        When there are none, or they are of another skeleton, shape, unit or vertical axis.
    """
    if not len(starts):
        raise DataError(f"starts {starts.name}: there are none", hint="leave them out, or give some")
    if (starts.unit, starts.up) != (clips.unit, clips.up):
        raise DataError(
            f"starts {starts.name}: in {starts.unit}, {starts.up} up, the clips in {clips.unit}, {clips.up} up",
            hint="give motions of the same data",
        )
    if starts.skeleton != clips.skeleton or starts.xyz.shape[1:] != clips.xyz.shape[1:]:
        raise DataError(
            f"starts {starts.name}: {tuple(starts.xyz.shape[1:])} on {starts.skeleton.name}, the clips are "
            f"{tuple(clips.xyz.shape[1:])} on {clips.skeleton.name}",
            hint="give motions of as many persons and frames, on the same skeleton",
        )


def laid(starts: Clips, chosen: Int[Tensor, " B"], clips: Clips, rows: Int[Tensor, " B"]) -> Float[Tensor, "B M T V C"]:
    """Return chosen motions in the valid frames of some of the clips, and, in space, where these are and facing so.

    Where a motion has ended it stays in its last pose; a person that it does not have moves as the clip's.
    """
    xyz, there, valid = starts.xyz[chosen], starts.valid[chosen], clips.valid[rows]
    frozen = held(xyz.flatten(3), there).reshape(xyz.shape)
    clean = clips.xyz[rows]
    xyz = torch.where(there.any(-1)[..., None, None, None], frozen, clean)
    if xyz.shape[-1] == 3:
        return laid_over(xyz, clean, valid, clips.up)
    return torch.where(valid[..., None, None], xyz, 0)


def _order(problem: Problem, starts: Clips) -> tuple[Int[Tensor, "N P"], Bool[Tensor, "N P"]]:
    """A random order of motions for each clip, and which of them are of a class that may do; those come first."""
    ranks = problem.chance.uniform(len(starts))
    if starts.classes == problem.clips.classes:
        same = starts.labels[None] == problem.reference[:, None]
        some = ~same if problem.goal.away else same
    else:
        some = torch.ones_like(ranks, dtype=torch.bool)
    order = torch.where(some, ranks, ranks + 1).argsort(1)
    return order, some.gather(1, order)
