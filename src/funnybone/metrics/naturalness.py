"""Whether a motion still looks as if a person had made it: feet that slide, bones that breathe, energy from nowhere.

Shapes and units are those of `funnybone.metrics.deviations`. Figures of one motion (``xyz``) say little alone, since
recordings are not perfect either: compare the adversarial clip's with the clean clip's.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.metrics.deviations import masked_mean
from funnybone.motion.dynamics import derivative, stencil
from funnybone.skeletons import Skeleton

HEIGHT = 0.05  # m above the floor
SLIDING = 0.5  # m/s along the floor: 2.5 cm in a twentieth of a second
RISING = 0.25  # m/s off the floor or onto it
_FLOOR = 0.05  # share of the feet's heights that may lie below the floor


def kinetic_energy_rate(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """By which share the kinetic energy of a clip has changed: ``|sum v'^2 / sum v^2 - 1|``, all joints of one mass.

    Sums are over valid frames, persons and joints. NaN where nothing moves in the clean clip.

    References
    ----------
    Zheng et al., "Towards Understanding the Adversarial Vulnerability of Skeleton-based Action Recognition",
    arXiv 2005.07151: a figure of its tables.

    Examples
    --------
    Ten per cent faster is twenty-one per cent more energy.

    >>> clean = torch.tensor([0.0, 0.1, 0.3]).reshape(1, 1, 3, 1, 1)
    >>> kinetic_energy_rate(clean, 1.1 * clean, torch.ones(1, 1, 3, dtype=torch.bool))
    tensor([0.2100])
    """
    before, after = (_speeds(xyz, valid, 1).square().flatten(1).sum(1) for xyz in (clean, adversarial))
    return _ratio(after, before).sub(1).abs().to(clean.dtype)


def jerk_ratio(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Mean jerk of the adversarial motion over that of the clean one: 1 as smooth as before, 2 twice as jerky.

    Jerk is the norm of the third derivative of a joint's position, averaged over valid frames, persons and joints. A
    ratio needs no frame rate, and a noisy recording hides noise. NaN where the clean clip has no jerk.

    References
    ----------
    Flash and Hogan, "The coordination of arm movements: an experimentally confirmed mathematical model", Journal of
    Neuroscience 5(7), 1985: people minimise jerk. The ratio is this library's.

    Examples
    --------
    >>> clean = torch.tensor([0.0, 0.0, 0.0, 0.1]).reshape(1, 1, 4, 1, 1)
    >>> jerk_ratio(clean, 3 * clean, torch.ones(1, 1, 4, dtype=torch.bool))
    tensor([3.])
    """
    before, after = (_speeds(xyz, valid, 3).flatten(1).sum(1) for xyz in (clean, adversarial))
    return _ratio(after, before).to(clean.dtype)


def bone_length_variation(
    xyz: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"], skeleton: Skeleton
) -> Float[Tensor, " N"]:
    """Mean coefficient of variation of bone length over time, standard deviation over mean; 0.01 is one per cent.

    A figure of one motion, for each person over the valid frames, then the mean over persons and bones with a length.
    Bones of people are rigid, and those of marker-based recordings nearly so: more than one per cent can be seen.

    Examples
    --------
    A bone of 20 cm that is 1 cm shorter in half of the frames, and longer in the others.

    >>> bone = Skeleton("bone", ("elbow", "wrist"), (-1, 0))
    >>> xyz = torch.tensor([[0.0, 0.19], [0.0, 0.21], [0.0, 0.19], [0.0, 0.21]]).reshape(1, 1, 4, 2, 1)
    >>> bone_length_variation(xyz, torch.ones(1, 1, 4, dtype=torch.bool), bone)
    tensor([0.0500])
    """
    there, frames = valid[..., None], valid.sum(2).clamp(min=1)[..., None]
    lengths = torch.where(there, skeleton.bone_lengths(xyz.double()), 0)
    mean = lengths.sum(2) / frames
    deviation = (torch.where(there, lengths - mean[:, :, None], 0).square().sum(2) / frames).sqrt()
    solid = mean > 0
    return masked_mean(deviation / torch.where(solid, mean, 1), solid).to(xyz.dtype)


def feet(skeleton: Skeleton) -> tuple[int, ...]:
    """Return the joints nearest to the floor when standing, by their names: toes, else feet, else ankles.

    Raises
    ------
    DataError
        When no joint is named so.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> [NTU25.joints[joint] for joint in feet(NTU25)]
    ['FootL', 'FootR']
    """
    names = [joint.lower() for joint in skeleton.joints]
    for word in ("toe", "foot", "ankle"):
        if found := tuple(joint for joint, name in enumerate(names) if word in name):
            return found
    raise DataError(f"skeleton {skeleton.name!r} has no joint named toe, foot or ankle", hint="give joints=(...)")


