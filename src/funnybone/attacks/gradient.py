"""What every gradient attack shares: the loop, who still stands, the best iterate."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.base import Attack
from funnybone.attacks.losses import Loss, objective
from funnybone.attacks.problem import Problem, Progress, Trace, achieved
from funnybone.errors import DataError
from funnybone.goals import AnythingBut


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack that follows the gradient of the goal's loss.

    A subclass writes `step`, and `start` where it does not start at the clean clip. One forward and one backward
    pass a step serve the verdict and the direction at once; a clip that has fallen leaves the batch, and so does one
    whose queries are spent; of the others the iterate with the lowest loss is kept.

    Parameters
    ----------
    steps : int
        Gradient steps for each clip.
    loss : {"goal", "ce", "margin", "dlr"}
        What is descended: see `funnybone.attacks.losses`.
    early_stop : bool
        Leave a clip as soon as it has fallen; False: go on to the last step, and keep the iterate with the lowest loss
        of those that fell. Clips that are to fool another classifier need it: what only just fools one fools no other.
    """

    # Whether what it does with iterates and gradients makes sense whatever their coordinates are, for AngleSearch. Each
    # class says so for itself: one that is derived from it may look at positions.
    any_coordinates: ClassVar[bool] = False

    steps: int = 100
    loss: Loss = "goal"
    early_stop: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f"attack {self.name}: steps is {self.steps}", hint="give at least 1")
        objective(self.loss, AnythingBut())  # said now, where there is none of that name

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        """Return where to begin; the clean clips by default."""
        return problem.clean

    @abstractmethod
    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        """Return the clips moved once.

        Parameters
        ----------
        problem : Problem
            The clips that still stand.
        xyz : Float[Tensor, "N M T V C"]
            Where they are.
        gradient : Float[Tensor, "N M T V C"]
            Of the goal's loss, which is to be descended; zero where not valid.
        k : int
            Steps already made.
        """

    def run(self, problem: Problem, progress: Progress) -> Trace:
        total = len(problem)
        best = problem.clean.clone()
        lowest = torch.full((total,), torch.inf, device=best.device)
        taken = torch.full((total,), self.steps, device=best.device)
        solved, blind = torch.zeros(2, total, dtype=torch.bool, device=best.device)
        place = torch.arange(total, device=best.device)  # of each standing clip among all
        descended = objective(self.loss, problem.goal)
        xyz = problem.constrain(self.start(problem))
        for k in range(self.steps + 1):
            if k < self.steps:
                logits, loss, gradient = problem.gradient(xyz, descended)
            else:  # the last iterate is judged, not left
                logits, loss, gradient = *problem.score(xyz, descended), torch.zeros_like(xyz)
            fallen = self._fallen(problem, xyz, logits, searched=k < self.steps)
            first = fallen & ~solved[place]
            better = first | ((fallen | ~solved[place]) & (loss < lowest[place]))
            best[place[better]], lowest[place[better]] = xyz[better], loss[better]
            taken[place[first]], solved[place[first]] = k, True
            standing = problem.can_ask() & ~(fallen & self.early_stop)
            taken[place[~standing & ~solved[place]]] = k  # out of queries
            if k == self.steps or not bool(standing.any()):
                break
            place, xyz, gradient, problem = place[standing], xyz[standing], gradient[standing], problem.keep(standing)
            progress(total - len(place), int(solved.sum()), total)
            gradient = torch.where(torch.isfinite(gradient).flatten(1).all(1)[:, None, None, None, None], gradient, 0)
            blind[place] |= (gradient == 0).flatten(1).all(1)
            xyz = problem.constrain(self.step(problem, xyz, gradient, k))
        progress(total, int(solved.sum()), total)
        return Trace(best, solved, taken, blind)

    def _fallen(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], logits: Float[Tensor, "N K"], *, searched: bool
    ) -> Bool[Tensor, " N"]:
        """Which clips have fallen; what mixed precision takes for fallen is asked again in float32."""
        fallen = achieved(problem.goal, logits, problem.reference)
        if searched and problem.precision == "bf16":
            asked = fallen & problem.can_ask()
            if bool(asked.any()):
                part = problem.keep(asked)
                fallen[asked] = achieved(problem.goal, part.score(xyz[asked])[0], part.reference)
        return fallen
