"""What the attacks share whose steps are measured by a ball: FGSM, PGD, MI-FGSM, DIM."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.problem import Problem
from funnybone.errors import DataError
from funnybone.threat.ball import ball_of


@dataclass(frozen=True, kw_only=True)
class BallSteps(GradientAttack):
    """Take the steepest step of the threat model's ball, return to the threat model, stop when the victim is fooled.

    Needs a threat model with a ball: the step is the sign of what is followed for ``Linf``, the same scaled to unit
    length for ``L2``. Other parts of the threat model are projected onto. A subclass says by `followed` what its
    steps go against; the gradient itself by default.

    Parameters
    ----------
    steps, loss, early_stop
        As in `GradientAttack`.
    step_size : float
        Length of a step as a share of the ball's radius.
    random_start : bool
        Start at a random point of the ball instead of the clean clip.
    """

    step_size: float = 0.1
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step_size < float("inf"):
            raise DataError(
                f"attack {self.name}: step_size is {self.step_size}", hint="give a share of the radius, above zero"
            )

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        ball = ball_of(problem.threat)  # said now, where there is none
        return ball.sample(problem.clean, problem.chance) if self.random_start else problem.clean

    def followed(self, problem: Problem, gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Return the direction of ascent that a step goes against; its length does not matter."""
        return gradient

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        return xyz - self.step_size * ball_of(problem.threat).steepest(self.followed(problem, gradient))
