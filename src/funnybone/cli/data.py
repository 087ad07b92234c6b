"""``funnybone data``: data sets and motion files."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from funnybone.cli.common import Json, Length, emit, emit_json, others_of, prepare, test_part
from funnybone.cli.tables import show
from funnybone.tables import MISSING

if TYPE_CHECKING:
    from funnybone.clips import Clips
    from funnybone.data import DataSet


def list_data(*, json: Json = False) -> None:
    """List the data sets that have a name, and the formats that files are read in."""
    from funnybone.data import datasets, formats

    named = [datasets[name] for name in datasets.names()]
    rows = [
        {
            "name": data.name,
            "description": data.description,
            "licence": data.licence,
            "splits": dict(data.splits),
            "synthetic": data.synthetic,
        }
        for data in named
    ]
    if json:
        emit_json({"datasets": rows, "formats": formats.names()})
        return
    show(
        ("name", "recorded", "test part", "licence", "description"),
        [
            (
                data.name,
                "no, synthetic" if data.synthetic else "yes",
                _short(data.splits.get("test", MISSING)),
                data.licence,
                data.description,
            )
            for data in named
        ],
    )
    emit(f"files: {', '.join(f'*.{name}' for name in formats.names())}")


def info(source: str, /, *, split: str | None = None, json: Json = False) -> None:
    """Say what is in a data set or a motion file.

    Parameters
    ----------
    source
        A data set's name or a motion file.
    split
        Only this part of it, as KEY:VALUE,VALUE, or test and train where the data set has them.
    """
    from funnybone.data.registry import find

    data, clips = find(source)
    if split is not None:
        clips = clips.select(data.rule(split) if data else split)
    facts = describe(clips, data)
    if json:
        emit_json(facts)
        return
    kind = "synthetic: no person was recorded" if clips.synthetic else "recorded"
    emit(f"{clips.name}: {len(clips)} clips, {len(facts['classes'])} classes, {kind}")
    emit(f"skeleton: {clips.skeleton.name}, {len(clips.skeleton.joints)} joints, up to {facts['persons']} persons")
    emit(f"frames: {' / '.join(map(str, facts['frames'].values()))} (min / median / max)")
    emit(f"rate: {' / '.join(f'{value:g}' for value in facts['fps'].values())} frames a second (min / median / max)")
    emit(f"unit: {clips.unit}, {clips.up} up")
    emit(f"licence: {facts['licence'] or 'the file does not say'}")
    for name, values in facts["groups"].items():
        shown = list(values.items())
        more = f", and {len(shown) - 12} more" if len(shown) > 12 else ""
        emit(f"{name}: {', '.join(f'{value} ({count})' for value, count in shown[:12])}{more}")
    emit("")
    show(("class", "clips"), [(name, str(count)) for name, count in facts["classes"].items()], numbers=("clips",))


def natural(
    source: str,
    /,
    *,
    out: Path,
    split: str | None = None,
    frames: Annotated[int, Length] = 60,
    false_alarms: float = 0.05,
    json: Json = False,
) -> None:
    """Learn what recorded motion keeps to, and say how many clips of the test part the test flags by mistake.

    Parameters
    ----------
    source
        A data set's name or a motion file.
    out
        The file to write, NAME.safetensors: for --natural of attack and audit.
    split
        The test part, as KEY:VALUE,VALUE; it is learned from the others. By default the test part of a named data set.
    frames
        Resample clips to this length; give that of the victim.
    false_alarms
        Largest share of recorded clips that shall be flagged.
    """
    from funnybone.data import load_data
    from funnybone.metrics.intervals import wilson
    from funnybone.metrics.natural import FIGURES, learn_natural_motion

    split = test_part(source, split)
    prepare(out)
    others = load_data(source, split=None if split is None else others_of(split), frames=frames)
    learned = learn_natural_motion(others, false_alarms=false_alarms)
    learned.save(out)
    facts: dict[str, Any] = {
        "file": str(out),
        "clips": learned.clips,
        "frames": learned.frames,
        "false_alarms": learned.false_alarms,
        "flagged": learned.flagged,
        "thresholds": dict(zip(FIGURES, learned.thresholds.tolist(), strict=True)),
    }
    said = [f"learned from {learned.clips} clips; of these {learned.flagged} are flagged"]
    if split is not None:
        test = load_data(source, split=split, frames=frames)
        flagged = int((~learned.holds(test)).sum())
        low, high = wilson(flagged, len(test)) or (0.0, 1.0)
        facts["test"] = {"split": split, "n": len(test), "flagged": flagged, "ci95": (low, high)}
        said.append(
            f"of {len(test)} clean clips of {split} {flagged} are flagged: {100 * flagged / len(test):.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}]"
        )
    if json:
        emit_json(facts)
        return
    for line in said:
        emit(line)
    emit(str(out))


def describe(clips: "Clips", data: "DataSet | None") -> dict[str, Any]:
    """Return the facts of some clips as plain values."""
    lengths = clips.valid.any(1).sum(1)
    labels = Counter(clips.labels.tolist())
    return {
        "name": clips.name,
        "n": len(clips),
        "persons": int(clips.valid.any(2).sum(1).max()),
        "classes": {name: labels[label] for label, name in enumerate(clips.classes)},
        "groups": {key: dict(sorted(Counter(values).items())) for key, values in clips.groups.items()},
        "frames": _spread(lengths.double().tolist(), int),
        "fps": _spread(clips.fps.double().tolist(), float),
        "skeleton": {"name": clips.skeleton.name, "joints": list(clips.skeleton.joints)},
        "unit": clips.unit,
        "up": clips.up,
        "licence": data.licence if data else None,
        "splits": dict(data.splits) if data else {},
        "synthetic": clips.synthetic,
    }


def _spread(values: list[float], kind: type) -> dict[str, Any]:
    ordered = sorted(values)
    return {"min": kind(ordered[0]), "median": kind(ordered[len(ordered) // 2]), "max": kind(ordered[-1])}


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
