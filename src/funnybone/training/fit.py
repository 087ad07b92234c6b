"""Train a victim, from scratch or from trained weights: deterministic, and resumed after a kill to the same weights."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.models import Fused, Model, Preprocess, Recipe, WeightsRecord, check_streams, recipe_for, shown
from funnybone.models.layers import present_of
from funnybone.models.recipe import settings_of
from funnybone.models.registry import option_names
from funnybone.models.streams import fusion_weights
from funnybone.models.weights import DataRecord, SelectionRecord, SkeletonRecord, digest
from funnybone.training import checkpoint as checkpoints
from funnybone.training.augment import varied
from funnybone.training.checkpoint import State
from funnybone.training.curves import Epoch, best_of
from funnybone.training.hardware import Plain
from funnybone.training.measure import Measured, hold_out, measure
from funnybone.training.method import Batch, Method
from funnybone.training.step import one_step, optimiser_of, own_share


class Progress(NamedTuple):
    """Where a training is; handed to the progress callback after each batch. ``last`` is the epoch before."""

    stream: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    last: Epoch | None


class Trained(NamedTuple):
    """A trained network in evaluation mode, its record (without accuracy), and the epochs of each stream."""

    module: Model
    record: WeightsRecord
    curves: dict[str, list[Epoch]]


def train(
    model: str,
    clips: Clips,
    *,
    recipe: Recipe | None = None,
    preprocess: Preprocess | None = None,
    options: Mapping[str, Any] | None = None,
    streams: Sequence[str] = ("joint",),
    fusion: Sequence[float] | None = None,
    validation: Clips | None = None,
    seed: int = 0,
    device: torch.device | str | Plain = "cpu",
    split: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    start: Mapping[str, Tensor] | None = None,
    method: Method | None = None,
    fronts: Sequence[Callable[[Tensor], Tensor]] = (),
) -> Trained:
    """Train a network on clips, or one for each stream.

    The weights kept are those of the epoch with the lowest loss on a validation part of these clips, of those in which
    the network learned to classify (see `Objective.judged_from`); where the recipe holds out nothing, those of the last
    epoch. No test set chooses anything.

    Parameters
    ----------
    model : str
        Name in the registry of models.
    clips : Clips
        The training part, already of the wanted number of frames.
    recipe : Recipe, optional
        How; by default the family's own, `funnybone.models.recipe_for`.
    preprocess : Preprocess, optional
        What the victim does to positions first; by default the recipe's, and the mean of each clip at the origin.
    options : mapping, optional
        The model's own options, in place of the recipe's.
    streams : sequence of str
        ``joint``, ``bone``, ``joint_motion``, ``bone_motion``: a network is trained on each, apart.
    fusion : sequence of float, optional
        Weights of the streams' logits in the sum; all one by default.
    validation : Clips, optional
        Clips that choose the epoch, in place of the recipe's share of the training clips.
    seed : int
        Determines initial weights, order, turns, dropout and what is held out. The global random state is left as it
        was.
    device : torch.device, str, or what `funnybone.training.hardware` returned
        Where to train; the result is on the CPU.
    split : str, optional
        The name of this part of the data, for the record.
    progress : callable, optional
        Called with a `Progress` after each batch.
    checkpoint : Path, optional
        Written after each epoch, and resumed from when it is there. A resumed training ends with the same weights on
        the same machine: what a method remembers from batch to batch is in it too, of every process. Streams beside
        ``joint`` have their own, with the stream's name behind it.
    start : mapping of str to Tensor, optional
        Weights to begin from, of a network with the same options and streams; fresh ones by default. Networks of
        several streams are then trained as the one that answers, and an objective has its first stage behind it.
    method : Method, optional
        What is done with a batch, and what epochs are judged by; plain training by default.
    fronts : sequence of callable
        What is done to positions before the preprocessing, such as filters, in this order. The record says it of what
        hardened the network, as their ``repr``.

    Raises
    ------
    DataError
        For streams or fusion weights that do not fit, before anything is trained; for a checkpoint of another model,
        recipe, seed, data, precision or number of processes; and when the loss is no longer finite.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> xyz = torch.randn(4, 1, 8, 17, 3, generator=torch.Generator().manual_seed(0))
    >>> clips = Clips(xyz, torch.ones(4, 1, 8, dtype=torch.bool), torch.tensor([0, 1, 0, 1]), ("walk", "run"), COCO17,
    ...               torch.full((4,), 30.0), ("a", "b", "c", "d"))
    >>> module, record, curves = train("stgcn", clips, recipe=Recipe(epochs=2, batch=4), options={"width": 4})
    >>> len(curves["joint"]), record.classes
    (2, ('walk', 'run'))
    """
    check_streams(streams)
    weights = fusion_weights(streams, fusion)
    recipe = recipe or recipe_for(model)
    preprocess = preprocess or Preprocess.of(clips.skeleton, up=clips.up, **recipe.preprocess)
    dropout = {"dropout": recipe.dropout} if "dropout" in option_names(model) else {}
    place = device if isinstance(device, Plain) else Plain(device)
    options = {**dropout, **recipe.options, **(options or {})}
    method = method or Method()
    record = _record(model, clips, recipe, preprocess, options, seed, split, place)
    began = digest({key: value.detach().cpu() for key, value in start.items()}) if start is not None else None
    said = method.describe()
    if fronts:
        said = {**(said or {}), "fronts": [repr(front) for front in fronts]}
    record = record.model_copy(update={"start": began, "defense": said})
    if validation is None and recipe.validation:
        clips, validation = hold_out(clips, recipe.validation, seed)
    if validation is not None:
        selection = SelectionRecord(n=len(validation), sha256=content_of(validation))
        record = record.model_copy(update={"selection": selection})
    networks: dict[str, Model] = {}
    curves: dict[str, list[Epoch]] = {}
    whole = {"streams": tuple(streams), "fusion": weights}
    tasks = {stream: record.model_copy(update={"streams": (stream,)}) for stream in streams}
    if start is not None:  # the network that answers is shown joints, and makes of them what streams it has
        tasks = {"joint": record.model_copy(update=whole)}
    for stream, task in tasks.items():
        networks[stream], curves[stream] = _fit(
            task,
            _Showing((*fronts, preprocess), stream, clips),
            (clips, validation),
            recipe,
            method,
            place,
            progress,
            checkpoints.checkpoint_of(checkpoint, stream) if checkpoint else None,
            start,
        )
    if record.selection is not None:
        kept = {stream: best_of(epochs).epoch for stream, epochs in curves.items()}
        record = record.model_copy(update={"selection": record.selection.model_copy(update={"epochs": kept})})
    module = networks["joint"] if tuple(networks) == ("joint",) else Fused(networks, weights).eval()
    return Trained(module, record.model_copy(update=whole), curves)


class _Showing:
    """What a network is shown of positions: preprocessed, then of one stream."""

    def __init__(self, steps: Sequence[Callable[[Tensor], Tensor]], stream: str, clips: Clips) -> None:
        self.steps, self.stream, self.skeleton = steps, stream, clips.skeleton

    def preprocess(self, xyz: Tensor) -> Tensor:
        """What is done to positions, one step after the other."""
        for step in self.steps:
            xyz = step(xyz)
        return xyz

    def __call__(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        """What of each clip is shown, and who is there when: a stream of motion does not tell who stands still."""
        positions = self.preprocess(xyz)
        return shown(self.stream, positions, self.skeleton), present_of(positions)

    def answering(self, module: Model) -> Model:
        """The network as it answers to preprocessed positions."""
        return module if self.stream == "joint" else Fused({self.stream: module})


def _fit(
    record: WeightsRecord,
    show: _Showing,
    parts: tuple[Clips, Clips | None],
    recipe: Recipe,
    method: Method,
    place: Plain,
    progress: Callable[[Progress], None] | None,
    checkpoint: Path | None,
    start: Mapping[str, Tensor] | None,
) -> tuple[Model, list[Epoch]]:
    """Train one network; return it with the weights to keep, and its epochs."""
    seed, device = record.seed or 0, place.device
    clips, validation = parts[0].to(device), parts[1]
    with _seeded(seed, 0, device):
        module = record.network() if start is None else record.build()
        if start is not None:
            module.load_state_dict(start)
        module = module.to(device).train()
        method.prepare(module)
        objective = module.objective(recipe.label_smoothing).to(device).train()
    state = State(module, objective, optimiser_of(module, objective, recipe), {}, [], {})
    room = method.room(clips, recipe.batch)
    if checkpoint and checkpoint.exists():
        checkpoints.resume(checkpoint, record, state, room, place.rank)
    epochs = recipe.epochs_for(len(clips))
    begun = 0.0 if start is None else objective.judged_from  # what comes before, trained weights have behind them
    for epoch in range(len(state.epochs), epochs):
        if _impatient(state.epochs, recipe.patience):
            break
        total = 0.0
        with _seeded(seed, 1 + epoch, device) as generator:
            batches = _batches(len(clips), recipe.batch, generator)
            # Which clips stand in a batch, and how they are varied, all processes draw alike; what a method does with
            # its share of them each draws by itself.
            apart = generator if place.ranks == 1 else _generator(seed, 1 + epoch, place.rank)
            for index, rows in enumerate(batches):
                step, steps = epoch * len(batches) + index, epochs * len(batches)
                for group in state.optimiser.param_groups:
                    group["lr"] = recipe.learning_rate((step + 0.5) / steps)
                taken = _varied(method.taken(clips[rows], generator), recipe, generator)
                own, share = own_share(taken, place)
                through = begun + (1 - begun) * (step + 0.5) / steps
                batch = Batch(own, module, show, objective, through, apart, state.memory)
                try:
                    for _ in range(method.replays):
                        loss = one_step(state, batch, method, recipe, place, share)
                except DataError:
                    _forget(checkpoint, place)
                    raise
                if not math.isfinite(loss):
                    _forget(checkpoint, place)
                    raise DataError(
                        f"training {record.model}: the loss is {loss} in epoch {epoch + 1}, step {step + 1} of {steps}",
                        hint=f"it diverged; lower the learning rate (--lr), now {recipe.max_lr:g}",
                    )
                total += loss * len(rows)
                if progress:
                    last = state.epochs[-1] if state.epochs else None
                    progress(Progress(show.stream, epoch, epochs, step + 1, steps, loss, last))
        found = None
        if validation is not None and begun + (1 - begun) * (epoch + 1) / epochs > objective.judged_from:
            found = _judged(state, validation, method, show, seed)
        done = Epoch(
            epoch=epoch + 1,
            learning_rate=recipe.learning_rate((epoch + 1) / epochs),
            loss=total / len(clips),
            validation_loss=found.loss if found else None,
            validation_accuracy=found.accuracy if found else None,
        )
        state.epochs.append(done)
        if best_of(state.epochs) is done:
            state.best.update({key: value.detach().cpu().clone() for key, value in module.state_dict().items()})
        if checkpoint:
            memories = place.gathered(state.memory) if room or state.memory else []  # each process has its own
            if place.rank == 0:
                checkpoints.save(checkpoint, record, state, memories)
        place.wait()
    module.load_state_dict(state.best)
    return module.cpu().eval(), state.epochs


def _forget(checkpoint: Path | None, place: Plain) -> None:
    """Remove the checkpoint of what diverged: it would lead there again, and stand in another recipe's way."""
    if checkpoint and place.rank == 0:
        checkpoint.unlink(missing_ok=True)


