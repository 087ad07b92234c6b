"""Bones keep their length."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.skeletons import Skeleton
from funnybone.threat.base import Threat, threats


@threats.register("bones")
@dataclass(frozen=True)
class BoneLength(Threat):
    """No bone, in any frame, differs from its clean length by more than a share ``tolerance``.

    `project` keeps the root and the direction of each bone and corrects the lengths outwards along the tree; it is
    not claimed to be the nearest point.

    Parameters
    ----------
    tolerance : float
        0.01 is one per cent. Below about 1e-4 float32 positions cannot keep it, and `violation` says by how much.
    skeleton : Skeleton, optional
        Which joints are bones. Left out, it is that of the clips under attack.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> clean = torch.rand(1, 1, 1, 25, 3)
    >>> threat = BoneLength(0.01, skeleton=NTU25)
    >>> threat.violation(clean, 1.05 * clean).round(decimals=3)
    tensor([0.0400])
    >>> threat.violation(clean, threat.project(clean, 1.05 * clean))
    tensor([0.])
    """

    tolerance: float
    skeleton: Skeleton | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise DataError(f"BoneLength: tolerance is {self.tolerance}", hint="give a share from 0 to 1")

    def __repr__(self) -> str:
        return f"BoneLength(tolerance={self.tolerance})"

    def bind(self, skeleton: Skeleton) -> "BoneLength":
        return self if self.skeleton else replace(self, skeleton=skeleton)

    @cached_property
    def _bound(self) -> Skeleton:
        if self.skeleton is None:
            raise DataError("BoneLength does not know the bones", hint="give it skeleton=...")
        return self.skeleton

    @cached_property
    def _paths(self) -> Tensor:
        """(V, B): which bones lie between the root and each joint, so that joints = root + paths @ bones."""
        bones = {child: place for place, (child, _) in enumerate(self._bound.bones)}
        paths = torch.zeros(len(self._bound.joints), len(bones), dtype=torch.float64)
        for joint in self._bound.topological_order[1:]:
            paths[joint] = paths[self._bound.parents[joint]]
            paths[joint, bones[joint]] = 1
        return paths

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        before = self._bound.bone_vectors(clean.double())
        after = self._bound.bone_vectors(adversarial.double())
        length, wanted = (torch.linalg.vector_norm(bones, dim=-1) for bones in (after, before))
        # Positions are rounded to float32 at the end; keep that far away from the limit.
        digit = 4 * torch.finfo(adversarial.dtype).eps * adversarial.abs().amax((-1, -2)).double()[..., None]
        margin = torch.minimum(digit, self.tolerance * wanted)
        low, high = (1 - self.tolerance) * wanted + margin, (1 + self.tolerance) * wanted - margin
        kept = torch.clamp(length, low, high)
        direction = torch.where((length > 0)[..., None], after, before)
        size = torch.linalg.vector_norm(direction, dim=-1).clamp(min=1e-300)
        bones = direction * (kept / size)[..., None]
        root = adversarial[..., self._bound.root, None, :].double()
        moved = (root + self._paths.to(bones.device) @ bones).to(adversarial.dtype)
        outside = (length - wanted).abs() > self.tolerance * wanted
        return torch.where(outside.any(-1)[..., None, None], moved, adversarial)

    def violation(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        """Return by how large a share of its length the worst bone exceeds the tolerance.

        A bone without clean length is measured in the clip's unit.
        """
        return self.excess(clean, adversarial).amax((1, 2))

    def excess(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T"]:
        before, after = (self._bound.bone_lengths(xyz.double()) for xyz in (clean, adversarial))
        change = (after - before).abs() / torch.where(before > 0, before, 1)
        worst = change.amax(-1)
        return (worst - torch.where(worst > 0, self.tolerance, 0)).clamp(min=0).to(clean.dtype)

    def tightened(self) -> "BoneLength":
        # Budgets that end a round stretch bones again by a fraction of what they were bound to.
        return replace(self, tolerance=0.7 * self.tolerance)
