"""SGN: semantics-guided neural network (Zhang, Lan, Zeng, Xing, Xue, Zheng, CVPR 2020)."""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.layers import (
    Dropout,
    batch_norm,
    over_time,
    pointwise,
    present_first,
    present_of,
    scale_and_shift,
)
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

FINENESS = 2**20  # steps in which training places its random pick inside a segment


@register_model("sgn")
class SGN(Model):
    """A learned graph over the joints of each of 20 poses, then a convolution over the poses; the maximum over them.

    The layers and their names are those of the authors' released network, so its checkpoints load as they are. So is
    what their loader does before it: the present poses of a clip (a pose is one person in one frame) stand in one row,
    ordered by frame and then by person, so two persons alternate. The row is cut into equal segments and one pose of
    each enters the network: in training a random one, in evaluation its middle. Only those poses have a gradient.
    Frames, T >= 1, may differ from call to call.

    Two things differ from the loader. Segments are exactly equal, so the last poses of a row count as much as the first
    (theirs have whole lengths, which leaves up to half of the row unseen). A row shorter than the number of segments is
    stretched, each pose filling one segment or several; they append zeros, a pose of no body, reached in one jump whose
    velocity is as large as the position. A clip without anybody is one pose of zeros.

    Everything but the classifier runs in the weights' own precision, also under autocast: see `features`.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the last graph layers (the authors' 256), a multiple of 4; the other layers keep their ratio to it.
    segments : int
        Poses that enter the network at a time.
    samples : int
        In evaluation, picks in each segment, evenly spaced; their logits are averaged. The authors average five random
        picks, so that neither answers nor gradients repeat.
    dropout : float
        Share of channels dropped in training between the two convolutions over poses.

    References
    ----------
    Zhang, Lan, Zeng, Xing, Xue, Zheng, "Semantics-Guided Neural Networks for Efficient Skeleton-Based Human Action
    Recognition", CVPR 2020, section 3; sampling and initialisation are those of the released code.

    Examples
    --------
    >>> net = SGN(num_classes=14, persons=2, width=16).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 32]))
    """

    skips_empty = True

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        width: int = 256,
        segments: int = 20,
        samples: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        if width < 4 or width % 4:
            raise DataError(f"SGN: width is {width}", hint="give a multiple of 4")
        self.segments, self.samples = segments, samples
        joints, narrow = len(skeleton.joints), width // 4
        self.tem_embed = _Embedding(segments, narrow, width)
        self.spa_embed = _Embedding(joints, narrow, narrow)
        self.joint_embed = _Embedding(in_channels, narrow, narrow, joints * in_channels)
        self.dif_embed = _Embedding(in_channels, narrow, narrow, joints * in_channels)
        self.cnn = nn.Module()
        self.cnn.cnn1 = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.cnn.bn1 = nn.BatchNorm2d(width)
        self.cnn.cnn2 = nn.Conv2d(width, 2 * width, 1)
        self.cnn.bn2 = nn.BatchNorm2d(2 * width)
        self.cnn.dropout = Dropout(dropout)
        self.compute_g1 = nn.Module()
        self.compute_g1.g1, self.compute_g1.g2 = _pointwise(width // 2, width), _pointwise(width // 2, width)
        self.gcn1 = _GraphLayer(width // 2, width // 2)
        self.gcn2 = _GraphLayer(width // 2, width)
        self.gcn3 = _GraphLayer(width, width)
        self.fc = nn.Linear(2 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        for layer in (self.gcn1, self.gcn2, self.gcn3):
            nn.init.zeros_(_conv(layer.w).weight)

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if not {"spa_embed.cnn.0.cnn.weight", "compute_g1.g1.cnn.weight", "fc.weight"} <= state.keys():
            return None
        return {
            "num_classes": len(state["fc.weight"]),
            "joints": state["spa_embed.cnn.0.cnn.weight"].shape[1],
            "in_channels": state["joint_embed.cnn.1.cnn.weight"].shape[1],
            "width": len(state["gcn3.w.cnn.weight"]),
            "segments": state["tem_embed.cnn.0.cnn.weight"].shape[1],
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The maximum over the chosen poses of the last convolution's output; the mean of that over ``samples``.

        Examples
        --------
        >>> SGN(width=8).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 16])
        """
        self.check(xyz, present)
        chosen = self.chosen(xyz, present)
        poses = xyz.flatten(3).flatten(0, 2).index_select(0, chosen.flatten())
        poses = poses.view(-1, self.segments, *xyz.shape[3:])
        # Two maxima say which joint and which pose carry the gradient. Rounded to 16 bits they name others.
        with torch.autocast(xyz.device.type, enabled=False):
            x = self._over_poses(self._over_joints(poses.to(self.fc.weight.dtype)))
        return x.view(*chosen.shape[:2], x.shape[-1]).mean(1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return self.fc(features)

    def chosen(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Int[Tensor, "N K S"]:
        """Which poses enter the network: indices into ``xyz.flatten(0, 2)`` for each clip, sample and segment.

        Examples
        --------
        >>> SGN(persons=1, segments=4).eval().chosen(torch.ones(1, 1, 12, 25, 3))
        tensor([[[ 1,  4,  7, 10]]])
        """
        clips, persons, frames = xyz.shape[:3]
        there = present_of(xyz, present).transpose(1, 2).flatten(1)
        row = present_first(there)  # by frame and person
        # Where in its segment each pick lies, as a share in whole numbers, for which the next lines are exact.
        segment = torch.arange(self.segments, device=xyz.device)
        if self.training:
            whole = FINENESS
            share = torch.randint(whole, (clips, 1, self.segments), device=xyz.device)
        else:
            whole = 2 * self.samples
            share = torch.arange(1, whole, 2, device=xyz.device)[:, None]
        place = (segment * whole + share) * there.sum(1)[:, None, None] // (self.segments * whole)
        pose = row.gather(1, place.flatten(1)).view(place.shape)
        first = torch.arange(clips, device=xyz.device)[:, None, None] * (persons * frames)
        return first + pose % persons * frames + pose // persons

    def _over_joints(self, poses: Float[Tensor, "B S V C"]) -> Float[Tensor, "B S D"]:
        """Each pose as one vector: three graph convolutions with the pose's own graph, the maximum over joints."""
        dynamics = self._dynamics(poses)
        x, graph = self._graph_and_first_layer(dynamics)
        x = F.relu(self.gcn2(x, graph))
        # The maximum before the ReLU and the code of the segment, which change nothing about which joint it is.
        x = F.relu(self.gcn3(x, graph).max(1).values)
        return x.view(*poses.shape[:2], x.shape[-1]) + self.tem_embed.codes()

    def _dynamics(self, poses: Float[Tensor, "B S V C"]) -> Float[Tensor, "P V E"]:
        """Embedded positions plus embedded velocities; the velocity of the first pose is zero."""
        velocity = torch.diff(poses, dim=1, prepend=poses[:, :1])
        embeddings = (self.joint_embed, self.dif_embed)
        pairs = zip(embeddings, (poses, velocity), strict=True)
        x = torch.stack([embed.normalised(xyz.flatten(0, 1)) for embed, xyz in pairs]).flatten(1, 2)
        for layer in (1, 3):
            convs = [_conv(embed.cnn[layer]) for embed in embeddings]
            weight = torch.stack([conv.weight.flatten(1).T for conv in convs])
            bias = torch.stack([cast(Tensor, conv.bias) for conv in convs])
            x = F.relu(torch.baddbmm(bias[:, None], x, weight))
        return x.sum(0).unflatten(0, (-1, poses.shape[2]))

    def _graph_and_first_layer(
        self, dynamics: Float[Tensor, "P V E"]
    ) -> tuple[Float[Tensor, "P V H"], Float[Tensor, "P V V"]]:
        """The graph of each pose, and the first graph convolution, by one product over channels.

        A joint is x = [d, s], its dynamics and the code of the joint; s is the same in every pose. Scores are
        ``(x_i G1' + b1) (x_j G2' + b2)'`` with a softmax over j, which does not see what is the same for all j. So with
        ``A = G1' G2`` and ``c = b1 G2`` they are ``(x_i A + c) x_j'``. Everything that is linear in d_i is stacked.
        """
        codes = self.spa_embed.codes()
        joints, size = codes.shape
        g1, g2 = _conv(self.compute_g1.g1), _conv(self.compute_g1.g2)
        bilinear = g1.weight.flatten(1).T @ g2.weight.flatten(1)
        # The second bias is without effect; it stands here to have a gradient, of zero, as every parameter has.
        offset = cast(Tensor, g1.bias) @ g2.weight.flatten(1) + 0 * cast(Tensor, g2.bias).sum()
        query = codes @ bilinear[size:] + offset
        spread, own, shift = self.gcn1.weights()
        weight = torch.cat([bilinear[:size, :size], bilinear[:size, size:] @ codes.T, spread[:size], own[:size]], 1)
        bias = [query[:, :size], query[:, size:] @ codes.T, codes @ spread[size:], codes @ own[size:] + shift]
        x = dynamics @ weight + torch.cat(bias, 1)
        query, scores, neighbours, x = x.split([size, joints, len(shift), len(shift)], -1)
        graph = torch.baddbmm(scores, query, dynamics.transpose(1, 2)).softmax(-1)
        x = torch.baddbmm(x, graph, neighbours)
        return F.relu(batch_norm(x[None], self.gcn1.bn).view_as(x)), graph

    def _over_poses(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B F"]:
        """Two convolutions over the poses, and the maximum over them."""
        cnn = self.cnn
        x = F.relu(over_time(x[:, None], cast(nn.Conv2d, cnn.cnn1), cast(nn.BatchNorm2d, cnn.bn1)))
        if self.training:
            x = x * cast(Dropout, cnn.dropout)(x.new_ones(len(x), 1, 1, x.shape[-1]))
        x = F.relu(pointwise(x, cast(nn.Conv2d, cnn.cnn2), cast(nn.BatchNorm2d, cnn.bn2)))
        return x.flatten(1, 2).amax(1)


def _pointwise(inside: int, outside: int, bias: bool = True) -> nn.Module:
    """A 1x1 convolution under the authors' name."""
    named = nn.Module()
    named.cnn = nn.Conv2d(inside, outside, 1, bias=bias)
    return named


def _conv(named: object) -> nn.Conv2d:
    return cast(nn.Conv2d, cast(nn.Module, named).cnn)


class _Embedding(nn.Module):
    """Two 1x1 convolutions, each with a ReLU; of positions or velocities after a batch norm, or of one-hot codes."""

    def __init__(self, inside: int, narrow: int, outside: int, norm: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = [_pointwise(inside, narrow), nn.ReLU(), _pointwise(narrow, outside), nn.ReLU()]
        if norm:
            layers.insert(0, nn.Module())
            layers[0].bn = nn.BatchNorm1d(norm)
        self.cnn = nn.Sequential(*layers)

    def codes(self) -> Float[Tensor, "L E"]:
        """The embedding of every one-hot code: the first product only picks columns of the weight."""
        first, second = _conv(self.cnn[0]), _conv(self.cnn[2])
        x = F.relu(first.weight.flatten(1).T + cast(Tensor, first.bias))
        return F.relu(F.linear(x, second.weight.flatten(1), second.bias))

    def normalised(self, xyz: Float[Tensor, "P V C"]) -> Float[Tensor, "P V C"]:
        """Batch norm with statistics of each joint and coordinate, coordinate-major."""
        norm = cast(nn.BatchNorm1d, self.cnn[0].bn)
        by_coordinate = xyz.transpose(1, 2)
        return norm(by_coordinate.flatten(1)).view(by_coordinate.shape).transpose(1, 2)


class _GraphLayer(nn.Module):
    """``G x W + x W1 + b`` and its batch norm; the ReLU is left to the caller."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(outside)
        self.w, self.w1 = _pointwise(inside, outside, bias=False), _pointwise(inside, outside)

    def weights(self) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C D"], Float[Tensor, " D"]]:
        """What multiplies the neighbours' mean and the joint itself, and what is added, batch norm inside."""
        scale, shift = scale_and_shift(self.bn)
        neighbours, own = _conv(self.w), _conv(self.w1)
        spread, kept = ((conv.weight.flatten(1) * scale[:, None]).T for conv in (neighbours, own))
        return spread, kept, cast(Tensor, own.bias) * scale + shift

    def forward(self, x: Float[Tensor, "P V C"], graph: Float[Tensor, "P V V"]) -> Float[Tensor, "P V D"]:
        spread, kept, shift = self.weights()
        y = torch.addmm(shift, x.flatten(0, 1), kept)
        y = torch.addmm(y, torch.bmm(graph, x).flatten(0, 1), spread)
        return batch_norm(y.view(1, *x.shape[:2], len(shift)), self.bn).flatten(0, 1)
