"""Steps of published preprocessing: pure functions of clips in which whoever is absent is zero, and stays so.

Presence is any number that is not zero. What is chosen by it, or by who moves most, is chosen anew for each clip and
has no gradient; everything that is then computed from the chosen positions has one.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.models.layers import present_first, present_of

MARGIN = 40  # a fortieth of the frames is left out at each end: the central 95 per cent


def in_order(
    xyz: Float[Tensor, "N M T V C"], by: Literal["deviation", "variance", "frames"]
) -> Float[Tensor, "N M T V C"]:
    """Put the person first who moves most, or is there longest; equal ones keep their order.

    ``"deviation"``: by the sum over coordinates of the standard deviation of all joints in all frames where the person
    is; ``"variance"``: the sum of the variances; ``"frames"``: how many frames those are.

    Examples
    --------
    >>> still, moving = torch.ones(1, 1, 4, 1, 3), torch.randn(1, 1, 4, 1, 3)
    >>> torch.equal(in_order(torch.cat([still, moving], 1), "deviation")[:, :1], moving)
    True
    """
    if xyz.shape[1] == 1:
        return xyz
    with torch.no_grad():
        present = present_of(xyz)
        count = present.sum(2)
        points = (count * xyz.shape[3]).clamp(min=1)[..., None]
        mean = xyz.sum((2, 3)) / points
        away = torch.where(present[..., None, None], xyz - mean[:, :, None, None], 0)
        variance = away.square().sum((2, 3)) / points
        amount = {"frames": count, "variance": variance.sum(2), "deviation": variance.sqrt().sum(2)}[by]
        place = amount.argsort(dim=1, descending=True, stable=True)
    return xyz.gather(1, place[:, :, None, None, None].expand_as(xyz))


def to_the_front(
    xyz: Float[Tensor, "N M T V C"], whose: Literal["each", "anyone", "first"]
) -> Float[Tensor, "N M T V C"]:
    """Move the frames that count to the beginning, in order, and leave the end empty.

    ``"each"``: of each person who is not there in the first frame, the frames where he or she is. ``"anyone"``: frames
    where somebody is. ``"first"``: frames where the first person is; others are dropped.

    Examples
    --------
    >>> to_the_front(torch.tensor([0.0, 1.0, 0.0, 2.0]).view(1, 1, 4, 1, 1), "each").flatten()
    tensor([1., 2., 0., 0.])
    """
    present = present_of(xyz)
    if whose == "each":
        kept = present | present[:, :, :1]
    else:
        kept = (present.any(1, keepdim=True) if whose == "anyone" else present[:, :1]).expand_as(present)
    place = present_first(kept.flatten(0, 1)).view(kept.shape)
    ahead = torch.arange(xyz.shape[2], device=xyz.device) < kept.sum(2, keepdim=True)
    return torch.where(ahead[..., None, None], _taken(xyz, place), 0)


def padded(xyz: Float[Tensor, "N M T V C"], frames: int, how: Literal["zero", "replay"]) -> Float[Tensor, "N M S V C"]:
    """Bring clips to a length: longer ones are cut, shorter ones end in zeros, or each person starts again.

    Examples
    --------
    >>> padded(torch.tensor([1.0, 2.0, 0.0]).view(1, 1, 3, 1, 1), 5, "replay").flatten()
    tensor([1., 2., 1., 2., 1.])
    """
    xyz = xyz[:, :, :frames]
    place = torch.arange(frames, device=xyz.device)
    if how == "zero":
        n, persons, given, *joints = xyz.shape
        return torch.cat([xyz, xyz.new_zeros(n, persons, frames - given, *joints)], 2)
    ends = torch.where(present_of(xyz), place[: xyz.shape[2]] + 1, 0).amax(2, keepdim=True).clamp(min=1)
    return _taken(xyz, place % ends)


def sampled(
    xyz: Float[Tensor, "N M T V C"], frames: int, how: Literal["first", "resize", "segments"]
) -> Float[Tensor, "N M S V C"]:
    """Bring clips to a length, by the L frames at their beginning in which somebody is present (see `to_the_front`).

    ``"first"``: the first ones. ``"resize"``: the central 95 % of the L frames (a fortieth of L, rounded down, is left
    out at each end), by linear interpolation between the centres of frames, as images are resized. ``"segments"``: the
    middle frame of each of equally many segments of the L frames; where there are fewer, they start again at the end.

    Examples
    --------
    >>> sampled(torch.arange(1.0, 9.0).view(1, 1, 8, 1, 1), 4, "resize").flatten()
    tensor([1.5000, 3.5000, 5.5000, 7.5000])
    >>> sampled(torch.arange(1.0, 9.0).view(1, 1, 8, 1, 1), 4, "segments").flatten()
    tensor([2., 4., 6., 8.])
    """
    if how == "first":
        return padded(xyz, frames, "zero")
    count = present_of(xyz).any(1).sum(1).clamp(min=1)[:, None, None]  # of a clip without anybody: one empty frame
    place = torch.arange(frames, device=xyz.device)
    if how == "segments":
        middle = torch.div((2 * place + 1) * count, 2 * frames, rounding_mode="floor")
        return _taken(xyz, torch.where(count < frames, place % count, middle).expand(-1, xyz.shape[1], -1))
    margin = torch.div(count, MARGIN, rounding_mode="floor")
    length = count - 2 * margin
    at = ((place.to(xyz.dtype) + 0.5) * (length.to(xyz.dtype) / frames) - 0.5).clamp(min=0)
    before = torch.minimum(at.long(), length - 1)
    after = torch.minimum(before + 1, length - 1)
    low, high = (_taken(xyz, (margin + part).expand(-1, xyz.shape[1], -1)) for part in (before, after))
    return torch.lerp(low, high, (at - before)[..., None, None].expand_as(low))


def _taken(xyz: Float[Tensor, "N M T V C"], place: Int[Tensor, "N M S"]) -> Float[Tensor, "N M S V C"]:
    """These frames of each person."""
    return xyz.gather(2, place[..., None, None].expand(*place.shape, *xyz.shape[3:]))


def turn_onto(line: Float[Tensor, "N 3"], axis: int) -> Float[Tensor, "N 3 3"]:
    """The smallest rotation that makes each line point along a coordinate axis.

    None where the line has no length, or points exactly the other way, so that no rotation is the smallest.

    Examples
    --------
    >>> line = torch.tensor([[1.0, 2.0, 2.0]])
    >>> torch.allclose(turn_onto(line, 2) @ line[..., None], torch.tensor([[[0.0], [0.0], [3.0]]]), atol=1e-6)
    True
    """
    length = line.square().sum(1, keepdim=True)
    some = length.detach() > 1e-12
    unit = line / torch.where(some, length, 1).sqrt()
    target = torch.zeros_like(unit)
    target[:, axis] = 1
    normal = torch.linalg.cross(unit, target)
    cosine, sine2 = unit[:, axis, None, None], normal.square().sum(1)[:, None, None]
    # The same number in two ways: 1 / (1 + cosine), and the one that keeps its digits where that is nearly 1 / 0.
    behind = cosine.detach() < 0
    turned = some[..., None] & (~behind | (sine2.detach() > 1e-12))
    ahead = 1 / (1 + torch.where(behind, 0, cosine))
    factor = torch.where(behind, (1 - cosine) / torch.where(behind & turned, sine2, 1), ahead)
    zero = torch.zeros_like(normal[:, 0])
    x, y, z = normal.unbind(1)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    identity = torch.eye(3, dtype=line.dtype, device=line.device)
    return torch.where(turned, identity + skew + factor * (skew @ skew), identity)
