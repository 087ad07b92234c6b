"""FR-Head: CTR-GCN trained with a feature refinement head (Zhou, Liu, Wang, CVPR 2023)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from funnybone.models.ctrgcn import CTRGCN, over_persons
from funnybone.models.objective import Objective
from funnybone.models.registry import register_model

# The blocks whose output is refined (their widths are 1, 2, 4 and 4 times the first's) and the weight of each.
LEVELS = {1: 0.1, 5: 0.2, 8: 0.5, 10: 1.0}
WEIGHT = 0.1
HEAD = "ren_"  # keys of the authors' head
DIMENSIONS = 256
TEMPERATURE = 0.125
MOMENTUM = 0.9


@register_model("frhead")
class FRHead(CTRGCN):
    """CTR-GCN, whose training also separates the classes that it confuses; see `FeatureRefinement`.

    Only the objective differs, so weights, keys and speed are those of `CTRGCN`, whose parameters it takes. The
    entries of the authors' checkpoints that belong to the head are left out when one is loaded.

    References
    ----------
    Zhou, Liu, Wang, "Learning Discriminative Representations for Skeleton Based Action Recognition", CVPR 2023,
    section 3.

    Examples
    --------
    >>> net = FRHead(num_classes=3, persons=1, frames=8, width=4)
    >>> net.state_dict().keys() == CTRGCN(num_classes=3, persons=1, width=4).state_dict().keys()
    True
    >>> net.objective(0.1)(net, torch.randn(4, 1, 8, 25, 3), torch.tensor([0, 1, 2, 0]), 0.0).shape
    torch.Size([])
    """

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        own = {key: value for key, value in state.items() if not key.startswith(HEAD)}
        return super().from_authors(own) if len(own) < len(state) else None

    def objective(self, label_smoothing: float) -> Objective:
        """Cross-entropy and the refinement of features at four depths."""
        halves = [self.frames, -(-self.frames // 2), -(-self.frames // 4), -(-self.frames // 4)]
        width = self.fc.in_features // 4
        sizes = list(zip((width, 2 * width, 4 * width, 4 * width), halves, strict=True))
        return FeatureRefinement(label_smoothing, sizes, len(self.skeleton.joints), self.num_classes)


class FeatureRefinement(Objective):
    """Cross-entropy, plus contrastive losses of features at several depths, each in a spatial and a temporal view.

    From the paper: the four depths; the decoupled views (mean over frames or over joints, a squeezing 1x1 convolution
    with batch norm and ReLU, a linear map); the contrast with class prototypes, which follow correctly classified
    samples with momentum; the terms that pull those samples to what their class loses (false negatives) and push them
    from what it wrongly takes in (false positives), the stronger the less confident the network is. The numbers
    (256 dimensions, temperature 0.125, momentum 0.9, weights 0.1 / 0.2 / 0.5 / 1 of the depths and 0.1 of the whole)
    are those of the released code and its configuration for NTU RGB+D.

    Ours: both terms act on correctly classified samples only, which is how we read the paper; the released code
    applies them to every sample of the class unless told otherwise. Prototypes are a buffer, so that a resumed
    training goes on with them. Clips of another length than the network's are averaged to it. A class without
    correctly classified samples in the batch keeps its prototype; without false ones it has no such term.

    Parameters
    ----------
    label_smoothing : float
        Share of the target that is spread over all classes, in the cross-entropy.
    sizes : list of (int, int)
        Channels and frames at each depth.
    joints : int
        Joints V.
    num_classes : int
        Length of the logits.

    References
    ----------
    Zhou, Liu, Wang, "Learning Discriminative Representations for Skeleton Based Action Recognition", CVPR 2023,
    sections 3.2 (decoupling), 3.3 (contrast) and 3.4 (depths).
    """

    def __init__(self, label_smoothing: float, sizes: list[tuple[int, int]], joints: int, num_classes: int) -> None:
        super().__init__(label_smoothing)
        self.spatial = nn.ModuleList(_Contrast(channels, joints, num_classes) for channels, _ in sizes)
        self.temporal = nn.ModuleList(_Contrast(channels, frames, num_classes) for channels, frames in sizes)

    def forward(
        self,
        model: nn.Module,
        xyz: Float[Tensor, "N M T V C"],
        labels: Int[Tensor, " N"],
        progress: float,
        present: Bool[Tensor, "N M T"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of a batch of preprocessed clips; in training mode it also moves the prototypes."""
        net = cast(CTRGCN, model)
        hidden, places = net.hidden(xyz, present)
        logits = net.classify(over_persons(hidden[-1].mean((2, 3)), places))
        loss = self.classification(logits, labels)
        for (block, weight), spatial, temporal in zip(LEVELS.items(), self.spatial, self.temporal, strict=True):
            for head, frames_or_joints in ((spatial, 3), (temporal, 2)):
                view = over_persons(hidden[block - 1].mean(frames_or_joints), places)
                loss = loss + WEIGHT * weight * head(view, labels, logits.detach())
        return loss


