"""What an audit found, in sentences for people. Each is made of the figures alone, and true whatever they are."""

from collections.abc import Iterator
from typing import NamedTuple

from funnybone.auditing.schema import AuditResult, VictimResult
from funnybone.metrics.intervals import difference, wilson
from funnybone.units import UNITS


def sentences(result: AuditResult) -> list[str]:
    """Return what an audit's figures mean, a line each.

    Of every victim: how many clean clips it gets right, on how many of these some attack fooled it, and how far joints
    moved for that. Of one whose base was audited too: whether hardening helped, which is said only where the interval
    of the change leaves zero out. What is compared are clips, of all, that a victim gets right and that no attack fools
    it on.

    Examples
    --------
    >>> import tempfile
    >>> import funnybone as fb
    >>> from funnybone.testing import linear_victim, random_clips
    >>> clips = random_clips(4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = fb.audit({"plane": linear_victim(clips)}, clips, out=folder).result
    >>> print(sentences(found)[0])
    plane gets 4 of 4 clean clips right, 100.0 % [51.0, 100.0]. Attacks fool it on 4 of these 4, 100.0 % [51.0, 100.0].
    """
    unit, known = UNITS[result.data.unit], {victim.name: victim for victim in result.victims}
    lines: list[str] = []
    for victim in result.victims:
        lines += _of_victim(victim, result.suite, unit.scale, unit.distance)
    for victim in result.victims:
        base = known.get(victim.hardening.base or "") if victim.hardening else None
        if base is not None:
            lines += _of_hardening(base, victim)
    if lines and result.data.synthetic:
        lines.append("The clips are synthetic: no person was recorded, and these figures say nothing about people.")
    if lines:
        lines.append(f"In brackets, 95 % intervals: the rates that figures of {_clips(result.data.n)} leave open.")
    return lines


def _of_victim(victim: VictimResult, suite: str, scale: int, distance: str) -> Iterator[str]:
    clean, name = victim.clean, victim.name
    right = round(clean.accuracy * clean.n)
    first = f"{name} gets {right} of {_clips(clean.n, 'clean ')} right, {_share(right, clean.n)}."
    if victim.worst_case is None and victim.attacks:
        yield first
        yield from _of_the_nearest(victim, scale, distance)
        return
    if victim.worst_case is None:
        others = "" if suite == "blackbox" else ": attacks that ask for labels or scores alone are in suite blackbox"
        yield f"{first} It was not attacked{others}."
        return
    fooled = right - round(victim.worst_case.robust_accuracy * clean.n)
    if right == 0:
        yield f"{first} Nothing was left to attack."
        return
    if fooled == 0:
        yield f"{first} No attack fools it on any of these, {_share(0, right)}."
        return
    yield f"{first} Attacks fool it on {fooled} of these {right}, {_share(fooled, right)}."
    strongest, moved = victim.strongest(), ""
    assert strongest is not None  # there is a worst case of some
    if strongest.position_m is not None:
        moved = f", moving joints by {scale * strongest.position_m:.1f} {distance} on average"
    yield f"The strongest on {name}, {strongest.name}, fools it on {strongest.succeeded}{moved}."
    yield from _of_the_nearest(victim, scale, distance)


def _of_the_nearest(victim: VictimResult, scale: int, distance: str) -> Iterator[str]:
    """Of attacks that succeed by their making, the one that comes nearest."""
    walks = [(one.position_m, one.name) for one in victim.attacks if one.by_distance and one.position_m is not None]
    if walks:
        moved, name = min(walks)
        yield (
            f"Of the attacks that begin with another motion and come nearer, which nothing bounds, {name} comes "
            f"nearest to the clips: joints move by {scale * moved:.1f} {distance} on average."
        )


def _of_hardening(base: VictimResult, victim: VictimResult) -> Iterator[str]:
    what, n = victim.defense, victim.clean.n
    attacks = {attack.name: attack for attack in base.attacks}
    if base.worst_case is None or victim.worst_case is None or list(attacks) != [one.name for one in victim.attacks]:
        yield f"Whether {what} helped is not known: {base.name} and {victim.name} did not meet the same attacks."
        return
    whole = _Change.of(base.worst_case.robust_accuracy, victim.worst_case.robust_accuracy, n)
    yield f"{what} {whole.verdict}: {whole.told('stay right under every attack')}."
    if len(attacks) > 1:
        for attack in (one for one in victim.attacks if not one.by_distance):
            alone = _Change.of(attacks[attack.name].robust_accuracy, attack.robust_accuracy, n)
            if alone.certain:
                yield f"Against {attack.name} alone {what} {alone.verdict}: {alone.told('stay right')}."
    clean = _Change.of(base.clean.accuracy, victim.clean.accuracy, n)
    if clean.before == clean.after:
        yield f"Clean accuracy stays {_percent(clean.after, n)}."
    else:
        before, after = _percent(clean.before, n), _percent(clean.after, n)
        chance = "" if clean.certain else ", no more than chance can do"
        yield f"Clean accuracy goes from {before} to {after}, {clean.size}{chance}."
    if whole.low > 0:
        yield f"Attacks that know of {what}, or that search longer, may leave less."


class _Change(NamedTuple):
    """Clips before and after, of n, and the interval of the change of their share."""

    before: int
    after: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, before: float, after: float, n: int) -> "_Change":
        """Return the change of a rate over n clips."""
        counts = round(before * n), round(after * n)
        return cls(*counts, n, *difference(*counts, n))

    @property
    def certain(self) -> bool:
        """Whether chance alone is no explanation, at 95 %."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """What the change says."""
        if not self.certain:
            return "neither helped nor hurt beyond chance"
        return "helped" if self.low > 0 else "hurt"

    @property
    def size(self) -> str:
        """The change in points, with its interval."""
        points = 100 * (self.after - self.before) / self.n
        return f"{points:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def told(self, what: str) -> str:
        """Both rates of what clips do, and the change."""
        before, after = (_percent(count, self.n) for count in (self.before, self.after))
        return f"{before} of {_clips(self.n)} {what} without it and {after} with it, {self.size}"


def _clips(n: int, kind: str = "") -> str:
    return f"{n} {kind}{'clip' if n == 1 else 'clips'}"


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.1f} %"


def _share(count: int, n: int) -> str:
    low, high = wilson(count, n) or (0.0, 1.0)
    return f"{_percent(count, n)} [{100 * low:.1f}, {100 * high:.1f}]"
