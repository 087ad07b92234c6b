"""Names for the parts that users pick: data sets, formats, models, attacks, defenses."""

import difflib
import fnmatch
import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from funnybone.errors import DataError

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary that fills itself by importing every module of one package.

    A part is added by adding one file to the package; nothing else needs to know its name. Third parties
    register theirs by importing the registry and using the same decorator.

    Parameters
    ----------
    kind : str
        What is registered, for error messages: "attack".
    package : str
        The package whose modules register themselves on import.

    Examples
    --------
    >>> shapes = Registry[type]("number", "funnybone.metrics")
    >>> @shapes.register("whole")
    ... class Whole(int): ...
    >>> shapes["whole"].__name__
    'Whole'
    >>> shapes["hole"]
    Traceback (most recent call last):
    ...
    funnybone.errors.DataError: no number is named 'hole'; did you mean 'whole'? Known: whole
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._parts: dict[str, T] = {}
        self._discovered = False

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under these names."""

        def file(part: T) -> T:
            for name in names:
                known = self._parts.setdefault(name, part)
                # A module that is loaded twice (doctest, reload) may file itself again; another part may not.
                if getattr(known, "__qualname__", known) != getattr(part, "__qualname__", part):
                    raise ValueError(f"two {self.kind}s are named {name!r}: {known} and {part}")
                self._parts[name] = part
            return part

        return file

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{module.name}")

    def names(self, pattern: str = "*") -> list[str]:
        """Return the sorted names that match a shell pattern such as ``*gcn*``."""
        self._discover()
        return sorted(fnmatch.filter(self._parts, pattern))

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._parts

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._parts:
            near = difflib.get_close_matches(name, self._parts, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(f"no {self.kind} is named {name!r}", hint=f"{hint}Known: {', '.join(self.names())}")
        return self._parts[name]
