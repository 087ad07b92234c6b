"""Projected gradient descent (Madry et al., 2018) on joint positions."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.base import Problem, register_attack
from funnybone.attacks.gradient import GradientAttack
from funnybone.errors import DataError
from funnybone.threat.ball import ball_of


@register_attack("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """Step along the gradient, return to the budget, stop when the victim is fooled.

    Needs a threat model with a ball; the step is the steepest one of that ball: the sign of the gradient for
    ``Linf``, the gradient scaled to unit length for ``L2``. Other parts of the threat model are projected onto.

    Parameters
    ----------
    steps : int
        Gradient steps for each clip.
    step_size : float
        Length of a step as a share of the ball's radius.
    random_start : bool
        Start at a random point of the ball instead of the clean clip.

    References
    ----------
    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("pgd", steps=2)(victim, clips, threat=fb.threat.Linf(0.01))
    >>> outcome.violation.max() <= 1e-6
    tensor(True)
    """

    steps: int = 40
    step_size: float = 0.1
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step_size < float("inf"):
            raise DataError(f"attack pgd: step_size is {self.step_size}", hint="give a share of the radius, above zero")

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        ball = ball_of(problem.threat)  # said now, where there is none
        return ball.sample(problem.clean, problem.chance) if self.random_start else problem.clean

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        return xyz - self.step_size * ball_of(problem.threat).steepest(gradient)
