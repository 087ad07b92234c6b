"""Geometry of the success-against-displacement curves, as SVG paths in one coordinate system for all victims."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from funnybone.auditing.schema import AttackResult, VictimResult
from funnybone.units import UNITS, Unit

WIDTH, HEIGHT = 440.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 46.0
_SERIES = 8  # colours in the style sheet; what comes after repeats them with another dash
_WIDE = 30.0  # ratio of displacements from which a logarithmic axis shows more than a linear one


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Curve:
    """One attack's staircase."""

    label: str
    series: int
    dash: int
    path: str
    end: tuple[float, float]
    described: str


@dataclass(frozen=True)
class Panel:
    """The curves of one victim."""

    victim: str
    curves: list[Curve]
    unattacked: list[str]


@dataclass(frozen=True)
class Curves:
    """All panels and the axes that they share."""

    panels: list[Panel]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    logarithmic: bool
    unit: str


def attack_label(attack: AttackResult) -> str:
    """Return what tells an attack from the others of its victim."""
    return f"{attack.name} · {attack.goal}"


def labels(victims: Sequence[VictimResult]) -> list[str]:
    """Return every attack label once, in order of appearance: its place is its colour."""
    return list(dict.fromkeys(attack_label(attack) for victim in victims for attack in victim.attacks))


def displacement_curves(victims: Sequence[VictimResult], unit: str = "metre") -> Curves | None:
    """Return the curves, or None where no attack succeeded on any clip; ``unit`` is that of the data.

    Examples
    --------
    >>> displacement_curves([]) is None
    True
    """
    shown = UNITS[unit]
    places = sorted(
        shown.scale * place
        for victim in victims
        for attack in victim.attacks
        for place, _ in attack.success_by_displacement
    )
    positive = [place for place in places if place > 0]
    if not positive:
        return None
    # One clip that fell at a touch should not stretch the axis by decades.
    low = max(positive[0], positive[len(positive) // 10] / 5)
    logarithmic = positive[-1] / low > _WIDE
    axis = _logarithmic(low, positive[-1]) if logarithmic else _linear(positive[-1])
    names = labels(victims)
    panels = [
        Panel(
            victim.name,
            [
                _curve(attack, names.index(attack_label(attack)), axis, shown)
                for attack in victim.attacks
                if attack.success_by_displacement
            ],
            [attack_label(attack) for attack in victim.attacks if not attack.success_by_displacement],
        )
        for victim in victims
        if victim.attacks
    ]
    y_ticks = [Tick(_y(share), f"{100 * share:.0f}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return Curves(panels, axis.ticks(), y_ticks, logarithmic, shown.distance)


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    marks: tuple[float, ...]
    logarithmic: bool

    def __call__(self, displacement: float) -> float:
        value = min(max(displacement, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[Tick]:
        return [Tick(self(mark), f"{mark:g}") for mark in self.marks]


def _linear(high: float) -> _Axis:
    step = next(step for step in _round_numbers(high / 6, high))
    count = math.ceil(high / step - 1e-9)
    return _Axis(0.0, count * step, tuple(round(k * step, 10) for k in range(count + 1)), False)


def _logarithmic(low: float, high: float) -> _Axis:
    marks = _round_numbers(low, high)
    start = marks[0] if marks[0] <= low else _before(marks[0])
    stop = marks[-1]
    every = [start, *(mark for mark in marks if mark > start)]
    # Three decades of 1, 2, 5 crowd the axis: the powers of ten are enough then.
    shown = every if len(every) <= 8 else [mark for mark in every if _digit(mark) == 1]
    return _Axis(start, stop, tuple(shown), True)


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten: from the first that is not below ``low`` to the first not below ``high``."""
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    every = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    chosen = [mark for mark in every if mark >= low * (1 - 1e-9)]
    stop = next(mark for mark in chosen if mark >= high * (1 - 1e-9))
    return [mark for mark in chosen if mark <= stop]


def _before(mark: float) -> float:
    return mark / 2.5 if _digit(mark) == 5 else mark / 2


def _digit(mark: float) -> int:
    return int(f"{mark:.0e}"[0])


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _curve(attack: AttackResult, index: int, axis: _Axis, unit: Unit) -> Curve:
    points = sorted((unit.scale * place, share) for place, share in attack.success_by_displacement)
    path = [f"M{LEFT:.1f} {_y(0.0):.1f}"]
    drawn = (LEFT, _y(0.0))
    for place, share in points:
        here = (axis(place), _y(share))
        # Hundreds of clips make steps finer than a line is wide.
        if math.dist(here, drawn) < 0.4 and (place, share) != points[-1]:
            continue
        path.append(f"H{here[0]:.1f}V{here[1]:.1f}")
        drawn = here
    path.append(f"H{WIDTH - RIGHT:.1f}")
    last, last_share = points[-1]
    half = next((place for place, share in points if share >= 0.5), None)
    described = f"{attack_label(attack)}: {100 * last_share:.1f} % within {last:.3g} {unit.distance}"
    if half is not None:
        described += f", half within {half:.3g} {unit.distance}"
    return Curve(attack_label(attack), index % _SERIES, index // _SERIES, "".join(path), drawn, described)
