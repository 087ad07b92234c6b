"""The figures as published code computes them, for comparison with published tables.

They differ from each other and from `funnybone.metrics` in what they sum or average, and in their units; each function
names the differences. What is not repeated here is what no figure should do: published code measures positions and
bones on standardised coordinates (on which a "bone" is an offset that changes with every pose), and counts padding and
absent persons. So these take metres, and valid frames only. Given the code's own coordinates of complete clips, they
are what the code computes for one clip, apart from what a docstring says.

Shapes are those of `funnybone.metrics.deviations`. Sources: SMART, Wang et al., CVPR 2021, with the authors' code and
talk; BASAR, Diao et al., CVPR 2021, with the authors' code; Hard No-Box, Lu et al., ICCV 2023; NPSS, Gopalakrishnan et
al., CVPR 2019.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.metrics.deviations import (
    acceleration_deviation,
    joint_angle_acceleration_deviation,
    masked_mean,
    velocity_deviation,
)
from funnybone.motion.dynamics import derivative, stencil
from funnybone.skeletons import Skeleton

RATE = 30.0  # Hz: SMART's code takes 1/30 s for the time between two frames, whatever the recording


def smart_l2(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    *,
    joint_weights: Sequence[float] | None = None,
) -> Float[Tensor, " N"]:
    """Return SMART's ``l2``: the sum over frames and joints of the squared displacement times the joint's weight, m^2.

    Ours is `joint_displacement`: a mean, not a sum that grows with frames and joints, of distances, not their squares.

    Parameters
    ----------
    joint_weights : sequence of float, optional
        One for each joint. The code has 0.04 for the five joints of the trunk (10 to 14 of its 25) and 0.02 for the
        others; left out, all have 0.02.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 2, 3, 3)
    >>> smart_l2(clean, clean + torch.tensor([3.0, 0.0, 4.0]), torch.ones(1, 1, 2, dtype=torch.bool))
    tensor([3.])
    """
    weights = clean.new_tensor(joint_weights or [0.02] * clean.shape[3])
    return _sum((adversarial - clean).square().sum(-1) * weights, valid[..., None])


def smart_acc(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Return SMART's ``acc``: the sum over frames and joints of the squared change of acceleration, (m/s^2)^2.

    At 30 frames a second, whatever the clips' own rate. Ours is `acceleration_deviation`: a mean of norms at the
    clips' rate. In the BASAR release's copy of this loss the joints have weights.

    Examples
    --------
    A joint that is moved by d in one frame adds ``(1 + 4 + 1) d^2 30^4``.

    >>> adversarial = torch.zeros(1, 1, 5, 1, 3)
    >>> adversarial[0, 0, 2, 0, 0] = 0.01
    >>> smart_acc(torch.zeros_like(adversarial), adversarial, torch.ones(1, 1, 5, dtype=torch.bool))
    tensor([486.])
    """
    return _change(clean, adversarial, valid, 2)


