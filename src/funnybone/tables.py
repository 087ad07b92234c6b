"""Figures as aligned plain text."""

from collections.abc import Sequence

MISSING = "-"


def plain(headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> str:
    """Return a table as aligned text.

    Examples
    --------
    >>> print(plain(("name", "clips"), (("walk", "7"), ("jog", "12")), numbers=("clips",)))
    name  clips
    walk      7
    jog      12
    """
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]

    def aligned(line: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if header in numbers else cell.ljust(width)
            for cell, width, header in zip(line, widths, headers, strict=True)
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, lines))


def rate(value: float | None, interval: tuple[float, float] | None) -> str:
    """Return a share with its interval in per cent.

    Examples
    --------
    >>> rate(0.974, (0.956, 0.985))
    '97.4 [95.6, 98.5]'
    """
    if value is None or interval is None:
        return MISSING
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def number(value: float | None, digits: int = 0, scale: float = 1) -> str:
    """Return a figure, or a dash where there is none."""
    return MISSING if value is None else f"{scale * value:.{digits}f}"
