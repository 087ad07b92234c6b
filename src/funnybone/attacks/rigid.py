"""What attacks that move whole bones ask of a threat model: which joints it holds, and how far it lets them go."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.problem import Problem
from funnybone.threat.base import Threat

LITTLE = 1e-5  # metres: a step that every budget worth the name allows


def free_joints(problem: Problem) -> Bool[Tensor, "N M T V"]:
    """Return the joints that the threat model lets move, on valid frames of present persons.

    It is asked by a clip that moved as a whole by a hundredth of a millimetre: what it puts back where it was is held.
    """
    digit = torch.finfo(problem.clean.dtype).eps * problem.clean.abs().amax((1, 2, 3, 4), keepdim=True)
    moved = problem.constrain(problem.clean + (8 * digit).clamp(min=LITTLE))
    return (moved != problem.clean).any(-1)


def furthest_inside(
    threat: Threat,
    clean: Float[Tensor, "N M T V C"],
    along: Callable[[Float[Tensor, "N M T"]], Float[Tensor, "N M T V C"]],
    *,
    together: tuple[int, ...] = (),
    halvings: int = 10,
) -> Float[Tensor, "N M T"]:
    """Return how much of a way from the clean clips may be gone inside a threat model, by bisection.

    Parameters
    ----------
    threat : Threat
        Where the clips must stay.
    clean : Float[Tensor, "N M T V C"]
        Where all ways begin; inside by definition.
    along : callable
        The clips for a share of the way, from 0 (the clean ones, exactly) to 1, in each frame.
    together : tuple of int
        What has one share: 2 for all frames of a person, (1, 2) for all frames and persons of a clip.
    halvings : int
        Shares are found to ``2**-halvings``.

    Returns
    -------
    Float[Tensor, "N M T"]
        Shares; the clips at these shares were found to be inside.
    """

    def inside(share: Tensor) -> Tensor:
        within = threat.excess(clean, along(share)) <= 0
        return within.amin(together, keepdim=True).expand_as(within) if together else within

    everything = clean.new_ones(clean.shape[:3])
    within = inside(everything)
    if bool(within.all()):
        return everything
    low, high = within.to(clean.dtype), everything
    for _ in range(halvings):
        share = (low + high) / 2
        within = inside(share)
        low, high = torch.where(within, share, low), torch.where(within, high, share)
    # Where clips are judged as wholes, a frame may have been inside only because of how far others had come then.
    still = threat.violation(clean, along(low)) > 0
    return torch.where(still[:, None, None], 0, low)
