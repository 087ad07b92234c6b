"""``funnybone report``: the page of an audit, written anew."""

from pathlib import Path

from funnybone.cli.common import Json, emit, emit_json, prepare


def report(folder: Path, /, *, out: Path | None = None, json: Json = False) -> None:
    """Write the HTML report of an audit's folder.

    Parameters
    ----------
    folder
        What funnybone audit wrote: audit.json, ledger.sqlite, adversarial/.
    out
        Where to write it; FOLDER/report.html by default, which is replaced.
    """
    from funnybone.report.folder import write_report

    if out is not None:
        prepare(out)
    page = write_report(folder, out)
    if json:
        emit_json({"report": str(page)})
    else:
        emit(f"report: {page}")
