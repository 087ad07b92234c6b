"""How far an adversarial motion is from the clean one."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.clips import Clips
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


def velocity_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Mean norm of the change of joint velocity, in m/s."""
    return _derivative_deviation(clean, adversarial, valid, fps, 1)


def acceleration_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Mean norm of the change of joint acceleration, in m/s^2; ``delta a`` of the BASAR tables."""
    return _derivative_deviation(clean, adversarial, valid, fps, 2)


def joint_angle_acceleration_deviation(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
    skeleton: Skeleton,
) -> Float[Tensor, " N"]:
    """Mean absolute change of the second derivative of the angles between bones, in rad/s^2.

    The BASAR tables' ``delta alpha`` is of the angles of their own joint parametrisation, which is not published;
    this one is of `funnybone.motion.kinematics.joint_angles`.
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
    """
    before, after = (skeleton.bone_lengths(xyz) for xyz in (clean, adversarial))
    solid = valid[..., None] & (before > 0)
    return masked_mean((after - before).abs() / torch.where(solid, before, 1), solid)


def deviations(clips: Clips, adversarial: Float[Tensor, "N M T V C"]) -> dict[str, Float[Tensor, " N"]]:
    """Return every figure of the tables for each clip, under the names that ``audit.json`` uses.

    Returns
    -------
    dict
        ``position_m`` (m), ``velocity`` (m/s), ``acceleration`` (m/s^2), ``joint_angle_acceleration`` (rad/s^2) and
        ``bone_length_change`` (a share); NaN where a clip has too few valid frames.
    """
    common = (clips.xyz, adversarial, clips.valid)
    return {
        "position_m": joint_displacement(*common),
        "velocity": velocity_deviation(*common, clips.fps),
        "acceleration": acceleration_deviation(*common, clips.fps),
        "joint_angle_acceleration": joint_angle_acceleration_deviation(*common, clips.fps, clips.skeleton),
        "bone_length_change": bone_length_deviation(*common, clips.skeleton),
    }
