"""``funnybone audit``: the main job."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from funnybone.cli.common import (
    AtLeastOne,
    Device,
    Json,
    Length,
    Seed,
    choose_device,
    emit,
    load,
    note,
    progress,
    test_part,
)
from funnybone.cli.tables import show
from funnybone.errors import DataError

DEMO_VICTIM, DEMO_LIMIT = "stgcn.synthetic", 56  # four clips of each class


def audit(
    *victims: str,
    data: str = "synthetic",
    split: str | None = None,
    suite: str = "quick",
    limit: Annotated[int | None, AtLeastOne] = None,
    out: Path | None = None,
    frames: Annotated[int | None, Length] = None,
    executor: Annotated[Literal["inline", "process", "ray"], Parameter(show_choices=True)] = "inline",
    resume: bool = True,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Attack victims with a suite of attacks, keep a ledger, and write audit.json and report.html.

    Without arguments: the embedded victim on some clips of the embedded, synthetic data. Interrupted at any moment, the
    same command continues, and ends with the same figures; given again after that, it prints them.

    Parameters
    ----------
    victims
        Packaged victims (stgcn.synthetic), weights files, package.module:function; or one file of settings, audit.toml.
    data
        A data set's name or a motion file.
    split
        The part to audit, as KEY:VALUE,VALUE; by default the test part of a named data set.
    suite
        quick, standard or full.
    limit
        Audit this many clips: a choice that the seed makes and in which each class keeps its share.
    out
        The audit's folder; runs/DATA-SUITE by default.
    frames
        Resample clips to this length; by default to what the victim was trained on.
    executor
        inline; process: several processes with one thread each; ray: tasks of Ray, on its cluster where there is one.
    resume
        Go on with what the folder holds. With --no-resume a folder that holds an audit is refused.
    """
    from funnybone.auditing import audit as run
    from funnybone.auditing import create_suite
    from funnybone.auditing.tables import headers, heading, rows

    entries = len(create_suite(suite).entries)
    if not victims:
        victims, limit = (DEMO_VICTIM,), DEMO_LIMIT if limit is None else limit
    split = test_part(data, split)
    loaded, clips = load(list(victims), data, split=split, frames=frames, device=choose_device(device))
    folder = out or Path("runs") / f"{clips.name}-{suite}"
    if not resume and (folder / "ledger.sqlite").exists():
        raise DataError(f"{folder}: holds an audit", hint="choose another --out, or go on with it: --resume")

    with progress("audit") as tell:
        counts: dict[str, tuple[int, int]] = {}

        def report(entry: str, done: int, successes: int, total: int) -> None:
            counts[entry] = done, successes
            overall, won = (sum(column) for column in zip(*counts.values(), strict=True))
            tell(overall, total * entries * len(loaded), f"{won} successes, now {entry}")

        done = run(
            loaded,
            clips,
            suite=suite,
            out=folder,
            seed=seed,
            limit=limit,
            split=split,
            progress=report,
            executor=executor,
        )
    page = done.to_html()
    if json:
        emit(done.result.model_dump_json(indent=2))
        note(f"report: {page}")
        return
    emit(heading(done.result))
    columns = headers(done.result.data.unit)
    show(columns, rows(done.result), numbers=columns[3:])
    for warning in done.result.warnings:
        emit(f"{warning.code}: {warning.message}")
    emit(f"report: {page}")
