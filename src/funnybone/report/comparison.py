"""A leaderboard of audits as text, as a table for LaTeX, and as a page."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from markupsafe import Markup

from funnybone.auditing.leaderboard import Leaderboard, Line
from funnybone.auditing.schema import AttackResult
from funnybone.report.html import environment, policy, static
from funnybone.tables import MISSING, number, plain, rate
from funnybone.units import UNITS

Figure = Literal["robust", "success", "position"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
STAR = "*"
OF_VICTIMS = ("victim", "defense", "fit s", "clean %", "worst case %")
WORST = OF_VICTIMS.index("worst case %")

_ESCAPES = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


class Cell(NamedTuple):
    """What stands in a line; ``strongest`` is the attack that alone leaves the victim least."""

    text: str
    strongest: bool = False


def headers(board: Leaderboard) -> tuple[str, ...]:
    """Return the columns: of the victim, with what all attacks together leave, and then each attack."""
    return (*OF_VICTIMS, *board.attacks)


def cells(board: Leaderboard, line: Line, figures: Sequence[Figure]) -> list[Cell]:
    """Return a line, in the order of `headers`; figures of an attack are parted by a slash."""
    clean, worst = line.victim.clean, line.victim.worst_case
    left = rate(worst.robust_accuracy, worst.robust_accuracy_ci95) if worst else MISSING
    if worst and not board.met_all(line):
        left += f", {len(line.attacks)} of {len(board.attacks)} attacks"
    took = number(line.victim.fit_seconds, 0)
    own = (line.name, line.victim.defense or MISSING, took, rate(clean.accuracy, clean.ci95), left)
    attacks = ((name, line.attacks.get(name)) for name in board.attacks)
    return [
        *map(Cell, own),
        *(Cell(_figures(found, figures, board.data.unit), name == line.strongest) for name, found in attacks),
    ]


def legend(board: Leaderboard, figures: Sequence[Figure]) -> str:
    """Return what the figures of an attack are."""
    words = {
        "robust": "accuracy left over all clips (%)",
        "success": "success over the clips that the victim got right (%)",
        "position": f"mean displacement where it succeeded ({UNITS[board.data.unit].distance})",
    }
    return " / ".join(words[figure] for figure in figures)


def heading(board: Leaderboard) -> str:
    """Return one line that says on which clips."""
    kind = ", synthetic: no person was recorded" if board.data.synthetic else ""
    part = f", {board.data.split}" if board.data.split else ""
    return f"{board.data.name}{part}: n={board.data.n}{kind}"


def to_text(boards: Sequence[Leaderboard], figures: Sequence[Figure] = FIGURES) -> str:
    """Return leaderboards as aligned text; a star stands behind the attack that alone leaves a victim least."""
    parts = []
    for board in boards:
        columns = headers(board)
        lines = [cells(board, line, figures) for line in board.lines]
        rows = [[f"{text}{STAR}" if strongest else text for text, strongest in line] for line in lines]
        table = plain(columns, rows, numbers=columns[2:])
        parts.append("\n".join((heading(board), table, _note(board, figures, STAR))))
    return "\n\n".join(parts)


def to_latex(boards: Sequence[Leaderboard], figures: Sequence[Figure] = FIGURES) -> str:
    """Return leaderboards as LaTeX tables (package booktabs); what decides is in bold face."""
    return "\n\n".join(_latex(board, figures) for board in boards)


def _latex(board: Leaderboard, figures: Sequence[Figure]) -> str:
    columns = headers(board)
    rows = [
        [
            rf"\textbf{{{_escaped(text)}}}" if strongest or place == WORST else _escaped(text)
            for place, (text, strongest) in enumerate(cells(board, line, figures))
        ]
        for line in board.lines
    ]
    head, *body = (" & ".join(line) + r" \\" for line in [list(map(_escaped, columns)), *rows])
    begin = rf"\begin{{tabular}}{{ll{'r' * (len(columns) - 2)}}}"
    note = f"% {_escaped(heading(board))}. {_note(board, figures, 'bold')}"  # of one line, whatever the name holds
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", note])


def to_html(boards: Sequence[Leaderboard], figures: Sequence[Figure] = FIGURES) -> str:
    """Return leaderboards as one page, which fetches nothing."""
    styles, script = static("report.css"), static("theme.js")
    tables = [
        {
            "data": board.data,
            "heading": heading(board),
            "headers": headers(board),
            "note": _note(board, figures, "bold"),
            "rows": [cells(board, line, figures) for line in board.lines],
        }
        for board in boards
    ]
    page = environment().get_template("comparison.html.j2")
    return page.render(
        policy=policy(styles, [script]), styles=Markup(styles), script=Markup(script), tables=tables, worst=WORST
    )


def _figures(attack: AttackResult | None, figures: Sequence[Figure], unit: str) -> str:
    if attack is None:
        return MISSING
    found: dict[Figure, str] = {
        "robust": MISSING if attack.by_distance else rate(attack.robust_accuracy, attack.robust_accuracy_ci95),
        "success": rate(attack.success_rate, attack.ci95),
        "position": number(attack.position_m, 1, scale=UNITS[unit].scale),
    }
    return " / ".join(found[figure] for figure in figures)


def _note(board: Leaderboard, figures: Sequence[Figure], mark: str) -> str:
    return (
        f"Under each attack: {legend(board, figures)}; {mark}: the strongest alone. Worst case: accuracy left when "
        "each clip meets the attack that fools it; a victim that met fewer attacks than others stands last. Wilson "
        "95 % intervals. Fit: wall time of all that was fitted, where its file says so."
    )


def _escaped(text: str) -> str:
    return " ".join(text.split()).translate(_ESCAPES)
