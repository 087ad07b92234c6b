"""Figures as they stand in the report: what does not exist is a dash, a column shares its decimals."""

import math
from collections.abc import Sequence
from typing import Any

DASH = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(rate: float | None, digits: int = 1) -> str:
    """Return a share in per cent, without the sign.

    Examples
    --------
    >>> percent(0.974), percent(None)
    ('97.4', '–')
    """
    return DASH if rate is None else f"{100 * rate:.{digits}f}"


def interval(bounds: tuple[float, float] | None) -> str:
    """Return an interval of shares in per cent.

    Examples
    --------
    >>> interval((0.956, 0.985)), interval(None)
    ('[95.6, 98.5]', '–')
    """
    return DASH if bounds is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"


def count(value: float | int | None) -> str:
    """Return a count or a median of counts.

    Examples
    --------
    >>> count(12345), count(37.5), count(None)
    ('12,345', '37.5', '–')
    """
    if value is None:
        return DASH
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def short(value: float | int | None) -> str:
    """Return two significant figures, as a power of ten where zeros would hide them.

    Examples
    --------
    >>> short(0.0), short(0.031), short(2.34e-7), short(1520.0)
    ('0', '0.031', '2.3 × 10⁻⁷', '1,520')
    """
    if value is None:
        return DASH
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -3 <= exponent <= 5:
        mantissa, _, power = f"{value:.1e}".partition("e")
        return f"{mantissa} × 10{str(int(power)).translate(_SUPERSCRIPT)}"
    return f"{value:,.{max(0, 1 - exponent)}f}"


def column(values: Sequence[float | int | None], scale: int = 1) -> list[str]:
    """Return a column of measurements with one number of decimals, so that its points stand in line.

    The decimals show two figures of the smallest value, within reason; what would round to nothing says so.

    Examples
    --------
    >>> column([0.0031, 0.0124, None], scale=1000)
    ['3.1', '12.4', '–']
    >>> column([0.00002, 250.0])
    ['<0.1', '250.0']
    """
    scaled = [None if value is None else value * scale for value in values]
    sizes = [abs(value) for value in scaled if value]
    if not sizes:
        return [DASH if value is None else "0" for value in scaled]
    wanted = 1 - math.floor(math.log10(min(sizes)))
    most = 1 if max(sizes) >= 100 else 2 if max(sizes) >= 10 else 3
    digits = min(max(wanted, 0), most)
    least = 10.0**-digits
    return [
        DASH if value is None else f"<{least:.{digits}f}" if 0 < abs(value) < least / 2 else f"{value:,.{digits}f}"
        for value in scaled
    ]


def setting(value: Any) -> str:
    """Return the value of an attack's setting as a person would write it.

    Examples
    --------
    >>> setting(0.01), setting(True), setting([1, 2]), setting(None)
    ('0.01', 'yes', '1, 2', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(setting(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {setting(part)}" for key, part in value.items())
    return str(value)
