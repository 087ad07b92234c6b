"""Samples of appended networks' weights and of adversaries in turn: what BEAT's post-train strategy is fitted by."""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from funnybone.clips import Clips
from funnybone.defenses.base import Progress
from funnybone.defenses.joint_model import (
    Network,
    Replay,
    diverged,
    likely_motions,
    motion_score,
    neighbours,
    new_chains,
)
from funnybone.errors import DataError
from funnybone.models.weights import read_tensors, write_tensors
from funnybone.sampling import Chain, begin, move, normal_like, released
from funnybone.victims.averaged import Heads, combined, input_length, seen
from funnybone.victims.base import Victim

if TYPE_CHECKING:
    from funnybone.defenses.beat import BEAT

BATCH = {"cpu": 16, "cuda": 256}  # clips moved together; more at once are no faster on a processor


class Seen(NamedTuple):
    """What appended networks are shown of clips: their inputs, the base's logits, and the labels."""

    inputs: Float[Tensor, "N D"]
    logits: Float[Tensor, "N K"]
    labels: Int[Tensor, " N"]


class Round(BaseModel):
    """What is known after a round: the loss on clips that choose, where there are members and such clips."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    validation_loss: float | None
    validation_accuracy: float | None


class CheckpointRecord(BaseModel):
    """What a checkpoint is of, and how far it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: dict[str, Any]
    rounds: list[Round]


