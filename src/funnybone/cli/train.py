"""``funnybone train``: a victim from scratch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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


def train(
    model: str,
    /,
    *,
    data: str,
    out: Path,
    split: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    set: Annotated[list[str] | None, Parameter(negative_iterable="")] = None,
    frames: Annotated[int, Length] = FRAMES,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a victim from scratch and measure its accuracy once, at the end, on the part that was left out.

    Interrupted at any moment, the same command continues after the last whole epoch, kept in FILE.partial. Another
    command does not touch that file: remove it, or choose another --out.

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
    epochs
        Passes over the training clips.
    lr
        Learning rate at the top of its cycle.
    set
        Anything else of the recipe, as key=value (batch, weight_decay, ...); can be given several times.
    frames
        Resample clips to this length.
    """
    from funnybone import models
    from funnybone.data.registry import find
    from funnybone.settings import build
    from funnybone.training import Progress, evaluate
    from funnybone.training import train as fit

    own = models.models[model].recipe
    named = {"epochs": epochs, "max_lr": lr}
    settings = typed("recipe", type(own), set or []) | {key: value for key, value in named.items() if value is not None}
    recipe = build("training", "recipe", type(own), asdict(own) | settings)
    split = test_part(data, split)
    source, clips = find(data)
    rule = source.rule(split) if source and split else split
    others = None if rule is None else rule[1:] if rule.startswith("!") else f"!{rule}"
    part, test = (clips, None) if rule is None or others is None else (clips.select(others), clips.select(rule))

    prepare(out)
    with progress(f"training {model}", "steps") as tell:

        def report(now: Progress) -> None:
            tell(now.step, now.steps, f"epoch {now.epoch + 1} of {now.epochs}, loss {now.loss:.3f}")

        checkpoint = out.with_name(f"{out.name}.partial")
        trained = fit(
            model,
            part.resample(frames),
            recipe=recipe,
            seed=seed,
            device=choose_device(device),
            split=others,
            progress=report,
            checkpoint=checkpoint,
        )
    record = trained.record
    if source is not None:
        record = record.model_copy(update={"licence": source.licence})
    if test is not None:
        accuracy = evaluate(trained.module, test.resample(frames), record.build_preprocess(), split=rule)
        record = record.model_copy(update={"accuracy": accuracy})
    record = models.save_weights(out, trained.module, record)
    checkpoint.unlink(missing_ok=True)
    if json:
        emit_json({"out": str(out), **record.model_dump(mode="json")})
    elif record.accuracy is None:
        note("no --split: every clip was trained on, and accuracy was not measured")
        emit(f"{model}: trained on {len(part)} clips of {clips.name}; {out}")
    else:
        low, high = record.accuracy.ci95
        figure = f"{100 * record.accuracy.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        emit(f"{model}: accuracy {figure} on the {record.accuracy.n} clips of {rule}, trained on {len(part)}; {out}")
