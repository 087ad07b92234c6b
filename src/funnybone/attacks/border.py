"""Ways to a border: how long they are, where a linear border is, and how they are shortened."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.threat.ball import largest_one

Norm = Literal["l2", "linf"]


def length(change: Float[Tensor, "N M T V C"], norm: Norm) -> Float[Tensor, " N"]:
    """Return the norm of each clip's displacement, in the unit of the clip: metres.

    What is not valid never moves, and adds nothing. A stored clip with this norm is a success at every radius that is
    not smaller, so one outcome of a minimum-norm attack holds a whole curve of success against budget.

    Examples
    --------
    >>> change = torch.tensor([3.0, 0.0, -4.0]).reshape(1, 1, 1, 1, 3)
    >>> length(change, "l2"), length(change, "linf")
    (tensor([5.]), tensor([4.]))
    """
    flat = change.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    # The squares of a way that a nearly flat victim predicts are beyond float32.
    return torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64).to(change.dtype)


def to_border(
    margin: Float[Tensor, " N"], gradient: Float[Tensor, "N M T V C"], norm: Norm
) -> Float[Tensor, "N M T V C"]:
    """Return the shortest displacement after which a linear margin is zero; none where the gradient is zero.

    That is ``-m w / |w|_2^2`` in L2 and ``-m sign(w) / |w|_1`` in L-infinity: the projections of Croce and Hein
    (ICML 2020) onto a hyperplane, without the box, since a coordinate in metres has no end.

    Examples
    --------
    >>> gradient = torch.tensor([3.0, -4.0]).reshape(1, 1, 1, 1, 2)
    >>> to_border(torch.tensor([2.5]), gradient, "l2").flatten()
    tensor([-0.3000,  0.4000])
    >>> to_border(torch.tensor([3.5]), gradient, "linf").flatten()
    tensor([-0.5000,  0.5000])
    """
    size = gradient.flatten(1).abs().amax(1)
    scaled = largest_one(gradient)  # small numbers vanish when squared
    if norm == "linf":
        direction, slope = scaled.sign(), scaled.abs().flatten(1).sum(1)
    else:
        direction, slope = scaled, scaled.square().flatten(1).sum(1)
    share = torch.where(size > 0, -margin / (slope * size).clamp(min=torch.finfo(size.dtype).tiny), 0)
    return per_clip(share) * direction


def limited(change: Float[Tensor, "N M T V C"], most: Float[Tensor, " N"], norm: Norm) -> Float[Tensor, "N M T V C"]:
    """Return displacements, scaled down to a length where they are longer."""
    size = length(change, norm)
    share = torch.where(size > most, most / size.clamp(min=torch.finfo(size.dtype).tiny), 1)
    return per_clip(share) * change


def unit(change: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
    """Return displacements of L2 norm one in the same directions; zero stays zero.

    Examples
    --------
    >>> unit(torch.tensor([3.0, 0.0, -4.0]).reshape(1, 1, 1, 1, 3)).flatten()
    tensor([ 0.6000,  0.0000, -0.8000])
    """
    size = length(change, "l2")
    return change / per_clip(torch.where(size > 0, size, 1))


def per_clip(values: Float[Tensor, " N"] | Bool[Tensor, " N"]) -> Tensor:
    """Return one number for each clip in the shape that goes with clips, (N, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]


def falling(first: float, last: float, k: int, steps: int) -> float:
    """Return the ``k``-th of some steps that fall from one size to another along half a cosine.

    Examples
    --------
    >>> [round(falling(1.0, 0.0, k, 4), 2) for k in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    """
    return last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2
