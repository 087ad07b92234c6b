"""An audit as a table: the same columns on a terminal, in plain text and in Python."""

from funnybone.auditing.schema import AuditResult
from funnybone.tables import number, plain, rate
from funnybone.units import UNITS


def headers(unit: str = "metre") -> tuple[str, ...]:
    """Return the columns of a table about data in this unit.

    Examples
    --------
    >>> headers("pixel")[4:6]
    ('pos. px', 'acc px/s2')
    """
    shown = UNITS[unit]
    return (
        *("victim, attack, goal", "success %", "of", "robust %"),
        *(f"pos. {shown.distance}", f"acc {shown.per_second2}", "bones %", "steps"),
    )


def rows(result: AuditResult) -> list[list[str]]:
    """Return a row for each victim's clean accuracy (under ``robust %``), one for each attack on it, and a last one.

    The last, ``(all together)``, has under ``robust %`` the share of clips that the victim got right and that no attack
    fooled: what is left when the attacker may choose the attack for each clip.

    Rates carry their Wilson 95 % interval; ``of`` is the denominator of success, the clips that the victim got right.
    Distances are means over successes, steps their median.
    """
    lines = []
    scale = UNITS[result.data.unit].scale
    for victim in result.victims:
        clean = rate(victim.clean.accuracy, victim.clean.ci95)
        lines.append([f"{victim.name}, clean", "", "", clean, "", "", "", ""])
        for attack in victim.attacks:
            lines.append(
                [
                    f"  {attack.name}, {attack.goal}",
                    rate(attack.success_rate, attack.ci95),
                    str(attack.attacked),
                    rate(attack.robust_accuracy, attack.robust_accuracy_ci95),
                    number(attack.position_m, 1, scale=scale),
                    number(attack.acceleration, 2),
                    number(attack.bone_length_change, 2, scale=100),
                    number(attack.steps_median),
                ]
            )
        if victim.worst_case is not None:
            left = rate(victim.worst_case.robust_accuracy, victim.worst_case.robust_accuracy_ci95)
            lines.append(["  (all together)", "", "", left, "", "", "", ""])
    return lines


def heading(result: AuditResult) -> str:
    """Return one line that says what was audited."""
    kind = ", synthetic: no person was recorded" if result.data.synthetic else ""
    part = f", {result.data.split}" if result.data.split else ""
    return f"{result.data.name}{part}: n={result.data.n}, suite {result.suite}, seed {result.seed}{kind}"


def table(result: AuditResult) -> str:
    """Return heading, figures and warnings as plain text."""
    warnings = (f"{warning.code}: {warning.message}" for warning in result.warnings)
    columns = headers(result.data.unit)
    return "\n".join([heading(result), plain(columns, rows(result), numbers=columns[1:]), *warnings])
