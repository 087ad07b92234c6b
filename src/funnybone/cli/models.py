"""``funnybone models``: what can be attacked out of the box, and trained; weights for others to attack."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from funnybone.cli.common import FRAMES, Json, Length, emit, emit_json, note, prepare
from funnybone.cli.tables import show
from funnybone.tables import MISSING, rate

Pairs = Annotated[list[str] | None, Parameter(negative_iterable="")]


def list_models(pattern: str = "*", /, *, json: Json = False) -> None:
    """List the models, their size and cost, and the weights that come with funnybone.

    Parameters
    ----------
    pattern
        Only names that match this shell pattern, such as "*gcn*".
    """
    from funnybone import models
    from funnybone.errors import DataError

    names = models.names(pattern)
    if not names:
        raise DataError(f"no model matches {pattern!r}", hint=f"there are {', '.join(models.names())}")
    rows = [_describe(name) for name in names]
    if json:
        emit_json(rows)
        return
    lines: list[tuple[str, ...]] = []
    for row in rows:
        size = (row["name"], f"{row['parameters']:,}", f"{row['gflops']:.2f}")
        weights = row["weights"] or [None]
        for record in weights:
            if record is None:
                lines.append((*size, MISSING, MISSING, MISSING, MISSING, MISSING))
                continue
            clean = record["accuracy"] or {"value": None, "ci95": None, "n": None}
            label = record["data"] + (" (synthetic)" if record["synthetic"] else "")
            own = (row["name"], f"{record['parameters']:,}", f"{record['gflops']:.2f}", record["name"])
            accuracy = rate(clean["value"], clean["ci95"])
            lines.append((*own, "+".join(record["streams"]), label, accuracy, str(clean["n"] or MISSING)))
    titles = ("model", "parameters", "GFLOP", "weights", "streams", "trained on", "accuracy %", "n")
    show(titles, lines, numbers=("parameters", "GFLOP", "accuracy %", "n"))
    emit(
        "Models without weights: 60 classes on NTU25, one person. GFLOP: forward, 60 frames, two operations for each "
        "multiplication. Each model can have several streams. Accuracy: on its data's test part, Wilson 95 %."
    )


def import_weights(
    checkpoint: Path,
    /,
    *more: Path,
    skeleton: str,
    preprocess: str,
    out: Path,
    classes: str | None = None,
    streams: str = "joint",
    fusion: str | None = None,
    frames: Annotated[int | None, Length] = None,
    up: Literal["x", "y", "z"] = "y",
    unit: Literal["metre", "pixel", "normalised"] = "metre",
    family: str | None = None,
    option: Pairs = None,
    data: str = "not said",
    licence: str = "unknown",
    json: Json = False,
) -> None:
    """Make a victim of a checkpoint of an authors' code: a weights file with what the checkpoint does not say.

    The network is recognised by its keys. Nothing but tensors is read, so no code of the checkpoint runs.

    Parameters
    ----------
    checkpoint
        A .pt or .pth file.
    more
        Further files: the second of AS-GCN's two, or those of the other streams.
    skeleton
        The joints that it was trained on: NTU25, HDM05_25, KINECT20, COCO17, OPENPOSE18, ...
    preprocess
        What its training did to clips: 2s-agcn, as-gcn, ctr-gcn, sgn, st-gcn, pyskl, hdm05, clip (centred on the mean
        of its joints) or none. docs/models.md says what each does.
    out
        The weights file to write, accepted wherever a victim is named. Never overwritten.
    classes
        A file with the name of a class in each line, in the order of the logits; or how many there are.
    streams
        What the networks were shown: joint, bone, joint_motion, bone_motion, with commas between; one file for each.
    fusion
        Weights of the streams in the sum of their logits, with commas between; all one by default.
    frames
        Length of the clips that it was trained on, where the preprocessing does not say it.
    up
        The vertical axis of those clips.
    unit
        Their unit.
    family
        The model, where keys alone do not say it.
    option
        The model's own options that shapes do not tell, as key=value (persons, graph, ...); can be given several times.
    data
        What it was trained on, for the record.
    licence
        Of the weights, for the record.
    """
    from funnybone import models, skeletons
    from funnybone.errors import DataError
    from funnybone.models.registry import typed_options

    known = {each.name.lower(): each for each in skeletons.ALL}
    if skeleton.lower() not in known:
        listed = ", ".join(each.name for each in skeletons.ALL)
        raise DataError(f"no skeleton is named {skeleton!r}", hint=f"there are {listed}")
    options = dict(map(_option, option or [])) if family is None else typed_options(family, option or [])
    prepare(out)
    record = models.import_checkpoint(
        checkpoint,
        *more,
        out=out,
        skeleton=known[skeleton.lower()],
        preprocess=preprocess,
        classes=_classes(classes),
        streams=streams.split(","),
        fusion=None if fusion is None else _numbers(fusion),
        frames=frames,
        up=up,
        unit=unit,
        family=family,
        data=data,
        licence=licence,
        options=options,
    )
    if "frames" not in record.options:
        note(
            f"nothing says on how many frames it was trained: commands resample clips to {FRAMES}, unless --frames "
            "says otherwise, here or there"
        )
    if json:
        emit_json({"out": str(out), **record.model_dump(mode="json")})
        return
    shown = f", {'+'.join(record.streams)}" if record.streams != ("joint",) else ""
    emit(
        f"{out}: {record.model}{shown}, {len(record.classes)} classes, {record.skeleton.name}, prepared as {preprocess}"
    )


def push(
    file: Path, repo: str, /, *, private: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> None:
    """Publish a weights file to a Hugging Face hub, with a model card of what the file says about itself.

    Others then name it as hub:OWNER/NAME wherever a victim is named. The token is huggingface_hub's: hf auth login, or
    HF_TOKEN. What is there already gets a new version and stays in the repository's history.

    Parameters
    ----------
    file
        A weights file that funnybone wrote. It is checked before anything is sent.
    repo
        The repository, OWNER/NAME; made where there is none.
    private
        Only for those whom the owner lets in.
    """
    from funnybone.models import hub

    done = hub.push(file.expanduser(), repo, private=private)
    if json:
        emit_json({"file": str(file), "victim": f"{hub.PREFIX}{repo}@{done.commit}", **dataclasses.asdict(done)})
        return
    who = "private" if done.private else "public"
    emit(f"{file}: published, {who}: {done.url}; attack it as {hub.PREFIX}{repo}, this version as ...@{done.commit}")


def _describe(name: str) -> dict[str, Any]:
    from funnybone import models

    weights = []
    for packaged in models.list_packaged():
        if packaged.split(".")[0] == name:
            module, record = models.load_weights(models.packaged(packaged))
            weights.append(
                {
                    "name": packaged,
                    "data": record.data.name,
                    "synthetic": record.data.synthetic,
                    "streams": list(record.streams),
                    **models.cost(module),
                    "accuracy": record.accuracy.model_dump() if record.accuracy else None,
                    "licence": record.licence,
                }
            )
    fresh = models.create(name, persons=1, frames=FRAMES)
    return {"name": name, **models.cost(fresh), "streams": list(models.STREAMS), "weights": weights}


def _classes(text: str | None) -> list[str] | int | None:
    """The lines of a file, or a number."""
    from funnybone.errors import DataError

    if text is None or (text.isdecimal() and not Path(text).exists()):
        return None if text is None else int(text)
    path = Path(text).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text in UTF-8"
        raise DataError(
            f"--classes {text}: {why}", hint="give a file with the name of a class in each line, or their number"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _option(pair: str) -> tuple[str, Any]:
    """A name and the number, the truth value or else the text that ``key=value`` gives it."""
    from funnybone.errors import DataError

    key, equals, text = pair.partition("=")
    if not equals:
        raise DataError(f"--option {pair}: not an option", hint="write key=value")
    for kind in (int, float, {"true": True, "false": False}.__getitem__):
        try:
            return key, kind(text)
        except (ValueError, KeyError):
            pass
    return key, text


def _numbers(text: str) -> list[float]:
    from funnybone.errors import DataError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"--fusion {text}: not numbers", hint="give one for each stream, with commas between") from None
