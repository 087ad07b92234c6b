"""SkateFormer: attention inside four kinds of skeletal-temporal partitions (Do and Kim, ECCV 2024)."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.body_parts import body_parts
from funnybone.models.graphs import graph_of
from funnybone.models.layers import Dropout, over_time
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

TEMPORAL_KERNEL = 7
# Width of each stage as a multiple of the first's; each has two blocks, and all but the first halve the frames.
STAGES = (1, 2, 2, 2)
BLOCKS = 2
HALVINGS = 2 ** (len(STAGES) - 1)


@register_model("skateformer")
class SkateFormer(Model):
    """Eight transformer blocks over joints and frames; attention stays inside partitions of four kinds.

    A partition joins neighbouring or distant joints (a body part, or the same place in every part) with neighbouring
    or distant frames. The persons' joints stand side by side on one axis, so their order matters. The layers and their
    names are those of the authors' released network, so its checkpoints load as they are: also where its code departs
    from its paper (the scale of the attention, and the bias of neighbouring joints: see `_Attention`).

    The network works on ``length`` frames. A clip of any other length T >= 1 is first resized to that by linear
    interpolation, inside the network and differentiably, as the authors' feeder does outside. The whole clip counts,
    also empty frames at its end; of a clip of more than twice ``length`` frames some are between those that are taken.
    A clip of ``length`` frames is left as it is. The times of the frames that come out, from -1 to 1, are what the time
    embedding codes.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; `body_parts` says how they are grouped, and which of NTU25 is left out.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that clips have; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first stage (the authors' 96), a multiple of ``heads``; the others are twice as wide.
    heads : int
        Heads (the authors' 32), a multiple of 8: an eighth of them for each kind of partition, a quarter of them groups
        of the graph convolution and of the convolution over time.
    length : int
        Frames inside the network, a multiple of eight windows.
    window : int
        Frames of a partition.
    mlp_ratio : float
        Width of the feed-forward layers as a multiple of the block's (the authors' 4 on NTU, 1 on NW-UCLA).
    attn_drop, drop, head_drop : float
        Shares dropped in training: of attention, of what layers put out, and of the features.
    drop_path : float
        Share of clips for which the last block is left out in training; the earlier a block, the smaller its share.
    graph : str
        ``"skeleton"``, or ``"ntu25"`` for NTU's parts on any 25 joints, as published attack code uses on HDM05.

    References
    ----------
    Do, Kim, "SkateFormer: Skeletal-Temporal Transformer for Human Action Recognition", ECCV 2024, section 3; sizes,
    joint order and regularisation are those of the released code.

    Examples
    --------
    >>> net = SkateFormer(num_classes=14, persons=2, width=16, heads=8, length=16, window=2).eval()
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
        width: int = 96,
        heads: int = 32,
        length: int = 64,
        window: int = 8,
        mlp_ratio: float = 4.0,
        attn_drop: float = 0.5,
        drop: float = 0.0,
        head_drop: float = 0.0,
        drop_path: float = 0.2,
        graph: str = "skeleton",
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        _check(width, heads, length, window, mlp_ratio, drop_path)
        self.length = length
        if graph == "ntu25":
            graph_of(skeleton, graph)  # refuses other than 25 joints
            skeleton = NTU25
        elif graph != "skeleton":
            raise DataError(f"SkateFormer: graph is {graph!r}", hint="it is 'skeleton' or 'ntu25'")
        parts = body_parts(skeleton)
        self.register_buffer("order", torch.tensor([joint for part in parts for joint in part]), persistent=False)
        # Two persons' neighbours are two parts, as released: both arms, both legs, the trunk.
        neighbours = len(parts[0]) * (2 if persons > 1 and len(parts) % 2 == 0 else 1)
        sizes, points = (window, neighbours, len(parts) * persons), len(parts) * len(parts[0]) * persons
        first, second = nn.Conv2d(in_channels, 2 * in_channels, 1), nn.Conv2d(2 * in_channels, 3 * in_channels, 1)
        third = nn.Conv2d(3 * in_channels, width, 1)
        self.stem = nn.ModuleList([first, nn.GELU(), second, nn.GELU(), third])
        self.joint_person_embedding = _small_normal(width, points)
        shares = torch.linspace(0, drop_path, BLOCKS * len(STAGES)).tolist()
        stages, channels = [], width
        for index, wide in enumerate(STAGES):
            stage = nn.Module()
            stage.blocks = nn.ModuleList()
            for path in shares[BLOCKS * index :][:BLOCKS]:
                halving = _Halving(channels, wide * width) if index and not len(stage.blocks) else None
                channels = wide * width
                mixer = _Transformer(channels, points, heads, sizes, mlp_ratio, attn_drop, drop, path)
                stage.blocks.append(_Block(halving, mixer))
            stages.append(stage)
        self.stages = nn.ModuleList(stages)
        self.dropout = Dropout(head_drop)
        self.head = nn.Linear(channels, num_classes)

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        block = "stages.0.blocks.0.transformer."
        steps, ways = f"{block}attention.0.relative_position_bias_table", f"{block}gconv"
        if not {"joint_person_embedding", "stem.0.weight", "head.weight", steps, ways} <= state.keys():
            return None
        width = len(state["joint_person_embedding"])
        return {
            "num_classes": len(state["head.weight"]),
            "in_channels": state["stem.0.weight"].shape[1],
            "width": width,
            "heads": 4 * len(state[ways]),
            "window": (len(state[steps]) + 1) // 2,
            "mlp_ratio": len(state[f"{block}mlp.fc1.weight"]) / width,
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The mean over frames, joints and persons of the last block's output.

        Examples
        --------
        >>> net = SkateFormer(width=8, heads=8, length=8, window=1).eval()
        >>> net.features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 16])
        """
        self.check(xyz, present)
        x = self._embed(xyz)
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage.blocks):
                x = block(x)
        return self.dropout(x.mean((1, 2))[:, None, None])[:, 0, 0]

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return self.head(features)

    def _embed(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N S P D"]:
        """Points of all persons at the network's frames, with their place and time."""
        x = xyz.index_select(3, cast(Tensor, self.order)).transpose(1, 2).flatten(2, 3)
        at = frame_positions(xyz, self.length)
        if xyz.shape[2] != self.length:
            before = at.long()
            after = (before + 1).clamp(max=xyz.shape[2] - 1)
            x = torch.lerp(x.index_select(1, before), x.index_select(1, after), (at - before)[:, None, None])
        for layer in self.stem:
            x = F.linear(x, layer.weight.flatten(1), layer.bias) if isinstance(layer, nn.Conv2d) else F.gelu(x)
        place = self.joint_person_embedding.T
        return x + _time_code(2 * at / xyz.shape[2] - 1, len(self.joint_person_embedding))[:, None] * place


