"""What attacks share that see scores and no gradient: the loop, the budget, who still stands, the best iterate."""

import dataclasses
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
from funnybone.victims.access import Access


@dataclass(frozen=True, kw_only=True)
class ScoreAttack(Attack):
    """An attack that asks for scores, and never for a gradient.

    A subclass writes `start` and `step`. Every iterate is inside the threat model and is asked about; a clip that has
    fallen leaves the batch, and so does one that cannot afford the next step. Of a clip that never falls, the iterate
    that misses the goal by least is kept.

    Parameters
    ----------
    queries : int
        Most queries for each clip; a budget of the call that is smaller holds.
    loss : {"goal", "ce", "margin", "dlr"}
        What is made small: see `funnybone.attacks.losses`.
    """

    access: ClassVar[Access] = "scores"

    queries: int = 5000
    loss: Loss = "goal"

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise DataError(f"attack {self.name}: queries is {self.queries}", hint="give at least 1")
        objective(self.loss, AnythingBut())  # said now, where there is none of that name

    @property
    def probes(self) -> int:
        """Questions that a step asks, besides the one about where it leads."""
        return 0

    @abstractmethod
    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        """Return where to begin; refuse here what the attack cannot do, before anything was asked.

        ``problem.state["questions"]`` says how many questions each clip has in all.
        """

    @abstractmethod
    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], loss: Float[Tensor, " N"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        """Return what to ask about next.

        Parameters
        ----------
        problem : Problem
            The clips that still stand.
        xyz : Float[Tensor, "N M T V C"]
            What was asked about.
        loss : Float[Tensor, "N"]
            The answer.
        k : int
            Steps already made.
        """

    def finished(self, problem: Problem) -> Bool[Tensor, " N"]:
        """Return which clips have nothing left to try after the answers so far; none by default."""
        return torch.zeros(len(problem), dtype=torch.bool, device=problem.clean.device)

    def heard(self, problem: Problem, xyz: Float[Tensor, "N M T V C"], loss: Float[Tensor, " N"]) -> None:
        """Take note of an answer before it is decided who goes on; nothing by default."""

    def run(self, problem: Problem, progress: Progress) -> Trace:
        if self.queries < problem.draws:
            raise DataError(
                f"attack {self.name}: queries is {self.queries}, less than the {problem.draws} draws of one question"
            )
        total, device = len(problem), problem.clean.device
        best = problem.clean.clone()
        least = torch.full((total,), torch.inf, device=device)
        taken = torch.zeros(total, dtype=torch.long, device=device)
        solved = torch.zeros(total, dtype=torch.bool, device=device)
        place = torch.arange(total, device=device)  # of each standing clip among all
        descended = objective(self.loss, problem.goal)
        left = problem.victim.remaining(problem.rows).to(device)
        questions = left.clamp(max=self.queries) // problem.draws
        problem = dataclasses.replace(problem, state={"questions": questions})  # nothing of an attack before this one
        xyz = problem.constrain(self.start(problem))
        asked = k = 0  # of each clip that stands: they ask equally many
        while True:
            logits, loss = problem.score(xyz, descended)
            asked += 1
            fallen = achieved(problem.goal, logits, problem.reference)
            margin = problem.goal.margin(logits, problem.reference)
            better = fallen | (margin < least[place])  # a margin that is no number is not better
            best[place[better]], least[place[better]] = xyz[better], margin[better]
            taken[place], solved[place] = k, fallen
            self.heard(problem, xyz, loss)
            affords = problem.can_ask() & (asked + 1 + self.probes <= problem.state["questions"])
            standing = ~fallen & affords & ~self.finished(problem)
            progress(total - int(standing.sum()), int(solved.sum()), total)
            if not bool(standing.any()):
                return Trace(best, solved, taken, torch.zeros_like(solved))
            place, xyz, loss, problem = place[standing], xyz[standing], loss[standing], problem.keep(standing)
            xyz = problem.constrain(self.step(problem, xyz, loss, k))
            asked, k = asked + self.probes, k + 1


@dataclass(frozen=True, kw_only=True)
class RandomSearch(ScoreAttack):
    """A score attack that tries one change at a time, and keeps it if the loss falls.

    A subclass writes `start` and `proposed`. ``problem.state`` has the clips as they are kept, ``"kept"``, their
    losses, ``"lowest"``, and whether the last question changed them, ``"accepted"``.

    Parameters
    ----------
    queries, loss
        As in `ScoreAttack`.
    """

    @abstractmethod
    def proposed(self, problem: Problem, kept: Float[Tensor, "N M T V C"], k: int) -> Float[Tensor, "N M T V C"]:
        """Return the clips with a change to try; ``k`` were tried before."""

    def heard(self, problem: Problem, xyz: Float[Tensor, "N M T V C"], loss: Float[Tensor, " N"]) -> None:
        state = problem.state
        lowest = state.get("lowest", torch.full_like(loss, torch.inf))
        state["accepted"] = loss < lowest
        state["lowest"] = torch.where(state["accepted"], loss, lowest)
        state["kept"] = torch.where(state["accepted"][:, None, None, None, None], xyz, state.get("kept", xyz))

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], loss: Float[Tensor, " N"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        return self.proposed(problem, problem.state["kept"], k)
