"""Gaussian noise on the training clips: the simplest baseline, and what smoothing wants a network trained with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.chance import Chance
from funnybone.defenses.base import register_defense
from funnybone.defenses.retraining import Retraining
from funnybone.training import Batch


@register_defense("gaussian")
@dataclass(frozen=True, kw_only=True)
class Gaussian(Retraining):
    """Train on clips with independent noise on each coordinate of the valid frames, new noise each time.

    Epochs are judged by noisy validation clips. A victim that smoothing is to answer for is best trained with
    smoothing's own ``sigma``.

    Parameters
    ----------
    epochs, lr, from_scratch
        As in `Retraining`.
    sigma : float
        Standard deviation of the noise, in metres.

    References
    ----------
    Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, section 3.3. The
    default is this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="train")[:4]
    >>> fb.create_defense("gaussian", epochs=1).fit(victim, clips).defense
    'gaussian'
    """

    sigma: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("sigma", 0 <= self.sigma < float("inf"), "give metres, not below zero")

    def noisy(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        """Return the clips with noise."""
        clean = batch.clips.xyz
        if self.sigma == 0:
            return clean
        noise = Chance.of(batch.clips, batch.generator).normal(*clean.shape[1:])
        return torch.where(batch.movable, clean + self.sigma * noise, clean)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        return batch.loss(self.noisy(batch))

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        return self.noisy(batch)
