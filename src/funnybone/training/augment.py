"""Random changes of training clips, vectorised over the batch; what is drawn comes from one generator."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.models.recipe import Recipe

# For each vertical axis the planes to turn in: the horizontal one first, then those of the two tilts.
_PLANES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "x": ((1, 2), (0, 1), (0, 2)),
    "y": ((0, 2), (1, 0), (1, 2)),
    "z": ((0, 1), (2, 0), (2, 1)),
}


def varied(
    xyz: Float[Tensor, "N M T V C"], recipe: Recipe, up: str, generator: torch.Generator
) -> Float[Tensor, "N M T V C"]:
    """Each clip turned, changed in size and cut in time: as if seen from elsewhere, done by another, begun later.

    Examples
    --------
    >>> xyz = torch.randn(2, 1, 8, 25, 3)
    >>> varied(xyz, Recipe(crop=0.5), "y", torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 25, 3])
    """
    draws = torch.rand(6, len(xyz), generator=generator).to(xyz.device)
    if recipe.crop < 1:
        length = recipe.crop + (1 - recipe.crop) * draws[4]
        xyz = stretched(xyz, draws[5] * (1 - length), length)
    signed = (2 * draws[:4] - 1)[..., None, None, None]
    xyz = xyz * (1 + recipe.scale * signed[0, ..., None])
    if xyz.shape[-1] != 3:
        return xyz
    angles = (recipe.rotation, recipe.tilt, recipe.tilt)
    axes = list(xyz.unbind(-1))
    for (a, b), largest, draw in zip(_PLANES[up], angles, signed[1:], strict=True):
        if largest:
            cos, sin = torch.cos(largest * draw), torch.sin(largest * draw)
            axes[a], axes[b] = cos * axes[a] - sin * axes[b], sin * axes[a] + cos * axes[b]
    return torch.stack(axes, -1)


def stretched(
    xyz: Float[Tensor, "N M T V C"], start: Float[Tensor, " N"], length: Float[Tensor, " N"]
) -> Float[Tensor, "N M T V C"]:
    """The part of each clip that begins at ``start`` and is ``length`` long (shares of the clip), in as many frames.

    Positions between two frames lie on the line between them; where a person is absent in one of the two, the nearer
    frame is taken.

    Examples
    --------
    >>> xyz = torch.arange(5.0).view(1, 1, 5, 1, 1) + 1
    >>> stretched(xyz, torch.tensor([0.5]), torch.tensor([0.5])).flatten()
    tensor([3.0000, 3.5000, 4.0000, 4.5000, 5.0000])
    """
    n, _, frames = xyz.shape[:3]
    times = (start[:, None] + length[:, None] * torch.linspace(0, 1, frames, device=xyz.device)) * (frames - 1)
    before = times.floor().long().clamp(0, frames - 1)
    after = (before + 1).clamp(max=frames - 1)
    clips = torch.arange(n, device=xyz.device)[:, None]
    frame_first = xyz.transpose(1, 2)
    low, high = frame_first[clips, before], frame_first[clips, after]
    share = (times - before).to(xyz.dtype).view(n, frames, 1, 1, 1)
    both = ((low != 0).flatten(3).any(3) & (high != 0).flatten(3).any(3))[..., None, None]
    return torch.where(both, low + share * (high - low), torch.where(share < 0.5, low, high)).transpose(1, 2)