class _Contrast(nn.Module):
    """The contrastive loss of one view at one depth: (channels, positions), where positions are joints or frames."""

    prototypes: Tensor

    def __init__(self, channels: int, positions: int, num_classes: int) -> None:
        super().__init__()
        kept = max(1, DIMENSIONS // positions)
        self.positions = positions
        self.squeeze = nn.Sequential(nn.Conv1d(channels, kept, 1), nn.BatchNorm1d(kept), nn.ReLU())
        self.project = nn.Linear(kept * positions, DIMENSIONS)
        self.register_buffer("prototypes", torch.randn(num_classes, DIMENSIONS))

    def forward(
        self, view: Float[Tensor, "N D P"], labels: Int[Tensor, " N"], logits: Float[Tensor, "N K"]
    ) -> Float[Tensor, ""]:
        squeezed = self.squeeze(F.adaptive_avg_pool1d(view, self.positions))
        return self.contrast(self.project(squeezed.flatten(1)).float(), labels, logits.float())

    def contrast(
        self, samples: Float[Tensor, "N E"], labels: Int[Tensor, " N"], logits: Float[Tensor, "N K"]
    ) -> Float[Tensor, ""]:
        """The loss of samples, given what the network says of their clips."""
        truth, said = (F.one_hot(index, logits.shape[1]).to(samples.dtype) for index in (labels, logits.argmax(1)))
        right = truth * said
        prototypes = self._moved(samples, right)
        scores = F.normalize(samples) @ F.normalize(prototypes).T / TEMPERATURE

        confidence = (logits.softmax(1) * truth).sum(1)
        doubt = ((1 - confidence) * right.sum(1))[:, None] * truth
        to_missed = self._calibration(samples, truth - right, -1.0) * doubt
        to_intruders = self._calibration(samples, said - right, 1.0) * doubt
        return F.cross_entropy(scores - to_missed, labels) + F.cross_entropy(scores - to_intruders, labels)

    def _calibration(
        self, samples: Float[Tensor, "N E"], group: Float[Tensor, "N K"], sign: float
    ) -> Float[Tensor, "N K"]:
        """One plus or minus the cosine of each sample and each class' mean of a group; zero for an empty group."""
        cosine = F.normalize(samples) @ F.normalize(_means(samples, group)).T
        return (1 + sign * cosine) * (group.sum(0) > 0)

    def _moved(self, samples: Float[Tensor, "N E"], right: Float[Tensor, "N K"]) -> Float[Tensor, "K E"]:
        """Prototypes after this batch, which pass gradients to its samples; remembered in training mode."""
        found = (right.sum(0) > 0)[:, None]
        before = self.prototypes.to(samples.dtype)
        moved = torch.where(found, MOMENTUM * before + (1 - MOMENTUM) * _means(samples, right), before)
        if self.training:
            self.prototypes = moved.detach()
        return moved


def _means(samples: Float[Tensor, "N E"], group: Float[Tensor, "N K"]) -> Float[Tensor, "K E"]:
    """The mean sample of each class' group; zero for an empty group."""
    return group.T @ samples / group.sum(0).clamp(min=1)[:, None]
