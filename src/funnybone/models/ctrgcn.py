"""CTR-GCN: channel-wise topology refinement graph convolution (Chen, Zhang, Yuan, Li, Deng, Hu, ICCV 2021).

Inside the network activations are (rows, channels, joints, frames), frames last: there every product of a block, over
channels and over joints, is a batched matrix product on memory as it lies.
"""

import math
from collections import OrderedDict
from operator import attrgetter
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.graphs import directed_partition, graph_of
from funnybone.models.layers import folded, norm_slots, scale_and_shift, share_absent_slots
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

TEMPORAL_KERNEL = 5
# Output width of each block as a multiple of the first's, and its stride over time.
BLOCKS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))


@register_model("ctrgcn")
class CTRGCN(Model):
    """Ten blocks whose adjacency is refined for each channel and clip; the mean over frames, joints and persons.

    The layers and their names are those of the authors' released network, so its checkpoints of one stream load as
    they are. The norm of the input has statistics of its own for each person slot, so the persons' order matters, and
    the mean over persons includes absent ones. Frames, T >= 1, may differ from call to call.

    Absent persons are computed once for each slot, not once for each clip: exact in evaluation mode, but for the
    gradient at them, which is zero here. In training mode the norms inside the blocks count them once for each batch.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; the adjacency, which is learnt, starts at its bones.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first four blocks (the authors' 64), a multiple of 4; the others are twice and four times as wide.
    graph : str
        ``"skeleton"``, or a graph of published attack code: see `graphs.graph_of`.

    References
    ----------
    Chen, Zhang, Yuan, Li, Deng, Hu, "Channel-wise Topology Refinement Graph Convolution for Skeleton-Based Action
    Recognition", ICCV 2021, section 3: equations 5 to 9 and figure 4; widths, initial values and the absence of a
    residual inside the temporal part are those of the released code.

    Examples
    --------
    >>> net = CTRGCN(num_classes=14, persons=2, width=8).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 32]))
    """

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
        if width < 4 or width % 4:
            raise DataError(
                f"{type(self).__name__}: width is {width}", hint="give a multiple of 4, one for each branch"
            )
        partition = directed_partition(graph_of(skeleton, graph))
        self.data_bn = nn.BatchNorm1d(persons * len(skeleton.joints) * in_channels)
        channels = in_channels
        for index, (wide, stride) in enumerate(BLOCKS):
            self.add_module(f"l{index + 1}", _Block(channels, wide * width, stride, partition, residual=index > 0))
            channels = wide * width
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, 0, math.sqrt(2 / num_classes))

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if not {"l1.gcn1.PA", "l1.gcn1.alpha", "l1.gcn1.convs.0.conv3.weight", "fc.weight"} <= state.keys():
            return None
        joints = state["l1.gcn1.PA"].shape[1]
        width, inside = state["l1.gcn1.convs.0.conv3.weight"].shape[:2]
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
        >>> CTRGCN(width=4).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 16])
        """
        hidden, places = self.hidden(xyz, present)
        return over_persons(hidden[-1].mean((2, 3)), places)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return self.fc(features)

    def hidden(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> tuple[list[Float[Tensor, "R D V S"]], Int[Tensor, "N M"]]:
        """What each of the ten blocks puts out, and for each person of each clip the row that stands for it.

        Examples
        --------
        >>> hidden, places = CTRGCN(width=4).eval().hidden(torch.ones(1, 2, 7, 25, 3))
        >>> [tuple(hidden[block].shape) for block in (0, 4, 9)], places.tolist()
        ([(2, 4, 25, 7), (2, 8, 25, 4), (2, 16, 25, 2)], [[0, 1]])
        """
        self.check(xyz, present)
        xyz, kept, places = share_absent_slots(xyz, present)
        x = norm_slots(xyz, self.data_bn).index_select(0, kept).permute(0, 3, 2, 1).contiguous()
        hidden = []
        for index in range(len(BLOCKS)):
            x = self.get_submodule(f"l{index + 1}")(x)
            hidden.append(x)
        return hidden, places


class _Block(nn.Module):
    """Graph convolution, then convolution over time, plus a residual."""

    def __init__(self, inside: int, outside: int, stride: int, partition: Tensor, residual: bool) -> None:
        super().__init__()
        self.gcn1 = _OverJoints(inside, outside, partition)
        self.tcn1 = _OverTime(outside, stride)
        self.stride = stride
        self.residual: nn.Module | None = None
        if residual and inside == outside and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = _normed(_fan_out(nn.Conv2d(inside, outside, 1, (stride, 1))))

    def forward(self, x: Float[Tensor, "B C V T"]) -> Float[Tensor, "B D V S"]:
        y = self.tcn1(self.gcn1(x))
        if isinstance(self.residual, nn.Identity):
            y = y + x
        elif isinstance(self.residual, nn.Sequential):
            conv, norm = cast(nn.Conv2d, self.residual.conv), cast(nn.BatchNorm2d, self.residual.bn)
            y = y + _pointwise(x[..., :: self.stride], conv, norm)
        return F.relu(y)


class _OverJoints(nn.Module):
    """``sum_k M_k (W_k x + b_k)``, where M_k is a shared adjacency plus one inferred for each channel and clip."""

    def __init__(self, inside: int, outside: int, partition: Tensor) -> None:
        super().__init__()
        # The authors' rule; an eighth of fewer than 8 channels would be none at all.
        self.relations = relations = 8 if inside < 8 or inside == 9 else inside // 8
        self.PA = nn.Parameter(partition.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.convs = nn.ModuleList(nn.Module() for _ in partition)
        for subset in self.convs:
            subset.conv1 = _fan_out(nn.Conv2d(inside, relations, 1))
            subset.conv2 = _fan_out(nn.Conv2d(inside, relations, 1))
            subset.conv3 = _fan_out(nn.Conv2d(inside, outside, 1))
            subset.conv4 = _fan_out(nn.Conv2d(relations, outside, 1))
        self.bn = nn.BatchNorm2d(outside)
        nn.init.constant_(self.bn.weight, 1e-6)
        self.down: nn.Module | None = None
        if inside != outside:
            self.down = nn.Sequential(_fan_out(nn.Conv2d(inside, outside, 1)), nn.BatchNorm2d(outside))

    def forward(self, x: Float[Tensor, "B C V T"]) -> Float[Tensor, "B D V T"]:
        (rows, _, joints, frames), channels = x.shape, self.bn.num_features
        sources = len(self.convs) * joints
        relations, readout = self._relations(x), self._readout()
        scale, shift = scale_and_shift(self.bn)
        weight = self._stack("conv3.weight").flatten(2).transpose(0, 1) * scale[:, None, None]
        bias = self._stack("conv3.bias") * scale
        # One product over (subset, source joint). The copy into this order costs what the running sum of a product for
        # each subset would.
        spread = torch.matmul(readout, relations.flatten(3)).unflatten(3, (joints, joints))
        spread = spread.permute(0, 2, 3, 1, 4).reshape(rows * channels, joints, sources)
        moved = torch.bmm(weight.flatten(0, 1).expand(rows, -1, -1), x.flatten(2))
        moved = moved.view(rows * channels, sources, frames)
        # What M_k makes of the bias b_k is the same in every frame.
        through = (readout * bias[..., None]).transpose(0, 1).flatten(1)
        offset = torch.baddbmm(shift[:, None], through.expand(rows, -1, -1), relations.sum(4).flatten(1, 2))[..., None]
        kept = x if self.down is None else _pointwise(x, self.down[0], self.down[1])  # type: ignore[index]
        if self.bn.training:
            return F.relu(self.bn(torch.bmm(spread, moved).view(kept.shape) + offset) + kept)
        return F.relu(torch.baddbmm(kept.flatten(0, 1), spread, moved).view(kept.shape) + offset)

    def _relations(self, x: Float[Tensor, "B C V T"]) -> Float[Tensor, "B K P V V"]:
        """What the matrices M are combined from, entry [target, source]: pairwise, shared, and ones for the bias.

        The mean over frames is taken before the 1x1 convolutions, with which it commutes.
        """
        rows, _, joints, frames = x.shape
        weight = torch.cat([self._stack("conv1.weight"), self._stack("conv2.weight")]).flatten(0, 1).flatten(1) / frames
        pooled = torch.bmm(weight.expand(rows, -1, -1), x.sum(3))
        pooled = pooled.view(rows, 2, len(self.convs), self.relations, joints)
        target, source = pooled.unbind(1)
        bias = self._stack("conv1.bias") - self._stack("conv2.bias")
        target = target + bias[..., None].to(target.dtype)
        pairs = torch.tanh(target[..., None] - source[..., None, :])
        shared = torch.stack([self.PA, torch.ones_like(self.PA)], 1).to(pairs.dtype)
        return torch.cat([pairs, shared.expand(rows, -1, -1, -1, -1)], 2)

    def _readout(self) -> Float[Tensor, "K D P"]:
        """For each subset and channel the weights of `_relations` in its matrix M."""
        inferred, bias = self._stack("conv4.weight").flatten(2), self._stack("conv4.bias")[..., None]
        return torch.cat([self.alpha * inferred, torch.ones_like(bias), self.alpha * bias], 2)

    def _stack(self, name: str) -> Float[Tensor, "K ..."]:
        return torch.stack(
            [attrgetter(name)(subset) for subset in self.convs]
        )  # which may be corrected as they are read


class _OverTime(nn.Module):
    """Four branches, a quarter of the channels each: two dilated convolutions, a max-pool, a bare 1x1 convolution."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        quarter, self.stride = width // 4, stride
        self.branches = nn.ModuleList()
        for dilation in (1, 2):
            padding = (TEMPORAL_KERNEL // 2 * dilation, 0)
            over = _normed(nn.Conv2d(quarter, quarter, (TEMPORAL_KERNEL, 1), (stride, 1), padding, (dilation, 1)))
            self.branches.append(nn.Sequential(nn.Conv2d(width, quarter, 1), nn.BatchNorm2d(quarter), nn.ReLU(), over))
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        norms = nn.BatchNorm2d(quarter), nn.BatchNorm2d(quarter)
        self.branches.append(nn.Sequential(nn.Conv2d(width, quarter, 1), norms[0], nn.ReLU(), pool, norms[1]))
        self.branches.append(nn.Sequential(nn.Conv2d(width, quarter, 1, (stride, 1)), nn.BatchNorm2d(quarter)))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                _fan_out(part)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1, 0.02)

    def forward(self, y: Float[Tensor, "B D V T"]) -> Float[Tensor, "B D V S"]:
        convs = [cast(nn.Conv2d, branch[0]) for branch in self.branches]  # type: ignore[index]
        norms = [cast(nn.BatchNorm2d, branch[1]) for branch in self.branches]  # type: ignore[index]
        weights, biases = zip(*(folded(conv, norm) for conv, norm in zip(convs, norms, strict=True)), strict=True)
        quarter = len(biases[0])
        inner, bare = _product(torch.cat(weights).flatten(1), torch.cat(biases), y).split([3 * quarter, quarter], 1)
        bare = bare[..., :: self.stride]
        if self.training:
            inner = torch.cat([norm(part) for norm, part in zip(norms[:3], inner.split(quarter, 1), strict=True)], 1)
            bare = norms[3](bare)
        near, far, pooled = F.relu(inner).split(quarter, 1)
        pooled = F.max_pool2d(pooled, (1, 3), (1, self.stride), (0, 1))
        norm = cast(nn.BatchNorm2d, self.branches[2][4])  # type: ignore[index]
        if norm.training:
            pooled = norm(pooled)
        else:
            scale, shift = (part[:, None, None].to(pooled.dtype) for part in scale_and_shift(norm))
            pooled = pooled * scale + shift
        return torch.cat([self._convolved(near, 0), self._convolved(far, 1), pooled, bare], 1)

    def _convolved(self, y: Float[Tensor, "B Q V T"], branch: int) -> Float[Tensor, "B Q V S"]:
        over = self.branches[branch][3]  # type: ignore[index]
        weight, bias = folded(over.conv, over.bn)
        stride, padding, dilation = (pair[::-1] for pair in (over.conv.stride, over.conv.padding, over.conv.dilation))
        y = F.conv2d(y, weight.transpose(2, 3), bias, stride, padding, dilation)
        return over.bn(y) if over.bn.training else y


def over_persons(rows: Float[Tensor, "R ..."], places: Int[Tensor, "N M"]) -> Float[Tensor, "N ..."]:
    """The mean over each clip's persons, given the row that stands for each of them.

    Examples
    --------
    >>> over_persons(torch.tensor([[2.0], [4.0]]), torch.tensor([[0, 1], [1, 1]]))
    tensor([[3.],
            [4.]])
    """
    return rows[places].mean(1)


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    """The convolution and its batch norm, under the authors' names."""
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels)))


def _fan_out(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with the authors' initial values."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    nn.init.zeros_(cast(Tensor, conv.bias))
    return conv


def _pointwise(x: Float[Tensor, "B C V T"], conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Float[Tensor, "B D V T"]:
    """A 1x1 convolution and the batch norm after it."""
    weight, bias = folded(conv, norm)
    y = _product(weight.flatten(1), bias, x)
    return norm(y) if norm.training else y


def _product(weight: Float[Tensor, "D C"], bias: Float[Tensor, " D"], x: Float[Tensor, "B C V T"]) -> Tensor:
    y = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x.flatten(2))
    return y.view(len(x), len(weight), *x.shape[2:])
