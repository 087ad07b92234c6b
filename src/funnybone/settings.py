"""Build a part from its settings, with an error that names the setting."""

import dataclasses
from typing import Any, TypeVar

from funnybone.errors import DataError

T = TypeVar("T")


def build(kind: str, name: str, part: type[T], settings: dict[str, Any]) -> T:
    """Return ``part(**settings)`` for a dataclass of settings.

    Raises
    ------
    DataError
        For a setting that the part does not have, or a value of a type that it cannot take.
    """
    known = [field.name for field in dataclasses.fields(part) if field.init] if dataclasses.is_dataclass(part) else []
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise DataError(f"{kind} {name} has no setting {unknown[0]!r}", hint=f"it has {', '.join(known) or 'none'}")
    try:
        return part(**settings)
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(f"{kind} {name}: {error}", hint="look at the types of its settings") from None
