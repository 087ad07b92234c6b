"""DGNN: directed graph neural network (Shi, Zhang, Cheng, Lu, CVPR 2019), in the community's version."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.graphs import Graph, graph_of, hop_distances
from funnybone.models.layers import batch_norm, norm_slots, over_time, scale_and_shift, share_absent_slots
from funnybone.models.objective import Objective
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

TEMPORAL_KERNEL = 9
# Output width of each block as a multiple of the first's, and its stride over time.
BLOCKS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
# Share of the training in which the incidence matrices stay as they are: 10 epochs of the published 120.
FIXED_GRAPH = 10 / 120


def directed_edges(graph: Graph) -> tuple[tuple[int, int], ...]:
    """(source, target) of each bone, pointing away from the centre, and the centre's self-loop; in ascending order.

    A skeleton is a tree, so there are as many edges as joints. The order is the published one: with NTU25's hand tips
    on the hands (``"pyskl"``) these are the community code's edges.

    Examples
    --------
    >>> directed_edges(graph_of(NTU25, "pyskl"))[:3], directed_edges(graph_of(NTU25, "pyskl"))[-1]
    (((0, 12), (0, 16), (1, 0)), (20, 20))
    """
    away = hop_distances(graph, graph.joints)[graph.centre].tolist()
    bones = [(a, b) if away[a] < away[b] else (b, a) for a, b in graph.edges]
    return tuple(sorted([*bones, (graph.centre, graph.centre)]))


def incidence(graph: Graph) -> tuple[Float[Tensor, "V E"], Float[Tensor, "V E"]]:
    """Which edges leave each joint and which enter it, divided by the number of its edge ends, plus 1e-6 everywhere.

    Examples
    --------
    >>> leaving, entering = incidence(graph_of(NTU25))
    >>> (leaving > 0.1).sum(), (leaving + entering).sum(1).round(decimals=3).unique()
    (tensor(25), tensor([1.]))
    """
    edges = directed_edges(graph)
    matrices = torch.zeros(2, graph.joints, len(edges), dtype=torch.float64)
    for index, (source, target) in enumerate(edges):
        matrices[0, source, index] = matrices[1, target, index] = 1
    leaving, entering = (matrices / matrices.sum((0, 2))[:, None] + 1e-6).float()
    return leaving, entering


@register_model("dgnn")
class DGNN(Model):
    """Ten blocks that renew joints from their bones and bones from their joints, each then convolved over time.

    The authors released no code. Layers, their names and sizes are those of the community's version, so its checkpoints
    load as they are; it has a sixth of the parameters that the paper's network is said to have, and its accuracy was
    never shown to be the paper's. The input norm has statistics of each person slot, so the persons' order matters.
    Frames, T >= 1, may differ from call to call.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints, and as many directed edges: see `directed_edges`.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first four blocks (the published 64); the others are twice and four times as wide.
    bones : str
        Where a bone enters. ``"edge"``: at the index of its edge, as target minus source, zero for the self-loop.
        ``"joint"``: at the index of its child, as child minus parent in the skeleton, zero for the root. That is not
        the edge that the incidence matrices have there (but for 7 of NTU's 25), yet the community's code does it;
        weights that were trained with it need it.
    graph : str
        ``"published"``: on NTU25 the community's edges, whose hand tips hang on the hands; elsewhere the skeleton's
        bones. Or a graph of `graphs.graph_of`. It decides where training starts, and what ``bones="edge"`` is shown.

    References
    ----------
    Shi, Zhang, Cheng, Lu, "Skeleton-Based Action Recognition with Directed Graph Neural Networks", CVPR 2019, sections
    3.2 to 3.4; the widths, the normalised incidence and the shared convolution over time are those of
    github.com/kenziyuliu/DGNN-PyTorch.

    Examples
    --------
    >>> net = DGNN(num_classes=14, persons=2, width=8).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        width: int = 64,
        bones: str = "edge",
        graph: str = "published",
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        if bones not in ("edge", "joint"):
            raise DataError(f"bones is {bones!r}", hint="it is 'edge' or 'joint'")
        if graph == "published":
            graph = "pyskl" if skeleton.same_layout(NTU25) else "skeleton"
        directed = graph_of(skeleton, graph)
        ends = directed_edges(directed)
        if bones == "joint":
            ends = tuple((joint if parent < 0 else parent, joint) for joint, parent in enumerate(skeleton.parents))
        self.register_buffer("bone_ends", torch.tensor(ends).T.contiguous(), persistent=False)
        entries = persons * len(skeleton.joints) * in_channels
        self.data_bn_v, self.data_bn_e = nn.BatchNorm1d(entries), nn.BatchNorm1d(entries)
        channels = in_channels
        for index, (wide, stride) in enumerate(BLOCKS):
            block = _Block(channels, wide * width, stride, *incidence(directed), residual=index > 0)
            self.add_module(f"l{index + 1}", block)
            channels = wide * width
        self.fc = nn.Linear(2 * channels, num_classes)
        nn.init.normal_(self.fc.weight, 0, (2 / num_classes) ** 0.5)

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if not {"data_bn_v.weight", "l1.dgn.source_M", "l1.dgn.H_v.weight", "fc.weight"} <= state.keys():
            return None
        width, inside = state["l1.dgn.H_v.weight"].shape
        joints = len(state["l1.dgn.source_M"])
        return {
            "num_classes": len(state["fc.weight"]),
            "joints": joints,
            "persons": len(state["data_bn_v.weight"]) // (joints * (inside // 3)),
            "in_channels": inside // 3,
            "width": width,
            "bones": "joint",
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The means over frames, positions and persons of the last block's joints, then of its edges.

        Examples
        --------
        >>> DGNN(width=4).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 32])
        """
        self.check(xyz, present)
        return self.features_given_bones(xyz, self.bones_of(xyz), present)

    def bones_of(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T E C"]:
        """The vector that enters at each edge; zero for absent persons.

        Examples
        --------
        >>> xyz = torch.rand(1, 2, 7, 25, 3)
        >>> torch.equal(DGNN(width=4).bones_of(xyz)[..., 0, :], xyz[..., 12, :] - xyz[..., 0, :])
        True
        """
        start, end = cast(Tensor, self.bone_ends).unbind()
        return xyz.index_select(3, end) - xyz.index_select(3, start)

    def features_given_bones(
        self,
        xyz: Float[Tensor, "N M T V C"],
        bones: Float[Tensor, "N M T E C"],
        present: Bool[Tensor, "N M T"] | None = None,
    ) -> Float[Tensor, "N F"]:
        """The features of joints and bones that need not belong together."""
        both, kept, places = share_absent_slots(torch.cat([xyz, bones], 3), present, not self.training)
        nodes, edges = both.chunk(2, 3)
        nodes = norm_slots(nodes, self.data_bn_v).index_select(0, kept)
        edges = norm_slots(edges, self.data_bn_e).index_select(0, kept)
        for index in range(len(BLOCKS)):
            nodes, edges = self.get_submodule(f"l{index + 1}")(nodes, edges)
        means = torch.cat([nodes.mean((1, 2)), edges.mean((1, 2))], 1)
        return means[places].mean(1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return self.fc(features)

    def objective(self, label_smoothing: float) -> Objective:
        """Cross-entropy that leaves the incidence matrices alone for the first twelfth of the training."""
        return FixedGraphFirst(label_smoothing)


class FixedGraphFirst(Objective):
    """Cross-entropy; in the first 10/120 of the training the incidence matrices get no gradient.

    None, not zero: an optimiser then passes them over, and weight decay and momentum do not move them either.

    Parameters
    ----------
    label_smoothing : float
        Share of the target that is spread over all classes.

    References
    ----------
    Shi, Zhang, Cheng, Lu, CVPR 2019, section 3.3: an adaptive graph that is fixed first trains more stably.

    Examples
    --------
    >>> net = DGNN(num_classes=2, persons=1, width=4)
    >>> FixedGraphFirst()(net, torch.zeros(2, 1, 8, 25, 3), torch.tensor([0, 1]), 0.0).backward()
    >>> net.l1.dgn.source_M.grad is None
    True
    """

    def forward(
        self,
        model: nn.Module,
        xyz: Float[Tensor, "N M T V C"],
        labels: Int[Tensor, " N"],
        progress: float,
        present: Bool[Tensor, "N M T"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of a batch of preprocessed clips, when this share of the training's steps is done."""
        if progress >= FIXED_GRAPH:
            return super().forward(model, xyz, labels, progress, present)
        fixed = {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if name.endswith((".source_M", ".target_M"))
        }
        return self.classification(torch.func.functional_call(model, fixed, (xyz, present)), labels)


