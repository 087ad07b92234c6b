"""What every victim is: a function from clips in metres to logits or labels, with a name and a fingerprint."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.skeletons import Skeleton
from funnybone.victims.access import Access


class Victim(ABC):
    """A classifier with its own preprocessing inside.

    Attributes
    ----------
    name : str
        How tables call it.
    skeleton : Skeleton
        The joints that it expects.
    classes : tuple of str
        Its classes, in the order of its logits.
    access : {"labels", "scores", "gradients"}
        The most that it answers.
    frames, persons : int or None
        The clip length that it was trained on, and the person slots that it takes; None: any.
    up, unit : str or None
        The vertical axis and the unit that it was trained on; None: not known.
    stochastic : bool
        Whether two answers to one question can differ; attacks then average over draws.
    exact_gradients : bool
        Whether its gradient is that of the function it computes; attacks then need no way around it.
    parameters : int or None
        Number of weights, where known.
    defense : str or None
        What hardened it.
    fit_seconds : float or None
        Wall time in which it was hardened, with what it was put around; None where nobody said.
    """

    name: str
    skeleton: Skeleton
    classes: tuple[str, ...]
    access: Access
    frames: int | None = None
    persons: int | None = None
    up: str | None = None
    unit: str | None = None
    stochastic: bool = False
    exact_gradients: bool = True
    parameters: int | None = None
    defense: str | None = None
    fit_seconds: float | None = None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that decides its answers; results are filed under it."""

    @abstractmethod
    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        """Return logits; on the autograd graph where the victim offers gradients."""

    def labels(self, xyz: Float[Tensor, "N M T V C"]) -> Int[Tensor, " N"]:
        """Return the predicted class of each clip."""
        return self.logits(xyz).argmax(1)

    def ways_in(self) -> "dict[str, Victim]":
        """Return the victims that an attacker who knows how it is made would descend in its place, by name.

        There are none unless a defense was put around something.
        """
        return {}

    @property
    def device(self) -> torch.device:
        """Where it wants its input."""
        return torch.device("cpu")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.classes)} classes, {self.access})"

    def check(self, clips: Clips) -> None:
        """Raise `DataError` unless these clips are what the victim was made for."""
        if not self.skeleton.same_layout(clips.skeleton):
            raise DataError(
                f"victim {self.name!r} expects skeleton {self.skeleton.name} ({len(self.skeleton.joints)} joints), "
                f"data {clips.name!r} have {clips.skeleton.name} ({len(clips.skeleton.joints)} joints)",
                hint="use data of the same skeleton, or train a victim on these",
            )
        for what in ("up", "unit"):
            wanted, given = getattr(self, what), getattr(clips, what)
            if wanted not in (None, given):
                raise DataError(
                    f"victim {self.name!r} was trained on clips whose {what} is {wanted!r}, that of data "
                    f"{clips.name!r} is {given!r}",
                    hint="convert the clips",
                )
        if self.persons not in (None, clips.xyz.shape[1]):
            raise DataError(
                f"victim {self.name!r} takes {self.persons} person slots, "
                f"data {clips.name!r} have {clips.xyz.shape[1]}",
                hint="add absent persons as zeros, or leave out those who are never there",
            )
        numbered = self.classes == tuple(map(str, range(len(self.classes))))  # only their number is known
        if tuple(clips.classes) != tuple(self.classes) and not (numbered and len(clips.classes) == len(self.classes)):
            odd = sorted(set(clips.classes) ^ set(self.classes))
            what = f"they differ in {', '.join(odd[:3])}" if odd else "their order differs"
            raise DataError(
                f"victim {self.name!r} knows {len(self.classes)} classes, data {clips.name!r} have "
                f"{len(clips.classes)}: {what}",
                hint="use data with the classes that it was trained on",
            )


@torch.no_grad()
def predict(
    victim: Victim, clips: Clips, batch_size: int = 64
) -> tuple[Int[Tensor, " N"], Float[Tensor, "N K"] | None]:
    """Return predicted classes and, where the victim gives them, logits of all clips, on the CPU.

    Not metered: this is the evaluator asking, not the attacker.
    """
    victim.check(clips)
    parts = [part.to(victim.device) for part in clips.xyz.split(batch_size)]
    if victim.access == "labels":
        return torch.cat([victim.labels(part).cpu() for part in parts]), None
    logits = torch.cat([victim.logits(part).float().cpu() for part in parts])
    return logits.argmax(1), logits
