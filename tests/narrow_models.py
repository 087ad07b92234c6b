"""Options with which each family is small enough to be examined in a test; a family that is not here is taken whole."""

import torch

from funnybone.models import create

NARROW = {
    "stgcn": {"width": 4},
    "agcn": {"width": 8},
    "asgcn": {"width": 4},
    "ctrgcn": {"width": 8},
    "dgnn": {"width": 4},
    "frhead": {"width": 8},
    "hrnn": {"hidden1": 6, "hidden2": 6, "hidden3": 6, "hidden4": 6},
    "msg3d": {"width": 12},
    "sgn": {"width": 16, "samples": 3},
    "stgcnpp": {"width": 12},
    "skateformer": {"width": 24, "heads": 8, "length": 64},
}


def narrow(name, **sizes):
    """A small network away from its start, whose batch norms have the statistics of some clips."""
    torch.manual_seed(0)
    network = create(name, **{"num_classes": 5, **NARROW.get(name, {}), **sizes})
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for key, value in network.named_parameters():
            value.add_(torch.randn_like(value) * (0.3 if "bn" in key or "norm" in key else 0.05))
        for norm in norms:
            norm.momentum = None  # the mean of what was seen
        shape = (6, network.persons, 24, len(network.skeleton.joints), network.in_channels)
        network.train()(torch.randn(shape).cumsum(2) * 0.3)
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()
