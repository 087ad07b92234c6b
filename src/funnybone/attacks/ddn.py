"""DDN (Rony et al., 2019): the smallest L2 displacement, its direction and its norm decoupled."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.border import falling, per_clip
from funnybone.attacks.losses import Loss, Objective, objective
from funnybone.attacks.minimum_norm import MinimumNormAttack, Visit
from funnybone.attacks.problem import Problem
from funnybone.errors import DataError
from funnybone.goals import AnythingBut


@register_attack("ddn")
@dataclass(frozen=True, kw_only=True)
class DDN(MinimumNormAttack):
    """Turn the displacement by the gradient, and set its norm apart: shorter where the clip had fallen, else longer.

    A step adds the unit gradient to the displacement, times a step size that falls along a cosine, and then scales the
    sum to the clip's norm ``eps``, which is multiplied by ``1 - gamma`` where the clip had fallen and by ``1 + gamma``
    where not. So no price of the norm must be searched for, and the clip stays at the border while it turns towards
    the border's nearest point. Any goal and any threat model will do; in a ball ``eps`` grows no further than that.

    Nothing is counted in pixels: step sizes are shares of ``eps``, and ``eps`` begins where the margin's gradient at
    the clean clip predicts the border (the paper's begins at 1, in units of an image's range); for another loss than
    the margin that is one more query. Where a saturated victim makes that far too much, it is halved until the clip
    first no longer falls. There is no box to clip to, and nothing is quantised. A clip without any gradient stays as it
    is, and the outcome says so; published code moves it at random.

    Parameters
    ----------
    steps : int
        Gradient steps; 100, 300 and 1,000 in the paper.
    loss : {"goal", "ce", "margin", "dlr"}
        What is descended: see `funnybone.attacks.losses`. The paper's is ``"ce"``; the margin, which leads to one class
        and not to where all are a little nearer, found shorter ways on all our networks.
    gamma : float
        By how large a share ``eps`` changes in a step.
    step_size, last_step : float
        The first and the last step, as shares of ``eps``.

    References
    ----------
    Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses",
    CVPR 2019. From general knowledge of the paper and its code, as are 0.05, 1 and 0.01.

    Examples
    --------
    >>> from funnybone.attacks import create_attack
    >>> from funnybone.testing import linear_victim, random_clips
    >>> from funnybone.threat import L2
    >>> clips = random_clips(4)
    >>> outcome = create_attack("ddn", steps=50)(linear_victim(clips, distance=0.05), clips)
    >>> bool((L2(1.0).distance(clips.xyz, outcome.adversarial.xyz) < 1.05 * 0.05).all())
    True
    """

    loss: Loss = "margin"
    gamma: float = 0.05
    step_size: float = 1.0
    last_step: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        objective(self.loss, AnythingBut())  # said now, where there is none of that name
        if not 0 < self.gamma < 1:
            raise DataError(f"attack ddn: gamma is {self.gamma}", hint="give a share between 0 and 1")
        for name in ("step_size", "last_step"):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"attack ddn: {name} is {getattr(self, name)}", hint="give a number above zero")

    def objective(self, problem: Problem) -> Objective:
        return objective(self.loss, problem.goal)

    def start(self, problem: Problem, search: int, kept: Float[Tensor, " N"]) -> Float[Tensor, "N M T V C"]:
        if self.loss != "margin":  # which leads there, but does not say how far it is
            _, margin, gradient, _ = self.asked(problem, problem.clean, problem.goal.margin)
            problem.state["eps"] = self.predicted(problem, margin, gradient)
        return problem.clean

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], visit: Visit, k: int
    ) -> Float[Tensor, "N M T V C"]:
        state, unit = problem.state, self.minimised.steepest
        if k == 0:
            state["missed"] = torch.zeros_like(visit.fallen)
            if self.loss == "margin":
                state["eps"] = self.predicted(problem, visit.margin, visit.gradient)
        else:
            # What a threat model takes off each time must not let eps grow without end.
            state["eps"] = torch.minimum(state["eps"], 2 * visit.norm)
            state["missed"] = state["missed"] | ~visit.fallen
        shorter = torch.where(state["missed"], 1 - self.gamma, 0.5)
        share = falling(self.step_size, self.last_step, k, self.steps)
        turned = unit(xyz - problem.clean - per_clip(share * state["eps"]) * unit(visit.gradient))
        state["eps"] = state["eps"] * torch.where(visit.fallen, shorter, 1 + self.gamma)
        state["eps"] = torch.minimum(state["eps"], state["bound"])
        return problem.clean + per_clip(state["eps"]) * turned
