"""The fast gradient sign method (Goodfellow et al., 2015) on joint positions."""

from dataclasses import dataclass, field
from typing import ClassVar

from funnybone.attacks.ball_steps import BallSteps
from funnybone.attacks.base import register_attack


@register_attack("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM(BallSteps):
    """Take one step, as long as the budget allows.

    Needs a threat model with a ball; the step is the steepest one of that ball: the sign of the gradient for
    ``Linf``, the gradient scaled to unit length for ``L2`` (the fast gradient method). Other parts of the threat model
    are projected onto. One gradient and one more answer for each clip: the weakest and cheapest of the gradient
    attacks, against which the iterated ones are held. Where the step led away from the goal, the clip is left as it
    was.

    Parameters
    ----------
    loss : {"goal", "ce", "margin", "dlr"}
        What is descended: see `funnybone.attacks.losses`. For goals AB and SA ``"goal"`` points where the published
        cross-entropy does, also where that is flat to float32.
    early_stop : bool
        Leave a clip as soon as it has fallen; see `GradientAttack`.
    step_size : float
        Length of the step as a share of the ball's radius; the whole of it, as published.
    random_start : bool
        Start at a random point of the ball instead of the clean clip; with a step of 1.25 this is the attack that fast
        adversarial training uses (Wong et al., ICLR 2020).

    References
    ----------
    Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("fgsm")(victim, clips, threat=fb.threat.Linf(0.01))
    >>> int(outcome.steps.max()), int(outcome.queries.max()), int(outcome.gradients.max())
    (1, 2, 1)
    """

    any_coordinates: ClassVar[bool] = True

    steps: int = field(default=1, init=False, repr=False)
    step_size: float = 1.0