def frame_positions(xyz: Float[Tensor, "N M T V C"], length: int) -> Float[Tensor, " length"]:
    """Where in a clip the frames lie that resizing it to ``length`` frames interpolates.

    Examples
    --------
    >>> frame_positions(torch.zeros(1, 1, 4, 25, 3), 8)
    tensor([0.0000, 0.2500, 0.7500, 1.2500, 1.7500, 2.2500, 2.7500, 3.0000])
    """
    frames = xyz.shape[2]
    middles = torch.arange(length, dtype=xyz.dtype, device=xyz.device) + 0.5
    return (middles * (frames / length) - 0.5).clamp(0, frames - 1)


def _check(width: int, heads: int, length: int, window: int, mlp_ratio: float, drop_path: float) -> None:
    """Raise `DataError` for sizes that the partitions do not divide."""
    if heads < 8 or heads % 8:
        raise DataError(f"SkateFormer: heads is {heads}", hint="give a multiple of 8")
    if width < heads or width % heads:
        raise DataError(f"SkateFormer: width is {width}", hint=f"give a multiple of heads, {heads}")
    if length < 1 or length % (HALVINGS * window):
        hint = f"give a multiple of {HALVINGS * window}: frames are halved three times, then cut into windows"
        raise DataError(f"SkateFormer: length is {length}", hint=hint)
    if int(mlp_ratio * width) < 1:
        raise DataError(f"SkateFormer: mlp_ratio is {mlp_ratio}", hint="give a number above 0")
    if not 0 <= drop_path < 1:
        raise DataError(f"SkateFormer: drop_path is {drop_path}", hint="give a share from 0 to below 1")


