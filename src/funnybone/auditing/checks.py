"""Warnings: what a reader must know before believing the figures. Each code has a section in ``docs/warnings.md``."""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

import torch
from torch import Tensor

from funnybone.attacks.verdict import TOLERANCE
from funnybone.auditing.rows import Row
from funnybone.auditing.schema import (
    AttackResult,
    AuditWarning,
    DataSummary,
    Observed,
    PlannedEntry,
    SurrogateResult,
    TransferResult,
    VictimResult,
)
from funnybone.auditing.statistics import Shown
from funnybone.clips import Clips
from funnybone.metrics.intervals import wilson
from funnybone.victims.base import Victim

FEW_CLIPS = 50
LOW_ACCURACY = 0.7
ZERO_GRADIENTS = 0.05  # share of attacked clips
LATE_SUCCESSES = 0.05  # share of attacked clips that fell in the last tenth of the steps
NEARLY_ALL = 0.95
SLACK = 0.02  # share of attacked clips by which one rate may be below another one
SATURATED = 0.05  # share of clean clips
FLAT = 24 * math.log(2)  # a lead in logits beyond which 1 - p is zero in float32
REPEAT = 1e-6  # difference of two answers to one question


class Code(StrEnum):
    """Every code that an audit can warn with."""

    SYNTHETIC_DATA = "SYNTHETIC_DATA"
    SMALL_SAMPLE = "SMALL_SAMPLE"
    LOW_CLEAN_ACCURACY = "LOW_CLEAN_ACCURACY"
    ENTRY_SKIPPED = "ENTRY_SKIPPED"
    ZERO_GRADIENT = "ZERO_GRADIENT"
    OUTSIDE_THREAT_MODEL = "OUTSIDE_THREAT_MODEL"
    UNDER_ITERATED = "UNDER_ITERATED"
    UNBROKEN = "UNBROKEN"
    PROBABILITIES_NOT_LOGITS = "PROBABILITIES_NOT_LOGITS"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    STOCHASTIC_VICTIM = "STOCHASTIC_VICTIM"
    INEXACT_GRADIENTS = "INEXACT_GRADIENTS"
    SATURATED_LOGITS = "SATURATED_LOGITS"
    LOST_SUCCESSES = "LOST_SUCCESSES"
    TARGET_IS_TRUTH = "TARGET_IS_TRUTH"
    BUDGET_WITHOUT_EFFECT = "BUDGET_WITHOUT_EFFECT"
    MORE_STEPS_WORSE = "MORE_STEPS_WORSE"
    BLACK_BOX_STRONGER = "BLACK_BOX_STRONGER"


@torch.no_grad()
def observe(victim: Victim, clips: Clips, logits: Tensor | None) -> Observed:
    """Return what can be seen of a victim before any attack.

    Parameters
    ----------
    victim : Victim
        Asked twice about the clips.
    clips : Clips
        A few are enough.
    logits : Float[Tensor, "N K"] or None
        Its answer to all clean clips, where it gives scores.
    """
    xyz = clips.xyz.to(victim.device)
    ask = victim.labels if victim.access == "labels" else victim.logits
    first, second = ask(xyz).double(), ask(xyz).double()
    sums_to_one = logits is not None and bool((logits >= 0).all() and ((logits.double().sum(1) - 1).abs() < 1e-4).all())
    flat = torch.zeros(1, dtype=torch.bool)
    if logits is not None and logits.shape[1] > 1:
        top, next_one = logits.double().topk(2, dim=1).values.unbind(1)
        flat = top - next_one > FLAT
    return Observed(
        probabilities=sums_to_one,
        repeat_difference=float((first - second).abs().max()),
        stochastic=victim.stochastic,
        exact_gradients=victim.exact_gradients,
        saturated=float(flat.double().mean()),
    )


def warnings(
    data: DataSummary,
    entries: Sequence[PlannedEntry],
    victims: Sequence[VictimResult],
    observed: Mapping[str, Observed],
    skipped: Sequence[tuple[str, str, str]],
    rows: Mapping[tuple[str, str], Sequence[Row]],
    *,
    surrogates: Sequence[SurrogateResult] = (),
    transfer: Sequence[TransferResult] = (),
    shown: Shown = MappingProxyType({}),
) -> list[AuditWarning]:
    """Return every warning of an audit.

    Parameters
    ----------
    data : DataSummary
        The clips.
    entries : sequence of PlannedEntry
        What the suite has.
    victims : sequence of VictimResult
        The figures.
    observed : mapping of str to Observed
        What `observe` saw of each victim and surrogate.
    skipped : sequence of (str, str, str)
        Victim, entry and reason of what was not tried.
    rows : mapping of (str, str) to sequence of Row
        The ledger's rows by victim and entry, those of surrogates among them.
    surrogates, transfer, shown : optional
        The figures of transfer, and what they were counted from.
    """
    found = [*_of_data(data)]
    for victim in victims:
        found += _of_victim(victim, observed[victim.name])
        found += _of_access(victim, skipped)
        for attack in victim.attacks:
            found += _of_attack(victim.name, attack, rows[victim.name, attack.name])
        found += _of_strength(victim)
        found += _of_entries(victim, entries)
    known = {victim.name for victim in victims}
    for surrogate in surrogates:
        if (
            surrogate.name not in known and surrogate.name in surrogate.contains
        ):  # of an ensemble, its parts are told of
            found += _of_victim(surrogate, observed[surrogate.name])
        for attacked in transfer:
            found += _of_clips(surrogate.name, attacked.name, rows[surrogate.name, attacked.name])
    found += _of_transfer(entries, transfer, rows, shown)
    return [AuditWarning(code=code.value, message=message) for code, message in found]


