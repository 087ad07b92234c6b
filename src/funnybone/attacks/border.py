"""Ways to a border: how long they are, where a linear border is, and how they are shortened."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.threat.ball import L2, Ball, Linf

Norm = Literal["l2", "linf"]
UNIT: Mapping[Norm, Ball] = {"l2": L2(1.0), "linf": Linf(1.0)}


def length(change: Float[Tensor, "N M T V C"], ball: Ball) -> Float[Tensor, " N"]:
    """Return the norm of each clip's displacement, float64: how far it leads from nothing.

    In metres, whatever the ball's radius. What is not valid never moves, and adds nothing.

    Examples
    --------
    >>> change = torch.tensor([3.0, 0.0, -4.0]).reshape(1, 1, 1, 1, 3)
    >>> float(length(change, UNIT["l2"])), float(length(change, UNIT["linf"]))
    (5.0, 4.0)
    """
    return ball.distance(torch.zeros_like(change), change)


def to_border(
    margin: Float[Tensor, " N"], gradient: Float[Tensor, "N M T V C"], ball: Ball
) -> Float[Tensor, "N M T V C"]:
    """Return the shortest displacement after which a linear margin is zero; none where the gradient is zero.

    That is ``-m w / |w|_2^2`` in L2 and ``-m sign(w) / |w|_1`` in L-infinity: the projections of Croce and Hein
    (ICML 2020) onto a hyperplane, without the box, since a coordinate in metres has no end.

    Examples
    --------
    >>> gradient = torch.tensor([3.0, -4.0]).reshape(1, 1, 1, 1, 2)
    >>> to_border(torch.tensor([2.5]), gradient, UNIT["l2"]).flatten()
    tensor([-0.3000,  0.4000])
    >>> to_border(torch.tensor([3.5]), gradient, UNIT["linf"]).flatten()
    tensor([-0.5000,  0.5000])
    """
    way = ball.steepest(gradient)
    slope = inner(gradient, way)
    # Of a victim that is flat but for its last digits the border is further away than float32 counts.
    share = torch.where(slope > 0, -margin / slope.clamp(min=torch.finfo(slope.dtype).tiny), 0).clamp(-1e30, 1e30)
    return per_clip(share) * way


def inner(first: Float[Tensor, "N M T V C"], second: Float[Tensor, "N M T V C"]) -> Float[Tensor, " N"]:
    """Return the inner product of each clip's values: what a gradient says of a displacement."""
    return (first * second).flatten(1).sum(1)


def limited(change: Float[Tensor, "N M T V C"], most: Float[Tensor, " N"], ball: Ball) -> Float[Tensor, "N M T V C"]:
    """Return displacements, scaled down to a length where they are longer."""
    size = length(change, ball)
    return per_clip(torch.where(size > most, most / size, 1)) * change


def per_clip(values: Float[Tensor, " N"] | Bool[Tensor, " N"]) -> Tensor:
    """Return one number for each clip in the shape and precision that go with clips, (N, 1, 1, 1, 1) and float32."""
    values = values.float() if values.is_floating_point() else values
    return values[:, None, None, None, None]


def falling(first: float, last: float, k: int, steps: int) -> float:
    """Return the ``k``-th of some steps that fall from one size to another along half a cosine.

    Examples
    --------
    >>> [round(falling(1.0, 0.0, k, 4), 2) for k in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    """
    return last + (first - last) * (1 + math.cos(math.pi * k / steps)) / 2
