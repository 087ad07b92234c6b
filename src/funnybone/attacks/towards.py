"""Classes to be led to in turn, on the way to a goal that only leads away: targeted APGD, targeted FAB."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.goals import Goal, lead


def wanted_classes(
    logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"], place: int, targets: int
) -> Int[Tensor, "N R"]:
    """Return the classes that are led to in turn, most probable first: at most ``targets`` of them.

    All but the reference for AB (``place`` 1); for ABn not those that are among the n - 1 most probable others already.

    Examples
    --------
    >>> logits, truth = torch.tensor([[9.0, 3.0, 5.0, 4.0]]), torch.tensor([0])
    >>> wanted_classes(logits, truth, place=1, targets=2)
    tensor([[2, 3]])
    >>> wanted_classes(logits, truth, place=2, targets=9)
    tensor([[3, 1]])
    """
    others = logits.scatter(1, reference[:, None], -torch.inf)
    return others.sort(dim=1, descending=True, stable=True).indices[:, place - 1 : -1][:, :targets]


@dataclass(frozen=True, eq=False)
class Towards(Goal):
    """Bring a wanted class above the reference: what a targeted loss descends on the way to AB or ABN.

    Its ``dlr`` is equation 7 of Croce and Hein (ICML 2020, APGD) under AB. For ABn the n - 1 highest others must be
    above the reference too.

    Parameters
    ----------
    wanted : Int[Tensor, "N"]
        For each clip of the batch that it is made for.
    place : int
        1 for AB, n for ABn.
    """

    away = False
    wanted: Tensor
    place: int = 1

    @property
    def name(self) -> str:
        return "towards"

    def achieved(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return self.margin(logits, reference) < 0

    def margin(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        own, wanted = logits.gather(1, torch.stack([reference, self.wanted], 1)).unbind(1)
        if self.place == 1:
            return own - wanted
        others = logits.scatter(1, self.wanted[:, None], -torch.inf)
        return torch.maximum(own - wanted, lead(others, reference, self.place - 1))
