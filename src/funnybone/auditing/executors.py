"""Who attacks the chunks: this process, several, or a Ray cluster. The ledger is written by this process alone."""

import dataclasses
import logging
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from funnybone.attacks.problem import Precision
from funnybone.auditing.files import digest_of
from funnybone.auditing.plan import Chunk
from funnybone.auditing.rows import Row
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.natural import NaturalMotion
from funnybone.outcome import Outcome
from funnybone.victims.base import Victim

Executor = Literal["inline", "process", "ray"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
# Told as a chunk goes on: clips done of it, of those successful.
ChunkProgress = Callable[[Chunk, int, int], None]


@dataclass(frozen=True, eq=False)
class Finished:
    """What one chunk came to, as plain values and one array, so that it travels between processes by value."""

    chunk: Chunk
    rows: list[Row]
    adversarial: np.ndarray


@dataclass(frozen=True, eq=False)
class Given:
    """What all chunks of an audit are made of.

    Attributes
    ----------
    victims : mapping of str to Victim
        By their names in the audit.
    clips : Clips
        All of them; attacks that start from another motion start from one of these.
    natural : NaturalMotion, optional
        What recorded motion keeps to.
    precision : {"fp32", "bf16"}
        In which attacks search.
    """

    victims: Mapping[str, Victim]
    clips: Clips
    natural: NaturalMotion | None = None
    precision: Precision = "fp32"


def attack(chunk: Chunk, given: Given, progress: ChunkProgress | None = None) -> Finished:
    """Attack one chunk of the audit's clips."""
    own = given.clips[slice(chunk.start, chunk.stop)]

    def tell(done: int, successes: int, total: int) -> None:
        if progress is not None:
            progress(chunk, len(own) - total + done, successes)  # what is not attacked is done from the start

    began = time.perf_counter()
    outcome = chunk.entry.attack(
        given.victims[chunk.victim],
        own,
        goal=chunk.entry.goal,
        threat=chunk.entry.threat,
        natural=given.natural,
        starts=given.clips,
        generator=torch.Generator().manual_seed(chunk.attack_seed),
        batch_size=len(own),
        precision=given.precision,
        progress=tell,
    )
    seconds = time.perf_counter() - began
    rows = _rows(chunk, own, outcome, seconds / len(own))
    return Finished(chunk, rows, outcome.adversarial.xyz.detach().cpu().contiguous().numpy())


def _rows(chunk: Chunk, own: Clips, outcome: Outcome, seconds: float) -> list[Row]:
    columns = {
        name: getattr(outcome, name).tolist()
        for name in (
            *("clean_prediction", "prediction", "reference", "attacked", "success", "claimed", "steps", "queries"),
            *("gradients", "violation", "zero_gradient"),
        )
    }
    distances = {name: values.tolist() for name, values in outcome.distances.items()}
    return [
        Row(
            key=digest_of(chunk.key, own.ids[place]),
            victim=chunk.victim,
            entry=chunk.entry.name,
            goal=chunk.entry.goal.name,
            seed=chunk.audit_seed,
            chunk=chunk.number,
            clip=own.ids[place],
            clip_index=chunk.start + place,
            label=int(own.labels[place]),
            distances={name: _figure(values[place]) for name, values in distances.items()},
            seconds=seconds,
            shard=chunk.shard,
            shard_row=place,
            **{name: values[place] for name, values in columns.items()},
        )
        for place in range(len(own))
    ]


def _figure(value: float) -> float | None:
    return None if value != value else value  # NaN: a clip too short for this figure


def attack_all(
    chunks: Sequence[Chunk],
    given: Given,
    *,
    executor: Executor,
    workers: int | None,
    progress: ChunkProgress,
) -> Iterator[Finished]:
    """Attack chunks in the way that is named; all of them come to the same rows, up to rounding."""
    if executor == "inline":
        return inline(chunks, given, progress)
    return {"process": processes, "ray": on_ray}[executor](chunks, given, workers)


def inline(chunks: Sequence[Chunk], given: Given, progress: ChunkProgress) -> Iterator[Finished]:
    """Attack one chunk after the other in this process."""
    for chunk in chunks:
        yield attack(chunk, given, progress)


def processes(chunks: Sequence[Chunk], given: Given, workers: int | None = None) -> Iterator[Finished]:
    """Attack several chunks at once, each in a process of its own with one thread; yields them as they finish.

    Every victim is sent to every process once. Results are those of `inline` up to the rounding that another number
    of threads brings.

    Raises
    ------
    DataError
        When a victim cannot be sent to another process.
    """
    if not chunks:
        return
    payload = _packed(given)
    count = min(workers or _cores(), len(chunks))
    with tempfile.TemporaryDirectory(prefix="funnybone-") as folder:
        # By file, because what a process is started with goes through a pipe, and when the process dies before it has
        # read more than a pipe holds, its parent waits for ever.
        parcel = Path(folder) / "victims"
        parcel.write_bytes(payload)
        # Spawned, because a fork of a process that runs torch's threads may never come to an end.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, context, initializer=_receive, initargs=(parcel,))
        try:
            futures = [pool.submit(_attack_here, chunk) for chunk in chunks]
            failed: BaseException | None = None
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                if (error := future.exception()) is None:
                    yield future.result()
                elif failed is None:  # said after what others have done, or are at: that is kept
                    failed = error
                    for other in futures:
                        other.cancel()
            if failed is not None:
                raise failed
        except BrokenProcessPool:
            raise _lost() from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def on_ray(chunks: Sequence[Chunk], given: Given, workers: int | None = None) -> Iterator[Finished]:
    """Attack several chunks at once as tasks of Ray, one thread each; yields them as they finish.

    Where Ray is running in this process already, or ``RAY_ADDRESS`` names a cluster, tasks go there, and the machines
    need funnybone and whatever the victims are made of; otherwise Ray is started on this machine and stopped at the
    end. A task whose machine is lost is tried again elsewhere.

    Raises
    ------
    DataError
        When Ray is not installed, or a victim cannot be sent to another process.
    """
    if not chunks:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody agreed to report to Ray's makers
    try:
        import ray
    except ModuleNotFoundError:
        raise DataError("executor 'ray' needs ray", hint="install funnybone[ray], or use executor 'process'") from None
    payload = _packed(given)
    own = not ray.is_initialized()
    if own:
        here: dict[str, Any] = {}
        if "RAY_ADDRESS" not in os.environ:
            path = os.pathsep.join(filter(None, sys.path))  # victims are imported by name: what this process finds
            here = {
                "num_cpus": min(workers or _cores(), len(chunks)),
                "runtime_env": {"env_vars": {"PYTHONPATH": path}},
            }
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **here)
    try:
        parcel = ray.put(payload)
        task = ray.remote(num_cpus=1)(_attack_parcel)
        waiting = [task.remote(chunk, parcel) for chunk in chunks]
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        raise _lost() from None
    finally:
        if own:
            ray.shutdown()


def _packed(given: Given) -> bytes:
    try:
        return pickle.dumps(dataclasses.replace(given, victims=dict(given.victims)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            f"a victim cannot be sent to another process ({error})",
            hint="use executor 'inline', or make it of functions that can be imported",
        ) from None


def _lost() -> DataError:
    return DataError(
        "a process of the audit ended before its work was done",
        hint="start scripts with if __name__ == '__main__', give fewer workers where memory is short, or use "
        "executor 'inline'",
    )


def _cores() -> int:
    """Cores that this process may use; where the system does not say (macOS, Windows), all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_here: dict[str, Any] = {}  # of a worker: what `_receive` was given


def _receive(parcel: Path) -> None:
    torch.set_num_threads(1)
    _here["given"] = pickle.loads(parcel.read_bytes())  # noqa: S301  the parent's own bytes
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when its parent is gone: a killed parent tells nobody, and a worker would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attack_here(chunk: Chunk) -> Finished:
    return attack(chunk, _here["given"])


def _attack_parcel(chunk: Chunk, payload: bytes) -> Finished:
    torch.set_num_threads(1)
    return attack(chunk, pickle.loads(payload))  # noqa: S301  the parent's own bytes
