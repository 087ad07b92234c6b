"""From the ledger's rows to the figures of ``audit.json``. Nothing is measured here, only counted."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from funnybone.auditing.answers import Answer
from funnybone.auditing.rows import Row
from funnybone.auditing.schema import (
    DEVIATIONS,
    AttackResult,
    CleanResult,
    PlannedEntry,
    PlannedSurrogate,
    PlannedVictim,
    SurrogateResult,
    TransferCell,
    TransferResult,
    VictimResult,
    WorstCase,
)
from funnybone.auditing.transfer import Transfer
from funnybone.metrics.intervals import wilson

_POINTS = 60  # of a curve: finer than a reader can see


def attack_result(entry: PlannedEntry, rows: Sequence[Row]) -> AttackResult:
    """Return the figures of one attack on one victim.

    ``success_rate`` counts over the clips that were attacked: those that the victim got right before. A clip is robust
    when the victim got it right before and the attack did not reach its goal within the threat model;
    ``robust_accuracy`` counts those over all clips. Medians and means are over successes.

    Parameters
    ----------
    entry : PlannedEntry
        How the clips were attacked.
    rows : sequence of Row
        One for each clip, at least one.
    """
    attacked = sum(row.attacked for row in rows)
    fallen = [row for row in rows if row.success]
    robust = sum(row.clean_prediction == row.label and not row.success for row in rows)
    return AttackResult(
        name=entry.name,
        access=entry.access,
        goal=entry.goal,
        threat=entry.threat,
        settings=entry.settings,
        by_distance=entry.by_distance,
        n=len(rows),
        attacked=attacked,
        succeeded=len(fallen),
        success_rate=len(fallen) / attacked if attacked else None,
        ci95=wilson(len(fallen), attacked),
        robust_accuracy=robust / len(rows),
        robust_accuracy_ci95=_interval(robust, len(rows)),
        queries_median=_median(row.queries for row in fallen),
        steps_median=_median(row.steps for row in fallen),
        **{name: _mean(row.distances.get(name) for row in fallen) for name in DEVIATIONS},
        on_manifold_rate=_mean(row.distances.get("on_manifold") for row in fallen),
        max_violation=max(row.violation for row in rows),
        zero_gradients=sum(row.zero_gradient for row in rows if row.attacked),
        seconds=sum(row.seconds for row in rows),
        success_by_displacement=displacement_curve(fallen, attacked),
    )


def worst_case(attacks: Sequence[Sequence[Row]]) -> WorstCase | None:
    """Return what all attacks on one victim leave together, or None where there was none.

    A clip is robust when the victim got it right before and not one of the attacks succeeded on it.

    Parameters
    ----------
    attacks : sequence of sequence of Row
        For each attack, one row for each clip.
    """
    rows = [row for attack in attacks for row in attack]
    if not rows:
        return None
    n = len({row.clip_index for row in rows})
    robust = n - len({row.clip_index for row in rows if row.success or row.clean_prediction != row.label})
    return WorstCase(robust_accuracy=robust / n, robust_accuracy_ci95=_interval(robust, n), n=n)


def victim_result(
    victim: PlannedVictim,
    clean: Sequence[tuple[int, int]],
    attacks: Sequence[AttackResult],
    worst: WorstCase | None,
) -> VictimResult:
    """Return the figures of one victim; ``clean`` is label and prediction of each clip."""
    return VictimResult(
        name=victim.name,
        defense=victim.defense,
        hardening=victim.hardening,
        fit_seconds=victim.fit_seconds,
        parameters=victim.parameters,
        clean=_clean(clean),
        attacks=list(attacks),
        worst_case=worst,
    )


def surrogate_result(surrogate: PlannedSurrogate, clean: Sequence[tuple[int, int]]) -> SurrogateResult:
    """Return the figures of one surrogate; ``clean`` is label and prediction of each clip."""
    return SurrogateResult(
        name=surrogate.name,
        defense=surrogate.defense,
        parameters=surrogate.parameters,
        contains=surrogate.contains,
        clean=_clean(clean),
    )


def _clean(said: Sequence[tuple[int, int]]) -> CleanResult:
    right = sum(label == prediction for label, prediction in said)
    return CleanResult(accuracy=right / len(said), ci95=_interval(right, len(said)), n=len(said))


# What was made to fool a surrogate, and what a target says to it, clip by clip: by surrogate, entry and target.
Shown = Mapping[tuple[str, str, str], Sequence[tuple[Row, Answer]]]


def transfer_result(
    entry: PlannedEntry, surrogates: Sequence[PlannedSurrogate], targets: Sequence[str], shown: Shown
) -> TransferResult:
    """Return the figures of one attack on every surrogate.

    A cell counts over the clips that surrogate and target both get right before, in `Transfer.of`.

    Parameters
    ----------
    entry : PlannedEntry
        How the surrogates were attacked.
    surrogates : sequence of PlannedSurrogate
        The rows of the matrix.
    targets : sequence of str
        Its columns.
    shown : mapping
        Of this entry and of others. Of a target that is not there for a surrogate, there is no cell.
    """
    cells = [
        _cell(surrogate, target, shown[place])
        for surrogate in surrogates
        for target in targets
        if (place := (surrogate.name, entry.name, target)) in shown
    ]
    return TransferResult(
        **entry.model_dump(exclude={"ball", "by_distance"}),
        surrogates=[surrogate.name for surrogate in surrogates],
        targets=list(targets),
        cells=cells,
    )


def _cell(surrogate: PlannedSurrogate, target: str, shown: Sequence[tuple[Row, Answer]]) -> TransferCell:
    counted = Transfer.of((row for row, _ in shown), (answer for _, answer in shown))
    return TransferCell(
        surrogate=surrogate.name,
        target=target,
        white_box=target in surrogate.contains,
        rate=counted.success,
        ci95=counted.ci95,
        **counted._asdict(),
    )


def displacement_curve(fallen: Iterable[Row], attacked: int) -> list[tuple[float, float]]:
    """Return (mean joint displacement, share of attacked clips that fell within it), as a staircase.

    The share is reached at its displacement and holds until the next point. Where there are more than 60 points they
    are thinned out evenly by rank; the first and the last stay.
    """
    places = sorted(place for row in fallen if (place := row.distances.get("position_m")) is not None)
    shares: dict[float, float] = {}
    for rank, place in enumerate(places, 1):
        shares[place] = rank / attacked  # of clips at the same place the last one says how many there are
    points = list(shares.items())
    if len(points) <= _POINTS:
        return points
    return [points[round(k * (len(points) - 1) / (_POINTS - 1))] for k in range(_POINTS)]


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(statistics.median(found)) if found else None


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def _interval(successes: int, n: int) -> tuple[float, float]:
    interval = wilson(successes, n)
    assert interval is not None  # an audit has at least one clip
    return interval
