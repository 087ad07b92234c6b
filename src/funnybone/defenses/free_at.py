"""Free adversarial training (Shafahi et al., 2019): one gradient moves the weights down and the noise up."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.pgd import PGD
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.defenses.base import register_defense
from funnybone.defenses.crafting import crafted
from funnybone.defenses.retraining import Retraining
from funnybone.errors import DataError
from funnybone.metrics.deviations import masked_mean
from funnybone.threat import L2, Ball, Linf
from funnybone.training import Batch


def head_lengths(clips: Clips) -> Float[Tensor, " N"]:
    """Return the length of each clip's bone between the head and the neck, in the clips' unit; mean over valid frames.

    Raises
    ------
    DataError
        For a skeleton without a joint that is called head.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> from funnybone.testing import random_clips
    >>> head_lengths(random_clips(3, skeleton=NTU25)).shape
    torch.Size([3])
    """
    skeleton = clips.skeleton
    names = [{skeleton.joints[joint].lower() for joint in bone} for bone in skeleton.bones]
    if not any("head" in ends for ends in names):
        raise DataError(f"skeleton {skeleton.name!r} has no head to measure by", hint="give a radius in metres")
    bone = next(index for index, ends in enumerate(names) if "head" in ends)
    return masked_mean(skeleton.bone_lengths(clips.xyz)[..., bone], clips.valid).nan_to_num()


@dataclass(frozen=True, eq=False)
class ClipBall(Ball):
    """A ball whose radius is each clip's own.

    Parameters
    ----------
    radius : float
        Of the unit ball: 1.
    unit : Ball
        The ball of radius 1 in the norm that is wanted.
    sizes : Float[Tensor, "N 1 1 1 1"]
        Radius of each clip, in metres, above zero.
    """

    unit: Ball
    sizes: Float[Tensor, "N 1 1 1 1"]

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        return clean + self.sizes * self.unit.project(torch.zeros_like(clean), (adversarial - clean) / self.sizes)

    def distance(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        return self.unit.distance(clean / self.sizes, adversarial / self.sizes)

    def steepest(self, gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        return self.sizes * self.unit.steepest(gradient)

    def sample(self, clean: Float[Tensor, "N M T V C"], chance: Chance) -> Float[Tensor, "N M T V C"]:
        return clean + self.sizes * self.unit.sample(torch.zeros_like(clean), chance)


@register_defense("free-at")
@dataclass(frozen=True, kw_only=True)
class FreeAT(Retraining):
    """Show each batch several times, with noise that climbs by the gradient which the weights descend by.

    An adversary costs no passes of its own. The noise stays in its place of the batch when the next clips come, from
    epoch to epoch too; checkpoints have it, with the gradient that it has yet to climb. An epoch is ``replays``
    optimiser steps a batch, all at one learning rate. Epochs are judged by ten steps of PGD in the same ball.

    Parameters
    ----------
    epochs, lr, from_scratch
        As in `Retraining`.
    radius : float
        Of the ball that the noise stays in: metres, or with ``heads`` lengths of the head.
    norm : {"linf", "l2"}
        The ball's norm: of each coordinate, or of the whole clip.
    heads : bool
        Measure the radius by the length of each clip's head: a child and a man are then moved alike.
    step_size : float
        Length of a step of the noise as a share of the radius.
    replays : int
        How often each batch is shown before the next one.

    References
    ----------
    Shafahi et al., "Adversarial Training for Free!", NeurIPS 2019, algorithm 1. The released code of Tanaka et al. on
    graph networks of skeletons, Computer Vision and Image Understanding, 2024, has ``norm="l2"``, ``radius=3``,
    ``heads=True``, a full step and 4 replays. The radius in metres is this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="train")[:4]
    >>> fb.create_defense("free-at", epochs=1, replays=2).fit(victim, clips).defense
    'free-at'
    """

    radius: float = 0.005
    norm: Literal["linf", "l2"] = "linf"
    heads: bool = False
    step_size: float = 1.0
    replays: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("radius", 0 <= self.radius < float("inf"), "give a length, not below zero")
        self.check("norm", self.norm in ("linf", "l2"), "it is one of linf, l2")
        self.check("step_size", 0 < self.step_size < float("inf"), "give a share of the radius, above zero")
        self.check("replays", self.replays >= 1, "give at least 1")

    def ball(self, clips: Clips) -> ClipBall:
        """Return where these clips may go."""
        sizes = head_lengths(clips) if self.heads else torch.ones_like(clips.fps)
        unit: Ball = Linf(1.0) if self.norm == "linf" else L2(1.0)
        return ClipBall(1.0, unit, (self.radius * sizes).clamp(min=1e-9)[:, None, None, None, None])

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        if self.radius == 0:
            return batch.loss(batch.clips.xyz)
        memory, noise = batch.memory, self._carried(batch)
        memory["noise"] = noise.clone()
        # Known when the weights' own gradient is: a tensor of its own, which a checkpoint can hold.
        noise.requires_grad_().register_hook(lambda gradient: memory.update(gradient=gradient.detach().clone()))
        return batch.loss(batch.clips.xyz + noise)

    def _carried(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        """The noise of before, one step higher, as far as these clips have room for it."""
        before, gradient = batch.memory.get("noise"), batch.memory.pop("gradient", None)  # which is climbed once
        still = torch.zeros_like(batch.clips.xyz)
        if before is None or gradient is None:
            return still
        ball = self.ball(batch.clips)
        noise = _resized(before, still) + self.step_size * ball.steepest(_resized(gradient, still))
        return ball.project(still, torch.where(batch.movable, noise, 0))

    def room(self, clips: Clips, batch: int) -> dict[str, Tensor]:
        if self.radius == 0:
            return {}
        noise = clips.xyz.new_empty((min(batch, len(clips)), *clips.xyz.shape[1:]), device="meta")
        return {"noise": noise, "gradient": noise}

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        if self.radius == 0:
            return batch.clips.xyz
        return crafted(batch, PGD(steps=10, step_size=0.25, early_stop=False), self.ball(batch.clips))


def _resized(values: Float[Tensor, "B M T V C"], like: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
    """Values of a batch for another one that is a clip longer or shorter: zero, or left out."""
    fitting = like.clone()
    fitting[: len(values)] = values[: len(like)]
    return fitting
