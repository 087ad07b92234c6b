"""Several audits side by side: a line for each victim, a column for each attack, the worst one decides."""

from collections.abc import Sequence
from dataclasses import dataclass

from funnybone.auditing.schema import AttackResult, AuditResult, DataSummary, VictimResult
from funnybone.clips import repeated
from funnybone.errors import DataError


@dataclass(frozen=True)
class Line:
    """A victim of one audit.

    Attributes
    ----------
    name : str
        The victim's, with the audit's where several have a victim of this name.
    victim : VictimResult
        What the audit says of it.
    attacks : dict of str to AttackResult
        By name of the entry.
    """

    name: str
    victim: VictimResult
    attacks: dict[str, AttackResult]

    @property
    def strongest(self) -> str | None:
        """The attack that alone leaves the least: see `VictimResult.strongest`."""
        least = self.victim.strongest()
        return least.name if least else None

    @property
    def left(self) -> float | None:
        """Robust accuracy under all of its attacks together; None where there was none."""
        worst = self.victim.worst_case
        return worst.robust_accuracy if worst else None


@dataclass(frozen=True)
class Leaderboard:
    """Victims that were audited on the same clips, the one of which most is left first.

    A victim that met fewer attacks than another has not been seen at its worst: it stands behind all that met them all.

    Attributes
    ----------
    data : DataSummary
        The clips.
    attacks : tuple of str
        Names of the entries, in the order in which audits have them.
    lines : tuple of Line
        A victim that an audit did not attack with an entry has none of its figures.
    """

    data: DataSummary
    attacks: tuple[str, ...]
    lines: tuple[Line, ...]

    def met_all(self, line: Line) -> bool:
        """Whether a victim was attacked in every way that a victim of the table was."""
        return len(line.attacks) == len(self.attacks)


def leaderboards(results: Sequence[tuple[str, AuditResult]]) -> list[Leaderboard]:
    """Return a leaderboard for each set of clips, from audits and what they are called.

    Raises
    ------
    DataError
        For an audit that is named twice, or a victim's name that one has twice; and where two audits of the same clips
        mean different things by one name: another goal, threat model or setting. What stands in one column has to be
        one attack.
    """
    twice = repeated(where for where, _ in results)
    if twice is not None:
        raise DataError(f"{twice}: named twice", hint="name each audit once")
    groups: dict[str, list[tuple[str, AuditResult]]] = {}
    for where, result in results:
        groups.setdefault(result.data.sha256, []).append((where, result))
    return [_leaderboard(group) for group in groups.values()]


def _leaderboard(group: Sequence[tuple[str, AuditResult]]) -> Leaderboard:
    met: dict[str, tuple[str, AttackResult]] = {}
    names = [victim.name for _, result in group for victim in result.victims]
    lines = []
    for where, result in group:
        own = repeated(victim.name for victim in result.victims)
        if own is not None:
            raise DataError(f"{where}: two victims are named {own!r}", hint="run the audit again")
        for victim in result.victims:
            for attack in victim.attacks:
                other, first = met.setdefault(attack.name, (where, attack))
                _check_same(attack.name, (other, first), (where, attack))
            name = victim.name if names.count(victim.name) == 1 else f"{victim.name} ({where})"
            lines.append(Line(name, victim, {attack.name: attack for attack in victim.attacks}))
    lines.sort(key=lambda line: (len(line.attacks) < len(met), -(line.left or 0.0)))
    return Leaderboard(group[0][1].data, tuple(met), tuple(lines))


def _check_same(name: str, one: tuple[str, AttackResult], other: tuple[str, AttackResult]) -> None:
    """Raise `DataError` unless two audits attacked in the same way."""
    for what in ("goal", "threat", "settings"):
        said = [getattr(attack, what) for _, attack in (one, other)]
        if said[0] != said[1]:
            if what == "settings":
                keys = sorted(key for key in {**said[0], **said[1]} if said[0].get(key) != said[1].get(key))
                said = [", ".join(f"{key}={own.get(key)}" for key in keys) for own in said]
            raise DataError(
                f"{one[0]} and {other[0]} mean different attacks by {name!r}: {what} {said[0]} and {said[1]}",
                hint="compare audits of one suite",
            )
