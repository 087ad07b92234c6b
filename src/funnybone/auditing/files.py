"""Files that are either whole or not there, whenever the process is killed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from funnybone.errors import DataError


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside ``path``, force it to the disk, and move it into place.

    The name of the unfinished file is fixed, so that what a killed process left is overwritten by the next one.

    Raises
    ------
    DataError
        When it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.partial")
    try:
        write(unfinished)
        _sync(unfinished)
        os.replace(unfinished, path)
        _sync(path.parent)  # the name, too, is on the disk only when its folder is
    except OSError as error:
        raise DataError(
            f"{path}: cannot write ({error.strerror or error})", hint="make room there, or choose another place"
        ) from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(*parts: Any) -> str:
    """Return the SHA-256 of plain values, whatever order their dictionaries are in.

    Examples
    --------
    >>> digest_of({"a": 1, "b": 2})[:8] == digest_of({"b": 2, "a": 1})[:8]
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
