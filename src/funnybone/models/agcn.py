"""2s-AGCN: two-stream adaptive graph convolutional network (Shi, Zhang, Cheng, Lu, CVPR 2019), one stream."""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.graphs import directed_partition, graph_of
from funnybone.models.layers import batch_norm, folded, norm_slots, pointwise, scale_and_shift, share_absent_slots
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

TEMPORAL_KERNEL = 9
# Channels of a block for each channel in which the likeness of two joints is measured.
REDUCTION = 4
# Output width of each block as a multiple of the first's, and its stride over time.
BLOCKS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
# Start of the learned graphs, and of the scale of each graph convolution: a fresh block is close to its residual.
SMALL = 1e-6


@register_model("agcn")
class AGCN(Model):
    """Ten blocks of graph convolution, on graphs in part learned and in part made from the clip, and over time.

    The layers and their names are those of the authors' released network, so its checkpoints load as they are; they do
    not hold the fixed graphs, which come from the skeleton. The input's batch norm has statistics of each person slot,
    so it matters which person comes first. Frames, T >= 1, may differ from call to call.

    This is one stream. The published figures add the logits of two, one of them trained on bones.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; the fixed graphs are built from its bones.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first four blocks (the authors' 64), at least 4; the others are twice and four times as wide.
    graph : str
        ``"skeleton"``, or a graph of published attack code: see `graphs.graph_of`.

    References
    ----------
    Shi, Zhang, Cheng, Lu, "Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition",
    CVPR 2019, sections 3 and 4, equation 3. Start values, and the division of scores by channels times frames before
    the softmax, are those of the released code.

    Examples
    --------
    >>> net = AGCN(num_classes=14, persons=2, width=8).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 32]))
    """

    symmetric = False

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        width: int = 64,
        graph: str = "skeleton",
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        if width < REDUCTION:
            raise DataError(f"AGCN: width is {width}", hint=f"give at least {REDUCTION}")
        partition = directed_partition(graph_of(skeleton, graph))
        self.register_buffer("A", partition, persistent=False)
        self.data_bn = nn.BatchNorm1d(persons * len(skeleton.joints) * in_channels)
        channels = in_channels
        for index, (wide, stride) in enumerate(BLOCKS):
            self.add_module(f"l{index + 1}", _Block(channels, wide * width, stride, partition, residual=index > 0))
            channels = wide * width
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, 0, math.sqrt(2 / num_classes))

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if not {"l1.gcn1.PA", "l1.gcn1.conv_a.0.weight", "l1.gcn1.conv_d.0.weight", "fc.weight"} <= state.keys():
            return None
        joints = state["l1.gcn1.PA"].shape[1]
        width, inside = state["l1.gcn1.conv_d.0.weight"].shape[:2]
        return {
            "num_classes": len(state["fc.weight"]),
            "joints": joints,
            "persons": len(state["data_bn.weight"]) // (joints * inside),
            "in_channels": inside,
            "width": width,
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The mean over frames, joints and persons of the last block's output.

        Examples
        --------
        >>> AGCN(width=4).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 16])
        """
        self.check(xyz, present)
        # While batch norm trains, every person counts, as in the authors' code.
        xyz, kept, places = share_absent_slots(xyz, present, not self.data_bn.training)
        x = norm_slots(xyz, self.data_bn).index_select(0, kept).transpose(1, 2).contiguous()
        for index in range(len(BLOCKS)):
            x = self.get_submodule(f"l{index + 1}")(x, cast(Tensor, self.A))
        return x.mean((1, 2))[places].mean(1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return self.fc(features)


class _Block(nn.Module):
    """Graph convolution, then convolution over time, plus a residual.

    Activations are (rows, joints, frames, channels): a row's product over joints is then one matrix product for all of
    its frames and channels, and the channel last is what the other products want.
    """

    def __init__(self, inside: int, outside: int, stride: int, partition: Tensor, residual: bool) -> None:
        super().__init__()
        self.gcn1 = _OverJoints(inside, outside, partition)
        self.tcn1 = _OverTime(outside, outside, TEMPORAL_KERNEL, stride)
        self.residual: nn.Module | None = None
        if residual:
            same = inside == outside and stride == 1
            self.residual = nn.Identity() if same else _OverTime(inside, outside, 1, stride)

    def forward(self, x: Float[Tensor, "B V T C"], fixed: Float[Tensor, "K V V"]) -> Float[Tensor, "B V S D"]:
        y = self.tcn1(self.gcn1(x, fixed))
        return F.relu(y if self.residual is None else y + self.residual(x))


class _OverJoints(nn.Module):
    """Adaptive graph convolution: in each subset a fixed, a learned and a data-dependent graph are added."""

    def __init__(self, inside: int, outside: int, partition: Tensor) -> None:
        super().__init__()
        subsets = len(partition)
        self.PA = nn.Parameter(torch.full_like(partition, SMALL))
        widths = (outside // REDUCTION, outside // REDUCTION, outside)
        self.conv_a, self.conv_b, self.conv_d = (
            nn.ModuleList(nn.Conv2d(inside, width, 1) for _ in range(subsets)) for width in widths
        )
        self.bn = nn.BatchNorm2d(outside)
        self.down: nn.Sequential | None = None
        if inside != outside:
            self.down = nn.Sequential(nn.Conv2d(inside, outside, 1), nn.BatchNorm2d(outside))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)
        for conv in self.conv_d:
            nn.init.normal_(cast(Tensor, conv.weight), 0, math.sqrt(2 / (outside * inside * subsets)))
        nn.init.constant_(self.bn.weight, SMALL)

    def forward(self, x: Float[Tensor, "B V T C"], fixed: Float[Tensor, "K V V"]) -> Float[Tensor, "B V T D"]:
        b, v, t, c = x.shape
        graphs = self._affinity(x) + (fixed + self.PA).transpose(1, 2)
        # Rows (joint, subset): each joint's subsets lie side by side in what comes out.
        spread = graphs.transpose(1, 2).reshape(b, v * len(fixed), v)
        mixed = torch.bmm(spread, x.reshape(b, v, t * c)).view(b * v, len(fixed), t, c)
        scale, shift = scale_and_shift(self.bn)
        weight = torch.stack([conv.weight.flatten(1) for conv in _convs(self.conv_d)], 2) * scale[:, None, None]
        bias = torch.stack([cast(Tensor, conv.bias) for conv in _convs(self.conv_d)]).sum(0) * scale + shift
        # The sum over subsets and channels, as a convolution over the subsets: a product would need a copy that puts
        # the two side by side.
        y = F.conv2d(mixed.permute(0, 3, 1, 2), weight[..., None], bias)
        y = batch_norm(y.permute(0, 2, 3, 1).view(b, v, t, len(bias)), self.bn)
        if self.down is None:
            return F.relu(y + x)
        return F.relu(y + pointwise(x, cast(nn.Conv2d, self.down[0]), cast(nn.BatchNorm2d, self.down[1])))

    def _affinity(self, x: Float[Tensor, "B V T C"]) -> Float[Tensor, "B K V V"]:
        """How much each joint (row) takes from each other (column), by the likeness of their codes in this clip."""
        theta, phi = self._codes(x, self.conv_a), self._codes(x, self.conv_b)
        scores = torch.bmm(phi, theta.transpose(1, 2)) / theta.shape[2]
        return scores.softmax(-1).view(len(x), len(self.PA), *scores.shape[1:])

    def _codes(self, x: Float[Tensor, "B V T C"], convs: nn.ModuleList) -> Float[Tensor, "R V E"]:
        """Each subset's 1x1 convolution: for each row and subset a vector of each joint, of all frames and channels."""
        b, v, t, _ = x.shape
        weight = torch.cat([conv.weight for conv in _convs(convs)]).flatten(1)
        codes = F.linear(x, weight, torch.cat([cast(Tensor, conv.bias) for conv in _convs(convs)]))
        width = len(weight) // len(convs)
        codes = codes.view(b, v, t, len(convs), width).permute(0, 3, 1, 2, 4)
        return codes.reshape(b * len(convs), v, t * width)


class _OverTime(nn.Module):
    """A convolution over time, or of each frame by itself, and batch norm."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, (kernel, 1), (stride, 1), (kernel // 2, 0))
        self.bn = nn.BatchNorm2d(outside)
        _initialise(self.conv)

    def forward(self, x: Float[Tensor, "B V T C"]) -> Float[Tensor, "B V S D"]:
        weight, bias = folded(self.conv, self.bn)
        (stride, _), (padding, _) = self.conv.stride, cast(tuple[int, int], self.conv.padding)
        x = x.permute(0, 3, 1, 2)
        if weight.requires_grad:
            # oneDNN's weight gradient of few channels that lie last has destroyed the heap here, with two threads.
            x = x.contiguous()
        y = F.conv2d(x, weight.transpose(2, 3), bias, (1, stride), (0, padding))
        return batch_norm(y.permute(0, 2, 3, 1), self.bn)


def _convs(modules: nn.ModuleList) -> list[nn.Conv2d]:
    return [cast(nn.Conv2d, module) for module in modules]


def _initialise(conv: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    nn.init.zeros_(cast(Tensor, conv.bias))
