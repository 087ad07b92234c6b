"""Settings as text: TOML files of what a command takes, and ``key=value`` pairs of a part's fields."""

import ast
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cyclopts import App, Argument, ArgumentCollection, Token

from funnybone.errors import DataError


def apply_config(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Replace each ``*.toml`` among a command's positional arguments by what the file says.

    Keys are the names of options and positional arguments; a list gives an option several times, and a table gives
    ``key=value`` pairs. What the command line gives as well is taken from there.
    """
    for argument in arguments:
        for token in [token for token in argument.tokens if token.keyword is None and token.value.endswith(".toml")]:
            argument.tokens.remove(token)
            _apply(Path(token.value).expanduser(), arguments)


def _apply(path: Path, arguments: ArgumentCollection) -> None:
    known = {_key(argument): argument for argument in arguments}
    for key, value in _read(path).items():
        argument = known.get(key.replace("-", "_"))
        if argument is None:
            raise DataError(f"{path}: unknown key {key!r}", hint=f"known are {', '.join(known)}")
        if not argument.tokens:
            for token in _tokens(path, key, value, argument):
                argument.append(token)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", hint="give a settings file in TOML") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: not a TOML file: {error}") from None


def _key(argument: Argument) -> str:
    return argument.name.lstrip("-").lower().replace("-", "_")


def _tokens(path: Path, key: str, value: Any, argument: Argument) -> Iterable[Token]:
    keyword = argument.name if argument.name.startswith("-") else None
    if isinstance(value, bool):
        if argument.hint is not bool:
            raise DataError(f"{path}: key {key!r} is {str(value).lower()}", hint="only switches take true or false")
        yield Token(keyword=keyword, source=str(path), implicit_value=value)
        return
    values = [f"{name}={_text(item)}" for name, item in value.items()] if isinstance(value, dict) else value
    for item in values if isinstance(values, list) else [values]:
        yield Token(keyword=keyword, value=_text(item), source=str(path))


def _text(value: Any) -> str:
    """Write a value as it would stand on the command line."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def typed(owner: str, part: type, pairs: Iterable[str]) -> dict[str, Any]:
    """Return the settings that ``key=value`` pairs give to a dataclass, each of its field's type.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Walk:
    ...     steps: int = 1
    ...     weights: tuple[float, ...] = ()
    ...     limit: int | None = None
    >>> typed("walk", Walk, ["steps=20", "weights=0.5,1", "limit=none"])
    {'steps': 20, 'weights': (0.5, 1.0), 'limit': None}

    What has parts of its own is written as in Python:

    >>> typed("walk", Walk, ["weights=(0.5, 1)"])
    {'weights': (0.5, 1.0)}
    """
    from pydantic import TypeAdapter, ValidationError

    hints = typing.get_type_hints(part)
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise DataError(f"{owner}: {pair!r} is not a setting", hint="write key=value")
        hint = hints.get(key, str)  # a name that is unknown is refused by the part itself, which knows them all
        try:
            settings[key] = TypeAdapter(hint).validate_python(_structure(hint, text))
        except ValidationError as error:
            raise DataError(f"{owner}: setting {key} is {text!r}", hint=error.errors()[0]["msg"]) from None
    return settings


def _structure(hint: Any, text: str) -> Any:
    """Return the text as pydantic reads it: a tuple's parts for a tuple, None for "none" where that is allowed."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if any(typing.get_origin(kind) in (tuple, list) for kind in kinds):
        if text.startswith(("(", "[")):
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that it may raise
                return text
        return tuple(part.strip() for part in text.split(",")) if text else ()
    return text
