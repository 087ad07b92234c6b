"""From the written actions to moving joints: every clip, frame and joint angle at once."""

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from funnybone.data.procedural import body, chance
from funnybone.data.procedural.actions import ACTIONS
from funnybone.data.procedural.notation import Track, Tracks
from funnybone.data.procedural.subjects import POSTURE, Subjects, bilateral, carriage

GRAVITY = 9.81  # m/s2
_SAMPLES = 512  # of a track over its phase

# Where each action's roles begin in the list of all roles.
ROLES = [(action, role) for action in ACTIONS for role in action.roles]
FIRST_ROLE: Int[np.ndarray, " A"] = np.cumsum([0, *(len(action.roles) for action in ACTIONS)])[:-1]


@dataclass(frozen=True)
class _Tables:
    """The written actions as numbers: R roles, A actions, D joint angles in radians, K samples over a phase."""

    pose: Float[np.ndarray, "R D K"]
    cycle: Float[np.ndarray, "R D K"]
    manner: Float[np.ndarray, "R D K"]
    steady: Float[np.ndarray, " R"]
    uses: Bool[np.ndarray, "R D"]
    during: Float[np.ndarray, "A K"]
    seconds: Float[np.ndarray, " A"]
    hertz: Float[np.ndarray, " A"]
    size: Float[np.ndarray, "A 2"]
    turn: Float[np.ndarray, " A"]
    takeoff: Float[np.ndarray, "A F"]
    airborne: Float[np.ndarray, "A F"]
    handed: Bool[np.ndarray, " A"]


def _sample(track: Track, periodic: bool = False) -> Float[np.ndarray, " K"]:
    """A track's values from phase 0 to 1: through all its points, without overshoot, at rest at the ends."""
    from scipy.interpolate import PchipInterpolator  # takes longer to import than naming a data set may take

    phase, value = np.array(track, float).T
    if periodic:
        phase, value = np.concatenate([phase - 1, phase, phase + 1]), np.tile(value, 3)
    else:
        phase = np.concatenate([[phase[0] - 0.2], phase, [phase[-1] + 0.2]])
        value = np.concatenate([value[:1], value, value[-1:]])
    return PchipInterpolator(phase, value)(np.linspace(0, 1, _SAMPLES + 1))