def smart_bone(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Return SMART's ``bone``: the sum over frames and bones of the squared change of bone length, m^2.

    Ours is `bone_length_deviation`: a mean of relative changes. The code adds 1e-8 to each coordinate of a bone, which
    is left out here; the BASAR release's copy compares squared lengths.

    Examples
    --------
    >>> bone = Skeleton("bone", ("elbow", "wrist"), (-1, 0))
    >>> clean = torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2, 1)
    >>> smart_bone(clean, 1.5 * clean, torch.ones(1, 1, 1, dtype=torch.bool), bone)
    tensor([1.])
    """
    return _sum((skeleton.bone_lengths(adversarial) - skeleton.bone_lengths(clean)).square(), valid[..., None])


def smart_perceptual(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
    *,
    mix: tuple[float, float, float] = (0.42, 0.18, 0.40),
    joint_weights: Sequence[float] | None = None,
) -> Float[Tensor, " N"]:
    """Return SMART's perceptual loss as released: shares of ``bone``, ``acc`` and ``l2``, of different units, added.

    Because ``acc`` has the fourth power of 30 Hz in it, the sum is nearly all acceleration.

    Parameters
    ----------
    mix : tuple of float
        Shares of bone, acc and l2. The authors' and BEAT's releases: 0.42, 0.18, 0.40; RobustBenchHAR's: 0.70, 0.12,
        0.18.

    Examples
    --------
    A person who is shifted by 5 m, in two frames of three joints, is only displaced: 0.40 of an ``l2`` of 3.

    >>> clean = torch.rand(1, 1, 2, 3, 3)
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> valid = torch.ones(1, 1, 2, dtype=torch.bool)
    >>> smart_perceptual(clean, clean + torch.tensor([3.0, 0.0, 4.0]), valid, arm).round(decimals=4)
    tensor([1.2000])
    """
    bone, acc, l2 = mix
    return (
        bone * smart_bone(clean, adversarial, valid, skeleton)
        + acc * smart_acc(clean, adversarial, valid)
        + l2 * smart_l2(clean, adversarial, valid, joint_weights=joint_weights)
    )


def smart_l_dyn(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    *,
    beta: Sequence[float],
) -> Float[Tensor, " N"]:
    """Return SMART's ``l_dyn`` as the paper has it: ``sum over n of beta_n ||q^(n) - q'^(n)||^2``, at 30 Hz.

    Parameters
    ----------
    beta : sequence of float
        Weights of position, velocity, acceleration, ...; they sum to one. The paper's are not available to us; those
        that follow from the released code are 0.69, 0, 0.31.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 2, 3, 3)
    >>> moved = clean + torch.tensor([3.0, 0.0, 4.0])
    >>> smart_l_dyn(clean, moved, torch.ones(1, 1, 2, dtype=torch.bool), beta=(0.5, 0.5))
    tensor([75.])
    """
    orders = [weight * _change(clean, adversarial, valid, order) for order, weight in enumerate(beta)]
    return torch.stack(orders).sum(0)


def smart_l_bl(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Return SMART's ``l_bl`` as the paper has it: `smart_bone` over the number of frames, m^2.

    Frames are those in which somebody is there; two persons add up, as in the code.

    Examples
    --------
    >>> bone = Skeleton("bone", ("elbow", "wrist"), (-1, 0))
    >>> clean = torch.tensor([0.0, 2.0]).expand(1, 1, 7, 2)[..., None]
    >>> smart_l_bl(clean, 1.5 * clean, torch.ones(1, 1, 7, dtype=torch.bool), bone)
    tensor([1.])
    """
    return smart_bone(clean, adversarial, valid, skeleton) / valid.any(1).sum(1)


def basar_l(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Return BASAR's ``l`` by its code: the mean over frames of the Frobenius norm of the whole body's displacement, m.

    For V joints that all move alike it is the square root of V times `joint_displacement`. The code's demonstration
    takes it of standardised coordinates.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 2, 9, 3)
    >>> basar_l(clean, clean + torch.tensor([3.0, 0.0, 4.0]), torch.ones(1, 1, 2, dtype=torch.bool))
    tensor([15.])
    """
    return masked_mean(torch.linalg.vector_norm(adversarial - clean, dim=(-2, -1)), valid)


def basar_delta_v(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Return BASAR's speed variant of ``delta a`` by its code: first differences, m / frame.

    `velocity_deviation` over the frame rate.

    Examples
    --------
    >>> adversarial = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4, 1, 1)
    >>> basar_delta_v(torch.zeros_like(adversarial), adversarial, torch.ones(1, 1, 4, dtype=torch.bool))
    tensor([0.3333])
    """
    return velocity_deviation(clean, adversarial, valid, clean.new_ones(len(clean)))


def basar_delta_a(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Return BASAR's ``delta a`` by its code: the mean norm of the change of the second difference, m / frame^2.

    `acceleration_deviation` over the squared frame rate: the same motion, recorded twice as fast, has a quarter of it.

    Examples
    --------
    >>> adversarial = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 5, 1, 1)
    >>> basar_delta_a(torch.zeros_like(adversarial), adversarial, torch.ones(1, 1, 5, dtype=torch.bool))
    tensor([1.3333])
    """
    return acceleration_deviation(clean, adversarial, valid, clean.new_ones(len(clean)))


def basar_delta_alpha(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Return BASAR's ``delta alpha`` in its unit: mean change of the second difference of angles, degrees / frame^2.

    The code's angles are Euler angles of its own inverse kinematics, in a chart that wraps and mixes up the parts of
    its quaternions, so its figure cannot be repeated; this is `joint_angle_acceleration_deviation` in its unit.

    Examples
    --------
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> clean = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.6, 0.0]]).expand(1, 1, 3, 3, 2)
    >>> adversarial = clean.clone()
    >>> adversarial[0, 0, 1, 2] = torch.tensor([0.3, 0.3])
    >>> basar_delta_alpha(clean, adversarial, torch.ones(1, 1, 3, dtype=torch.bool), arm)
    tensor([180.])
    """
    frame = clean.new_ones(len(clean))
    return joint_angle_acceleration_deviation(clean, adversarial, valid, frame, skeleton).rad2deg()


