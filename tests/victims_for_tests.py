"""Victims that the tests name on the command line, as ``victims_for_tests:make``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from funnybone.skeletons import COCO17
from funnybone.victims import CallableVictim


class MeanHeight(nn.Module):
    """Two classes, low and high: the mean height of all joints against one metre. Takes clips of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.border = nn.Parameter(torch.tensor(1.0))

    def forward(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N 2"]:
        above = xyz[..., 1].mean((1, 2, 3)) - self.border
        return torch.stack([-above, above], 1)


def make() -> nn.Module:
    return MeanHeight()


def answers_labels() -> CallableVictim:
    module = MeanHeight()
    return CallableVictim(
        lambda xyz: module(xyz).argmax(1), skeleton=COCO17, classes=("left", "right"), name="labels-only"
    )
