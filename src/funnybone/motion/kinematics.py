"""Angles between bones."""

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.skeletons import Skeleton


def joint_angles(xyz: Float[Tensor, "*batch V C"], skeleton: Skeleton) -> Float[Tensor, "*batch A"]:
    """Return, for each bone that hangs on another bone, the angle between the two in radians, 0 when straight.

    Computed as ``2 atan2(|u - w|, |u + w|)`` of the unit bones u and w, which, unlike the arc cosine, has a bounded
    derivative near 0 and pi. An angle at a bone without length is zero.

    Examples
    --------
    >>> from funnybone.skeletons import Skeleton
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> bent = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.3, 0.2, 0.0]])
    >>> joint_angles(bent, arm).rad2deg()
    tensor([90.])
    """
    place = {child: index for index, (child, _) in enumerate(skeleton.bones)}
    pairs = [(place[child], place[parent]) for child, parent in skeleton.bones if parent in place]
    outer, inner = [outer for outer, _ in pairs], [inner for _, inner in pairs]
    bones = skeleton.bone_vectors(xyz)
    unit = torch.nn.functional.normalize(bones, dim=-1)
    apart, along = unit[..., outer, :] - unit[..., inner, :], unit[..., outer, :] + unit[..., inner, :]
    angle = 2 * torch.atan2(torch.linalg.vector_norm(apart, dim=-1), torch.linalg.vector_norm(along, dim=-1))
    length = torch.linalg.vector_norm(bones, dim=-1)
    return torch.where((length[..., outer] > 0) & (length[..., inner] > 0), angle, 0)
