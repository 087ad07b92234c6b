"""Adversaries of a network in training: the attacks' own mathematics, without their meter."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.pgd import PGD
from funnybone.attacks.problem import Problem
from funnybone.chance import Chance
from funnybone.defenses.retraining import Retraining
from funnybone.goals import AnythingBut, Goal
from funnybone.models.modes import evaluating
from funnybone.threat import Linf, Threat
from funnybone.training import Batch


class _Unmetered:
    """A network in training as an attack meets a victim; nothing is counted, and nothing runs out."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def logits(self, xyz: Tensor, rows: Tensor) -> Tensor:
        return self.batch.answer(xyz)

    def scores(self, xyz: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return self.batch.answer(xyz)

    def remaining(self, rows: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        return torch.full_like(rows, torch.iinfo(torch.long).max)


def crafted(
    batch: Batch, attack: GradientAttack, threat: Threat, goal: Goal | None = None
) -> Float[Tensor, "N M T V C"]:
    """Return where an attack leaves the clips of a batch, the worst iterate of each; only valid frames move.

    The network answers in evaluation mode and goes on in the one that it was in: batch norms that see adversaries while
    these are made would give the attack, and later the victim, statistics of half-made clips.

    Parameters
    ----------
    batch : Batch
        The clips and the network.
    attack : GradientAttack
        With ``early_stop=False``, or clips that have fallen are no longer made worse.
    threat : Threat
        Where the clips must stay.
    goal : Goal, optional
        What is descended; `AnythingBut` by default.
    """
    clips = batch.clips
    problem = Problem(
        victim=_Unmetered(batch),
        goal=goal or AnythingBut(),
        threat=threat.bind(clips.skeleton),
        clips=clips,
        reference=clips.labels,
        rows=torch.arange(len(clips), device=clips.xyz.device),
        chance=Chance.of(clips, batch.generator),
    )
    with evaluating(batch.module):
        return attack.run(problem, lambda done, successes, total: None).xyz


@dataclass(frozen=True, kw_only=True)
class WorstCases(Retraining):
    """Train against the worst clips that projected gradient descent finds near each one, and judge epochs by them.

    Parameters
    ----------
    epochs, lr, from_scratch
        As in `Retraining`.
    radius : float
        No coordinate of a joint moves farther than this, in metres. With 0 nothing moves.
    steps : int
        Gradient steps of the inner attack.
    step_size : float
        Length of such a step as a share of the radius. At 2 / steps or more any point of the ball can be reached from
        any other.
    """

    radius: float = 0.005
    steps: int = 10
    step_size: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("radius", 0 <= self.radius < float("inf"), "give metres, not below zero")
        self.check("steps", self.steps >= 1, "give at least 1")
        self.check("step_size", 0 < self.step_size < float("inf"), "give a share of the radius, above zero")

    def worst(self, batch: Batch, goal: Goal | None = None) -> Float[Tensor, "N M T V C"]:
        """Return the worst clips found; of cross-entropy, unless a goal says of what.

        The attack descends the log-odds of the true class: sign for sign these are the steps of the cross-entropy,
        which is flat where the network is very sure. The iterate that is kept has the highest cross-entropy of those
        that the network takes for another class, or of all where it takes none for one.
        """
        if self.radius == 0:
            return batch.clips.xyz
        attack = PGD(steps=self.steps, step_size=self.step_size, early_stop=False)
        return crafted(batch, attack, Linf(self.radius), goal)

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        return self.worst(batch)
