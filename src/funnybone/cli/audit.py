"""``funnybone audit``: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from funnybone.cli import demo
from funnybone.cli.common import (
    AtLeastOne,
    Device,
    Json,
    Length,
    Seed,
    choose_device,
    emit,
    load,
    natural_motion,
    note,
    progress,
    test_part,
)
from funnybone.cli.tables import show
from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.auditing.schema import AuditResult
    from funnybone.clips import Clips
    from funnybone.victims import Victim


def audit(
    *victims: str,
    data: str | None = None,
    split: str | None = None,
    surrogate: Annotated[list[str] | None, Parameter(negative_iterable="")] = None,
    suite: str = "quick",
    limit: Annotated[int | None, AtLeastOne] = None,
    out: Path | None = None,
    frames: Annotated[int | None, Length] = None,
    natural: Path | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    executor: Annotated[Literal["inline", "process", "ray"], Parameter(show_choices=True)] = "inline",
    resume: bool = True,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Attack victims with a suite of attacks, keep a ledger, and write audit.json and report.html.

    Without victims and data: the embedded victim and the same hardened by BEAT, a small fit that the audit's folder
    keeps as a file, on some clips of the embedded, synthetic data. Interrupted at any moment, the same command
    continues, and ends with the same figures; given again after that, it prints them.

    Parameters
    ----------
    victims
        Packaged victims (stgcn.synthetic), weights files, package.module:function; or one file of settings, audit.toml.
    data
        A data set's name or a motion file; by default the embedded, synthetic data.
    split
        The part to audit, as KEY:VALUE,VALUE; by default the test part of a named data set.
    surrogate
        Attack this classifier too, and ask every victim about the clips that come of it; once for each surrogate.
    suite
        quick, standard, full, defense or blackbox.
    limit
        Audit this many clips: a choice that the seed makes and in which each class keeps its share.
    out
        The audit's folder; runs/DATA-SUITE by default.
    frames
        Resample clips to this length; by default to what the victim was trained on.
    natural
        What recorded motion keeps to, as funnybone data natural writes it: it tells how many of the clips that fell are
        natural. By default it is learned from the clips that are not audited, where --split leaves some.
    precision
        bf16 searches in mixed precision; verdicts are taken in float32 all the same.
    executor
        inline; process: several processes with one thread each; ray: tasks of Ray, on its cluster where there is one.
    resume
        Go on with what the folder holds. With --no-resume a folder that holds an audit is refused.
    """
    from funnybone.auditing import audit as run
    from funnybone.auditing import create_suite

    wanted = create_suite(suite)
    unnamed = not victims and data is None and split is None and not surrogate
    if not victims:
        victims, limit = (demo.VICTIM,), demo.LIMIT if limit is None else limit
    data = demo.DATA if data is None else data
    split = test_part(data, split)
    attacked, owned, clips = _load(list(victims), surrogate or [], data, split, frames, choose_device(device))
    folder = out or Path("runs") / f"{clips.name}-{suite}"
    if not resume and (folder / "ledger.sqlite").exists():
        raise DataError(f"{folder}: holds an audit", hint="choose another --out, or go on with it: --resume")

    small = None
    if unnamed:
        (base,) = attacked.values()
        small = demo.harden(base, folder, frames=clips.xyz.shape[2], seed=seed, resume=resume)
        attacked[small.name] = small
    rows = len(owned) + (len(owned) > 1)  # of the matrix of transfer: the surrogates, and the ensemble of several
    passes = len(attacked) * len(wanted.entries) + rows * len(wanted.transfer) * (1 + len({*attacked, *owned}))
    with progress("audit") as tell:
        counts: dict[str, tuple[int, int]] = {}

        def report(entry: str, done: int, successes: int, total: int) -> None:
            counts[entry] = done, successes
            overall, won = (sum(column) for column in zip(*counts.values(), strict=True))
            tell(overall, total * passes, f"{won} successes, now {entry}")

        done = run(
            attacked,
            clips,
            surrogates=owned,
            suite=suite,
            out=folder,
            seed=seed,
            limit=limit,
            split=split,
            natural=natural_motion(natural, data, split, clips),
            progress=report,
            precision=precision,
            executor=executor,
        )
    page = done.to_html()
    if json:
        emit(done.result.model_dump_json(indent=2))
        note(f"report: {page}")
        return
    _print(done.result)
    emit(f"report: {page}\n")
    for line in [*(demo.remarks(small) if small else []), *done.result.meaning]:
        emit(line)


def _load(
    victims: list[str], surrogates: list[str], data: str, split: str | None, frames: int | None, device: str
) -> "tuple[dict[str, Victim], dict[str, Victim], Clips]":
    """Return victims and surrogates by name, and clips that fit them all."""
    from funnybone.clips import repeated

    if (twice := repeated(surrogates)) is not None:
        raise DataError(f"surrogate {twice!r} is named twice", hint="name each surrogate once")
    sources = [*victims, *(source for source in surrogates if source not in victims)]
    loaded, clips = load(sources, data, split=split, frames=frames, device=device)
    names = dict(zip(sources, loaded, strict=True))
    attacked, owned = ({names[one]: loaded[names[one]] for one in part} for part in (victims, surrogates))
    return attacked, owned, clips


def _print(result: "AuditResult") -> None:
    """Print the tables and the warnings."""
    from funnybone.auditing import tables

    emit(tables.heading(result))
    columns = tables.headers(result)
    show(columns, tables.rows(result), numbers=columns[3:])
    for attack in result.transfer:
        emit(f"\n{tables.transfer_heading(attack)}")
        columns = tables.transfer_headers(attack)
        show(columns, tables.transfer_rows(attack), numbers=columns[1:])
    if result.transfer:
        emit(f"{tables.WHITE_BOX}\n")
    for warning in result.warnings:
        emit(f"{warning.code}: {warning.message}")
