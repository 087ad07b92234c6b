"""How far an adversarial motion is from the clean one.

Everywhere: ``clean`` and ``adversarial`` are (N, M, T, V, C) positions in metres, or in the clips' unit where that is
another; ``valid`` (N, M, T) says which frames of which persons count; ``fps`` (N,) makes derivatives physical. What
comes back is (N,), one figure for each clip, NaN where a clip has too few valid frames for it. BASAR's tables are those
of Diao et al., "BASAR: Black-box Attack on Skeletal Action Recognition", CVPR 2021; its code's own definitions are in
`funnybone.metrics.published`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.clips import Clips
from funnybone.metrics.spectrum import npss
from funnybone.motion.dynamics import derivative, stencil
from funnybone.motion.kinematics import joint_angles
from funnybone.skeletons import Skeleton


def masked_mean(values: Float[Tensor, "N ..."], where: Bool[Tensor, "N ..."]) -> Float[Tensor, " N"]:
    """Mean of each clip's values where the mask (broadcast to them) holds; NaN where it holds nowhere."""
    where = where.expand_as(values)
    return torch.where(where, values, 0).flatten(1).sum(1) / where.flatten(1).sum(1)


def _derivative_deviation(clean: Tensor, adversarial: Tensor, valid: Tensor, fps: Tensor, order: int) -> Tensor:
    change = torch.linalg.vector_norm(derivative(adversarial - clean, fps, order), dim=-1)
    return masked_mean(change, stencil(valid, order)[..., None])


def joint_displacement(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Mean distance between clean and adversarial joints, in metres; ``l`` of the BASAR tables.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 2, 3, 3)
    >>> joint_displacement(clean, clean + torch.tensor([0.03, 0.0, 0.04]), torch.ones(1, 1, 2, dtype=torch.bool))
    tensor([0.0500])
    """
    return _derivative_deviation(clean, adversarial, valid, clean.new_ones(len(clean)), 0)


def max_joint_displacement(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Largest distance between a clean and an adversarial joint, over joints and valid frames, in metres.

    The one joint that jumps in one frame, which a mean over all of them hides.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 2, 3, 3)
    >>> adversarial = clean.clone()
    >>> adversarial[0, 0, 1, 2] = torch.tensor([0.03, 0.0, 0.04])
    >>> max_joint_displacement(clean, adversarial, torch.ones(1, 1, 2, dtype=torch.bool))
    tensor([0.0500])
    """
    distance = torch.linalg.vector_norm(adversarial - clean, dim=-1)
    largest = torch.where(valid[..., None], distance, 0).amax((1, 2, 3))
    return torch.where(valid.flatten(1).any(1), largest, torch.nan)


def velocity_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Mean norm of the change of joint velocity, in m/s.

    Examples
    --------
    One frame of four is moved by a centimetre: two of the three velocities change by 1 cm in 1/30 s.

    >>> clean = torch.zeros(1, 1, 4, 1, 3)
    >>> adversarial = clean.clone()
    >>> adversarial[0, 0, 1] += torch.tensor([0.01, 0.0, 0.0])
    >>> velocity_deviation(clean, adversarial, torch.ones(1, 1, 4, dtype=torch.bool), torch.tensor([30.0]))
    tensor([0.2000])
    """
    return _derivative_deviation(clean, adversarial, valid, fps, 1)


def acceleration_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Mean norm of the change of joint acceleration, in m/s^2; ``delta a`` of the BASAR tables.

    Examples
    --------
    One frame of four is moved by a centimetre: the two accelerations change by 2 and by 1 cm in (1/30 s)^2.

    >>> clean = torch.zeros(1, 1, 4, 1, 3)
    >>> adversarial = clean.clone()
    >>> adversarial[0, 0, 1] += torch.tensor([0.01, 0.0, 0.0])
    >>> acceleration_deviation(clean, adversarial, torch.ones(1, 1, 4, dtype=torch.bool), torch.tensor([30.0]))
    tensor([13.5000])
    """
    return _derivative_deviation(clean, adversarial, valid, fps, 2)


