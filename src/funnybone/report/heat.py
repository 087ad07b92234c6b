"""The matrices of transfer as tables whose cells are shaded by their rate."""

from funnybone.auditing.schema import TransferCell, TransferResult
from funnybone.report import numbers

# Shades, from none fooled to all, in the style sheet: a style attribute is what the page's policy refuses.
STEPS = range(11)


def rows(attack: TransferResult) -> list[tuple[str, list[TransferCell | None]]]:
    """Return each surrogate with its cells in the order of the targets; None where there is none."""
    cells = {(cell.surrogate, cell.target): cell for cell in attack.cells}
    return [
        (surrogate, [cells.get((surrogate, target)) for target in attack.targets]) for surrogate in attack.surrogates
    ]


def shade(cell: TransferCell) -> int | str:
    """Return the step of a cell's shade; any success is told from none, and any failure from all.

    Examples
    --------
    >>> counts = {"n": 200, "ci95": (0, 1), "fooled_surrogate": 0, "fooled_both": 0}
    >>> cells = [TransferCell(surrogate="a", target="b", white_box=False, fooled=fooled, rate=fooled / 200, **counts)
    ...          for fooled in (0, 1, 100, 199, 200)]
    >>> [shade(cell) for cell in cells]
    [0, 1, 5, 9, 10]
    """
    if cell.rate is None:
        return "none"
    if cell.rate in (0, 1):
        return STEPS[-1] * int(cell.rate)
    return min(max(round(STEPS[-1] * cell.rate), 1), STEPS[-2])


def described(cell: TransferCell) -> str:
    """Return what a cell says when it is pointed at."""
    if cell.rate is None:
        return f"{cell.surrogate} and {cell.target} get no clip right together"
    white = "White-box: " if cell.white_box else ""
    return (
        f"{white}{cell.fooled} of {cell.n} clips that {cell.surrogate} and {cell.target} both get right fool "
        f"{cell.target}: {numbers.percent(cell.rate)} % {numbers.interval(cell.ci95)}"
    )


def spoken(cell: TransferCell) -> str:
    """Return what is read out behind rate and n."""
    if cell.ci95 is None:
        return "no clip that both get right"
    low, high = map(numbers.percent, cell.ci95)
    return f"interval {low} to {high} %{', white-box' if cell.white_box else ''}"
