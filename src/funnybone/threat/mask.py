"""Only some joints, frames or persons may move."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.skeletons import Skeleton
from funnybone.threat.base import Threat, threats


@threats.register("mask")
@dataclass(frozen=True)
class Mask(Threat):
    """Whatever is not named stays as it was. `project` returns the nearest point.

    Parameters
    ----------
    joints : tuple of int or str, optional
        Joints that may move, by index or by the skeleton's name. None: all.
    frames : tuple of (int, int), optional
        First frame and the one after the last that may move. None: all.
    persons : tuple of int, optional
        Persons that may move. None: all.
    skeleton : Skeleton, optional
        Whose joint names are meant. Left out, it is that of the clips under attack.

    Examples
    --------
    >>> from funnybone.skeletons import COCO17
    >>> clean = torch.zeros(1, 1, 2, 17, 3)
    >>> hands = Mask(joints=("left_wrist", "right_wrist"), skeleton=COCO17)
    >>> hands.project(clean, clean + 1).sum()
    tensor(12.)
    """

    joints: tuple[int | str, ...] | None = None
    frames: tuple[int, int] | None = None
    persons: tuple[int, ...] | None = None
    skeleton: Skeleton | None = None

    def __repr__(self) -> str:
        named = {"joints": self.joints, "frames": self.frames, "persons": self.persons}
        return f"Mask({', '.join(f'{key}={value}' for key, value in named.items() if value is not None)})"

    @classmethod
    def from_text(cls, value: str) -> "Mask":
        """``mask:HandL,HandR``: joints by name or index."""
        joints = tuple(part.strip() for part in value.split(",") if part.strip())
        return cls(joints=tuple(int(joint) if joint.isdecimal() else joint for joint in joints))

    def bind(self, skeleton: Skeleton) -> "Mask":
        bound = self if self.skeleton else replace(self, skeleton=skeleton)
        bound._joint_indices()  # a joint that does not exist is said now, not in the middle of an attack
        return bound

    def _joint_indices(self) -> list[int]:
        indices = []
        for joint in self.joints or ():
            if isinstance(joint, str):
                if self.skeleton is None:
                    raise DataError(f"Mask does not know joint {joint!r}", hint="give it skeleton=... or indices")
                joint = self.skeleton.index(joint)
            indices.append(joint)
        if self.skeleton and any(not 0 <= index < len(self.skeleton.joints) for index in indices):
            raise DataError(f"Mask: joints {indices} are not all of 0..{len(self.skeleton.joints) - 1}")
        return indices

    def free(self, xyz: Float[Tensor, "N M T V C"]) -> Bool[Tensor, "M T V 1"]:
        """Return what may move."""
        _, m, t, v, _ = xyz.shape
        free = torch.ones(m, t, v, 1, dtype=torch.bool, device=xyz.device)
        if self.persons is not None:
            free &= _chosen(self.persons, m, "persons", xyz.device)[:, None, None, None]
        if self.frames is not None:
            free &= _chosen(range(*self.frames), t, "frames", xyz.device)[:, None, None]
        if self.joints is not None:
            free &= _chosen(self._joint_indices(), v, "joints", xyz.device)[:, None]
        return free

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        return torch.where(self.free(clean), adversarial, clean)

    def violation(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        """Return the largest coordinate by which anything moved that may not."""
        return torch.where(self.free(clean), 0, adversarial - clean).abs().flatten(1).amax(1)


def _chosen(indices: "range | list[int] | tuple[int, ...]", size: int, what: str, device: torch.device) -> Tensor:
    if any(not 0 <= index < size for index in indices):
        raise DataError(f"Mask: {what} {list(indices)} are not all of 0..{size - 1}")
    chosen = torch.zeros(size, dtype=torch.bool, device=device)
    chosen[list(indices)] = True
    return chosen
