"""Random changes of training clips, vectorised over the batch; what is drawn comes from one generator."""

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.models.recipe import Recipe
from funnybone.motion.warps import PLANES, at_times, turned
from funnybone.skeletons import Skeleton


def varied(
    xyz: Float[Tensor, "N M T V C"], recipe: Recipe, up: str, skeleton: Skeleton, generator: torch.Generator
) -> Float[Tensor, "N M T V C"]:
    """Each clip turned, changed in size, cut in time, mirrored: seen from elsewhere, by another, later, other-handed.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> xyz = torch.randn(2, 1, 8, 25, 3)
    >>> varied(xyz, Recipe(crop=0.5), "y", NTU25, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 25, 3])
    """
    draws = torch.rand(6, len(xyz), generator=generator).to(xyz.device)
    if recipe.crop < 1:
        length = recipe.crop + (1 - recipe.crop) * draws[4]
        xyz = stretched(xyz, draws[5] * (1 - length), length)
    if recipe.mirror:
        swapped = torch.rand(len(xyz), generator=generator).to(xyz.device) < recipe.mirror
        xyz = torch.where(swapped[:, None, None, None, None], mirrored(xyz, up, skeleton), xyz)
    size, *signed = 2 * draws[:4] - 1
    xyz = xyz * (1 + recipe.scale * size)[:, None, None, None, None]
    if xyz.shape[-1] != 3:
        return xyz
    angles = (recipe.rotation, recipe.tilt, recipe.tilt)
    for plane, largest, draw in zip(PLANES[up], angles, signed, strict=True):
        if largest:
            xyz = turned(xyz, plane, largest * draw)
    return xyz


def mirrored(xyz: Float[Tensor, "N M T V C"], up: str, skeleton: Skeleton) -> Float[Tensor, "N M T V C"]:
    """Each clip as in an upright mirror: joints of the left side are then those of the right.

    Examples
    --------
    >>> arms = Skeleton("arms", ("chest", "left", "right"), (-1, 0, 0), pairs=((1, 2),))
    >>> xyz = torch.tensor([[0.0, 0.0, 0.0], [2.0, 5.0, 1.0], [-3.0, 4.0, 1.0]]).view(1, 1, 1, 3, 3)
    >>> mirrored(xyz, "y", arms)[0, 0, 0, 1:]
    tensor([[ 3.,  4.,  1.],
            [-2.,  5.,  1.]])
    """
    across = PLANES[up][0][0] if xyz.shape[-1] == 3 else 0
    sign = torch.ones(xyz.shape[-1], device=xyz.device)
    sign[across] = -1
    return xyz[..., list(skeleton.other_side), :] * sign


def stretched(
    xyz: Float[Tensor, "N M T V C"], start: Float[Tensor, " N"], length: Float[Tensor, " N"]
) -> Float[Tensor, "N M T V C"]:
    """The part of each clip that begins at ``start`` and is ``length`` long (shares of the clip), in as many frames.

    A person is absent where all joints are zero; `at_times` says what lies between two frames.

    Examples
    --------
    >>> xyz = torch.arange(5.0).view(1, 1, 5, 1, 1) + 1
    >>> stretched(xyz, torch.tensor([0.5]), torch.tensor([0.5])).flatten()
    tensor([3.0000, 3.5000, 4.0000, 4.5000, 5.0000])
    """
    frames = xyz.shape[2]
    times = (start[:, None] + length[:, None] * torch.linspace(0, 1, frames, device=xyz.device)) * (frames - 1)
    return at_times(xyz, times, (xyz != 0).flatten(3).any(3))
