"""ST-GCN++ (Duan, Wang, Chen, Lin, "PYSKL", ACM Multimedia 2022)."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.graphs import directed_partition, graph_of
from funnybone.models.layers import batch_norm, folded, pointwise, scale_and_shift, share_absent
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

DILATIONS = (1, 2, 3, 4)
BRANCHES = len(DILATIONS) + 2
MOST_STAGES = 64


@register_model("stgcnpp")
class STGCNpp(Model):
    """ST-GCN with adjacencies that train freely, a residual around each graph layer, and six branches over time.

    The branches are convolutions of three frames at four dilations, a maximum over three frames, and a plain product.
    Layers and names are those of the authors' released recogniser, so its checkpoints load as they are; its
    adjacencies are stored. The mean over persons includes absent ones (all zeros), as theirs does, and does not
    depend on the persons' order. Frames, T >= 1, may differ from call to call.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; the adjacencies start from its bones.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first stage (the authors' 64).
    stages : int
        Number of stages.
    inflate : str
        Stages, counted from one, that are twice as wide and half as long in time as the one before: ``"5,8"``.
    graph : str
        ``"skeleton"``, or a graph of published code: see `graphs.graph_of`. The authors' on NTU is ``"pyskl"``.

    References
    ----------
    Duan, Wang, Chen, Lin, "PYSKL: Towards Good Practices for Skeleton Action Recognition", ACM Multimedia 2022,
    section 3.2; what the paper leaves open is as in the released code.

    Examples
    --------
    >>> net = STGCNpp(num_classes=14, persons=2, width=8).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 32]))
    """

    symmetric = True

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        width: int = 64,
        stages: int = 10,
        inflate: str = "5,8",
        graph: str = "skeleton",
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        if width < BRANCHES:
            raise DataError(
                f"STGCNpp: width is {width}", hint=f"give at least {BRANCHES}, one for each branch over time"
            )
        growing = _growing(stages, inflate)
        partition = directed_partition(graph_of(skeleton, graph))
        blocks, channels, wide = [], in_channels, width
        for stage in range(1, stages + 1):
            stride = 2 if stage in growing else 1
            wide *= stride
            blocks.append(_Block(channels, wide, stride, partition, residual=stage > 1))
            channels = wide
        self.backbone = nn.Module()
        self.backbone.data_bn = nn.BatchNorm1d(len(skeleton.joints) * in_channels)
        self.backbone.gcn = nn.ModuleList(blocks)
        self.cls_head = nn.Module()
        self.cls_head.fc_cls = nn.Linear(channels, num_classes)
        nn.init.normal_(self.cls_head.fc_cls.weight, std=0.01)
        nn.init.zeros_(self.cls_head.fc_cls.bias)

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        first, head = "backbone.gcn.0.gcn.conv.weight", "cls_head.fc_cls.weight"
        if not {first, head, "backbone.gcn.0.gcn.A", "backbone.gcn.0.tcn.transform.2.weight"} <= state.keys():
            return None
        kernels, joints, _ = state["backbone.gcn.0.gcn.A"].shape
        outside, inside = state[first].shape[:2]
        # A key that counts no stage is one too many, and is named as such when all keys are compared.
        counted = [key.split(".")[2] for key in state if key.startswith("backbone.gcn.")]
        stages = 1 + max(int(count) for count in counted if count.isdecimal())
        if stages > MOST_STAGES:
            raise DataError(f"a stgcnpp of {stages} stages", hint=f"funnybone's have 1 to {MOST_STAGES}")
        weights = [state.get(f"backbone.gcn.{stage}.gcn.conv.weight") for stage in range(stages)]
        grows = [
            stage + 1
            for stage, weight in enumerate(weights)
            if stage and weight is not None and weight.shape[0] == 2 * kernels * weight.shape[1]
        ]
        return {
            "num_classes": len(state[head]),
            "joints": joints,
            "in_channels": inside,
            "width": outside // kernels,
            "stages": stages,
            "inflate": ",".join(map(str, grows)),
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The mean over frames, joints and persons of the last stage's output.

        Examples
        --------
        >>> STGCNpp(width=6).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 24])
        """
        self.check(xyz, present)
        rows, _, places = share_absent(xyz, present)
        norm = cast(nn.Module, self.backbone.data_bn)
        x = norm(rows.flatten(2).flatten(0, 1)).view(rows.shape)
        for block in cast(nn.ModuleList, self.backbone.gcn):
            x = block(x)
        return x.mean((1, 2))[places].view(*xyz.shape[:2], x.shape[-1]).mean(1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return cast(nn.Linear, self.cls_head.fc_cls)(features)


def _growing(stages: int, inflate: str) -> tuple[int, ...]:
    """The stages that `STGCNpp`'s ``inflate`` lists."""
    if not 1 <= stages <= MOST_STAGES:
        raise DataError(f"STGCNpp: stages is {stages}", hint=f"give 1 to {MOST_STAGES}")
    words = [word.strip() for word in inflate.split(",")] if inflate.strip() else []
    listed = tuple(int(word) for word in words if word.isdecimal())
    if len(listed) < len(words) or list(listed) != sorted(set(listed)) or not set(listed) <= set(range(2, stages + 1)):
        raise DataError(
            f"STGCNpp: inflate is {inflate!r}", hint=f"list rising stages from 2 to {stages}, such as '5,8', or none"
        )
    return listed


class _Block(nn.Module):
    """A graph layer, branches over time, and a residual around both."""

    def __init__(self, inside: int, outside: int, stride: int, partition: Tensor, residual: bool) -> None:
        super().__init__()
        self.gcn = _OverJoints(inside, outside, partition)
        self.tcn = _OverTime(outside, stride)
        self.residual: nn.Module | None = None
        if residual and inside == outside and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = nn.Module()
            self.residual.conv = nn.Conv2d(inside, outside, 1, (stride, 1))
            self.residual.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Float[Tensor, "B T V C"]) -> Float[Tensor, "B S V D"]:
        y = self.tcn(self.gcn(x))
        if isinstance(self.residual, nn.Identity):
            y = y + x
        elif self.residual is not None:
            y = y + pointwise(x, cast(nn.Conv2d, self.residual.conv), cast(nn.BatchNorm2d, self.residual.bn))
        return F.relu(y)