def _columns(tracks: Tracks, start: Float[np.ndarray, " D"], periodic: bool = False) -> Float[np.ndarray, "D K"]:
    """Tracks over all joint angles, as radians beyond ``start``."""
    table = np.zeros((len(body.DOFS), _SAMPLES + 1))
    for name, track in tracks.items():
        values = np.deg2rad(_sample(track, periodic))
        which, movement = name.split(" ", 1)
        sides = [f"left {movement}", f"right {movement}"] if which in ("both", "each") else [name]
        for side in sides:
            column = body.DOFS.index(side)
            late = which == "each" and side.startswith("left")
            table[column] = (
                np.append(np.roll(values[:-1], _SAMPLES // 2), values[_SAMPLES // 2]) if late else values
            ) - start[column]
    return table


@cache
def _tables() -> _Tables:
    none = np.zeros(len(body.DOFS))
    flights = max(len(action.flight) for action in ACTIONS)
    # An action with fewer flights takes off after its end.
    padded = np.array([[*action.flight, *[(9.0, 9.1)] * (flights - len(action.flight))] for action in ACTIONS])
    return _Tables(
        pose=np.stack([_columns(role.pose, body.REST) for _, role in ROLES]),
        cycle=np.stack([_columns(role.cycle, none, periodic=True) for _, role in ROLES]),
        manner=np.stack([_columns(role.manner, none) for _, role in ROLES]),
        steady=np.array([role.steady for _, role in ROLES]),
        uses=np.stack([_columns(role.pose, none).any(-1) for _, role in ROLES]),
        during=np.stack([_sample(action.during) for action in ACTIONS]),
        seconds=np.array([action.seconds for action in ACTIONS]),
        hertz=np.array([action.hertz for action in ACTIONS]),
        size=np.array([action.size for action in ACTIONS]),
        turn=np.array([action.turn for action in ACTIONS]),
        takeoff=padded[..., 0],
        airborne=padded[..., 1] - padded[..., 0],
        handed=np.array([action.handed for action in ACTIONS]),
    )


def _read(
    table: Float[np.ndarray, "R *C K"], row: Int[np.ndarray, "..."], phase: Float[np.ndarray, "..."]
) -> np.ndarray:
    """Linear interpolation in one row of the table for each phase between 0 and 1."""
    flat = table.reshape(-1)
    place = phase * _SAMPLES
    low = np.minimum(place.astype(np.int64), _SAMPLES - 1)
    index = row * (_SAMPLES + 1) + low
    value = flat[index]
    return value + (place - low) * (flat[index + 1] - value)


@dataclass(frozen=True)
class Cast:
    """Who does what: P persons.

    Parameters
    ----------
    action, role : Int[np.ndarray, " P"]
        Index into ``ACTIONS`` and into the action's roles.
    clip, person : UInt64[np.ndarray, " P"]
        Keys of what the persons of one clip share (when they move) and of what each has alone (how they move).
    leader : Subjects
        Whose tempo and hand the clip has.
    subject : Subjects
        Who each person is.
    """

    action: Int[np.ndarray, " P"]
    role: Int[np.ndarray, " P"]
    clip: UInt64[np.ndarray, " P"]
    person: UInt64[np.ndarray, " P"]
    leader: Subjects
    subject: Subjects

    def __getitem__(self, rows: Int[np.ndarray, " Q"]) -> "Cast":
        return Cast(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Clock:
    """Where each person is in the action: phases over time, and the metres between soles and floor."""

    phase: Float[np.ndarray, "P T"]
    cycle: Float[np.ndarray, "P T"]
    flight: Float[np.ndarray, "P T"]
    onset: Float[np.ndarray, " P"]
    seconds: Float[np.ndarray, " P"]
    hertz: Float[np.ndarray, " P"]

    def __getitem__(self, rows: Int[np.ndarray, " Q"]) -> "Clock":
        return Clock(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def clock(cast: Cast, seconds: Float[np.ndarray, " T"]) -> Clock:
    """Return when each person does what; the persons of one clip share it."""
    tables = _tables()
    length = seconds[-1] + seconds[1]
    hurry = np.exp(0.11 * cast.leader.tempo + 0.15 * chance.normal(cast.clip, "tempo"))
    lasts = np.where(tables.seconds[cast.action] > 0, tables.seconds[cast.action] / hurry, length)
    hertz = tables.hertz[cast.action] * np.exp(0.10 * cast.leader.tempo + 0.12 * chance.normal(cast.clip, "hertz"))
    # A pause before, a pause after; who is slow may be cut off at the very end, where the action is all but over.
    first, last = -0.22 * lasts, length - 0.64 * lasts
    onset = np.where(tables.seconds[cast.action] > 0, first + (last - first) * chance.uniform(cast.clip, "onset"), 0.0)
    drift = chance.wander(cast.clip, "clock", seconds, 1)[..., 0]
    phase = np.clip((seconds - onset[:, None]) / lasts[:, None] + 0.012 * drift, 0, 1)
    cycle = chance.uniform(cast.clip, "cycle")[:, None] + hertz[:, None] * seconds + 0.03 * drift
    gated = (tables.seconds > 0)[cast.action, None]
    rate = np.where(gated[:, 0], 1 / lasts, hertz)
    # A body in the air falls: the time between take-off and landing sets the height.
    turn = np.where(gated, phase, cycle % 1.0)[..., None]
    airborne = tables.airborne[cast.action][:, None]
    share = np.clip((turn - tables.takeoff[cast.action][:, None]) / airborne, 0, 1)
    air_time = airborne / rate[:, None, None]
    flight = (0.5 * GRAVITY * air_time**2 * share * (1 - share)).sum(-1)
    return Clock(phase, cycle, flight, onset, lasts, hertz)


def facing(cast: Cast, when: Clock, seconds: Float[np.ndarray, " T"]) -> Float[np.ndarray, "P T"]:
    """Return where each person faces over time, radians to the left of the clip's heading."""
    tables = _tables()
    turn = tables.turn[cast.action, None]
    begun = (seconds - when.onset[:, None]) / when.seconds[:, None]
    fills = (tables.seconds == 0)[cast.action, None]
    share = np.where(fills, seconds / seconds[-1], _smooth_step(begun + 0.4))
    slow = chance.wander(cast.person, "facing", seconds, 1, hertz=(0.1, 0.25, 0.5))[..., 0]
    return turn * chance.normal(cast.clip, "turn", 1) * (share - 1) + np.where(turn > 0, 0.2, 0.07) * slow


def _smooth_step(share: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """From 0 to 1 while the share does so, starting and ending at rest."""
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def left_first(cast: Cast) -> Bool[np.ndarray, " P"]:
    """Whether the left hand or foot does what the tracks write down for the right one."""
    other = chance.uniform(cast.clip, "other hand") < 0.42
    return _tables().handed[cast.action] & (cast.leader.left_handed ^ other)


def wishes(cast: Cast, when: Clock, seconds: Float[np.ndarray, " T"]) -> Float[np.ndarray, "P T D"]:
    """Return the joint angles that the tracks ask for, radians; ``settle`` makes them anatomical."""
    tables, width = _tables(), len(body.DOFS)
    row = ((FIRST_ROLE[cast.action] + cast.role)[:, None] * width + np.arange(width))[:, None]
    # No joint is quite in time with the others.
    lag = 0.012 * chance.normal(cast.person, "lag", 1, width)
    phase = np.clip(when.phase[..., None] + lag, 0, 1)
    turn = (when.cycle[..., None] + lag) % 1.0
    beat = _read(tables.during, cast.action[:, None], when.phase)
    # Who stood with a hand on the hip takes it off to act with it.
    role = FIRST_ROLE[cast.action] + cast.role
    busy = tables.uses[role][:, None] * _smooth_step(np.minimum(phase, 1 - phase) / 0.2)
    loose = 1 - tables.steady[role, None, None] * busy
    small, large = tables.size[cast.action].T
    size = small + (large - small) * chance.uniform(cast.person, "size") + 0.06 * cast.subject.vigour
    gain = size[:, None, None] + 0.11 * loose * bilateral(cast.person, "gain")[:, None]
    manner = 2 * chance.uniform(cast.clip, "manner") - 1
    moved = _read(tables.pose, row, phase) + beat[..., None] * _read(tables.cycle, row, turn)
    moved = gain * moved + manner[:, None, None] * _read(tables.manner, row, phase)
    posture = cast.subject.posture + POSTURE * bilateral(cast.person, "mood")
    unsteady = 1.1 * POSTURE * chance.wander(cast.person, "noise", seconds, width)
    own = loose * (posture[:, None] + unsteady) + (1 - busy) * carriage(cast.person)[:, None]
    return body.REST + own + moved


def settle(angles: Float[np.ndarray, "P T D"]) -> Float[np.ndarray, "P T D"]:
    """Return angles of joints within their limits, with the legs as the floor asks."""
    return body.saturate(body.stand_on_floor(angles))


def reach_shape(cast: Cast, when: Clock) -> Float[np.ndarray, "P T D"]:
    """Return the pose tracks by which each person reaches, over time, as shares of their value at the contact."""
    tables, width = _tables(), len(body.DOFS)
    role = FIRST_ROLE[cast.action] + cast.role
    row = (role[:, None] * width + np.arange(width))[:, None]
    contact = np.array([action.contact or 0.0 for action in ACTIONS])[cast.action]
    reaches = np.array([[name in role.reach for name in body.DOFS] for _, role in ROLES])[role]
    peak = _read(tables.pose, row, np.broadcast_to(contact[:, None, None], (len(role), 1, width)))
    shape = _read(tables.pose, row, np.broadcast_to(when.phase[..., None], (*when.phase.shape, width)))
    return np.where(reaches[:, None], shape / np.where(peak == 0, 1, peak), 0)
