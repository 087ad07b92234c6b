"""Forward kinematics by quaternions: where rotations and bones bring the joints of a body.

An attack by labels asks for joints more often than for anything but the victim, of one clip or of hundreds, so the work
is few operations on numbers that lie beside each other in memory: all frames of one component of one rotation. (A
library multiplies matrices of three rows one by one.)
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.motion.kinematics import ancestors
from funnybone.motion.rotations import quaternion
from funnybone.motion.turns import outward
from funnybone.skeletons import Skeleton


def joints_from_root(
    theta: Float[Tensor, "N M T J 3"],
    lengths: Float[Tensor, "N M L B"],
    rest: Float[Tensor, "*each B 3"],
    skeleton: Skeleton,
) -> Float[Tensor, "N M T V 3"]:
    """Return the joints of a body whose root is at the origin and faces as it does at rest.

    Rotations are composed a level of their tree at a time, and bones added up in one matrix product. Differentiable,
    in the precision of theta.

    Parameters
    ----------
    theta : Float[Tensor, "N M T J 3"]
        Rotation vectors, in the order of `funnybone.motion.turns.turns`.
    lengths : Float[Tensor, "N M L B"]
        Length of each bone, in all frames (L is one) or in each (L is T).
    rest : Float[Tensor, "*each B 3"]
        Directions of bones where nothing is turned, (B, 3) or (N, M, T, B, 3).

    Examples
    --------
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> bent = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, torch.pi / 2]]).view(1, 1, 1, 2, 3)
    >>> joints_from_root(bent, torch.tensor([0.3, 0.2]).view(1, 1, 1, 2), torch.eye(3)[[0, 0]], arm).round(decimals=3)
    tensor([[[[[0.0000, 0.0000, 0.0000],
               [0.3000, 0.0000, 0.0000],
               [0.3000, 0.2000, 0.0000]]]]])
    """
    count, way, tables = theta.shape[:3], outward(skeleton, theta.device), _tables(theta.dtype, theta.device)
    own = quaternion(_beside(theta).index_select(0, way.order), dim=1)
    level = own[:1]
    found = [level]
    after = (tables.after @ own[1:]).unflatten(1, (4, 4)).split([len(before) for before in way.before])
    for before, turn in zip(way.before, after, strict=True):
        level = (turn * level.index_select(0, before)[:, None]).sum(2)
        found.append(level)
    turned = torch.cat(found).index_select(0, way.bones)
    matrices = (tables.matrix @ (turned[:, :, None] * turned[:, None]).flatten(1, 2)).unflatten(1, (3, 3))
    # By the square of its length, which rounding has made a little other than one, a quaternion would stretch its bone.
    size = _beside(lengths.expand(*count, -1)).contiguous()[:, None] / turned.square().sum(1, keepdim=True)
    drawn = size * _beside(rest.expand(*count, -1, -1))
    bones = (matrices * drawn[:, None]).sum(2)
    joints = ancestors(skeleton, dtype=bones.dtype, device=bones.device) @ bones.flatten(1)
    return joints.unflatten(1, bones.shape[1:]).movedim(-1, 0).unflatten(0, count)


def _beside(values: Float[Tensor, "N M T *numbers"]) -> Float[Tensor, "*numbers F"]:
    """All frames of each number beside each other."""
    return values.flatten(0, 2).movedim(0, -1)


class _Tables(NamedTuple):
    """What the products of quaternions are made of."""

    after: Float[Tensor, "16 4"]  # of q, the matrix by which p becomes p q
    matrix: Float[Tensor, "9 16"]  # of all products of two components, the rotation matrix


@lru_cache(maxsize=16)
def _tables(dtype: torch.dtype, device: torch.device) -> _Tables:
    # Of (p q)_i = sum_j signs_ij p_j q_k, with k that i and j differ by: 1 is x, 2 is y, 3 is z, and x y is z.
    signs = ((1, -1, -1, -1), (1, 1, 1, -1), (1, -1, 1, 1), (1, 1, -1, 1))
    with torch.inference_mode(False):  # what is remembered must serve callers that differentiate, too
        sign, place = torch.tensor(signs, dtype=dtype, device=device), torch.arange(4, device=device)
        product = sign[..., None] * torch.nn.functional.one_hot(place[:, None] ^ place, 4)
        conjugate = torch.diag(sign[0])
        # What becomes of a vector d in q d q*.
        matrix = torch.einsum("iae,eb,acd->idcb", product, conjugate, product)[1:, 1:]
        return _Tables(product.flatten(0, 1), matrix.reshape(9, 16))
