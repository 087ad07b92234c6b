"""Whole clips turned, and sampled at other times: what training varies and what attacks look through."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# For each vertical axis the planes to turn in: the horizontal one first, then those of the two tilts.
PLANES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "x": ((1, 2), (0, 1), (0, 2)),
    "y": ((0, 2), (1, 0), (1, 2)),
    "z": ((0, 1), (2, 0), (2, 1)),
}


def turned(xyz: Float[Tensor, "N *rest 3"], plane: tuple[int, int], angle: Float[Tensor, " N"]) -> Tensor:
    """Return positions turned about the origin, from the first axis of a plane towards the second, in radians.

    Examples
    --------
    >>> turned(torch.tensor([[1.0, 0.0, 5.0]]), (0, 1), torch.tensor([torch.pi / 2])).round()
    tensor([[-0.,  1.,  5.]])
    """
    axes = list(xyz.unbind(-1))
    angle = angle.reshape(-1, *(1,) * (axes[0].ndim - 1))
    (a, b), cos, sin = plane, torch.cos(angle), torch.sin(angle)
    axes[a], axes[b] = cos * axes[a] - sin * axes[b], sin * axes[a] + cos * axes[b]
    return torch.stack(axes, -1)


def at_times(
    xyz: Float[Tensor, "N M T V C"], times: Float[Tensor, "N F"], present: Bool[Tensor, "N M T"]
) -> Float[Tensor, "N M F V C"]:
    """Return the positions at times that are counted in frames, from 0 to T - 1.

    Positions between two frames lie on the line between them; where a person is absent in one of the two, the nearer
    frame is taken.

    Examples
    --------
    >>> xyz, present = torch.tensor([1.0, 3.0, 0.0]).view(1, 1, 3, 1, 1), torch.tensor([[[True, True, False]]])
    >>> at_times(xyz, torch.tensor([[0.25, 1.0, 1.25, 1.75]]), present).flatten()
    tensor([1.5000, 3.0000, 3.0000, 0.0000])
    """
    (n, _, frames), wanted = xyz.shape[:3], times.shape[1]
    before = times.floor().long().clamp(0, frames - 1)
    after = (before + 1).clamp(max=frames - 1)
    clips = torch.arange(n, device=xyz.device)[:, None]
    frame_first, present = xyz.transpose(1, 2), present.transpose(1, 2)
    low, high = frame_first[clips, before], frame_first[clips, after]
    share = (times - before).to(xyz.dtype).view(n, wanted, 1, 1, 1)
    both = (present[clips, before] & present[clips, after])[..., None, None]
    return torch.where(both, low + share * (high - low), torch.where(share < 0.5, low, high)).transpose(1, 2)