class Posterior:
    """Draws weights given adversaries and adversaries given weights, round by round.

    The base never changes, so what it shows of clean clips is asked once, and what it shows of adversaries and of the
    chains of p(x) when they are drawn: of those of a share of the clips in each round, one share after the other. All
    steps of the weights between are on these numbers alone and cost next to nothing.

    Parameters
    ----------
    settings : BEAT
        Weights, steps, samplers.
    base, source : Victim
        Who is hardened; and whose gradient is followed, None where there is none.
    clips, validation : Clips
        On the base's device.
    seed : int
        Determines everything. Each round has its own random numbers, so that only its number is needed to go on.
    """

    def __init__(
        self, settings: "BEAT", base: Victim, source: Victim | None, clips: Clips, validation: Clips | None, seed: int
    ) -> None:
        for part in (clips, validation):
            if part is not None and not len(part):
                raise DataError(f"defense beat: {part.name} has no clips", hint="give some to train on, and to choose")
        self.settings, self.base, self.source, self.seed = settings, base, source, seed
        self.clips, self.validation = clips, validation
        self.clean = self._shown(clips)
        self.chosen_by = self._shown(validation) if validation is not None else None
        self.heads = self._first()
        self.precision = _precision(self.heads, settings.prior)
        self.chain = begin(self.heads.flat())
        self.replay = Replay(
            settings.buffer, settings.anew, lambda count, chance: new_chains(clips, count, settings, chance)
        )
        self.moved = self.clean  # where there is an adversary, what is seen of it
        self.samples: list[Tensor] = []
        self.best = self.heads.flat()
        self.rounds: list[Round] = []

    def fit(self, progress: Progress | None = None, checkpoint: Path | None = None) -> Heads:
        """Return the members: the last samples of all chains at the round that the validation clips chose."""
        settings = self.settings
        if checkpoint and checkpoint.exists():
            self._resume(checkpoint)
        for number in range(len(self.rounds), settings.rounds):
            self._round(number, self._chance(1 + number))
            if checkpoint:
                self._save(checkpoint)
            if progress:
                burning = number < settings.burn_in
                progress(number + 1, settings.rounds, "burn-in" if burning else _said(self.rounds[-1]))
        return self.heads.filled(self.best)

    def margin(self, heads: Heads) -> float:
        """Return how far the members' mean logits have the best class before the second: the median over clips."""
        best = heads(self.clean.inputs, self.clean.logits).mean(0).topk(2).values
        return max(float((best[:, 0] - best[:, 1]).median()), 1e-6)

    def _round(self, number: int, generator: torch.Generator) -> None:
        settings = self.settings
        now = self.heads.filled(self.chain.position)
        adversaries = negatives = None
        if settings.adversary_weight:
            adversaries = self._renewed(now, number, generator)
        if settings.motion_weight:
            negatives = self.negatives(now, generator)
        burning = number < settings.burn_in
        for _ in range(settings.steps):
            self.chain = self._step(adversaries, negatives, burning, generator)
        if not torch.isfinite(self.chain.position).all():
            raise DataError(
                f"defense beat: weights are no longer finite in round {number + 1}",
                hint=f"lower step_size, now {settings.step_size:g}, or motion_weight, now {settings.motion_weight:g}",
            )
        if not burning and (number - settings.burn_in) % settings.thinning == 0:
            self.samples = [*self.samples, self.chain.position][-(settings.members // len(self.heads)) :]
            self._judge()
        else:
            self.rounds.append(Round(validation_loss=None, validation_accuracy=None))

    def _step(
        self, adversaries: Seen | None, negatives: Seen | None, burning: bool, generator: torch.Generator
    ) -> Chain:
        """One step of the weights of all members, each on clips of its own."""
        settings, clips = self.settings, len(self.clean.labels)
        size = (len(self.heads), settings.batch)
        rows = torch.randint(clips, size, generator=generator).to(self.base.device)
        if adversaries is not None:
            own = torch.randint(len(adversaries.labels), size, generator=generator).to(self.base.device)
            adversaries = Seen(*(part[own] for part in adversaries))
        flat = self.chain.position.detach().requires_grad_(True)
        with torch.enable_grad():
            heads = self.heads.filled(flat)
            loss = self._losses(heads, rows, adversaries, negatives)
            energy = clips * loss + (self.precision * flat.square()).sum(1) / 2
            (gradient,) = torch.autograd.grad(energy.sum(), flat)
        if settings.sampler == "released":
            position = released(flat.detach(), gradient / clips, step_size=settings.step_size, generator=generator)
            return self.chain._replace(position=position)
        return move(
            self.chain,
            gradient,
            step_size=settings.step_size,
            friction=settings.friction,
            adapt=burning,
            generator=generator,
        )

    def _losses(
        self, heads: Heads, rows: Int[Tensor, "S B"], adversaries: Seen | None, negatives: Seen | None
    ) -> Float[Tensor, " S"]:
        """The weighted terms of each member: labels of clean clips and of adversaries, and p(x) against its chains."""
        settings = self.settings
        logits = heads(self.clean.inputs[rows], self.clean.logits[rows])
        loss = settings.clean_weight * _cross_entropy(logits, self.clean.labels[rows])
        if adversaries is not None:
            moved = heads(adversaries.inputs, adversaries.logits)
            loss = loss + settings.adversary_weight * _cross_entropy(moved, adversaries.labels)
        if negatives is not None:
            scores = [motion_score(part, settings).mean(1) for part in (heads(*negatives[:2]), logits)]
            loss = loss + settings.motion_weight * (scores[0] - scores[1])
        return loss

    def _renewed(self, heads: Heads, number: int, generator: torch.Generator) -> Seen:
        """Draw adversaries of the next share of the clips; return all that there are, older ones among them."""
        count = math.ceil(self.settings.share * len(self.clips))
        order = torch.randperm(len(self.clips), generator=self._chance(2 + self.settings.rounds)).to(self.base.device)
        rows = order[(number * count + torch.arange(count, device=order.device)) % len(order)].sort().values
        drawn = self.adversaries(heads, self.clips[rows], number, generator)
        self.moved = Seen(*(old.index_copy(0, rows, new) for old, new in zip(self.moved, drawn, strict=True)))
        known = order[: (number + 1) * count]
        return Seen(*(part[known] for part in self.moved))

    def adversaries(self, heads: Heads, clips: Clips, turn: int, generator: torch.Generator) -> Seen:
        """Return what the base shows of one adversary of each clip, drawn from one member's conditional.

        The members take turns, so that all of them train on draws from the mixture. Clips of all members are moved
        together, in their own order: what is drawn for a clip does not hang on whom it follows.
        """
        member = self._turns(len(clips), heads, turn)
        parts = [
            neighbours(self._following(heads, member[rows]), clips[rows], self.settings, generator)
            for rows in torch.arange(len(clips)).split(self._batch)
        ]
        return self._usable(self._shown(clips.with_xyz(torch.cat(parts))))

    def negatives(self, heads: Heads, generator: torch.Generator) -> Seen:
        """Return what the base shows of the chains of p(x), each of which follows one member; they go on next time."""
        xyz, valid, rows = self.replay.take(self.settings.negatives, generator)
        member = self._turns(len(xyz), heads, 0)
        parts = [
            likely_motions(self._following(heads, member[own]), xyz[own], valid[own], self.settings, generator)
            for own in torch.arange(len(xyz)).split(self._batch)
        ]
        xyz = torch.cat(parts)
        self.replay.put(xyz, valid, rows)
        with torch.no_grad():
            inputs, logits = seen(self.base, xyz, self.settings.input)
        return self._usable(Seen(inputs, logits, torch.zeros(len(xyz), dtype=torch.long, device=xyz.device)))

    def _turns(self, count: int, heads: Heads, turn: int) -> Int[Tensor, " N"]:
        """Whom each of so many follows."""
        return ((torch.arange(count) + turn) % len(heads)).to(self.base.device)

    def _following(self, heads: Heads, member: Int[Tensor, " N"]) -> Network:
        """Logits of one member for each clip, where there is a gradient to follow: all in one pass of the base."""
        source, own = self.source, heads.of(member)
        assert source is not None
        return lambda xyz: own.apart(*seen(source, xyz, self.settings.input))

    def _usable(self, shown: Seen) -> Seen:
        """What the base shows of motions that were drawn, unless it is no numbers: so far away can a clip be."""
        if not (torch.isfinite(shown.inputs).all() and torch.isfinite(shown.logits).all()):
            raise diverged("what the victim shows of a clip that was drawn", self.settings)
        return shown

    @torch.no_grad()
    def _judge(self) -> None:
        """Keep the members of this round if the validation clips, clean and moved, like them best."""
        loss = accuracy = None
        members = torch.cat(self.samples)
        enough = len(members) == self.settings.members
        if self.chosen_by is not None and self.validation is not None and enough:
            heads = self.heads.filled(members)
            clean, accuracy = self._judged(heads, self.chosen_by)
            loss = self.settings.clean_weight * clean
            if self.settings.adversary_weight:
                # The same random numbers each time, so that rounds differ in their weights alone.
                moved = self.adversaries(heads, self.validation, 0, self._chance(0))
                loss += self.settings.adversary_weight * self._judged(heads, moved)[0]
            if not math.isfinite(loss):
                raise DataError(
                    f"defense beat: the validation loss is {loss} in round {len(self.rounds) + 1}",
                    hint=f"lower step_size, now {self.settings.step_size:g}, if the victim's own logits are finite",
                )
        lowest = min(
            (done.validation_loss for done in self.rounds if done.validation_loss is not None), default=math.inf
        )
        if enough and (loss is None or loss < lowest):
            self.best = members
        self.rounds.append(Round(validation_loss=loss, validation_accuracy=accuracy))

    def _judged(self, heads: Heads, shown: Seen) -> tuple[float, float]:
        """Loss and accuracy of the answer that the hardened victim will give; its noise is the same each time."""
        drawn = normal_like(shown.inputs, self._chance(1 + self.settings.rounds))
        noise = self.settings.noise * heads.spread * drawn
        members = heads(shown.inputs + noise, shown.logits)
        answer = combined(members, self.settings.answer, 1 / self.settings.members)
        right = (answer.argmax(1) == shown.labels).float().mean()
        return float(F.cross_entropy(answer, shown.labels)), float(right)

    @torch.no_grad()
    def _shown(self, clips: Clips) -> Seen:
        parts = [seen(self.base, part, self.settings.input) for part in clips.xyz.split(self._batch)]
        inputs, logits = (torch.cat(each).float() for each in zip(*parts, strict=True))
        return Seen(inputs, logits, clips.labels)

    @property
    def _batch(self) -> int:
        return BATCH.get(self.clips.xyz.device.type, 64)

    def _first(self) -> Heads:
        """The members before anything is known: they add nothing to the base, unless they are as released."""
        settings, classes = self.settings, len(self.base.classes)
        heads = Heads.draw(
            settings.chains or settings.members,
            input_length(self.base, settings.input),
            settings.hidden or classes,
            classes,
            scale=float(settings.rectified),
            rectified=settings.rectified,
            generator=self._chance(0),
        )
        if settings.rectified:
            return heads.to(self.base.device)
        spread = self.clean.inputs.std(0)
        # What hardly ever moves must not count for more than the rest as soon as an attack moves it.
        spread = spread.clamp(min=max(0.1 * float(spread.mean()), 1e-6))
        return heads.to(self.base.device).changed({"centre": self.clean.inputs.mean(0), "spread": spread})

    def _chance(self, stage: int) -> torch.Generator:
        own = np.random.SeedSequence([self.seed, stage]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(own >> 1))

    def _run(self) -> dict[str, Any]:
        """All that determines the weights."""
        parts = [part for part in (self.clips, self.validation) if part is not None]
        content = "".join(name for part in parts for name in part.fingerprints())
        return {
            "settings": self.settings.settings(),
            "victim": self.base.fingerprint,
            "source": self.source.fingerprint if self.source else None,
            "data": hashlib.sha256(content.encode()).hexdigest(),
            "seed": self.seed,
        }

    def _save(self, path: Path) -> None:
        tensors = {f"chain.{name}": value for name, value in self.chain._asdict().items()}
        tensors |= {"replay.xyz": self.replay.xyz, "replay.valid": self.replay.valid, "best": self.best}
        tensors |= {"moved.inputs": self.moved.inputs, "moved.logits": self.moved.logits}
        tensors |= {f"samples.{index}": sample for index, sample in enumerate(self.samples)}
        stored = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        write_tensors(path, stored, CheckpointRecord(run=self._run(), rounds=self.rounds))

    def _resume(self, path: Path) -> None:
        mend = f"remove {path} to begin anew"
        found, tensors = read_tensors(path, CheckpointRecord, mend)
        wanted = self._run()
        other = [name for name in wanted if found.run.get(name) != wanted[name]]
        if other:
            raise DataError(f"{path}: a checkpoint of another fit: {', '.join(other)} differ", hint=mend)
        try:
            tensors = {key: value.to(self.base.device) for key, value in tensors.items()}
            self.chain = Chain(**{name: tensors[f"chain.{name}"] for name in Chain._fields})
            self.replay.xyz, self.replay.valid = tensors["replay.xyz"], tensors["replay.valid"]
            self.moved = self.clean._replace(inputs=tensors["moved.inputs"], logits=tensors["moved.logits"])
            kept = sum(key.startswith("samples.") for key in tensors)
            self.samples = [tensors[f"samples.{index}"] for index in range(kept)]
            self.best = tensors["best"]
        except KeyError as error:
            raise DataError(f"{path}: a damaged checkpoint: {error} is missing", hint=mend) from None
        weights, shown = self.heads.flat().shape, self.clean.inputs.shape
        if self.best.shape[1:] != weights[1:] or self.chain.position.shape != weights or self.moved[0].shape != shown:
            raise DataError(f"{path}: a damaged checkpoint: weights of other networks", hint=mend)
        self.rounds = found.rounds


def _cross_entropy(logits: Float[Tensor, "S B K"], labels: Int[Tensor, "S B"]) -> Float[Tensor, " S"]:
    """The mean of each member over its own clips."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)


def _precision(heads: Heads, prior: float | None) -> Float[Tensor, " P"]:
    """One over the prior's variance, for each weight: ``prior^2`` over the number of inputs of its layer."""
    if prior is None:
        return torch.zeros_like(heads.flat()[0])
    inputs = {"weight1": heads.weight1.shape[1], "weight2": heads.weight2.shape[1], "bias1": 1, "bias2": 1}
    parts = {name: torch.full_like(getattr(heads, name), count / prior**2) for name, count in inputs.items()}
    return heads.changed(parts).flat()[0]


def _said(done: Round) -> str:
    if done.validation_loss is None or done.validation_accuracy is None:
        return "sampled"
    return f"validation loss {done.validation_loss:.3f}, accuracy {done.validation_accuracy:.3f}"
