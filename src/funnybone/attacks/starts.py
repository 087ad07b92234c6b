"""Where attacks that see labels begin: a motion that achieves the goal already, laid over the clean one."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.problem import Problem
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.motion.placing import laid_over
from funnybone.motion.unwrapping import held

NOISES = 14  # how often noise is tried where no motion will do: one way and the other, and then twice as large
FIRST_NOISE = 0.1  # metres

Form = Callable[[Float[Tensor, "B M T V C"], Int[Tensor, " B"]], Float[Tensor, "B M T V C"]]
Ask = Callable[[Float[Tensor, "B M T V C"], Int[Tensor, " B"]], Bool[Tensor, " B"]]


def starting(
    problem: Problem, ask: Ask, tries: int, form: Form
) -> tuple[Float[Tensor, "N M T V C"], Bool[Tensor, " N"]]:
    """Return a clip that achieves the goal for each clean one, and for which of them one was found.

    Motions of ``problem.starts`` in a random order: those of the wanted class, or of any but the true one. Where none
    does, and the goal only leads away from a class, noise that grows, one way and the other.

    Parameters
    ----------
    problem : Problem
        The clips.
    ask : callable
        Tells for which positions, of which clips, the goal holds.
    tries : int
        Motions that are asked about for each clip, at most.
    form : callable
        What is asked about in place of a motion, of a clip: what it is in the space that is searched.
    """
    clean, device = problem.clean, problem.clean.device
    found = torch.zeros(len(problem), dtype=torch.bool, device=device)
    start = clean.clone()
    starts = fitting(problem)
    order, some = _order(problem, starts)
    for place in range(min(tries, order.shape[1])):
        rows = (~found & some[:, place]).nonzero().flatten()
        if not len(rows):
            break
        there = problem.constrain_some(form(laid(starts, order[rows, place], problem.clips, rows), rows), rows)
        fooled = ask(there, rows)
        start[rows[fooled]], found[rows[fooled]] = there[fooled], True
    noise = problem.chance.normal(*clean.shape[1:])
    for turn in range(NOISES if problem.goal.away else 0):
        rows = (~found).nonzero().flatten()
        if not len(rows):
            break
        moved = clean[rows] + (-1) ** turn * FIRST_NOISE * 2 ** (turn // 2) * noise[rows]
        there = problem.constrain_some(form(moved, rows), rows)
        fooled = ask(there, rows)
        start[rows[fooled]], found[rows[fooled]] = there[fooled], True
    return start, found


def fitting(problem: Problem) -> Clips:
    """Return the motions to start from."""
    assert problem.starts is not None  # `Attack.__call__` gives some
    return problem.starts


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
