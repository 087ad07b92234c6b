"""What a defense is."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from funnybone.clips import Clips
from funnybone.registry import Registry
from funnybone.settings import build
from funnybone.victims.base import Victim

# Told as it goes: how much is done, of how much, and what is being done.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """Settings, and one way to harden a victim.

    Attributes
    ----------
    resumes : bool
        Whether it writes a checkpoint as it goes, and goes on from it; the others have no use for one.
    """

    resumes: ClassVar[bool] = False

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @property
    def trains(self) -> bool:
        """Whether it trains the victim's network: then `fit` takes ``precision`` and ``trained`` too.

        See `funnybone.defenses.retraining.Retraining.fit`.
        """
        return False

    @abstractmethod
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
        """Return a hardened victim; the one handed in stays as it was.

        Parameters
        ----------
        victim : Victim
            The base.
        clips : Clips
            Training clips.
        validation : Clips, optional
            What chooses, where something is to be chosen, such as an epoch; a tenth of each class of the training clips
            by default. Never a test set.
        generator : torch.Generator, optional
            The only source of chance; seeded with 0 by default.
        progress : callable, optional
            Told (done, total, text) as it goes.
        checkpoint : Path, optional
            A file that a defense which trains writes as it goes, and goes on from where it was killed. Others have no
            use for it.

        Returns
        -------
        Victim
            It names its ``defense``, and says whether it is ``stochastic`` and whether its gradients are exact, so
            that no attack on it is one that it blinds.

        Raises
        ------
        DataError
            For a victim or clips that the defense cannot work with.
        """

    @property
    def name(self) -> str:
        """The name that it is registered under, or that of its class."""
        return next((name for name in defenses.names() if defenses[name] is type(self)), type(self).__name__)

    def settings(self) -> dict[str, Any]:
        """Every setting, as plain values: with the name, what a weights file says of the defense."""
        return dataclasses.asdict(self)


defenses: Registry[type[Defense]] = Registry("defense", "funnybone.defenses")
register_defense = defenses.register


def create_defense(name: str, *, preset: str | None = None, **settings: Any) -> Defense:
    """Return a defense by name.

    Parameters
    ----------
    name : str
        The name that it is registered under.
    preset : str, optional
        A named choice of settings, such as ``published``, under those that are given.
    **settings
        Of the defense.

    Raises
    ------
    DataError
        For an unknown name, or a setting that the defense does not have or cannot take.

    Examples
    --------
    >>> create_defense("lowpass", mode="gaussian").settings()["taps"]
    5
    """
    return build("defense", name, defenses[name], settings, preset)
