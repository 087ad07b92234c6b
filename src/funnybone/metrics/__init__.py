"""What an attack changed, in physical units. One figure for each clip, over valid frames and persons only."""

from funnybone.metrics import published
from funnybone.metrics.deviations import (
    acceleration_deviation,
    bone_length_deviation,
    deviations,
    jerk_deviation,
    joint_angle_acceleration_deviation,
    joint_displacement,
    max_joint_displacement,
    velocity_deviation,
)
from funnybone.metrics.intervals import wilson
from funnybone.metrics.natural import NaturalMotion, learn_natural_motion, load_natural_motion, on_manifold_rate
from funnybone.metrics.naturalness import (
    bone_length_variation,
    foot_contact,
    foot_skate,
    jerk_ratio,
    kinetic_energy_rate,
)
from funnybone.metrics.spectrum import high_frequency_ratio, npss

__all__ = [
    "NaturalMotion",
    "acceleration_deviation",
    "bone_length_deviation",
    "bone_length_variation",
    "deviations",
    "foot_contact",
    "foot_skate",
    "high_frequency_ratio",
    "jerk_deviation",
    "jerk_ratio",
    "joint_angle_acceleration_deviation",
    "joint_displacement",
    "kinetic_energy_rate",
    "learn_natural_motion",
    "load_natural_motion",
    "max_joint_displacement",
    "npss",
    "on_manifold_rate",
    "published",
    "velocity_deviation",
    "wilson",
]
