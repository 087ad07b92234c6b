"""Low-pass filtering of the input over time, the baseline that is often forgotten."""

from dataclasses import dataclass
from pathlib import Path

import torch

from funnybone.clips import Clips
from funnybone.defenses.base import Defense, Progress, register_defense
from funnybone.victims.base import Victim
from funnybone.victims.filtered import Filter, Filtered


@register_defense("lowpass")
@dataclass(frozen=True, kw_only=True)
class LowPass(Filter, Defense):
    """A temporal low-pass filter in front of the victim; nothing is trained.

    People move slowly and perturbations need not, so a filter takes more from these than from motion. It is known to
    the attacker and differentiable: attack the hardened victim, not the base alone.

    Parameters
    ----------
    mode, keep, sigma, taps
        As in `funnybone.victims.filtered.Filter`. A third of the coefficients is the fewest, of those tried, that cost
        none of five victims more than a point of accuracy on their training clips (``benchmarks/front_ends.py``).

    References
    ----------
    The five taps of ``mode="gaussian"`` are those of the released code of Zheng et al., "Towards Understanding the
    Adversarial Vulnerability of Skeleton-based Action Recognition", 2020. The cosine transform is this library's
    choice.

    Examples
    --------
    >>> import funnybone as fb
    >>> clips = fb.load_data("synthetic", split="train")[:4]
    >>> fb.create_defense("lowpass", keep=0.2).fit(fb.create_victim("stgcn", data="synthetic"), clips)
    Filtered('stgcn.synthetic+lowpass', 14 classes, gradients)
    """

    def fit(
        self,
        victim: Victim,
        clips: Clips,
        *,
        validation: Clips | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
    ) -> Victim:
        victim.check(clips)
        hardened = Filtered(victim, Filter(**self.settings()), defense=self.name)
        hardened.defense_settings = self.settings()
        return hardened
