"""What the commands share: options, the device, what is loaded, progress and output."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.clips import Clips
    from funnybone.victims import Victim

Seed = Annotated[int, Parameter(help="Seed of everything that is drawn.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute; auto takes a GPU if there is one.")
]
Json = Annotated[bool, Parameter(negative="", help="Print one JSON document instead of text.")]

EVERY = 5.0  # seconds between two lines of progress
FRAMES = 60  # clip length of victims that take any


def emit(text: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(f"{text}\n")


def emit_json(document: Any) -> None:
    """Write a result to standard output as one JSON document."""
    emit(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


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


def load(
    victims: list[str], data: str, *, split: str | None, frames: int | None, device: str
) -> "tuple[dict[str, Victim], Clips]":
    """Return victims by name, and the clips at the length that they take."""
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
    if frames is None:
        lengths = {victim.frames for victim in loaded.values() if victim.frames}
        if len(lengths) > 1:
            raise DataError(
                f"the victims take clips of {' and '.join(map(str, sorted(lengths)))} frames",
                hint="choose one length with --frames, or audit them apart",
            )
        frames = lengths.pop() if lengths else FRAMES
    return loaded, clips.resample(frames)


def refuse_existing(*paths: Path) -> None:
    """Raise `DataError` when one of the files is there already."""
    for path in paths:
        if path.exists():
            raise DataError(f"{path}: exists", hint="choose another name with --out, or remove it")


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
    """Return a function of (done, total, remark) that writes a line every few seconds."""
    start = last = time.monotonic()
    begun: int | None = None  # where a resumed task stood when it began

    def tell(done: int, total: int, remark: str) -> None:
        nonlocal last, begun
        now = time.monotonic()
        begun = done if begun is None else begun
        if now - last >= EVERY:
            last = now
            pace = (now - start) / (done - begun) if done > begun else None
            left = f", {pace * (total - done):.0f} s left" if pace is not None and done < total else ""
            note(f"{title}: {done} of {total} {unit}, {remark}{left}")

    return tell