def _small_normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _time_code(times: Float[Tensor, " T"], width: int) -> Float[Tensor, "T D"]:
    """Sines and cosines of each time in turn, with frequencies from 1 down to nearly 1e-4."""
    frequencies = torch.exp(
        torch.arange(0, width, 2, dtype=times.dtype, device=times.device) * (-math.log(1e4) / width)
    )
    angles = times[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


class _Halving(nn.Module):
    """A convolution over time with stride 2, and batch norm."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(inside, outside, (TEMPORAL_KERNEL, 1), (2, 1), (TEMPORAL_KERNEL // 2, 0))
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Float[Tensor, "N T V C"]) -> Float[Tensor, "N S V D"]:
        return over_time(x, self.reduction, self.bn)


class _Block(nn.Module):
    """Half the frames, in the first block of a stage; then the transformer."""

    def __init__(self, downsample: _Halving | None, transformer: "_Transformer") -> None:
        super().__init__()
        self.downsample, self.transformer = downsample, transformer

    def forward(self, x: Float[Tensor, "N T V C"]) -> Float[Tensor, "N S V D"]:
        return self.transformer(x if self.downsample is None else self.downsample(x))


class _DropPath(nn.Module):
    """In training, zero for this share of the clips, and more of the others for it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Float[Tensor, "N T V C"]) -> Float[Tensor, "N T V C"]:
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.share
        return x * (kept / (1 - self.share)).to(x.dtype)


class _Attention(nn.Module):
    """The bias of attention between two points of a partition, by how many frames lie between them.

    Distant joints (``distant``) have a table for each pair of joints as well. That of neighbouring joints is laid out
    as in the released code, and its checkpoints need that: entry (p, q) of the partition's points, which are listed
    frame by frame, is that of p mod window and q mod window. With eight joints and eight frames that is the distance
    between two *joints*; the paper means the distance between frames.
    """

    def __init__(self, window: int, joints: int, heads: int, distant: bool) -> None:
        super().__init__()
        places = (joints, joints) if distant else ()
        self.relative_position_bias_table = _small_normal(2 * window - 1, *places, heads)
        frames = torch.arange(window)
        self.register_buffer("relative_position_index", frames[:, None] - frames + window - 1)
        self.joints, self.distant = joints, distant

    def bias(self) -> Float[Tensor, "h P P"]:
        table = self.relative_position_bias_table[cast(Tensor, self.relative_position_index)]
        if self.distant:
            return table.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)
        return table.permute(2, 0, 1).repeat(1, self.joints, self.joints)


def _plain(rows: Tensor, training: bool) -> bool:
    """Whether attention is computed as it is written, because dropout, autocast or an exporter must see its steps."""
    seen = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return training or seen or torch.is_autocast_enabled(rows.device.type)


def _mix(rows: Float[Tensor, "B P 3 e"], bias: Float[Tensor, "K h P P"], drop: nn.Module) -> Float[Tensor, "B P e"]:
    """Attention of queries, keys and values within each partition and head; rows run over (kind, partition, head)."""
    query, key, value = rows.unbind(2)
    scores = torch.bmm(query, key.transpose(1, 2)).unflatten(0, (len(bias), -1, bias.shape[1])) + bias[:, None]
    return torch.bmm(drop(scores.softmax(-1).flatten(1, 2)).flatten(0, 1), value)


