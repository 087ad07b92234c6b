"""Checkpoints of a training: all that is needed to end with the weights of one that was never interrupted."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models import Model, WeightsRecord
from funnybone.models.objective import Objective
from funnybone.models.weights import read_tensors, write_tensors
from funnybone.training.curves import Epoch


class CheckpointRecord(BaseModel):
    """What a checkpoint is of, and how far it is: an entry of ``epochs`` for each finished one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: dict[str, Any]
    epochs: list[Epoch]


class State(NamedTuple):
    """What changes while a network trains; ``best`` are the weights to keep."""

    module: Model
    objective: Objective
    optimiser: torch.optim.Optimizer
    best: dict[str, Tensor]
    epochs: list[Epoch]


def checkpoint_of(path: Path, stream: str) -> Path:
    """Where the network of one stream has its checkpoint.

    Examples
    --------
    >>> checkpoint_of(Path("out.safetensors.partial"), "bone").name
    'out.safetensors.bone.partial'
    """
    return path if stream == "joint" else path.with_suffix(f".{stream}{path.suffix}")


def save(path: Path, record: WeightsRecord, state: State) -> None:
    """Write a checkpoint; a reader sees the old one or the whole new one."""
    parts = {"model": state.module.state_dict(), "objective": state.objective.state_dict(), "best": state.best}
    tensors = {f"{part}.{key}": value for part, found in parts.items() for key, value in found.items()}
    for index, own in state.optimiser.state_dict()["state"].items():
        kept = {key: value for key, value in own.items() if isinstance(value, Tensor)}
        tensors |= {f"optimiser.{index}.{key}": value for key, value in kept.items()}
    stored = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_tensors(path, stored, CheckpointRecord(run=_run(record), epochs=state.epochs))


def resume(path: Path, record: WeightsRecord, state: State) -> None:
    """Fill a fresh state from a checkpoint of this very run.

    Raises
    ------
    DataError
        For a file that is damaged, or the checkpoint of another training.
    """
    mend = f"remove {path} to train from the start, or choose another --out"
    found, tensors = read_tensors(path, CheckpointRecord, mend)
    wanted = _run(record)
    other = [name for name in wanted if found.run.get(name) != wanted[name]]
    if other:
        raise DataError(f"{path}: a checkpoint of another training: {', '.join(other)} differ", hint=mend)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "objective": {}, "best": {}, "optimiser": {}}
    optimiser: dict[int, dict[str, Tensor]] = defaultdict(dict)
    try:
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = value
        for key, value in parts["optimiser"].items():
            index, _, name = key.partition(".")
            optimiser[int(index)][name] = value
        state.module.load_state_dict(parts["model"])
        state.objective.load_state_dict(parts["objective"])
        groups = state.optimiser.state_dict()["param_groups"]
        state.optimiser.load_state_dict({"state": dict(optimiser), "param_groups": groups})
        own = state.module.state_dict()
        if parts["best"].keys() != own.keys() or any(parts["best"][key].shape != own[key].shape for key in own):
            raise ValueError("the best weights are not those of the network")
    except (KeyError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: a damaged checkpoint: {str(error).splitlines()[0]}", hint=mend) from None
    state.best.update(parts["best"])
    state.epochs.extend(found.epochs)


def _run(record: WeightsRecord) -> dict[str, Any]:
    """All that determines the weights, with precision, number of processes and defense, as JSON gives it back."""
    return json.loads(record.model_dump_json(exclude={"accuracy", "licence", "sha256"}))
