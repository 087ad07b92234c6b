"""An audit as a table: the same columns on a terminal, in plain text and in Python."""

from funnybone.auditing.schema import AuditResult
from funnybone.tables import number, plain, rate

HEADERS = (
    *("victim", "attack", "goal", "success %", "of", "robust %"),
    *("position mm", "acc. m/s2", "bones %", "steps p50"),
)
NUMBERS = HEADERS[3:]


def rows(result: AuditResult) -> list[list[str]]:
    """Return a row for each victim's clean accuracy (under ``robust %``) and one for each attack on it.

    Rates carry their Wilson 95 % interval; ``of`` is the denominator of success, the clips that the victim got right.
    Distances are means over successes.
    """
    lines = []
    for victim in result.victims:
        clean = rate(victim.clean.accuracy, victim.clean.ci95)
        lines.append([victim.name, "(clean)", "", "", "", clean, "", "", "", ""])
        for attack in victim.attacks:
            lines.append(
                [
                    "",
                    attack.name,
                    attack.goal,
                    rate(attack.success_rate, attack.ci95),
                    str(attack.attacked),
                    rate(attack.robust_accuracy, attack.robust_accuracy_ci95),
                    number(attack.position_m, 1, scale=1000),
                    number(attack.acceleration, 2),
                    number(attack.bone_length_change, 2, scale=100),
                    number(attack.steps_median),
                ]
            )
    return lines


def heading(result: AuditResult) -> str:
    """Return one line that says what was audited."""
    kind = ", synthetic: no person was recorded" if result.data.synthetic else ""
    part = f", {result.data.split}" if result.data.split else ""
    return f"{result.data.name}{part}: n={result.data.n}, suite {result.suite}, seed {result.seed}{kind}"


def table(result: AuditResult) -> str:
    """Return heading, figures and warnings as plain text."""
    warnings = (f"{warning.code}: {warning.message}" for warning in result.warnings)
    return "\n".join([heading(result), plain(HEADERS, rows(result), numbers=NUMBERS), *warnings])