def _impatient(epochs: Sequence[Epoch], patience: int | None) -> bool:
    """Whether it is too long since the validation loss last fell."""
    return bool(epochs) and patience is not None and len(epochs) - best_of(epochs).epoch >= patience


def _varied(clips: Clips, recipe: Recipe, generator: torch.Generator) -> Clips:
    """Clips as the recipe varies them. Whoever has joints in a frame of a clip that was cut in time is there."""
    xyz = varied(clips.xyz, recipe, clips.up, clips.skeleton, generator)
    return clips._with(xyz=xyz, valid=clips.valid if recipe.crop == 1 else present_of(xyz))


def _judged(state: State, validation: Clips, method: Method, show: _Showing, seed: int) -> Measured:
    """Validation figures on what the method judges by, with the same random numbers after each epoch."""
    generator = torch.Generator().manual_seed(seed)

    def moved(part: Clips) -> Tensor:
        return method.judged_on(Batch(part, state.module, show, state.objective, 1.0, generator, {}))

    return measure(show.answering(state.module), validation, show.preprocess, moved=moved)


def _batches(clips: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A random order, cut into parts of nearly one size: batch norm cannot learn from a last batch of one clip."""
    return torch.randperm(clips, generator=generator).tensor_split(math.ceil(clips / batch))


@contextmanager
def _seeded(seed: int, stage: int, device: torch.device | str) -> Iterator[torch.Generator]:
    """Random numbers of one stage: a generator, and the global state for initialisers and dropout, restored after.

    Each epoch has its own, so that nothing but its number is needed to resume.
    """
    generator = _generator(seed, stage)
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(generator.initial_seed())
        yield generator


def _generator(*entropy: int) -> torch.Generator:
    drawn = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(drawn >> 1))


def _record(
    model: str,
    clips: Clips,
    recipe: Recipe,
    preprocess: Preprocess,
    options: Mapping[str, Any],
    seed: int,
    split: str | None,
    place: Plain,
) -> WeightsRecord:
    if len(clips) < 2:
        raise DataError(f"{clips.name}: {len(clips)} clips to train on", hint="give at least 2")
    _, persons, frames, _, channels = clips.xyz.shape
    data = DataRecord(name=clips.name, split=split, n=len(clips), synthetic=clips.synthetic, sha256=content_of(clips))
    return WeightsRecord(
        model=model,
        options={"persons": persons, "frames": frames, "in_channels": channels, **options},
        skeleton=SkeletonRecord.of(clips.skeleton),
        classes=clips.classes,
        up=clips.up,
        unit=clips.unit,
        preprocess=preprocess.to_dict(),
        data=data,
        recipe=settings_of(recipe),
        seed=seed,
        precision=place.precision,
        processes=place.ranks,
    )


def content_of(clips: Clips) -> str:
    """Hash of all clips."""
    return hashlib.sha256("".join(clips.fingerprints()).encode()).hexdigest()
