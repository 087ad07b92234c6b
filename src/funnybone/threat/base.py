"""What a threat model is, and how several of them hold together."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.registry import Registry
from funnybone.skeletons import Skeleton

threats: Registry[type["Threat"]] = Registry("threat model", "funnybone.threat")


class Threat(ABC):
    """Where an adversarial clip must stay, given the clean one. The clean clip itself is always inside."""

    @abstractmethod
    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        """Return clips inside; those that were inside come back unchanged."""

    @abstractmethod
    def violation(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        """Return how far each clip lies outside, zero inside; the unit is the threat model's."""

    def excess(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T"]:
        """Return how far each frame lies outside; where a clip is judged as a whole, the whole clip's figure."""
        _, m, t, _, _ = clean.shape
        return self.violation(clean, adversarial)[:, None, None].expand(-1, m, t)

    def tightened(self) -> "Threat":
        """Return a threat model a little inside of this one, to aim at where several must hold together."""
        return self

    def bind(self, skeleton: Skeleton) -> "Threat":
        """Return the threat model for clips on this skeleton."""
        return self

    @classmethod
    def from_text(cls, value: str) -> "Threat":
        """Return the threat model for the text after the colon on the command line; one number by default."""
        return cls(float(value))  # type: ignore[call-arg]

    def __and__(self, other: "Threat") -> "Threat":
        return All((*parts_of(self), *parts_of(other)))


def parts_of(threat: Threat) -> tuple[Threat, ...]:
    """Return the threat models that a composed one is made of, or the one itself."""
    return threat.parts if isinstance(threat, All) else (threat,)


def towards(clean: Float[Tensor, "*shape"], delta: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``clean + delta`` rounded towards ``clean``.

    Rounding to nearest can carry a coordinate past the budget by half of the last digit, which at some metres
    from the origin is more than a tenth of a micrometre. Rounded this way, no coordinate of the stored clip is
    farther from the clean one than ``delta`` says.
    """
    moved = (clean.double() + delta.double()).to(clean.dtype)
    too_far = (moved.double() - clean.double()).abs() > delta.double().abs()
    return torch.where(too_far, torch.nextafter(moved, clean), moved)


@dataclass(frozen=True)
class Unbounded(Threat):
    """No bound: the clip may go anywhere. What it did is in the outcome's distances.

    Examples
    --------
    >>> Unbounded().violation(torch.zeros(2, 1, 4, 3, 3), torch.ones(2, 1, 4, 3, 3))
    tensor([0., 0.])
    """

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        return adversarial

    def violation(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        return adversarial.new_zeros(len(adversarial))

    @classmethod
    def from_text(cls, value: str) -> "Threat":
        return cls()


threats.register("unbounded")(Unbounded)


@dataclass(frozen=True)
class All(Threat):
    """Every one of several threat models; made with ``&``.

    `project` visits the parts in turn (projection onto convex sets), aiming a little inside where a part knows how.
    Frames that are still outside of one of them after ``rounds`` rounds walk back towards the clean frame until all
    hold. The result is inside; the nearest point is not claimed.

    Parameters
    ----------
    parts : tuple of Threat
        The threat models that must hold together.
    rounds : int
        How often the parts are visited, at most.
    """

    parts: tuple[Threat, ...]
    rounds: int = 12

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.parts))

    def bind(self, skeleton: Skeleton) -> "Threat":
        return All(tuple(part.bind(skeleton) for part in self.parts), self.rounds)

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        moved = adversarial
        # What is tightened comes first: those that cannot aim inside then have the last word, and keep it.
        aims = sorted((part.tightened() for part in self.parts), key=lambda aim: aim in self.parts)
        for _ in range(self.rounds):
            outside = self.violation(clean, moved) > 0
            if not bool(outside.any()):
                return moved
            next_move = moved
            for aim in aims:
                next_move = aim.project(clean, next_move)
            moved = torch.where(outside[:, None, None, None, None], next_move, moved)
        return self._walk_back(clean, moved)

    def _walk_back(self, clean: Tensor, moved: Tensor) -> Tensor:
        """Shorten the way of each frame that is outside, and of no other, by bisection.

        A shorter way in one frame takes no clip out of a ball, so parts that judge whole clips stay satisfied.
        """
        delta = moved.double() - clean.double()
        low = (self.excess(clean, moved) <= 0).to(delta)  # share of the way that is known to be inside
        high = torch.ones_like(low)
        for _ in range(16):
            share = (low + high) / 2
            inside = self.excess(clean, towards(clean, delta * share[..., None, None])) <= 0
            low, high = torch.where(inside, share, low), torch.where(inside, high, share)
        walked = torch.where((low < 1)[..., None, None], towards(clean, delta * low[..., None, None]), moved)
        # A frame that turned out inside only because others were still on their way back is judged once more.
        still = self.violation(clean, walked) > 0
        return torch.where(still[:, None, None, None, None], clean, walked)

    def violation(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        """Return the largest violation of any part."""
        if not self.parts:
            raise DataError("a composed threat model has no parts")
        return torch.stack([part.violation(clean, adversarial) for part in self.parts]).amax(0)

    def excess(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T"]:
        return torch.stack([part.excess(clean, adversarial) for part in self.parts]).amax(0)
