"""What a training minimises."""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Objective(nn.Module):
    """Cross-entropy with smoothed labels; the base of families that train with more than that.

    An objective may hold networks of its own, such as a head that only training needs. They are trained along, kept in
    checkpoints, and not part of the weights. Random numbers come from PyTorch's global state, as dropout's do; the
    trainer seeds it for each epoch and restores it.

    Parameters
    ----------
    label_smoothing : float
        Share of the target that is spread over all classes.

    Attributes
    ----------
    judged_from : float
        Share of the training before which the network does not learn to classify yet. What it then answers says nothing
        of the epochs: none is kept as the best, and none counts as one without progress.

    Examples
    --------
    >>> import torch
    >>> from funnybone.models import create
    >>> net = create("stgcn", num_classes=2, persons=1, width=4)
    >>> Objective()(net, torch.zeros(2, 1, 8, 25, 3), torch.tensor([0, 1]), 0.0).shape
    torch.Size([])
    """

    judged_from: ClassVar[float] = 0.0

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(
        self,
        model: nn.Module,
        xyz: Float[Tensor, "N M T V C"],
        labels: Int[Tensor, " N"],
        progress: float,
        present: Bool[Tensor, "N M T"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of a batch of preprocessed clips, when this share of the training's steps is done.

        Who is ``present`` when is read off zeros where it is left out: see `Model.features`.
        """
        return self.classification(model(xyz, present), labels)

    def classification(self, logits: Float[Tensor, "N K"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
        """The part that judges logits."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
