"""Train a victim from scratch: deterministic, and resumed after a kill to the same weights."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.intervals import wilson
from funnybone.models import Model, Preprocess, Recipe, WeightsRecord, models
from funnybone.models.registry import option_names
from funnybone.models.weights import AccuracyRecord, DataRecord, SkeletonRecord, read_tensors, write_tensors

_HORIZONTAL = {"x": (1, 2), "y": (0, 2), "z": (0, 1)}


class Progress(NamedTuple):
    """Where a training is; handed to the progress callback after each optimiser step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


class Trained(NamedTuple):
    """A trained network in evaluation mode, its record (without accuracy) and the mean loss of each epoch."""

    module: Model
    record: WeightsRecord
    losses: list[float]


class CheckpointRecord(BaseModel):
    """What a checkpoint is of, and how far it is: an entry of ``losses`` for each finished epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: dict[str, Any]
    losses: list[float]


def train(
    model: str,
    clips: Clips,
    *,
    recipe: Recipe | None = None,
    preprocess: Preprocess | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    split: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train a network on clips. The weights are those of the last epoch: no test set chooses anything.

    Parameters
    ----------
    model : str
        Name in the registry of models.
    clips : Clips
        The training part, already of the wanted number of frames.
    recipe : Recipe, optional
        How; by default the model's own ``recipe``.
    preprocess : Preprocess, optional
        What the victim does to positions first; by default the mean of each clip is moved to the origin.
    options : mapping, optional
        The model's own options.
    seed : int
        Determines initial weights, order, turns and dropout. The global random state is left as it was.
    device : torch.device or str
        Where to train; the result is on the CPU.
    split : str, optional
        The name of this part of the data, for the record.
    progress : callable, optional
        Called with a `Progress` after each optimiser step.
    checkpoint : Path, optional
        Written after each epoch, and resumed from when it is there. A resumed training ends with the same weights on
        the same machine.

    Raises
    ------
    DataError
        For a checkpoint of another model, recipe, seed or data, and when the loss is no longer finite.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> xyz = torch.randn(4, 1, 8, 17, 3, generator=torch.Generator().manual_seed(0))
    >>> clips = Clips(xyz, torch.ones(4, 1, 8, dtype=torch.bool), torch.tensor([0, 1, 0, 1]), ("walk", "run"), COCO17,
    ...               torch.full((4,), 30.0), ("a", "b", "c", "d"))
    >>> module, record, losses = train("stgcn", clips, recipe=Recipe(epochs=2, batch=4), options={"width": 4})
    >>> len(losses), record.classes
    (2, ('walk', 'run'))
    """
    recipe = recipe or models[model].recipe
    preprocess = preprocess or Preprocess.of(clips.skeleton, up=clips.up)
    dropout = {"dropout": recipe.dropout} if "dropout" in option_names(model) else {}
    record = _record(model, clips, recipe, preprocess, {**dropout, **(options or {})}, seed, split)
    with _seeded(seed, 0, device):
        module = record.build().to(device).train()
    optimiser = torch.optim.AdamW(_groups(module, recipe.weight_decay), lr=recipe.max_lr)
    losses = _resume(checkpoint, record, module, optimiser) if checkpoint and checkpoint.exists() else []
    clips, epochs = clips.to(device), recipe.epochs_for(len(clips))
    for epoch in range(len(losses), epochs):
        total = 0.0
        with _seeded(seed, 1 + epoch, device) as generator:
            batches = _batches(len(clips), recipe.batch, generator)
            for index, rows in enumerate(batches):
                step, steps = epoch * len(batches) + index, epochs * len(batches)
                for group in optimiser.param_groups:
                    group["lr"] = recipe.learning_rate((step + 0.5) / steps)
                loss = _step(module, optimiser, clips[rows], recipe, preprocess, generator)
                if not math.isfinite(loss):
                    if checkpoint:  # it would lead here again, and stand in the way of another recipe
                        checkpoint.unlink(missing_ok=True)
                    raise DataError(
                        f"training {model}: the loss is {loss} in epoch {epoch + 1}, step {step + 1} of {steps}",
                        hint=f"it diverged; lower the learning rate (--lr), now {recipe.max_lr:g}",
                    )
                total += loss * len(rows)
                if progress:
                    progress(Progress(epoch, epochs, step + 1, steps, loss))
        losses.append(total / len(clips))
        if checkpoint:
            _save(checkpoint, record, module, optimiser, losses)
    return Trained(module.cpu().eval(), record, losses)


def evaluate(
    module: nn.Module,
    clips: Clips,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    *,
    batch: int = 64,
    split: str | None = None,
) -> AccuracyRecord:
    """Accuracy of a network on clips, in float32, where the network lies.

    Raises
    ------
    DataError
        When a logit is not finite: the largest of such answers says nothing.

    Examples
    --------
    >>> from funnybone.models import create
    >>> from funnybone.skeletons import COCO17
    >>> clips = Clips(torch.ones(2, 1, 8, 17, 3), torch.ones(2, 1, 8, dtype=torch.bool), torch.tensor([0, 1]),
    ...               ("walk", "run"), COCO17, torch.full((2,), 30.0), ("a", "b"))
    >>> evaluate(create("stgcn", skeleton=COCO17, num_classes=2, persons=1, width=4), clips).value
    0.5
    """
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            parts = (part.to(device, torch.float32) for part in clips.xyz.split(batch))
            logits = torch.cat([module(preprocess(part) if preprocess else part).cpu() for part in parts])
    finally:
        module.train(training)
    wrong = ~torch.isfinite(logits).all(1)
    if wrong.any():
        raise DataError(
            f"{clips.name}: the network answers NaN or infinity to {int(wrong.sum())} of {len(clips)} clips, "
            f"first {clips.ids[int(wrong.nonzero()[0])]}",
            hint="the training diverged; lower the learning rate (--lr)",
        )
    right = int((logits.argmax(1) == clips.labels.cpu()).sum())
    interval = wilson(right, len(clips)) or (0.0, 1.0)
    return AccuracyRecord(value=right / len(clips), ci95=interval, n=len(clips), split=split)