class _Block(nn.Module):
    """Joints from edges and edges from joints, then one convolution over time for both, plus a residual.

    Joints and edges stay two tensors: stacked for the convolution they would be copied, and it is no faster for that.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        stride: int,
        leaving: Float[Tensor, "V E"],
        entering: Float[Tensor, "V E"],
        residual: bool,
    ) -> None:
        super().__init__()
        self.dgn = nn.Module()
        self.dgn.source_M, self.dgn.target_M = nn.Parameter(leaving.clone()), nn.Parameter(entering.clone())
        self.dgn.H_v, self.dgn.H_e = nn.Linear(3 * inside, outside), nn.Linear(3 * inside, outside)
        self.dgn.bn_v, self.dgn.bn_e = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.tcn = _temporal(outside, outside, stride)
        self.residual: nn.Module | None = None
        if residual:
            kept = inside == outside and stride == 1
            self.residual = nn.Identity() if kept else _temporal(inside, outside, stride)

    def forward(
        self, nodes: Float[Tensor, "B T V C"], edges: Float[Tensor, "B T E C"]
    ) -> tuple[Float[Tensor, "B S V D"], Float[Tensor, "B S E D"]]:
        dgn = self.dgn
        leaving, entering = cast(Tensor, dgn.source_M), cast(Tensor, dgn.target_M)
        # Rows (receiver, kernel): what comes out of the product is already the left factor of that over channels.
        to_nodes = torch.stack([leaving, entering], 1).flatten(0, 1)
        to_edges = torch.stack([leaving.T, entering.T], 1).flatten(0, 1)
        new_nodes = _renewed(nodes, edges, to_nodes, cast(nn.Linear, dgn.H_v), cast(nn.BatchNorm2d, dgn.bn_v))
        new_edges = _renewed(edges, nodes, to_edges, cast(nn.Linear, dgn.H_e), cast(nn.BatchNorm2d, dgn.bn_e))
        # Nodes first throughout: while they train, the norms see two batches in this order.
        y_nodes, y_edges = _convolved(self.tcn, new_nodes), _convolved(self.tcn, new_edges)
        if self.residual is not None:
            y_nodes, y_edges = y_nodes + _convolved(self.residual, nodes), y_edges + _convolved(self.residual, edges)
        return F.relu(y_nodes), F.relu(y_edges)


def _temporal(inside: int, outside: int, stride: int) -> nn.Module:
    """A convolution over time and its norm, under the community's names."""
    conv = nn.Conv2d(inside, outside, (TEMPORAL_KERNEL, 1), (stride, 1), (TEMPORAL_KERNEL // 2, 0))
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    nn.init.zeros_(cast(Tensor, conv.bias))
    return nn.ModuleDict({"tempconv": nn.ModuleDict({"conv": conv, "bn": nn.BatchNorm2d(outside)})})


def _convolved(layer: nn.Module, x: Float[Tensor, "B T V C"]) -> Float[Tensor, "B S V D"]:
    if isinstance(layer, nn.Identity):
        return x
    tempconv = cast(nn.ModuleDict, cast(nn.ModuleDict, layer)["tempconv"])
    return over_time(x, cast(nn.Conv2d, tempconv["conv"]), cast(nn.BatchNorm2d, tempconv["bn"]))


def _renewed(
    own: Float[Tensor, "B T V C"],
    other: Float[Tensor, "B T E C"],
    spread: Float[Tensor, "VK E"],
    linear: nn.Linear,
    norm: nn.BatchNorm2d,
) -> Float[Tensor, "B T V D"]:
    """``relu(norm([own, leaving other, entering other] W + b))``; no wide row of three parts is ever built.

    Widths never fall from block to block, so the product over joints comes first.
    """
    channels = own.shape[-1]
    scale, shift = scale_and_shift(norm)
    weight, bias = linear.weight * scale[:, None], linear.bias * scale + shift
    spread = spread.to(own.dtype)  # in mixed precision: once, not once for each frame
    mixed = torch.bmm(spread.expand(own.shape[0] * own.shape[1], -1, -1), other.flatten(0, 1))
    kept = F.linear(own.reshape(-1, channels), weight[:, :channels], bias)
    y = torch.addmm(kept, mixed.view(-1, 2 * channels), weight[:, channels:].T)
    return F.relu(batch_norm(y.view(*own.shape[:3], bias.shape[0]), norm))