def jerk_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Mean norm of the change of joint jerk, the third derivative of position, in m/s^3.

    People move with little jerk (Flash and Hogan, "The coordination of arm movements", J. Neuroscience 5(7), 1985),
    and noise has much of it: the figure grows with the third power of the frame rate at which noise was added.

    Examples
    --------
    One frame of four is moved by a centimetre: the one jerk changes by 3 cm in (1/30 s)^3.

    >>> clean = torch.zeros(1, 1, 4, 1, 3)
    >>> adversarial = clean.clone()
    >>> adversarial[0, 0, 1] += torch.tensor([0.01, 0.0, 0.0])
    >>> jerk_deviation(clean, adversarial, torch.ones(1, 1, 4, dtype=torch.bool), torch.tensor([30.0]))
    tensor([810.])
    """
    return _derivative_deviation(clean, adversarial, valid, fps, 3)


def joint_angle_acceleration_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Mean absolute change of the second derivative of the angles between bones, in rad/s^2.

    The BASAR tables' ``delta alpha`` is of the angles of their own joint parametrisation, which is not published;
    this one is of `funnybone.motion.kinematics.joint_angles`, over all bones that hang on another bone.

    Examples
    --------
    A straight arm that is bent by a right angle in one frame of three: its angle changes by -2 (pi / 2) / (1/30 s)^2.

    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> clean = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.6, 0.0]]).expand(1, 1, 3, 3, 2)
    >>> adversarial = clean.clone()
    >>> adversarial[0, 0, 1, 2] = torch.tensor([0.3, 0.3])
    >>> valid = torch.ones(1, 1, 3, dtype=torch.bool)
    >>> joint_angle_acceleration_deviation(clean, adversarial, valid, torch.tensor([30.0]), arm).div(torch.pi).round()
    tensor([900.])
    """
    before, after = (derivative(joint_angles(xyz, skeleton), fps, 2) for xyz in (clean, adversarial))
    return masked_mean((after - before).abs(), stencil(valid, 2)[..., None])


def bone_length_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Mean relative change of bone length, ``delta B / B`` of the BASAR tables; 0.01 is one per cent.

    For each clip, the mean over valid frames, persons and bones of ``|b' - b| / b``. Bones without length are left
    out.

    Examples
    --------
    An upper arm of 30 cm is made 3 cm longer, a forearm of 25 cm is not: 10 % and 0.

    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> clean = torch.tensor([[0.0, 0.0], [0.30, 0.0], [0.55, 0.0]]).expand(1, 1, 1, 3, 2)
    >>> adversarial = torch.tensor([[0.0, 0.0], [0.33, 0.0], [0.58, 0.0]]).expand(1, 1, 1, 3, 2)
    >>> bone_length_deviation(clean, adversarial, torch.ones(1, 1, 1, dtype=torch.bool), arm)
    tensor([0.0500])
    """
    before, after = (skeleton.bone_lengths(xyz) for xyz in (clean, adversarial))
    solid = valid[..., None] & (before > 0)
    return masked_mean((after - before).abs() / torch.where(solid, before, 1), solid)


def deviations(clips: Clips, adversarial: Float[Tensor, "N M T V C"]) -> dict[str, Float[Tensor, " N"]]:
    """Return every figure of the tables for each clip, under the names that the ledger and ``audit.json`` use.

    The ledger keeps all of them for each clip, ``audit.json`` has their means.

    Returns
    -------
    dict
        ``position_m`` and ``max_position_m`` (m), ``velocity`` (m/s), ``acceleration`` (m/s^2), ``jerk`` (m/s^3),
        ``joint_angle_acceleration`` (rad/s^2), ``bone_length_change`` (a share) and ``npss`` (no unit); NaN where a
        clip has too few valid frames.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(2)
    >>> moved = deviations(clips, clips.xyz + 0.01)
    >>> moved["position_m"].round(decimals=4)  # by 1 cm along three axes
    tensor([0.0173, 0.0173])
    """
    common = (clips.xyz, adversarial, clips.valid)
    return {
        "position_m": joint_displacement(*common),
        "max_position_m": max_joint_displacement(*common),
        "velocity": velocity_deviation(*common, clips.fps),
        "acceleration": acceleration_deviation(*common, clips.fps),
        "jerk": jerk_deviation(*common, clips.fps),
        "joint_angle_acceleration": joint_angle_acceleration_deviation(*common, clips.fps, clips.skeleton),
        "bone_length_change": bone_length_deviation(*common, clips.skeleton),
        "npss": npss(*common),
    }
