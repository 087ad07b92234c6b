"""Checkpoints of a training: all that is needed to end with the weights of one that was never interrupted."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    """What changes while a network trains: ``best`` are the weights to keep, ``memory`` is the method's own."""

    module: Model
    objective: Objective
    optimiser: torch.optim.Optimizer
    best: dict[str, Tensor]
    epochs: list[Epoch]
    memory: dict[str, Tensor]


def checkpoint_of(path: Path, stream: str) -> Path:
    """Where the network of one stream has its checkpoint.

    Examples
    --------
    >>> checkpoint_of(Path("out.safetensors.partial"), "bone").name
    'out.safetensors.bone.partial'
    """
    return path if stream == "joint" else path.with_suffix(f".{stream}{path.suffix}")


def save(path: Path, record: WeightsRecord, state: State, memories: Sequence[Mapping[str, Tensor]]) -> None:
    """Write a checkpoint; a reader sees the old one or the whole new one.

    ``memories`` is what each process remembers, by rank: its own, which those of another process cannot replace.
    """
    parts = {"model": state.module.state_dict(), "objective": state.objective.state_dict(), "best": state.best}
    tensors = {f"{part}.{key}": value for part, found in parts.items() for key, value in found.items()}
    for index, own in state.optimiser.state_dict()["state"].items():
        kept = {key: value for key, value in own.items() if isinstance(value, Tensor)}
        tensors |= {f"optimiser.{index}.{key}": value for key, value in kept.items()}
    for rank, memory in enumerate(memories):
        tensors |= {f"memory.{rank}.{key}": value for key, value in memory.items()}
    stored = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_tensors(path, stored, CheckpointRecord(run=_run(record), epochs=state.epochs))


def resume(path: Path, record: WeightsRecord, state: State, room: Mapping[str, Tensor], rank: int) -> None:
    """Fill a fresh state from a checkpoint of this very run; the memory with that of the process of this rank.

    ``room`` says what the memory may be: see `Method.room`.

    Raises
    ------
    DataError
        For a file that is damaged, the checkpoint of another training, and one of before memories were kept.
    """
    mend = f"remove {path} to train from the start, or choose another --out"
    found, tensors = read_tensors(path, CheckpointRecord, mend)
    wanted = _run(record)
    other = [name for name in wanted if found.run.get(name) != wanted[name]]
    if other:
        raise DataError(f"{path}: a checkpoint of another training: {', '.join(other)} differ", hint=mend)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "objective": {}, "best": {}, "optimiser": {}, "memory": {}}
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
        memory = {
            key.removeprefix(f"{rank}."): value for key, value in parts["memory"].items() if key.startswith(f"{rank}.")
        }
        _check_memory(memory, room)
    except (KeyError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: a damaged checkpoint: {str(error).splitlines()[0]}", hint=mend) from None
    state.best.update(parts["best"])
    state.epochs.extend(found.epochs)
    device = next(state.module.parameters()).device
    state.memory.update({key: value.to(device) for key, value in memory.items()})


def _check_memory(found: Mapping[str, Tensor], room: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless what was remembered fits in the room for it, with as many rows of each, and is finite."""
    if found.keys() != room.keys():
        missing, other = sorted(room.keys() - found.keys()), sorted(found.keys() - room.keys())
        said = (
            f"{', '.join(missing)} missing, as in files of older versions"
            if missing
            else f"{', '.join(other)} not of this training"
        )
        raise ValueError(f"what is remembered from batch to batch: {said}")
    if len({len(value) for value in found.values() if value.ndim}) > 1:
        raise ValueError("what is remembered from batch to batch is not of one length")
    for key, most in room.items():
        value = found[key]
        if value.dtype != most.dtype or value.ndim != most.ndim or value.shape[1:] != most.shape[1:]:
            raise ValueError(f"memory {key!r} is {value.dtype} {tuple(value.shape)}, not {tuple(most.shape)}")
        if len(value) > len(most):
            raise ValueError(f"memory {key!r} has {len(value)} rows, at most {len(most)} fit")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"memory {key!r} holds NaN or infinity")


def _run(record: WeightsRecord) -> dict[str, Any]:
    """All that determines the weights, with precision, number of processes and defense, as JSON gives it back."""
    return json.loads(record.model_dump_json(exclude={"accuracy", "licence", "sha256"}))
