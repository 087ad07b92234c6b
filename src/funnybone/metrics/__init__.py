"""What an attack changed, in physical units. One figure for each clip, over valid frames and persons only."""

from funnybone.metrics.deviations import (
    acceleration_deviation,
    bone_length_deviation,
    deviations,
    joint_angle_acceleration_deviation,
    joint_displacement,
    velocity_deviation,
)
from funnybone.metrics.intervals import wilson

__all__ = [
    "acceleration_deviation",
    "bone_length_deviation",
    "deviations",
    "joint_angle_acceleration_deviation",
    "joint_displacement",
    "velocity_deviation",
    "wilson",
]
