"""Projected gradient descent (Madry et al., 2018) on joint positions."""

from dataclasses import dataclass
from typing import ClassVar

from funnybone.attacks.ball_steps import BallSteps
from funnybone.attacks.base import register_attack


@register_attack("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(BallSteps):
    """Step along the gradient, return to the budget, stop when the victim is fooled.

    Needs a threat model with a ball; the step is the steepest one of that ball: the sign of the gradient for
    ``Linf``, the gradient scaled to unit length for ``L2``. Other parts of the threat model are projected onto.

    Parameters
    ----------
    steps : int
        Gradient steps for each clip.
    loss : {"goal", "ce", "margin", "dlr"}
        What is descended: see `funnybone.attacks.losses`.
    early_stop : bool
        Leave a clip as soon as it has fallen; see `GradientAttack`.
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

    any_coordinates: ClassVar[bool] = True

    steps: int = 40
    step_size: float = 0.1
    random_start: bool = True
