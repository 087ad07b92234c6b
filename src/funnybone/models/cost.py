"""What a network costs: parameters, and arithmetic of a forward pass."""

from typing import TypedDict

import torch
from torch.utils.flop_counter import FlopCounterMode

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
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(xyz)
    finally:
        network.train(training)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters=parameters, gflops=counter.get_total_flops() / 1e9)
