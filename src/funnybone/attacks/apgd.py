"""APGD (Croce and Hein, 2020): projected gradient descent that chooses its own step sizes."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.losses import Loss, objective
from funnybone.attacks.problem import Problem, Progress, Trace
from funnybone.attacks.towards import Towards, wanted_classes
from funnybone.chance import Chance
from funnybone.errors import DataError
from funnybone.goals import Goal
from funnybone.threat.ball import ball_of

# A run draws far less often than this, so that no two runs are given the same numbers.
_DRAWS_OF_A_RUN = 1 << 24


def checkpoints(steps: int) -> dict[int, int]:
    """Return the steps after which step sizes are judged, and how many were made since the checkpoint before.

    The first comes after 22 % of the steps; each interval is 3 % of them shorter than the last, down to 6 %.

    Source: Croce and Hein, ICML 2020, section 3.

    Examples
    --------
    >>> checkpoints(100)
    {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    """
    share, interval, places = 22, 22, [0]  # in per cent: 0.22 + 0.19 is not 0.41 in floating point
    while share < 100:
        places.append(-(-share * steps // 100))
        interval = max(interval - 3, 6)
        share += interval
    return {after: after - before for before, after in pairwise(places) if before < after < steps}


@register_attack("apgd")
@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Descend with momentum, in steps that begin at twice the radius and are halved where they lead nowhere.

    Needs a threat model with a ball: steps are the steepest ones of that ball, and other parts of the threat model are
    projected onto. At a checkpoint a clip whose steps did not lower its loss often enough, or whose best has stayed
    what it was, goes back to its best iterate with half the step; every clip has a step size of its own. A clip that
    has fallen takes part in no further run.

    Loss ``"ce"``, the published first choice, is flat to float32 where a victim is very sure; ``"dlr"``, the second,
    does not know the scale of logits. ``"goal"``, the log-odds, is a monotone function of the cross-entropy under AB
    and SA, so that APGD takes the same path with it, and is flat nowhere.

    Parameters
    ----------
    steps : int
        Gradient steps of each run; 100 in AutoAttack.
    loss : {"goal", "ce", "margin", "dlr"}
        What is descended: see `funnybone.attacks.losses`.
    early_stop : bool
        Leave a clip as soon as it has fallen; False: finish the run in which it fell, as in `GradientAttack`.
    targets : int
        0: the loss as it is. More, with loss ``"dlr"`` or ``"margin"``: the loss that leads to a class, for that many
        of the most probable other classes, one after another (9 in AutoAttack); all of them where there are no more.
        They cost one query to rank. For ABN, which the paper does not have, `Towards` is this library's. A goal that
        leads to a class itself has but that one.
    restarts : int
        Runs from random points of the ball, each through all targets.
    momentum : float
        Share of the new step; the rest is the step before it.
    rho : float
        Share of the steps between two checkpoints that must lower the loss for the step to stay as long.

    References
    ----------
    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, section 3, algorithm 1, and equations 6 and 7 for the losses. Starts are this library's: in L2 they lie
    inside of the ball and not on its surface.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("apgd", steps=3, loss="dlr")(victim, clips, threat=fb.threat.Linf(0.01))
    >>> outcome.violation.max() <= 1e-6
    tensor(True)
    """

    any_coordinates: ClassVar[bool] = True

    steps: int = 100
    loss: Loss = "goal"
    targets: int = 0
    restarts: int = 1
    momentum: float = 0.75
    rho: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 0:
            raise DataError(f"attack apgd: targets is {self.targets}", hint="give a number of classes, or 0 for none")
        if self.targets and self.loss not in ("dlr", "margin"):
            raise DataError(
                f"attack apgd: targets is {self.targets}, loss is {self.loss}", hint="targets go with dlr or margin"
            )
        if self.restarts < 1:
            raise DataError(f"attack apgd: restarts is {self.restarts}", hint="give at least 1")
        for name in ("momentum", "rho"):
            if not 0 < getattr(self, name) <= 1:
                raise DataError(f"attack apgd: {name} is {getattr(self, name)}", hint="give a share, above zero")

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        return ball_of(problem.threat).sample(problem.clean, problem.chance)

    def run(self, problem: Problem, progress: Progress) -> Trace:
        ball_of(problem.threat)  # said now, where there is none
        total, device = len(problem), problem.clean.device
        best, missed = problem.clean.clone(), torch.full((total,), torch.inf, device=device)
        taken = torch.zeros(total, dtype=torch.long, device=device)
        solved, blind = torch.zeros(2, total, dtype=torch.bool, device=device)
        wanted = self._wanted(problem)
        turns = 1 if wanted is None else wanted.shape[1]
        for number in range(self.restarts * turns):
            standing = ~solved & problem.can_ask()
            if not bool(standing.any()):
                break
            # A run's own source: how often the runs before it drew depends on when their last clip left.
            chance = Chance(problem.chance.keys, problem.chance.drawn + number * _DRAWS_OF_A_RUN)
            part = dataclasses.replace(problem, chance=chance, state={}).keep(standing)
            if wanted is not None:
                part.state["wanted"] = wanted[standing, number % turns]

            def tell(more: int, won: int = int(solved.sum())) -> None:
                progress(won + more, won + more, total)

            trace, margin = self._descend(part, tell)
            place = standing.nonzero().flatten()
            nearer = trace.fallen | (margin < missed[place])
            best[place[nearer]], missed[place[nearer]] = trace.xyz[nearer], margin[nearer]
            taken[place] += trace.steps
            solved[place] = trace.fallen
            blind[place] |= trace.zero_gradient
        progress(total, int(solved.sum()), total)
        return Trace(best, solved, taken, blind)

    def _wanted(self, problem: Problem) -> Int[Tensor, "N R"] | None:
        """Which classes each clip is led to, by what the victim says to the clean clip; None without targets."""
        if not (self.targets and problem.goal.away):
            return None
        logits, _ = problem.score(problem.clean)
        return wanted_classes(logits, problem.reference, problem.goal.place, self.targets)

    def _aim(self, problem: Problem) -> Goal:
        wanted = problem.state.get("wanted")
        return problem.goal if wanted is None else Towards(wanted, problem.goal.place)

    def _descend(self, problem: Problem, progress: Callable[[int], None]) -> tuple[Trace, Float[Tensor, " N"]]:
        """One run from one start, and by how much its best iterates miss the goal.

        `GradientAttack.run` with what it does not have: a memory of gradients and losses, which the steps need.
        """
        total = len(problem)
        xyz = problem.constrain(self.start(problem))
        best = xyz.clone()
        lowest, missed = torch.full((2, total), torch.inf, device=xyz.device)
        taken = torch.full((total,), self.steps, device=xyz.device)
        solved, blind = torch.zeros(2, total, dtype=torch.bool, device=xyz.device)
        place = torch.arange(total, device=xyz.device)  # of each standing clip among all
        judged = checkpoints(self.steps)
        problem.state.update(_memory(xyz))
        for k in range(self.steps + 1):
            descended = objective(self.loss, self._aim(problem))
            if k < self.steps:
                logits, loss, gradient = problem.gradient(xyz, descended)
            else:  # the last iterate is judged, not left
                logits, loss, gradient = *problem.score(xyz, descended), torch.zeros_like(xyz)
            gradient = torch.where(_each(torch.isfinite(gradient).flatten(1).all(1)), gradient, 0)
            fallen = self._fallen(problem, xyz, logits, searched=k < self.steps)
            margin = problem.goal.margin(logits, problem.reference)
            first = fallen & ~solved[place]
            better = first | ((fallen | ~solved[place]) & (loss < lowest[place]))
            kept = place[better]
            best[kept], lowest[kept], missed[kept] = xyz[better], loss[better], margin[better]
            taken[place[first]], solved[place[first]] = k, True
            standing = problem.can_ask() & ~(fallen & self.early_stop)
            taken[place[~standing & ~solved[place]]] = k  # out of queries
            _remember(problem.state, xyz, gradient, loss)
            if k == self.steps or not bool(standing.any()):
                break
            place, xyz, gradient, problem = place[standing], xyz[standing], gradient[standing], problem.keep(standing)
            progress(int(solved.sum()))
            blind[place] |= (gradient == 0).flatten(1).all(1)
            if k in judged:
                xyz, gradient = _judge_steps(problem.state, xyz, gradient, judged[k], self.rho)
            xyz = self.step(problem, xyz, gradient, k)
        return Trace(best, solved, taken, blind), missed

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        state = problem.state
        ahead = problem.constrain(xyz - _each(state["size"]) * ball_of(problem.threat).steepest(gradient))
        share = self.momentum if k else 1.0
        moved = xyz + share * (ahead - xyz) + (1 - share) * (xyz - state["previous"])
        state["previous"] = xyz
        return problem.constrain(moved)


def _memory(xyz: Float[Tensor, "N M T V C"]) -> dict[str, Tensor]:
    """What a run remembers of each clip when it begins."""
    number = xyz.new_zeros(len(xyz))
    return {
        "previous": xyz,  # where the step before began
        "loss": number - torch.inf,  # at the last iterate; the start improves on nothing
        "improved": torch.zeros_like(number, dtype=torch.long),  # steps since the last checkpoint that lowered it
        "best": xyz,
        "best_gradient": torch.zeros_like(xyz),
        "lowest": number + torch.inf,  # the loss at the best
        "lowest_before": number + torch.inf,  # the same at the last checkpoint
        "halved": torch.ones_like(number, dtype=torch.bool),  # at the last checkpoint; the first asks for condition 1
        "size": number + 2.0,  # of a step, in radii
    }


def _remember(state: dict[str, Tensor], xyz: Tensor, gradient: Tensor, loss: Tensor) -> None:
    """Note an iterate, its gradient and its loss."""
    better = loss < state["lowest"]
    state["improved"] = state["improved"] + (loss < state["loss"])
    state["best"] = torch.where(_each(better), xyz, state["best"])
    state["best_gradient"] = torch.where(_each(better), gradient, state["best_gradient"])
    state["lowest"] = torch.where(better, loss, state["lowest"])
    state["loss"] = loss


def _judge_steps(
    state: dict[str, Tensor], xyz: Tensor, gradient: Tensor, interval: int, rho: float
) -> tuple[Tensor, Tensor]:
    """Halve the steps that are too long, and return where to go on from, with the gradient there.

    Too long: fewer than ``rho`` of the steps since the last checkpoint lowered the loss (the paper's condition 1), or
    the step was not halved there and nothing better has been found since (condition 2).
    """
    stuck = ~state["halved"] & (state["lowest"] >= state["lowest_before"])
    halve = (state["improved"] < rho * interval) | stuck
    state["size"] = torch.where(halve, state["size"] / 2, state["size"])
    state["loss"] = torch.where(halve, state["lowest"], state["loss"])
    state["halved"], state["lowest_before"] = halve, state["lowest"]
    state["improved"] = torch.zeros_like(state["improved"])
    return torch.where(_each(halve), state["best"], xyz), torch.where(_each(halve), state["best_gradient"], gradient)


def _each(values: Shaped[Tensor, " N"]) -> Shaped[Tensor, "N 1 1 1 1"]:
    """One value of each clip, shaped to meet its positions."""
    return values[:, None, None, None, None]