def basar_delta_b(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Return BASAR's ``delta B / B`` by its code for NTU: the mean relative change of bone length, a share.

    A bone without length counts as one that did not change, and so lowers the mean; in `bone_length_deviation`, as in
    the code for HDM05, it is left out.

    Examples
    --------
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> clean = torch.tensor([0.0, 1.0, 1.0]).reshape(1, 1, 1, 3, 1)
    >>> basar_delta_b(clean, 1.5 * clean, torch.ones(1, 1, 1, dtype=torch.bool), arm)
    tensor([0.2500])
    """
    before, after = (skeleton.bone_lengths(xyz) for xyz in (clean, adversarial))
    change = (after - before).abs() / before
    return masked_mean(torch.where(before > 0, change, 0), valid[..., None])


def hard_no_box_delta_p(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Return Hard No-Box's perceptual deviation as printed: ``1/(MT) sum |S - S'|_2 + 1/(MT) sum |B - B'|_2``, in m.

    The mean over persons and frames of the norm of the whole body's displacement, plus that of the norm of all changes
    of bone length. The text also announces accelerations, which the printed formula lacks. That the norms are of whole
    bodies is our reading. The paper's table cannot be in metres: within 0.01 of each coordinate the figure is at most
    ``0.01 sqrt(75) + 0.02 sqrt(3 * 24)``, 0.26, and the table has 95.87; which unit it has is not known to us.

    Examples
    --------
    A forearm is made 1 m longer by moving the wrist.

    >>> bone = Skeleton("bone", ("elbow", "wrist"), (-1, 0))
    >>> clean = torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2, 1)
    >>> adversarial = torch.tensor([0.0, 3.0]).reshape(1, 1, 1, 2, 1)
    >>> hard_no_box_delta_p(clean, adversarial, torch.ones(1, 1, 1, dtype=torch.bool), bone)
    tensor([2.])
    """
    bones = skeleton.bone_lengths(adversarial) - skeleton.bone_lengths(clean)
    return basar_l(clean, adversarial, valid) + masked_mean(torch.linalg.vector_norm(bones, dim=-1), valid)


def npss(clean: Float[Tensor, "N T D"], adversarial: Float[Tensor, "N T D"]) -> Float[Tensor, " N"]:
    """Normalised power spectrum similarity of sequences of features, joint angles in the paper, by its formula.

    For each feature the power at each of the T frequencies of the transform, the mean included, over its sum; the sum
    over frequencies of ``|CDF' - CDF|``; the mean over features, weighted by their clean power. A feature without power
    has a distribution of zeros. No unit; NaN without any clean power.

    Published code makes one figure of a whole set, the mean over clips and features by clean power; this is one for
    each clip. Much of that code keeps only the real part of the transform (it writes complex numbers into an array of
    real ones, or takes ``np.real``), so that its figure changes when both motions start a little later. That is not
    repeated. `funnybone.metrics.npss` says how ours, of positions, differs.

    Examples
    --------
    >>> turns = 2 * torch.pi * torch.arange(60) / 60
    >>> slow, fast = (torch.sin(n * turns).reshape(1, 60, 1) for n in (3, 5))
    >>> npss(slow, fast)
    tensor([2.])
    """
    before, after = (torch.fft.fft(values.double(), dim=1).abs().square() for values in (clean, adversarial))
    weight, total = before.sum(1), after.sum(1)
    tiny = torch.finfo(torch.float64).tiny
    change = after / total.clamp(min=tiny)[:, None] - before / weight.clamp(min=tiny)[:, None]
    return ((weight * change.cumsum(1).abs().sum(1)).sum(1) / weight.sum(1)).to(clean.dtype)


def _change(clean: Tensor, adversarial: Tensor, valid: Tensor, order: int) -> Tensor:
    """Sum over frames and joints of the squared change of a derivative at 30 Hz."""
    rate = clean.new_full((len(clean),), RATE)
    return _sum(derivative(adversarial - clean, rate, order).square().sum(-1), stencil(valid, order)[..., None])


def _sum(values: Tensor, where: Tensor) -> Tensor:
    """Sum of each clip's values where the mask holds."""
    return torch.where(where, values, 0).flatten(1).sum(1)
