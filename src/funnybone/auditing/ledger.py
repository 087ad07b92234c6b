"""The ledger: what every attack did to every clip, written so that no kill can leave half of it.

A folder holds ``ledger.sqlite`` (the rows), ``clips.safetensors`` (the clean clips) and ``adversarial/`` (one
safetensors file for each chunk of clips). A chunk's file is in place before its rows are, and its rows come in one
transaction: whatever the moment of a kill, a chunk is wholly there or wholly to be done again.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_type_hints

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from funnybone.auditing import files
from funnybone.clips import Clips
from funnybone.clips_io import load_clips, save_clips
from funnybone.errors import DataError

SCHEMA_VERSION = 1
LEDGER, CLIPS, LOCK, SHARDS = "ledger.sqlite", "clips.safetensors", "audit.lock", "adversarial"
_AGAIN = "take it from a copy of the folder, or audit again with another --out"


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
_COLUMNS = tuple(_KINDS)
_SQL_TYPES = {str: "TEXT", int: "INTEGER", bool: "INTEGER", float: "REAL"}
_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE clean (victim TEXT NOT NULL, clip TEXT NOT NULL, clip_index INTEGER NOT NULL, label INTEGER NOT NULL,"
    " prediction INTEGER NOT NULL, PRIMARY KEY (victim, clip_index))",
    "CREATE TABLE shards (chunk_key TEXT PRIMARY KEY, shard TEXT NOT NULL UNIQUE, clips INTEGER NOT NULL,"
    " sha256 TEXT NOT NULL)",
    "CREATE TABLE results ("
    + ", ".join(f"{name} {_SQL_TYPES.get(kind, 'TEXT')} NOT NULL" for name, kind in _KINDS.items())
    + ", PRIMARY KEY (key))",
    "CREATE UNIQUE INDEX one_row ON results (victim, entry, goal, clip, seed)",
)


class Ledger:
    """An audit's folder, opened by `Ledger.write` (one process at a time) or `Ledger.read`.

    Examples
    --------
    >>> Ledger.read(Path("no/such/folder"))
    Traceback (most recent call last):
    ...
    funnybone.errors.DataError: no/such/folder: no audit in there; give a folder that funnybone audit wrote
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: IO[str] | None = None) -> None:
        self.folder, self._connection, self._lock = folder, connection, lock

    @classmethod
    def write(cls, folder: Path, identity: Mapping[str, Any], about: Mapping[str, Any], clips: Clips) -> "Ledger":
        """Begin an audit, or go on with the same one, holding the folder's lock until `close`.

        Parameters
        ----------
        folder : Path
            Made where it does not exist.
        identity : mapping
            Plain values that decide the rows; another audit's folder is refused.
        about : mapping
            Plain values that the summary needs besides the rows; those of the first run are kept.
        clips : Clips
            The clean clips.

        Raises
        ------
        DataError
            When another process holds the folder, it holds another audit, or something in it is damaged.
        """
        lock = _lock(folder)
        try:
            path = folder / LEDGER
            if not path.exists():  # sqlite makes it; a folder that lost it is not begun anew
                _refuse_remains(folder, f"{folder}: holds parts of an audit, but no {LEDGER}")
            ledger = cls(folder, _connect(path, writable=True), lock)
        except BaseException:
            lock.close()
            raise
        try:
            with _readable(path):
                ledger._begin(identity, about)
                ledger._verify()
            if not (folder / CLIPS).exists() and not ledger.done():
                files.replace(folder / CLIPS, lambda unfinished: save_clips(clips, unfinished))
            if ledger.clips().fingerprints() != clips.fingerprints():
                raise DataError(f"{folder / CLIPS}: not the clips of this audit", hint=f"it is damaged; {_AGAIN}")
            (folder / SHARDS).mkdir(exist_ok=True)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def read(cls, folder: Path) -> "Ledger":
        """Open an audit's folder to read, also while another process writes it.

        Raises
        ------
        DataError
            When there is no ledger, or it is damaged.
        """
        path = folder / LEDGER
        if not path.is_file():
            raise DataError(f"{folder}: no audit in there", hint="give a folder that funnybone audit wrote")
        ledger = cls(folder, _connect(path, writable=False))
        try:
            with _readable(path):
                ledger._check_version()
                ledger.about()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Close the file and let go of the folder."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _begin(self, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        fresh = not self._select("SELECT name FROM sqlite_master")
        if fresh:
            # Empty, as a kill between the first two writes leaves it; but also as a truncation does.
            _refuse_remains(self.folder, f"{self.folder / LEDGER}: empty, though the folder holds results")
        else:
            self._check_version()  # before anything is written: this may be anybody's file
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        if fresh:
            with self._transaction():
                for table in _TABLES:
                    self._connection.execute(table)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                self._remember("identity", identity)
                self._remember("about", about)
        there, here = self._recall("identity"), json.loads(json.dumps(identity))
        odd = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if odd:
            short = [f"{key} {there[key]} there, {here[key]} here" for key in odd if _is_short(there, here, key)]
            what = ", ".join(short) if short else f"other {odd[0]}"
            raise DataError(f"{self.folder}: holds another audit ({what})", hint="choose another --out")

    def _check_version(self) -> None:
        version = int(self._select("PRAGMA user_version")[0][0])
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{self.folder / LEDGER}: schema version is {version}, this version of funnybone writes "
                f"{SCHEMA_VERSION}",
                hint="choose another --out, or use the version of funnybone that wrote it",
            )

    def _verify(self) -> None:
        """Raise `DataError` unless every page of the file, every row and every shard is as it was written."""
        fault = self._select("PRAGMA quick_check(1)")[0][0]
        if fault != "ok":
            raise DataError(f"{self.folder / LEDGER}: {fault}", hint=f"it is damaged; {_AGAIN}")
        counts = dict(self._select("SELECT shard, count(*) FROM results GROUP BY shard"))
        for shard, clips, sha256 in self._select("SELECT shard, clips, sha256 FROM shards"):
            path = self.folder / SHARDS / shard
            if not path.is_file():
                raise DataError(f"{path}: missing, though the ledger has its results", hint=_AGAIN)
            if files.digest(path) != sha256:
                raise DataError(f"{path}: cut or changed since it was written", hint=_AGAIN)
            if counts.get(shard) != clips:
                raise DataError(
                    f"{self.folder / LEDGER}: {counts.get(shard, 0)} rows for {shard}, which holds {clips} clips",
                    hint=f"it is damaged; {_AGAIN}",
                )

    def _select(self, query: str, *values: Any) -> list[Any]:
        return self._connection.execute(query, values).fetchall()

    def _remember(self, name: str, value: Any) -> None:
        self._connection.execute("INSERT INTO meta VALUES (?, ?)", (name, json.dumps(value, default=repr)))

    def _recall(self, name: str) -> Any:
        found = self._select("SELECT value FROM meta WHERE name = ?", name)
        if not found:
            raise DataError(f"{self.folder / LEDGER}: no entry {name!r} in table meta", hint=f"it is damaged; {_AGAIN}")
        return json.loads(found[0][0])

    def about(self) -> dict[str, Any]:
        """What the summary needs besides the rows."""
        with _readable(self.folder / LEDGER):
            return self._recall("about")

    def done(self) -> set[str]:
        """Keys of the chunks that are recorded."""
        with _readable(self.folder / LEDGER):
            return {key for (key,) in self._select("SELECT chunk_key FROM shards")}

    def record_clean(self, victim: str, clips: Clips, predictions: Sequence[int]) -> None:
        """Record what a victim said of the clean clips, unless that was done before."""
        said = zip(clips.ids, range(len(clips)), clips.labels.tolist(), predictions, strict=True)
        with self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO clean VALUES (?, ?, ?, ?, ?)", [(victim, *row) for row in said]
            )

    def record(self, chunk_key: str, rows: Sequence[Row], adversarial: np.ndarray) -> None:
        """Record one chunk: its clips on the disk first, then all of its rows at once."""
        shard = rows[0].shard
        path = self.folder / SHARDS / shard
        # One metadata key, for safetensors keeps several in no particular order, and the same clips give the same file.
        metadata = {"funnybone": json.dumps({"chunk": chunk_key, "clips": [row.clip for row in rows]})}
        # As bytes: a file that safetensors writes itself can be read by its owner alone.
        files.replace(path, lambda unfinished: unfinished.write_bytes(save({"xyz": adversarial}, metadata)))
        with self._transaction():
            self._connection.execute(
                "INSERT INTO shards VALUES (?, ?, ?, ?)", (chunk_key, shard, len(rows), files.digest(path))
            )
            self._connection.executemany(
                f"INSERT INTO results VALUES ({', '.join('?' * len(_COLUMNS))})",
                [[_to_sql(getattr(row, name)) for name in _COLUMNS] for row in rows],
            )

    def clean(self, victim: str) -> list[tuple[int, int]]:
        """Return label and prediction of each clean clip, in data order."""
        with _readable(self.folder / LEDGER):
            return self._select("SELECT label, prediction FROM clean WHERE victim = ? ORDER BY clip_index", victim)

    def rows(self, victim: str, entry: str) -> list[Row]:
        """Return the rows of one attack on one victim, in data order."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM results WHERE victim = ? AND entry = ? ORDER BY clip_index"
        with _readable(self.folder / LEDGER):
            return [Row(**_from_sql(values)) for values in self._select(query, victim, entry)]

    def clips(self) -> Clips:
        """Return the clean clips."""
        return load_clips(self.folder / CLIPS)

    def adversarial(self, row: Row) -> Float[Tensor, "M T V C"]:
        """Return the adversarial clip of a row."""
        path = self.folder / SHARDS / row.shard
        try:
            with safe_open(path, "pt") as file:
                return file.get_slice("xyz")[row.shard_row]
        except (SafetensorError, OSError, IndexError) as error:
            raise DataError(f"{path}: no clip {row.shard_row} in there ({error})", hint=_AGAIN) from None


def _lock(folder: Path) -> IO[str]:
    """Make the folder and take its lock, which the kernel gives back when the process ends, however it ends."""
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


def _refuse_remains(folder: Path, what: str) -> None:
    remains = [folder / CLIPS, *sorted((folder / SHARDS).glob("*.safetensors"))]
    found = next((path for path in remains if path.exists()), None)
    if found is not None:
        raise DataError(f"{what} ({found.name})", hint=_AGAIN)


def _connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    with _readable(path):
        if writable:
            return sqlite3.connect(path, isolation_level=None)
        # A WAL file wants to write beside itself; on a medium where nothing can, nobody else does either.
        mode = "mode=ro" if os.access(path.parent, os.W_OK) else "immutable=1"
        return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
        if "locked" in str(error):
            raise DataError(f"{path}: in use by another program ({error})", hint="close it there first") from None
        raise DataError(f"{path}: not a ledger that can be read ({error})", hint=f"it is damaged; {_AGAIN}") from None


def _is_short(there: Mapping[str, Any], here: Mapping[str, Any], key: str) -> bool:
    return all(isinstance(side.get(key), str | int | None) and len(str(side.get(key))) < 20 for side in (there, here))


def _to_sql(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _from_sql(values: Sequence[Any]) -> dict[str, Any]:
    found = dict(zip(_COLUMNS, values, strict=True))
    found |= {name: bool(found[name]) for name, kind in _KINDS.items() if kind is bool}
    found["distances"] = json.loads(found["distances"])
    return found
