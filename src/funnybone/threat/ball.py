"""Balls around the clean clip, in the unit of the clip (metres)."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.chance import Chance
from funnybone.errors import DataError
from funnybone.threat.base import Threat, parts_of, threats, towards


@dataclass(frozen=True)
class Ball(Threat):
    """All clips within a radius, in some norm of the difference.

    Parameters
    ----------
    radius : float
        In the unit of the clip: metres.
    """

    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise DataError(f"{type(self).__name__}: radius is {self.radius}", hint="give metres, more than zero")

    @abstractmethod
    def distance(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        """Return how far each clip is from the clean one, in the ball's norm, float64."""

    def violation(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        return (self.distance(clean, adversarial) - self.radius).clamp(min=0).to(clean.dtype)

    @abstractmethod
    def steepest(self, gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Return the point of the ball around zero where the inner product with the gradient is largest."""

    @abstractmethod
    def sample(self, clean: Float[Tensor, "N M T V C"], chance: Chance) -> Float[Tensor, "N M T V C"]:
        """Return a random clip inside."""


@threats.register("linf")
@dataclass(frozen=True)
class Linf(Ball):
    """No coordinate of any joint moves by more than ``radius`` metres. `project` returns the nearest point.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 1, 1, 3)
    >>> Linf(0.02).project(clean, clean + torch.tensor([0.5, -0.01, -0.5]))
    tensor([[[[[ 0.0200, -0.0100, -0.0200]]]]])
    """

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        delta = adversarial.double() - clean.double()
        limited = towards(clean, delta.clamp(-self.radius, self.radius))
        return torch.where(delta.abs() > self.radius, limited, adversarial)

    def distance(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        return (adversarial.double() - clean.double()).abs().flatten(1).amax(1)

    def steepest(self, gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        return self.radius * gradient.sign()

    def sample(self, clean: Float[Tensor, "N M T V C"], chance: Chance) -> Float[Tensor, "N M T V C"]:
        return self.project(clean, clean + self.radius * (2 * chance.uniform(*clean.shape[1:]) - 1))


@threats.register("l2")
@dataclass(frozen=True)
class L2(Ball):
    """The Euclidean norm of the whole clip's displacement is at most ``radius`` metres.

    Over M persons, T frames and V joints a radius r is a root mean square joint displacement of r / sqrt(M T V).
    `project` returns the nearest point.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 1, 1, 3)
    >>> L2(1.0).project(clean, clean + torch.tensor([3.0, 0.0, 4.0]))
    tensor([[[[[0.6000, 0.0000, 0.8000]]]]])
    """

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        delta = adversarial.double() - clean.double()
        norm = _norm(delta)
        limited = towards(clean, delta * (self.radius * (1 - 1e-12) / norm.clamp(min=1e-300)))
        return torch.where(norm > self.radius, limited, adversarial)

    def distance(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        return _norm(adversarial.double() - clean.double()).flatten()

    def steepest(self, gradient: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        gradient = largest_one(gradient)
        return self.radius * gradient / _norm(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)

    def sample(self, clean: Float[Tensor, "N M T V C"], chance: Chance) -> Float[Tensor, "N M T V C"]:
        # In thousands of dimensions nearly all of a ball's volume lies at its surface, so a share of the radius is
        # drawn evenly instead: a start has room to move.
        share = chance.uniform(1, 1, 1, 1)
        return self.project(clean, clean + share * self.steepest(chance.normal(*clean.shape[1:])))


def largest_one(values: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
    """Return each clip's values scaled so that the largest is one in size; zeros stay zeros.

    For directions, before they are squared: squares of numbers below 1e-23 are zero in float32.
    """
    size = values.abs().amax((1, 2, 3, 4), keepdim=True)
    return values / torch.where(size > 0, size, 1)


def _norm(values: Tensor) -> Tensor:
    """Euclidean norm of each clip, kept as (N, 1, 1, 1, 1)."""
    return torch.linalg.vector_norm(values, dim=(1, 2, 3, 4), keepdim=True)


def ball_of(threat: Threat) -> Ball:
    """Return the ball within a threat model: what the steps of a gradient attack are measured by."""
    found = next((part for part in parts_of(threat) if isinstance(part, Ball)), None)
    if found is None:
        raise DataError(f"threat model {threat!r} has no ball", hint="add a budget in metres, for example linf:0.02")
    return found
