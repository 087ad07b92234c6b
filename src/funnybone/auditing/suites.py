"""Suites: which attacks, under which goals and threat models, an audit runs. A suite is data."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from funnybone.attacks.base import Attack, create_attack
from funnybone.attacks.decision import DecisionAttack
from funnybone.errors import DataError
from funnybone.goals import AnythingBut, Goal
from funnybone.threat import L2, Linf, Threat, Unbounded
from funnybone.threat.ball import Ball
from funnybone.threat.base import parts_of


@dataclass(frozen=True)
class Entry:
    """One way of attacking.

    Parameters
    ----------
    attack : Attack
        With its settings.
    goal : Goal
        When a clip has fallen.
    threat : Threat
        Where the clips must stay.
    name : str
        How tables call it; no two entries of a suite share one.
    """

    attack: Attack
    goal: Goal
    threat: Threat
    name: str

    def describe(self) -> dict[str, Any]:
        """Everything that the entry is, as plain values."""
        return {
            "name": self.name,
            "attack": self.attack.name,
            "access": self.attack.access,
            "settings": self.attack.settings(),
            "goal": self.goal.name,
            "threat": repr(self.threat),
            "ball": self._ball(),
            "by_distance": isinstance(self.attack, DecisionAttack) and not self._balls(),
        }

    def _ball(self) -> tuple[str, float] | None:
        """What entries that differ by their radius alone share, and the radius."""
        parts, balls = parts_of(self.threat), self._balls()
        if len(balls) != 1:
            return None
        return " & ".join(type(part).__name__ if part is balls[0] else repr(part) for part in parts), balls[0].radius

    def _balls(self) -> list[Ball]:
        return [part for part in parts_of(self.threat) if isinstance(part, Ball)]

    def content(self) -> Any:
        """What decides its results: `describe`, and what the short forms of goal and threat model leave out."""
        return [self.name, *(_plain(part) for part in (self.attack, self.goal, self.threat))]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kept = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [f"{type(value).__module__}.{type(value).__qualname__}", kept]
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | None) else repr(value)


@dataclass(frozen=True)
class Suite:
    """Named entries, run in their order.

    Parameters
    ----------
    name : str
        How tables call it.
    entries : tuple of Entry
        At least one.
    unit : {"metre", "pixel", "normalised"} or None
        What its budgets and step lengths are in; clips in another unit are refused. None: they fit any clips.
    transfer : tuple of Entry
        What surrogates are attacked with, for clips that targets are shown. Gradient attacks among them need
        ``early_stop=False``: a clip that just fools one network rarely fools another.

    Examples
    --------
    >>> suite = create_suite("quick")
    >>> [entry.name for entry in suite.entries]
    ['pgd-linf', 'pgd-l2', 'smart']
    >>> [entry.name for entry in suite.transfer]
    ['mifgsm-linf-10mm', 'dim-linf-10mm', 'smart-linf-10mm']
    """

    name: str
    entries: tuple[Entry, ...]
    unit: str | None = None
    transfer: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        names = [entry.name for entry in (*self.entries, *self.transfer)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"suite {self.name!r}: two entries are named {twice!r}", hint="give each its own name")
        if not self.entries:
            raise DataError(f"suite {self.name!r} has no entries", hint="give at least one")


def _entry(name: str, attack: str, threat: Threat, **settings: Any) -> Entry:
    return Entry(create_attack(attack, **settings), AnythingBut(), threat, name)


def _balls(
    millimetres: tuple[int, ...], metres: tuple[float, ...], *, steps: int, step_sizes: tuple[float, float]
) -> list[Entry]:
    """PGD at each radius: millimetres of the largest coordinate in L-infinity, metres of the whole clip's norm in L2.

    The mean square joint displacement that an L2 radius allows depends on how many joints a clip has in how many
    frames, so an entry is named by the radius itself. The radii of the lists below are near each other where one person
    is seen in 60 frames of 25 joints: 0.39 m is then 10 mm, in root mean square, for each of 1500 joints.
    """
    linf, l2 = ({"steps": steps, "step_size": step_size} for step_size in step_sizes)
    several = len(millimetres) > 1
    entries = []
    for largest, norm in zip(millimetres, metres, strict=True):
        names = (f"pgd-linf-{largest}mm", f"pgd-l2-{norm:g}m") if several else ("pgd-linf", "pgd-l2")
        entries.append(_entry(names[0], "pgd", Linf(largest / 1000), **linf))
        entries.append(_entry(names[1], "pgd", L2(norm), **l2))
    return entries


def _transfer(steps: int, smart: dict[str, Any], millimetres: int = 10) -> tuple[Entry, ...]:
    """Momentum, input diversity and SMART in one ball, each to its last step.

    10 mm in L-infinity is the middle one of most suites' radii, and that of a published benchmark of skeleton transfer
    (TASAR's code). Momentum 1, steps of one share of the radius each, from the clean clip: Dong et al., CVPR 2018;
    half of the gradients on changed copies: Xie et al., CVPR 2019. Both take 10 steps, the benchmark 200.
    """
    ball = Linf(millimetres / 1000)
    steepest = {"steps": steps, "step_size": 1 / steps, "momentum": 1.0, "early_stop": False}
    return (
        _entry(f"mifgsm-linf-{millimetres}mm", "mifgsm", ball, **steepest),
        _entry(f"dim-linf-{millimetres}mm", "dim", ball, probability=0.5, **steepest),
        _entry(f"smart-linf-{millimetres}mm", "smart", ball, early_stop=False, **smart),
    )


def _quick() -> Suite:
    # 70 gradients a clip at most: 56 clips of a graph network take about a minute on two cores. How long the steps are
    # was chosen on training clips, by benchmarks/quick_suite.py.
    smart = {"steps": 40, "step_size": 0.004}
    balls = _balls((10,), (0.39,), steps=15, step_sizes=(0.4, 0.4))
    return _suite("quick", [*balls, _entry("smart", "smart", Unbounded(), **smart)], _transfer(10, smart))


def _standard() -> Suite:
    smart = {"steps": 200}
    balls = _balls((5, 10, 20), (0.19, 0.39, 0.77), steps=50, step_sizes=(0.1, 0.1))
    return _suite("standard", [*balls, _entry("smart", "smart", Unbounded(), **smart)], _transfer(50, smart))


def _full() -> Suite:
    smart = {"steps": 400}
    balls = _balls(
        (1, 2, 5, 10, 20, 50, 100), (0.039, 0.077, 0.19, 0.39, 0.77, 1.9, 3.9), steps=100, step_sizes=(0.05, 0.05)
    )
    # When APGD shortens its steps hangs on how many it has, so that more of them can do worse: a check of the victim.
    paces = [_entry(f"apgd-linf-10mm-{steps}steps", "apgd", Linf(0.010), steps=steps) for steps in (25, 100)]
    cascade = _entry("cascade", "cascade", Linf(0.010))
    white = [*balls, *paces, cascade, _entry("smart", "smart", Unbounded(), **smart)]
    return _suite("full", [*white, *_black_boxes(1000)], _transfer(200, smart))


def _defense() -> Suite:
    # All in one ball, so that the worst case over all of them is one of a threat model: the last one knows how hardened
    # victims are made, and goes in by each of their `ways_in`. SMART begins at the clean clip and stops at success, so
    # that what fewer steps reach can be read off the steps of each clip.
    ball = Linf(0.005)
    entries = [
        _entry("pgd", "pgd", ball, steps=50, step_size=0.1),
        _entry("smart", "smart", ball, steps=1000),
        _entry("ciasa", "ciasa", ball),
        _entry("cascade", "cascade", ball),
        Entry(create_attack("cascade", preset="adaptive"), AnythingBut(), ball, "adaptive"),
    ]
    return _suite("defense", entries, _transfer(50, {"steps": 200}, millimetres=5))


def _black_box() -> Suite:
    return _suite("blackbox", _black_boxes(1000), _transfer(50, {"steps": 200}))


def _black_boxes(queries: int) -> list[Entry]:
    """One attack by scores in a ball; by labels alone, two walks that nothing bounds, and one through joint angles.

    Those walks succeed wherever there is a motion of another class to start from: what counts is how near they come.
    """
    natural = create_attack("hopskipjump", preset="natural", queries=queries)
    return [
        _entry("square-linf-10mm", "square", Linf(0.010), queries=queries),
        _entry("hopskipjump", "hopskipjump", Unbounded(), queries=queries),
        Entry(natural, AnythingBut(), Unbounded(), "hopskipjump-natural"),
        _entry("basar", "basar", Unbounded(), queries=queries),
    ]


def _suite(name: str, entries: list[Entry], transfer: tuple[Entry, ...]) -> Suite:
    return Suite(name, tuple(entries), unit="metre", transfer=transfer)


# An attack joins by a line in these suites; nothing else in the library names one.
_SUITES = {"quick": _quick, "standard": _standard, "full": _full, "defense": _defense, "blackbox": _black_box}


def suite_names() -> list[str]:
    """Return the names of the suites that come with the library.

    Examples
    --------
    >>> suite_names()
    ['quick', 'standard', 'full', 'defense', 'blackbox']
    """
    return list(_SUITES)


def create_suite(name: str) -> Suite:
    """Return a suite by name.

    Raises
    ------
    DataError
        When none has this name.

    Examples
    --------
    >>> len(create_suite("full").entries)
    22
    """
    if name not in _SUITES:
        raise DataError(f"no suite is named {name!r}", hint=f"suites are {', '.join(_SUITES)}")
    return _SUITES[name]()