class _OverJoints(nn.Module):
    """``relu(norm(sum_k A_k' (x W_k + b_k)) + residual)``."""

    def __init__(self, inside: int, outside: int, partition: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(partition.clone())
        self.bn = nn.BatchNorm2d(outside)
        self.conv = nn.Conv2d(inside, outside * len(partition), 1)
        self.down: nn.Sequential | None = None
        if inside != outside:
            self.down = nn.Sequential(nn.Conv2d(inside, outside, 1), nn.BatchNorm2d(outside))

    def forward(self, x: Float[Tensor, "B T V C"]) -> Float[Tensor, "B T V D"]:
        kernels, joints, _ = self.A.shape
        scale, shift = scale_and_shift(self.bn)
        weight = self.conv.weight.view(kernels, -1, x.shape[-1]) * scale[:, None]
        bias = cast(Tensor, self.conv.bias).view(kernels, -1) * scale
        # Rows (joint, kernel): what comes out is already the left factor of the product over channels.
        spread = self.A.permute(2, 0, 1).reshape(joints * kernels, joints)
        # bmm: where the adjacency trains, matmul would transpose all activations to make one large product of it.
        mixed = torch.bmm(spread.expand(x.shape[0] * x.shape[1], -1, -1), x.flatten(0, 1))
        y = mixed.view(-1, kernels * x.shape[-1]) @ weight.transpose(1, 2).flatten(0, 1)
        y = batch_norm(y.view(*x.shape[:3], len(bias[0])) + (self.A.sum(1).T @ bias + shift), self.bn)
        if self.down is None:
            return F.relu(y + x)
        return F.relu(y + pointwise(x, cast(nn.Conv2d, self.down[0]), cast(nn.BatchNorm2d, self.down[1])))


class _OverTime(nn.Module):
    """Six branches over time side by side, then a product over all their channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        part = channels // BRANCHES
        self.sizes = [channels - part * (BRANCHES - 1)] + [part] * (BRANCHES - 1)
        self.stride = stride
        branches: list[nn.Module] = []
        for size, dilation in zip(self.sizes, DILATIONS, strict=False):
            over_time = nn.Module()
            over_time.conv = nn.Conv2d(size, size, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))
            branches.append(nn.Sequential(nn.Conv2d(channels, size, 1), nn.BatchNorm2d(size), nn.ReLU(), over_time))
        branches.append(
            nn.Sequential(
                nn.Conv2d(channels, part, 1),
                nn.BatchNorm2d(part),
                nn.ReLU(),
                nn.MaxPool2d((3, 1), (stride, 1), (1, 0)),
            )
        )
        branches.append(nn.Conv2d(channels, part, 1, (stride, 1)))
        self.branches = nn.ModuleList(branches)
        self.transform = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "B T V C"]) -> Float[Tensor, "B S V C"]:
        norm, conv = cast(nn.BatchNorm2d, self.transform[0]), cast(nn.Conv2d, self.transform[2])
        scale, shift = (each.split(self.sizes) for each in scale_and_shift(norm))
        *parts, pooled = self._narrowed(x)
        outs = []
        for branch, part, by, plus in zip(self.branches, parts, scale, shift, strict=False):
            over_time = cast(nn.Conv2d, cast(nn.Sequential, branch)[3].conv)
            weight, bias = over_time.weight * by[:, None, None, None], cast(Tensor, over_time.bias) * by + plus
            padding, dilation = cast(tuple[int, int], over_time.padding), over_time.dilation
            y = F.conv2d(part.permute(0, 3, 1, 2), weight, bias, over_time.stride, padding, dilation)
            outs.append(y.permute(0, 2, 3, 1))
        pooled = F.max_pool2d(pooled.permute(0, 3, 1, 2), (3, 1), (self.stride, 1), (1, 0))
        outs.append(pooled.permute(0, 2, 3, 1) * scale[-2] + shift[-2])
        plain = cast(nn.Conv2d, self.branches[-1])
        weight, bias = plain.weight.flatten(1) * scale[-1][:, None], cast(Tensor, plain.bias) * scale[-1] + shift[-1]
        outs.append(F.linear(x[:, :: self.stride], weight, bias))
        return pointwise(F.relu(batch_norm(torch.cat(outs, 3), norm)), conv, self.bn)

    def _narrowed(self, x: Float[Tensor, "B T V C"]) -> Sequence[Float[Tensor, "B T V D"]]:
        """What enters each branch but the last, computed by one product."""
        branches = [cast(nn.Sequential, branch) for branch in self.branches[:-1]]
        norms = [cast(nn.BatchNorm2d, branch[1]) for branch in branches]
        pairs = [folded(cast(nn.Conv2d, branch[0]), norm) for branch, norm in zip(branches, norms, strict=True)]
        weights, biases = zip(*pairs, strict=True)
        y = F.linear(x, torch.cat(weights).flatten(1), torch.cat(biases))
        if not self.training:
            return F.relu(y).split(self.sizes[:-1], 3)
        return [F.relu(batch_norm(part, norm)) for part, norm in zip(y.split(self.sizes[:-1], 3), norms, strict=True)]
