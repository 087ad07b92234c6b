"""ST-GCN: spatial temporal graph convolutional network (Yan, Xiong, Lin, AAAI 2018)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from funnybone.models.graphs import graph_of, spatial_partition
from funnybone.models.layers import Dropout, batch_norm, over_time, pointwise, scale_and_shift, share_absent
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

TEMPORAL_KERNEL = 9
# Output width of each block as a multiple of the first's, and its stride over time.
BLOCKS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))


@register_model("stgcn")
class STGCN(Model):
    """Ten blocks of graph convolution over joints and convolution over time; the mean over frames, joints and persons.

    The layers, their names and the ``spatial`` partition are those of the authors' released network, so its checkpoints
    load as they are. The mean over persons includes absent ones (all zeros), as theirs does, and does not depend on
    the persons' order. Frames, T >= 1, may differ from call to call.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; the graph is built from its bones and its ``centre``.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first four blocks (the authors' 64); the others are twice and four times as wide.
    dropout : float
        Share of activations dropped in training in every block but the first.
    max_hop : int
        Reach of one graph convolution, in bones.
    graph : str
        ``"skeleton"``, or a graph of published attack code: see `graphs.graph_of`.

    References
    ----------
    Yan, Xiong, Lin, "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action Recognition", AAAI 2018,
    section 3; the truncated partition (see `graphs.spatial_partition`) and the widths are those of the released code.

    Examples
    --------
    >>> net = STGCN(num_classes=14, persons=2, width=8).eval()
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
        dropout: float = 0.5,
        max_hop: int = 1,
        graph: str = "skeleton",
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        partition = spatial_partition(graph_of(skeleton, graph), max_hop)
        self.register_buffer("A", partition)
        self.data_bn = nn.BatchNorm1d(len(skeleton.joints) * in_channels)
        blocks, channels = [], in_channels
        for index, (wide, stride) in enumerate(BLOCKS):
            first = index == 0
            blocks.append(_Block(channels, wide * width, stride, len(partition), not first, 0.0 if first else dropout))
            channels = wide * width
        self.st_gcn_networks = nn.ModuleList(blocks)
        self.edge_importance = nn.ParameterList(nn.Parameter(torch.ones_like(partition)) for _ in BLOCKS)
        self.fcn = nn.Conv2d(channels, num_classes, 1)

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if not {"A", "edge_importance.0", "st_gcn_networks.0.gcn.conv.weight", "fcn.weight"} <= state.keys():
            return None
        kernels, joints, _ = state["A"].shape
        outside, inside = state["st_gcn_networks.0.gcn.conv.weight"].shape[:2]
        return {
            "num_classes": len(state["fcn.weight"]),
            "joints": joints,
            "in_channels": inside,
            "width": outside // kernels,
            "max_hop": (kernels - 1) // 2,
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The mean over frames, joints and persons of the last block's output.

        Examples
        --------
        >>> STGCN(width=4).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 16])
        """
        self.check(xyz, present)
        rows, _, places = share_absent(xyz, present)
        x = self._normalise(rows)
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            x = block(x, cast(Tensor, self.A) * importance)
        return x.mean((1, 2))[places].view(*xyz.shape[:2], x.shape[-1]).mean(1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return F.linear(features, self.fcn.weight.flatten(1), self.fcn.bias)

    def _normalise(self, rows: Float[Tensor, "B T V C"]) -> Float[Tensor, "B T V C"]:
        """Batch norm with statistics of each joint and coordinate, joint-major, shared by the persons."""
        return self.data_bn(rows.flatten(2).flatten(0, 1)).view(rows.shape)


class _Block(nn.Module):
    """Graph convolution, then convolution over time, plus a residual.

    The channel last is what both the matrix products and oneDNN's convolution want, so nothing is copied between them.
    """

    def __init__(self, inside: int, outside: int, stride: int, kernels: int, residual: bool, dropout: float) -> None:
        super().__init__()
        self.gcn = nn.Module()
        self.gcn.conv = nn.Conv2d(inside, outside * kernels, 1)
        padding = (TEMPORAL_KERNEL // 2, 0)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, (TEMPORAL_KERNEL, 1), (stride, 1), padding),
            nn.BatchNorm2d(outside),
            Dropout(dropout),
        )
        self.residual: nn.Module | None = None
        if residual and inside == outside and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = nn.Sequential(nn.Conv2d(inside, outside, 1, (stride, 1)), nn.BatchNorm2d(outside))

    def forward(self, x: Float[Tensor, "B T V C"], adjacency: Float[Tensor, "K V V"]) -> Float[Tensor, "B S V D"]:
        y = self._over_time(F.relu(self._over_joints(x, adjacency)))
        if self.residual is not None:
            y = y + self._shortcut(x)
        return F.relu(y)

    def _over_joints(self, x: Float[Tensor, "B T V C"], adjacency: Float[Tensor, "K V V"]) -> Float[Tensor, "B T V D"]:
        """``sum_k A_k' (x W_k + b_k)``, computed as ``[A_k' x]_k W``: one product over joints, one over channels."""
        kernels, joints, _ = adjacency.shape
        norm, conv = cast(nn.BatchNorm2d, self.tcn[0]), cast(nn.Conv2d, self.gcn.conv)
        scale, shift = scale_and_shift(norm)
        weight = conv.weight.view(kernels, -1, x.shape[-1]) * scale[:, None]
        bias = cast(Tensor, conv.bias).view(kernels, -1) * scale
        # Rows (joint, kernel): what comes out is already the left factor of the product over channels.
        spread = adjacency.permute(2, 0, 1).reshape(joints * kernels, joints)
        # bmm: where the adjacency trains, matmul would transpose all activations to make one large product of it.
        mixed = torch.bmm(spread.expand(x.shape[0] * x.shape[1], -1, -1), x.flatten(0, 1))
        y = mixed.view(-1, kernels * x.shape[-1]) @ weight.transpose(1, 2).flatten(0, 1)
        y = y.view(*x.shape[:3], len(bias[0])) + (adjacency.sum(1).T @ bias + shift)
        return batch_norm(y, norm)

    def _over_time(self, y: Float[Tensor, "B T V D"]) -> Float[Tensor, "B S V D"]:
        return self.tcn[4](over_time(y, cast(nn.Conv2d, self.tcn[2]), cast(nn.BatchNorm2d, self.tcn[3])))

    def _shortcut(self, x: Float[Tensor, "B T V C"]) -> Float[Tensor, "B S V D"]:
        if not isinstance(self.residual, nn.Sequential):
            return x
        return pointwise(x, cast(nn.Conv2d, self.residual[0]), cast(nn.BatchNorm2d, self.residual[1]))
