"""``funnybone compare``: several audits as one leaderboard."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from funnybone.cli.common import Json, emit, emit_json, prepare
from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.auditing.leaderboard import Leaderboard


def compare(
    *folders: Path,
    format: Annotated[Literal["text", "html", "latex"], Parameter(show_choices=True)] = "text",
    figures: str = "robust,success,position",
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Compare victims over audits of the same clips: a line for each victim, a column for each attack.

    The worst attack decides: victims stand in the order of the accuracy that is left when each clip meets the attack
    that fools it. Audits of different clips have a table each.

    Parameters
    ----------
    folders
        What funnybone audit wrote, one or more.
    format
        text, html (one page), latex (a table for booktabs).
    figures
        Of each attack, with commas between: robust (accuracy left over all clips), success (over the clips that the
        victim got right), position (mean displacement where it succeeded).
    out
        Write it to this file, which is not overwritten; text and latex go to standard output by default.
    """
    from funnybone.auditing.folder import RESULT
    from funnybone.auditing.leaderboard import leaderboards
    from funnybone.auditing.schema import AuditResult
    from funnybone.report.comparison import FIGURES, to_html, to_latex, to_text

    if not folders:
        raise DataError("no audits are named", hint="give folders that funnybone audit wrote")
    chosen = tuple(figure for known in figures.split(",") for figure in FIGURES if figure == known)
    if len(chosen) != len(figures.split(",")):
        raise DataError(f"--figures {figures}: not known", hint=f"they are {', '.join(FIGURES)}, with commas between")
    if json and (out is not None or format != "text"):
        raise DataError("--json prints a document, whatever --format and --out say", hint="leave these out")
    if format == "html" and out is None:
        raise DataError("a page needs a file", hint="give --out PAGE.html")
    boards = leaderboards([(str(folder), AuditResult.load(folder / RESULT)) for folder in folders])
    if json:
        emit_json([_plain(board) for board in boards])
        return
    text = {"text": to_text, "html": to_html, "latex": to_latex}[format](boards, chosen)
    if out is None:
        emit(text)
        return
    prepare(out)
    out.write_text(text + "\n", encoding="utf-8")
    emit(str(out))


def _plain(board: "Leaderboard") -> dict[str, Any]:
    """A leaderboard as JSON can hold it."""
    return {
        "data": board.data.model_dump(mode="json"),
        "victims": [{**line.victim.model_dump(mode="json"), "name": line.name} for line in board.lines],
    }
