"""What a defense is."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from funnybone.clips import Clips
from funnybone.registry import Registry
from funnybone.settings import build
from funnybone.victims.base import Victim


class Defense(ABC):
    """Settings, and one way to harden a victim."""

    @abstractmethod
    def fit(self, victim: Victim, clips: Clips, *, generator: torch.Generator | None = None) -> Victim:
        """Return a hardened victim; the one handed in stays as it was.

        Parameters
        ----------
        victim : Victim
            The base.
        clips : Clips
            Training clips.
        generator : torch.Generator, optional
            The only source of chance; seeded with 0 by default.

        Returns
        -------
        Victim
            It names its ``defense``, and says whether it is ``stochastic`` and whether its gradients are exact, so
            that no attack on it is one that it blinds.
        """


defenses: Registry[type[Defense]] = Registry("defense", "funnybone.defenses")
register_defense = defenses.register


def create_defense(name: str, **settings: Any) -> Defense:
    """Return a defense by name; `DataError` for an unknown one, or a setting that it does not have."""
    return build("defense", name, defenses[name], settings)
