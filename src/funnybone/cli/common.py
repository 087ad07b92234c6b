"""What the commands share: options, the device, what is loaded, progress and output."""

import dataclasses
import json
import math
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.clips import Clips
    from funnybone.metrics import NaturalMotion
    from funnybone.victims import Victim

# What torch's generators take.
Seed = Annotated[int, Parameter(validator=Number(gte=0, lte=2**63 - 1), help="Seed of everything that is drawn.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute; auto takes a GPU if there is one.")
]
Json = Annotated[bool, Parameter(negative="", help="Print one JSON document instead of text.")]

# Bounds of options, which have their own help.
AtLeastOne = Parameter(validator=Number(gte=1, lte=2**31 - 1))
Length = Parameter(validator=Number(gte=2, lte=1_000_000))  # frames of a clip

FIRST, EVERY = 2.0, 5.0  # seconds until the first line of progress, and between two
FRAMES = 60  # clip length of victims that take any


def emit(text: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(f"{text}\n")


def emit_json(document: Any) -> None:
    """Write a result to standard output as one JSON document."""
    emit(json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(document: Any) -> Any:
    """Return a document with null in place of numbers that JSON cannot write."""
    if isinstance(document, dict):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def note(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def choose_device(wanted: str) -> str:
    """Return the device that ``--device`` means."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch finds no GPU here", hint="use --device cpu")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def test_part(data: str, split: str | None) -> str | None:
    """Return the split that is meant where none is given: the test part of a named data set that has one."""
    from funnybone.data import datasets

    named = data in datasets and "test" in datasets[data].splits
    return "test" if split is None and named else split


def others_of(split: str) -> str:
    """Return the part that a split leaves."""
    return {"test": "train"}.get(split, f"!{split}".removeprefix("!!"))


def natural_motion(file: Path | None, data: str, split: str | None, clips: "Clips") -> "NaturalMotion | None":
    """Return what recorded motion keeps to: from a file, from the data set's own, or of the clips that a split leaves.

    None where a split leaves nothing that it could be learned from.
    """
    from funnybone.data import datasets, load_data
    from funnybone.metrics.natural import learn_natural_motion, load_natural_motion

    frames = clips.xyz.shape[2]
    if file is not None:
        return load_natural_motion(file)
    if data in datasets and (packaged := datasets[data].natural) is not None:
        own = load_natural_motion(packaged)
        if own.frames == frames:
            return own
    if split is None or clips.xyz.shape[-1] != 3:
        return None
    try:
        return learn_natural_motion(load_data(data, split=others_of(split), frames=frames))
    except DataError as error:
        note(f"natural motion is not judged: {error}")
        return None


def load(
    victims: list[str], data: str, *, split: str | None, frames: int | None, device: str
) -> "tuple[dict[str, Victim], Clips]":
    """Return victims by name, and the clips with the persons and at the length that they take."""
    from funnybone.data import datasets, load_data
    from funnybone.victims import create_victim

    if any(":" in source for source in victims) and "" not in sys.path:
        sys.path.append("")  # package.module:function may lie in the current folder, as it does for python -m
    clips = load_data(data, split=split, frames=None)
    loaded: dict[str, Victim] = {}
    for source in victims:
        victim = create_victim(
            source,
            data=data if data in datasets else None,
            device=device,
            skeleton=clips.skeleton,
            classes=clips.classes,
        )
        name = victim.name if victim.name not in loaded else source
        if name in loaded:
            raise DataError(f"victim {source!r} is named twice", hint="name each victim once")
        loaded[name] = victim
    clips = _fitted(loaded, clips)
    if frames is None:
        lengths = {victim.frames for victim in loaded.values() if victim.frames}
        if len(lengths) > 1:
            raise DataError(
                f"the victims take clips of {' and '.join(map(str, sorted(lengths)))} frames",
                hint="choose one length with --frames, or audit them apart",
            )
        frames = next(iter(lengths), FRAMES)
    return loaded, clips.resample(frames)


def _fitted(victims: "dict[str, Victim]", clips: "Clips") -> "Clips":
    """Return the clips with as many person slots as the victims take."""
    wanted = {victim.persons: victim for victim in victims.values() if victim.persons is not None}
    if len(wanted) > 1:
        raise DataError(
            f"the victims take clips of {' and '.join(map(str, sorted(wanted)))} persons", hint="audit them apart"
        )
    for persons, victim in wanted.items():
        present = int(clips.valid.any(2).any(0).sum())
        if present > persons:
            raise DataError(
                f"victim {victim.name!r} takes clips of {_persons(persons)}, data {clips.name!r} have {present}",
                hint="train a victim on these data, or write them with fewer persons",
            )
        clips = with_persons(clips, persons)
    return clips


def _persons(count: int) -> str:
    return f"{count} person" if count == 1 else f"{count} persons"


def with_persons(clips: "Clips", persons: int) -> "Clips":
    """Return the clips with this many person slots; who is there in any clip must fit.

    Too many: the slots that are empty in every clip are left out. Too few: absent persons are added, at zero.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> clips = with_persons(random_clips(2), 3)
    >>> clips.xyz.shape[1], clips.valid.any(2).any(0).tolist()
    (3, [True, False, False])
    """
    import torch

    slots = torch.arange(clips.valid.shape[1])
    if len(slots) == persons:
        return clips
    if len(slots) > persons:
        slots = slots[clips.valid.any(2).any(0).cpu()]
    n, _, frames, joints, coordinates = clips.xyz.shape
    absent = persons - len(slots)
    xyz = torch.cat([clips.xyz[:, slots], clips.xyz.new_zeros(n, absent, frames, joints, coordinates)], 1)
    valid = torch.cat([clips.valid[:, slots], clips.valid.new_zeros(n, absent, frames)], 1)
    return dataclasses.replace(clips, xyz=xyz, valid=valid)


def prepare(*paths: Path) -> None:
    """Make the folders of files that are to be written, before the work whose result they will hold.

    Raises
    ------
    DataError
        When a file is there already, or its place cannot be written.
    """
    for path in paths:
        try:
            if path.exists():
                raise DataError(f"{path}: exists", hint="choose another name with --out, or remove it")
            path.parent.mkdir(parents=True, exist_ok=True)
            trial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
            trial.touch(exist_ok=False)
            trial.unlink()
        except OSError as error:
            blocked = isinstance(error, FileExistsError | NotADirectoryError)
            why = f"{path.parent} is no folder" if blocked else error.strerror
            raise DataError(f"{path}: cannot write: {why}", hint="choose another place with --out") from None


@contextmanager
def progress(title: str, unit: str = "clips") -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, total, remark): a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield lines(title, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[remark]}},", markup=False),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, remark="")
        yield lambda done, total, remark: bar.update(task, completed=done, total=total, remark=remark)


def lines(title: str, unit: str) -> Callable[[int, int, str], None]:
    """Return a function of (done, total, remark) that writes a line where work takes long, then every few seconds."""
    start = time.monotonic()
    due = start + FIRST
    begun: int | None = None  # where a resumed task stood when it began

    def tell(done: int, total: int, remark: str) -> None:
        nonlocal due, begun
        now = time.monotonic()
        begun = done if begun is None else begun
        if now >= due:
            due = now + EVERY
            pace = (now - start) / (done - begun) if done > begun else None
            left = f", {pace * (total - done):.0f} s left" if pace is not None and done < total else ""
            note(f"{title}: {done} of {total} {unit}, {remark}{left}")

    return tell
