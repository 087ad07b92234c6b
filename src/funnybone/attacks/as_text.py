"""Attacks as text, where one names others: a name and its settings, ``name key=value key=value``."""

import ast
import shlex
from typing import Any

from funnybone.attacks.base import Attack, create_attack
from funnybone.errors import DataError


def attack_from(text: str) -> Attack:
    """Return the attack that a text names, with its settings.

    Examples
    --------
    >>> attack_from("pgd steps=20 random_start=False").random_start
    False
    >>> attack_from("angles slack=0.2 search='pgd steps=20'").search
    'pgd steps=20'
    """
    try:
        name, *pairs = shlex.split(text) or [""]
    except ValueError as error:
        raise DataError(f"attack {text!r}: {error}", hint="write name key=value, with quotes in pairs") from None
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise DataError(f"attack {text!r}: {pair!r} is not a setting", hint="write key=value")
        if key in settings:
            raise DataError(f"attack {text!r}: {key} is given twice", hint="give it once")
        settings[key] = _literal(value)
    return create_attack(name, **settings)


def _literal(text: str) -> Any:
    """A Python literal, or the text itself where it is none: 20, 0.1, True, (1,2), dlr."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
