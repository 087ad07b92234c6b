"""Attacks as text, where one names others: a name and its settings, ``name key=value key=value``."""

import ast
import shlex
from typing import Any, get_type_hints

from funnybone.attacks.base import Attack, attacks, create_attack
from funnybone.errors import DataError


def attack_from(text: str) -> Attack:
    """Return the attack that a text names, with its settings.

    Examples
    --------
    >>> attack_from("pgd steps=20 random_start=false").random_start
    False
    >>> attack_from("angles slack=0.2 search='pgd steps=20'").search
    'pgd steps=20'
    """
    try:
        name, *pairs = shlex.split(text) or [""]
    except ValueError as error:
        raise DataError(f"attack {text!r}: {error}", hint="write name key=value, with quotes in pairs") from None
    settings: dict[str, Any] = {}
    kinds = get_type_hints(attacks[name])
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise DataError(f"attack {text!r}: {pair!r} is not a setting", hint="write key=value")
        if key in settings:
            raise DataError(f"attack {text!r}: {key} is given twice", hint="give it once")
        settings[key] = _value(value, kinds.get(key))
    return create_attack(name, **settings)


def _value(text: str, kind: Any) -> Any:
    """A Python literal, or the text itself where it is none: 20, 0.1, True, (1,2), dlr; true and false where asked."""
    if kind is bool and text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
