"""The ledger: what every attack did to every clip, written so that no kill can leave half of it.

A folder holds ``ledger.sqlite`` (the rows), ``clips.safetensors`` (the clean clips) and ``adversarial/`` (one
safetensors file for each chunk of clips). A chunk's file is in place before its rows are, and its rows come in one
transaction: whatever the moment of a kill, a chunk is wholly there or wholly to be done again.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from funnybone.auditing import answers, files
from funnybone.auditing.answers import Answer
from funnybone.auditing.folder import AGAIN, CLIPS, LEDGER, RESULT, SHARDS, connect, lock_of, readable, refuse_remains
from funnybone.auditing.plan import data_digest
from funnybone.auditing.rows import COLUMNS, TABLE, FieldError, Row, from_sql, plain_name, to_sql
from funnybone.auditing.schema import About, first_fault
from funnybone.clips import Clips
from funnybone.clips_io import load_clips, save_clips
from funnybone.errors import DataError

SCHEMA_VERSION = 3
_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE clean (victim TEXT NOT NULL, clip TEXT NOT NULL, clip_index INTEGER NOT NULL, label INTEGER NOT NULL,"
    " prediction INTEGER NOT NULL, PRIMARY KEY (victim, clip_index))",
    "CREATE TABLE shards (chunk_key TEXT PRIMARY KEY, shard TEXT NOT NULL UNIQUE, clips INTEGER NOT NULL,"
    " sha256 TEXT NOT NULL)",
    TABLE,
    answers.TABLE,
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
    def write(cls, folder: Path, identity: Mapping[str, Any], about: About, clips: Clips) -> "Ledger":
        """Begin an audit, or go on with the same one, holding the folder's lock until `close`.

        Parameters
        ----------
        folder : Path
            Made where it does not exist.
        identity : mapping
            Plain values that decide the rows; another audit's folder is refused.
        about : About
            What the summary needs besides the rows; that of the first run is kept.
        clips : Clips
            The clean clips.

        Raises
        ------
        DataError
            When another process holds the folder, it holds another audit, or something in it is damaged.
        """
        lock = lock_of(folder)
        try:
            path = folder / LEDGER
            if not path.exists():  # sqlite makes it; a folder that lost it is not begun anew
                refuse_remains(folder, f"{folder}: holds parts of an audit, but no {LEDGER}")
            ledger = cls(folder, connect(path, writable=True), lock)
        except BaseException:
            lock.close()
            raise
        try:
            with readable(path):
                ledger._begin(identity, about)
                ledger._verify(clips)
            if not (folder / CLIPS).exists() and not ledger.done():
                files.replace(folder / CLIPS, lambda unfinished: save_clips(clips, unfinished))
            if ledger.clips().fingerprints() != clips.fingerprints():
                raise DataError(f"{folder / CLIPS}: not the clips of this audit", hint=f"it is damaged; {AGAIN}")
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
            When there is no ledger, or it is damaged. Of a finished audit, one with an ``audit.json``, everything is
            verified: every row, every shard, and that none is missing.
        """
        path = folder / LEDGER
        if not path.is_file():
            raise DataError(f"{folder}: no audit in there", hint="give a folder that funnybone audit wrote")
        ledger = cls(folder, connect(path, writable=False))
        try:
            with readable(path):
                ledger._check_version()
                ledger.about()
                if (folder / RESULT).is_file():
                    ledger._verify_finished()
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
        with readable(self.folder / LEDGER):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # Where sqlite has rolled back itself there is nothing to do; a failure here must not hide the first.
                with suppress(sqlite3.Error):
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                raise

    def _begin(self, identity: Mapping[str, Any], about: About) -> None:
        fresh = not self._select("SELECT name FROM sqlite_master")
        if fresh:
            # Empty, as a kill between the first two writes leaves it; but also as a truncation does.
            refuse_remains(self.folder, f"{self.folder / LEDGER}: empty, though the folder holds results")
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
                self._remember("about", about.model_dump())
        there, here = self._recall("identity"), json.loads(json.dumps(identity))
        if not isinstance(there, dict):
            raise self._damaged("table meta, entry identity: not a JSON object")
        odd = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if odd:
            short = [
                f"{key} {there.get(key, 'not given')} there, {here.get(key, 'not given')} here"
                for key in odd
                if _is_short(there, here, key)
            ]
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

    def _verify(self, clips: Clips) -> Counter[tuple[str, ...]]:
        """Raise `DataError` unless every page of the file, every row and every shard is as it was written.

        ``clips`` are those of the audit: rows have to speak of them. Returns the number of rows by victim and entry,
        and of answers by surrogate, entry and target.
        """
        fault = self._select("PRAGMA quick_check(1)")[0][0]
        if fault != "ok":
            raise self._damaged(fault)
        about = self.about()
        data = about.data
        if (data.n, data.classes, data.sha256) != (len(clips), list(clips.classes), data_digest(clips)):
            raise self._damaged("table meta, entry about: field data: not the clips of this audit")
        planned, shown = set(about.attacks()), set(about.shown())
        recorded = self._shards()
        labels = clips.labels.tolist()
        counts: Counter[str] = Counter()
        found: Counter[tuple[str, ...]] = Counter()
        origins: dict[str, tuple[str, str]] = {}
        for row in self._rows():
            if (row.victim, row.entry) not in planned:
                raise self._damaged(f"table results: {row.entry!r} on {row.victim!r}, which is no part of this audit")
            if (clips.ids[row.clip_index], labels[row.clip_index]) != (row.clip, row.label):
                raise self._damaged(
                    f"table results: clip {row.clip!r} with clip_index {row.clip_index} and label {row.label}; the "
                    f"audit's clip of that index is {clips.ids[row.clip_index]!r} with label {labels[row.clip_index]}"
                )
            held = recorded.get(row.shard, 0)
            if row.shard_row >= held:
                raise self._damaged(
                    f"table results: shard_row {row.shard_row} of {row.shard}, which holds {held} clips"
                )
            counts[row.shard] += 1
            found[row.victim, row.entry] += 1
            origins[row.shard] = (row.victim, row.entry)
        for shard, held in recorded.items():
            if counts[shard] != held:
                raise self._damaged(f"{counts[shard]} rows for {shard}, which holds {held} clips")
        for shard, target, said in self._select("SELECT shard, target, said FROM answers"):
            place = (*origins.get(shard, (shard, "")), target)
            if place not in shown:
                raise self._damaged(f"table answers: of {target!r} to {shard}, which is no part of this audit")
            found[place] += len(self._answers(shard, target, said, recorded[shard], len(data.classes)))
        for name in about.everyone():
            clean = self.clean(name)
            if clean and [label for label, _ in clean] != labels:
                raise self._damaged(f"table clean: the labels of victim {name!r} are not those of the clips")
        return found

    def _shards(self) -> dict[str, int]:
        """Shards and how many clips each holds, when all of them are as they were written."""
        recorded = {}
        for shard, held, sha256 in self._select("SELECT shard, clips, sha256 FROM shards"):
            try:
                path = self.folder / SHARDS / plain_name("shard", shard)
            except FieldError as error:
                raise self._damaged(f"table shards: {error}") from None
            if not isinstance(held, int) or held < 1:
                raise self._damaged(f"table shards: clips is {held!r} for {shard}")
            if not path.is_file():
                raise DataError(f"{path}: missing, though the ledger has its results", hint=AGAIN)
            if files.digest(path) != sha256:
                raise DataError(f"{path}: cut or changed since it was written", hint=AGAIN)
            recorded[shard] = held
        return recorded

    def _verify_finished(self) -> None:
        """`_verify`, and that no row of a finished audit is missing."""
        about, clips = self.about(), self.clips()
        if data_digest(clips) != about.data.sha256 or len(clips) != about.data.n:
            raise DataError(f"{self.folder / CLIPS}: not the clips of this audit", hint=f"it is damaged; {AGAIN}")
        found = self._verify(clips)
        for name in about.everyone():
            if not self.clean(name):
                raise self._damaged(f"table clean: no rows of victim {name!r}, though the audit is finished")
        for table, places in (("results", about.attacks()), ("answers", about.shown())):
            for place in places:
                if found[place] != about.data.n:
                    victim, entry, *target = place
                    what = f"answers of {target[0]} to {entry}" if target else f"rows of {entry}"
                    raise self._damaged(
                        f"table {table}: {found[place]} {what} on {victim}, though the audit is finished and has "
                        f"{about.data.n} clips"
                    )

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.folder / LEDGER}: {what}", hint=f"it is damaged; {AGAIN}")

    def _select(self, query: str, *values: Any) -> list[Any]:
        return self._connection.execute(query, values).fetchall()

    def _remember(self, name: str, value: Any) -> None:
        self._connection.execute("INSERT INTO meta VALUES (?, ?)", (name, json.dumps(value, default=repr)))

    def _recall(self, name: str) -> Any:
        found = self._select("SELECT value FROM meta WHERE name = ?", name)
        if not found:
            raise self._damaged(f"no entry {name!r} in table meta")
        return json.loads(found[0][0])

    def about(self) -> About:
        """What the summary needs besides the rows."""
        with readable(self.folder / LEDGER):
            try:
                return About.model_validate(self._recall("about"))
            except ValidationError as error:
                raise self._damaged(f"table meta, entry about: {first_fault(error)}") from None

    def done(self) -> set[str]:
        """Keys of the chunks that are recorded."""
        with readable(self.folder / LEDGER):
            return {key for (key,) in self._select("SELECT chunk_key FROM shards")}

    def record_clean(self, victim: str, clips: Clips, predictions: Sequence[int], *, stochastic: bool = False) -> None:
        """Record what a victim says of the clean clips.

        What it said before stays, and unless the victim is stochastic it has to be the same: rows of a victim that has
        changed since, unseen by its fingerprint, must not stand beside those of another.

        Raises
        ------
        DataError
            When it answers otherwise than before.
        """
        before = self.clean(victim)
        if not before:
            said = zip(clips.ids, range(len(clips)), clips.labels.tolist(), predictions, strict=True)
            with self._transaction():
                self._connection.executemany(
                    "INSERT INTO clean VALUES (?, ?, ?, ?, ?)", [(victim, *row) for row in said]
                )
            return
        changed = [k for k, (_, prediction) in enumerate(before) if prediction != predictions[k]]
        if changed and not stochastic:
            first = changed[0]
            raise DataError(
                f"{self.folder}: victim {victim!r} has changed since this audit began: it calls clean clip "
                f"{clips.ids[first]} {clips.classes[predictions[first]]!r}, then {clips.classes[before[first][1]]!r} "
                f"(and {len(changed)} of {len(clips)} clips another class than then)",
                hint="undo what changed it (code, a file it reads, the number of threads), or choose another --out",
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
                f"INSERT INTO results VALUES ({', '.join('?' * len(COLUMNS))})", map(to_sql, rows)
            )

    def record_answers(self, shard: str, target: str, said: Sequence[Answer]) -> None:
        """Record what a target says to the clips of one shard."""
        with self._transaction():
            self._connection.execute("INSERT INTO answers VALUES (?, ?, ?)", (shard, target, answers.to_sql(said)))

    def answered(self) -> set[tuple[str, str]]:
        """Shards and targets of the answers that are recorded."""
        with readable(self.folder / LEDGER):
            return set(self._select("SELECT shard, target FROM answers"))

    def answers_to(self, rows: Sequence[Row], target: str) -> list[Answer]:
        """Return what a target says to the adversarial clips of these rows."""
        with readable(self.folder / LEDGER):
            classes = len(self.about().data.classes)
            found = dict(self._select("SELECT shard, said FROM answers WHERE target = ?", target))
        held = Counter(row.shard for row in rows)
        said = {shard: self._answers(shard, target, found.get(shard), n, classes) for shard, n in held.items()}
        return [said[row.shard][row.shard_row] for row in rows]

    def _answers(self, shard: str, target: str, said: Any, clips: int, classes: int) -> list[Answer]:
        try:
            return answers.from_sql(said, clips, classes)
        except FieldError as error:
            raise self._damaged(f"table answers, {target!r} to {shard}: {error}") from None

    def clean(self, victim: str) -> list[tuple[int, int]]:
        """Return label and prediction of each clean clip, in data order; none before they are recorded."""
        with readable(self.folder / LEDGER):
            data = self.about().data
            query = "SELECT clip_index, label, prediction FROM clean WHERE victim = ? ORDER BY clip_index"
            found = self._select(query, victim)
        if found and [index for index, _, _ in found] != list(range(data.n)):
            raise self._damaged(f"table clean: not one row for each of the {data.n} clips and victim {victim!r}")
        for index, *said in found:
            for name, value in zip(("label", "prediction"), said, strict=True):
                if not isinstance(value, int) or not 0 <= value < len(data.classes):
                    raise self._damaged(f"table clean, clip_index {index}: {name} is {value!r}, not one of the classes")
        return [(label, prediction) for _, label, prediction in found]

    def rows(self, victim: str, entry: str) -> list[Row]:
        """Return the rows of one attack on one victim, in data order."""
        return self._rows("WHERE victim = ? AND entry = ? ORDER BY clip_index", victim, entry)

    def _rows(self, which: str = "", *values: str) -> list[Row]:
        with readable(self.folder / LEDGER):
            data = self.about().data
            found = self._select(f"SELECT rowid, {', '.join(COLUMNS)} FROM results {which}", *values)
        rows = []
        for number, *columns in found:
            try:
                rows.append(from_sql(columns, data.n, len(data.classes)))
            except FieldError as error:
                raise self._damaged(f"table results, row {number}: {error}") from None
        return rows

    def clips(self) -> Clips:
        """Return the clean clips."""
        return load_clips(self.folder / CLIPS)

    def shard(self, name: str) -> Float[Tensor, "N M T V C"]:
        """Return the adversarial clips of a shard."""
        path = self.folder / SHARDS / name
        try:
            with safe_open(path, "pt") as file:
                return file.get_tensor("xyz")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: cannot be read ({error})", hint=AGAIN) from None

    def adversarial(self, row: Row) -> Float[Tensor, "M T V C"]:
        """Return the adversarial clip of a row."""
        path = self.folder / SHARDS / row.shard
        try:
            with safe_open(path, "pt") as file:
                return file.get_slice("xyz")[row.shard_row]
        except (SafetensorError, OSError, IndexError) as error:
            raise DataError(f"{path}: no clip {row.shard_row} in there ({error})", hint=AGAIN) from None


def _is_short(there: Mapping[str, Any], here: Mapping[str, Any], key: str) -> bool:
    return all(isinstance(side.get(key), str | int | None) and len(str(side.get(key))) < 20 for side in (there, here))
