"""One motion laid over another: where a body stands and which way it faces is not what it does."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def laid_over(
    xyz: Float[Tensor, "N M T V 3"],
    fixed: Float[Tensor, "N M T V 3"],
    valid: Bool[Tensor, "N M T"],
    up: str,
) -> Float[Tensor, "N M T V 3"]:
    """Return clips moved, and turned about the vertical, to lie as near as they can to others (least squares).

    Parameters
    ----------
    xyz, fixed : Float[Tensor, "N M T V 3"]
        Clips to move, and those that stay, joint by joint and frame by frame.
    valid : Bool[Tensor, "N M T"]
        Frames of persons that count; in the others the result is zero.
    up : {"x", "y", "z"}
        The vertical axis.

    Examples
    --------
    >>> pose = torch.rand(1, 1, 4, 5, 3)
    >>> turned = pose[..., [2, 1, 0]] * torch.tensor([1.0, 1.0, -1.0]) + 3  # by a right angle, and away
    >>> torch.allclose(laid_over(turned, pose, torch.ones(1, 1, 4, dtype=torch.bool), "y"), pose, atol=1e-5)
    True
    """
    there = valid[..., None, None]
    count = (there.sum((1, 2), keepdim=True) * xyz.shape[3]).clamp(min=1)
    means = [torch.where(there, part, 0).sum((1, 2, 3), keepdim=True) / count for part in (xyz, fixed)]
    moving, still = (torch.where(there, part - mean, 0) for part, mean in zip((xyz, fixed), means, strict=True))
    a, b = (axis for axis, name in enumerate("xyz") if name != up)
    cosine = (moving[..., a] * still[..., a] + moving[..., b] * still[..., b]).sum((1, 2, 3))
    sine = (moving[..., a] * still[..., b] - moving[..., b] * still[..., a]).sum((1, 2, 3))
    angle = torch.atan2(sine, cosine)[:, None, None, None]
    turned = moving.clone()
    turned[..., a] = moving[..., a] * angle.cos() - moving[..., b] * angle.sin()
    turned[..., b] = moving[..., a] * angle.sin() + moving[..., b] * angle.cos()
    return torch.where(there, turned + means[1], 0)
