"""Graph convolutions over many hop distances at once, in space and in windows of frames: the parts of MS-G3D."""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from funnybone.models.graphs import Graph, hop_distances
from funnybone.models.layers import batch_norm, folded

# Numbers in the intermediate of one block of frames. All frames at once would be faster in theory, but the system takes
# longer to hand out that much fresh memory than the products take; one block's stays in the cache and is used again.
BLOCK = 1_000_000


def hop_matrices(graph: Graph, scales: int, window: int = 1) -> Float[Tensor, "K P P"]:
    """The graph of each exact hop distance k < ``scales`` with self-loops, as ``D^-1/2 A D^-1/2``.

    A window's P nodes are its frames' joints, frame after frame. All frames are linked to all: two nodes are as far
    apart as their joints, and a joint is one hop from itself in another frame. Where no joints are k hops apart only
    the self-loops are left, which is the identity.

    Examples
    --------
    >>> from funnybone.models.graphs import graph_of
    >>> from funnybone.skeletons import NTU25
    >>> (hop_matrices(graph_of(NTU25), 4) > 0).sum((1, 2))
    tensor([25, 73, 79, 85])
    """
    nodes = torch.eye(window * graph.joints, dtype=torch.bool)
    distances = hop_distances(graph, max(scales - 1, 1)).repeat(window, window)
    distances[(distances == 0) & ~nodes] = 1
    linked = torch.stack([(distances == hop) | nodes for hop in range(scales)]).float()
    # The roots in float32, as the authors': their matrices are nearer to these than to the rounded exact ones.
    root = 1 / linked.sum(2).sqrt()
    return root[:, :, None] * linked * root[:, None, :]


