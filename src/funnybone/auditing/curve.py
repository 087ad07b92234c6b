"""Security curves: how many clips fall at each budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from funnybone.attacks.base import Attack
from funnybone.attacks.minimum_norm import MinimumNormAttack
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.goals import Goal
from funnybone.metrics.intervals import wilson
from funnybone.tables import plain, rate
from funnybone.threat import Ball, Linf, Threat
from funnybone.victims.base import Victim


@dataclass(frozen=True)
class SecurityCurve:
    """Success against budget.

    Attributes
    ----------
    attack, victim : str
        Who on whom.
    norm : str
        The kind of ball.
    radii : tuple of float
        In metres, rising.
    fallen : tuple of int
        How many clips fell within each radius.
    attacked, n : int
        Clips that the victim got right, the denominator of success; all clips, that of robust accuracy.
    """

    attack: str
    victim: str
    norm: str
    radii: tuple[float, ...]
    fallen: tuple[int, ...]
    attacked: int
    n: int

    @property
    def success(self) -> tuple[float | None, ...]:
        """Share of the attacked clips that fell within each radius."""
        return tuple(fallen / self.attacked if self.attacked else None for fallen in self.fallen)

    @property
    def robust(self) -> tuple[float, ...]:
        """Share of all clips that the victim still gets right at each radius."""
        return tuple((self.attacked - fallen) / self.n for fallen in self.fallen)

    def __str__(self) -> str:
        rows = [
            (
                f"{radius:g}",
                rate(success, wilson(fallen, self.attacked)),
                rate(robust, wilson(self.attacked - fallen, self.n)),
            )
            for radius, fallen, success, robust in zip(self.radii, self.fallen, self.success, self.robust, strict=True)
        ]
        about = f"{self.attack} on {self.victim}: {self.attacked} of {self.n} clips attacked"
        headers = (f"{self.norm} m", "success %", "robust %")
        return f"{about}\n{plain(headers, rows, numbers=headers)}"


def security_curve(
    attack: Attack,
    victim: Victim,
    clips: Clips,
    radii: Sequence[float],
    *,
    ball: type[Ball] = Linf,
    threat: Threat | None = None,
    goal: Goal | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> SecurityCurve:
    """Return success against budget.

    A minimum-norm attack runs once, and its clips are sorted by how far they went. Any other runs once for each radius,
    the smallest first and each next one only on the clips still standing: what fell inside of a ball is inside of all
    larger ones.

    Parameters
    ----------
    attack : Attack
        Its steps are measured by the ball.
    victim : Victim
        Who is attacked.
    clips : Clips
        Clean clips.
    radii : sequence of float
        In metres, more than zero, in any order.
    ball : type
        `funnybone.threat.Linf` or `L2`.
    threat : Threat, optional
        What holds beside the ball.
    goal, generator, batch_size
        As of an attack.

    Examples
    --------
    >>> import funnybone as fb
    >>> from funnybone.testing import linear_victim, random_clips
    >>> clips = random_clips(4)
    >>> curve = security_curve(fb.create_attack("pgd"), linear_victim(clips, distance=0.05), clips, [0.0001, 0.02])
    >>> curve.fallen, curve.attacked
    ((0, 4), 4)
    """
    if not radii or not all(0 < radius < float("inf") for radius in radii):
        raise DataError(f"security curve: radii are {list(radii)}", hint="give metres, more than zero")
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    ordered = tuple(sorted(set(map(float, radii))))
    if isinstance(attack, MinimumNormAttack):
        outcome = attack(victim, clips, goal=goal, threat=threat, generator=generator, batch_size=batch_size)
        way = ball(ordered[0]).distance(clips.xyz, outcome.adversarial.xyz)
        counts = tuple(int((outcome.success & (way <= radius)).sum()) for radius in ordered)
        attacked = int(outcome.attacked.sum())
    else:
        standing, fallen, found = clips, 0, []
        attacked = 0
        for radius in ordered:
            if len(standing):
                inside = ball(radius) if threat is None else ball(radius) & threat
                outcome = attack(victim, standing, goal=goal, threat=inside, generator=generator, batch_size=batch_size)
                attacked = attacked or int(outcome.attacked.sum())
                fallen += int(outcome.success.sum())
                standing = standing[outcome.attacked & ~outcome.success]
            found.append(fallen)
        counts = tuple(found)
    return SecurityCurve(attack.name, victim.name, ball.__name__, ordered, counts, attacked, len(clips))
