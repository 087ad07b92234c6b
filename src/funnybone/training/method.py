"""What a network is trained to do with a batch: the one place where trainings that harden differ from plain ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from funnybone.clips import Clips
from funnybone.models.objective import Objective
from funnybone.models.registry import Model


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips in metres, and the network in training as it meets them.

    Attributes
    ----------
    clips : Clips
        Positions before the victim's preprocessing, already varied as the recipe wants; validity, labels, frame rates.
    module : torch.nn.Module
        The network, on the clips' device. In training mode, but for the clips that epochs are judged by.
    show : callable
        Preprocesses positions and makes a stream of them: what the network is shown, and who is there when.
    objective : Objective
        The family's own loss.
    progress : float
        Share of the training's steps that is done.
    generator : torch.Generator
        The only source of chance but for the network's own.
    memory : dict of str to Tensor
        What a method remembers from batch to batch, and from epoch to epoch: what `Method.room` names, and nothing
        else. It is empty before the first batch; a training that is resumed goes on with what a checkpoint has of it.
        Where several processes divide the batches, each remembers what its own clips taught it.
    """

    clips: Clips
    module: nn.Module
    show: Callable[[Tensor], tuple[Tensor, Tensor]]
    objective: Objective
    progress: float
    generator: torch.Generator
    memory: dict[str, Tensor]

    @property
    def movable(self) -> Bool[Tensor, "N M T 1 1"]:
        """True on valid frames of present persons, the only ones that a method moves."""
        return self.clips.valid[..., None, None]

    def answer(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        """Return the network's logits for positions in metres, in the mode that it is in; differentiable."""
        return self.module(*self.show(xyz))

    def loss(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, ""]:
        """Return the family's own loss of the clips at these positions."""
        shown, present = self.show(xyz)
        return self.objective(self.module, shown, self.clips.labels, self.progress, present)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Plain training; the base of methods that train for more than right answers to clean clips."""

    @property
    def replays(self) -> int:
        """Optimiser steps that are made with each batch before the next one comes."""
        return 1

    def describe(self) -> dict[str, Any] | None:
        """Return what a weights file says of it under ``defense``; None, of plain training."""
        return None

    def prepare(self, network: Model) -> None:
        """Change a network, which has its weights, before it trains: freeze some, put others beside them, set modes.

        Parameters that want no gradient are not trained.
        """

    def room(self, clips: Clips, batch: int) -> dict[str, Tensor]:
        """Return what is remembered from batch to batch, at its longest, as tensors on the device ``meta``; nothing.

        What is remembered after a batch has these names, types and shapes, but for the first axis, which may be
        shorter. By this a checkpoint is told from one that would not do.

        Parameters
        ----------
        clips : Clips
            All that is trained on.
        batch : int
            Most clips of a batch.
        """
        return {}

    def taken(self, clips: Clips, generator: torch.Generator) -> Clips:
        """Return what is shown in place of a batch of training clips, before it is varied; the clips by default."""
        return clips

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return what the next step lowers."""
        return batch.loss(batch.clips.xyz)

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        """Return the positions of validation clips by which an epoch is judged; the clean ones by default.

        The network is in evaluation mode, and the generator the same for all epochs.
        """
        return batch.clips.xyz
