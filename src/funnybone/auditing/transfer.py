"""Transfer: clips that were made to fool one victim, shown to another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from funnybone.attacks.base import Attack
from funnybone.attacks.verdict import TOLERANCE, Verdict, judge, repeatable
from funnybone.auditing.answers import Answer
from funnybone.auditing.rows import Row
from funnybone.auditing.tables import OVER, transfer_cell
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.goals import AnythingBut, Goal
from funnybone.metrics.intervals import wilson
from funnybone.tables import plain
from funnybone.threat import Threat, Unbounded
from funnybone.victims.base import Victim


class Made(NamedTuple):
    """What an attack on a surrogate made of one clip.

    Attributes
    ----------
    attacked : bool
        The surrogate got the clean clip right.
    success : bool
        The clip fools the surrogate, within the threat model.
    violation : float
        How far it is outside of the threat model.
    """

    attacked: bool
    success: bool
    violation: float


class Transfer(NamedTuple):
    """What one surrogate's clips did to one target.

    Attributes
    ----------
    n : int
        Clips that both get right before: the denominator.
    fooled : int
        Those of them that fool the target, within the threat model.
    fooled_surrogate : int
        Those of them that fool the surrogate.
    fooled_both : int
        Those that fool both.
    """

    n: int
    fooled: int
    fooled_surrogate: int
    fooled_both: int

    @classmethod
    def of(cls, made: Iterable[Made | Row], answers: Iterable[Answer]) -> "Transfer":
        """Count: what is told of transfer is counted here and nowhere else.

        Examples
        --------
        >>> made = [Made(True, True, 0.0), Made(True, True, 0.0), Made(False, False, 0.0)]
        >>> Transfer.of(made, [Answer(True, 1, True), Answer(False, 1, True), Answer(True, 0, False)])
        Transfer(n=1, fooled=1, fooled_surrogate=1, fooled_both=1)
        """
        both = [(one, said) for one, said in zip(made, answers, strict=True) if one.attacked and said.right]
        fooled = [said.fooled and one.violation <= TOLERANCE for one, said in both]
        surrogate = [one.success for one, _ in both]
        return cls(len(both), sum(fooled), sum(surrogate), sum(map(all, zip(fooled, surrogate, strict=True))))

    @property
    def success(self) -> float | None:
        """Share of the clips that both get right before which fool the target."""
        return self.fooled / self.n if self.n else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Wilson's interval of it."""
        return wilson(self.fooled, self.n)


@dataclass(frozen=True)
class TransferMatrix:
    """What each surrogate's clips did to each target; printing it gives the table.

    Attributes
    ----------
    attack, goal, threat : str
        What made the clips.
    cells : mapping of (str, str) to Transfer
        By surrogate and target.
    clips : int
        How many there were.
    """

    attack: str
    goal: str
    threat: str
    cells: Mapping[tuple[str, str], Transfer]
    clips: int

    @property
    def surrogates(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(surrogate for surrogate, _ in self.cells))

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(target for _, target in self.cells))

    def __str__(self) -> str:
        def cell(surrogate: str, target: str) -> str:
            found = self.cells[surrogate, target]
            return transfer_cell(found.success, found.ci95, found.n)

        rows = [(surrogate, *(cell(surrogate, target) for target in self.targets)) for surrogate in self.surrogates]
        about = f"{self.attack}, goal {self.goal}, {self.threat}: % fooled of {OVER}"
        return f"{about}\n{plain(('surrogate', *self.targets), rows, numbers=self.targets)}"


def transfer_matrix(
    attack: Attack,
    surrogates: Mapping[str, Victim],
    targets: Mapping[str, Victim],
    clips: Clips,
    *,
    goal: Goal | None = None,
    threat: Threat | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> TransferMatrix:
    """Attack each surrogate, and ask each target about the clips.

    A cell counts over the clips that surrogate and target both get right before; published scripts count what the
    target gets wrong anyway as transfer. Give gradient attacks ``early_stop=False``: a clip that just fools one network
    rarely fools another.

    Parameters
    ----------
    attack : Attack
        What makes the clips.
    surrogates, targets : mapping of str to Victim
        By the name in the table. `funnybone.Ensemble` is a surrogate too.
    clips : Clips
        Clean clips.
    goal, threat, generator, batch_size
        As of an attack.

    Examples
    --------
    >>> import funnybone as fb
    >>> from funnybone.testing import linear_victim, random_clips
    >>> clips = random_clips(6)
    >>> one = linear_victim(clips, distance=0.05)
    >>> found = transfer_matrix(fb.create_attack("smart", steps=60), {"one": one}, {"same": one}, clips)
    >>> found.cells["one", "same"]
    Transfer(n=6, fooled=6, fooled_surrogate=6, fooled_both=6)
    """
    if not surrogates or not targets:
        raise DataError("a transfer matrix needs at least one surrogate and one target")
    goal = goal or AnythingBut()
    threat = (threat or Unbounded()).bind(clips.skeleton)
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    cells: dict[tuple[str, str], Transfer] = {}
    for surrogate, owned in surrogates.items():
        outcome = attack(owned, clips, goal=goal, threat=threat, generator=generator, batch_size=batch_size)
        columns = (outcome.attacked, outcome.success, outcome.violation)
        made = [Made(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        for target, victim in targets.items():
            with repeatable(victim, generator):
                before, after = (
                    judge(victim, shown, goal, outcome.reference, batch_size) for shown in (clips, outcome.adversarial)
                )
            cells[surrogate, target] = Transfer.of(made, answers(clips, before, after))
    return TransferMatrix(attack.name, goal.name, repr(threat), cells, len(clips))


def answers(clips: Clips, before: Verdict, after: Verdict) -> list[Answer]:
    """Return what a target says, of the verdicts on clean and on adversarial clips."""
    right = (before.prediction == clips.labels) & (before.agreement <= 0.5)
    columns = (right, after.prediction, after.agreement > 0.5)
    return [Answer(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
