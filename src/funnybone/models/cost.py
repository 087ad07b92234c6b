"""What a network costs: parameters, and arithmetic of a forward pass."""

import math
from typing import Any, TypedDict

import torch
from torch.utils.flop_counter import FlopCounterMode

from funnybone.models.modes import evaluating
from funnybone.models.registry import Model


class Cost(TypedDict):
    """Parameters, and 10^9 floating-point operations of one clip."""

    parameters: int
    gflops: float


def cost(network: Model, frames: int = 60) -> Cost:
    """Return what a network costs as it runs here, in evaluation mode, on one clip with every person present.

    Products and convolutions count, two operations for each multiplication; element-wise work does not. Published
    tables often count multiplications, half of this, and other lengths of clips.

    Examples
    --------
    >>> from funnybone.models import create
    >>> cost(create("stgcn", persons=1))["parameters"]
    3098832
    """
    tensor = next(network.parameters())
    joints = len(network.skeleton.joints)
    xyz = torch.ones(1, network.persons, frames, joints, network.in_channels, dtype=tensor.dtype, device=tensor.device)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _products_in_place})
    with evaluating(network), torch.no_grad(), counter:
        network(xyz)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters=parameters, gflops=counter.get_total_flops() / 1e9)


def _products_in_place(into: torch.Size, left: torch.Size, right: torch.Size, **_: Any) -> int:
    """Operations of ``into += left @ right``, which PyTorch's counter passes over; recurrences are made of it."""
    return 2 * math.prod(left) * right[-1]
