"""An audit's folder: what its files are called, the lock on it, and what may go wrong with its database."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from funnybone.errors import DataError

LEDGER, CLIPS, LOCK, SHARDS = "ledger.sqlite", "clips.safetensors", "audit.lock", "adversarial"
RESULT, REPORT = "audit.json", "report.html"  # what is made of the ledger, beside it
AGAIN = "take it from a copy of the folder, or audit again with another --out"
# Primary result codes of sqlite (https://sqlite.org/rescode.html); an extended one has more bits above these.
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_NO_ROOM = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


def lock_of(folder: Path) -> IO[str]:
    """Make the folder and take its lock, which the kernel gives back when the process ends, however it ends."""
    try:
        import fcntl  # absent on Windows, where everything but an audit works
    except ImportError:
        raise DataError(
            "audits need a POSIX system (Linux, macOS): file locks keep two of them apart",
            hint="audit under WSL; reports can be read everywhere",
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", hint="choose another --out") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise DataError(
            f"{folder}: another process is auditing into it", hint="wait for it, or choose another --out"
        ) from None
    return lock


def refuse_remains(folder: Path, what: str) -> None:
    """Refuse a folder without a ledger that holds what an audit writes: of an audit, or the user's own."""
    remains = [folder / CLIPS, *sorted((folder / SHARDS).glob("*.safetensors")), folder / RESULT, folder / REPORT]
    found = next((path for path in remains if path.exists()), None)
    if found is not None:
        own = found.name in (RESULT, REPORT)
        raise DataError(f"{what} ({found.name})", hint="move it away, or choose another --out" if own else AGAIN)


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open the database, to read it only unless it is to be written."""
    with readable(path):
        if writable:
            return sqlite3.connect(path, isolation_level=None)
        # A WAL file wants to write beside itself; on a medium where nothing can, nobody else does either. Where it can,
        # the last to close clears that away, which one opened with mode=ro could not.
        mode = "mode=rw" if os.access(path.parent, os.W_OK) else "immutable=1"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
        return connection


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what sqlite says while a ledger is used into a `DataError` that a person can act on."""
    try:
        yield
    except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            raise DataError(f"{path}: in use by another program ({error})", hint="close it there first") from None
        if code in _NO_ROOM:
            raise DataError(
                f"{path}: cannot write ({error}: disk full or no permission?)",
                hint="make room or choose another --out; what is recorded stays, and the same command goes on",
            ) from None
        raise DataError(f"{path}: not a ledger that can be read ({error})", hint=f"it is damaged; {AGAIN}") from None
