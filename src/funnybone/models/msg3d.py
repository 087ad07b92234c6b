"""MS-G3D: disentangled multi-scale graph convolution in space and in space-time (Liu et al., CVPR 2020)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.graphs import Graph, graph_of
from funnybone.models.layers import batch_norm, folded, norm_slots, over_time, scale_and_shift, share_absent_slots
from funnybone.models.multiscale import MultiScale, hop_matrices
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

WINDOWS = (3, 5)
DILATIONS = (1, 2, 3, 4)
BRANCHES = len(DILATIONS) + 2
MOST_SCALES = 64  # longer than any skeleton's longest path, and each takes time and memory


@register_model("msg3d")
class MSG3D(Model):
    """Three stages of a factorised path (joints, then time) beside windows of space-time, each ending in time alone.

    The layers and their names are those of the authors' released network, so their checkpoints load as they are. The
    hop matrices are not in them: weights that were trained on another graph load just as well, and then mean something
    else. Each person slot has input statistics of its own, so the persons' order matters; the mean over persons
    includes absent ones. Frames, T >= 1, may differ from call to call.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; the graph is built from its bones.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first stage (the authors' 96), a multiple of the 6 branches over time; the others are twice and
        four times as wide.
    gcn_scales, g3d_scales : int
        Hop distances, 0 included, that the factorised path and the windows tell apart. Where the skeleton has no such
        distance, the matrix is the identity.
    graph : str
        ``"skeleton"``, or a graph of published attack code: see `graphs.graph_of`.

    References
    ----------
    Liu, Zhang, Chen, Wang, Ouyang, "Disentangling and Unifying Graph Convolutions for Skeleton-Based Action
    Recognition", CVPR 2020, sections 3 and 4.2; the branches over time and the widths are those of the released code.

    Examples
    --------
    >>> net = MSG3D(num_classes=14, persons=2, width=6, gcn_scales=4, g3d_scales=2).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 24]))
    """

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        width: int = 96,
        gcn_scales: int = 13,
        g3d_scales: int = 6,
        graph: str = "skeleton",
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        if width < BRANCHES or width % BRANCHES:
            raise DataError(f"MSG3D: width is {width}", hint=f"give a multiple of {BRANCHES}, the branches over time")
        for name, scales in {"gcn_scales": gcn_scales, "g3d_scales": g3d_scales}.items():
            if not 1 <= scales <= MOST_SCALES:
                raise DataError(f"MSG3D: {name} is {scales}", hint=f"give 1 to {MOST_SCALES}")
        own = graph_of(skeleton, graph)
        self.data_bn = nn.BatchNorm1d(persons * len(skeleton.joints) * in_channels)
        first, second, third = width, 2 * width, 4 * width
        self.gcn3d1 = _Windows(in_channels, first, first, own, g3d_scales, 1)
        self.sgcn1 = _factorised(in_channels, first, first, own, gcn_scales, 1)
        self.tcn1 = _Temporal(first, first)
        self.gcn3d2 = _Windows(first, first, second, own, g3d_scales, 2)
        self.sgcn2 = _factorised(first, first, second, own, gcn_scales, 2)
        self.tcn2 = _Temporal(second, second)
        self.gcn3d3 = _Windows(second, second, third, own, g3d_scales, 2)
        self.sgcn3 = _factorised(second, second, third, own, gcn_scales, 2)
        self.tcn3 = _Temporal(third, third)
        self.fc = nn.Linear(third, num_classes)

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        window, spatial, mixing = "gcn3d1.gcn3d.0.gcn3d.1.A_res", "sgcn1.0.A_res", "sgcn1.0.mlp.layers.0.weight"
        if not {window, spatial, mixing, "fc.weight"} <= state.keys():
            return None
        rows, joints = state[spatial].shape
        scales = rows // joints
        width, inside = state[mixing].shape[:2]
        channels = inside // scales
        targets, nodes = state[window].shape
        return {
            "num_classes": len(state["fc.weight"]),
            "joints": joints,
            "persons": len(state["data_bn.weight"]) // (joints * channels),
            "in_channels": channels,
            "width": width,
            "gcn_scales": scales,
            "g3d_scales": targets // nodes,
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The mean over frames, joints and persons of the last stage's output.

        Examples
        --------
        >>> MSG3D(width=6, gcn_scales=2, g3d_scales=2).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 24])
        """
        self.check(xyz, present)
        if not len(xyz):
            return xyz.new_zeros(0, self.fc.in_features)
        xyz, kept, places = share_absent_slots(xyz, present)
        x = norm_slots(xyz, self.data_bn).index_select(0, kept)
        stages = (
            (self.sgcn1, self.gcn3d1, self.tcn1),
            (self.sgcn2, self.gcn3d2, self.tcn2),
            (self.sgcn3, self.gcn3d3, self.tcn3),
        )
        for factorised, windows, last in stages:
            x = last(F.relu(windows(x, factorised(x))))
        return x.mean((1, 2))[places].mean(1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return self.fc(features)


def _factorised(inside: int, middle: int, outside: int, graph: Graph, scales: int, stride: int) -> nn.Sequential:
    """The path that looks at joints and at time in turn; the stage's sum comes before its last activation."""
    return nn.Sequential(
        MultiScale(inside, middle, hop_matrices(graph, scales), graph.joints),
        _Temporal(middle, outside, stride),
        _Temporal(outside, outside, activate=False),
    )


class _Windows(nn.Module):
    """The path of space-time: graph convolution in windows of frames, and each window collapsed to one frame."""

    def __init__(self, inside: int, middle: int, outside: int, graph: Graph, scales: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.gcn3d = nn.ModuleList()
        for size in WINDOWS:
            window = nn.Module()
            matrices = hop_matrices(graph, scales, size)
            window.gcn3d = nn.Sequential(nn.Identity(), MultiScale(inside, middle, matrices, graph.joints))
            window.out_conv = nn.Conv3d(middle, outside, (1, size, 1))
            window.out_bn = nn.BatchNorm2d(outside)
            self.gcn3d.append(window)

    def forward(self, x: Float[Tensor, "B T V C"], total: Float[Tensor, "B S V D"]) -> Float[Tensor, "B S V D"]:
        """What the windows of all sizes find, added to what the other path found."""
        for window in self.gcn3d:
            conv, norm = cast(nn.Conv3d, window.out_conv), cast(nn.BatchNorm2d, window.out_bn)
            y = cast(nn.Sequential, window.gcn3d)[1](x, self.stride)
            scale, shift = scale_and_shift(norm)
            weight = conv.weight[:, :, 0, :, 0].transpose(1, 2).flatten(1) * scale[:, None]
            bias = cast(Tensor, conv.bias) * scale + shift
            total = total + batch_norm(F.linear(y, weight, bias)[:, : total.shape[1]], norm)
        return total


class _Temporal(nn.Module):
    """Six branches over time, side by side, plus a residual: four dilations, a maximum, and the frame itself."""

    def __init__(self, inside: int, outside: int, stride: int = 1, activate: bool = True) -> None:
        super().__init__()
        self.stride, self.activate = stride, activate
        narrow = outside // BRANCHES
        self.branches = nn.ModuleList()
        for dilation in DILATIONS:
            temporal = nn.Module()
            temporal.conv = nn.Conv2d(narrow, narrow, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))
            temporal.bn = nn.BatchNorm2d(narrow)
            entry = nn.Conv2d(inside, narrow, 1)
            self.branches.append(nn.Sequential(entry, nn.BatchNorm2d(narrow), nn.ReLU(), temporal))
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        entry = nn.Conv2d(inside, narrow, 1)
        self.branches.append(nn.Sequential(entry, nn.BatchNorm2d(narrow), nn.ReLU(), pool, nn.BatchNorm2d(narrow)))
        self.branches.append(nn.Sequential(nn.Conv2d(inside, narrow, 1, (stride, 1)), nn.BatchNorm2d(narrow)))
        self.residual: nn.Module | None = None
        if inside != outside or stride != 1:
            self.residual = nn.Module()
            self.residual.conv = nn.Conv2d(inside, outside, 1, (stride, 1))
            self.residual.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Float[Tensor, "B T V C"]) -> Float[Tensor, "B S V D"]:
        *convolved, pooled, plain = (cast(nn.Sequential, branch) for branch in self.branches)
        entries = [F.relu(y) for y in _side_by_side(x, [(part[0], part[1]) for part in (*convolved, pooled)])]
        parts = []
        for y, branch in zip(entries, convolved, strict=False):
            temporal = branch[3]
            parts.append(over_time(y, cast(nn.Conv2d, temporal.conv), cast(nn.BatchNorm2d, temporal.bn)))
        norm = cast(nn.BatchNorm2d, pooled[4])
        scale, shift = scale_and_shift(norm)
        highest = cast(nn.MaxPool2d, pooled[3])(entries[4].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        parts.append(batch_norm(highest * scale + shift, norm))
        layers = [(plain[0], plain[1])]
        if self.residual is not None:
            layers.append((cast(nn.Module, self.residual.conv), cast(nn.Module, self.residual.bn)))
        kept, *residual = _side_by_side(x[:, :: self.stride], layers)
        y = torch.cat([*parts, kept], 3) + (residual[0] if residual else x)
        return F.relu(y) if self.activate else y


def _side_by_side(
    x: Float[Tensor, "B T V C"], layers: list[tuple[nn.Module, nn.Module]]
) -> list[Float[Tensor, "B T V _"]]:
    """Several 1x1 convolutions of the same input, each with its batch norm, as one product."""
    pairs = [(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm)) for conv, norm in layers]
    weights, biases = zip(*(folded(conv, norm) for conv, norm in pairs), strict=True)
    y = F.linear(x, torch.cat(weights).flatten(1), torch.cat(biases))
    parts = y.split([len(bias) for bias in biases], 3)
    # Contiguous, because batch norm and its gradient are several times slower on a slice.
    return [
        batch_norm(part.contiguous(), norm) if norm.training else part
        for part, (_, norm) in zip(parts, pairs, strict=True)
    ]
