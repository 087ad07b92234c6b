"""Adversarial training (Madry et al., 2018), with PGD or with SMART inside."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.smart import SMART
from funnybone.defenses.base import register_defense
from funnybone.defenses.crafting import WorstCases, crafted
from funnybone.defenses.retraining import Retraining
from funnybone.threat import Linf, Unbounded
from funnybone.training import Batch


@register_defense("pgd-at")
@dataclass(frozen=True, kw_only=True)
class PGDAT(WorstCases):
    """Train on the worst clips near the clean ones, in place of these: ``min E max_{|d| <= radius} loss(x + d, y)``.

    The loss is the family's own, with its label smoothing.

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

    References
    ----------
    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, equation 2.1. The paper's
    settings are for images; the defaults are this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="train")[:4]
    >>> hardened = fb.create_defense("pgd-at", epochs=1, steps=1).fit(victim, clips)
    >>> hardened.defense, hardened.record.defense["settings"]["radius"]
    ('pgd-at', 0.005)
    """

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        return batch.loss(self.worst(batch))


@register_defense("smart-at")
@dataclass(frozen=True, kw_only=True)
class SMARTAT(Retraining):
    """Train on clips that SMART has moved, with its perceptual loss and steps that are smooth in time.

    What it learns to resist is the attack that skeleton papers evaluate with; attacks that it has not seen say more.
    SMART counts time by the clips' frame rates; where the recipe cuts clips in time, those are the whole clips'.

    Parameters
    ----------
    epochs, lr, from_scratch
        As in `Retraining`.
    radius : float or None
        No coordinate of a joint moves farther than this, in metres; None: as far as the steps lead. With 0 nothing
        moves.
    steps : int
        Gradient steps of the inner attack.
    step_size : float
        Root mean square displacement that the classification part of a step may make, in metres.

    References
    ----------
    Wang et al., CVPR 2021, for the attack; adversarial training with it is a baseline of Wang et al., "Defending
    Black-box Skeleton-based Human Activity Classifiers", AAAI 2023, whose settings are not available to us: all
    defaults are this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="train")[:4]
    >>> fb.create_defense("smart-at", epochs=1, steps=1).fit(victim, clips).defense
    'smart-at'
    """

    radius: float | None = 0.005
    steps: int = 10
    step_size: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("radius", self.radius is None or 0 <= self.radius < float("inf"), "give metres, not below zero")
        self.check("steps", self.steps >= 1, "give at least 1")
        self.check("step_size", 0 < self.step_size < float("inf"), "give metres, above zero")

    def moved(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        """Return the clips as SMART leaves them."""
        if self.radius == 0:
            return batch.clips.xyz
        attack = SMART(steps=self.steps, step_size=self.step_size, early_stop=False)
        return crafted(batch, attack, Unbounded() if self.radius is None else Linf(self.radius))

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        return batch.loss(self.moved(batch))

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        return self.moved(batch)
