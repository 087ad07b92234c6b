"""Parts that several families are built of; activations are (rows, T, V, C), the channel last.

In evaluation mode batch norm is folded into the weights of the layer before it, which is exact; while it trains, it
runs where it stands. So a family keeps the authors' modules, and with them their keys, and calls these functions on
them.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from funnybone.errors import DataError


class Dropout(nn.Module):
    """Dropout from eight random bits for each number; PyTorch's draws one float at a time, a tenth of a training step.

    The share is rounded to a 256th.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.kept = round(256 * (1 - share))
        if not 0 < self.kept <= 256:
            raise DataError(f"dropout is {share}", hint="give a share from 0 to below 1")

    def forward(self, y: Float[Tensor, "B S V D"]) -> Float[Tensor, "B S V D"]:
        if not self.training or self.kept == 256:
            return y
        words = torch.empty(y.numel() // 8 + 1, dtype=torch.int64, device=y.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: y.numel()].view(y.shape) < self.kept
        return y * (kept * (256 / self.kept)).to(y.dtype)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """What batch norm does to each channel in evaluation mode; one and zero while it trains."""
    if norm.training:
        return torch.ones_like(norm.weight), torch.zeros_like(norm.bias)
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with the following batch norm inside, where that does not train."""
    scale, shift = scale_and_shift(norm)
    weight = conv.weight * scale[:, None, None, None]
    return weight, shift if conv.bias is None else conv.bias * scale + shift


def batch_norm(y: Float[Tensor, "B T V D"], norm: nn.BatchNorm2d) -> Float[Tensor, "B T V D"]:
    """Batch norm while it trains; otherwise it is already in the weights of the layer before."""
    return norm(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if norm.training else y


def pointwise(x: Float[Tensor, "B T V C"], conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Float[Tensor, "B S V D"]:
    """A 1x1 convolution, with its stride over time, and the batch norm after it."""
    weight, bias = folded(conv, norm)
    return batch_norm(F.linear(x[:, :: conv.stride[0]], weight.flatten(1), bias), norm)


def over_time(x: Float[Tensor, "B T V C"], conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Float[Tensor, "B S V D"]:
    """A convolution over time and the batch norm after it."""
    weight, bias = folded(conv, norm)
    padding, dilation = cast(tuple[int, int], conv.padding), cast(tuple[int, int], conv.dilation)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, conv.stride, padding, dilation)
    return batch_norm(y.permute(0, 2, 3, 1), norm)


def present_of(xyz: Float[Tensor, "N M T V C"], said: Bool[Tensor, "N M T"] | None = None) -> Bool[Tensor, "N M T"]:
    """Who is there when: as it is said, or else wherever any number is not zero.

    Examples
    --------
    >>> present_of(torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1))
    tensor([[[ True, False]]])
    """
    return (xyz != 0).flatten(3).any(3) if said is None else said


def present_first(present: Bool[Tensor, "N L"]) -> Int[Tensor, "N L"]:
    """For each row the places of what is present, in order, and then those of what is not.

    Examples
    --------
    >>> present_first(torch.tensor([[False, True, False, True]]))
    tensor([[1, 3, 0, 2]])
    """
    # Each key occurs once: a stable sort of the flags would do the same, but exporters do not know it.
    places = torch.arange(present.shape[1], device=present.device)
    return torch.where(present, places, places + present.shape[1]).argsort(1)


def norm_slots(xyz: Float[Tensor, "N M T V C"], norm: nn.BatchNorm1d) -> Float[Tensor, "B T V C"]:
    """Batch norm with statistics of each person slot, joint and coordinate, in this order; persons then become rows."""
    by_frame = xyz.transpose(1, 2)
    return norm(by_frame.flatten(2).flatten(0, 1)).view(by_frame.shape).transpose(1, 2).flatten(0, 1)


def share_absent_slots(
    xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None, share: bool = True
) -> tuple[Float[Tensor, "N M T V C"], Int[Tensor, " R"], Int[Tensor, "N M"]]:
    """The clips, the rows (of N times M) to compute, and for each person the place among these of the one for it.

    An absent person is the same in every clip, so the first in a slot serves all; slots are kept apart, since some
    networks normalise each by itself. Exact in evaluation mode, but for the gradient at absent persons, which is zero
    here: no attack may move them. In training mode batch norm counts a slot's absent persons once for each batch, not
    once for each clip, and they share one dropout mask. Where that is not wanted, ``share`` is false.

    Examples
    --------
    >>> xyz = torch.ones(3, 2, 1, 1, 1)
    >>> xyz[1:, 1] = 0
    >>> share_absent_slots(xyz)[1:]
    (tensor([0, 1, 2, 3, 4]), tensor([[0, 1], [2, 3], [4, 3]]))
    """
    own = torch.arange(xyz.shape[0] * xyz.shape[1], device=xyz.device).view(xyz.shape[:2])
    # An exported graph cannot depend on who is present.
    if not share or torch.compiler.is_compiling() or torch.jit.is_tracing() or not len(xyz):
        return xyz, own.flatten(), own
    ever = present_of(xyz, present).any(2)
    first = own.masked_fill(ever, own.numel()).amin(0)
    kept, places = torch.where(ever, own, first).unique(return_inverse=True)
    return torch.where(ever[:, :, None, None, None], xyz, 0), kept, places


def share_absent(
    xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
) -> tuple[Float[Tensor, "R T V C"], Bool[Tensor, "R T"], Int[Tensor, " B"]]:
    """Rows to compute, when each is present, and for each of N times M persons the row for it.

    It is `share_absent_slots` where all slots are alike: one absent person serves all.

    Examples
    --------
    >>> rows, _, places = share_absent(torch.tensor([0.0, 3.0, 0.0]).view(3, 1, 1, 1, 1))
    >>> rows.flatten(), places
    (tensor([0., 3.]), tensor([0, 1, 0]))
    """
    rows, there = xyz.flatten(0, 1), present_of(xyz, present).flatten(0, 1)
    shared, kept, places = share_absent_slots(rows[:, None], there[:, None])
    return shared.flatten(0, 1).index_select(0, kept), there.index_select(0, kept), places.flatten()
