"""Rotations of space: vectors, matrices and quaternions of them, the shortest and the best fitting.

A rotation vector points along the axis and is as long as the angle in radians; a quaternion is (w, x, y, z); a matrix
acts on columns. Everything works on any batch at once and has a finite derivative everywhere: at no rotation, where the
textbook forms divide zero by zero, it is the exact one; where a rotation has no derivative (the axis of a half turn
between opposite vectors) it is that of the choice that was made.
"""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

# Weight of what decides where a matrix leaves its nearest rotation open. Vectors on a line are turned off it by as many
# radians at most; with a smaller one, derivatives of the open part would drown in rounding.
OPEN = 1e-7


def _sinc(angle2: Tensor) -> Tensor:
    """sin(a) / a from the square of a, which has a derivative at zero."""
    small = angle2 < 1e-3
    angle = torch.where(small, 1, angle2).sqrt()
    series = 1 - angle2 / 6 * (1 - angle2 / 20 * (1 - angle2 / 42 * (1 - angle2 / 72)))
    return torch.where(small, series, torch.sin(angle) / angle)


def _cross(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix that takes the cross product with a vector."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def _outer(one: Tensor, other: Tensor) -> Tensor:
    return one[..., :, None] * other[..., None, :]


def matrix(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the matrix that turns by a rotation vector (Rodrigues).

    Examples
    --------
    >>> (matrix(torch.tensor([0.0, 0.0, torch.pi / 2])) @ torch.tensor([1.0, 0.0, 0.0])).abs().round(decimals=4)
    tensor([0., 1., 0.])
    """
    angle2 = rotvec.square().sum(-1)[..., None, None]
    once = _cross(rotvec)
    # cos(a) = 1 - a^2 sinc(a/2)^2 / 2 keeps all digits of small angles.
    half = _sinc(angle2 / 4).square() / 2
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    return (1 - angle2 * half) * eye + _sinc(angle2) * once + half * _outer(rotvec, rotvec)


def turned(rotvec: Float[Tensor, "*#batch 3"], vector: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Return vectors as rotation vectors turn them: as `matrix` does, without making one.

    Examples
    --------
    >>> turned(torch.tensor([0.0, 0.0, torch.pi / 2]), torch.tensor([1.0, 0.0, 0.0])).abs().round(decimals=4)
    tensor([0., 1., 0.])
    """
    rotvec, vector = torch.broadcast_tensors(rotvec, vector)
    angle2 = rotvec.square().sum(-1, keepdim=True)
    half = _sinc(angle2 / 4).square() / 2
    along = (rotvec * vector).sum(-1, keepdim=True)
    return (1 - angle2 * half) * vector + _sinc(angle2) * torch.linalg.cross(rotvec, vector) + half * along * rotvec


def quaternion(rotvec: Float[Tensor, "..."], *, dim: int = -1) -> Float[Tensor, "..."]:
    """Return the unit quaternion (w, x, y, z) of a rotation vector; one full turn more changes its sign.

    The components of both, three and four, are along the last dimension, or along another.

    Examples
    --------
    >>> quaternion(torch.tensor([0.0, 0.0, torch.pi])).round(decimals=4)
    tensor([-0., 0., 0., 1.])
    """
    # At no rotation an angle has no derivative; it is made so little greater that nothing else changes.
    least = torch.finfo(rotvec.dtype).eps ** 2
    half = (rotvec.square().sum(dim, keepdim=True) + least).sqrt() / 2
    return torch.cat([half.cos(), torch.sinc(half / torch.pi) * (rotvec / 2)], dim)


def matrix_of(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the matrix that turns by a unit quaternion.

    Examples
    --------
    >>> matrix_of(torch.tensor([0.0, 0.0, 1.0, 0.0])).diagonal()
    tensor([-1.,  1., -1.])
    """
    real, imaginary = quaternion[..., 0, None, None], quaternion[..., 1:]
    once = _cross(imaginary)
    return torch.eye(3, dtype=once.dtype, device=once.device) + 2 * (real * once + once @ once)


def quaternion_of(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Return one of the two unit quaternions of a rotation matrix.

    The entries of a matrix make up 4 q q^T; its longest row is never shorter than 2, so that no case is special.

    Examples
    --------
    >>> quaternion_of(torch.diag(torch.tensor([-1.0, 1.0, -1.0])))
    tensor([0., 0., 1., 0.])
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    w, x, y, z = 1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz
    wx, wy, wz, xy, xz, yz = zy - yz, xz - zx, yx - xy, yx + xy, xz + zx, zy + yz
    rows = torch.stack([w, wx, wy, wz, wx, x, xy, xz, wy, xy, y, yz, wz, xz, yz, z], -1).unflatten(-1, (4, 4))
    longest = torch.stack([w, x, y, z], -1).argmax(-1)[..., None, None]
    return torch.nn.functional.normalize(rows.take_along_dim(longest, -2).squeeze(-2), dim=-1)


def rotvec(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Return the shortest rotation vector of a rotation matrix, no longer than pi.

    Examples
    --------
    >>> rotvec(matrix(torch.tensor([0.0, 0.0, 1.5 * torch.pi]))) / torch.pi
    tensor([ 0.0000,  0.0000, -0.5000])
    """
    return rotvec_of(quaternion_of(matrix))


def rotvec_of(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """Return the shortest rotation vector of a unit quaternion, no longer than pi.

    Examples
    --------
    >>> rotvec_of(torch.tensor([-0.6, 0.0, 0.8, 0.0]))
    tensor([-0.0000, -1.8546, -0.0000])
    """
    real, imaginary = quaternion[..., :1], quaternion[..., 1:]
    real, imaginary = torch.where(real < 0, -real, real), torch.where(real < 0, -imaginary, imaginary)
    sine2 = imaginary.square().sum(-1, keepdim=True)
    small = sine2 < 1e-4
    sine = torch.where(small, 1, sine2).sqrt()
    # asin(s) / s, for the series; the quaternion has unit length.
    series = 1 + sine2 / 6 * (1 + 9 * sine2 / 20 * (1 + 25 * sine2 / 42))
    return 2 * torch.where(small, series, torch.atan2(sine, real) / sine) * imaginary


def shortest(source: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the matrix of the shortest rotation that gives one vector the direction of another.

    Two reflections, at the plane across the source and at that across the bisector of the two. Vectors whose
    directions are opposite in half of the digits are carried onto each other by a half turn about some axis across
    them. Where one has no length, there is no rotation.

    Examples
    --------
    >>> up, aside = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([2.0, 0.0, 0.0])
    >>> (rotvec(shortest(up, aside)) / torch.pi)[2]
    tensor(-0.5000)
    """
    lengths = [torch.linalg.vector_norm(vector, dim=-1, keepdim=True) for vector in (source, target)]
    some = (lengths[0] > 0) & (lengths[1] > 0)
    # The axis that is most across the source, less what it has along it; also what stands in for a missing vector.
    axis = torch.nn.functional.one_hot(source.detach().abs().argmin(-1), 3).to(source.dtype)
    one, other = (
        torch.where(some, vector, axis) / torch.where(some, length, 1)
        for vector, length in zip((source, target), lengths, strict=True)
    )
    middle, across = one + other, axis - (axis * one).sum(-1, keepdim=True) * one
    opposite = middle.detach().square().sum(-1, keepdim=True) < torch.finfo(source.dtype).eps
    bisector = torch.nn.functional.normalize(torch.where(opposite, across, middle), dim=-1)
    along = (one * bisector).sum(-1, keepdim=True)
    eye = torch.eye(3, dtype=one.dtype, device=one.device)
    return eye - 2 * _outer(bisector, bisector) + _outer(4 * along * bisector - 2 * one, one)


def best_fit(
    source: Float[Tensor, "*batch K 3"],
    target: Float[Tensor, "*batch K 3"],
    weights: Float[Tensor, "*batch K"] | None = None,
    *,
    near: Float[Tensor, "*batch 3 3"] | None = None,
) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation matrix R with the least ``sum_k weights_k |target_k - R source_k|^2`` (Wahba's problem).

    Never a reflection. Where the vectors leave a turn open, because all lie on a line, the open part is that of
    ``near``; see `nearest_rotation`, which does the work.

    Examples
    --------
    >>> vectors, turn = torch.randn(5, 3), matrix(torch.tensor([0.1, 2.0, -0.3]))
    >>> torch.allclose(best_fit(vectors, vectors @ turn.mT), turn, atol=1e-5)
    True
    """
    weighted = target if weights is None else weights[..., None] * target
    return nearest_rotation(weighted.mT @ source, near=near)


def nearest_rotation(
    matrix: Float[Tensor, "*batch 3 3"], *, near: Float[Tensor, "*batch 3 3"] | None = None
) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation matrix R that is nearest to any matrix B, the one with the largest ``trace(R^T B)``.

    The quaternion of R is the eigenvector of the largest eigenvalue of a symmetric matrix of the entries of B
    (Davenport's q-method; Horn, "Closed-form solution of absolute orientation using unit quaternions", J. Opt. Soc. Am.
    A 4(4), 1987), found in float64. The derivative is that of the condition for the optimum, R^T B symmetric, because
    that of eigenvectors breaks down where eigenvalues meet that do not matter here.

    Parameters
    ----------
    matrix : Float[Tensor, "*batch 3 3"]
        B, for vectors to be carried onto others the sum of ``target source^T``.
    near : Float[Tensor, "*batch 3 3"], optional
        A rotation matrix that decides where B leaves R open; the identity if left out. It weighs a ten-millionth of B.

    Examples
    --------
    >>> nearest_rotation(torch.diag(torch.tensor([3.0, 2.0, -1.0])))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    wide = matrix.double()
    eye = torch.eye(3, dtype=wide.dtype, device=wide.device)
    size = torch.linalg.matrix_norm(wide.detach())[..., None, None]
    size = torch.where(size > 0, size, 1)
    wide = wide / size + OPEN * (eye if near is None else near.double())
    with torch.no_grad():
        trace = wide.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        skew = _skew(wide)[..., None]
        square = torch.cat([torch.cat([trace, skew.mT], -1), torch.cat([skew, wide + wide.mT - trace * eye], -1)], -2)
        found = matrix_of(_top_eigenvector(square))
    if wide.requires_grad:
        # One Newton step on the rotations from the optimum is no step, but has its derivative.
        aligned = found.mT @ wide
        trace = aligned.detach().diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        curvature = (trace + 1e-12) * eye - (aligned + aligned.mT).detach() / 2
        a, b, c = curvature.unbind(-1)
        inverse = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
        volume = (a * inverse[..., 0, :]).sum(-1)[..., None, None]
        step = (inverse / torch.where(volume > 0, volume, torch.inf) @ _skew(aligned)[..., None]).squeeze(-1)
        found = found + found @ _cross(step - step.detach())
    return found.to(matrix.dtype)


def _top_eigenvector(matrix: Float[Tensor, "*batch D D"], sweeps: int = 5) -> Float[Tensor, "*batch D"]:
    """The eigenvector of the largest eigenvalue of each of many small symmetric matrices.

    Cyclic Jacobi rotations, each step for the whole batch: a library solves such matrices one by one, which takes ten
    times as long. Five sweeps make matrices of four rows diagonal to the last digits.
    """
    size = matrix.shape[-1]
    rows = matrix.reshape(-1, size, size).permute(1, 2, 0).contiguous()
    vectors = torch.eye(size, dtype=rows.dtype, device=rows.device)[..., None].repeat(1, 1, rows.shape[-1])
    for p, q in list(combinations(range(size), 2)) * sweeps:
        gap, twice = rows[q, q] - rows[p, p], 2 * rows[p, q]
        tangent = twice / (gap + torch.copysign(torch.hypot(gap, twice), gap))
        tangent = torch.where(twice == 0, 0, tangent)
        cosine = torch.rsqrt(1 + tangent.square())
        sine = tangent * cosine
        for table in (rows, rows.transpose(0, 1), vectors):
            one, other = table[p].clone(), table[q]
            table[p] = cosine * one - sine * other
            table[q] = sine * one + cosine * other
    top = rows.diagonal(dim1=0, dim2=1).argmax(-1)
    return vectors.take_along_dim(top[None, None], 0).squeeze(0).mT.reshape(matrix.shape[:-1])


def _skew(matrix: Tensor) -> Tensor:
    """The vector whose cross product is the antisymmetric part of a matrix, twice."""
    turned = matrix - matrix.mT
    return torch.stack([turned[..., 2, 1], turned[..., 0, 2], turned[..., 1, 0]], -1)
