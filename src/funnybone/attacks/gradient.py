"""What every gradient attack shares: the loop, who still stands, the best iterate."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.base import Attack, Problem, Progress, Trace, achieved
from funnybone.errors import DataError


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
    """

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f"attack {self.name}: steps is {self.steps}", hint="give at least 1")

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
        xyz = problem.constrain(self.start(problem))
        for k in range(self.steps + 1):
            if k < self.steps:
                logits, loss, gradient = problem.gradient(xyz)
            else:  # the last iterate is judged, not left
                logits, loss, gradient = *problem.score(xyz), torch.zeros_like(xyz)
            fallen = achieved(problem.goal, logits, problem.reference)
            better = fallen | (loss < lowest[place])
            best[place[better]], lowest[place[better]] = xyz[better], loss[better]
            taken[place[fallen]], solved[place[fallen]] = k, True
            standing = ~fallen & (problem.victim.remaining(problem.rows) > 0).to(fallen.device)
            taken[place[~standing & ~fallen]] = k  # out of queries
            if k == self.steps or not bool(standing.any()):
                break
            place, xyz, gradient, problem = place[standing], xyz[standing], gradient[standing], problem.keep(standing)
            progress(total - len(place), int(solved.sum()), total)
            gradient = torch.where(torch.isfinite(gradient).flatten(1).all(1)[:, None, None, None, None], gradient, 0)
            blind[place] |= (gradient == 0).flatten(1).all(1)
            xyz = problem.constrain(self.step(problem, xyz, gradient, k))
        progress(total, int(solved.sum()), total)
        return Trace(best, solved, taken, blind)
