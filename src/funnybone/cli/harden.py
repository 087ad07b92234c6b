"""``funnybone harden``: one victim hardened by one defense."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from funnybone.cli.common import (
    Device,
    Json,
    Length,
    Seed,
    choose_device,
    emit,
    emit_json,
    load,
    note,
    others_of,
    prepare,
    progress,
    test_part,
)
from funnybone.cli.config import typed
from funnybone.cli.learning import curve_files, write_curve_files
from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.clips import Clips
    from funnybone.models.weights import AccuracyRecord
    from funnybone.training import Trained
    from funnybone.victims import Victim

AT_ONCE = 16  # clips of which accuracy is measured between two words about it


def harden(
    name: str,
    /,
    *,
    victim: str,
    data: str,
    out: Path,
    split: str | None = None,
    preset: str | None = None,
    set: Annotated[list[str] | None, Parameter(negative_iterable="")] = None,
    validate: str | None = None,
    frames: Annotated[int | None, Length] = None,
    precision: Literal["fp32", "bf16"] | None = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Harden a victim and measure, once, at the end, what clips of the test part are classified right before and after.

    The file holds the victim's own weights and what the defense added or changed. Accuracy on clean clips says
    nothing about robustness: audit both, funnybone audit VICTIM FILE. A defense that trains keeps what it has done in
    FILE.partial, and the same command goes on from there. One that trains the victim's network writes learning curves
    beside the file, FILE.curves.json and FILE.curves.svg (the picture needs matplotlib).

    Parameters
    ----------
    name
        The defense: smoothing, lowpass, ...
    victim
        A packaged victim (stgcn.synthetic) or a weights file.
    data
        A data set's name or a motion file: what the victim was trained on.
    out
        The file to write, accepted wherever a victim is named. Never overwritten.
    split
        The test part, as KEY:VALUE,VALUE; the defense is fitted on the others. By default the test part of a named data
        set.
    preset
        A named choice of the defense's settings, such as published.
    set
        A setting of the defense, as key=value; can be given several times.
    validate
        Training clips that choose, where something is to be chosen, as KEY:VALUE,VALUE; by default a tenth of each
        class.
    frames
        Resample clips to this length; by default to what the victim was trained on.
    precision
        Of a defense that trains the victim's network: bf16 trains in mixed precision, which needs accelerate; fp32 by
        default.
    """
    import torch

    from funnybone.data import datasets
    from funnybone.defenses import create_defense, defenses
    from funnybone.training import checkpoint_of
    from funnybone.training.hardware import processes
    from funnybone.victims.files import parts_of, save_victim
    from funnybone.victims.hardened import Fitted, Hardened, seconds_since_undefended

    made = create_defense(name, preset=preset, **typed(f"defense {name}", defenses[name], set or []))
    if precision is not None and not made.trains:
        raise DataError(
            f"--precision {precision}: defense {name}, as it is set, trains no network of the victim",
            hint="leave it out",
        )
    if processes() > 1:
        raise DataError("harden is one process, and there are several", hint="start it without torchrun or accelerate")
    split = test_part(data, split)
    loaded, clips = load([victim], data, split=None, frames=frames, device=choose_device(device))
    (base,) = loaded.values()
    base.check(clips)
    _, record, _ = parts_of(base)  # refused here, not after the work
    curves = curve_files(out) if made.trains else {}
    prepare(out, *curves.values())
    rule = datasets[data].rule(split) if split is not None and data in datasets else split
    others = None if rule is None else others_of(rule)
    part, test = (clips, None) if rule is None or others is None else (clips.select(others), clips.select(rule))
    if others is not None and record.data.n and record.data.split != others:
        note(
            f"{base.name} was trained on {record.data.split or 'all clips'} of {record.data.name}, not on {others}: "
            "clips of the test part may have been among them"
        )
    validation = None
    if validate is not None:
        part, validation = part.select(f"!{validate}"), part.select(validate)
    checkpoint = out.with_name(f"{out.name}.partial")
    if not made.resumes and checkpoint.exists():
        raise DataError(
            f"{checkpoint}: there is a training that was interrupted, and {name} goes on with none",
            hint="give its own command again, remove it, or choose another --out",
        )
    resumed = made.resumes and checkpoint.exists()
    told: list[Trained] = []
    more: dict[str, Any] = {"precision": precision or "fp32", "trained": told.append} if made.trains else {}
    began = time.monotonic()
    with progress(f"{name} on {base.name}", "steps") as tell:
        hardened = made.fit(
            base,
            part,
            validation=validation,
            generator=torch.Generator().manual_seed(seed),
            progress=tell,
            checkpoint=checkpoint,
            **more,
        )
    seconds = time.monotonic() - began
    hardened.fit_seconds = None if resumed else seconds_since_undefended(base, seconds)
    layer = hardened
    while isinstance(layer, Hardened) and layer.defense != name:  # what was in front of the victim still is
        layer = layer.base
    if isinstance(layer, Hardened):  # a network that was trained again has a record of its own training
        layer.fitted = Fitted.of(part, validation, split=others, seed=seed)
    before, after = (None if test is None else _accuracy(one, test, rule, seed) for one in (base, hardened))
    record = save_victim(out, hardened, accuracy=after)
    for trained in told:
        write_curve_files(curves, trained._replace(record=trained.record.model_copy(update={"accuracy": after})))
    if made.resumes:  # then they are its own: it would have refused another's
        for stream in ("joint", *record.streams):
            checkpoint_of(checkpoint, stream).unlink(missing_ok=True)
    if json:
        document = record.model_dump(mode="json")
        clean = {key: one and one.model_dump(mode="json") for key, one in (("before", before), ("after", after))}
        own = {"out": str(out), "victim": base.name, "fitted": len(part), "seconds": seconds}
        emit_json({**own, **({"curves": str(curves["json"])} if curves else {}), **document, **clean})
        return
    fitted = f"fitted on {len(part)} clips of {clips.name} in {seconds:.1f} s; {out}"
    if before is None or after is None:
        note("no --split: the defense was fitted on every clip, and accuracy was not measured")
        emit(f"{name} on {base.name}: {fitted}")
    else:
        figures = f"{_figure(before)} before, {_figure(after)} after"
        emit(f"{name} on {base.name}: accuracy {figures} on the {after.n} clips of {rule}, {fitted}")


def _accuracy(victim: "Victim", clips: "Clips", split: str | None, seed: int) -> "AccuracyRecord":
    """The share of clean clips that a victim gets right, as attacks judge it: where answers differ, by majority."""
    import torch

    from funnybone.attacks.verdict import judge, repeatable
    from funnybone.goals import AnythingBut
    from funnybone.metrics.intervals import wilson
    from funnybone.models.weights import AccuracyRecord

    right = 0
    with progress(f"accuracy of {victim.name}") as tell, repeatable(victim, torch.Generator().manual_seed(seed)):
        for start in range(0, len(clips), AT_ONCE):  # a smoothed victim takes minutes
            part = clips[start : start + AT_ONCE]
            right += int((judge(victim, part, AnythingBut(), part.labels, AT_ONCE).prediction == part.labels).sum())
            tell(start + len(part), len(clips), f"{right} right")
    interval = wilson(right, len(clips)) or (0.0, 1.0)
    return AccuracyRecord(value=right / len(clips), ci95=interval, n=len(clips), split=split)


def _figure(accuracy: "AccuracyRecord") -> str:
    low, high = accuracy.ci95
    return f"{100 * accuracy.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
