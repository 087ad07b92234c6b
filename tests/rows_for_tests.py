"""Rows of a ledger, and what stands around them, made by hand."""

import dataclasses

from funnybone.auditing.rows import Row
from funnybone.auditing.schema import DataSummary, Observed, PlannedEntry

ENTRY = PlannedEntry(name="e", attack="a", access="gradients", goal="ab", threat="t", settings={"steps": 20}, ball=None)


def row(
    index, *, label=0, clean=0, prediction=0, steps=20, queries=21, position=0.01, violation=0.0, zero=False, **others
):
    """A row; it was attacked when the victim was right, and fell when its prediction changed."""
    attacked = clean == label
    success = attacked and prediction != label and violation <= 1e-6
    made = Row(
        key=f"k{index}",
        victim="v",
        entry="e",
        goal="ab",
        seed=0,
        chunk=0,
        clip=f"clip{index}",
        clip_index=index,
        label=label,
        clean_prediction=clean,
        prediction=prediction,
        reference=label,
        attacked=attacked,
        success=success,
        claimed=success,
        steps=steps,
        queries=queries,
        gradients=queries,
        violation=violation,
        zero_gradient=zero,
        distances={
            "position_m": position,
            "acceleration": 2.0,
            "joint_angle_acceleration": None,
            "bone_length_change": 0.01,
        },
        seconds=0.5,
        shard="s",
        shard_row=index,
    )
    return dataclasses.replace(made, **others)


def summary(**values):
    plain = {"name": "d", "split": None, "n": 100, "classes": ["a"], "frames": 4, "persons": 1, "skeleton": "s"}
    return DataSummary(**{**plain, "unit": "metre", "synthetic": False, "sha256": "", **values})


def quiet(**values):
    plain = {
        "probabilities": False,
        "repeat_difference": 0.0,
        "stochastic": False,
        "exact_gradients": True,
        "saturated": 0.0,
    }
    return Observed(**{**plain, **values})
