"""How an action is written down: for each joint the angles that it passes through.

A track maps phase to degrees: ``((0, 0), (0.5, 90), (1, 0))``. Names are those of ``body.DOFS``, in which ``both``
stands for left and right at once and ``each`` for both sides, the left one half a cycle later. Hips and ankles are
meant relative to the floor (see ``body.stand_on_floor``). What a track does not mention rests.

``pose`` tracks run once, from 0 to 1, over the action's seconds; ``cycle`` tracks give degrees added to the pose and
repeat with the action's hertz; ``manner`` tracks are degrees added to the pose times a number between -1 and 1 that is
drawn for each clip: the same thing is done in more than one way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Track = tuple[tuple[float, float], ...]
Tracks = Mapping[str, Track]


@dataclass(frozen=True)
class Role:
    """What one person does in an action.

    Parameters
    ----------
    pose, cycle, manner : mapping of str to track
        Degrees over phase: once, repeated, and by manner.
    steady : float
        How much of the person's own posture and unsteadiness the action takes away (0 to 1) from the joints it moves.
    touch : tuple of str
        Joints whose mean meets the partner's, or the floor, at ``Action.contact``.
    reach : tuple of str
        Pose tracks that are made larger or smaller until the touch has the height of what it meets.
    """

    pose: Tracks = field(default_factory=dict)
    cycle: Tracks = field(default_factory=dict)
    manner: Tracks = field(default_factory=dict)
    steady: float = 0.0
    touch: tuple[str, ...] = ()
    reach: tuple[str, ...] = ()


@dataclass(frozen=True)
class Action:
    """One class of motion.

    Parameters
    ----------
    name : str
        Name of the class.
    roles : tuple of Role
        One or two persons.
    seconds : float
        Typical duration of the pose tracks; 0 when the action fills the clip from end to end.
    hertz : float
        Typical rate of the cycle tracks.
    size : (float, float)
        How small and how large it is done, as a factor of the degrees written down.
    turn : float
        How far the person typically turns, radians: from end to end of a clip that the action fills, else on the spot
        while it begins.
    during : track
        How strongly the cycle tracks act (0 to 1) over the phase of the pose tracks.
    flight : tuple of (float, float)
        Phases in the air: of the pose, or of the cycle when ``seconds`` is 0.
    contact : float, optional
        Phase at which the two persons touch each other, or the one person the floor.
    height : (float, float)
        Metres above the floor, from and to, at which one person touches.
    gap : float
        Metres by which the first person's touch stays short of the second's.
    handed : bool
        Whether left-handed persons do it the other way round.
    """

    name: str
    roles: tuple[Role, ...]
    seconds: float = 0.0
    hertz: float = 0.0
    size: tuple[float, float] = (0.8, 1.1)
    turn: float = 0.9
    during: Track = ((0, 1), (1, 1))
    flight: tuple[tuple[float, float], ...] = ()
    contact: float | None = None
    height: tuple[float, float] = (0.0, 0.0)
    gap: float = 0.0
    handed: bool = True
