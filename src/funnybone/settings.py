"""Build a part from its settings, with an error that names the setting."""

import dataclasses
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from funnybone.errors import DataError

T = TypeVar("T")

# What a setting of a plain type takes; a whole number is a number too.
_NUMBERS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float)}
_WORDS = {int: "a whole number", float: "a number"}


def build(kind: str, name: str, part: type[T], settings: dict[str, Any], preset: str | None = None) -> T:
    """Return ``part(**settings)`` for a dataclass of settings; those of a preset that it has stand under them.

    Raises
    ------
    DataError
        For a preset or a setting that the part does not have, or a value of a type that it cannot take.
    """
    presets = getattr(part, "presets", {})
    if preset is not None and preset not in presets:
        raise DataError(
            f"{kind} {name} has no preset {preset!r}",
            hint=f"it has {', '.join(presets)}" if presets else "leave it out",
        )
    settings = {**presets.get(preset, {}), **settings}
    known = [field.name for field in dataclasses.fields(part) if field.init] if dataclasses.is_dataclass(part) else []
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise DataError(f"{kind} {name} has no setting {unknown[0]!r}", hint=f"it has {', '.join(known) or 'none'}")
    kinds = get_type_hints(part)
    for key, value in settings.items():
        if kinds[key] in _NUMBERS and (isinstance(value, bool) or not isinstance(value, _NUMBERS[kinds[key]])):
            raise DataError(f"{kind} {name}: {key} is {value!r}", hint=f"give {_WORDS[kinds[key]]}")
        if kinds[key] is bool and not isinstance(value, bool):  # the text "false" would count as true
            raise DataError(f"{kind} {name}: {key} is {value!r}", hint="give True or False")
        if get_origin(kinds[key]) is Literal and value not in get_args(kinds[key]):
            choices = ", ".join(map(str, get_args(kinds[key])))
            raise DataError(f"{kind} {name}: {key} is {value!r}", hint=f"it is one of {choices}")
    try:
        return part(**settings)
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(f"{kind} {name}: {error}", hint="look at the types of its settings") from None