class _Mix(torch.autograd.Function):
    """`_mix` without dropout, with a cheaper way back.

    Heads are three or six channels wide, so time goes into moving matrices of weights. Here fewer are made, and narrow
    products are taken in the order that leaves the long side contiguous.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bias: Tensor) -> Tensor:
        query, key, value = rows.unbind(2)
        scores = torch.bmm(query, key.transpose(1, 2))
        scores.unflatten(0, (len(bias), -1, bias.shape[1])).add_(bias[:, None])
        weights = scores.softmax(-1)
        mixed = torch.bmm(weights, value)
        ctx.save_for_backward(rows, bias, weights, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, bias, weights, mixed = ctx.saved_tensors
        (gradient,) = gradients
        if torch.is_grad_enabled():  # somebody differentiates twice: go through the plain form
            wanted = [tensor for tensor in (rows, bias) if tensor.requires_grad]
            found = iter(torch.autograd.grad(_mix(rows, bias, nn.Identity()), wanted, gradient, create_graph=True))
            to_rows, to_bias = (next(found) if tensor.requires_grad else None for tensor in (rows, bias))
            return to_rows, to_bias
        query, key, value = rows.unbind(2)
        back = torch.bmm(gradient, value.transpose(1, 2))
        back.sub_((gradient * mixed).sum(-1, keepdim=True)).mul_(weights)
        to_key = torch.bmm(query.transpose(1, 2).contiguous(), back).transpose(1, 2)
        to_value = torch.bmm(gradient.transpose(1, 2).contiguous(), weights).transpose(1, 2)
        to_rows = torch.stack([torch.bmm(back, key), to_key, to_value], 2)
        return to_rows, back.unflatten(0, (len(bias), -1, bias.shape[1])).sum(1) if ctx.needs_input_grad[1] else None


class _Transformer(nn.Module):
    """Graph convolution, convolution over time and attention side by side on shares of the channels; then a mixer.

    Of the mapped channels, twice as many as come in, an eighth goes to each convolution, in groups, and three
    sixteenths to each kind of attention, as queries, keys and values.
    """

    def __init__(
        self,
        channels: int,
        points: int,
        heads: int,
        sizes: tuple[int, int, int],
        mlp_ratio: float,
        attn_drop: float,
        drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window, self.neighbours, self.distant = sizes
        self.heads = heads // 8
        self.norm_1 = nn.LayerNorm(channels)
        self.mapping = nn.Linear(channels, 2 * channels)
        self.gconv = _small_normal(heads // 4, points, points)
        padding = (TEMPORAL_KERNEL // 2, 0)
        share = channels // 4
        self.tconv = nn.Conv2d(share, share, (TEMPORAL_KERNEL, 1), padding=padding, groups=heads // 4)
        self.attention = nn.ModuleList(
            _Attention(self.window, self.distant if distant else self.neighbours, self.heads, distant)
            for distant in (False, True, False, True)
        )
        self.proj = nn.Linear(channels, channels)
        self.norm_2 = nn.LayerNorm(channels)
        hidden = int(mlp_ratio * channels)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, hidden), "fc2": nn.Linear(hidden, channels)})
        self.attn_drop, self.drop, self.drop_path = Dropout(attn_drop), Dropout(drop), _DropPath(drop_path)

    def forward(self, x: Float[Tensor, "N T V C"]) -> Float[Tensor, "N T V C"]:
        share = x.shape[-1] // 4
        # Cut once into all parts, so that the way back puts their gradients together once.
        sizes = [share, share, *(4 * [3 * share // 2])]
        joints, frames, *parts = F.linear(self.norm_1(x), *self._mapping()).split(sizes, -1)
        near = self._attend(parts[:2], self.neighbours, False)
        far = self._attend(parts[2:], self.distant, True)
        y = torch.cat([self._over_joints(joints), self._over_time(frames), near[0], far[0], near[1], far[1]], -1)
        x = x + self.drop_path(self.drop(self.proj(y)))
        y = self.drop(F.gelu(self.mlp["fc1"](self.norm_2(x))))
        return x + self.drop_path(self.drop(self.mlp["fc2"](y)))

    def _mapping(self) -> tuple[Float[Tensor, "E C"], Float[Tensor, " E"]]:
        """Weight and bias of the mapping with rows in the order (reach over joints, reach over time, head, q k v).

        The queries' scale is inside: one over the square root of the number of heads, not of a head's width, as in the
        released code.
        """
        scale = self.mapping.weight.new_tensor([self.heads**-0.5, 1, 1])[:, None, None, None]
        rows = []
        for tensor in (self.mapping.weight, self.mapping.bias):
            kept, moved = tensor.view(len(tensor), -1).tensor_split([len(tensor) // 4])
            moved = moved.view(2, 2, 3, self.heads, -1, moved.shape[-1]) * scale
            rows.append(torch.cat([kept, moved.permute(1, 0, 3, 2, 4, 5).flatten(0, 4)]))
        return rows[0], rows[1].flatten()

    def _over_joints(self, x: Float[Tensor, "N T V E"]) -> Float[Tensor, "N T V E"]:
        """Each group of channels times its matrix over joints."""
        groups = x.unflatten(-1, (len(self.gconv), -1)).permute(3, 2, 0, 1, 4)
        return torch.bmm(self.gconv, groups.flatten(2)).view(groups.shape).permute(2, 3, 1, 0, 4).flatten(3)

    def _over_time(self, x: Float[Tensor, "N T V E"]) -> Float[Tensor, "N T V E"]:
        """The convolution over time, in groups."""
        conv = self.tconv
        y = F.conv2d(
            x.permute(0, 3, 1, 2), conv.weight, conv.bias, 1, cast(tuple[int, int], conv.padding), 1, conv.groups
        )
        return y.permute(0, 2, 3, 1)

    def _attend(self, parts: Sequence[Float[Tensor, "N T V E"]], joints: int, distant: bool) -> list[Tensor]:
        """Attention between neighbouring frames, and between distant ones: partitions of one shape, in one product."""
        windows = torch.stack([self._windows(part, joints, distant, far) for far, part in enumerate(parts)])
        bias = torch.stack([cast(_Attention, self.attention[kind]).bias() for kind in (distant, distant + 2)])
        width = windows.shape[-1] // 3
        rows = windows.flatten(5, 6).flatten(0, 4).unflatten(2, (3, width))
        if _plain(rows, self.training):
            mixed = _mix(rows, bias, self.attn_drop)
        else:
            mixed = cast(Tensor, _Mix.apply(rows, bias))
        mixed = mixed.view(*windows.shape[:-1], width)
        return [self._points(part, distant, far) for far, part in enumerate(mixed)]

    def _windows(
        self, x: Float[Tensor, "N T V E"], joints: int, distant: bool, far: int
    ) -> Float[Tensor, "N A B h W J e"]:
        """Points by partition: windows over time, windows over joints, heads; frames and joints inside of them."""
        x = x.unflatten(3, (self.heads, -1))
        x = x.unflatten(2, (joints, -1)).transpose(2, 3) if distant else x.unflatten(2, (-1, joints))
        x = x.unflatten(1, (self.window, -1)).transpose(1, 2) if far else x.unflatten(1, (-1, self.window))
        return x.permute(0, 1, 3, 5, 2, 4, 6)

    def _points(self, x: Float[Tensor, "N A B h W J e"], distant: bool, far: int) -> Float[Tensor, "N T V E"]:
        """The way back from `_windows`."""
        x = x.permute(0, 1, 4, 2, 5, 3, 6)
        x = x.transpose(1, 2) if far else x
        x = x.transpose(3, 4) if distant else x
        return x.flatten(5).flatten(3, 4).flatten(1, 2)
