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
    """A small network whose batch norms are not the identity and whose weights are not at their start."""
    torch.manual_seed(0)
    network = create(name, **{"num_classes": 5, **NARROW.get(name, {}), **sizes})
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and key != "A":
                value.add_(torch.randn_like(value) * 0.05)
    return network.eval()
