"""An audit as a table: the same columns on a terminal, in plain text and in Python."""

from funnybone.auditing.schema import AuditResult, TransferResult
from funnybone.tables import MISSING, number, plain, rate
from funnybone.units import UNITS


def headers(result: AuditResult) -> tuple[str, ...]:
    """Return the columns of a table; ``natural %`` is among them where the audit judged natural motion."""
    shown = UNITS[result.data.unit]
    return (
        *("victim, attack, goal", "success %", "of", "robust %"),
        *(f"pos. {shown.distance}", f"acc {shown.per_second2}", "bones %", "steps"),
        *(("natural %",) if judged(result) else ()),
    )


def judged(result: AuditResult) -> bool:
    """Whether the audit judged which of the clips that fell are natural motion."""
    return any(attack.on_manifold_rate is not None for victim in result.victims for attack in victim.attacks)


def rows(result: AuditResult) -> list[list[str]]:
    """Return a row for each victim's clean accuracy (under ``robust %``), one for each attack on it, and a last one.

    The last, ``(all together)``, has under ``robust %`` the share of clips that the victim got right and that no attack
    fooled: what is left when the attacker may choose the attack for each clip.

    Rates carry their Wilson 95 % interval; ``of`` is the denominator of success, the clips that the victim got right.
    What succeeds by its making, a walk from another motion that nothing bounds, has no robust accuracy.

    Distances are means over successes, steps their median; ``natural %`` is the share of successes that are natural
    motion, beside that of the clean clips.
    """
    lines: list[list[str]] = []
    more = int(judged(result))
    natural = [number(result.data.on_manifold_rate, 0, scale=100)] * more
    scale = UNITS[result.data.unit].scale
    for victim in result.victims:
        clean = rate(victim.clean.accuracy, victim.clean.ci95)
        lines.append([f"{victim.name}, clean", "", "", clean, *[""] * 4, *natural])
        for attack in victim.attacks:
            lines.append(
                [
                    f"  {attack.name}, {attack.goal}",
                    rate(attack.success_rate, attack.ci95),
                    str(attack.attacked),
                    MISSING if attack.by_distance else rate(attack.robust_accuracy, attack.robust_accuracy_ci95),
                    number(attack.position_m, 1, scale=scale),
                    number(attack.acceleration, 2),
                    number(attack.bone_length_change, 2, scale=100),
                    number(attack.steps_median),
                    *[number(attack.on_manifold_rate, 0, scale=100)] * more,
                ]
            )
        if victim.worst_case is not None:
            left = rate(victim.worst_case.robust_accuracy, victim.worst_case.robust_accuracy_ci95)
            lines.append(["  (all together)", "", "", left, *[""] * (4 + more)])
    return lines


def heading(result: AuditResult) -> str:
    """Return one line that says what was audited."""
    kind = ", synthetic: no person was recorded" if result.data.synthetic else ""
    searched = f" searched in {result.precision}" if result.precision != "fp32" else ""
    part = f", {result.data.split}" if result.data.split else ""
    return f"{result.data.name}{part}: n={result.data.n}, suite {result.suite}{searched}, seed {result.seed}{kind}"


# The denominator of every rate of transfer.
OVER = "the n clips that surrogate and target both get right"
WHITE_BOX = "* white-box: the surrogate is this target, or contains it"


def transfer_heading(result: TransferResult) -> str:
    """Return one line that says what a matrix of transfer is of."""
    return f"transfer of {result.name}, goal {result.goal}, {result.threat}: % fooled of {OVER}"


def transfer_headers(result: TransferResult) -> tuple[str, ...]:
    """Return the columns of a matrix of transfer: the surrogate, and each target."""
    return ("surrogate", *result.targets)


def transfer_rows(result: TransferResult) -> list[list[str]]:
    """Return a row for each surrogate: success on each target with its interval, and over how many clips.

    Cells with a star are white-box: see ``WHITE_BOX``.
    """
    cells = {
        (cell.surrogate, cell.target): transfer_cell(cell.rate, cell.ci95, cell.n) + " *"[cell.white_box]
        for cell in result.cells
    }
    return [
        [surrogate, *(cells.get((surrogate, target), f"{MISSING} ") for target in result.targets)]
        for surrogate in result.surrogates
    ]


def transfer_cell(success: float | None, ci95: tuple[float, float] | None, n: int) -> str:
    """Return a rate of transfer with what it counts over.

    Examples
    --------
    >>> transfer_cell(0.25, (0.089, 0.532), 12)
    '25.0 [8.9, 53.2] n=12'
    """
    return f"{rate(success, ci95)} n={n}"


def table(result: AuditResult) -> str:
    """Return heading, figures, matrices of transfer, warnings, and what it all means, as plain text."""
    columns = headers(result)
    lines = [heading(result), plain(columns, rows(result), numbers=columns[1:])]
    for attack in result.transfer:
        names = transfer_headers(attack)
        lines += ["", transfer_heading(attack), plain(names, transfer_rows(attack), numbers=names[1:])]
    if result.transfer:
        lines += [WHITE_BOX, ""]
    lines += [f"{warning.code}: {warning.message}" for warning in result.warnings]
    return "\n".join([*lines, *([""] if result.meaning else []), *result.meaning])