Found = Iterator[tuple[Code, str]]


def _of_data(data: DataSummary) -> Found:
    if data.synthetic:
        yield Code.SYNTHETIC_DATA, f"data {data.name!r}: no person was recorded; figures say nothing about people"
    if data.n < FEW_CLIPS:
        low, high = wilson(data.n // 2, data.n) or (0.0, 1.0)
        half = 100 * (high - low) / 2
        yield Code.SMALL_SAMPLE, f"{data.n} clips: a rate near 50 % is known to ±{half:.1f} points and no better"


def _of_victim(victim: VictimResult | SurrogateResult, observed: Observed) -> Found:
    clean, name = victim.clean, victim.name
    if clean.accuracy < LOW_ACCURACY:
        yield (
            Code.LOW_CLEAN_ACCURACY,
            f"{name}: {100 * clean.accuracy:.1f} % of the clean clips are right; success rates count over those alone",
        )
    if observed.probabilities:
        yield (
            Code.PROBABILITIES_NOT_LOGITS,
            f"{name}: the scores of every clip sum to 1; gradients of a softmax vanish where it is sure",
        )
    if observed.stochastic:
        yield (
            Code.STOCHASTIC_VICTIM,
            f"{name}: answers differ from call to call; attacks average over answers, and the majority of fresh ones "
            "judges",
        )
    elif observed.repeat_difference > REPEAT:
        yield (
            Code.NONDETERMINISTIC,
            f"{name}: two answers to one question differ by {observed.repeat_difference:.2g}, and the victim does "
            "not say that it is stochastic",
        )
    if not observed.exact_gradients:
        yield Code.INEXACT_GRADIENTS, f"{name}: gradients are not those of the deployed function; attacks may miss"
    if observed.saturated > SATURATED:
        yield (
            Code.SATURATED_LOGITS,
            f"{name}: on {100 * observed.saturated:.0f} % of the clean clips float32 cannot tell its probability from "
            "one; attacks that follow the cross-entropy see no gradient there",
        )


def _of_access(victim: VictimResult, skipped: Sequence[tuple[str, str, str]]) -> Found:
    for name, entry, why in skipped:
        if name == victim.name:
            yield Code.ENTRY_SKIPPED, f"{name}: {entry} was not tried: {why}"


def _of_clips(victim: str, entry: str, rows: Sequence[Row]) -> Found:
    """What a user of the clips must know, whoever they are shown to."""
    attacked = [row for row in rows if row.attacked]
    outside = sum(row.violation > TOLERANCE for row in rows)
    if outside:
        worst = max(row.violation for row in rows)
        yield (
            Code.OUTSIDE_THREAT_MODEL,
            f"{victim}: {entry} left {outside} of {len(rows)} clips outside of its threat model, by up to "
            f"{worst:.2g}; they are not counted as successes",
        )
    blind = sum(row.zero_gradient for row in attacked)
    if blind > ZERO_GRADIENTS * len(attacked):
        yield (
            Code.ZERO_GRADIENT,
            f"{victim}: {entry} met a gradient of zero on {blind} of {len(attacked)} attacked clips; robustness "
            "against it is not shown",
        )
    lost = sum(row.claimed and not row.success and row.violation <= TOLERANCE for row in attacked)
    if lost > SLACK * len(attacked):
        yield (
            Code.LOST_SUCCESSES,
            f"{victim}: {entry} took {lost} of {len(attacked)} attacked clips for fallen that the stored float32 clip "
            "does not fool",
        )


def _of_attack(victim: str, attack: AttackResult, rows: Sequence[Row]) -> Found:
    entry, goal, most_steps = attack.name, attack.goal, attack.settings.get("steps")
    attacked = [row for row in rows if row.attacked]
    yield from _of_clips(victim, entry, rows)
    own = sum(row.reference == row.label for row in rows)
    if goal.startswith("sa") and own:
        yield (
            Code.TARGET_IS_TRUTH,
            f"{victim}: {entry} was to lead {own} of {len(rows)} clips to the class that they have; they were not "
            "attacked",
        )
    fallen = [row for row in attacked if row.success]
    # With fewer than ten steps there is no last tenth; with every clip fallen, more steps could not add one.
    if isinstance(most_steps, int) and most_steps >= 10 and len(fallen) < len(attacked):
        late = sum(row.steps > 0.9 * most_steps for row in fallen)
        if late > LATE_SUCCESSES * len(attacked):
            yield (
                Code.UNDER_ITERATED,
                f"{victim}: {late} of {len(attacked)} attacked clips fell in the last tenth of the {most_steps} steps "
                f"of {entry}; more steps would find more",
            )


def _of_strength(victim: VictimResult) -> Found:
    tried = [attack for attack in victim.attacks if not attack.by_distance]
    rates = [(attack.success_rate, attack.name) for attack in tried if attack.success_rate is not None]
    if rates and max(rates)[0] < NEARLY_ALL:
        rate, name = max(rates)
        yield (
            Code.UNBROKEN,
            f"{victim.name}: the strongest attack, {name}, reaches {100 * rate:.1f} %; the victim is strong, the "
            "budgets are small, or its gradients are masked",
        )


def _of_entries(victim: VictimResult, entries: Sequence[PlannedEntry]) -> Found:
    """What one attack's figure says of another's."""
    by_radius: defaultdict[str, list[tuple[float, AttackResult]]] = defaultdict(list)
    by_steps: defaultdict[str, list[tuple[float, AttackResult]]] = defaultdict(list)
    by_aim: defaultdict[str, list[AttackResult]] = defaultdict(list)
    planned = {entry.name: entry for entry in entries}
    for attack in victim.attacks:
        entry = planned[attack.name]
        if not attack.by_distance:
            by_aim[f"{entry.goal} {entry.threat}"].append(attack)
        if entry.ball is not None:
            family, radius = entry.ball
            by_radius[json.dumps([entry.attack, entry.goal, family, entry.settings])].append((radius, attack))
        if isinstance(steps := entry.settings.get("steps"), int):
            others = {**entry.settings, "steps": None}
            by_steps[json.dumps([entry.attack, entry.goal, entry.threat, others])].append((steps, attack))

    for series, code, more in (
        (by_radius, Code.BUDGET_WITHOUT_EFFECT, "a larger radius"),
        (by_steps, Code.MORE_STEPS_WORSE, "more steps"),
    ):
        for group in series.values():
            ordered = [attack for _, attack in sorted(group, key=lambda pair: pair[0])]
            for less, greater in itertools.pairwise(ordered):
                if _fewer(greater, less):
                    yield (
                        code,
                        f"{victim.name}: with {more}, {greater.name} fells {greater.succeeded} clips and {less.name} "
                        f"{less.succeeded}; gradients mislead it, or it stops too early",
                    )
    for group in by_radius.values():
        (small, first), (large, last) = min(group, key=lambda pair: pair[0]), max(group, key=lambda pair: pair[0])
        if large >= 2 * small and last.succeeded == first.succeeded < NEARLY_ALL * first.attacked:
            yield (
                Code.BUDGET_WITHOUT_EFFECT,
                f"{victim.name}: {last.name} fells no more clips than {first.name}, {first.succeeded} of "
                f"{first.attacked}, with {large / small:.3g} times the radius",
            )
    for aimed in by_aim.values():
        blind = [attack for attack in aimed if attack.access != "gradients"]
        # A cascade may owe what it fells to a stage that sees none.
        seeing = [attack for attack in aimed if attack.access == "gradients" and "stages" not in attack.settings]
        if blind and seeing:
            best, other = (max(group, key=lambda attack: attack.succeeded) for group in (blind, seeing))
            if _fewer(other, best):
                yield (
                    Code.BLACK_BOX_STRONGER,
                    f"{victim.name}: {best.name}, which sees {best.access}, fells {best.succeeded} clips, and "
                    f"{other.name}, which sees gradients, {other.succeeded}; the gradients are masked",
                )


def _of_transfer(
    entries: Sequence[PlannedEntry],
    transfer: Sequence[TransferResult],
    rows: Mapping[tuple[str, str], Sequence[Row]],
    shown: Shown,
) -> Found:
    """What a surrogate's clips say of the attacks that saw the target's own gradients, over the clips of one cell."""
    planned: list[PlannedEntry | TransferResult] = [*entries, *transfer]
    for attack in transfer:
        aim = ("gradients", attack.goal, attack.threat)
        same = [entry.name for entry in planned if (entry.access, entry.goal, entry.threat) == aim]
        for cell in attack.cells:
            own = [rows[cell.target, name] for name in same if (cell.target, name) in rows]
            if cell.white_box or not own:
                continue
            felled = {row.clip_index for found in own for row in found if row.success}
            both = [row for row, said in shown[cell.surrogate, attack.name, cell.target] if row.attacked and said.right]
            seen = sum(row.clip_index in felled for row in both)
            if cell.fooled - seen > SLACK * cell.n:
                yield (
                    Code.BLACK_BOX_STRONGER,
                    f"{cell.target}: of the {cell.n} clips that {cell.surrogate} gets right as well, those that "
                    f"{attack.name} made on {cell.surrogate} fool it on {cell.fooled}, and attacks that see its own "
                    f"gradients, within the same threat model, on {seen}; its gradients are masked",
                )


def _fewer(one: AttackResult, other: AttackResult) -> bool:
    """Whether one attack felled fewer clips than another, and not by chance of a clip or two."""
    return other.succeeded - one.succeeded > SLACK * other.attacked
