"""Tables on standard output: ruled on a terminal, aligned plain text elsewhere."""

import sys
from collections.abc import Sequence

from funnybone.cli.common import emit
from funnybone.tables import plain


def show(headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table. Columns whose header is among ``numbers`` are aligned to the right."""
    if not sys.stdout.isatty():
        emit(plain(headers, rows, numbers=numbers))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(escape(header), justify="right" if header in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
