"""TRADES (Zhang et al., 2019): right answers to clean clips, and the same answers near them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.defenses.base import register_defense
from funnybone.defenses.crafting import WorstCases
from funnybone.goals import Goal
from funnybone.models.modes import evaluating
from funnybone.training import Batch


def divergence(answer: Float[Tensor, "N K"], other: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
    """Return the Kullback-Leibler divergence of each clip's first answer from its second; both are logits.

    Examples
    --------
    >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]).log())
    tensor([0.1438])
    """
    ours, theirs = answer.float().log_softmax(1), other.float().log_softmax(1)
    return (ours.exp() * (ours - theirs)).sum(1)


@dataclass(frozen=True, eq=False)
class _Apart(Goal):
    """Answers that are far from given ones. How far is far enough is not said, so nobody ever gets there."""

    answer: Float[Tensor, "N K"]

    @property
    def name(self) -> str:
        return "apart"

    def achieved(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return torch.zeros_like(reference, dtype=torch.bool)

    def margin(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return -divergence(self.answer, logits)


@register_defense("trades")
@dataclass(frozen=True, kw_only=True)
class TRADES(WorstCases):
    """Lower ``loss(x, y) + beta * max_{|d| <= radius} KL(p(x) || p(x + d))``.

    The inner attack raises the divergence, from a random start: at the clean clip it has no slope. Nothing is clamped
    but to the ball; released code of this field clamps positions to [0, 1], which cuts the body. Epochs are judged by
    the cross-entropy of worst clips, as those of `PGDAT`.

    Parameters
    ----------
    epochs, lr, from_scratch
        As in `Retraining`.
    radius : float
        No coordinate of a joint moves farther than this, in metres.
    steps : int
        Gradient steps of the inner attack.
    step_size : float
        Length of such a step as a share of the radius.
    beta : float
        Weight of the divergence: robustness against clean accuracy.

    References
    ----------
    Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019, equation 5; beta 6
    is the released code's, for images. The other defaults are this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="train")[:4]
    >>> fb.create_defense("trades", epochs=1, steps=1).fit(victim, clips).defense
    'trades'
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("beta", 0 <= self.beta < float("inf"), "give a weight, not below zero")

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        clean = batch.clips.xyz
        with evaluating(batch.module), torch.no_grad():
            answer = batch.answer(clean)
        moved = self.worst(batch, _Apart(answer))
        # Asked once more for the clean clips, as in the released code: the family's loss gives no logits away.
        apart = divergence(batch.answer(clean), batch.answer(moved)).mean()
        return batch.loss(clean) + self.beta * apart
