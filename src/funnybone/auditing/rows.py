"""A row of the ledger: what one attack on one victim did to one clip, to the table and back."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Row:
    """What one attack on one victim did to one clip; the fields are the columns of the table ``results``.

    ``key`` is a hash of everything that decides the others but ``seconds``, the clip's share of its chunk's time.
    ``distances`` is JSON in the table; a figure that does not exist is null. The adversarial clip is row
    ``shard_row`` of ``adversarial/<shard>``.
    """

    key: str
    victim: str
    entry: str
    goal: str
    seed: int
    chunk: int
    clip: str
    clip_index: int
    label: int
    clean_prediction: int
    prediction: int
    reference: int
    attacked: bool
    success: bool
    claimed: bool
    steps: int
    queries: int
    gradients: int
    violation: float
    zero_gradient: bool
    distances: dict[str, float | None]
    seconds: float
    shard: str
    shard_row: int


_KINDS = get_type_hints(Row)
_SQL_TYPES = {str: "TEXT", int: "INTEGER", bool: "INTEGER", float: "REAL"}
_CLASSES = ("label", "clean_prediction", "prediction", "reference")
COLUMNS = tuple(_KINDS)
TABLE = (
    "CREATE TABLE results ("
    + ", ".join(f"{name} {_SQL_TYPES.get(kind, 'TEXT')} NOT NULL" for name, kind in _KINDS.items())
    + ", PRIMARY KEY (key))"
)


class FieldError(ValueError):
    """A value that no audit writes: the column and what is wrong with it."""


def to_sql(row: Row) -> list[Any]:
    """Return the values of the columns."""
    values = (getattr(row, name) for name in COLUMNS)
    return [json.dumps(value, sort_keys=True) if isinstance(value, dict) else value for value in values]


def from_sql(values: Sequence[Any], clips: int, classes: int) -> Row:
    """Return the row of what a table holds; sqlite keeps any value in any column, so each is looked at.

    Parameters
    ----------
    values : sequence
        One for each column.
    clips, classes : int
        How many the audit has: indices are below them.

    Raises
    ------
    FieldError
        For a value of another type or outside of its range.
    """
    found = {name: _value(name, value) for name, value in zip(COLUMNS, values, strict=True)}
    for name, end in (("clip_index", clips), *((name, classes) for name in _CLASSES)):
        if found[name] >= end:
            raise FieldError(f"{name} is {found[name]}, the largest is {end - 1}")
    if found["success"] and not found["attacked"]:
        raise FieldError("success is 1 where attacked is 0")
    if found["attacked"] and found["clean_prediction"] != found["label"]:
        raise FieldError("attacked is 1, though clean_prediction is not the label")
    plain_name("shard", found["shard"])
    return Row(**found)


def plain_name(field: str, value: Any) -> str:
    """Return a file's name that leads nowhere else; `FieldError` for any other value."""
    if not isinstance(value, str) or not value or Path(value).name != value:
        raise FieldError(f"{field} is {_short(value)}, not the name of a file")
    return value


def _value(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    if kind is bool:
        if not isinstance(value, int) or value not in (0, 1):
            raise FieldError(f"{name} is {_short(value)}, neither 0 nor 1")
        return bool(value)
    if kind is int and name == "seed":
        fits = isinstance(value, int)
    elif kind is int:
        fits = isinstance(value, int) and value >= 0
    elif kind is float:
        fits = isinstance(value, float) and 0 <= value < math.inf
    elif kind is str:
        fits = isinstance(value, str)
    else:
        figures = _figures(value)
        if figures is not None:
            return figures
        fits = False
    if not fits:
        raise FieldError(f"{name} is {_short(value)}, which no audit writes")
    return value


def _figures(text: Any) -> dict[str, float | None] | None:
    """Named figures, each a finite number or missing; None for anything else."""
    try:
        figures = json.loads(text)
    except (TypeError, ValueError):
        return None
    if not isinstance(figures, dict):
        return None
    finite = all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
        for value in figures.values()
    )
    return figures if finite else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