def _step(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    clips: Clips,
    recipe: Recipe,
    preprocess: Preprocess,
    generator: torch.Generator,
) -> float:
    """One optimiser step; return its loss."""
    logits = module(preprocess(_varied(clips.xyz, recipe, clips.up, generator)))
    loss = F.cross_entropy(logits, clips.labels, label_smoothing=recipe.label_smoothing)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def _varied(
    xyz: Float[Tensor, "N M T V C"], recipe: Recipe, up: str, generator: torch.Generator
) -> Float[Tensor, "N M T V C"]:
    """Each clip turned about the vertical and changed in size, as if seen from elsewhere and done by another person."""
    draws = 2 * torch.rand(2, len(xyz), 1, 1, 1, generator=generator).to(xyz.device) - 1
    xyz = xyz * (1 + recipe.scale * draws[0, ..., None])
    if xyz.shape[-1] != 3:
        return xyz
    a, b = _HORIZONTAL[up]
    cos, sin = torch.cos(recipe.rotation * draws[1]), torch.sin(recipe.rotation * draws[1])
    axes = list(xyz.unbind(-1))
    axes[a], axes[b] = cos * axes[a] - sin * axes[b], sin * axes[a] + cos * axes[b]
    return torch.stack(axes, -1)


def _batches(clips: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A random order, cut into parts of nearly one size: batch norm cannot learn from a last batch of one clip."""
    return torch.randperm(clips, generator=generator).tensor_split(math.ceil(clips / batch))


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that decay, the matrices and convolutions, and those that do not."""
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        decays[parameter.ndim > 1 and "weight" in name.rpartition(".")[2]].append(parameter)
    return [{"params": decays[True], "weight_decay": weight_decay}, {"params": decays[False], "weight_decay": 0.0}]


@contextmanager
def _seeded(seed: int, stage: int, device: torch.device | str) -> Iterator[torch.Generator]:
    """Random numbers of one stage: a generator, and the global state for initialisers and dropout, restored after.

    Each epoch has its own, so that nothing but its number is needed to resume.
    """
    own = int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint64)[0] >> 1)
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(own)
        yield torch.Generator().manual_seed(own)


def _record(
    model: str,
    clips: Clips,
    recipe: Recipe,
    preprocess: Preprocess,
    options: Mapping[str, Any],
    seed: int,
    split: str | None,
) -> WeightsRecord:
    if len(clips) < 2:
        raise DataError(f"{clips.name}: {len(clips)} clips to train on", hint="give at least 2")
    _, persons, frames, _, channels = clips.xyz.shape
    content = hashlib.sha256("".join(clips.fingerprints()).encode()).hexdigest()
    return WeightsRecord(
        model=model,
        options={"persons": persons, "frames": frames, "in_channels": channels, **options},
        skeleton=SkeletonRecord.of(clips.skeleton),
        classes=clips.classes,
        up=clips.up,
        unit=clips.unit,
        preprocess=preprocess.to_dict(),
        data=DataRecord(name=clips.name, split=split, n=len(clips), synthetic=clips.synthetic, sha256=content),
        recipe=asdict(recipe),
        seed=seed,
    )


def _run(record: WeightsRecord) -> dict[str, Any]:
    """All that determines the weights, as JSON gives it back."""
    return json.loads(record.model_dump_json(exclude={"accuracy", "licence", "defense", "sha256"}))


def _save(
    path: Path, record: WeightsRecord, module: nn.Module, optimiser: torch.optim.Optimizer, losses: list[float]
) -> None:
    tensors = {f"model.{key}": value for key, value in module.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items()}
    stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_tensors(path, stored, CheckpointRecord(run=_run(record), losses=losses))


def _resume(path: Path, record: WeightsRecord, module: nn.Module, optimiser: torch.optim.Optimizer) -> list[float]:
    """Load a checkpoint of this very run into the network and the optimiser; return the losses so far."""
    mend = f"remove {path} to train from the start, or choose another --out"
    found, tensors = read_tensors(path, CheckpointRecord, mend)
    wanted = _run(record)
    other = [name for name in wanted if found.run.get(name) != wanted[name]]
    if other:
        raise DataError(f"{path}: a checkpoint of another training: {', '.join(other)} differ", hint=mend)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}}
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    try:
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = value
        for key, value in parts["optimiser"].items():
            index, _, name = key.partition(".")
            state[int(index)][name] = value
        module.load_state_dict(parts["model"])
        optimiser.load_state_dict({"state": dict(state), "param_groups": optimiser.state_dict()["param_groups"]})
    except (KeyError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: a damaged checkpoint: {str(error).splitlines()[0]}", hint=mend) from None
    return list(found.losses)
