"""``funnybone train``: a victim from scratch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from funnybone.cli.common import (
    FRAMES,
    Device,
    Json,
    Length,
    Seed,
    choose_device,
    emit,
    emit_json,
    note,
    prepare,
    progress,
    test_part,
)
from funnybone.cli.config import typed
from funnybone.cli.learning import curve_files, write_curve_files

if TYPE_CHECKING:
    from funnybone.models import Recipe
    from funnybone.training import Progress

Pairs = Annotated[list[str] | None, Parameter(negative_iterable="")]


def train(
    model: str,
    /,
    *,
    data: str,
    out: Path,
    split: str | None = None,
    streams: str = "joint",
    fusion: str | None = None,
    recipe: Literal["small", "published"] = "small",
    epochs: int | None = None,
    lr: float | None = None,
    set: Pairs = None,
    option: Pairs = None,
    validate: str | None = None,
    frames: Annotated[int, Length] = FRAMES,
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a victim from scratch and measure its accuracy once, at the end, on the part that was left out.

    Beside the weights it writes the learning curves, FILE.curves.json and FILE.curves.svg (the picture needs
    matplotlib). Interrupted at any moment, the same command continues after the last whole epoch, kept in FILE.partial.
    Another command does not touch that file: remove it, or choose another --out. Several devices:
    torchrun --nproc-per-node 2 -m funnybone train ...

    Parameters
    ----------
    model
        The model: stgcn, ... (funnybone models list).
    data
        A data set's name or a motion file.
    out
        The weights file to write, accepted wherever a victim is named. Never overwritten.
    split
        The test part, as KEY:VALUE,VALUE; training takes the others. By default the test part of a named data set.
    streams
        What networks are shown: joint, bone, joint_motion, bone_motion. Several, with commas between, are trained apart
        and answer together.
    fusion
        Weights of the streams in the sum of their logits, with commas between; all one by default.
    recipe
        Which of the family's recipes: for small data on a CPU, or the published one.
    epochs
        Passes over the training clips.
    lr
        Learning rate at the top of its cycle.
    set
        Anything else of the recipe, as key=value (batch, weight_decay, preprocess.align, options.width, ...); can be
        given several times.
    option
        The model's own options, as key=value (width, ...): short for --set options.KEY; can be given several times.
    validate
        Training clips that choose the epoch whose weights are kept, as KEY:VALUE,VALUE. By default a tenth of each
        class (the recipe's validation=0.1).
    frames
        Resample clips to this length.
    precision
        bf16 trains in mixed precision, which needs accelerate.
    """
    from funnybone import models
    from funnybone.data.registry import find
    from funnybone.models.streams import fusion_weights
    from funnybone.training import checkpoint_of, evaluate, hardware
    from funnybone.training import train as fit

    kinds = streams.split(",")
    weights = None if fusion is None else _numbers(fusion)
    models.check_streams(kinds)
    fusion_weights(kinds, weights)  # refused here, not after the data are read
    chosen = _recipe(model, recipe, set, option, {"epochs": epochs, "max_lr": lr})
    split = test_part(data, split)
    source, clips = find(data)
    rule = source.rule(split) if source and split else split
    others = None if rule is None else rule[1:] if rule.startswith("!") else f"!{rule}"
    part, test = (clips, None) if rule is None or others is None else (clips.select(others), clips.select(rule))
    validation = None
    if validate is not None:
        part, validation = part.select(f"!{validate}"), part.select(validate).resample(frames)
    place = hardware(choose_device(device), precision)
    first = place.rank == 0
    curves = curve_files(out)
    if first:
        prepare(out, *curves.values())
    place.wait()
    checkpoint = out.with_name(f"{out.name}.partial")
    with progress(f"training {model}", "steps") as tell:
        trained = fit(
            model,
            part.resample(frames),
            recipe=chosen,
            streams=kinds,
            fusion=weights,
            validation=validation,
            seed=seed,
            device=place,
            split=others,
            progress=_reporter(tell, kinds) if first else None,
            checkpoint=checkpoint,
        )
    if not first:
        return
    record = trained.record
    if source is not None:
        record = record.model_copy(update={"licence": source.licence})
    if test is not None:
        accuracy = evaluate(trained.module, test.resample(frames), record.build_preprocess(), split=rule)
        record = record.model_copy(update={"accuracy": accuracy})
    record = models.save_weights(out, trained.module, record)
    write_curve_files(curves, trained._replace(record=record))
    for stream in trained.curves:
        checkpoint_of(checkpoint, stream).unlink(missing_ok=True)
    if json:
        emit_json({"out": str(out), "curves": str(curves["json"]), **record.model_dump(mode="json")})
    elif record.accuracy is None:
        note("no --split: every clip was trained on, and accuracy was not measured")
        emit(f"{model}: trained on {len(part)} clips of {clips.name}; {out}")
    else:
        low, high = record.accuracy.ci95
        figure = f"{100 * record.accuracy.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        emit(f"{model}: accuracy {figure} on the {record.accuracy.n} clips of {rule}, trained on {len(part)}; {out}")


def _recipe(
    model: str, table: str, settings: list[str] | None, options: list[str] | None, named: dict[str, Any]
) -> "Recipe":
    """The family's recipe with what the command line changes."""
    from funnybone import models
    from funnybone.models import Preprocess, Recipe, recipe_for
    from funnybone.models.registry import typed_options

    _ = models.models[model]  # an unknown model is named before its recipe is looked for
    single, tables = _sorted(settings or [])
    changes = typed("recipe", Recipe, single) | {key: value for key, value in named.items() if value is not None}
    changes["options"] = typed_options(model, [*tables["options"], *(options or [])])
    changes["preprocess"] = typed("preprocess", Preprocess, tables["preprocess"])
    return recipe_for(model, table, changes)


def _sorted(pairs: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Apart: settings of one value, and those that a dotted key puts into one of the recipe's tables."""
    from funnybone.errors import DataError

    tables: dict[str, list[str]] = {"options": [], "preprocess": []}
    examples = "options.width=32 or preprocess.align=hips"
    single = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        table, dot, name = key.partition(".")
        if table in tables and not (name and equals):
            raise DataError(f"recipe: {pair!r}: {table} holds several settings", hint=f"write {table}.KEY=VALUE")
        if dot and table not in tables:
            raise DataError(f"recipe: {pair!r}: {table!r} holds no settings", hint=f"dotted keys are as in {examples}")
        if dot:
            tables[table].append(f"{name}={value}")
        else:
            single.append(pair)
    return single, tables


def _numbers(text: str) -> list[float]:
    from funnybone.errors import DataError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"--fusion {text}: not numbers", hint="give one for each stream, with commas between") from None


def _reporter(tell: Callable[[int, int, str], None], streams: list[str]) -> "Callable[[Progress], None]":
    def report(now: "Progress") -> None:
        stream = f"{now.stream}, " if len(streams) > 1 else ""
        judged = now.last.validation_accuracy if now.last else None
        share = "" if judged is None else f", validation {100 * judged:.1f} %"
        before = streams.index(now.stream) * now.steps  # else the time that is left would be that of one stream
        said = f"{stream}epoch {now.epoch + 1} of {now.epochs}, loss {now.loss:.3f}{share}"
        tell(before + now.step, len(streams) * now.steps, said)

    return report
