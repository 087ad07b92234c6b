"""Security curves: how many clips fall at each budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from funnybone.attacks.base import Attack
from funnybone.attacks.cascade import in_norm_of_ball
from funnybone.attacks.decision import DecisionAttack
from funnybone.attacks.minimum_norm import MinimumNormAttack
from funnybone.attacks.problem import Precision
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.goals import Goal
from funnybone.metrics.intervals import wilson
from funnybone.metrics.natural import NaturalMotion
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
    natural: NaturalMotion | None = None,
    starts: Clips | None = None,
    generator: torch.Generator | None = None,
    budget: int | None = None,
    draws: int | None = None,
    precision: Precision = "fp32",
    batch_size: int = 64,
) -> SecurityCurve:
    """Return success against budget.

    An attack that makes a distance small runs once, without a ball, and its clips are sorted by how far they went in
    the ball's norm. A minimum-norm attack must search in that norm: one that knows several does, whichever it was
    given. A decision attack is taken as it is: its clips are the nearest by its own distance, so where that is another
    than the ball's, nearer ones may have been passed by.

    Any other attack runs once for each radius, from the same state of chance, the smallest first and each next one only
    on the clips still standing: what fell inside of a ball is inside of all larger ones.

    Parameters
    ----------
    attack : Attack
        Steps in a ball are measured by it.
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
    starts : Clips, optional
        As of an attack; all of the clips by default, at every radius.
    budget : int, optional
        Most queries for each clip in one run, so at each radius where there are several.
    goal, natural, generator, draws, precision, batch_size
        As of an attack.

    Raises
    ------
    DataError
        For radii that are none, a minimum-norm attack that cannot search in the ball's norm, and what an attack
        refuses.

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
    ordered = tuple(sorted(set(map(float, radii))))
    balls = tuple(map(ball, ordered))
    attack = in_norm_of_ball(attack, balls[0])
    if isinstance(attack, MinimumNormAttack) and not isinstance(attack.minimised, ball):
        own = type(attack.minimised).__name__
        raise DataError(
            f"security curve: attack {attack.name} searches in {own}, the ball is {ball.__name__}",
            hint=f"give ball={own}, or an attack that searches in {ball.__name__}",
        )
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    run = partial(
        attack,
        victim,
        goal=goal,
        natural=natural,
        starts=clips if starts is None else starts,
        generator=generator,
        budget=budget,
        draws=draws,
        precision=precision,
        batch_size=batch_size,
    )
    if isinstance(attack, MinimumNormAttack | DecisionAttack):
        outcome = run(clips, threat=threat)
        way = balls[0].distance(clips.xyz, outcome.adversarial.xyz)
        counts = tuple(int((outcome.success & (way <= radius)).sum()) for radius in ordered)
        attacked = int(outcome.attacked.sum())
    else:
        standing, fallen, found = clips, 0, []
        attacked, state = 0, generator.get_state()
        for inside in balls:
            if len(standing):
                generator.set_state(state)
                outcome = run(standing, threat=inside if threat is None else inside & threat)
                attacked = attacked or int(outcome.attacked.sum())
                fallen += int(outcome.success.sum())
                standing = standing[outcome.attacked & ~outcome.success]
            found.append(fallen)
        counts = tuple(found)
    return SecurityCurve(attack.name, victim.name, ball.__name__, ordered, counts, attacked, len(clips))