def foot_contact(
    xyz: Float[Tensor, "N M T V 3"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
    skeleton: Skeleton,
    up: Literal["x", "y", "z"],
    *,
    joints: Sequence[int] | None = None,
) -> Bool[Tensor, "N M T_less_1 F"]:
    """Return from which frame to the next each foot is on the floor: low in both, and neither rising nor falling.

    Low is less than 5 cm above the clip's own floor, the height below which 5 % of its feet are: the lowest of all
    would be one frame's error of tracking. Rising or falling is 0.25 m/s and more; without that rule a foot that is
    swung forward close to the floor would be in contact.

    Parameters
    ----------
    xyz : Float[Tensor, "N M T V 3"]
        Positions in metres, three-dimensional, on one level floor; a tilted camera must be levelled before.
    up : {"x", "y", "z"}
        The vertical axis, as `Clips.up` has it.
    joints : sequence of int, optional
        The feet; left out, those of `feet`.

    Raises
    ------
    DataError
        For positions in a plane, or a skeleton whose feet cannot be told by name.

    Examples
    --------
    >>> leg = Skeleton("leg", ("knee", "toe"), (-1, 0))
    >>> heights = torch.tensor([0.0, 0.0, 0.2, 0.4])  # stands, then steps up
    >>> xyz = torch.zeros(1, 1, 4, 2, 3)
    >>> xyz[0, 0, :, 1, 1] = heights
    >>> valid = torch.ones(1, 1, 4, dtype=torch.bool)
    >>> foot_contact(xyz, valid, torch.tensor([30.0]), leg, "y").flatten()
    tensor([ True, False, False])
    """
    if xyz.shape[-1] != 3:
        raise DataError(f"positions have {xyz.shape[-1]} coordinates", hint="a floor needs three, in metres")
    place, there = xyz[..., list(joints or feet(skeleton)), :], valid[..., None]
    axis = "xyz".index(up)
    height = place[..., axis]
    ranked = torch.where(there, height, torch.inf).flatten(1).sort(1).values
    below = (_FLOOR * (there.expand_as(height).flatten(1).sum(1, keepdim=True) - 1)).clamp(min=0).long()
    low = there & (height < ranked.gather(1, below)[..., None, None] + HEIGHT)
    rising = derivative(height, fps, 1).abs() >= RISING
    return low[:, :, 1:] & low[:, :, :-1] & ~rising


def foot_skate(
    xyz: Float[Tensor, "N M T V 3"],
    valid: Bool[Tensor, "N M T"],
    fps: Float[Tensor, " N"],
    skeleton: Skeleton,
    up: Literal["x", "y", "z"],
    *,
    joints: Sequence[int] | None = None,
    contact: Bool[Tensor, "N M T_less_1 F"] | None = None,
) -> Float[Tensor, " N"]:
    """Share of a clip's foot contacts in which the foot slides along the floor; NaN without any contact.

    A figure of one motion. Sliding is faster than 0.5 m/s horizontally, 2.5 cm in a twentieth of a second. For an
    adversarial clip give the contacts of the clean one: its feet should stand where they stood, and a foot that the
    attack makes tremble or lifts off the floor would no longer count as in contact.

    Parameters
    ----------
    xyz, up, joints
        As for `foot_contact`.
    contact : Bool[Tensor, "N M T_less_1 F"], optional
        Contacts to judge; left out, those of ``xyz`` itself by `foot_contact`.

    References
    ----------
    Heights and sliding follow Karunratanakul et al., "Guided Motion Diffusion for Controllable Human Motion Synthesis",
    ICCV 2023, whose code (20 frames a second) divides by all frames instead of contacts, averages speeds over five
    frames, and takes any low foot for one in contact.

    Examples
    --------
    One foot slides by 5 cm a frame, at 30 frames a second. Another is at rest.

    >>> legs = Skeleton("legs", ("hips", "toeL", "toeR"), (-1, 0, 0))
    >>> xyz = torch.zeros(1, 1, 5, 3, 3)
    >>> xyz[0, 0, :, 1, 0] = 0.05 * torch.arange(5)
    >>> foot_skate(xyz, torch.ones(1, 1, 5, dtype=torch.bool), torch.tensor([30.0]), legs, "y")
    tensor([0.5000])
    """
    joints = joints or feet(skeleton)
    if contact is None:
        contact = foot_contact(xyz, valid, fps, skeleton, up, joints=joints)
    level = [axis for axis in range(3) if axis != "xyz".index(up)]
    along = torch.linalg.vector_norm(derivative(xyz[..., list(joints), :][..., level], fps, 1), dim=-1)
    return masked_mean((along > SLIDING).to(xyz.dtype), contact & stencil(valid, 1)[..., None])


def _speeds(xyz: Tensor, valid: Tensor, order: int) -> Tensor:
    """Norms of a derivative per frame, in float64; zero where a frame it needs is not valid."""
    one = torch.ones(len(xyz), dtype=torch.float64, device=xyz.device)
    norm = torch.linalg.vector_norm(derivative(xyz.double(), one, order), dim=-1)
    return torch.where(stencil(valid, order)[..., None], norm, 0)


def _ratio(after: Tensor, before: Tensor) -> Tensor:
    return torch.where(before > 0, after / before, torch.nan)
