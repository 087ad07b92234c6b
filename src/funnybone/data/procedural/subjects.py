"""Virtual subjects: bodies of their own, and a manner of moving that stays theirs from clip to clip."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from funnybone.data.procedural import chance
from funnybone.data.procedural.body import DOFS, PROPORTIONS


def _mirrored(pose: Mapping[str, float]) -> Mapping[str, float]:
    return {name.replace("left", "right"): degrees for name, degrees in pose.items()}


# Standard deviation of a subject's posture, degrees, by joint, or by movement where the joint's would be too little.
_POSTURE = {"pelvis": 2.0, "pelvis twist": 9.0, "spine": 3.0, "chest": 3.0, "chest twist": 6.0, "neck": 5.0,
            "shoulder": 7.0, "elbow": 10.0, "wrist": 9.0, "hip": 1.5, "knee": 2.5, "ankle": 0.8}  # fmt: skip
POSTURE: Float[np.ndarray, " D"] = np.deg2rad(
    [_POSTURE.get(name, _POSTURE.get(name.split()[-2], 0.0)) for name in DOFS]
)

# How the arms are held when they have nothing to do, in degrees beyond hanging, and how often.
_LEFT_HIP: Mapping[str, float] = {
    "left shoulder abduct": 32,
    "left shoulder flex": -18,
    "left shoulder twist": 30,
    "left elbow flex": 78,
}
_LEFT_BELLY: Mapping[str, float] = {"left shoulder flex": 12, "left shoulder twist": 48, "left elbow flex": 76}
_CARRIAGES: tuple[tuple[float, Mapping[str, float]], ...] = (
    (0.34, {}),
    (0.11, _LEFT_HIP),
    (0.11, _mirrored(_LEFT_HIP)),
    (0.11, {**_LEFT_HIP, **_mirrored(_LEFT_HIP)}),
    (0.11, _LEFT_BELLY),
    (0.11, _mirrored(_LEFT_BELLY)),
    (0.11, {**_LEFT_BELLY, **_mirrored(_LEFT_BELLY)}),
)

_VARIATION = {"hips": 0.09, "shoulders": 0.06, "hand": 0.06, "foot": 0.06}


@dataclass(frozen=True)
class Subjects:
    """P persons.

    Parameters
    ----------
    lengths : Float[np.ndarray, "P 13"]
        The lengths named in ``body.PROPORTIONS``, metres.
    posture : Float[np.ndarray, "P D"]
        How their angles at rest differ from the textbook's, radians.
    tempo : Float[np.ndarray, " P"]
        Standard normal: the hasty have more than 0.
    vigour : Float[np.ndarray, " P"]
        Standard normal: the expansive have more than 0.
    left_handed : Bool[np.ndarray, " P"]
        Whether they use the left hand and foot first.
    """

    lengths: Float[np.ndarray, "P 13"]
    posture: Float[np.ndarray, "P D"]
    tempo: Float[np.ndarray, " P"]
    vigour: Float[np.ndarray, " P"]
    left_handed: Bool[np.ndarray, " P"]

    def __getitem__(self, rows: Int[np.ndarray, " Q"]) -> "Subjects":
        return Subjects(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def subjects(keys: UInt64[np.ndarray, " P"]) -> Subjects:
    """Return the person that belongs to each key.

    Examples
    --------
    >>> from funnybone.data.procedural.chance import key
    >>> subjects(key(0, np.arange(100))).lengths.shape
    (100, 13)
    """
    stature = 1.70 + 0.09 * chance.normal(keys, "stature", 1)
    # Long-legged and long-armed persons are so in all their leg and arm bones.
    legs, arms = np.moveaxis(0.035 * chance.normal(keys, "limbs", 2), -1, 0)
    own = chance.normal(keys, "proportions", len(PROPORTIONS))
    shares = np.empty_like(own)
    for column, (part, share) in enumerate(PROPORTIONS.items()):
        common = legs if part in ("thigh", "shank") else arms if part in ("upper arm", "forearm", "hand") else 0.0
        shares[:, column] = share * (1 + common + _VARIATION.get(part, 0.02) * own[:, column])
    return Subjects(
        lengths=stature * shares,
        posture=POSTURE * bilateral(keys, "posture"),
        tempo=chance.normal(keys, "tempo"),
        vigour=chance.normal(keys, "vigour"),
        left_handed=chance.uniform(keys, "left-handed") < 0.15,
    )


def bilateral(keys: UInt64[np.ndarray, " P"], purpose: str) -> Float[np.ndarray, "P D"]:
    """Return standard normal numbers for all joint angles: ``(P, D)``; left and right correlate by 0.85."""
    own = chance.normal(keys, purpose, len(DOFS))
    left = [DOFS.index(name.replace("right", "left")) for name in DOFS]
    alike = np.where([name.startswith("right") for name in DOFS], 0.85, 0.0)
    return alike * own[:, left] + np.sqrt(1 - alike**2) * own


def carriage(keys: UInt64[np.ndarray, " P"]) -> Float[np.ndarray, "P D"]:
    """Return how each person holds the arms for this once, radians beyond hanging."""
    share, poses = zip(*_CARRIAGES, strict=True)
    which = np.searchsorted(np.cumsum(share)[:-1], chance.uniform(keys, "carriage"))
    return np.deg2rad([[pose.get(name, 0.0) for name in DOFS] for pose in poses])[which]
