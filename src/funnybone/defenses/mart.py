"""MART (Wang et al., 2020): adversarial training that looks at the clips the network gets wrong."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from funnybone.defenses.base import register_defense
from funnybone.defenses.crafting import WorstCases
from funnybone.defenses.trades import divergence
from funnybone.training import Batch


def boosted_cross_entropy(logits: Float[Tensor, "N K"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return ``-log p_y - log(1 - max_{k != y} p_k)`` of each clip.

    The second term is a log-sum-exp over all classes but the wrong one that is highest, so that it needs none of the
    small constants that released code adds.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> boosted_cross_entropy(logits, torch.tensor([0])).item()  # log(2) + log(4 / 3)
    0.98...
    """
    known = logits.float().log_softmax(1)
    own = known.gather(1, labels[:, None])
    wrong = known.detach().scatter(1, labels[:, None], -float("inf")).argmax(1, keepdim=True)
    return -own.squeeze(1) - known.scatter(1, wrong, -float("inf")).logsumexp(1)


@register_defense("mart")
@dataclass(frozen=True, kw_only=True)
class MART(WorstCases):
    """Lower ``BCE(x') + weight * KL(p(x) || p(x')) * (1 - p_y(x))``, where x' is the worst clip for cross-entropy.

    The divergence counts the more, the less the network believes in the truth of the clean clip. The loss is of logits
    alone: what else a family trains with (FR-Head's contrasts, AS-GCN's links) is left out, and the recipe's label
    smoothing with it.

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
    weight : float
        lambda, of the divergence.

    References
    ----------
    Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020; the weight of
    6 is the default of the released code, for images. The other defaults are this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="train")[:4]
    >>> fb.create_defense("mart", epochs=1, steps=1).fit(victim, clips).defense
    'mart'
    """

    weight: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("weight", 0 <= self.weight < float("inf"), "give a weight, not below zero")

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        labels = batch.clips.labels
        moved = self.worst(batch)
        clean, adversarial = batch.answer(batch.clips.xyz), batch.answer(moved)
        return mart_loss(clean, adversarial, labels, self.weight).mean()


def mart_loss(
    clean: Float[Tensor, "N K"], adversarial: Float[Tensor, "N K"], labels: Int[Tensor, " N"], weight: float
) -> Float[Tensor, " N"]:
    """Return MART's loss of each clip, from the logits of the clean and of the adversarial one."""
    doubt = 1 - clean.float().softmax(1).gather(1, labels[:, None]).squeeze(1)
    return boosted_cross_entropy(adversarial, labels) + weight * divergence(clean, adversarial) * doubt