class MultiScale(nn.Module):
    """``relu(sum_k A_k x W_k + b)`` over the nodes of windows of frames, each A_k with a learned mask added.

    A_k is contracted over its second index. Windows are centred at every ``stride``-th frame, with zeros around the
    clip.

    Parameters
    ----------
    inside, outside : int
        Channels.
    hops : Tensor
        The fixed part of all A_k, from `hop_matrices`.
    joints : int
        Nodes of one frame.

    References
    ----------
    Liu et al., "Disentangling and Unifying Graph Convolutions for Skeleton-Based Action Recognition", CVPR 2020,
    sections 3.2 (one frame) and 3.3 (windows).

    Examples
    --------
    >>> from funnybone.models.graphs import graph_of
    >>> from funnybone.skeletons import NTU25
    >>> conv = MultiScale(4, 6, hop_matrices(graph_of(NTU25), 2, window=3), 25).eval()
    >>> conv(torch.zeros(1, 10, 25, 4), stride=2)[:, :5].shape
    torch.Size([1, 5, 25, 18])
    """

    def __init__(self, inside: int, outside: int, hops: Float[Tensor, "K P P"], joints: int) -> None:
        super().__init__()
        self.scales, self.joints, self.window = len(hops), joints, hops.shape[1] // joints
        self.hops: Tensor
        self.register_buffer("hops", hops.flatten(0, 1), persistent=False)
        self.A_res = nn.Parameter(torch.empty_like(self.hops).uniform_(-1e-6, 1e-6))
        self.mlp = nn.Module()
        self.mlp.layers = nn.ModuleList([nn.Conv2d(inside * self.scales, outside, 1), nn.BatchNorm2d(outside)])

    def forward(self, x: Float[Tensor, "B T V C"], stride: int = 1) -> Float[Tensor, "B S V D"]:
        """What each window's nodes hold: for each joint its ``window`` frames' channels side by side.

        In evaluation mode windows that reach beyond the clip may follow those asked for; only the first
        ``ceil(T / stride)`` mean something.
        """
        layers = cast(nn.ModuleList, self.mlp.layers)
        conv, norm = cast(nn.Conv2d, layers[0]), cast(nn.BatchNorm2d, layers[1])
        weight, bias = folded(conv, norm)
        weight = weight.view(len(bias), self.scales, -1)
        graph = (self.hops + self.A_res).view(self.scales, self.window, self.joints, self.window, self.joints)
        # Rows (joint, frame): what comes out is already the left factor of the product that collapses the window.
        graph = graph.permute(2, 1, 3, 4, 0).flatten(2, 3).flatten(0, 1)
        margin = self.window // 2
        each = -(-(x.shape[1] + margin) // stride)  # windows for each clip, those across two clips included
        frames = _strip(x, margin, each * stride)
        # Where the graph trains its gradient is one product joints first, and one for each window channels first.
        trains = torch.is_grad_enabled() and any(part.requires_grad for part in (graph, weight, bias))
        multiply = _joints_first if trains or x.shape[3] < len(bias) else _channels_first
        y = multiply(frames, graph, weight, bias, stride, len(x) * each)
        y = y.view(len(x), each, -1, len(bias))
        if norm.training:
            y = batch_norm(y[:, : -(-x.shape[1] // stride)].contiguous(), norm)
        return F.relu(y).unflatten(2, (self.joints, self.window)).flatten(3)


def _strip(x: Float[Tensor, "B T V C"], margin: int, length: int) -> Float[Tensor, "F V C"]:
    """All clips on one strip, ``length`` frames each with the zeros behind it, and ``margin`` zeros at either end."""
    if not margin and length == x.shape[1]:
        return x.flatten(0, 1)
    apart = F.pad(x, (0, 0, 0, 0, 0, length - x.shape[1])).flatten(0, 1)
    return F.pad(apart, (0, 0, 0, 0, margin, margin))


def _cells(frames: Float[Tensor, "F V C"], window: int, stride: int, count: int) -> Float[Tensor, "N Q C"]:
    """Overlapping windows as a view: the frames of a window lie one after the other in memory."""
    return frames.unfold(0, window, stride)[:count].permute(0, 3, 1, 2).flatten(1, 2)


def _joints_first(
    frames: Float[Tensor, "F V C"],
    graph: Float[Tensor, "P Q K"],
    weight: Float[Tensor, "O K C"],
    bias: Float[Tensor, " O"],
    stride: int,
    count: int,
) -> Float[Tensor, "N P O"]:
    """One product over joints while there are few channels, then one over channels."""
    (nodes, cells, _), channels = graph.shape, frames.shape[2]
    spread = graph.permute(0, 2, 1).flatten(0, 1)
    source = _cells(frames, cells // frames.shape[1], stride, count)
    if channels < 8:  # too narrow for a product of each window
        source = source.transpose(1, 2).reshape(count * channels, cells)
        mixed = (source @ spread.T).view(count, channels, -1).transpose(1, 2)
    else:
        mixed = torch.bmm(spread.expand(count, -1, -1), source)
    return F.linear(mixed.reshape(count, nodes, -1), weight.flatten(1), bias)


def _channels_first(
    frames: Float[Tensor, "F V C"],
    graph: Float[Tensor, "P Q K"],
    weight: Float[Tensor, "O K C"],
    bias: Float[Tensor, " O"],
    stride: int,
    count: int,
) -> Float[Tensor, "N P O"]:
    """One product over the channels of frames, of which there are fewer than cells of windows; then one over joints."""
    window = graph.shape[1] // frames.shape[1]
    left, right = graph.flatten(1), weight.permute(2, 1, 0).flatten(1)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        spread = (frames @ right).view(len(frames), -1, len(bias))
        return torch.bmm(left.expand(count, -1, -1), _cells(spread, window, stride, count)) + bias
    if torch.is_autocast_enabled(frames.device.type):
        dtype = torch.get_autocast_dtype(frames.device.type)
        frames, left, right, bias = (part.to(dtype) for part in (frames, left, right, bias))
    product = _Product(left, right, window, stride, len(frames), count)
    return cast(Tensor, _Linear.apply(frames, bias, product, False))


class _Product(NamedTuple):
    """The linear map of `_channels_first` with fixed weights, and its adjoint, block by block of frames.

    Parameters
    ----------
    left, right : Tensor
        (nodes, window * V * K) and (C, K * O).
    window, stride : int
        Frames in a window, and from one to the next.
    frames, windows : int
        Frames on the strip, and windows.
    """

    left: Tensor
    right: Tensor
    window: int
    stride: int
    frames: int
    windows: int

    def there(self, frames: Tensor, bias: Tensor | None) -> Tensor:
        """From frames to windows: channels, then joints."""
        rows, inside = self._rows(), len(self.right)
        outside = self.right.shape[1] * frames.shape[1] // rows
        out = frames.new_empty(self.windows, len(self.left), outside)
        step = self._step(rows * outside)
        block = frames.new_empty(self.stride * (step - 1) + self.window, rows, outside)
        for first in range(0, self.windows, step):
            some = min(step, self.windows - first)
            length = self.stride * (some - 1) + self.window
            source = frames[self.stride * first :][:length].reshape(-1, inside)
            torch.mm(source, self.right, out=block[:length].view(len(source), -1))
            cells = _cells(block[:length], self.window, self.stride, some)
            torch.bmm(self.left.expand(some, -1, -1), cells, out=out[first : first + some])
            if bias is not None:
                out[first : first + some].add_(bias)
        return out

    def back(self, windows: Tensor) -> Tensor:
        """From windows to frames: joints, then channels.

        Frames come in groups of ``stride``. A group is in the ``reach`` windows that start at it or before, so this is
        a product over windows of windows.
        """
        rows, (inside, columns), outside = self._rows(), self.right.shape, windows.shape[2]
        reach, groups = -(-self.window // self.stride), -(-self.frames // self.stride)
        left = self.left.view(len(self.left), self.window, rows)
        left = F.pad(left, (0, 0, 0, reach * self.stride - self.window)).unflatten(1, (reach, self.stride))
        left = left.flip(1).permute(2, 3, 1, 0).reshape(self.stride * rows, -1)
        padded = F.pad(windows, (0, 0, 0, 0, reach - 1, groups - self.windows))
        out = windows.new_empty(groups * self.stride, rows * outside // columns, inside)
        step = self._step(rows * outside)
        block = windows.new_empty(step, len(left), outside)
        for first in range(0, groups, step):
            some = min(step, groups - first)
            cells = _cells(padded[first:], reach, 1, some)
            torch.bmm(left.expand(some, -1, -1), cells, out=block[:some])
            target = out[self.stride * first : self.stride * (first + some)]
            torch.mm(block[:some].view(-1, columns), self.right.T, out=target.view(-1, inside))
        return out[: self.frames]

    def _rows(self) -> int:
        return self.left.shape[1] // self.window

    def _step(self, size: int) -> int:
        """Windows in a block; on an accelerator all of them."""
        return max(1, BLOCK // (size * self.stride)) if self.left.device.type == "cpu" else self.windows


class _Linear(torch.autograd.Function):
    """A linear map of which the adjoint is known, so that it can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, product: _Product, adjoint: bool) -> Tensor:
        ctx.product, ctx.adjoint = product, adjoint
        return product.back(x.contiguous()) if adjoint else product.there(x.contiguous(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Linear.apply(gradients[0], None, ctx.product, not ctx.adjoint), None, None, None
