"""``funnybone attack``: one attack on one victim."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from funnybone.cli.common import (
    AtLeastOne,
    Device,
    Json,
    Length,
    Seed,
    choose_device,
    emit,
    emit_json,
    load,
    natural_motion,
    prepare,
    progress,
    test_part,
)
from funnybone.cli.config import typed

if TYPE_CHECKING:
    from funnybone.outcome import Outcome


def attack(
    name: str,
    /,
    *,
    victim: str,
    data: str = "synthetic",
    split: str | None = None,
    goal: str = "ab",
    threat: str | None = None,
    preset: str | None = None,
    set: Annotated[list[str] | None, Parameter(negative_iterable="")] = None,
    limit: Annotated[int | None, AtLeastOne] = None,
    frames: Annotated[int | None, Length] = None,
    natural: Path | None = None,
    batch_size: Annotated[int, AtLeastOne] = 64,
    budget: Annotated[int | None, AtLeastOne] = None,
    draws: Annotated[int | None, AtLeastOne] = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    out: Path | None = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Attack one victim with one attack and print what came of it, in one line.

    Parameters
    ----------
    name
        The attack: pgd, smart, ...
    victim
        A packaged victim (stgcn.synthetic), a weights file, or package.module:function.
    data
        A data set's name or a motion file.
    split
        The part to attack, as KEY:VALUE,VALUE; the test part of a named data set where it has one.
    goal
        ab (any class but the true one), ab3, ab5 (the true class leaves the top 3, 5), sa or sa:CLASS (that class).
    threat
        Where clips must stay: "linf:0.01 & bones:0.01"; nothing is forbidden by default.
    preset
        A named choice of the attack's settings, such as published.
    set
        A setting of the attack, as key=value; can be given several times.
    limit
        Attack this many clips: a choice that the seed makes and in which each class keeps its share.
    frames
        Resample clips to this length; by default to what the victim was trained on.
    natural
        What recorded motion keeps to, as funnybone data natural writes it: joint limits for attacks that keep them, and
        a test of what they did. By default that of the data set, or learned from the clips that --split leaves.
    batch_size
        Clips attacked together.
    budget
        Most queries for each clip.
    draws
        Answers of a stochastic victim that stand for one; 20 by default.
    precision
        bf16 searches in mixed precision; the verdict is taken in float32 all the same.
    out
        Save the adversarial clips and all measurements: FILE.safetensors and FILE.json.
    """
    import torch

    from funnybone import goals
    from funnybone import threat as threats
    from funnybone.attacks import attacks, create_attack
    from funnybone.auditing.plan import choose
    from funnybone.outcome import paths

    made = create_attack(name, preset=preset, **typed(f"attack {name}", attacks[name], set or []))
    model = threats.parse(threat) if threat is not None else None
    split = test_part(data, split)
    victims, clips = load([victim], data, split=split, frames=frames, device=choose_device(device))
    (attacked,) = victims.values()
    if out is not None:
        prepare(*paths(out))
    with progress(f"{name} on {attacked.name}") as tell:
        outcome = made(
            attacked,
            choose(clips, limit, seed),
            goal=goals.parse(goal, clips.classes),
            threat=model,
            natural=natural_motion(natural, data, split, clips),
            starts=clips,
            generator=torch.Generator().manual_seed(seed),
            budget=budget,
            draws=draws,
            precision=precision,
            batch_size=batch_size,
            progress=lambda done, successes, total: tell(done, total, f"{successes} successes"),
        )
    if out is not None:
        outcome.save(out)
    if json:
        emit_json(summary(outcome))
    else:
        emit(str(outcome))


def summary(outcome: "Outcome") -> dict[str, Any]:
    """Return what the one line says, as plain values in SI units; medians and means are over successes."""
    from funnybone.metrics.intervals import wilson

    attacked, succeeded = int(outcome.attacked.sum()), int(outcome.success.sum())
    return {
        "n": len(outcome),
        "attacked": attacked,
        "succeeded": succeeded,
        "success_rate": succeeded / attacked if attacked else None,
        "ci95": wilson(succeeded, attacked),
        "steps_median": outcome.median(outcome.steps),
        "queries_median": outcome.median(outcome.queries),
        **{key: outcome.mean(values) for key, values in outcome.distances.items()},
        "max_violation": float(outcome.violation.max()),
        "zero_gradients": int(outcome.zero_gradient.sum()),
        **outcome.provenance,
    }
