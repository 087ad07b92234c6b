"""Momentum iterative FGSM (Dong et al., 2018) on joint positions."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.ball_steps import BallSteps
from funnybone.attacks.base import register_attack
from funnybone.attacks.problem import Problem
from funnybone.errors import DataError
from funnybone.threat.ball import largest_one


@register_attack("mifgsm")
@dataclass(frozen=True, kw_only=True)
class MIFGSM(BallSteps):
    """Step along the gradients of all steps so far, each scaled to the same length, the older ones fading.

    ``g <- momentum g + gradient / |gradient|_1``, then the steepest step of the threat model's ball against ``g``: its
    sign for ``Linf``, ``g`` scaled to unit length for ``L2``. Other parts of the threat model are projected onto. ``g``
    belongs to a clip: it begins at zero and does not depend on the clips beside it. (Code released with a
    skeleton benchmark does not scale the gradients, and carries ``g`` from one batch of clips into the next.)

    Parameters
    ----------
    steps : int
        Gradient steps for each clip.
    loss : {"goal", "ce", "margin", "dlr"}
        What is descended: see `funnybone.attacks.losses`.
    early_stop : bool
        Leave a clip as soon as it has fallen; see `GradientAttack`.
    step_size : float
        Length of a step as a share of the ball's radius: one over the published number of steps. With fewer steps
        than ``1 / step_size`` the surface of the ball is out of reach.
    random_start : bool
        Start at a random point of the ball instead of the clean clip.
    momentum : float
        mu, what is left of a gradient one step later; 1 as published, 0 for the iterative FGSM.

    References
    ----------
    Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, algorithm 1 and, for L2, section 3.3; from
    general knowledge of the paper, as are the defaults (10 steps, momentum 1).

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("mifgsm", steps=2)(victim, clips, threat=fb.threat.Linf(0.01))
    >>> outcome.violation.max() <= 1e-6
    tensor(True)
    """

    any_coordinates: ClassVar[bool] = True

    steps: int = 10
    momentum: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum <= 1:
            raise DataError(f"attack {self.name}: momentum is {self.momentum}", hint="give a share from 0 to 1")

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        problem.state["momentum"] = torch.zeros_like(problem.clean)
        return super().start(problem)

    def followed(self, problem: Problem, gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        problem.state["momentum"] = self.momentum * problem.state["momentum"] + of_length_one(gradient)
        return problem.state["momentum"]


def of_length_one(gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
    """Return each clip's gradient scaled so that its absolute values sum to one; zeros stay zeros.

    Examples
    --------
    >>> of_length_one(torch.tensor([3.0, -1.0]).view(1, 1, 1, 2, 1)).flatten()
    tensor([ 0.7500, -0.2500])
    """
    gradient = largest_one(gradient)  # the sum of a sure victim's gradient is nearly nothing
    return gradient / gradient.abs().sum((1, 2, 3, 4), keepdim=True).clamp(min=1)
